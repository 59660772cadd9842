//! A run from its plan to its end, and its logs.

use axum::http::StatusCode;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Finished, Incomplete, LogPosition, StateFate, Verdict};
use terrapool_protocol::job::{ArtifactName, Outcome, PartName, Phase};
use terrapool_server::reconcile;
use terrapool_store::artifacts;
use terrapool_testkit::agent::state_mark;
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::{Action, CONFIGURATION, plane};

async fn a_run_is_planned_confirmed_and_applied(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, mut plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    assert_eq!(plan.spec.workspace_name, "app");
    assert_eq!(plan.spec.organization, "acme");
    assert_eq!(
        plan.spec.parts.iter().map(|part| part.name).collect::<Vec<_>>(),
        [PartName::Configuration]
    );
    assert_eq!(plan.bundle().await.body, CONFIGURATION);
    plan.write_log(b"Terraform v1.11.4\n").await;
    plan.write_log(b"planning\n").await;
    let archive = plan.artifact(ArtifactName::PlanArchive, b"archive").await;
    let mut end = plan.end(Outcome::Succeeded { changes: true });
    end.artifacts = vec![archive];
    let finished: Finished = plan.try_finish(&end).await.ok();
    assert!(finished.accepted);
    agent.forget(&plan.key);
    let planned = plane.run(&run).await;
    assert_eq!(
        (planned.status, planned.has_changes),
        (RunStatus::Planned, Some(true))
    );
    assert_eq!(
        plane.ended_log(run.plan_id.as_str()).await,
        b"\x02Terraform v1.11.4\nplanning\n\x03"
    );
    plane.by_person(&run, Action::Confirm).await;
    let mut apply = agent.take(Phase::Apply, &plane.attempt()).await;
    assert_eq!(
        apply.spec.parts.iter().map(|part| part.name).collect::<Vec<_>>(),
        [PartName::Configuration, PartName::PlanArchive]
    );
    assert_eq!(apply.spec.engine_sha256, Some("e".repeat(64)));
    assert_eq!(apply.bundle().await.body, b"xarchive");
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    assert_eq!(plane.run(&run).await.status, RunStatus::Applying);
    apply.write_log(b"applying\n").await;
    assert_eq!(
        apply.state(1, "line", b"state one").await.fate,
        StateFate::Intermediate
    );
    assert_eq!(
        apply.state(1, "line", b"state one").await.fate,
        StateFate::AlreadyStored
    );
    let mut end = apply.end(Outcome::Succeeded { changes: false });
    end.state = Some(state_mark(2, "line", b"state two"));
    let early = apply.try_finish(&end).await;
    assert_eq!(early.status, StatusCode::CONFLICT);
    assert!(early.json::<Incomplete>().state_missing);
    apply.state(2, "line", b"state two").await;
    let finished: Finished = apply.try_finish(&end).await.ok();
    assert!(finished.accepted);
    let again: Finished = apply.try_finish(&end).await.ok();
    assert_eq!(again, finished);
    assert_eq!(plane.run(&run).await.status, RunStatus::Applied);
    assert_eq!(
        plane.ended_log(run.apply_id.as_str()).await,
        b"\x02applying\n\x03"
    );
    let synced = agent.sync(Millis::ZERO).await;
    assert_eq!(synced.answers[0].verdict, Verdict::Forget);
    // The archive holds all variables in clear.
    reconcile::sweep_objects(&plane.app).await.unwrap();
    let mut connection = plane.app.db.read().await.unwrap();
    let archive = artifacts::of_run(&mut connection, &run.id, ArtifactName::PlanArchive)
        .await
        .unwrap();
    assert_eq!(archive, None);
}

async fn discarding_a_run_ends_the_log_of_its_apply(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    plane.end_plan(&mut agent, &plan).await;
    plane.by_person(&run, Action::Discard).await;
    assert_eq!(plane.ended_log(run.apply_id.as_str()).await, b"\x02\x03");
}

async fn log_appends_answer_by_offset_and_a_finish_waits_for_the_whole_log(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (_, mut plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    plan.write_log(b"hello").await;
    let ahead = plan.try_log(9, b"x").await;
    assert_eq!(ahead.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(ahead.json::<LogPosition>().received, 5);
    let overlapping: LogPosition = plan.try_log(3, b"lo world").await.ok();
    assert_eq!(overlapping.received, 11);
    let mut end = plan.end(Outcome::Succeeded { changes: false });
    end.log_size = 20;
    let early = plan.try_finish(&end).await;
    assert_eq!(early.status, StatusCode::CONFLICT);
    assert_eq!(
        early.json::<Incomplete>().log,
        LogPosition {
            received: 11,
            durable: 11
        }
    );
    plan.log = b"hello world".to_vec();
    assert_eq!(
        plan.try_finish(&plan.end(Outcome::Succeeded { changes: false }))
            .await
            .status,
        StatusCode::OK
    );
}

on_both!(
    a_run_is_planned_confirmed_and_applied,
    discarding_a_run_ends_the_log_of_its_apply,
    log_appends_answer_by_offset_and_a_finish_waits_for_the_whole_log,
);
