//! What a sandbox leaves on its volumes, served by another one.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{Job, Sandbox, planned};
use terrapool_protocol::job::{Outcome, VariableCategory};
use terrapool_protocol::runner::{RunnerStage, ToRunner};

const ENGINE: &str = r#"#!/bin/sh
case "$1" in
init) mkdir -p .terraform
  echo "{\"backend\":{\"type\":\"local\",\"config\":{\"path\":\"$STATE/terraform.tfstate\",\"workspace_dir\":\"$STATE/d\"}}}" > .terraform/terraform.tfstate; exit 0;;
show|providers) echo '{}'; exit 0;;
plan) for a in "$@"; do case $a in -out=*) echo plan > "${a#-out=}";; esac; done; exit 2;;
esac
F=$STATE/d/net-prod/terraform.tfstate
echo '{"serial":5,"lineage":"l"}' > $F
echo one resource
while [ ! -e go ]; do sleep 0.02; done
printf '{"serial":6,"lin' > $F
echo torn
while [ ! -e end ]; do sleep 0.02; done
"#;

const OLD: &[u8] = b"{\"serial\":4,\"lineage\":\"l\"}\n";

fn job(sandbox: &Sandbox) -> Job {
    let state = sandbox.paths.state.display().to_string();
    Job::plan(&[("main.tf", "")]).variable("STATE", &state, VariableCategory::Env, false, false)
}

#[test]
fn a_sandbox_that_went_away_in_mid_apply_leaves_its_log_and_its_last_whole_state() {
    let mut sandbox = Sandbox::with_engine(ENGINE);
    let job = job(&sandbox);
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    agent.send(&ToRunner::Go);
    assert!(agent.until(|agent| agent.states.iter().any(|(mark, _)| mark.serial == Some(5))));
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    assert!(agent.until(|agent| agent.text().ends_with("torn\n")));

    let mut later = sandbox.open_remains(0);
    let ended = later.finish();
    fs::write(sandbox.paths.configuration().join("end"), "").unwrap();
    assert_eq!(later.stage, Some(RunnerStage::Finished));
    assert!(later.started);
    assert!(
        matches!(ended.outcome, Outcome::EngineLost { .. }),
        "{:?}",
        ended.outcome
    );
    assert_eq!(later.log, agent.log);
    assert_eq!(ended.log_size, agent.log.len() as u64);
    let mark = ended.state.unwrap();
    assert_eq!(mark.serial, Some(5));
    assert!(later.states.iter().any(|(sent, _)| *sent == mark));
}

#[test]
fn an_end_that_was_known_is_told_again_after_the_sandbox_is_gone() {
    let mut sandbox = Sandbox::with_engine(ENGINE);
    let job = job(&sandbox);
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    fs::write(sandbox.paths.configuration().join("end"), "").unwrap();
    agent.send(&ToRunner::Go);
    let first = agent.finish();
    assert_eq!(first.outcome, Outcome::Succeeded { changes: true });
    let mut later = sandbox.open_remains(0);
    let second = later.finish();
    assert_eq!(second.outcome, first.outcome);
    assert_eq!(second.state, first.state);
    assert_eq!(
        (second.log_size, second.log_sha256),
        (first.log_size, first.log_sha256)
    );
}

/// An agent that was restarted waits for the state before it reports the end, whoever had taken it before.
#[test]
fn a_state_that_was_taken_is_sent_again_on_a_new_connection() {
    let mut sandbox = Sandbox::with_engine(ENGINE);
    let job = job(&sandbox);
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    fs::write(sandbox.paths.configuration().join("end"), "").unwrap();
    agent.send(&ToRunner::Go);
    let mark = agent.finish().state.unwrap();
    let sha256 = mark.sha256.clone();
    agent.send(&ToRunner::StateTaken { sha256 });
    let mut again = sandbox.connect(0);
    assert_eq!(again.finish().state.as_ref(), Some(&mark));
    assert!(again.states.iter().any(|(sent, _)| *sent == mark));
}

#[test]
fn volumes_on_which_nothing_was_started_say_so() {
    let mut sandbox = Sandbox::with_engine(ENGINE);
    let later = {
        let mut later = sandbox.open_remains(0);
        assert!(later.until(|agent| agent.stage.is_some()));
        later
    };
    assert_eq!(later.stage, Some(RunnerStage::Waiting));
}
