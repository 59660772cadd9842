//! Limits that the runner keeps: what ends a job, what is said about it, and what is delivered all the same.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{Job, Sandbox, planned, scripted, scripted_plan};
use terrapool_protocol::job::{FailureReason, Outcome};
use terrapool_protocol::runner::{StopKind, StopReason, ToRunner};

fn failed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed {
            reason: FailureReason::Limit,
            message,
        } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_engine_that_is_silent_for_too_long_is_stopped() {
    let (sandbox, mut job) = scripted_plan("trap 'exit 1' INT; echo ready; while :; do sleep 0.05; done\n");
    job.spec.limits.silence_seconds = Some(1);
    let mut agent = sandbox.begin(&job);
    let message = failed(agent.finish().outcome);
    assert!(
        message.contains("printed nothing for the 1 s") && message.contains("`silence-seconds`"),
        "{message}"
    );
    assert!(agent.text().contains("ready") && agent.text().contains(&message));
}

#[test]
fn an_engine_that_takes_too_long_is_stopped() {
    let (sandbox, mut job) = scripted_plan("trap 'exit 1' INT; while :; do echo works; sleep 0.05; done\n");
    job.spec.limits.plan_seconds = 2;
    let mut agent = sandbox.begin(&job);
    let message = failed(agent.finish().outcome);
    assert!(
        message.contains("longer than the 2 s") && message.contains("`plan-seconds`"),
        "{message}"
    );
}

#[test]
fn a_job_whose_preparation_takes_too_long_ends_before_its_engine_is_started() {
    let sandbox = Sandbox::with_engine("#!/bin/sh\ntrap 'exit 1' INT\nwhile :; do sleep 0.05; done\n");
    let mut job = Job::plan(&[("main.tf", "")]);
    job.spec.limits.plan_seconds = 1;
    let mut agent = sandbox.begin(&job);
    let message = failed(agent.finish().outcome);
    assert!(message.contains("`plan-seconds`"), "{message}");
    assert!(!common::exists(&sandbox.paths.marker()));
}

#[test]
fn case_15_at_four_fifths_of_its_memory_an_apply_is_interrupted_and_its_state_is_delivered() {
    for (total, file, before, after) in [
        (
            "memory.current",
            "memory.stat",
            "anon 1000\nfile 9\n",
            "anon 430000000\nfile 9\n",
        ),
        (
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "rss 1\ntotal_rss 1000\n",
            "rss 1\ntotal_rss 430000000\n",
        ),
    ] {
        let (mut sandbox, job) = scripted(
            "trap 'echo \"{\\\"serial\\\":5,\\\"lineage\\\":\\\"l\\\"}\" > $F; exit 1' INT; echo ready; while :; do sleep 0.05; done\n",
        );
        let state = b"{\"serial\":4,\"lineage\":\"l\"}";
        let (mut agent, _) = planned(&mut sandbox, &job, Some(state));
        let path = sandbox.paths.cgroup.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, before).unwrap();
        fs::write(sandbox.paths.cgroup.join(total), "500000000").unwrap();
        agent.send(&ToRunner::Go);
        assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
        fs::write(&path, after).unwrap();
        let ended = agent.finish();
        let message = failed(ended.outcome);
        assert!(
            message.contains("410 MiB, which is 80 % of its 512 MiB") && message.contains("`memory-mb`"),
            "{message}"
        );
        assert_eq!(ended.state.unwrap().serial, Some(5));
        let curve = ended.memory.expect("its memory is told");
        let most = curve.points().iter().map(|used| used.anonymous_mb).max();
        assert_eq!(most, Some(410), "{curve:?}");
        assert!(
            curve.points().iter().any(|used| used.total_mb == 476),
            "{curve:?}"
        );
    }
}

#[test]
fn what_a_job_uses_is_told_while_it_runs() {
    let (sandbox, job) = scripted_plan("trap 'exit 0' INT; echo ready; while :; do sleep 0.05; done\n");
    fs::create_dir_all(&sandbox.paths.cgroup).unwrap();
    fs::write(sandbox.paths.cgroup.join("memory.current"), "300000000").unwrap();
    fs::write(sandbox.paths.cgroup.join("memory.stat"), "anon 200000000\n").unwrap();
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| !agent.progress.is_empty()));
    assert!(agent.finished.is_none());
    let (usage, curve) = agent.progress[0].clone();
    assert!(usage.init_ms.is_some(), "{usage:?}");
    assert_eq!(usage.peak_memory_bytes, Some(300_000_000));
    let used = curve.unwrap().points().last().copied().unwrap();
    assert_eq!((used.total_mb, used.anonymous_mb), (286, 190));
    agent.send(&ToRunner::Stop {
        kind: StopKind::Cancel,
        reason: StopReason::Canceled,
    });
    agent.finish();
}

#[test]
fn case_15_a_job_that_fills_the_disk_is_stopped() {
    let (sandbox, mut job) = scripted_plan(
        "trap 'exit 1' INT; head -c 80000000 /dev/urandom > fill; echo filled; while :; do sleep 0.05; done\n",
    );
    job.spec.limits.disk_mb = 64;
    let mut agent = sandbox.begin(&job);
    let message = failed(agent.finish().outcome);
    assert!(
        message.contains("of the 64 MiB that are allowed") && message.contains("`disk-mb`"),
        "{message}"
    );
}

#[test]
fn case_15_an_engine_that_goes_on_without_what_was_refused_says_so_in_its_log() {
    let group =
        "echo 'max 7' > $STATE/../cgroup/pids.events; echo 'oom_kill 1' > $STATE/../cgroup/memory.events\n";
    for (exit, ends_well) in [(0, true), (1, false)] {
        let (sandbox, job) = scripted_plan(&format!("{group}exit {exit}\n"));
        fs::create_dir_all(&sandbox.paths.cgroup).unwrap();
        fs::write(sandbox.paths.cgroup.join("pids.events"), "max 3\n").unwrap();
        fs::write(sandbox.paths.cgroup.join("memory.events"), "oom_kill 0\n").unwrap();
        let mut agent = sandbox.begin(&job);
        let ended = agent.finish();
        let text = agent.text();
        assert!(text.contains("needed more than its 512 MiB of memory"), "{text}");
        assert_eq!(matches!(ended.outcome, Outcome::Succeeded { .. }), ends_well);
        if ends_well {
            assert!(
                text.contains("were refused: it may have 512 at once. Raise `processes`"),
                "{text}"
            );
        }
    }
}

#[test]
fn case_15_an_engine_that_fails_without_what_was_refused_names_the_limit() {
    let (sandbox, job) = scripted_plan("echo 'max 7' > $STATE/../cgroup/pids.events; exit 1\n");
    fs::create_dir_all(&sandbox.paths.cgroup).unwrap();
    fs::write(sandbox.paths.cgroup.join("pids.events"), "max 3\n").unwrap();
    let mut agent = sandbox.begin(&job);
    let Outcome::Failed { message, .. } = agent.finish().outcome else {
        panic!("an engine that fails fails its job");
    };
    assert!(
        message.contains("failed") && message.contains("it may have 512 at once. Raise `processes`"),
        "{message}"
    );
}
