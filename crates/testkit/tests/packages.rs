//! The packages, installed into clean systems and used as the manual says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use terrapool_testkit::installation::Installation;
use terrapool_testkit::runs::Workspace;
use terrapool_testkit::system::{System, documented, documented_with, made, on_path, package, packages};
use terrapool_testkit::wait::until;

const MANUAL: &str = include_str!("../../../docs/install.md");
const NATIVE: &str = include_str!("../../../docs/native.md");

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

/// A folder with what an archive of a system holds.
fn unpacked(variable: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let archive = made(variable);
    run(Command::new("tar")
        .args(["--exclude=./dev/*", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(folder.path()));
    folder
}

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

/// A clean root with a database of rpm's, in which the distribution's packages are not.
struct RpmRoot(tempfile::TempDir);

impl RpmRoot {
    fn new() -> Self {
        let root = Self(unpacked("TERRAPOOL_TEST_SYSTEM_ROOT"));
        root.rpm(&["--initdb"], None);
        root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn rpm(&self, arguments: &[&str], file: Option<&Path>) -> String {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(self.0.path()).args(arguments);
        command.args(file);
        run(&mut command)
    }

    fn has_user(&self, name: &str) {
        let users = std::fs::read_to_string(self.at("etc/passwd")).expect("a system has users");
        assert!(users.contains(&format!("{name}:")), "{users}");
    }
}

#[test]
fn rpm_installs_upgrades_and_erases_the_agent_and_leaves_configuration_and_data() {
    let root = RpmRoot::new();
    root.rpm(
        &["-i", "--nodeps"],
        Some(&package(&packages(), "terrapool-agent-", ".rpm")),
    );
    assert!(root.at("usr/bin/terrapool-agent").exists());
    assert!(
        root.at("usr/lib/systemd/system/terrapool-docker.service")
            .exists()
    );
    root.has_user("terrapool-agent");
    let configuration = root.at("etc/terrapool-agent/agent.toml");
    std::fs::write(&configuration, "# ours\n").expect("the package has made it");
    let next = package(&packages().join("next"), "terrapool-agent-", ".rpm");
    root.rpm(&["-U", "--nodeps"], Some(&next));
    assert!(root.rpm(&["-q", "terrapool-agent"], None).contains("next"));
    root.rpm(&["-V", "--nodeps", "terrapool-agent"], None);
    root.rpm(&["-e", "--nodeps", "terrapool-agent"], None);
    assert!(!root.at("usr/bin/terrapool-agent").exists());
    let kept = std::fs::read_to_string(&configuration).expect("erasing keeps what people wrote");
    assert_eq!(kept, "# ours\n");
    assert!(root.at("var/lib/terrapool-agent").exists());
}

#[test]
fn what_is_to_be_called_before_an_rpm_is_erased_removes_firewall_rules_links_configuration_and_data() {
    let root = RpmRoot::new();
    let agent = package(&packages(), "terrapool-agent-", ".rpm");
    root.rpm(&["-i", "--nodeps"], Some(&agent));
    let image = root.at("var/lib/terrapool-docker/image");
    std::fs::create_dir_all(&image).expect("a folder can be made");
    // Links, rules and processes of its own, so that those of this machine are out of reach.
    let script = "mount -t proc proc /proc\n\
                  for place in mangle:PREROUTING nat:POSTROUTING filter:FORWARD; do\n\
                  iptables -w -t ${place%:*} -N TERRAPOOL; iptables -w -t ${place%:*} -I ${place#*:} -j TERRAPOOL\n\
                  done\n\
                  ip link add terrapool0 type bridge; ip link add terrapool-none type bridge\n\
                  /usr/lib/terrapool-agent/purge >&2\n\
                  iptables-save | grep TERRAPOOL || :; ip -o link | grep terrapool || :";
    let left = run(Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "chroot"])
        .arg(root.0.path())
        .args(["sh", "-ec", script]));
    assert_eq!(left, "");
    root.rpm(&["-e", "--nodeps", "terrapool-agent"], None);
    for path in [
        "etc/terrapool-agent",
        "var/lib/terrapool-agent",
        "var/lib/terrapool-docker",
        "usr/lib/terrapool-agent",
    ] {
        assert!(!root.at(path).exists(), "{path} is left");
    }
    let ids = std::fs::read_to_string(root.at("etc/subuid")).expect("a system has ranges of ids");
    assert!(!ids.contains("terrapool-sandbox"), "{ids}");
}

#[test]
fn rpm_installs_upgrades_and_erases_the_control_plane_and_leaves_configuration_and_data() {
    let root = RpmRoot::new();
    let first = package(&packages(), "terrapool-0", ".rpm");
    let next = package(&packages().join("next"), "terrapool-0", ".rpm");
    root.rpm(&["-i", "--nodeps"], Some(&first));
    root.has_user("terrapool");
    let shown = run(Command::new("chroot")
        .arg(root.0.path())
        .args(["terrapool", "--version"]));
    assert!(shown.starts_with("terrapool "), "{shown}");
    assert!(root.at("usr/lib/systemd/system/terrapool.service").exists());
    let offered = package(
        &root.at("usr/share/terrapool/packages"),
        "terrapool-agent-",
        ".rpm",
    );
    let agent = package(&packages(), "terrapool-agent-", ".rpm");
    let bytes = |file: &Path| std::fs::read(file).expect("a package");
    assert!(bytes(&offered) == bytes(&agent), "another {}", offered.display());
    let configuration = root.at("etc/terrapool/terrapool.toml");
    let data = root.at("var/lib/terrapool/keyring");
    std::fs::write(&configuration, "# ours\n").expect("the package has made it");
    std::fs::write(&data, "ours\n").expect("the package has made its folder");
    root.rpm(&["-U", "--nodeps"], Some(&next));
    assert!(root.rpm(&["-q", "terrapool"], None).contains("next"));
    root.rpm(&["-V", "--nodeps", "terrapool"], None);
    root.rpm(&["-e", "--nodeps", "terrapool"], None);
    assert!(!root.at("usr/bin/terrapool").exists());
    assert!(!root.at("usr/share/terrapool").exists());
    let kept = |file: &Path| std::fs::read_to_string(file).expect("erasing keeps it");
    assert_eq!(
        (kept(&configuration), kept(&data)),
        ("# ours\n".to_owned(), "ours\n".to_owned())
    );
}

#[test]
fn checksums_and_lists_of_contents_are_those_of_what_is_there() {
    run(Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(packages()));
    let list = package(&packages(), "terrapool-agent-", ".cdx.json");
    let list: Value = serde_json::from_slice(&std::fs::read(list).expect("a file")).expect("JSON");
    let names: Vec<&str> = list["components"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|component| component["name"].as_str())
        .collect();
    assert!(
        names.contains(&"rustls") && !names.contains(&"proptest"),
        "{names:?}"
    );
}

/// Paths of files that packages have to carry, with this in place of the program's name: `{}`.
const CARRIED: [&str; 8] = [
    "/usr/bin/{}",
    "/usr/lib/systemd/system/{}.service",
    "/usr/lib/sysusers.d/{}.conf",
    "/usr/lib/tmpfiles.d/{}.conf",
    "/usr/share/man/man1/{}.1",
    "/usr/share/man/man1/{}-doctor.1",
    "/usr/share/bash-completion/completions/{}",
    "/usr/share/fish/vendor_completions.d/{}.fish",
];

#[test]
fn packages_carry_services_users_folders_manual_pages_completions_and_licences() {
    for (name, deb, rpm) in [
        ("terrapool-agent", "terrapool-agent_", "terrapool-agent-"),
        ("terrapool", "terrapool_", "terrapool-0"),
    ] {
        let with = |path: &str| path.replace("{}", name);
        let deb = package(&packages(), deb, ".deb");
        let rpm = package(&packages(), rpm, ".rpm");
        let in_deb = run(Command::new("dpkg-deb").arg("--contents").arg(&deb));
        let in_rpm = run(Command::new("rpm").args(["-qlvp"]).arg(&rpm));
        // Size and path: the third and the last word of tar's lines, the fifth and the last of rpm's.
        let files = |list: &str, size: usize| -> BTreeMap<String, u64> {
            let file = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let path = words.last()?.trim_start_matches('.').to_owned();
                Some((path, words.get(size)?.parse().ok()?))
            };
            list.lines().filter_map(file).collect()
        };
        let (in_deb, in_rpm) = (files(&in_deb, 2), files(&in_rpm, 4));
        let zsh = with("_{}");
        for (files, own) in [
            (
                &in_deb,
                [
                    format!("/usr/share/zsh/vendor-completions/{zsh}"),
                    with("/usr/share/doc/{}/copyright"),
                ],
            ),
            (
                &in_rpm,
                [
                    format!("/usr/share/zsh/site-functions/{zsh}"),
                    with("/usr/share/licenses/{}/LICENSE"),
                ],
            ),
        ] {
            for path in CARRIED.map(with).iter().chain(&own) {
                assert!(files.get(path).is_some_and(|size| *size > 0), "{path}: {files:?}");
            }
        }
        let licences = run(Command::new("rpm").args(["-qp", "--licensefiles"]).arg(&rpm));
        assert_eq!(licences.trim(), with("/usr/share/licenses/{}/LICENSE"));
    }
}

