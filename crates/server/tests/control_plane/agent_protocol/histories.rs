//! Applies that were given up and come back, locks that people take away, and databases that come from a backup (the
//! protocol's table of interleavings, by number).

use axum::http::StatusCode;
use serde_json::json;
use terrapool_model::lock::Lock;
use terrapool_model::run::{Aftermath, RunStatus};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{AttemptStage, Finished, StateFate, Verdict};
use terrapool_protocol::job::{Outcome, Phase};
use terrapool_store::error::StoreError;
use terrapool_store::runs::RunRecord;
use terrapool_store::{audit, installation, kept_apart, orphans, values};
use terrapool_testkit::agent::{Attempt, SimulatedAgent, state_mark};
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::{Action, Plane, page, plane};

/// A started apply with a state copy of serial 1.
async fn applying(plane: &Plane, agent: &mut SimulatedAgent) -> (RunRecord, Attempt) {
    let (run, apply) = plane.claimed_apply(agent).await;
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    agent.stage(&apply.key, AttemptStage::Running);
    let next = plane.current_serial().await.unwrap_or(0) + 1;
    let bytes = format!("copy {next}");
    apply.state(next, "line", bytes.as_bytes()).await;
    (run, apply)
}

/// The next run of the workspace, applied by another agent up to its end with a state of this serial.
async fn apply_next(plane: &Plane, serial: u64) -> RunRecord {
    let mut agent = plane.agent("another").await;
    let (run, apply) = plane.claimed_apply(&mut agent).await;
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    let bytes = format!("next {serial}");
    apply.state(serial, "line", bytes.as_bytes()).await;
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(serial, "line", bytes.as_bytes()));
    let finished: Finished = apply.try_finish(&end).await.ok();
    assert!(finished.accepted);
    run
}

async fn interleaving_13_a_state_that_comes_after_another_run_applied_is_kept_apart(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, apply) = applying(&plane, &mut agent).await;
    plane.end_quarantines_at_once().await;
    plane.lose(&run).await;
    plane.freed().await;
    plane.usual_times().await;
    apply_next(&plane, 7).await;
    // The partition is over.
    assert_eq!(agent.sync(Millis::ZERO).await.answers[0].verdict, Verdict::Kill);
    assert_eq!(apply.state(9, "line", b"late").await.fate, StateFate::KeptApart);
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(9, "line", b"late"));
    let finished: Finished = apply.try_finish(&end).await.ok();
    assert!(!finished.accepted);
    assert_eq!(
        plane.current_serial().await,
        Some(7),
        "the current state is untouched"
    );
    let run = plane.run(&run).await;
    assert_eq!(
        (run.status, run.aftermath),
        (RunStatus::Errored, Aftermath::Delivered)
    );
    let told = plane
        .api("GET", &format!("runs/{}/whereabouts", run.id), None)
        .await;
    let told = &told.json::<serde_json::Value>()["data"]["attributes"];
    assert_eq!(told["kept"]["kept-apart-states"], 1, "{told}");
    assert!(told["next"].as_str().unwrap().contains("promote"), "{told}");
    // A person decides for it.
    let listed = plane
        .api(
            "GET",
            &format!("workspaces/{}/kept-apart-states", plane.seed.workspace),
            None,
        )
        .await
        .json::<serde_json::Value>();
    assert_eq!(listed["data"][0]["attributes"]["reason"], "lock-moved");
    let id = listed["data"][0]["id"].as_str().unwrap();
    let path = format!("kept-apart-states/{id}/actions/promote");
    let promoted = plane.api("POST", &path, Some(json!({}))).await;
    assert_eq!(promoted.status, StatusCode::OK);
    assert_eq!(plane.current_serial().await, Some(9));
    let again = plane.api("POST", &path, Some(json!({}))).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert!(plane.audited("state.promote").await);
    let bytes = plane
        .api("GET", &format!("state-versions/{id}/download"), None)
        .await
        .body;
    assert_eq!(bytes, b"late");
}

