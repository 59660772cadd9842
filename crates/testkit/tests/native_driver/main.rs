//! Sandboxes by namespaces of the kernel, without a container engine: what is theirs alone. The security cases of other
//! files hold for both drivers.

mod case_07;
mod of_a_user;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use terrapool_testkit::agent_user;
use terrapool_testkit::installation::{AgentProcess, Installation, bin_dir};
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
fn first_process(folder: &Path) -> u64 {
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
for folder in / /dev /etc /sys; do touch $folder/made 2>/dev/null && echo "wrote-own $folder"; done
ls /terrapool/bin | grep -c runner
echo done"#,
        data = data.display()
    );
    let log = site.applied("looks-around", &script).await;
    assert!(log.contains("done") && log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("Seccomp:\t2"), "{log}");
    assert!(!log.contains("): SEEN") && !log.contains("): MAY"), "{log}");
    if profile == "default" {
        // Of an agent that is not root, its user is the only one inside.
        let map = if agent_user::is_set() {
            "      1000          0          1"
        } else {
            "1879048193"
        };
        assert!(log.contains("uid 1000") && log.contains(map), "{log}");
        assert!(log.contains("CapEff:\t0000000000000000"), "{log}");
        assert!(log.contains("CapBnd:\t0000000000000000"), "{log}");
        assert!(!log.contains("): wrote-"), "{log}");
    } else {
        assert!(log.contains("uid 0"), "{log}");
        // chown, dac_override, fowner, fsetid, setgid, setuid
        assert!(log.contains("CapBnd:\t00000000000000db"), "{log}");
        assert!(log.contains("): wrote-usr"), "{log}");
    }
    assert!(
        !Path::new("/usr/made-inside").exists(),
        "a sandbox wrote to the host"
    );
}

/// Shell commands that make a program which makes a datagram socket of an address family: its status is the error, and at
/// least 128 when it gets one. An interpreter is not everywhere.
#[cfg(target_arch = "x86_64")]
fn socket_probe(family: u8) -> String {
    const LOADED_AT: u64 = 0x40_0000;
    const HEADERS: u64 = 0x78;
    #[rustfmt::skip]
    let code: &[u8] = &[
        0xbf, family, 0, 0, 0, // mov edi, family
        0xbe, 2, 0, 0, 0,      // mov esi, SOCK_DGRAM
        0x31, 0xd2,            // xor edx, edx
        0xb8, 41, 0, 0, 0,     // mov eax, socket
        0x0f, 0x05,            // syscall
        0xf7, 0xd8,            // neg eax
        0x89, 0xc7,            // mov edi, eax
        0xb8, 60, 0, 0, 0,     // mov eax, exit
        0x0f, 0x05,            // syscall
    ];
    let length = HEADERS + code.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    // An executable (2) for x86-64 (62), whose one segment (1) is read and executed (5). See elf(5).
    program.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    program.extend([LOADED_AT + HEADERS, 64, 0].map(u64::to_le_bytes).as_flattened());
    program.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    program.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let segment = [0, LOADED_AT, LOADED_AT, length, length, 0x1000];
    program.extend(segment.map(u64::to_le_bytes).as_flattened());
    program.extend(code);
    let octal: String = program.iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!(
        "printf '{octal}' > /terrapool/work/probe; chmod +x /terrapool/work/probe; /terrapool/work/probe; echo \"family {family}: $?\"\n"
    )
}

#[cfg(target_arch = "x86_64")]
async fn sockets_of_few_families(profile: &'static str) {
    let site = Site::new(profile).await;
    let _agent = site.agent().await;
    const PERMITTED: [u8; 4] = [1, 2, 10, 16];
    // Packets, cryptography of the kernel, virtual machines (AF_VSOCK).
    const REFUSED: [u8; 3] = [17, 38, 40];
    let script: String = PERMITTED
        .iter()
        .chain(&REFUSED)
        .map(|family| socket_probe(*family))
        .collect();
    let log = site.applied("makes-sockets", &script).await;
    for family in PERMITTED {
        let answer = log
            .lines()
            .find_map(|line| line.split_once(&format!("): family {family}: ")));
        let status = answer.and_then(|(_, status)| status.parse::<u8>().ok());
        assert!(
            status.is_some_and(|status| status >= 128),
            "family {family}: {log}"
        );
    }
    for family in REFUSED {
        // EPERM, as of Docker's profile.
        assert!(log.contains(&format!("): family {family}: 1\n")), "{log}");
    }
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn case_05_sockets_that_pass_by_network_namespaces_cannot_be_made_in_the_default_profile() {
    sockets_of_few_families("default").await;
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn case_05_sockets_that_pass_by_network_namespaces_cannot_be_made_in_the_root_profile() {
    sockets_of_few_families("root").await;
}

#[tokio::test]
async fn case_05_and_06_the_default_profile_has_no_power_and_sees_nothing_of_the_host() {
    nothing_of_the_host("default").await;
}

#[tokio::test]
async fn case_05_and_06_the_root_profile_has_no_power_outside_and_changes_nothing_of_the_host() {
    nothing_of_the_host("root").await;
}

#[test]
fn an_agent_that_is_not_root_and_has_no_group_of_its_own_is_refused_with_the_reason() {
    // Where this test's programs are, nobody else may look.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = |path: &Path| std::fs::set_permissions(path, Permissions::from_mode(0o755));
    open(folder.path()).expect("a mode can be set");
    let agent = folder.path().join("terrapool-agent");
    std::fs::copy(bin_dir().join("terrapool-agent"), &agent).expect("the agent can be copied");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("a folder can be made");
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).expect("root gives folders away");
    let doctor = |profile: &str| {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&agent)
            .args(["doctor", "--driver=native", "--url=https://127.0.0.1:1"])
            .env("TERRAPOOL_TOKEN", "unused")
            .env("TERRAPOOL_AGENT_DATA_DIR", &data)
            .env("TERRAPOOL_AGENT_USER", profile)
            .output()
            .expect("setpriv runs");
        assert!(!output.status.success(), "a host that gives no limits is fine");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = doctor("default");
    let wanted = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        "is not delegated to it"
    } else {
        "control groups of version 1, which cannot be delegated"
    };
    assert!(
        said.contains("BROKEN  native driver:") && said.contains(wanted),
        "{said}"
    );
    // With a cure.
    assert!(
        said.contains("systemd-run --user --scope -p Delegate=yes"),
        "{said}"
    );
    let said = doctor("root");
    assert!(
        said.contains("the root profile is all users of the host"),
        "{said}"
    );
}