#[test]
fn the_agents_packages_depend_on_one_container_engine_of_several_and_do_not_insist_on_selinux() {
    let deb = package(&packages(), "terrapool-agent_", ".deb");
    let depends = run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg("Depends"));
    assert!(
        depends.contains("docker.io (>= 18.09) | docker-ce | moby-engine"),
        "{depends}"
    );
    let rpm = package(&packages(), "terrapool-agent-", ".rpm");
    let asked = |what: &str| run(Command::new("rpm").args(["-qp", what]).arg(&rpm));
    let (required, recommended) = (asked("--requires"), asked("--recommends"));
    assert!(
        required.lines().any(|line| line == "/usr/bin/dockerd"),
        "{required}"
    );
    assert!(!required.contains("selinux"), "{required}");
    assert_eq!(recommended.trim(), "container-selinux");
}

/// Held while the images are on the engine: who is done removes them.
static IMAGES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[test]
fn the_images_hold_programs_that_run_in_them() {
    let _images = IMAGES.blocking_lock();
    for (name, program) in [("terrapool-agent", "terrapool-agent"), ("terrapool", "terrapool")] {
        let file = package(&packages(), &format!("{name}-0"), ".image.tar");
        let loaded = run(Command::new("docker").arg("load").arg("-i").arg(&file));
        let tag = loaded.trim().trim_start_matches("Loaded image: ");
        let shown = run(Command::new("docker").args(["run", "--rm", tag, "--version"]));
        assert!(shown.starts_with(&format!("{program} ")), "{shown}");
        let watched = run(Command::new("docker").args([
            "inspect",
            "--format",
            "{{if .Config.Healthcheck}}{{.Config.Healthcheck.Test}}{{end}}",
            tag,
        ]));
        if name == "terrapool-agent" {
            assert!(watched.contains("terrapool-agent status --check"), "{watched}");
        }
        run(Command::new("docker").args(["rmi", tag]));
    }
}

