//! The program itself as PID 1 of a namespace of its own, below a root folder made for it.
//!
//! Where the machine does not let this user make namespaces these tests say so and prove nothing, which fails in CI.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Agent, Job, KEY, sha256};
use terrapool_model::engine::{Engine, EngineKind};
use terrapool_protocol::frame::{Decoder, encode};
use terrapool_protocol::job::Outcome;
use terrapool_protocol::runner::{Egress, FromRunner, ToRunner};
use terrapool_protocol::secret::Secret;

const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
init) mkdir -p .terraform; echo '{"backend":{"type":"local","config":{"path":"/terrapool/state/terraform.tfstate","workspace_dir":"/terrapool/state/d"}}}' > .terraform/terraform.tfstate; exit 0;;
show|providers) echo '{}'; exit 0;;
plan) for a in "$@"; do case $a in -out=*) echo plan > "${a#-out=}";; esac; done
"#;

/// A namespace with `terrapool-runner run` as its first process.
struct Container {
    root: tempfile::TempDir,
    child: Child,
    /// PID of the runner as this process sees it.
    pid: String,
    engine: PathBuf,
}

impl Container {
    /// `None` where namespaces are not allowed.
    fn start(plan: &str) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for folder in [
            "proc",
            "dev",
            "tmp",
            "bin",
            "lib",
            "lib64",
            "usr",
            "terrapool/bin",
            "terrapool/job",
            "terrapool/work",
            "terrapool/state",
            "runner",
        ] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path("dev/null"), "").unwrap();
        let engine = path("terrapool/bin/engine");
        fs::write(&engine, format!("{SCRIPT}{plan}\n;;\nesac\n")).unwrap();
        fs::set_permissions(&engine, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_terrapool-runner"));
        let mounts = r#"set -e; cd "$1"
mount --bind . .; cd "$1"
for f in bin lib lib64 usr; do mount --rbind /$f $f; done
mount --rbind "$2" runner
mount --bind /dev/null dev/null
mount -t proc proc proc
exec chroot . /usr/bin/setpriv --no-new-privs --inh-caps=-all --bounding-set=-all /runner/terrapool-runner run"#;
        let mut unshare = Command::new("unshare");
        let user: &[&str] = if rustix::process::geteuid().is_root() {
            &[]
        } else {
            &["--user", "--map-root-user"]
        };
        let child = unshare
            .args(user)
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                mounts,
                "sh",
            ])
            .arg(root.path())
            .arg(binary.parent().unwrap())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.ok()?;
        let socket = path("terrapool/job/runner.sock");
        while !socket.exists() {
            if child.try_wait().unwrap().is_some() {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                assert!(std::env::var_os("CI").is_none(), "no namespaces here: {why}");
                eprintln!("no namespaces here, nothing is proved: {why}");
                return None;
            }
            std::thread::yield_now();
        }
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        let pid = children.split_whitespace().next().unwrap().to_owned();
        Some(Self {
            root,
            child,
            pid,
            engine,
        })
    }

    fn socket(&self) -> PathBuf {
        self.root.path().join("terrapool/job/runner.sock")
    }

    fn begin(&self, job: &Job) -> Agent {
        let stream = loop {
            if let Ok(stream) = UnixStream::connect(self.socket()) {
                break stream;
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut agent = Agent::hello(stream, KEY, 0);
        agent.send(&self.work(job));
        agent.send_body(&ToRunner::Part, &job.bundle);
        agent
    }

    fn work(&self, job: &Job) -> ToRunner {
        ToRunner::Work {
            spec: Box::new(job.spec.clone()),
            engine_path: "engine".to_owned(),
            engine: Engine {
                kind: EngineKind::Terraform,
                version: "1.11.4".parse().unwrap(),
            },
            engine_sha256: sha256(&fs::read(&self.engine).unwrap()),
            engine_verified: false,
            known_schemas: Vec::new(),
            hosts: Vec::new(),
            egress: Egress::default(),
            preface: String::new(),
        }
    }

    /// Processes of the namespace, by the name of their program.
    fn processes(&self) -> Vec<String> {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(&self.pid);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if pid.parse::<u32>().is_ok() && namespace(&pid) == ours && ours.is_some() {
                found.extend(
                    fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim().to_owned()),
                );
            }
        }
        found
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn case_16_daemonised_children_and_zombies_are_gone_when_the_engine_has_ended() {
    let plan = "for i in 1 2 3; do (setsid sh -c 'trap \"\" TERM INT HUP; sleep 1000; :' &) ; (sleep 0.01 &) ; done; echo done; exit 2";
    let Some(container) = Container::start(plan) else {
        return;
    };
    let mut agent = container.begin(&Job::plan(&[("main.tf", "")]));
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    // Zombies would be listed too.
    while container.processes() != ["terrapool-runne"] {
        std::thread::yield_now();
    }
}

#[test]
fn case_17_a_deaf_run_is_killed_with_everything_it_started() {
    let plan = "trap '' INT TERM; (setsid sh -c 'trap \"\" TERM INT; while :; do sleep 1; done' &); echo ready; while :; do sleep 0.05; done";
    let Some(container) = Container::start(plan) else {
        return;
    };
    let mut job = Job::plan(&[("main.tf", "")]);
    job.spec.times.grace = terrapool_model::time::Millis(100);
    job.spec.times.kill_after = terrapool_model::time::Millis(100);
    let mut agent = container.begin(&job);
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    agent.cancel();
    assert_eq!(agent.finish().outcome, Outcome::Canceled);
    while container.processes() != ["terrapool-runne"] {
        std::thread::yield_now();
    }
}

#[test]
fn sigterm_stops_the_engine_and_the_end_is_still_told() {
    let plan = "trap 'echo INT; exit 1' INT; echo ready; while :; do sleep 0.05; done";
    let Some(container) = Container::start(plan) else {
        return;
    };
    let mut agent = container.begin(&Job::plan(&[("main.tf", "")]));
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    assert!(
        Command::new("kill")
            .args(["-TERM", &container.pid])
            .status()
            .unwrap()
            .success()
    );
    let ended = agent.finish();
    assert!(
        matches!(ended.outcome, Outcome::Failed { ref message, .. } if message.contains("agent was shut down"))
    );
    assert!(agent.text().ends_with("INT\n"));
}

#[test]
fn sigterm_ends_an_idle_runner() {
    let Some(mut container) = Container::start("") else {
        return;
    };
    assert!(
        Command::new("kill")
            .args(["-TERM", &container.pid])
            .status()
            .unwrap()
            .success()
    );
    let deadline = Instant::now() + Duration::from_secs(10);
    while container.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}

/// Tries what processes of the same user may do with each other, on the process whose number is in `$process`.
const LOOK_INTO: &str = r#"look_into() {
  grep -q . /proc/$process/environ 2> /dev/null && echo "$1: environ open" || echo "$1: environ closed"
  { true < /proc/$process/mem; } 2> /dev/null && echo "$1: mem open" || echo "$1: mem closed"
  readlink /proc/$process/fd/0 > /dev/null 2>&1 && echo "$1: fd open" || echo "$1: fd closed"
}
"#;

