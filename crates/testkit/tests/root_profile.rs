//! Root inside the sandbox, as people use it: packages installed and certificates added by a provisioner.

use std::process::Command;

use serde_json::json;
use terrapool_testkit::installation::Installation;

/// Both are what the manual says works; the first apply is thrown away with its sandbox.
const PROVISIONER: &str = r#"
resource "terraform_data" "tools" {
  provisioner "local-exec" {
    interpreter = ["bash", "-ec"]
    command     = <<-EOT
      ! command -v hello
      apt-get -o Acquire::Retries=5 update >/dev/null
      apt-get -o Acquire::Retries=5 install -y --no-install-recommends hello >/dev/null
      hello
      openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /tmp/key -days 2 \
        -subj /CN=corporate -out /usr/local/share/ca-certificates/corporate.crt 2>/dev/null
      update-ca-certificates
      openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates/corporate.crt
      id -u
    EOT
  }
}
"#;

async fn a_provisioner_installs_packages_and_adds_a_certificate_in_its_sandbox_only(driver: &str) {
    let installation = Installation::start().await;
    let (pool, token) = installation.create_pool("private").await;
    if driver == "docker" {
        // The agent's own image has no package manager; this one is a Debian.
        let system = std::env::var("TERRAPOOL_TEST_SYSTEM").expect("`cargo xtask test` makes a Debian image");
        let output = Command::new("docker")
            .args(["inspect", "-f", "{{.Id}}", &system])
            .output()
            .expect("the docker client is there");
        let image = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let setting = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": {"image": image}}}});
        installation
            .patch(&format!("/agent-pools/{pool}"), &setting)
            .await;
    }
    let environment = [
        ("TERRAPOOL_AGENT_DRIVER", driver),
        ("TERRAPOOL_AGENT_USER", "root"),
    ];
    let _agent = installation.start_agent("private", &token, &environment).await;
    let attributes = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": true});
    // Twice: the second sandbox has nothing of the first one.
    for name in ["first", "second"] {
        let workspace = installation.workspace(name, &attributes, PROVISIONER).await;
        let run = installation.run(&workspace, &json!({"auto-apply": true})).await;
        installation.run_reaches(&run, "applied").await;
        let log = installation.phase_log(&run, "apply").await;
        for wanted in ["Hello, world!", " added, 0 removed", "corporate.crt: OK", "): 0"] {
            assert!(log.contains(wanted), "`{wanted}` is not in the log:\n{log}");
        }
    }
    for left in ["/usr/local/share/ca-certificates/corporate.crt", "/usr/bin/hello"] {
        assert!(!std::path::Path::new(left).exists(), "{left} is on the host");
    }
}

terrapool_testkit::on_both_drivers!(
    a_provisioner_installs_packages_and_adds_a_certificate_in_its_sandbox_only
);
