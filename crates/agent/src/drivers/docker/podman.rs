//! Podman behind Docker's API: what only its own API (libpod) can say.
//!
//! By Docker's API, Podman makes networks whose containers ask the bridge's gateway for names (aardvark-dns). Sandboxes do
//! not reach that. In a network without such a resolver, Podman gives containers the host's own ones.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use serde::{Deserialize, Serialize};

/// What Podman calls itself among the components of its version.
const ENGINE: &str = "Podman Engine";
/// The first version of the API whose networks are made this way.
const API: &str = "v4.0.0/libpod";
const PATIENCE: Duration = Duration::from_secs(300);

/// Podman's own API.
#[derive(Debug)]
pub(super) struct Podman {
    client: reqwest::Client,
    base: String,
}

/// A network, as Podman describes it.
#[derive(Debug, Serialize)]
struct NewNetwork<'a> {
    name: &'a str,
    driver: &'a str,
    network_interface: &'a str,
    dns_enabled: bool,
    labels: HashMap<String, String>,
    options: HashMap<&'a str, &'a str>,
}

#[derive(Debug, Deserialize)]
struct Network {
    id: String,
    #[serde(default)]
    dns_enabled: bool,
}

impl Podman {
    /// The engine, where it is Podman 4 or newer and its address is one that can be asked.
    pub(super) async fn behind(docker: &Docker, address: &str) -> Option<Self> {
        let components = docker.version().await.ok()?.components.unwrap_or_default();
        let engine = components
            .into_iter()
            .find(|component| component.name == ENGINE)?;
        let major: u32 = engine.version.split('.').next()?.parse().ok()?;
        (major >= 4).then_some(())?;
        let builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        let (builder, base) = match address.split_once("://")? {
            ("unix", path) => (builder.unix_socket(path), "http://podman".to_owned()),
            ("tcp" | "http", place) => (builder, format!("http://{}", place.trim_end_matches('/'))),
            _ => return None,
        };
        let client = builder.build().ok()?;
        Some(Self { client, base })
    }

    /// Whether containers of a network ask its gateway for names.
    pub(super) async fn gateway_resolves(&self, name: &str) -> bool {
        let asked = self
            .client
            .get(format!("{}/{API}/networks/{name}/json", self.base));
        let Ok(answer) = asked.send().await else {
            return false;
        };
        answer
            .json::<Network>()
            .await
            .is_ok_and(|network| network.dns_enabled)
    }

    /// Makes a network by this bridge without a resolver, apart from all others, and answers its id.
    ///
    /// # Errors
    /// When Podman does not answer, or refuses.
    pub(super) async fn create_network(
        &self,
        name: &str,
        bridge: &str,
        labels: HashMap<String, String>,
    ) -> Result<String, reqwest::Error> {
        let network = NewNetwork {
            name,
            driver: "bridge",
            network_interface: bridge,
            dns_enabled: false,
            labels,
            // As for every network that is made by Docker's API.
            options: HashMap::from([("isolate", "true")]),
        };
        let asked = self
            .client
            .post(format!("{}/{API}/networks/create", self.base))
            .json(&network);
        let made: Network = asked.send().await?.error_for_status()?.json().await?;
        Ok(made.id)
    }
}
