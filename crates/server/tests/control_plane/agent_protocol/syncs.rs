//! What a sync answers, and when.

use axum::http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{AttemptStage, Finished, SyncMode, Verdict};
use terrapool_protocol::job::Outcome;
use terrapool_store::runs::NewRun;
use terrapool_testkit::agent::reason;
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::{Action, HOLD, plane};

async fn a_held_sync_is_answered_at_once_when_there_is_work(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let agent = plane.agent("one").await;
    let waiting = tokio::spawn(async move { agent.sync(HOLD).await });
    tokio::task::yield_now().await;
    let started = tokio::time::Instant::now();
    let run = plane.seed.create(plane.seed.new_run()).await;
    let synced = waiting.await.unwrap();
    assert_eq!(synced.offers.len(), 1);
    assert_eq!(synced.offers[0].run, run.id);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "no timer was waited for"
    );
}

async fn a_sync_without_news_is_held_and_then_answered(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let agent = plane.agent("one").await;
    let started = tokio::time::Instant::now();
    let synced = agent.sync(Millis(300)).await;
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(synced.offers.is_empty() && synced.answers.is_empty());
    assert_eq!(synced.mode, SyncMode::Normal);
}

async fn a_held_sync_is_answered_when_the_server_stops(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let agent = plane.agent("one").await;
    let started = tokio::time::Instant::now();
    let waiting = tokio::spawn(async move { agent.sync(HOLD).await });
    // Whether it is held by now or arrives later: no answer is held any more.
    tokio::task::yield_now().await;
    plane.app.presence.stop_holding();
    let synced = waiting.await.unwrap();
    assert!(synced.offers.is_empty() && synced.answers.is_empty());
    assert!(started.elapsed() < Duration::from_secs(4));
}

async fn a_cancel_reaches_the_attempt_through_a_held_sync(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    agent.stage(&plan.key, AttemptStage::Running);
    let waiting = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.sync(HOLD).await })
    };
    tokio::task::yield_now().await;
    let started = tokio::time::Instant::now();
    plane.by_person(&run, Action::Cancel).await;
    assert_eq!(waiting.await.unwrap().answers[0].verdict, Verdict::Cancel);
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "no timer was waited for"
    );
    // An attempt that is stopping knows it; its syncs are held again.
    agent.stage(&plan.key, AttemptStage::Stopping);
    let started = tokio::time::Instant::now();
    assert_eq!(agent.sync(Millis(300)).await.answers[0].verdict, Verdict::Cancel);
    assert!(started.elapsed() >= Duration::from_millis(300));
    let finished: Finished = plan.try_finish(&plan.end(Outcome::Canceled)).await.ok();
    assert!(finished.accepted);
    assert_eq!(plane.run(&run).await.status, RunStatus::Canceled);
    // Both logs end, also the one of the apply that never was.
    plane.ended_log(run.plan_id.as_str()).await;
    assert_eq!(plane.ended_log(run.apply_id.as_str()).await, b"\x02\x03");
}

async fn a_job_is_offered_to_one_agent_and_claimed_by_one_attempt(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let (one, two) = (plane.agent("one").await, plane.agent("two").await);
    plane.seed.create(plane.seed.new_run()).await;
    let offer = one.sync(HOLD).await.offers.remove(0);
    assert!(two.sync(Millis::ZERO).await.offers.is_empty());
    let attempt = plane.attempt();
    let first = one.try_claim(&offer.job, offer.generation, &attempt).await;
    assert_eq!(first.status, StatusCode::OK);
    let again = one.try_claim(&offer.job, offer.generation, &attempt).await;
    assert_eq!(
        again.body, first.body,
        "a repeated claim gets the same answer, credential included"
    );
    let other = two
        .try_claim(&offer.job, offer.generation, &plane.attempt())
        .await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert!(reason(&other).contains("another attempt"), "{}", reason(&other));
}

async fn no_more_is_offered_than_an_agent_has_slots(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    for _ in 0..4 {
        plane
            .seed
            .create(NewRun {
                plan_only: true,
                ..plane.seed.new_run()
            })
            .await;
    }
    agent.capacity.free_slots = 2;
    assert_eq!(agent.sync(HOLD).await.offers.len(), 2);
    agent.capacity.free_slots = 0;
    assert!(agent.sync(Millis::ZERO).await.offers.is_empty());
    agent.capacity.free_slots = 4;
    agent.draining = true;
    let synced = agent.sync(Millis::ZERO).await;
    assert!(synced.offers.is_empty());
    assert_eq!(synced.mode, SyncMode::FinishOnly);
}

async fn a_cancel_of_a_job_that_was_claimed_after_the_sync_ends_the_sync(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    // What the held sync knows of it: nothing.
    let before = agent.clone();
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    let hold = Millis::from_seconds(600);
    plane.seed.set_pool(|settings| settings.times.hold = hold).await;
    let waiting = tokio::spawn(async move { before.sync(hold).await });
    plane.by_person(&run, Action::Cancel).await;
    let answered = tokio::time::timeout(Duration::from_secs(120), waiting).await;
    assert!(answered.unwrap().unwrap().answers.is_empty());
    agent.stage(&plan.key, AttemptStage::Running);
    // The next one names it, and is not held either.
    let answered = tokio::time::timeout(Duration::from_secs(120), agent.sync(hold)).await;
    assert_eq!(answered.unwrap().answers[0].verdict, Verdict::Cancel);
}

async fn a_paused_pool_gives_nothing_out_and_its_runs_say_so(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let agent = plane.agent("one").await;
    let pool = format!("agent-pools/{}", plane.seed.pool);
    let pause = |paused: bool| {
        let body = json!({"data": {"type": "agent-pools", "attributes": {"paused": paused}}});
        plane.api("PATCH", &pool, Some(body))
    };
    let run = plane.seed.create(plane.seed.new_run()).await;
    let path = format!("runs/{}", run.id);
    let before = agent.sync(HOLD).await;
    assert_eq!(before.offers.len(), 1);
    let paused: Value = pause(true).await.json();
    assert_eq!(paused["data"]["attributes"]["paused"], true);
    // What was offered before is not given out any more either.
    let offer = &before.offers[0];
    let refused = agent
        .try_claim(&offer.job, offer.generation, &plane.attempt())
        .await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(agent.sync(Millis(100)).await.offers.is_empty());
    let waits: Value = plane.api("GET", &path, None).await.json();
    let reason = &waits["data"]["attributes"]["wait-reason"];
    assert_eq!(
        (&reason["reason"], &reason["stalled"]),
        (&json!("paused"), &json!(true))
    );
    // The end of the pause reaches a sync that is held.
    let held = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.sync(HOLD).await })
    };
    let resumed: Value = pause(false).await.json();
    assert_eq!(resumed["data"]["attributes"]["paused"], false);
    assert_eq!(held.await.unwrap().offers.len(), 1);
    let waits: Value = plane.api("GET", &path, None).await.json();
    assert_ne!(waits["data"]["attributes"]["wait-reason"]["reason"], "paused");
}

on_both!(
    a_paused_pool_gives_nothing_out_and_its_runs_say_so,
    a_cancel_of_a_job_that_was_claimed_after_the_sync_ends_the_sync,
    a_held_sync_is_answered_at_once_when_there_is_work,
    a_sync_without_news_is_held_and_then_answered,
    a_held_sync_is_answered_when_the_server_stops,
    a_cancel_reaches_the_attempt_through_a_held_sync,
    a_job_is_offered_to_one_agent_and_claimed_by_one_attempt,
    no_more_is_offered_than_an_agent_has_slots,
);
