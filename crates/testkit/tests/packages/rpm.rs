//! Packages for rpm, in a root that has nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use terrapool_testkit::system::{made, package, packages};

use super::run;

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
