//! Sandboxes by namespaces of the kernel, without a container engine: what is theirs alone. The security cases of other
//! files hold for both drivers.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::runs::Workspace;
use terrapool_testkit::wait::until;

struct Site {
    installation: Installation,
    pool: String,
    token: String,
    profile: &'static str,
}

impl Site {
    async fn new(profile: &'static str) -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        Self {
            installation,
            pool,
            token,
            profile,
        }
    }

    async fn agent(&self) -> AgentProcess {
        let environment = [
            ("TERRAPOOL_AGENT_DRIVER", "native"),
            ("TERRAPOOL_AGENT_USER", self.profile),
            ("DOCKER_HOST", "unix:///nowhere"),
        ];
        self.installation
            .start_agent("private", &self.token, &environment)
            .await
    }

    async fn workspace(&self, name: &str, configuration: &str) -> Workspace {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        self.installation
            .workspace(name, &attributes, configuration)
            .await
    }

    /// The log of an apply whose only resource runs a script.
    async fn applied(&self, name: &str, script: &str) -> String {
        let configuration = format!(
            "resource \"terraform_data\" \"probe\" {{\n  provisioner \"local-exec\" {{\n    interpreter = [\"bash\", \"-c\"]\n    command = <<-EOT\n{script}\n    EOT\n  }}\n}}\n"
        );
        let workspace = self.workspace(name, &configuration).await;
        let run = self.begin(&workspace).await;
        self.installation.run_reaches(&run, "applied").await;
        self.installation.phase_log(&run, "apply").await
    }

    async fn begin(&self, workspace: &Workspace) -> String {
        self.installation
            .run(workspace, &json!({"auto-apply": true}))
            .await
    }

    /// The folders of the agent's sandboxes.
    fn sandboxes(&self) -> Vec<PathBuf> {
        let folder = self.installation.agent_folder("private").join("native/sandboxes");
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The sandbox that has begun an engine's phase.
    async fn working(&self) -> PathBuf {
        let found = until(Duration::from_secs(180), async || {
            let mut all = self.sandboxes().into_iter();
            all.find(|folder| folder.join("work/in-the-middle").exists())
        });
        found.await.expect("a running job has a sandbox")
    }
}

/// The number of the first process of a sandbox, on this host.
fn first_process(folder: &std::path::Path) -> u64 {
    let note = std::fs::read(folder.join("sandbox.json")).expect("a sandbox has a note");
    let note: Value = serde_json::from_slice(&note).expect("it is JSON");
    note["process"]["number"].as_u64().expect("it has a process")
}

const STEPS: &str = r#"
resource "terraform_data" "first" {}
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "echo second waits; touch /terrapool/work/in-the-middle; until [ -e /terrapool/work/go ]; do sleep 0.1; done; echo second goes"
  }
}
resource "terraform_data" "third" {
  depends_on = [terraform_data.second]
}
"#;

#[tokio::test]
async fn an_apply_goes_on_while_its_agent_is_dead_and_the_next_process_delivers_all_of_it() {
    let site = Site::new("default").await;
    let mut agent = site.agent().await;
    let workspace = site.workspace("network", STEPS).await;
    let run = site.begin(&workspace).await;
    let sandbox = site.working().await;
    agent.kill().await;
    std::fs::write(sandbox.join("work/go"), "").expect("the host writes to a volume");
    let _agent = site.agent().await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(
        log.contains("second waits") && log.contains("second goes"),
        "{log}"
    );
    assert!(log.ends_with('\u{3}'), "{log}");
    let expected = ["first", "second", "third"].map(|name| format!("terraform_data.{name}"));
    assert_eq!(site.installation.resources(&workspace).await, expected);
    let gone = until(Duration::from_secs(60), async || {
        (!sandbox.exists()).then_some(())
    });
    assert!(
        gone.await.is_some(),
        "{} is left of a run that is over",
        sandbox.display()
    );
}

#[tokio::test]
async fn a_sandbox_that_is_killed_leaves_its_last_state_and_its_log() {
    let site = Site::new("default").await;
    let _agent = site.agent().await;
    let workspace = site.workspace("network", STEPS).await;
    let run = site.begin(&workspace).await;
    let first = first_process(&site.working().await).to_string();
    let killed = Command::new("kill").args(["-KILL", &first]).status();
    assert!(killed.is_ok_and(|status| status.success()), "kill {first}");
    site.installation.run_reaches(&run, "errored").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("second waits"), "{log}");
    let kept = site.installation.resources(&workspace).await;
    assert!(kept.contains(&"terraform_data.first".to_owned()), "{kept:?}");
}