async fn interleaving_14_an_override_starts_the_next_run_and_tells_the_old_attempt_to_stop(
    kind: DatabaseKind,
) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, apply) = applying(&plane, &mut agent).await;
    plane.seed.end_leases_at_once().await;
    plane.lose(&run).await;
    plane.usual_times().await;
    let next = plane.seed.create(plane.seed.new_run()).await;
    assert_eq!(next.status, RunStatus::Pending);
    let path = format!("workspaces/{}/actions/force-unlock", plane.seed.workspace);
    let plain = plane.api("POST", &path, Some(json!({}))).await;
    let text = String::from_utf8_lossy(&plain.body).into_owned();
    // The stock CLI reads every 409 as "already unlocked".
    assert_eq!(plain.status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    for part in [
        "is locked by Run",
        run.id.as_str(),
        "agent one",
        apply.key.attempt.as_str(),
        "last heard at",
        "ends by itself at",
        "acknowledge-running",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let body = json!({"acknowledge-running": apply.key.attempt.as_str()});
    let done = plane.api("POST", &path, Some(body)).await;
    assert_eq!(
        done.status,
        StatusCode::OK,
        "{}",
        String::from_utf8_lossy(&done.body)
    );
    assert_eq!(plane.run(&next).await.status, RunStatus::PlanQueued);
    assert_eq!(agent.sync(Millis::ZERO).await.answers[0].verdict, Verdict::Kill);
    assert_eq!(apply.state(5, "line", b"late").await.fate, StateFate::KeptApart);
    assert_eq!(plane.run(&run).await.aftermath, Aftermath::Overridden);
    for action in [
        "workspace.override-lost-apply",
        "workspace.force-unlock",
        "state.kept-apart",
    ] {
        assert!(plane.audited(action).await, "{action}");
    }
    let active = plane.api("POST", &path, Some(json!({}))).await;
    assert_eq!(active.status, StatusCode::UNPROCESSABLE_ENTITY, "a run is active");
}

async fn restore(plane: &Plane) {
    plane
        .app
        .db
        .write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                installation::mark_restored(tx).await?;
                installation::finish_restore(tx).await
            })
        })
        .await
        .unwrap();
}

async fn interleaving_18_after_a_restore_agents_surrender_and_their_states_are_kept_apart(
    kind: DatabaseKind,
) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, mut apply) = applying(&plane, &mut agent).await;
    restore(&plane).await;
    assert_eq!(
        plane.current_serial().await,
        Some(1),
        "the newest copy of the backup"
    );
    let ended = plane.run(&run).await;
    assert_eq!(ended.status, RunStatus::Errored);
    let synced = agent.sync(Millis::ZERO).await;
    assert_eq!(synced.answers[0].verdict, Verdict::Surrender { kill: false });
    assert_eq!(
        apply.try_start().await.status,
        StatusCode::CONFLICT,
        "nothing of another history starts"
    );
    assert_eq!(
        apply.state(2, "line", b"of the other history").await.fate,
        StateFate::KeptApart
    );
    assert_eq!(
        apply.state(2, "line", b"of the other history").await.fate,
        StateFate::AlreadyStored
    );
    assert_eq!(plane.current_serial().await, Some(1));
    apply.write_log(b"created\n").await;
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(2, "line", b"of the other history"));
    let finished: Finished = apply.try_finish(&end).await.ok();
    assert!(!finished.accepted);
    assert_eq!(plane.run(&run).await.status, RunStatus::Errored);
    // Another attempt may have got the job in the other history, so its end frees nothing.
    assert!(matches!(plane.lock().await, Lock::Lost { .. }));
    let kept = kept_apart::list(&mut plane.read().await, &plane.seed.workspace, &page())
        .await
        .unwrap();
    assert_eq!(
        (kept.total, kept.items[0].reason),
        (1, Some(kept_apart::Reason::OtherHistory))
    );
    // A process that holds nothing has to register again, and works then.
    agent.forget(&apply.key);
    assert_eq!(
        agent.try_sync(Millis::ZERO).await.status,
        StatusCode::UNAUTHORIZED
    );
    let path = format!("workspaces/{}/actions/force-unlock", plane.seed.workspace);
    assert_eq!(
        plane.api("POST", &path, Some(json!({}))).await.status,
        StatusCode::OK
    );
    apply_next(&plane, 3).await;
}

