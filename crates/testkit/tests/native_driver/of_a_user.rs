//! Agents that are not root: what is theirs alone. These tests need control groups of version 2 and a user that the machine
//! has for them: `cargo xtask cgroup-v2 --user` runs them.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use terrapool_testkit::wait::until;

use super::{STEPS, Site};

/// A file of the machine that is something else, or not there, until this is dropped.
struct Replaced {
    path: PathBuf,
    kept: PathBuf,
}

impl Replaced {
    fn new(path: &str, content: Option<&str>) -> Self {
        let path = PathBuf::from(path);
        let kept = path.with_extension("kept-by-tests");
        std::fs::rename(&path, &kept).expect("the file is there");
        if let Some(content) = content {
            std::fs::write(&path, content).expect("the file can be written");
        }
        Self { path, kept }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        let _ = std::fs::rename(&self.kept, &self.path);
    }
}

/// Answers every question for an address with 192.0.2.7, on loopback.
fn resolver() {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("nobody else resolves here");
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let question = &question[..length];
            // Up to the end of the first question: its name, type and class.
            let Some(name) = question
                .get(12..)
                .and_then(|rest| rest.iter().position(|byte| *byte == 0))
            else {
                continue;
            };
            let end = 12 + name + 5;
            let asks_for_v4 = question.get(end - 4..end - 2) == Some(&[0, 1]);
            let mut answer = question[..end.min(length)].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(asks_for_v4), 0, 0, 0, 0]);
            if asks_for_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// The process that joins a sandbox to the world, as long as it runs.
fn outlet(folder: &Path) -> Option<u64> {
    let note: Value = serde_json::from_slice(&std::fs::read(folder.join("sandbox.json")).ok()?).ok()?;
    let number = note["outlet"]["number"].as_u64()?;
    let command = std::fs::read_to_string(format!("/proc/{number}/cmdline")).ok()?;
    command.contains("slirp4netns").then_some(number)
}

#[tokio::test]
#[ignore = "needs an ordinary user with a delegated control group: cargo xtask cgroup-v2 --user"]
async fn names_are_asked_of_the_hosts_resolver_which_may_be_on_loopback() {
    resolver();
    let _resolver = Replaced::new("/etc/resolv.conf", Some("nameserver 127.0.0.1\n"));
    let site = Site::new("default").await;
    let _agent = site.agent().await;
    let log = site
        .applied(
            "names",
            "python3 -c 'import socket; print(\"it is\", socket.gethostbyname(\"probe.example\"))'",
        )
        .await;
    assert!(log.contains("it is 192.0.2.7"), "{log}");
}

#[tokio::test]
#[ignore = "needs an ordinary user with a delegated control group: cargo xtask cgroup-v2 --user"]
async fn nothing_is_left_of_a_run_that_closed_its_own_folders() {
    let site = Site::new("default").await;
    let _agent = site.agent().await;
    let configuration = STEPS.replace(
        "touch /terrapool/work/in-the-middle",
        "mkdir -p /terrapool/work/closed/below; chmod 0 /terrapool/work/closed/below /terrapool/work/closed; \
         touch /terrapool/work/in-the-middle",
    );
    let workspace = site.workspace("closes", &configuration).await;
    let run = site.begin(&workspace).await;
    let sandbox = site.working().await;
    let outlet = outlet(&sandbox).expect("a program speaks for the sandbox");
    std::fs::write(sandbox.join("work/go"), "").expect("the host writes to a volume");
    site.installation.run_reaches(&run, "applied").await;
    let process = PathBuf::from(format!("/proc/{outlet}"));
    let gone = until(Duration::from_secs(60), async || {
        (!sandbox.exists() && !process.exists()).then_some(())
    });
    assert!(
        gone.await.is_some(),
        "{} or process {outlet} is left of a run that is over",
        sandbox.display()
    );
}

#[tokio::test]
#[ignore = "needs an ordinary user with a delegated control group: cargo xtask cgroup-v2 --user"]
async fn without_the_program_for_it_a_network_is_refused_and_none_can_be_had() {
    let _missing = Replaced::new("/usr/bin/slirp4netns", None);
    let site = Site::new("default").await;
    let agent = site.agent().await;
    agent.logs("install the package slirp4netns").await;
    let workspace = site
        .workspace("wants-a-network", "resource \"terraform_data\" \"a\" {}\n")
        .await;
    let run = site.begin(&workspace).await;
    site.installation.run_reaches(&run, "errored").await;
    let answer = site.installation.get(&format!("/runs/{run}")).await;
    let message = answer["data"]["attributes"]["error-message"].to_string();
    assert!(message.contains("install the package slirp4netns"), "{message}");

    let none = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": {"network": "none"}}}});
    site.installation
        .patch(&format!("/agent-pools/{}", site.pool), &none)
        .await;
    let log = site.applied("wants-none", "echo it runs").await;
    assert!(log.contains("it runs"), "{log}");
}

#[tokio::test]
#[ignore = "needs an ordinary user with a delegated control group: cargo xtask cgroup-v2 --user"]
async fn the_root_profile_is_refused_with_the_reason() {
    let site = Site::new("root").await;
    let environment = [
        ("TERRAPOOL_AGENT_DRIVER", "native"),
        ("TERRAPOOL_AGENT_USER", "root"),
    ];
    let agent = site
        .installation
        .spawn_agent("private", &site.token, &environment);
    agent.logs("the root profile is all users of the host").await;
}
