//! The network of sandboxes: a bridge of their own, closed from inside each sandbox's network namespace.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect};
use terrapool_protocol::block::Block;
use terrapool_protocol::job::SandboxNetwork;

use super::helper::Rights;
use super::podman::Podman;
use super::{DockerDriver, DriverError, LABEL_ROLE, is_status};
use crate::drivers::sandbox::{Connection, Sandbox};

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
pub(super) async fn ensure(docker: &Docker, podman: Option<&Podman>) -> Result<String, DriverError> {
    const TRIES: u32 = 20;
    for attempt in 1..=TRIES {
        match docker.inspect_network(NETWORK, None).await {
            Ok(found) if !has_to_go(docker, podman).await => return Ok(found.id.unwrap_or_default()),
            Ok(_) => {}
            // Engines add fields faster than clients learn them; an answer means that it is there.
            Err(bollard::errors::Error::JsonDataError { .. }) => return Ok(String::new()),
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(DriverError::call("looking at the sandboxes' network")(error)),
        }
        match create(docker, podman).await {
            Ok(id) => return Ok(id),
            // Another agent makes it at this moment.
            Err(_) if attempt < TRIES => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Err(error) => return Err(DriverError::call("making the sandboxes' network")(error)),
        }
    }
    Ok(String::new())
}

async fn create(docker: &Docker, podman: Option<&Podman>) -> Result<String, bollard::errors::Error> {
    let labels = HashMap::from([(LABEL_ROLE.to_owned(), "network".to_owned())]);
    if let Some(podman) = podman {
        match podman.create_network(NETWORK, BRIDGE, labels.clone()).await {
            Ok(id) => return Ok(id),
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "Podman does not make a network without a resolver"
            ),
        }
    }
    let option = |name: &str, value: &str| (format!("com.docker.network.bridge.{name}"), value.to_owned());
    let request = NetworkCreateRequest {
        name: NETWORK.to_owned(),
        driver: Some("bridge".to_owned()),
        // Sandboxes do not see each other.
        options: Some(HashMap::from([
            option("enable_icc", "false"),
            option("name", BRIDGE),
        ])),
        labels: Some(labels),
        ..Default::default()
    };
    docker.create_network(request).await.map(|made| made.id)
}

/// Whether a network that Podman made was removed because its sandboxes would know no names. One that is in use stays.
async fn has_to_go(docker: &Docker, podman: Option<&Podman>) -> bool {
    let Some(podman) = podman else { return false };
    if !podman.gateway_resolves(NETWORK).await {
        return false;
    }
    let removed = docker.remove_network(NETWORK).await;
    if let Err(error) = &removed {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "in the network {NETWORK} containers ask the gateway for names, which sandboxes do not reach: stop its agents, \
             and call `podman network rm --force {NETWORK}`; it is made again"
        );
    }
    removed.is_ok()
}

/// The index of the network's bridge, where this process sees the host that has it.
fn bridge() -> Option<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        None,
    );
    rustix::net::netdevice::name_to_index(socket.ok()?, BRIDGE).ok()
}

/// What a sandbox that was just made is connected with.
pub(super) fn connection(network: String) -> Connection {
    Connection {
        network,
        bridge: bridge(),
    }
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

    /// Whether a sandbox is still connected with the network that it was made for.
    pub async fn is_connected(&self, sandbox: &Sandbox) -> bool {
        let Some(connection) = &sandbox.connection else {
            return true;
        };
        if connection.network != *self.network.lock().await {
            return false;
        }
        if connection.bridge.is_some() {
            // Engines do not notice when somebody takes it away.
            return connection.bridge == bridge();
        }
        match self.docker.inspect_network(NETWORK, None).await {
            Ok(found) => found.id.is_none_or(|id| id == connection.network),
            Err(error) => !is_status(&error, 404),
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
        match ensure(&self.docker, self.podman.as_ref()).await {
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
