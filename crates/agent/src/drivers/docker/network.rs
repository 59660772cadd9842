//! The network of sandboxes: a bridge of their own, closed from inside each sandbox's network namespace.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use terrapool_protocol::block::Block;
use terrapool_protocol::job::SandboxNetwork;

use super::helper::Rights;
use super::{DockerDriver, DriverError, LABEL_ROLE, is_status};

/// What of the network was the container engine's host's when it was asked last: its addresses, and what lies behind its
/// bridges.
pub(super) type HostAddresses = Option<(Instant, Vec<Block>)>;

/// Addresses of a host change rarely: leases, new bridges.
const FRESH: Duration = Duration::from_secs(60);

/// The network of all sandboxes of an engine. Engines have few address ranges to give, so its agents share one; who is on
/// it sees nobody else.
const NETWORK: &str = "terrapool";
/// Its bridge on the host. Names of networks need not be unique, those of bridges have to.
const BRIDGE: &str = "terrapool0";

/// Makes sure that the sandboxes' network exists and returns its name.
pub(super) async fn ensure(docker: &Docker) -> Result<String, DriverError> {
    const TRIES: u32 = 20;
    for attempt in 1..=TRIES {
        match docker.inspect_network(NETWORK, None).await {
            Ok(_) | Err(bollard::errors::Error::JsonDataError { .. }) => return Ok(NETWORK.to_owned()),
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(DriverError::call("looking at the sandboxes' network")(error)),
        }
        let option =
            |name: &str, value: &str| (format!("com.docker.network.bridge.{name}"), value.to_owned());
        let request = NetworkCreateRequest {
            name: NETWORK.to_owned(),
            driver: Some("bridge".to_owned()),
            // Sandboxes do not see each other.
            options: Some(HashMap::from([
                option("enable_icc", "false"),
                option("name", BRIDGE),
            ])),
            labels: Some(HashMap::from([(LABEL_ROLE.to_owned(), "network".to_owned())])),
            ..Default::default()
        };
        match docker.create_network(request).await {
            Ok(_) => return Ok(NETWORK.to_owned()),
            // Another agent makes it at this moment.
            Err(_) if attempt < TRIES => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Err(error) => return Err(DriverError::call("making the sandboxes' network")(error)),
        }
    }
    Ok(NETWORK.to_owned())
}

impl DockerDriver {
    /// Docker's word for the network of a sandbox.
    pub(super) fn network_mode(&self, network: SandboxNetwork) -> &str {
        match network {
            SandboxNetwork::Closed | SandboxNetwork::Metadata => &self.network,
            SandboxNetwork::None => "none",
        }
    }

    /// Makes gateway, host, what lies behind its bridges and, unless the pool opens it, metadata unreachable from inside a
    /// sandbox that runs.
    pub(super) async fn close_network(
        &self,
        sandbox: &str,
        network: SandboxNetwork,
    ) -> Result<(), DriverError> {
        let metadata = match network {
            SandboxNetwork::Closed => None,
            SandboxNetwork::Metadata => Some("--metadata-open".to_owned()),
            SandboxNetwork::None => return Ok(()),
        };
        let addresses = self.host_addresses().await?;
        let arguments = std::iter::once("close-network".to_owned())
            .chain(metadata)
            .chain(addresses.iter().map(Block::to_string))
            .collect();
        let mode = format!("container:{sandbox}");
        self.helper(
            "closing the network of a sandbox",
            arguments,
            &mode,
            Rights::Network,
        )
        .await
        .map(|_| ())
    }

    async fn host_addresses(&self) -> Result<Vec<Block>, DriverError> {
        // Held over the question: sandboxes that are made at the same time ask once.
        let mut known = self.host_addresses.lock().await;
        if let Some((asked, addresses)) = known.as_ref()
            && asked.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        let printed = self
            .helper(
                "asking for the addresses of the container engine's host",
                vec!["addresses".to_owned(), "--with-bridges".to_owned()],
                "host",
                Rights::None,
            )
            .await?;
        let addresses: Vec<Block> = printed
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .collect();
        *known = Some((Instant::now(), addresses.clone()));
        Ok(addresses)
    }
}
