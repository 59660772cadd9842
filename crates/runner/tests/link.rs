//! The connection, signals and the state while applying, with scripts in place of the engine.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Agent, Ended, Sandbox, planned, scripted, scripted_plan, sha256};
use terrapool_model::time::Millis;
use terrapool_protocol::job::{ArtifactName, FailureReason, Outcome};
use terrapool_protocol::runner::{LOG_WINDOW, RunnerStage, StopKind, StopReason, ToRunner};

fn applied(body: &str, state: Option<&[u8]>) -> (Sandbox, Agent, Ended) {
    let (mut sandbox, job) = scripted(body);
    let (mut agent, _) = planned(&mut sandbox, &job, state);
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    (sandbox, agent, ended)
}

fn reason(ended: &Ended) -> FailureReason {
    match &ended.outcome {
        Outcome::Failed { reason, .. } => *reason,
        other => panic!("{other:?}"),
    }
}

const OLD: &[u8] = b"{\"serial\":4,\"lineage\":\"l\"}\n";

#[test]
fn the_log_arrives_while_the_engine_runs() {
    let (sandbox, job) =
        scripted_plan("echo first; while [ ! -e go ]; do sleep 0.01; done; echo last; exit 2\n");
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| agent.text().ends_with("first\n")));
    assert!(agent.finished.is_none());
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: true });
    assert!(agent.text().ends_with("first\nlast\n"));
}

#[test]
fn a_new_connection_gets_the_identical_bytes_and_replaces_the_old_one() {
    let (sandbox, job) =
        scripted_plan("echo first; while [ ! -e go ]; do sleep 0.01; done; echo last; exit 2\n");
    let mut old = sandbox.begin(&job);
    assert!(old.until(|agent| agent.text().ends_with("first\n")));
    let mut new = sandbox.connect(7);
    assert!(new.until(|agent| agent.started && agent.prepared && agent.text().ends_with("first\n")));
    assert_eq!(new.stage, Some(RunnerStage::Running));
    assert_eq!(new.log[..], old.log[7..]);
    assert!(
        !old.until(|agent| agent.finished.is_some()),
        "the old connection still lives"
    );
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    let ended = new.finish();
    let mut whole = old.log[..7].to_vec();
    whole.extend_from_slice(&new.log);
    assert_eq!(sha256(&whole), ended.log_sha256);
    // The end is told to each connection.
    let mut again = sandbox.connect(0);
    again.finish();
    assert_eq!((again.stage, again.log), (Some(RunnerStage::Finished), whole));
}

#[test]
fn a_wrong_key_is_refused_and_disturbs_nobody() {
    let (sandbox, job) = scripted_plan("while [ ! -e go ]; do sleep 0.01; done; exit 0\n");
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| agent.started));
    let mut stranger = Agent::hello(sandbox.stream(), "guess", 0);
    assert!(!stranger.until(|agent| agent.stage.is_some()));
    let mut rude = sandbox.stream();
    std::io::Write::write_all(&mut rude, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: false });
}

#[test]
fn no_more_than_the_window_is_sent_above_what_was_taken() {
    let (sandbox, job) = scripted_plan(
        "i=0; while [ $i -lt 40 ]; do head -c 20000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); done; exit 0\n",
    );
    let mut agent = sandbox.connect(0);
    agent.acknowledges = false;
    agent.submit(&sandbox, &job);
    assert!(agent.until(|agent| agent.log.len() as u64 == LOG_WINDOW));
    // The engine ends though nobody takes its output.
    while fs::metadata(sandbox.paths.log()).unwrap().len() < 800_000 {
        std::thread::yield_now();
    }
    assert_eq!(agent.log.len() as u64, LOG_WINDOW);
    agent.acknowledges = true;
    agent.send(&ToRunner::LogTaken { offset: LOG_WINDOW });
    let ended = agent.finish();
    assert!(ended.log_size > 800_000);
}

