//! Real sandboxes on a real container engine, with the real runner and the real terraform, without a control plane.

#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

mod common;

use std::io::Write as _;
use std::time::Duration;

use common::{Leftovers, SERVE, address_of, config, in_time, output, prepare, reaches};
use sha2::{Digest as _, Sha256};
use terrapool_agent::engines::{Engines, hex};
use terrapool_model::engine::EngineKind;
use terrapool_model::id::{ConfigurationVersionId, RunId, WorkspaceId};
use terrapool_model::time::Millis;
use terrapool_protocol::job::{
    BundlePart, EngineRequest, JobSpec, JobTimes, Limits, Outcome, OutputFormat, PartName, Phase, PlanMode,
    SandboxNetwork, SandboxProxy,
};
use terrapool_protocol::runner::{Egress, FromRunner, ToRunner};

fn slug(main_tf: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(main_tf.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "main.tf", main_tf.as_bytes())
        .unwrap();
    let mut encoder = archive.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

fn spec(configuration: &[u8]) -> JobSpec {
    JobSpec {
        run: RunId::from_random([1; 16]),
        workspace: WorkspaceId::from_random([2; 16]),
        workspace_name: "probe".to_owned(),
        organization: "acme".to_owned(),
        project: "Default Project".to_owned(),
        configuration_version: ConfigurationVersionId::from_random([3; 16]),
        phase: Phase::Plan,
        engine: EngineRequest {
            kind: EngineKind::Terraform,
            version: "latest".to_owned(),
            download: None,
        },
        engine_sha256: None,
        working_directory: String::new(),
        output: OutputFormat::Plain,
        mode: PlanMode::Normal,
        refresh: true,
        targets: Vec::new(),
        replace: Vec::new(),
        generate_config: false,
        variables: Vec::new(),
        run_variables: Vec::new(),
        parts: vec![BundlePart {
            name: PartName::Configuration,
            size: configuration.len() as u64,
            sha256: hex(&Sha256::digest(configuration)),
        }],
        limits: Limits::default(),
        times: JobTimes {
            contact_limit: Some(Millis(60_000)),
            grace: Millis(10_000),
            kill_after: Millis(5000),
            start_window: Millis(20_000),
        },
        hostname: "tp.example.com".to_owned(),
        proxy: SandboxProxy::None,
    }
}

/// Runs a plan in a fresh sandbox and returns its outcome and log.
async fn plan(main_tf: &str) -> (Outcome, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let driver = prepare(&config, folder.path()).await;
    let _leftovers = Leftovers::of(folder.path());
    let engines = Engines::discover(&config, reqwest::Client::new()).await;
    let configuration = slug(main_tf);
    let spec = spec(&configuration);
    let found = engines.obtain(&spec.engine).await.unwrap();
    let engine_path = driver.bin().ensure(&found).await.unwrap();
    let mut sandbox = driver
        .create_sandbox(&driver.key(None, SandboxNetwork::default(), Limits::default()))
        .await
        .unwrap();
    // The kernel keeps the limit: the runner sees it from inside.
    assert_eq!(sandbox.memory_limit, Some(Limits::default().memory_mb << 20));
    let work = ToRunner::Work {
        spec: Box::new(spec),
        engine_path,
        engine: found.engine.clone(),
        engine_sha256: found.sha256.clone(),
        engine_verified: true,
        known_schemas: Vec::new(),
        hosts: Vec::new(),
        egress: Egress::default(),
        preface: String::new(),
    };
    let link = &mut sandbox.link;
    link.sender.send(&work).await.unwrap();
    link.sender
        .send_body(&ToRunner::Part, &configuration)
        .await
        .unwrap();
    let mut log = Vec::new();
    let outcome = loop {
        let frame = tokio::time::timeout(Duration::from_secs(120), link.receiver.next())
            .await
            .expect("the runner is silent");
        match frame.expect("the sandbox went away") {
            (FromRunner::Log { offset }, bytes) => {
                assert_eq!(offset, log.len() as u64);
                log.extend(bytes);
                link.sender
                    .send(&ToRunner::LogTaken {
                        offset: log.len() as u64,
                    })
                    .await
                    .unwrap();
            }
            (
                FromRunner::Finished {
                    outcome,
                    log_size,
                    log_sha256,
                    ..
                },
                _,
            ) => {
                assert_eq!(log_size, log.len() as u64);
                assert_eq!(log_sha256, hex(&Sha256::digest(&log)));
                break outcome;
            }
            _ => {}
        }
    };
    driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
    (outcome, String::from_utf8(log).unwrap())
}

#[tokio::test]
async fn a_plan_runs_in_a_sandbox_of_the_projects_own_image() {
    let (outcome, log) = plan("resource \"terraform_data\" \"a\" {}\n").await;
    assert_eq!(outcome, Outcome::Succeeded { changes: true }, "{log}");
    assert!(
        log.contains("Plan: 1 to add, 0 to change, 0 to destroy."),
        "{log}"
    );
}

/// What a configuration sees of its sandbox, read at plan time by an error message that quotes files.
#[tokio::test]
async fn the_sandbox_has_no_capabilities_no_new_privileges_seccomp_and_its_own_limits() {
    let (outcome, log) = plan(
        r#"
        locals {
          status = file("/proc/self/status")
          memory = try(trimspace(file("/sys/fs/cgroup/memory/memory.limit_in_bytes")), trimspace(file("/sys/fs/cgroup/memory.max")))
          wanted = ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t1000\t1000"]
        }
        output "missing" { value = [for line in local.wanted : line if !strcontains(local.status, line)] }
        output "memory" { value = local.memory }
        "#,
    )
    .await;
    assert_eq!(outcome, Outcome::Succeeded { changes: true }, "{log}");
    assert!(log.contains("+ missing = []"), "{log}");
    assert!(log.contains("+ memory  = \"536870912\""), "{log}");
}

#[tokio::test]
async fn engines_that_no_job_used_for_long_leave_the_sandboxes_volume_and_come_back_when_they_are_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let driver = prepare(&config(folder.path()), folder.path()).await;
    let _leftovers = Leftovers::of(folder.path());
    let path = folder.path().join("terraform");
    std::fs::write(&path, "an engine").unwrap();
    let found = terrapool_agent::engines::Found {
        engine: terrapool_model::engine::Engine {
            kind: EngineKind::Terraform,
            version: "1.2.3".parse().unwrap(),
        },
        path,
        sha256: hex(&Sha256::digest("an engine")),
    };
    let engine = driver.bin().ensure(&found).await.unwrap();
    let now = u64::try_from(terrapool_agent::clock::wall_seconds()).unwrap();
    let month = 31 * 24 * 3600;
    assert!(driver.remove_old_engines(now).await.unwrap().is_empty());
    for _ in 0..2 {
        let removed = driver.remove_old_engines(now + month).await.unwrap();
        assert_eq!(removed, [engine.split('/').next().unwrap()]);
        assert!(driver.remove_old_engines(now + month).await.unwrap().is_empty());
        assert_eq!(driver.bin().ensure(&found).await.unwrap(), engine);
    }
}