#[tokio::test]
async fn an_image_is_refused_in_a_sentence() {
    let site = Site::new("default").await;
    let _agent = site.agent().await;
    let allowed = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": {"image": format!("example.com/tools@sha256:{}", "a".repeat(64))}}}});
    let (status, answer) = site
        .installation
        .call("PATCH", &format!("/agent-pools/{}", site.pool), Some(&allowed))
        .await;
    assert_eq!(status, 200, "{answer}");
    let workspace = site
        .workspace("images", "resource \"terraform_data\" \"a\" {}\n")
        .await;
    let run = site.begin(&workspace).await;
    site.installation.run_reaches(&run, "errored").await;
    let answer = site.installation.get(&format!("/runs/{run}")).await;
    let message = answer["data"]["attributes"]["error-message"].to_string();
    assert!(
        message.contains("native driver") && message.contains("no images"),
        "{message}"
    );
}

/// What a process of a sandbox may do, and what it sees of the host.
async fn nothing_of_the_host(profile: &'static str) {
    let site = Site::new(profile).await;
    let _agent = site.agent().await;
    let data = site.installation.agent_folder("private");
    let script = format!(
        r#"grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
echo uid $(id -u)
cat /proc/self/uid_map
echo "self: $(cat /proc/self/status | head -1)"
for path in /home/* /root/* /run/* /var/run/* /etc/shadow /etc/ssh /var/lib/docker {data}; do
  [ -e "$path" ] && echo "SEEN $path"
done
for command in 'unshare -U true' 'unshare -m true' 'mount -t tmpfs x /mnt' 'chroot / true' 'umount /proc' \
  'mknod /terrapool/work/disk b 8 0' 'echo x > /proc/sys/kernel/core_pattern' 'touch /sys/fs/cgroup/x' \
  'echo 1000000000 > /sys/fs/cgroup/memory/memory.limit_in_bytes' 'echo max > /sys/fs/cgroup/memory.max' 'dmesg' 'ip link del eth0' 'hostname x' \
  'head -c 1 /proc/kcore | grep -qa .' 'ls /proc/1/root/terrapool/bin/../../home/*'; do
  sh -c "$command" >/dev/null 2>&1 && echo "MAY $command"
done
touch /usr/made-inside 2>/dev/null && echo wrote-usr
ls /terrapool/bin | grep -c runner
echo done"#,
        data = data.display()
    );
    let log = site.applied("looks-around", &script).await;
    assert!(log.contains("done") && log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("Seccomp:\t2"), "{log}");
    assert!(!log.contains("): SEEN") && !log.contains("): MAY"), "{log}");
    if profile == "default" {
        assert!(log.contains("uid 1000") && log.contains("1879048193"), "{log}");
        assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
        assert!(log.contains("CapBnd:\t0000000000000000"), "{log}");
        assert!(!log.contains("): wrote-usr"), "{log}");
    } else {
        assert!(log.contains("uid 0"), "{log}");
        // chown, dac_override, fowner, fsetid, setgid, setuid
        assert!(log.contains("CapBnd:\t00000000000000db"), "{log}");
        assert!(log.contains("): wrote-usr"), "{log}");
    }
    assert!(
        !std::path::Path::new("/usr/made-inside").exists(),
        "a sandbox wrote to the host"
    );
}

#[tokio::test]
async fn case_05_and_06_the_default_profile_has_no_power_and_sees_nothing_of_the_host() {
    nothing_of_the_host("default").await;
}

#[tokio::test]
async fn case_05_and_06_the_root_profile_has_no_power_outside_and_changes_nothing_of_the_host() {
    nothing_of_the_host("root").await;
}

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
    let gateway: std::net::Ipv4Addr = address.parse().expect("an address");
    let gateway = std::net::Ipv4Addr::from(u32::from(gateway) - 1);

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
    if std::path::Path::new("/proc/net/if_inet6").exists() {
        assert!(log.contains("): loopback has IPv6"), "{log}");
        let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        assert!(!addresses.contains(" tpn"), "{addresses}");
    }
    for closed in ["metadata", "bridge", "neighbour", "gateway", "host"] {
        assert!(log.contains(&format!("): closed {closed}")), "{log}");
    }

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