async fn interleaving_18_states_of_jobs_and_workspaces_that_a_backup_does_not_have_are_kept(
    kind: DatabaseKind,
) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, apply) = applying(&plane, &mut agent).await;
    // The backup was made before the run.
    let (id, workspace) = (run.id.clone(), plane.seed.workspace.clone());
    plane
        .app
        .db
        .write::<_, StoreError, _>(move |tx| {
            let (id, workspace) = (id.clone(), workspace.clone());
            Box::pin(async move {
                let free = "UPDATE workspaces SET lock_state = 'free', lock_run_id = NULL WHERE id = $1";
                tx.execute(free, values![&workspace]).await?;
                tx.execute("DELETE FROM state_versions WHERE run_id = $1", values![&id])
                    .await?;
                tx.execute("DELETE FROM runs WHERE id = $1", values![&id]).await
            })
        })
        .await
        .unwrap();
    restore(&plane).await;
    let synced = agent.sync(Millis::ZERO).await;
    assert_eq!(synced.answers[0].verdict, Verdict::Surrender { kill: false });
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(4, "line", b"orphan"));
    assert_eq!(
        apply.try_finish(&end).await.status,
        StatusCode::CONFLICT,
        "the state first"
    );
    assert_eq!(apply.state(4, "line", b"orphan").await.fate, StateFate::KeptApart);
    let finished: Finished = apply.try_finish(&end).await.ok();
    assert!(!finished.accepted);
    let kept = kept_apart::count(&mut plane.read().await, &plane.seed.workspace)
        .await
        .unwrap();
    assert_eq!(kept, 1, "the workspace lists it");
    // Nor does it have the workspace.
    let deleted = plane
        .api("DELETE", &format!("workspaces/{}", plane.seed.workspace), None)
        .await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    assert_eq!(apply.state(5, "line", b"newer").await.fate, StateFate::KeptApart);
    assert_eq!(
        apply.state(5, "line", b"newer").await.fate,
        StateFate::AlreadyStored
    );
    let orphans = orphans::list(&mut plane.read().await, &page()).await.unwrap();
    assert_eq!((orphans.total, orphans.items[0].serial), (1, Some(5)));
}

async fn interleaving_22_a_force_canceled_apply_keeps_the_lock_until_no_engine_can_be_alive(
    kind: DatabaseKind,
) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    plane
        .seed
        .set_pool(|settings| settings.times.cool_off = Millis::ZERO)
        .await;
    let (run, apply) = applying(&plane, &mut agent).await;
    plane.by_person(&run, Action::Cancel).await;
    plane.by_person(&run, Action::ForceCancel).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::ForceCanceled);
    assert!(matches!(plane.lock().await, Lock::Lost { safe_at: Some(_), .. }));
    assert_eq!(plane.current_serial().await, Some(1), "its newest copy");
    let told = plane
        .api("GET", &format!("runs/{}/whereabouts", run.id), None)
        .await;
    let told = told.json::<serde_json::Value>()["data"]["attributes"].clone();
    assert_eq!(told["place"], "may-still-be-running", "{told}");
    assert!(
        told["safe-at"].is_string() && told["agent"]["name"] == "one",
        "{told}"
    );
    // The agent is heard again after all.
    assert_eq!(agent.sync(Millis::ZERO).await.answers[0].verdict, Verdict::Kill);
    let finished: Finished = apply.try_finish(&apply.end(Outcome::Canceled)).await.ok();
    assert!(!finished.accepted);
    assert_eq!(plane.lock().await, Lock::Free);
    assert_eq!(plane.run(&run).await.status, RunStatus::ForceCanceled);
}

async fn interleaving_24_a_workspace_is_not_deleted_while_its_lock_is_held(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, apply) = applying(&plane, &mut agent).await;
    let path = format!("workspaces/{}", plane.seed.workspace);
    let safe = format!("{path}/actions/safe-delete");
    let refused = async |what: &str| {
        for answer in [
            plane.api("DELETE", &path, None).await,
            plane.api("POST", &safe, Some(json!({}))).await,
        ] {
            assert_eq!(answer.status, StatusCode::CONFLICT, "{what}");
            assert!(String::from_utf8_lossy(&answer.body).contains("locked"), "{what}");
        }
    };
    refused("applying").await;
    plane.seed.end_leases_at_once().await;
    plane.lose(&run).await;
    refused("lost").await;
    let state = json!({"version": 4, "serial": 8, "lineage": "line", "terraform_version": "1.11.4", "outputs": {},
        "resources": [{"mode": "managed", "type": "terraform_data", "name": "a",
            "provider": "provider[\"terraform.io/builtin/terraform\"]", "instances": [{"schema_version": 0}]}]});
    let state = state.to_string().into_bytes();
    assert_eq!(apply.state(8, "line", &state).await.fate, StateFate::Current);
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(8, "line", &state));
    let _: Finished = apply.try_finish(&end).await.ok();
    // What a run delivered is counted.
    let managed = plane.api("POST", &safe, Some(json!({}))).await;
    let text = String::from_utf8_lossy(&managed.body).into_owned();
    assert_eq!(managed.status, StatusCode::CONFLICT);
    assert!(
        text.contains("manages 1 resources") && !text.contains("locked"),
        "{text}"
    );
    assert_eq!(
        plane.api("DELETE", &path, None).await.status,
        StatusCode::NO_CONTENT
    );
}

