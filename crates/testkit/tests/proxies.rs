//! Agents behind proxies, set up as the manual says, under systemd.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use terrapool_testkit::installation::{Installation, free_port};
use terrapool_testkit::runs::Workspace;
use terrapool_testkit::system::{System, documented_with, made, on_path, package, packages};
use terrapool_testkit::wait::until;
use tokio::process::{Child, Command};

const MANUAL: &str = include_str!("../../../docs/install.md");
const SECTION: &str = "Behind a proxy";

/// Waits until something listens.
async fn listens(port: u16, what: &str) {
    let up = until(Duration::from_secs(120), async || {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    assert!(up.is_some(), "{what} does not listen");
}

/// A proxy that wants a name and a password, and that cuts what is idle for ten seconds.
async fn squid(folder: &Path) -> (Child, u16) {
    let port = free_port();
    // It gives root up and has to write there.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    let hashed = Command::new("openssl")
        .args(["passwd", "-apr1", "password"])
        .output()
        .await
        .expect("openssl is there");
    let users = format!("user:{}", String::from_utf8_lossy(&hashed.stdout));
    std::fs::write(folder.join("users"), users).expect("a file can be written");
    let at = folder.display();
    let configuration = format!(
        "http_port 127.0.0.1:{port}\nauth_param basic program /usr/lib/squid/basic_ncsa_auth {at}/users\n\
         acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\nread_timeout 10 seconds\n\
         cache deny all\npid_filename {at}/pid\ncache_log {at}/cache.log\naccess_log stdio:{at}/access.log\n\
         shutdown_lifetime 0 seconds\npinger_enable off\n"
    );
    std::fs::write(folder.join("squid.conf"), configuration).expect("a file can be written");
    let child = Command::new(on_path("squid"))
        .args(["-N", "-f"])
        .arg(folder.join("squid.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("squid starts");
    listens(port, "squid").await;
    (child, port)
}

/// A proxy that looks into TLS, with an authority of its own. What is asked of files.example.com is asked of `stand_in`.
async fn mitmproxy(folder: &Path, upstream_ca: &Path, stand_in: &str) -> (Child, u16) {
    let port = free_port();
    let tool = made("TERRAPOOL_TEST_MITMPROXY");
    let child = Command::new("python3")
        .arg(tool.join("bin/mitmdump"))
        .args(["--listen-host", "127.0.0.1", "-p", &port.to_string(), "--set"])
        .arg(format!("confdir={}", folder.display()))
        .arg("--set")
        .arg(format!(
            "ssl_verify_upstream_trusted_ca={}",
            upstream_ca.display()
        ))
        .args(["--set", "connection_strategy=lazy", "--map-remote"])
        .arg(format!("|https://files.example.com/|{stand_in}/"))
        .env("PYTHONPATH", &tool)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("python starts");
    listens(port, "mitmproxy").await;
    (child, port)
}

/// Much output, a state of more than eight megabytes, and longer without a word than the proxy lets a connection be.
const BIG: &str = r#"
resource "terraform_data" "big" {
  input = sensitive(join("", [for number in range(1000) : format("%04200d", number)]))
}
resource "terraform_data" "loud" {
  provisioner "local-exec" {
    command = "head -c 4000000 /dev/zero | tr '\\0' x | fold -w 1000; echo; sleep 12; echo enough"
  }
}
"#;

/// A provider from a registry that does not exist.
const PROVIDER: &str = r#"
terraform {
  required_providers {
    nothing = { source = "providers.example.com/acme/nothing" }
  }
}
resource "nothing_at_all" "a" {}
"#;

/// Asks a host for a repository; it has none, but a host that is not trusted is not even asked.
const TRUST: &str = r#"
resource "terraform_data" "trust" {
  provisioner "local-exec" {
    command = "git ls-remote https://files.example.com/ 2>&1 || true"
  }
}
"#;

/// A workspace with an output, and one that reads it: the engine asks the runner's relay, the relay the agent, and the agent
/// the control plane by the only way that it has.
const READ: &str =
    "resource \"terraform_data\" \"a\" {}\noutput \"subnet\" {\n  value = \"subnet-4711\"\n}\n";

fn reader(host: &str) -> String {
    format!(
        r#"data "terraform_remote_state" "network" {{
  backend = "remote"
  config = {{
    hostname     = "{host}"
    organization = "acme"
    workspaces   = {{ name = "network" }}
  }}
}}
output "read" {{
  value = "the subnet is ${{data.terraform_remote_state.network.outputs.subnet}}"
}}
"#
    )
}

/// Where proxies are: an address that is not the host's own, since sandboxes do not reach that one.
const PROXY: &str = "10.99.0.2";

struct Site {
    installation: Installation,
    system: System,
    pool: String,
}

impl Site {
    /// An agent that is installed and configured and cannot reach its control plane.
    async fn start() -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        let system = System::boot().await;
        system.bring(&package(&packages(), "terrapool-agent_", ".deb"));
        system.bring(&on_path("terraform"));
        std::fs::write(system.share().join("token"), token).expect("a file can be written");
        std::fs::copy(installation.ca(), system.share().join("ca.pem")).expect("the server has a CA");
        system
            .run(&format!(
                "dpkg -i *.deb; install -D terraform /usr/local/bin/terraform; terrapool-agent configure --url {} \
                 --token-stdin --ca-file ca.pem < token; systemctl enable --now terrapool-agent",
                installation.url()
            ))
            .await;
        Self {
            installation,
            system,
            pool,
        }
    }

    /// Gives the host a neighbour, on which a port of this machine's loopback is found.
    async fn neighbour(&self, port: u16) {
        self.system
            .run(&format!(
                "if ! ip netns list | grep -q neighbour; then ip netns add neighbour; \
                 ip link add here type veth peer name there netns neighbour; ip address add 10.99.0.1/24 dev here; \
                 ip link set here up; ip -n neighbour address add {PROXY}/24 dev there; \
                 ip -n neighbour link set there up; ip -n neighbour route add default via 10.99.0.1; fi; \
                 systemd-run --quiet --unit neighbour-{port} ip netns exec neighbour \
                 socat TCP-LISTEN:{port},bind={PROXY},fork,reuseaddr UNIX-CONNECT:/mnt/{port}.sock"
            ))
            .await;
        self.system
            .prints(
                &format!("ip netns exec neighbour ss -ltn 'sport = :{port}'"),
                "LISTEN",
            )
            .await;
    }

    /// Applies a configuration and returns the workspace, the run's status and both logs.
    async fn runs(&self, name: &str, configuration: &str) -> (Workspace, String, String) {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        let workspace = self
            .installation
            .workspace(name, &attributes, configuration)
            .await;
        let run = self
            .installation
            .run(&workspace, &json!({"auto-apply": true}))
            .await;
        let status = self.installation.run_ends(&run).await;
        let mut log = String::new();
        let shown = self.installation.get(&format!("/runs/{run}")).await;
        for (phase, path) in [("plan", "plans"), ("apply", "applies")] {
            if let Some(id) = shown["data"]["relationships"][phase]["data"]["id"].as_str() {
                let phase = self.installation.get(&format!("/{path}/{id}")).await;
                if phase["data"]["attributes"]["log-read-url"].is_string() {
                    // The end mark follows the end of the run.
                    let whole = until(Duration::from_secs(60), async || {
                        let whole = self.installation.whole_log(&phase).await;
                        whole.ends_with('\u{3}').then_some(whole)
                    });
                    log += &whole.await.expect("a log ends with its run");
                }
            }
        }
        (workspace, status, log)
    }

    /// Sets what the sandboxes of the pool may use.
    async fn sandboxes(&self, settings: &serde_json::Value) {
        let body = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": settings}}});
        self.installation
            .patch(&format!("/agent-pools/{}", self.pool), &body)
            .await;
    }

    async fn connected(&self) {
        self.system
            .prints("terrapool-agent status || true", "connected")
            .await;
    }
}

/// Waits until a proxy has logged a text.
async fn went_through(folder: &Path, wanted: &str) {
    let log = || std::fs::read_to_string(folder.join("access.log")).unwrap_or_default();
    let seen = until(Duration::from_secs(60), async || {
        log().contains(wanted).then_some(())
    })
    .await;
    assert!(seen.is_some(), "{}", log());
}

#[tokio::test]
async fn agent_engine_and_runs_go_through_the_proxy_of_a_drop_in_with_a_password_or_into_tls() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_squid, port) = squid(folder.path()).await;
    site.system.relay(port).await;
    site.neighbour(port).await;
    let commands = documented_with(MANUAL, SECTION, "proxy.conf");
    let address = format!("http://user:password@{PROXY}:{port}");
    site.system
        .run(&commands.replace("http://user:password@proxy.example.com:3128", &address))
        .await;
    site.connected().await;
    // A doctor on a terminal looks with the service's proxy.
    let doctor = site.system.run("terrapool-agent doctor || true").await;
    for line in [
        "HTTPS_PROXY",
        &format!("ok      proxy: {PROXY}:{port} leads to localhost:"),
        "ok      control plane: ",
    ] {
        assert!(doctor.contains(line), "{line}: {doctor}");
    }
    assert!(!doctor.contains("password"), "{doctor}");
    went_through(
        folder.path(),
        &format!("CONNECT {} user", site.installation.host()),
    )
    .await;
    // There is no such registry; that the proxy was asked for it is what matters.
    site.system
        .run("docker -H unix:///run/terrapool-docker/docker.sock pull registry.example.com/image:1 || true")
        .await;
    went_through(folder.path(), "CONNECT registry.example.com:443 user").await;

    let (workspace, status, log) = site.runs("big", BIG).await;
    assert_eq!(
        status,
        "applied",
        "{}",
        log.chars().take(5000).collect::<String>()
    );
    assert!(log.matches('x').count() >= 4_000_000, "{} bytes", log.len());
    assert!(log.contains("enough") && log.ends_with('\u{3}'));
    let state = site.installation.current_state(&workspace).await;
    let size = state.unwrap_or_default().to_string().len();
    assert!(size > 8_000_000, "{size} bytes");

    // Sandboxes have no way to the control plane of their own, and no word about the proxy.
    let (network, status, log) = site.runs("network", READ).await;
    assert_eq!(status, "applied", "{log}");
    let reader = reader(&site.installation.host());
    let (_, status, log) = site.runs("app", &reader).await;
    assert_eq!(status, "errored", "nothing is shared yet: {log}");
    let global = json!({"data": {"type": "workspaces", "attributes": {"global-remote-state": true}}});
    site.installation
        .patch(&format!("/workspaces/{}", network.id), &global)
        .await;
    let (_, status, log) = site.runs("reader", &reader).await;
    assert_eq!(status, "applied", "{log}");
    assert!(log.contains("the subnet is subnet-4711"), "{log}");

    site.sandboxes(&json!({"proxy": "agent"})).await;
    let (_, status, log) = site.runs("provider", PROVIDER).await;
    assert_eq!(status, "errored", "{log}");
    went_through(folder.path(), "CONNECT providers.example.com:443 user").await;

    let authority = tempfile::tempdir().expect("a temporary folder");
    let (_mitmproxy, other) = mitmproxy(
        authority.path(),
        &site.installation.ca(),
        &site.installation.url(),
    )
    .await;
    site.system.relay(other).await;
    site.neighbour(other).await;
    std::fs::copy(
        authority.path().join("mitmproxy-ca-cert.pem"),
        site.system.share().join("proxy-ca.pem"),
    )
    .expect("mitmproxy makes its authority");
    let commands = documented_with(MANUAL, SECTION, "--ca-file=proxy-ca.pem");
    site.system
        .run(&format!(
            "sed -i 's|{address}|http://{PROXY}:{other}|' /etc/systemd/system/terrapool-agent.service.d/proxy.conf; \
             systemctl daemon-reload\n{commands}"
        ))
        .await;
    site.connected().await;
    let (_, status, log) = site.runs("trust", TRUST).await;
    assert_eq!(status, "applied", "{log}");
    assert!(log.contains("files.example.com/' not found"), "{log}");

    // The same certificate in the system's store, and none of the agent's own for the proxy.
    site.system
        .run("cat ca.pem > /etc/terrapool-agent/ca.pem; systemctl restart terrapool-agent")
        .await;
    site.system
        .prints("terrapool-agent status || true", "UnknownIssuer")
        .await;
    let commands = documented_with(MANUAL, SECTION, "update-ca-certificates");
    site.system.run(&commands).await;
    site.connected().await;
}
