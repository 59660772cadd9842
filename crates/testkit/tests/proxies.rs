//! Agents behind proxies, set up as the manual says, under systemd.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use terrapool_testkit::installation::{Installation, free_port};
use terrapool_testkit::system::{System, documented_with, made, on_path, package, packages};
use terrapool_testkit::wait::until;
use tokio::process::{Child, Command};

const MANUAL: &str = include_str!("../../../docs/install.md");
const SECTION: &str = "Behind a proxy";

const HELLO: &str = r#"
resource "terraform_data" "hello" {
  provisioner "local-exec" {
    command = "echo hello"
  }
}
"#;

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

/// A proxy that looks into TLS, with an authority of its own.
async fn mitmproxy(folder: &Path, upstream_ca: &Path) -> (Child, u16) {
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

    async fn connected(&self) {
        self.system
            .prints("terrapool-agent status || true", "connected")
            .await;
    }

    async fn applies(&self, name: &str) {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        let workspace = self.installation.workspace(name, &attributes, HELLO).await;
        let run = self
            .installation
            .run(&workspace, &json!({"auto-apply": true}))
            .await;
        self.installation.run_reaches(&run, "applied").await;
        let log = self.installation.phase_log(&run, "apply").await;
        assert!(log.contains("hello") && log.ends_with('\u{3}'), "{log}");
    }
}

#[tokio::test]
async fn an_agent_and_its_engine_go_through_the_proxy_of_a_drop_in_with_a_password_or_into_tls() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_squid, port) = squid(folder.path()).await;
    site.system.relay(port).await;
    let commands = documented_with(MANUAL, SECTION, "proxy.conf");
    let address = format!("http://user:password@127.0.0.1:{port}");
    site.system
        .run(&commands.replace("http://user:password@proxy.example.com:3128", &address))
        .await;
    site.connected().await;
    site.applies("one").await;
    let log = || std::fs::read_to_string(folder.path().join("access.log")).unwrap_or_default();
    let call = format!("CONNECT {} user", site.installation.host());
    let seen = until(Duration::from_secs(60), async || {
        log().contains(&call).then_some(())
    })
    .await;
    assert!(seen.is_some(), "{}", log());
    // There is no such registry; that the proxy was asked for it is what matters.
    site.system
        .run("docker -H unix:///run/terrapool-docker/docker.sock pull registry.example.com/image:1 || true")
        .await;
    let pull = "CONNECT registry.example.com:443 user";
    let seen = until(Duration::from_secs(60), async || {
        log().contains(pull).then_some(())
    })
    .await;
    assert!(seen.is_some(), "{}", log());

    let authority = tempfile::tempdir().expect("a temporary folder");
    let (_mitmproxy, other) = mitmproxy(authority.path(), &site.installation.ca()).await;
    site.system.relay(other).await;
    std::fs::copy(
        authority.path().join("mitmproxy-ca-cert.pem"),
        site.system.share().join("proxy-ca.pem"),
    )
    .expect("mitmproxy makes its authority");
    let commands = documented_with(MANUAL, SECTION, "--ca-file proxy-ca.pem");
    site.system
        .run(&format!(
            "sed -i 's|{address}|http://127.0.0.1:{other}|' /etc/systemd/system/terrapool-agent.service.d/proxy.conf; \
             systemctl daemon-reload\n{commands}"
        ))
        .await;
    site.connected().await;
    site.applies("two").await;
}