#[test]
fn a_job_whose_bundle_broke_off_is_taken_again() {
    let (sandbox, job) = scripted_plan("exit 0\n");
    let mut agent = sandbox.connect(0);
    agent.send(&sandbox.work(&job.spec));
    agent.send_body(&ToRunner::Part, &job.bundle[..10]);
    let mut agent = sandbox.connect(0);
    assert!(agent.until(|agent| agent.stage.is_some()));
    if agent.stage == Some(RunnerStage::Waiting) {
        agent.submit(&sandbox, &job);
    }
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: false });
}

#[test]
fn an_engine_phase_is_never_executed_twice() {
    let (mut sandbox, job) = scripted("echo run >> $STATE/runs; exit 0\n");
    let (mut agent, apply) = planned(&mut sandbox, &job, None);
    agent.send(&ToRunner::Go);
    agent.send(&ToRunner::Go);
    let mut agent = sandbox.connect(0);
    agent.send(&ToRunner::Go);
    agent.submit(&sandbox, &apply);
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: true });
    assert_eq!(
        fs::read_to_string(sandbox.paths.state.join("runs")).unwrap(),
        "run\n"
    );

    // A marker from before, as on a volume whose runner was started again.
    sandbox.renew();
    fs::write(sandbox.paths.marker(), "").unwrap();
    let mut agent = sandbox.begin(&apply);
    agent.send(&ToRunner::Go);
    assert_eq!(reason(&agent.finish()), FailureReason::Internal);
    assert!(!common::exists(&sandbox.paths.state.join("runs")));
}

#[test]
fn states_are_copied_while_the_apply_runs() {
    let (mut sandbox, job) = scripted(
        "echo '{\"serial\":5,\"lineage\":\"l\"}' > $F; while [ ! -e go ]; do sleep 0.01; done; echo '{\"serial\":6,\"lineage\":\"l\"}' > $F; exit 0\n",
    );
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    agent.send(&ToRunner::Go);
    assert!(agent.until(|agent| !agent.states.is_empty()));
    assert_eq!(agent.states[0].0.serial, Some(5));
    assert!(agent.finished.is_none());
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    let ended = agent.finish();
    let (mark, bytes) = agent.states.last().unwrap();
    assert_eq!((mark.serial, ended.state.as_ref()), (Some(6), Some(mark)));
    assert_eq!(bytes, b"{\"serial\":6,\"lineage\":\"l\"}\n");
}

#[test]
fn one_state_is_under_way_at_a_time_and_an_untaken_one_is_sent_again() {
    let (mut sandbox, job) = scripted(
        "for i in 5 6 7 8; do echo \"{\\\"serial\\\":$i,\\\"lineage\\\":\\\"l\\\"}\" > $F; done; exit 0\n",
    );
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    agent.acknowledges = false;
    agent.send(&ToRunner::Go);
    assert!(agent.until(|agent| !agent.states.is_empty()));
    let mut again = sandbox.connect(0);
    let ended = again.finish();
    assert_eq!(again.states.last().unwrap().0.serial, Some(8));
    assert_eq!(ended.state.as_ref(), Some(&again.states.last().unwrap().0));
}

#[test]
fn a_state_that_was_taken_is_sent_again_when_it_is_asked_for() {
    let (mut sandbox, job) = scripted("echo '{\"serial\":5,\"lineage\":\"l\"}' > $F; exit 0\n");
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    let taken = agent.states.len();
    agent.send(&ToRunner::StateAgain);
    assert!(agent.until(|agent| agent.states.len() > taken));
    assert_eq!(ended.state.as_ref(), Some(&agent.states.last().unwrap().0));
}

#[test]
fn a_removed_state_file_is_still_delivered() {
    let (_sandbox, agent, ended) = applied(
        "exec 3>$F; rm $F; echo '{\"serial\":9,\"lineage\":\"l\"}' >&3; exit 0\n",
        Some(OLD),
    );
    assert_eq!(ended.state.as_ref().unwrap().serial, Some(9));
    assert_eq!(
        agent.states.last().unwrap().1,
        b"{\"serial\":9,\"lineage\":\"l\"}\n"
    );
}