/// A container of one of the images, with a volume of its name. It ends before what it leaves on the engine is removed.
struct Container {
    name: String,
    image: &'static str,
}

impl Container {
    fn exec(&self, arguments: &[&str]) -> std::process::Output {
        let mut docker = Command::new("docker");
        docker.args(["exec", &self.name]).args(arguments);
        docker.output().expect("docker starts")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let docker = |arguments: &[&str]| Command::new("docker").args(arguments).output();
        if std::thread::panicking()
            && let Ok(log) = docker(&["logs", &self.name])
        {
            eprintln!("--- container\n{}", String::from_utf8_lossy(&log.stderr));
        }
        let _ = docker(&["stop", "-t", "20", &self.name]);
        let _ = docker(&["rm", "-f", &self.name]);
        let _ = docker(&["volume", "rm", "-f", &self.name]);
        let _ = docker(&["rmi", self.image]);
    }
}

#[tokio::test]
async fn the_agents_container_is_started_as_the_manual_says_and_is_healthy_once_it_is_connected() {
    let folder = packages().display().to_string();
    let installation = Installation::start_with(&[("TERRAPOOL_PACKAGES_DIR", &folder)]).await;
    let (pool, token) = installation.create_pool("private").await;
    let scratch = installation.scratch("container");
    std::fs::write(scratch.join("token"), token).expect("a file can be written");
    std::fs::copy(installation.ca(), scratch.join("ca.pem")).expect("the server has a CA");
    let name = format!("terrapool-agent-{}", installation.port());
    let _images = IMAGES.lock().await;
    let container = Container {
        name: name.clone(),
        image: "terrapool/terrapool-agent:0.1.0",
    };
    let socket = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = match socket.strip_prefix("unix://") {
        Some(path) => path.to_owned(),
        None => "/var/run/docker.sock".to_owned(),
    };
    // As it stands there, but for what is this machine's: its engine, a control plane on its loopback, its terraform. It
    // is root already.
    let typed = documented(MANUAL, "A container")
        .replace("https://terrapool.example.com", &installation.url())
        .replace("sudo ", "")
        .replace("/etc/terrapool", &scratch.join("etc").display().to_string())
        .replace(
            "--name terrapool-agent ",
            &format!(
                "--name {name} -v {}:/usr/bin/terraform:ro ",
                on_path("terraform").display()
            ),
        )
        .replace("-v /var/run/docker.sock:", &format!("-v {socket}:"))
        .replace("-v terrapool-agent:", &format!("-v {name}:"));
    run(Command::new("sh").args(["-ec", &typed]).current_dir(&scratch));
    let connected = until(Duration::from_secs(180), async || {
        let status = container.exec(&["terrapool-agent", "status", "--check"]);
        status.status.success().then_some(())
    })
    .await;
    assert!(connected.is_some(), "the agent in the container does not connect");
    // Left on the engine, and removed with the installation.
    let key = container
        .exec(&["cat", "/var/lib/terrapool-agent/instance.key"])
        .stdout;
    let known = installation.agent_folder("container");
    std::fs::create_dir_all(&known).expect("a folder can be made");
    std::fs::write(known.join("instance.key"), key).expect("a file can be written");

    let attributes = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": true});
    let workspace = installation.workspace("contained", &attributes, WHO).await;
    let run = installation.run(&workspace, &json!({"auto-apply": true})).await;
    installation.run_reaches(&run, "applied").await;
    let log = installation.phase_log(&run, "apply").await;
    assert!(log.contains("user 1000"), "{log}");
}

