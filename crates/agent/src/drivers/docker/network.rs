//! The network of sandboxes: a bridge of their own, closed from inside each sandbox's network namespace.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect};
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

/// What engines say of a bridge that the host does not have (any more).
const BRIDGE_IS_GONE: [&str; 4] = [
    "could not find bridge",
    "no such network interface",
    "no such device",
    "link not found",
];

/// Makes sure that the sandboxes' network exists and returns its id; an empty one where the engine does not say it.
pub(super) async fn ensure(docker: &Docker) -> Result<String, DriverError> {
    const TRIES: u32 = 20;
    for attempt in 1..=TRIES {
        match docker.inspect_network(NETWORK, None).await {
            Ok(found) => return Ok(found.id.unwrap_or_default()),
            // Engines add fields faster than clients learn them; an answer means that it is there.
            Err(bollard::errors::Error::JsonDataError { .. }) => return Ok(String::new()),
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
            Ok(made) => return Ok(made.id),
            // Another agent makes it at this moment.
            Err(_) if attempt < TRIES => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Err(error) => return Err(DriverError::call("making the sandboxes' network")(error)),
        }
    }
    Ok(String::new())
}

/// Whether a sandbox could not be made because the network's bridge is gone.
fn is_bridge_gone(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains(BRIDGE) && BRIDGE_IS_GONE.iter().any(|words| said.contains(words))
}

/// Docker's word for the network of a sandbox.
pub(super) fn mode(network: SandboxNetwork) -> &'static str {
    match network {
        SandboxNetwork::Closed | SandboxNetwork::Metadata => NETWORK,
        SandboxNetwork::None => "none",
    }
}

impl DockerDriver {
    /// The id of the network that a sandbox of this kind is connected with now.
    pub(super) async fn network_of(&self, network: SandboxNetwork) -> Option<String> {
        match network {
            SandboxNetwork::Closed | SandboxNetwork::Metadata => Some(self.network.lock().await.clone()),
            SandboxNetwork::None => None,
        }
    }

    /// Makes the sandboxes' network again when it is gone from the engine, or its bridge from the host, and a sandbox
    /// that was to be connected with the network `wanted` could therefore not be made. Answers whether another try is
    /// worth it.
    pub(super) async fn mend_network(&self, wanted: &str, failure: &DriverError) -> bool {
        let DriverError::Call { source, .. } = failure else {
            return false;
        };
        // Held over the repair: of sandboxes that fail side by side, one makes it again.
        let mut network = self.network.lock().await;
        if *network != wanted {
            return true;
        }
        match self.docker.inspect_network(NETWORK, None).await {
            Err(error) if is_status(&error, 404) => {}
            Err(_) => return false,
            // Another agent has made it again.
            Ok(found) if found.id.as_ref().is_some_and(|id| id != wanted) => {}
            Ok(found) if is_bridge_gone(&source.to_string()) => self.give_up_network(found).await,
            Ok(_) => return false,
        }
        match ensure(&self.docker).await {
            Ok(id) => {
                tracing::warn!(
                    reason = source as &dyn std::error::Error,
                    "the sandboxes' network {NETWORK} was gone; it is made again. Sandboxes that ran have none any more"
                );
                *network = id;
                *self.host_addresses.lock().await = None;
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the sandboxes' network {NETWORK} is gone and cannot be made again"
                );
                false
            }
        }
    }

    /// Removes a network without a bridge, which connects nobody, from the containers that had it and from the engine.
    async fn give_up_network(&self, network: NetworkInspect) {
        for container in network.containers.unwrap_or_default().into_keys() {
            let request = NetworkDisconnectRequest {
                container,
                force: Some(true),
            };
            // One that ends meanwhile is disconnected by that.
            let _ = self.docker.disconnect_network(NETWORK, request).await;
        }
        if let Err(error) = self.docker.remove_network(NETWORK).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the sandboxes' network {NETWORK} has lost its bridge and cannot be removed"
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bridge_that_is_gone_is_taken_for_one() {
        let said = "failed to create endpoint x on network terrapool: adding interface veth1 to bridge terrapool0 failed: \
                    could not find bridge terrapool0: route ip+net: no such network interface";
        assert!(is_bridge_gone(said));
        assert!(!is_bridge_gone(&said.replace("terrapool0", "docker0")));
        assert!(!is_bridge_gone(
            "adding interface veth1 to bridge terrapool0 failed: exchange full"
        ));
        assert!(!is_bridge_gone("no such image"));
    }
}
