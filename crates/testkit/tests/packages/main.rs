//! The packages, installed into clean systems and used as the manual says.

mod containers;
mod contents;
mod rpm;

use std::process::Command;

use serde_json::{Value, json};
use terrapool_testkit::installation::Installation;
use terrapool_testkit::runs::Workspace;
use terrapool_testkit::system::{System, documented, documented_with, on_path, package, packages};

const MANUAL: &str = include_str!("../../../../docs/install.md");
const NATIVE: &str = include_str!("../../../../docs/native.md");

/// An apply that waits in its second step until a file is there.
const STEPS: &str = r#"
resource "terraform_data" "first" {}
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "echo second waits; while [ ! -e /terrapool/work/go ]; do sleep 0.1; done; echo second goes"
  }
}
"#;

const WHO: &str = r#"
resource "terraform_data" "who" {
  provisioner "local-exec" {
    command = "echo user $(id -u)"
  }
}
"#;

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

struct Site {
    installation: Installation,
    system: System,
    pool: String,
}

impl Site {
    /// A control plane that offers the packages, and a clean host with a token and engines.
    async fn start() -> Self {
        let folder = packages().display().to_string();
        let installation = Installation::start_with(&[("TERRAPOOL_PACKAGES_DIR", &folder)]).await;
        let (pool, token) = installation.create_pool("private").await;
        let system = System::boot().await;
        std::fs::write(system.share().join("token"), format!("{token}\n")).expect("a file can be written");
        std::fs::copy(installation.ca(), system.share().join("ca.pem")).expect("the server has a CA");
        system.bring(&on_path("terraform"));
        system
            .run("install -D /mnt/terraform /usr/local/bin/terraform")
            .await;
        Self {
            installation,
            system,
            pool,
        }
    }

    /// Types commands of the manual, with this control plane's address.
    async fn type_in(&self, commands: &str) {
        let typed = commands.replace("https://terrapool.example.com", &self.installation.url());
        self.system.run(&typed).await;
    }

    async fn installed(&self) {
        self.system.relay(self.installation.port()).await;
        self.type_in(&documented(MANUAL, "Debian 10")).await;
        self.registered().await;
    }

    async fn registered(&self) {
        self.system
            .prints("terrapool-agent status || true", "connected")
            .await;
    }

    async fn workspace(&self, name: &str, configuration: &str) -> Workspace {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        self.installation
            .workspace(name, &attributes, configuration)
            .await
    }

    async fn run(&self, workspace: &Workspace) -> String {
        self.installation
            .run(workspace, &json!({"auto-apply": true}))
            .await
    }

    /// The id of the service's process.
    async fn process(&self) -> String {
        let shown = self
            .system
            .run("systemctl show -p MainPID --value terrapool-agent")
            .await;
        shown.trim().to_owned()
    }

    /// Waits until another process than this one has registered.
    async fn replaced(&self, before: &str) {
        let script = format!(
            "now=$(systemctl show -p MainPID --value terrapool-agent); [ \"$now\" != 0 ] && [ \"$now\" != {before} ] \
             && terrapool-agent status || true"
        );
        self.system.prints(&script, "connected").await;
    }
}