#[tokio::test]
async fn the_servers_container_is_started_as_the_manual_says_offers_the_agents_packages_and_keeps_its_data() {
    const URL: &str = "https://terrapool.example.com";
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let _images = IMAGES.lock().await;
    let name = format!("terrapool-{}", std::process::id());
    let container = Container {
        name: name.clone(),
        image: "terrapool/terrapool:0.1.0",
    };
    // As they stand there, but for a port, a name and a volume that nothing else on this machine has.
    let type_in = |commands: &str| {
        let typed = commands
            .replace("-p 443:8443", "-p 127.0.0.1::8443")
            .replace("--name terrapool ", &format!("--name {name} "))
            .replace("-v terrapool:", &format!("-v {name}:"))
            .replace("docker exec terrapool ", &format!("docker exec {name} "));
        run(Command::new("sh")
            .args(["-ec", &typed])
            .current_dir(scratch.path()))
    };
    let image = package(&packages(), "terrapool-0", ".image.tar");
    let file = image.file_name().expect("a file has a name");
    std::os::unix::fs::symlink(&image, scratch.path().join(file)).expect("a link can be made");
    let start = documented_with(MANUAL, "The control plane", "docker load");
    let first_user = documented_with(MANUAL, "The control plane", "docker exec");
    type_in(&start);
    let answering = async || {
        let port = run(Command::new("docker").args(["port", &name, "8443"]));
        let place: std::net::SocketAddr = port.trim().parse().expect("a published port");
        let answered = until(Duration::from_secs(60), async || {
            let pem = container.exec(&["cat", "/var/lib/terrapool/ca.pem"]).stdout;
            let authority = reqwest::Certificate::from_pem_bundle(&pem).ok()?;
            // By its own name: the certificate is the public address's.
            let client = reqwest::Client::builder()
                .tls_certs_only(authority)
                .resolve("terrapool.example.com", place)
                .no_proxy()
                .build()
                .ok()?;
            let base = format!("{URL}:{}", place.port());
            let answer = client.get(format!("{base}/healthz")).send().await.ok()?;
            answer.status().is_success().then_some((client, base))
        })
        .await;
        answered.expect("the control plane in the container answers")
    };
    let (client, base) = answering().await;
    let token = type_in(&first_user).trim().to_owned();
    assert!(
        token.len() > 20 && !token.contains(char::is_whitespace),
        "{token}"
    );
    let trusted = std::fs::read_to_string(scratch.path().join("ca.pem")).expect("the manual takes it");
    assert!(trusted.contains("BEGIN CERTIFICATE"), "{trusted}");

    let deb = package(&packages(), "terrapool-agent_", ".deb");
    let file = deb.file_name().expect("a file has a name").to_string_lossy();
    let fetched = client.get(format!("{base}/packages/{file}")).send().await;
    let fetched = fetched.expect("the control plane answers");
    assert_eq!(fetched.status(), 200, "{file}");
    let fetched = fetched.bytes().await.expect("a whole package");
    assert!(
        fetched == std::fs::read(&deb).expect("a package"),
        "another {file}"
    );

    // Replaced, as an upgrade does it.
    run(Command::new("docker").args(["rm", "-f", &name]));
    type_in(&start);
    let (client, base) = answering().await;
    let account = client
        .get(format!("{base}/api/v2/account/details"))
        .bearer_auth(&token)
        .send()
        .await
        .expect("the control plane answers");
    assert_eq!(account.status(), 200, "the volume has the first user");
}

#[test]
fn services_name_the_system_calls_that_they_refuse_because_old_systemd_forgets_part_of_a_list_of_allowed_ones()
 {
    for unit in [
        include_str!("../../../packaging/systemd/terrapool-agent.service"),
        include_str!("../../../packaging/systemd/terrapool.service"),
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
