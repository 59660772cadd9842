//! The sandboxes' network is taken away while an agent runs, on a container engine of this test's own.

#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

mod common;

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use common::{config_on, prepare};
use terrapool_agent::drivers::Sandbox;
use terrapool_agent::drivers::docker::DockerDriver;
use terrapool_protocol::job::{Limits, SandboxNetwork};
use terrapool_testkit::container_engine::ContainerEngine;

/// An engine, the driver on it, and a listener beyond the engine's host.
struct Site {
    engine: ContainerEngine,
    driver: Arc<DockerDriver>,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let engine = ContainerEngine::start().await;
        let folder = tempfile::tempdir().unwrap();
        let driver = prepare(&config_on(Some(engine.host()), folder.path()), folder.path()).await;
        let listener = TcpListener::bind((engine.outside(), 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || while listener.accept().is_ok() {});
        Self {
            engine,
            driver,
            port,
            _folder: folder,
        }
    }

    async fn sandbox(&self) -> Sandbox {
        let key = self.driver.key(None, SandboxNetwork::Closed, Limits::default());
        self.driver.create_sandbox(&key).await.unwrap()
    }

    /// Whether a connection from inside a sandbox succeeds.
    async fn reaches(&self, sandbox: &Sandbox, address: &str) -> bool {
        let script = format!("exec 3<>/dev/tcp/{address}/{}", self.port);
        let words = ["exec", &sandbox.id, "timeout", "10", "bash", "-c", &script];
        self.engine.docker(&words).await.0
    }

    async fn docker(&self, words: &[&str]) -> String {
        let (done, text) = self.engine.docker(words).await;
        assert!(done, "docker {words:?}: {text}");
        text
    }

    /// Goes to where the engine's bridges are, as agents are on most hosts: with this thread, for good.
    fn go_to_host(&self) {
        let namespace = std::fs::File::open(self.engine.network_namespace()).unwrap();
        rustix::thread::move_into_link_name_space(
            namespace.as_fd(),
            Some(rustix::thread::LinkNameSpaceType::Network),
        )
        .unwrap();
    }

    /// A sandbox that is made now reaches the world, on a network as closed as the first one was.
    async fn works(&self) -> Sandbox {
        let sandbox = self.sandbox().await;
        assert!(self.driver.is_connected(&sandbox).await);
        assert!(self.reaches(&sandbox, &self.engine.outside()).await);
        let options = self
            .docker(&["network", "inspect", "--format", "{{json .Options}}", "terrapool"])
            .await;
        assert!(
            options.contains(r#""com.docker.network.bridge.enable_icc":"false""#),
            "{options}"
        );
        let bridge = self
            .engine
            .ip(&["-4", "-o", "addr", "show", "dev", "terrapool0"])
            .await;
        let gateway = bridge
            .1
            .split_whitespace()
            .nth(3)
            .and_then(|block| block.split('/').next());
        let gateway = gateway.expect("the bridge has an address");
        assert!(!self.reaches(&sandbox, gateway).await, "{gateway}");
        sandbox
    }
}

#[tokio::test]
async fn a_network_that_was_taken_away_is_made_again_for_the_next_sandbox() {
    let site = Site::start().await;
    is_made_again(&site).await;
    site.go_to_host();
    is_known_to_be_gone(&site).await;
}

async fn is_made_again(site: &Site) {
    let first = site.works().await;

    let (deleted, text) = site.engine.ip(&["link", "del", "terrapool0"]).await;
    assert!(deleted, "{text}");
    let second = site.works().await;
    // What waited on the bridge that is gone is not given to a job.
    assert!(!site.driver.is_connected(&first).await);
    assert!(!site.reaches(&first, &site.engine.outside()).await);

    site.docker(&["network", "disconnect", "--force", "terrapool", &second.id])
        .await;
    site.docker(&["network", "rm", "terrapool"]).await;
    let third = site.works().await;
    assert!(!site.driver.is_connected(&second).await);
    for sandbox in [first, second, third] {
        site.driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
    }
}

/// Who sees the bridge knows that it is gone before a sandbox could not be made.
async fn is_known_to_be_gone(site: &Site) {
    let first = site.works().await;
    let (deleted, text) = site.engine.ip(&["link", "del", "terrapool0"]).await;
    assert!(deleted, "{text}");
    assert!(!site.driver.is_connected(&first).await);
    let second = site.works().await;
    assert!(!site.driver.is_connected(&first).await);
    for sandbox in [first, second] {
        site.driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
    }
}