#[tokio::test]
async fn a_package_is_installed_as_the_manual_says_and_an_upgrade_in_the_middle_of_an_apply_does_not_end_it()
{
    let site = Site::start().await;
    site.installed().await;
    let status = site
        .system
        .run("systemctl status --no-pager terrapool-agent")
        .await;
    assert!(status.contains("Status: \"in pool private; 0 jobs\""), "{status}");
    let arguments = site.system.run("tr '\\0' ' ' < /proc/$(systemctl show -p MainPID --value terrapool-agent)/cmdline; tr '\\0' ' ' < /proc/$(systemctl show -p MainPID --value terrapool-agent)/environ").await;
    assert!(!arguments.contains("tpa"), "{arguments}");

    let workspace = site.workspace("network", STEPS).await;
    let run = site.run(&workspace).await;
    site.installation.log_shows(&run, "apply", "second waits").await;
    let process = site.process().await;
    site.system
        .bring(&package(&packages().join("next"), "terrapool-agent_", ".deb"));
    site.system.run("dpkg -i /mnt/terrapool-agent_*next*.deb").await;
    site.replaced(&process).await;
    site.system
        .run(&format!(
            "export DOCKER_HOST=unix:///run/terrapool-docker/docker.sock; \
             docker exec $(docker ps -q --filter name=terrapool-{run}-apply) touch /terrapool/work/go"
        ))
        .await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("second goes"), "{log}");
    let journal = site
        .system
        .run("journalctl --no-pager -o cat -u terrapool-agent")
        .await;
    assert!(journal.contains(&format!("run={run}")), "{journal}");

    let workspace_that_waits = site.workspace("waits", STEPS).await;
    // Root in the sandbox, as users of such agents know it.
    site.type_in(&documented_with(MANUAL, "Settings", "--user=root"))
        .await;
    site.registered().await;
    let who = site.workspace("who", WHO).await;
    let run = site.run(&who).await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("user 0"), "{log}");

    // Health and metrics, where they are asked for.
    let watched = documented_with(MANUAL, "Looking after it", "--listen");
    let (configured, asked) = watched.split_once("curl").expect("the commands ask, too");
    site.type_in(configured).await;
    site.registered().await;
    let answers = site.system.run(&format!("curl{asked}")).await;
    assert!(
        answers.starts_with("ok\n") && answers.contains("\nterrapool_agent_healthy 1\n"),
        "{answers}"
    );

    // A token that is not accepted is said once, and not tried again every few seconds.
    let system = &site.system;
    system
        .run("echo tpa_wrong | terrapool-agent configure --token-stdin; systemctl restart terrapool-agent || true")
        .await;
    system
        .prints(
            "systemctl show -p ActiveState -p ExecMainStatus -p NRestarts terrapool-agent | sort | tr '\\n' ' '",
            "ActiveState=failed ExecMainStatus=78 NRestarts=0",
        )
        .await;
    let journal = system
        .run("journalctl --no-pager -o cat -u terrapool-agent")
        .await;
    assert!(journal.contains("does not accept the agent token"), "{journal}");
    // A credential of systemd goes before the file.
    site.type_in(&documented_with(MANUAL, "Settings", "LoadCredential"))
        .await;
    site.registered().await;

    // What was configured and what is known outlive the package; a purge takes both, and what still runs. On the host's
    // own engine there is something of this agent, and something of another one.
    let run = site.run(&workspace_that_waits).await;
    site.installation.log_shows(&run, "apply", "second waits").await;
    system
        .run(
            "systemctl start docker; agent=$(printf %s \"$(cat /var/lib/terrapool-agent/instance.key)\" | sha256sum | cut -c 1-12)\n\
             tar -C / -c usr/bin/true | docker import - tiny:1\n\
             docker volume create --label io.terrapool.agent=$agent own; docker volume create --label io.terrapool.agent=0 other\n\
             docker create --name own --label io.terrapool.agent=$agent tiny:1 /usr/bin/true; docker create --name other tiny:1 /usr/bin/true",
        )
        .await;
    system.run("dpkg -r terrapool-agent").await;
    // What the agent was told to use last counts.
    system
        .run("pgrep -f '[t]errapool-runner.* run' && sed -i 's|^docker_host.*|docker_host = \"unix:///var/run/docker.sock\"|' /etc/terrapool-agent/agent.toml")
        .await;
    system
        .run("test -s /etc/terrapool-agent/token && test -s /var/lib/terrapool-agent/instance.key && ! test -e /usr/bin/terrapool-agent")
        .await;
    system.run("dpkg -P terrapool-agent").await;
    system
        .run("! test -e /etc/terrapool-agent && ! test -e /var/lib/terrapool-agent && ! grep terrapool /etc/subuid")
        .await;
    system
        .prints(
            "pgrep -fl '[t]errapool-(runner|docker)|[n]amespace terrapool' || echo nothing runs",
            "nothing runs",
        )
        .await;
    let left = system
        .run(
            "iptables-save | grep -i terrapool || :; ip -o link | grep terrapool || :; ls /var/lib/terrapool-docker\n\
             awk '$2 ~ /terrapool/ && $2 != \"/var/lib/terrapool-docker\"' /proc/mounts\n\
             docker ps --all --format '{{.Names}}'; docker volume ls --quiet",
        )
        .await;
    assert_eq!(left, "other\nother\n");
}

/// A first configuration, as somebody at a terminal on the control plane's host has it.
const FIRST: &str = r#"
terraform {
  cloud {
    hostname     = "localhost:8443"
    organization = "acme"
    workspaces { name = "first" }
  }
}
resource "terraform_data" "first" { input = "first" }
"#;