fn assert_seen(text: &str, of: &str, state: &str) {
    for what in ["environ", "mem", "fd"] {
        assert!(text.contains(&format!("{of}: {what} {state}\n")), "{text}");
    }
}

#[test]
fn case_5_the_runners_memory_and_environment_are_closed_to_its_own_user() {
    let plan = format!("{LOOK_INTO}process=$$; look_into own; process=1; look_into runner; exit 0");
    let Some(container) = Container::start(&plan) else {
        return;
    };
    let mut agent = container.begin(&Job::plan(&[("main.tf", "")]));
    agent.finish();
    assert_seen(&agent.text(), "own", "open");
    assert_seen(&agent.text(), "runner", "closed");
}

#[test]
fn case_5_connect_carries_the_stream_survives_the_end_of_the_engine_and_is_closed_to_its_own_user() {
    let plan = format!(
        "{LOOK_INTO}for process in $(ls /proc | grep '^[0-9]'); do
grep -qaz '^connect$' /proc/$process/cmdline 2> /dev/null && look_into connect
done
echo hello; exit 2"
    );
    let Some(container) = Container::start(&plan) else {
        return;
    };
    let mut enter = Command::new("nsenter");
    if !rustix::process::geteuid().is_root() {
        enter.args(["--user", "--preserve-credentials"]);
    }
    let mut connect = enter
        .args([
            "--mount",
            "--pid",
            &format!("--target={}", container.pid),
            &format!("--root=/proc/{}/root", container.pid),
        ])
        .args([
            "/usr/bin/setpriv",
            "--no-new-privs",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ])
        .args(["/runner/terrapool-runner", "connect"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = connect.stdin.take().unwrap();
    let mut output = BufReader::new(connect.stdout.take().unwrap());
    let hello = ToRunner::Hello {
        key: Secret::new(KEY),
        log_from: 0,
    };
    let job = Job::plan(&[("main.tf", "")]);
    for (message, body) in [
        (hello, &[][..]),
        (container.work(&job), &[]),
        (ToRunner::Part, &job.bundle),
    ] {
        input.write_all(&encode(&message, body).unwrap()).unwrap();
    }
    let mut decoder = Decoder::new();
    let mut log = Vec::new();
    let mut finished = false;
    while !finished {
        let bytes = output.fill_buf().unwrap().to_vec();
        assert!(
            !bytes.is_empty(),
            "the connection ended: {}",
            String::from_utf8_lossy(&log)
        );
        output.consume(bytes.len());
        decoder.push(&bytes);
        while let Some((message, body)) = decoder.next::<FromRunner>().unwrap() {
            match message {
                FromRunner::Log { .. } => log.extend_from_slice(&body),
                FromRunner::Finished { outcome, .. } => {
                    assert_eq!(outcome, Outcome::Succeeded { changes: true });
                    finished = true;
                }
                _ => {}
            }
        }
    }
    let log = String::from_utf8_lossy(&log);
    assert!(log.ends_with("hello\n"), "{log}");
    assert_seen(&log, "connect", "closed");
    input
        .write_all(&encode(&ToRunner::Release, b"").unwrap())
        .unwrap();
    assert!(connect.wait().is_ok());
}