#[tokio::test]
async fn a_sandbox_does_not_reach_its_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    let driver = prepare(&config(folder.path()), folder.path()).await;
    let _leftovers = Leftovers::of(folder.path());
    let key = driver.key(None, SandboxNetwork::Closed, Limits::default());
    let (listening, other) = (
        driver.create_sandbox(&key).await.unwrap(),
        driver.create_sandbox(&key).await.unwrap(),
    );
    let serve = ["exec", "-d", &listening.id, "busybox", "sh", "-c", SERVE];
    let (started, text) = output("docker", &serve);
    assert!(started, "{text}");
    let address = address_of(&listening.id);
    assert!(
        in_time(|| reaches(&listening.id, &address, 9000)),
        "{address} does not listen"
    );
    assert!(!reaches(&other.id, &address, 9000), "{address}");
    for sandbox in [listening, other] {
        driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
    }
}

/// What a program prints inside a sandbox.
fn printed(sandbox: &str, words: &[&str]) -> String {
    let (done, text) = output("docker", &[&["exec", sandbox], words].concat());
    assert!(done, "{words:?}: {text}");
    text
}

#[tokio::test]
async fn a_sandbox_is_not_kept_from_who_knows_names_and_has_no_ipv6_but_on_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let driver = prepare(&config(folder.path()), folder.path()).await;
    let _leftovers = Leftovers::of(folder.path());
    let key = driver.key(None, SandboxNetwork::Closed, Limits::default());
    let sandbox = driver.create_sandbox(&key).await.unwrap();

    // Where there is no route, a socket cannot even be connected. The control: there is none to the gateway.
    let has_route = |address: &str| {
        let script = format!("exec 3<>/dev/udp/{address}/53");
        output("docker", &["exec", &sandbox.id, "bash", "-c", &script]).0
    };
    let format = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
    let (_, gateway) = output("docker", &["inspect", "-f", format, &sandbox.id]);
    assert!(!has_route(gateway.trim()), "the gateway {gateway}");
    let resolvers = printed(&sandbox.id, &["busybox", "cat", "/etc/resolv.conf"]);
    for line in resolvers.lines() {
        if let Some(address) = line.strip_prefix("nameserver ") {
            assert!(has_route(address.trim()), "{resolvers}");
        }
    }

    if std::path::Path::new("/proc/net/if_inet6").exists() {
        let addresses = printed(&sandbox.id, &["busybox", "cat", "/proc/net/if_inet6"]);
        let of_links: Vec<&str> = addresses.lines().filter(|line| !line.ends_with(" lo")).collect();
        assert!(of_links.is_empty(), "{addresses}");
    }
    driver.remove_sandbox(&sandbox.id, sandbox.volumes()).await;
}

/// Whether everything of a sandbox is there, or nothing of it.
fn is_whole(sandbox: &str, volumes: &str) -> Option<bool> {
    let container = output("docker", &["inspect", sandbox]).0;
    let (_, listed) = output("docker", &["volume", "ls", "-q"]);
    let volume = listed.lines().any(|name| name.starts_with(volumes));
    (container == volume).then_some(container)
}

#[tokio::test]
async fn an_agent_clears_away_its_own_sandboxes_and_nobody_elses() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let driver = prepare(&config(one.path()), one.path()).await;
    let _leftovers = Leftovers::of(one.path());
    let stranger = prepare(&config(other.path()), other.path()).await;
    let _leftovers_of_other = Leftovers::of(other.path());
    let key = driver.key(None, SandboxNetwork::None, Limits::default());
    let sandbox = driver.create_sandbox(&key).await.unwrap();
    let (id, volumes) = (sandbox.id.clone(), sandbox.volumes().to_owned());

    // All volumes of an engine are over, as far as the other agent is told.
    let over = std::collections::BTreeSet::from([volumes.clone(), String::new()]);
    stranger.take_stock(&[], &over).await.unwrap();
    assert_eq!(is_whole(&id, &volumes), Some(true));
    let (has_engines, text) = output(
        "docker",
        &[
            "volume",
            "inspect",
            &format!("terrapool-{}-bin", common::identity(other.path())),
        ],
    );
    assert!(has_engines, "{text}");

    drop(sandbox);
    driver.take_stock(&[], &over).await.unwrap();
    assert_eq!(is_whole(&id, &volumes), Some(false));
}