#[tokio::test]
async fn the_servers_package_leads_from_its_installation_to_a_first_run() {
    let system = System::boot().await;
    let deb = package(&packages(), "terrapool_", ".deb");
    system.bring(&deb);
    let install = documented_with(MANUAL, "The control plane", "apt-get install");
    let token = system.run(&install).await;
    let token = token.lines().last().unwrap_or_default();
    assert!(token.len() > 20 && !token.contains(' '), "{token}");
    let call = "curl -fsS --cacert /var/lib/terrapool/ca.pem";
    system
        .run(&format!("{call} https://localhost:8443/healthz"))
        .await;
    system
        .run(&format!("{call} -o /tmp/a.deb https://localhost:8443/packages/$(basename /usr/share/terrapool/packages/*.deb); dpkg -i /tmp/a.deb"))
        .await;
    let organization = format!(
        "{call} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/vnd.api+json' \
         https://localhost:8443/api/v2/organizations -d '{{\"data\": {{\"type\": \"organizations\", \"attributes\": \
         {{\"name\": \"acme\", \"email\": \"ada@example.com\"}}}}}}'"
    );
    let made: Value = serde_json::from_str(&system.run(&organization).await).expect("the API answers JSON");
    assert_eq!(made["data"]["id"], "acme");
    // Systemd holds the port: who comes while nothing runs starts it.
    let socket = documented_with(MANUAL, "The control plane", "terrapool.socket");
    system.run(&socket).await;
    system
        .run(&format!(
            "systemctl stop terrapool.service; {call} https://localhost:8443/healthz; systemctl is-active terrapool"
        ))
        .await;
    std::fs::write(system.share().join("main.tf"), FIRST).expect("a file can be written");
    let credentials = format!("credentials \"localhost:8443\" {{\n  token = \"{token}\"\n}}\n");
    std::fs::write(system.share().join("terraformrc"), credentials).expect("a file can be written");
    system.bring(&on_path("terraform"));
    system
        .run(
            "install -D terraform /usr/local/bin/terraform; sudo -u terrapool \
             TERRAPOOL_CONFIG=/etc/terrapool/terrapool.toml terrapool admin create-agent-token --shared > /tmp/token\n\
             terrapool-agent configure --url https://localhost:8443 --ca-file /var/lib/terrapool/ca.pem --token-stdin \
             < /tmp/token; systemctl enable --now terrapool-agent",
        )
        .await;
    let applied = system
        .run(
            "mkdir /tmp/first; cp main.tf /tmp/first; cd /tmp/first; export TF_CLI_CONFIG_FILE=/mnt/terraformrc \
             SSL_CERT_FILE=/var/lib/terrapool/ca.pem TF_IN_AUTOMATION=1; terraform init -no-color; \
             terraform apply -auto-approve -no-color",
        )
        .await;
    assert!(
        applied.contains("Apply complete! Resources: 1 added"),
        "{applied}"
    );
    // An agent that hangs is killed by the watchdog and started again.
    system
        .run(
            "mkdir -p /etc/systemd/system/terrapool-agent.service.d\n\
             printf '[Service]\\nWatchdogSec=6\\nTimeoutAbortSec=1\\n' > /etc/systemd/system/terrapool-agent.service.d/soon.conf\n\
             systemctl daemon-reload; systemctl restart terrapool-agent",
        )
        .await;
    system.prints("terrapool-agent status || true", "connected").await;
    system
        .run("systemctl kill --kill-who=main --signal=STOP terrapool-agent")
        .await;
    system
        .prints(
            "journalctl --no-pager -o cat -u terrapool-agent",
            "Watchdog timeout",
        )
        .await;
    system
        .prints("timeout 10 terrapool-agent status || true", "connected")
        .await;

    // Everything of the agent goes without a purge of the package manager's, as rpm has none.
    let engine = "docker --host unix:///run/terrapool-docker/docker.sock";
    system
        .run(&format!(
            "{engine} run -d --name goes-on --network terrapool --entrypoint sleep $({engine} images --quiet | head -n 1) 1000\n\
             iptables-save | grep TERRAPOOL; ip link show terrapool0; pgrep -f 'sleep [1]000'"
        ))
        .await;
    let purge = documented_with(MANUAL, "Looking after it", "/usr/lib/terrapool-agent/purge");
    system.run(&purge.replace("yum remove -y", "dpkg -r")).await;
    let left = system
        .run(
            "iptables-save | grep -i terrapool || :; ip -o link | grep terrapool || :; pgrep -fl 'sleep [1]000' || :\n\
             awk '$2 ~ /terrapool-/ && $2 != \"/var/lib/terrapool-docker\"' /proc/mounts; ls /var/lib/terrapool-docker\n\
             for path in /etc/terrapool-agent /var/lib/terrapool-agent /run/terrapool-docker \
             /etc/systemd/system/terrapool-agent.service.d /usr/lib/terrapool-agent /usr/bin/terrapool-agent; do \
             [ ! -e $path ] || echo $path; done; grep -h terrapool-sandbox /etc/subuid /etc/subgid || :",
        )
        .await;
    assert_eq!(left, "");

    // An upgrade starts the new version; what people wrote and what is known stay.
    let process = "systemctl show -p MainPID --value terrapool.service";
    let before = system.run(process).await;
    system.run("echo '# ours' >> /etc/terrapool/terrapool.toml").await;
    system.bring(&package(&packages().join("next"), "terrapool_", ".deb"));
    system.run("dpkg -i /mnt/terrapool_*next*.deb").await;
    let now = system
        .run(&format!("systemctl is-active terrapool.service >&2; {process}"))
        .await;
    assert!(
        now != before && now.trim() != "0",
        "{before} is not replaced: {now}"
    );
    system
        .run(&format!(
            "tail -n 1 /etc/terrapool/terrapool.toml | grep -x '# ours'; {call} https://localhost:8443/healthz\n             {call} -H 'Authorization: Bearer {token}' https://localhost:8443/api/v2/organizations/acme/workspaces/first \
             | grep current-state-version"
        ))
        .await;

    system
        .run("dpkg -r terrapool && test -s /var/lib/terrapool/keyring && test -s /etc/terrapool/terrapool.toml")
        .await;
    system
        .run("dpkg -P terrapool && ! test -e /var/lib/terrapool")
        .await;
}

