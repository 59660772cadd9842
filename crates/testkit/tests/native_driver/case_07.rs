//! What sandboxes reach, and what not.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use terrapool_testkit::agent_user;
use terrapool_testkit::wait::until;

use super::{Site, first_process};

/// Held by whoever changes the rules of the machine's firewall, or depends on their being there.
static FIREWALL: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Services in network namespaces of their own: one is reached as a cloud's metadata is, beyond the host; the other is on
/// a bridge of the host, as containers and virtual machines are.
struct World {
    servers: Vec<std::process::Child>,
}

impl World {
    /// Its address in the world, which may be reached.
    const ADDRESS: &'static str = "10.254.253.2";
    const METADATA: &'static str = "169.254.169.254";
    /// The service on the bridge.
    const ON_BRIDGE: &'static str = "10.254.252.2";
    const BRIDGE: &'static str = "terrapool-b0";
    const BLOCK: &'static str = "10.254.252.0/30";

    fn make() -> Self {
        Self::clear();
        for step in [
            "netns add terrapool-world",
            "link add terrapool-w0 type veth peer name terrapool-w1 netns terrapool-world",
            "addr add 10.254.253.1/30 dev terrapool-w0",
            "link set terrapool-w0 up",
            "-n terrapool-world addr add 10.254.253.2/30 dev terrapool-w1",
            "-n terrapool-world addr add 169.254.169.254/32 dev lo",
            "-n terrapool-world link set lo up",
            "-n terrapool-world link set terrapool-w1 up",
            "-n terrapool-world route add default via 10.254.253.1",
            "route replace 169.254.169.254/32 via 10.254.253.2",
            // Sandboxes may leave by it; the machine's own default route goes before it.
            "route append default via 10.254.253.2 metric 4000000000",
            "netns add terrapool-guest",
            "link add terrapool-b0 type bridge",
            "addr add 10.254.252.1/30 dev terrapool-b0",
            "link set terrapool-b0 up",
            "link add terrapool-b1 type veth peer name eth0 netns terrapool-guest",
            "link set terrapool-b1 master terrapool-b0 up",
            "-n terrapool-guest addr add 10.254.252.2/30 dev eth0",
            "-n terrapool-guest link set eth0 up",
            "-n terrapool-guest route add default via 10.254.252.1",
        ] {
            let status = Command::new("ip").args(step.split(' ')).status();
            assert!(status.is_ok_and(|status| status.success()), "ip {step}");
        }
        let servers = ["terrapool-world", "terrapool-guest"].map(|namespace| {
            Command::new("ip")
                .args(["netns", "exec", namespace, "python3", "-m", "http.server", "8000"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .expect("a server starts")
        });
        Self {
            servers: servers.into(),
        }
    }

    fn clear() {
        for step in [
            "link del terrapool-w0",
            "netns del terrapool-world",
            "link del terrapool-b1",
            "link del terrapool-b0",
            "netns del terrapool-guest",
        ] {
            let _ = Command::new("ip").args(step.split(' ')).output();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        Self::clear();
    }
}

#[tokio::test]
async fn case_07_a_sandbox_reaches_the_world_and_neither_host_nor_neighbour_nor_metadata() {
    let _firewall = FIREWALL.lock().await;
    let _world = World::make();
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let site = Site::new("default").await;
    let _agent = site.agent().await;

    // A neighbour that listens, and tells its address.
    let neighbour = site
        .workspace(
            "neighbour",
            "resource \"terraform_data\" \"a\" {\n  provisioner \"local-exec\" {\n    interpreter = [\"bash\", \"-c\"]\n    command = \"python3 -m http.server 8000 & hostname -I > /terrapool/work/address; until (echo > /dev/tcp/127.0.0.1/8000); do sleep 0.1; done; touch /terrapool/work/in-the-middle; until [ -e /terrapool/work/go ]; do sleep 0.1; done; kill %1\"\n  }\n}\n",
        )
        .await;
    let neighbours_run = site.begin(&neighbour).await;
    let folder = site.working().await;
    let address = std::fs::read_to_string(folder.join("work/address")).expect("it told its address");
    let address = address.trim();
    let own: std::net::Ipv4Addr = address.parse().expect("an address");
    let gateway = if agent_user::is_set() {
        std::net::Ipv4Addr::new(198, 18, 0, 2)
    } else {
        std::net::Ipv4Addr::from(u32::from(own) - 1)
    };

    let script = format!(
        r#"try() {{ timeout 3 bash -c "echo > /dev/tcp/$2/$3" 2>/dev/null && echo "REACHED $1" || echo "closed $1"; }}
try world {world} 8000
try metadata {metadata} 8000
try bridge {bridge} 8000
try neighbour {address} 8000
try gateway {gateway} {port}
for own in {own}; do try host $own {port}; done
grep -q ' lo$' /proc/net/if_inet6 && echo "loopback has IPv6"
grep -q ' eth0$' /proc/net/if_inet6 && echo "REACHED IPv6"
ip route del unreachable {gateway} 2>/dev/null && echo "REACHED routes"
echo done"#,
        world = World::ADDRESS,
        metadata = World::METADATA,
        bridge = World::ON_BRIDGE,
        own = own_addresses().join(" "),
    );
    // The control: from here these can be reached; the neighbour has reached itself.
    for (host, port) in [
        (World::ADDRESS, 8000),
        (World::METADATA, 8000),
        (World::ON_BRIDGE, 8000),
        ("127.0.0.1", port),
    ] {
        let reached = until(Duration::from_secs(20), async || {
            std::net::TcpStream::connect((host, port)).ok().map(drop)
        });
        assert!(
            reached.await.is_some(),
            "{host}:{port} cannot be reached from the host"
        );
    }
    let log = site.applied("looks-around", &script).await;
    let reached: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("): REACHED ").map(|(_, what)| what))
        .collect();
    assert_eq!(reached, ["world"], "{log}");
    // No address of the link's own either, on both ends of it.
    if Path::new("/proc/net/if_inet6").exists() {
        assert!(log.contains("): loopback has IPv6"), "{log}");
        let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        assert!(!addresses.contains(" tpn"), "{addresses}");
    }
    for closed in ["metadata", "bridge", "neighbour", "gateway", "host"] {
        assert!(log.contains(&format!("): closed {closed}")), "{log}");
    }

    if agent_user::is_set() {
        bridge_is_closed_by_its_route(&folder).await;
    } else {
        // The control: with a rule that opens the bridge, the same probe reaches it.
        let open = ["-o", World::BRIDGE, "-j", "ACCEPT"];
        let opened = Command::new("iptables")
            .args(["-w", "-I", "TERRAPOOL-NATIVE"])
            .args(open)
            .status();
        assert!(opened.is_ok_and(|status| status.success()), "iptables");
        let log = site.applied("looks-at-the-bridge", &script).await;
        let _ = Command::new("iptables")
            .args(["-w", "-D", "TERRAPOOL-NATIVE"])
            .args(open)
            .status();
        assert!(log.contains("): REACHED bridge"), "{log}");
    }

    // The pool opens metadata, then closes everything.
    for (network, expected) in [("metadata", vec!["world", "metadata"]), ("none", vec![])] {
        let setting =
            json!({"data": {"type": "agent-pools", "attributes": {"sandbox": {"network": network}}}});
        site.installation
            .patch(&format!("/agent-pools/{}", site.pool), &setting)
            .await;
        let log = site.applied(&format!("looks-{network}"), &script).await;
        let reached: Vec<&str> = log
            .lines()
            .filter_map(|line| line.split_once("): REACHED ").map(|(_, what)| what))
            .collect();
        assert_eq!(reached, expected, "{network}\n{log}");
    }
    std::fs::write(folder.join("work/go"), "").expect("the host writes to a volume");
    site.installation.run_reaches(&neighbours_run, "applied").await;
}

/// The control for a sandbox whose network is closed from inside alone: without its route, the bridge is reached.
async fn bridge_is_closed_by_its_route(sandbox: &Path) {
    let namespace = format!("--net=/proc/{}/ns/net", first_process(sandbox));
    let within = |words: &[&str]| {
        let entered = Command::new("nsenter").arg(&namespace).args(words).output();
        entered.expect("nsenter runs").status.success()
    };
    let probe = format!("echo > /dev/tcp/{}/8000", World::ON_BRIDGE);
    let probe = ["timeout", "10", "bash", "-c", probe.as_str()];
    assert!(!within(&probe), "the bridge is reached");
    assert!(
        within(&["ip", "route", "del", "unreachable", World::BLOCK]),
        "no such route"
    );
    let reached = until(Duration::from_secs(60), async || within(&probe).then_some(()));
    assert!(
        reached.await.is_some(),
        "the bridge cannot be reached without its route"
    );
}

#[tokio::test]
async fn what_somebody_takes_away_of_the_network_is_made_again_for_the_next_run() {
    let _firewall = FIREWALL.lock().await;
    let _world = World::make();
    let site = Site::new("default").await;
    let _agent = site.agent().await;
    let script = format!(
        r#"try() {{ timeout 10 bash -c "echo > /dev/tcp/$2/8000" 2>/dev/null && echo "REACHED $1" || echo "closed $1"; }}
try world {}
try bridge {}"#,
        World::ADDRESS,
        World::ON_BRIDGE
    );
    let expected = ["): REACHED world", "): closed bridge"];
    let log = site.applied("before", &script).await;
    assert!(expected.iter().all(|line| log.contains(line)), "{log}");

    // As a firewall does that is loaded anew, and no more than what is ours: others use the machine's.
    for rule in [
        "-t nat -D POSTROUTING -s 198.18.0.0/15 ! -o tpn+ -j MASQUERADE",
        "-D FORWARD -o tpn+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-D FORWARD -i tpn+ -j TERRAPOOL-NATIVE",
        "-F TERRAPOOL-NATIVE",
    ] {
        let words = std::iter::once("-w").chain(rule.split(' '));
        let status = Command::new("iptables").args(words).status();
        assert!(status.is_ok_and(|status| status.success()), "iptables {rule}");
    }
    let log = site.applied("rules", &script).await;
    assert!(expected.iter().all(|line| log.contains(line)), "{log}");

    // The links of what waits.
    for folder in site.sandboxes() {
        let note = std::fs::read(folder.join("sandbox.json")).unwrap_or_default();
        let note: Value = serde_json::from_slice(&note).unwrap_or_default();
        if let Some(link) = note["link"]["host_end"].as_str() {
            let _ = Command::new("ip").args(["link", "del", link]).status();
        }
    }
    let log = site.applied("links", &script).await;
    assert!(expected.iter().all(|line| log.contains(line)), "{log}");
}

fn own_addresses() -> Vec<String> {
    let output = Command::new("ip")
        .args(["-4", "-o", "addr", "show", "scope", "global"])
        .output()
        .expect("ip runs");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| Some(line.split_whitespace().nth(3)?.split('/').next()?.to_owned()))
        .filter(|address| !address.starts_with("198.1"))
        .collect()
}