#[test]
fn a_torn_state_does_not_replace_the_last_copy() {
    let (_sandbox, _, ended) = applied("printf '{\"serial\":9,\"line' > $F; kill -9 $$\n", Some(OLD));
    assert_eq!(reason(&ended), FailureReason::Exit);
    let state = ended.state.unwrap();
    assert_eq!((state.serial, state.sha256), (Some(4), sha256(OLD)));
}

#[test]
fn what_the_engine_could_not_save_is_found_elsewhere() {
    let (_sandbox, _, ended) = applied(
        "echo '{\"serial\":7,\"lineage\":\"l\"}' > errored.tfstate; exit 1\n",
        Some(OLD),
    );
    assert_eq!(ended.state.unwrap().serial, Some(7));
    let (_sandbox, _, ended) = applied(
        "echo '{\"serial\":7,\"lineage\":\"other\"}' > errored.tfstate; exit 1\n",
        Some(OLD),
    );
    assert_eq!(ended.state.unwrap().serial, Some(4));
    let dump = "printf '{\\n  \"version\": 4,\\n  \"terraform_version\": \"1\",\\n  \"serial\": 11,\\n  \"lineage\": \"l\"\\n}\\n'; echo after; exit 1\n";
    let (_sandbox, agent, ended) = applied(dump, Some(OLD));
    assert_eq!(ended.state.unwrap().serial, Some(11));
    assert!(
        !agent.text().contains("\"serial\": 11") && agent.text().contains("after\n"),
        "{}",
        agent.text()
    );
}

#[test]
fn a_state_without_a_line_end_is_delivered_too() {
    let (_sandbox, _, ended) = applied(
        "printf '{\"serial\":9,\"lineage\":\"l\",\"encrypted_data\":\"x\"}' > $F; exit 0\n",
        Some(OLD),
    );
    assert_eq!(ended.state.unwrap().serial, Some(9));
}

#[test]
fn case_17_cancel_escalates_in_the_stated_time_and_repeats_are_harmless() {
    let (sandbox, mut job) = scripted_plan("trap 'echo INT' INT; echo ready; while :; do sleep 0.05; done\n");
    job.spec.times.grace = Millis(300);
    job.spec.times.kill_after = Millis(300);
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    let begin = Instant::now();
    for _ in 0..5 {
        agent.cancel();
    }
    let ended = agent.finish();
    let took = begin.elapsed();
    assert_eq!(ended.outcome, Outcome::Canceled);
    assert!(agent.text().ends_with("INT\nINT\n"), "{}", agent.text());
    assert!(
        took >= Duration::from_millis(600) && took < Duration::from_secs(5),
        "{took:?}"
    );
}

#[test]
fn a_canceled_apply_ends_by_itself_and_its_state_is_delivered() {
    let (mut sandbox, job) = scripted(
        "trap 'echo \"{\\\"serial\\\":5,\\\"lineage\\\":\\\"l\\\"}\" > $F; exit 1' INT; echo ready; while :; do sleep 0.05; done\n",
    );
    let (mut agent, _) = planned(&mut sandbox, &job, Some(OLD));
    agent.send(&ToRunner::Go);
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    agent.cancel();
    let ended = agent.finish();
    assert_eq!(
        (ended.outcome, ended.state.unwrap().serial),
        (Outcome::Canceled, Some(5))
    );
}

#[test]
fn kill_after_cancel_does_not_wait_for_the_grace() {
    let (sandbox, mut job) = scripted_plan("trap '' INT; echo ready; while :; do sleep 0.05; done\n");
    job.spec.times.kill_after = Millis(100);
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    agent.cancel();
    agent.send(&ToRunner::Stop {
        kind: StopKind::Kill,
        reason: StopReason::Canceled,
    });
    assert_eq!(agent.finish().outcome, Outcome::Canceled);
}