async fn a_person_rolls_back_to_an_earlier_state_under_the_lock(kind: DatabaseKind) {
    let plane = plane(kind).await;
    apply_next(&plane, 1).await;
    let first = plane.current_state().await.unwrap();
    apply_next(&plane, 2).await;
    let path = format!("workspaces/{}/state-versions", plane.seed.workspace);
    let body = json!({"data": {"type": "state-versions", "relationships": {
        "rollback-state-version": {"data": {"type": "state-versions", "id": first.as_str()}}}}});
    let unlocked = plane.api("PATCH", &path, Some(body.clone())).await;
    assert_eq!(unlocked.status, StatusCode::CONFLICT);
    let lock = format!("workspaces/{}/actions/lock", plane.seed.workspace);
    assert_eq!(
        plane.api("POST", &lock, Some(json!({}))).await.status,
        StatusCode::OK
    );
    let nonsense = json!({"data": {"type": "state-versions"}});
    assert_eq!(
        plane.api("PATCH", &path, Some(nonsense)).await.status,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    let done = plane.api("PATCH", &path, Some(body)).await;
    assert_eq!(
        done.status,
        StatusCode::OK,
        "{}",
        String::from_utf8_lossy(&done.body)
    );
    let now = plane.current_state().await.unwrap();
    assert_ne!(now, first, "a copy");
    assert_eq!(plane.current_serial().await, Some(1));
    let bytes = plane
        .api("GET", &format!("state-versions/{now}/download"), None)
        .await
        .body;
    assert_eq!(bytes, b"next 1");
    assert!(plane.audited("state.roll-back").await);
    let entries = audit::newest(&mut plane.read().await, &plane.seed.organization, 50)
        .await
        .unwrap();
    assert!(
        entries
            .iter()
            .any(|entry| entry.actor == plane.seed.user.as_str())
    );
}

async fn a_drained_agent_is_told_so_at_once_and_gets_nothing_until_it_is_resumed(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let agent = plane.agent("one").await;
    let held = agent.clone();
    let waiting = tokio::spawn(async move { held.sync(super::support::HOLD).await });
    let id = &agent.registered.agent;
    let act = async |action: &str| {
        let path = format!("agents/{id}/actions/{action}");
        let answer = plane.api("POST", &path, Some(json!({}))).await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "{}",
            String::from_utf8_lossy(&answer.body)
        );
        answer.json::<serde_json::Value>()["data"]["attributes"]["drain-wanted"].clone()
    };
    assert_eq!(act("drain").await, true);
    assert!(waiting.await.unwrap().drain);
    plane.seed.create(plane.seed.new_run()).await;
    let drained = agent.sync(Millis::ZERO).await;
    assert!(drained.drain && drained.offers.is_empty());
    assert_eq!(act("resume").await, false);
    let resumed = agent.sync(super::support::HOLD).await;
    assert!(!resumed.drain);
    assert_eq!(resumed.offers.len(), 1);
    assert_eq!(resumed.offers[0].phase, Phase::Plan);
}

on_both!(
    interleaving_13_a_state_that_comes_after_another_run_applied_is_kept_apart,
    interleaving_14_an_override_starts_the_next_run_and_tells_the_old_attempt_to_stop,
    interleaving_18_after_a_restore_agents_surrender_and_their_states_are_kept_apart,
    interleaving_18_states_of_jobs_and_workspaces_that_a_backup_does_not_have_are_kept,
    interleaving_22_a_force_canceled_apply_keeps_the_lock_until_no_engine_can_be_alive,
    interleaving_24_a_workspace_is_not_deleted_while_its_lock_is_held,
    a_person_rolls_back_to_an_earlier_state_under_the_lock,
    a_drained_agent_is_told_so_at_once_and_gets_nothing_until_it_is_resumed,
);
