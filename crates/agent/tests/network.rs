//! What a sandbox reaches on the network, tried from inside against listeners that answer everybody else.

#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

mod common;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;

use common::{Leftovers, SERVE, address_of, config, in_time, output, prepare, reaches};
use terrapool_agent::config::SandboxUser;
use terrapool_agent::drivers::Sandbox;
use terrapool_agent::drivers::docker::DockerDriver;
use terrapool_protocol::job::{Limits, SandboxNetwork};

/// Answers whoever connects, until the test ends.
fn listen(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream)
        }
    });
    port
}

fn ip(step: &str) {
    let (done, text) = output("ip", &step.split(' ').collect::<Vec<_>>());
    assert!(done, "ip {step}: {text}");
}

/// A server on port 8000 in a network namespace.
fn serve(namespace: &str) -> std::process::Child {
    Command::new("ip")
        .args(["netns", "exec", namespace, "python3", "-m", "http.server", "8000"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// The addresses of the machine's interfaces, without loopback.
fn own_addresses() -> Vec<String> {
    let (_, text) = output("ip", &["-4", "-o", "addr", "show", "scope", "global"]);
    let addresses = text.lines().filter_map(|line| {
        let address = line.split_whitespace().nth(3)?;
        Some(address.split('/').next()?.to_owned())
    });
    addresses.collect()
}

/// A container as anybody would start it: the probes have to see there what they look for.
struct Control(String);

impl Control {
    fn start(image: &str) -> Self {
        let (started, text) = output(
            "docker",
            &["run", "-d", "--rm", "--entrypoint", "sleep", image, "600"],
        );
        assert!(started, "{text}");
        Self(text.trim().to_owned())
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        output("docker", &["rm", "-f", &self.0]);
    }
}

/// A metadata service as a cloud has it: an address beyond the host, in a network namespace of its own.
struct Metadata {
    server: std::process::Child,
}

impl Metadata {
    const ADDRESS: &'static str = "169.254.169.254";
    const PORT: u16 = 8000;

    fn fake() -> Self {
        Self::clear();
        let steps = [
            "netns add terrapool-meta",
            "link add terrapool-m0 type veth peer name terrapool-m1 netns terrapool-meta",
            "addr add 10.254.254.1/30 dev terrapool-m0",
            "link set terrapool-m0 up",
            "-n terrapool-meta addr add 10.254.254.2/30 dev terrapool-m1",
            "-n terrapool-meta addr add 169.254.169.254/32 dev lo",
            "-n terrapool-meta link set lo up",
            "-n terrapool-meta link set terrapool-m1 up",
            "-n terrapool-meta route add default via 10.254.254.1",
            "route add 169.254.169.254/32 via 10.254.254.2",
        ];
        for step in steps {
            ip(step);
        }
        Self {
            server: serve("terrapool-meta"),
        }
    }

    fn clear() {
        output("ip", &["link", "del", "terrapool-m0"]);
        output("ip", &["netns", "del", "terrapool-meta"]);
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        Self::clear();
    }
}

/// A guest on a bridge of the host that is not the engine's, as virtual machines are.
struct Guest {
    server: std::process::Child,
}

impl Guest {
    const ADDRESS: &'static str = "10.254.251.2";
    const BLOCK: &'static str = "10.254.251.0/30";
    const PORT: u16 = 8000;

    fn start() -> Self {
        Self::clear();
        for step in [
            "netns add terrapool-foreign",
            "link add terrapool-f0 type bridge",
            "addr add 10.254.251.1/30 dev terrapool-f0",
            "link set terrapool-f0 up",
            "link add terrapool-f1 type veth peer name eth0 netns terrapool-foreign",
            "link set terrapool-f1 master terrapool-f0 up",
            "-n terrapool-foreign addr add 10.254.251.2/30 dev eth0",
            "-n terrapool-foreign link set eth0 up",
            "-n terrapool-foreign route add default via 10.254.251.1",
        ] {
            ip(step);
        }
        Self {
            server: serve("terrapool-foreign"),
        }
    }

    fn clear() {
        output("ip", &["link", "del", "terrapool-f1"]);
        output("ip", &["link", "del", "terrapool-f0"]);
        output("ip", &["netns", "del", "terrapool-foreign"]);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        Self::clear();
    }
}

async fn sandbox(driver: &Arc<DockerDriver>, network: SandboxNetwork) -> Sandbox {
    driver
        .create_sandbox(&driver.key(None, network, Limits::default()))
        .await
        .unwrap()
}

async fn remove(driver: &Arc<DockerDriver>, sandbox: Sandbox) {
    driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
}

/// By the addresses that the kernel gives every link, the host would be reached past every route.
fn is_closed_to_ipv6(sandbox: &str, namespace: &str) {
    let (_, text) = output(
        "ip",
        &["-6", "-o", "addr", "show", "dev", "terrapool0", "scope", "link"],
    );
    let Some(address) = text
        .split_whitespace()
        .nth(3)
        .and_then(|block| block.split('/').next())
    else {
        // This host gives its links none.
        return;
    };
    let address = format!("{address}%eth0");
    let port = listen("::");
    assert!(!reaches(sandbox, &address, port), "{address}");

    // The control: the same probe finds the host once the link has an address again.
    let script = "for name in all eth0; do echo 0 > /proc/sys/net/ipv6/conf/$name/disable_ipv6; done; \
                  ip addr add fe80::7/64 dev eth0 nodad";
    let (opened, text) = output("nsenter", &[namespace, "sh", "-c", script]);
    assert!(opened, "{text}");
    assert!(in_time(|| reaches(sandbox, &address, port)), "{address}");
}

async fn probes(user: SandboxUser) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.user = user;
    let image = config.image.clone().unwrap();
    let driver = prepare(&config, folder.path()).await;
    let _leftovers = Leftovers::of(folder.path());
    let _metadata = Metadata::fake();
    let _guest = Guest::start();
    // Before the first sandbox: what is made later is not closed in it.
    let addresses = own_addresses();
    let (host, meta) = (listen("0.0.0.0"), Metadata::PORT);
    let control = Control::start(&image);
    let closed = sandbox(&driver, SandboxNetwork::Closed).await;
    let open = sandbox(&driver, SandboxNetwork::Metadata).await;
    let none = sandbox(&driver, SandboxNetwork::None).await;

    assert!(
        addresses.iter().any(|address| reaches(&control.0, address, host)),
        "{addresses:?}"
    );
    assert!(in_time(|| reaches(&control.0, Metadata::ADDRESS, meta)));
    assert!(reaches(&open.id, Metadata::ADDRESS, meta));
    for inside in [&closed.id, &open.id, &none.id] {
        for address in &addresses {
            assert!(!reaches(inside, address, host), "{address}");
        }
    }
    assert!(!reaches(&closed.id, Metadata::ADDRESS, meta));
    assert!(!reaches(&none.id, Metadata::ADDRESS, meta));

    // A sibling listens; it answers on its own address, nobody else hears it.
    let (started, text) = output("docker", &["exec", "-d", &open.id, "busybox", "sh", "-c", SERVE]);
    assert!(started, "{text}");
    let sibling = address_of(&open.id);
    assert!(
        in_time(|| reaches(&open.id, &sibling, 9000)),
        "the sibling does not listen"
    );
    assert!(!reaches(&closed.id, &sibling, 9000), "{sibling}");

    // Somebody else's container on another bridge of the engine serves its neighbours there, and no sandbox.
    let (started, text) = output(
        "docker",
        &["exec", "-d", &control.0, "busybox", "sh", "-c", SERVE],
    );
    assert!(started, "{text}");
    let foreign = address_of(&control.0);
    let neighbour = Control::start(&image);
    assert!(
        in_time(|| reaches(&neighbour.0, &foreign, 9000)),
        "the container does not listen"
    );
    for inside in [&closed.id, &open.id, &none.id] {
        assert!(!reaches(inside, &foreign, 9000), "{foreign}");
    }

    // Nor does a guest on a bridge that is not the engine's serve sandboxes.
    assert!(in_time(|| reaches(&control.0, Guest::ADDRESS, Guest::PORT)));
    for inside in [&closed.id, &open.id, &none.id] {
        assert!(!reaches(inside, Guest::ADDRESS, Guest::PORT));
    }

    // Nobody inside can take the routes away.
    let (removed, text) = output(
        "docker",
        &[
            "exec",
            &closed.id,
            "busybox",
            "ip",
            "route",
            "del",
            "169.254.0.0/16",
        ],
    );
    assert!(!removed, "{text}");

    let (_, process) = output("docker", &["inspect", "-f", "{{.State.Pid}}", &closed.id]);
    let namespace = format!("--net=/proc/{}/ns/net", process.trim());
    is_closed_to_ipv6(&closed.id, &namespace);

    // The control: it is its route that keeps the guest away.
    let (removed, text) = output(
        "nsenter",
        &[&namespace, "ip", "route", "del", "unreachable", Guest::BLOCK],
    );
    assert!(removed, "{text}");
    assert!(in_time(|| reaches(&closed.id, Guest::ADDRESS, Guest::PORT)));
    for sandbox in [closed, open, none] {
        remove(&driver, sandbox).await;
    }
}

#[tokio::test]
async fn case_07_metadata_host_gateway_and_siblings_are_out_of_reach_for_both_profiles() {
    probes(SandboxUser::Unprivileged).await;
    probes(SandboxUser::Root).await;
}