#[test]
fn a_stop_before_the_start_starts_nothing() {
    let (mut sandbox, job) = scripted("touch $STATE/ran; exit 0\n");
    let (mut agent, apply) = planned(&mut sandbox, &job, None);
    agent.cancel();
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    assert_eq!((ended.outcome, ended.state), (Outcome::Canceled, None));
    assert!(!common::exists(&sandbox.paths.marker()) && !common::exists(&sandbox.paths.state.join("ran")));
    sandbox.renew();
    let mut agent = sandbox.connect(0);
    agent.cancel();
    agent.submit(&sandbox, &apply);
    assert_eq!(agent.finish().outcome, Outcome::Canceled);
    assert!(!common::exists(&sandbox.paths.marker()));
}

#[test]
fn an_engine_without_contact_is_stopped_by_its_runner() {
    let script = "trap 'echo stopped; exit 1' INT; echo ready; while :; do sleep 0.05; done\n";
    let (sandbox, job) = scripted_plan(script);
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    agent.send(&ToRunner::Renew {
        remaining: Some(Millis(1)),
    });
    // What a connection has not been heard saying when the next one comes is not obeyed.
    assert!(agent.until(|agent| agent.text().contains("stopped\n")));
    drop(agent);
    let mut agent = sandbox.connect(0);
    assert_eq!(reason(&agent.finish()), FailureReason::LostContact);
}

#[test]
fn a_renewed_contact_keeps_the_engine() {
    let (sandbox, job) = scripted_plan("echo ready; while [ ! -e go ]; do sleep 0.01; done; exit 0\n");
    let mut agent = sandbox.begin(&job);
    for remaining in [Some(Millis(60_000)), Some(Millis(200)), None] {
        agent.send(&ToRunner::Renew { remaining });
    }
    assert!(agent.until(|agent| agent.text().ends_with("ready\n")));
    // Longer than the limit that was withdrawn.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: false });
}

#[test]
fn case_16_a_process_that_keeps_the_output_open_does_not_hold_up_the_end() {
    let (sandbox, job) = scripted_plan("setsid sleep 600 & echo done; exit 0\n");
    let mut agent = sandbox.begin(&job);
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: false });
    assert!(agent.text().ends_with("done\n"));
}

#[test]
fn a_kill_for_memory_is_named_with_the_limit() {
    let (mut sandbox, job) = scripted("echo 'oom_kill 1' > $STATE/../cgroup/memory.events; exit 1\n");
    let (agent, apply) = planned(&mut sandbox, &job, None);
    drop(agent);
    sandbox.renew();
    fs::create_dir_all(&sandbox.paths.cgroup).unwrap();
    fs::write(sandbox.paths.cgroup.join("memory.events"), "oom_kill 0\n").unwrap();
    let mut agent = sandbox.begin(&apply);
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    assert_eq!(reason(&ended), FailureReason::OutOfMemory);
    assert!(agent.text().contains("512 MiB"), "{}", agent.text());
}

#[test]
fn the_engines_environment_is_built_from_empty() {
    let (sandbox, job) = scripted_plan("env | sort | sed 's/=.*//'; exit 0\n");
    let mut agent = sandbox.begin(&job);
    let ended = agent.finish();
    assert!(
        ended
            .artifacts
            .iter()
            .any(|artifact| artifact.name == ArtifactName::PlanArchive)
    );
    let text = agent.text();
    for name in text.lines().skip(3) {
        let known = [
            "PATH",
            "HOME",
            "TMPDIR",
            "STATE",
            "PLANS",
            "CHECKPOINT_DISABLE",
            "PWD",
            "_",
            "SHLVL",
            "OLDPWD",
        ]
        .contains(&name)
            || name.starts_with("TF_")
            || name.starts_with("TFC_")
            || name.to_lowercase().ends_with("_proxy")
            || name.starts_with("SSL_CERT_");
        assert!(known, "{name}");
    }
    assert!(
        text.contains("\nTF_VAR_TFC_RUN_ID\n") && text.contains("\nTFC_WORKSPACE_SLUG\n"),
        "{text}"
    );
}
