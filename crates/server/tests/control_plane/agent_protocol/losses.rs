//! Agents that fall silent and come back.

use axum::http::StatusCode;
use terrapool_model::run::{Aftermath, RunStatus};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{AttemptStage, Finished, StateFate, Verdict};
use terrapool_protocol::job::{ArtifactName, Outcome, Phase};
use terrapool_server::reconcile::Leases;
use terrapool_store::runs::NewRun;
use terrapool_testkit::agent::state_mark;
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::{HOLD, eventually, plane};

async fn a_silent_plan_is_made_again_and_the_old_attempt_is_told_to_stop(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, mut old) = plane.planning(&mut agent, plane.seed.new_run()).await;
    old.write_log(b"first\n").await;
    plane.seed.end_leases_at_once().await;
    eventually("the plan is queued again", async || {
        Leases::new().expire(&plane.app).await.unwrap();
        (plane.run(&run).await.status == RunStatus::PlanQueued).then_some(())
    })
    .await;
    plane
        .seed
        .set_pool(|settings| *settings = Default::default())
        .await;
    let mut other = plane.agent("two").await;
    let mut new = other.take(Phase::Plan, &plane.attempt()).await;
    new.write_log(b"second\n").await;
    agent.stage(&old.key, AttemptStage::Running);
    agent.capacity.free_slots = 0;
    assert_eq!(agent.sync(HOLD).await.answers[0].verdict, Verdict::Kill);
    old.write_log(b"stopped\n").await;
    let finished: Finished = old.try_finish(&old.end(Outcome::Canceled)).await.ok();
    assert!(!finished.accepted);
    plane.end_plan(&mut other, &new).await;
    let log = String::from_utf8(plane.ended_log(run.plan_id.as_str()).await).unwrap();
    assert!(
        log.contains("first\n") && log.contains("second\n") && !log.contains("stopped"),
        "{log:?}"
    );
}

/// The archive of a plan that no run will apply is not kept, so the end of its attempt must not wait for it.
async fn a_plan_that_was_lost_for_good_ends_although_its_archive_is_not_kept(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, mut plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    plane.seed.end_leases_at_once().await;
    for tries in 1.. {
        eventually("the plan is given up", async || {
            Leases::new().expire(&plane.app).await.unwrap();
            (plane.run(&run).await.status != RunStatus::Planning).then_some(())
        })
        .await;
        if plane.run(&run).await.status == RunStatus::Errored {
            break;
        }
        assert!(tries < 10, "it is tried for ever");
        plane.usual_times().await;
        plan = agent.take(Phase::Plan, &plane.attempt()).await;
        plane.seed.end_leases_at_once().await;
    }
    let mut end = plan.end(Outcome::Succeeded { changes: true });
    end.artifacts = vec![plan.artifact(ArtifactName::PlanArchive, b"archive").await];
    let finished: Finished = plan.try_finish(&end).await.ok();
    assert!(!finished.accepted);
}

async fn interleaving_11_a_lost_apply_finishes_late_and_frees_its_workspace(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, plan) = plane
        .planning(
            &mut agent,
            NewRun {
                auto_apply: true,
                ..plane.seed.new_run()
            },
        )
        .await;
    plane.end_plan(&mut agent, &plan).await;
    let mut apply = agent.take(Phase::Apply, &plane.attempt()).await;
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    apply.write_log(b"creating\n").await;
    plane.seed.end_leases_at_once().await;
    eventually("the apply is lost", async || {
        Leases::new().expire(&plane.app).await.unwrap();
        (plane.run(&run).await.status == RunStatus::Errored).then_some(())
    })
    .await;
    assert_eq!(
        plane.ended_log(run.apply_id.as_str()).await,
        b"\x02creating\n\x03"
    );
    agent.stage(&apply.key, AttemptStage::Running);
    assert_eq!(agent.sync(Millis::ZERO).await.answers[0].verdict, Verdict::Keep);
    apply.write_log(b"created\n").await;
    assert_eq!(apply.state(1, "line", b"state").await.fate, StateFate::Current);
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(1, "line", b"state"));
    let finished: Finished = apply.try_finish(&end).await.ok();
    assert!(!finished.accepted);
    let run = plane.run(&run).await;
    assert_eq!(
        (run.status, run.aftermath),
        (RunStatus::Errored, Aftermath::Delivered)
    );
    let next = plane.seed.create(plane.seed.new_run()).await;
    assert_eq!(next.status, RunStatus::PlanQueued, "the lock is free");
}

on_both!(
    a_silent_plan_is_made_again_and_the_old_attempt_is_told_to_stop,
    a_plan_that_was_lost_for_good_ends_although_its_archive_is_not_kept,
    interleaving_11_a_lost_apply_finishes_late_and_frees_its_workspace,
);