#[test]
fn services_name_the_system_calls_that_they_refuse_because_old_systemd_forgets_part_of_a_list_of_allowed_ones()
 {
    for unit in [
        include_str!("../../../../packaging/systemd/terrapool-agent.service"),
        include_str!("../../../../packaging/systemd/terrapool.service"),
    ] {
        let filters = unit
            .lines()
            .filter_map(|line| line.strip_prefix("SystemCallFilter="));
        assert_eq!(filters.map(|filter| &filter[..1]).collect::<Vec<_>>(), ["~"]);
    }
}

#[test]
fn every_package_that_the_manual_names_is_made() {
    let names: Vec<&str> = MANUAL
        .split(|letter: char| letter.is_whitespace() || letter == '/')
        .filter(|word| word.starts_with("terrapool") && word.contains("0.1.0-"))
        .collect();
    assert!(names.len() > 6, "{names:?}");
    for name in names {
        assert!(packages().join(name).is_file(), "{name}");
    }
}

#[tokio::test]
async fn a_packaged_agent_needs_no_container_engine_after_what_the_manual_says_about_the_native_driver() {
    let site = Site::start().await;
    site.installed().await;
    let process = site.process().await;
    site.type_in(&documented(NATIVE, "Setting it up")).await;
    site.replaced(&process).await;
    let workspace = site.workspace("network", STEPS).await;
    let run = site.run(&workspace).await;
    site.installation.log_shows(&run, "apply", "second waits").await;
    // A restart leaves the sandbox alone, as one of a container does.
    let process = site.process().await;
    site.system.run("systemctl restart terrapool-agent").await;
    site.replaced(&process).await;
    site.system
        .run(
            "for folder in /var/lib/terrapool-agent/native/sandboxes/*; do [ ! -e $folder/job/started ] || touch $folder/work/go; done",
        )
        .await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("second goes"), "{log}");
    let engine = site
        .system
        .run("systemctl is-active terrapool-docker || true")
        .await;
    assert_eq!(engine.trim(), "inactive");

    let rules = site.system.run("iptables-save | grep -c tpn").await;
    assert_eq!(rules.trim(), "6");
    let again = site.workspace("goes-on", STEPS).await;
    let run = site.run(&again).await;
    site.installation.log_shows(&run, "apply", "second waits").await;
    site.system
        .run("systemctl kill --kill-whom=main --signal=KILL terrapool-agent; dpkg --purge terrapool-agent")
        .await;
    let left = site
        .system
        .run("pgrep -x terrapool-runne || echo none; find /sys/fs/cgroup -name 'terrapool-*' -path '*/terrapool/*' -exec cat {}/cgroup.procs \\;; iptables-save | grep -E 'tpn|TERRAPOOL' || :")
        .await;
    assert_eq!(left.trim(), "none", "a purge leaves sandboxes");
}
