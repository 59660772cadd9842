//! What pools refuse: agents whose sandboxes run as root, and logs above their limit.

use axum::http::StatusCode;
use serde_json::json;
use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_testkit::agent::SimulatedAgent;
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::plane;

async fn an_agent_with_root_in_its_sandboxes_is_given_nothing_where_the_pool_refuses_it(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let run = plane.seed.create(plane.seed.new_run()).await;
    let offered = agent.sync(Millis::ZERO).await.offers;
    assert_eq!(offered.len(), 1);
    // The same process says so, after it was offered the run.
    let mut register = SimulatedAgent::registration("one", "1");
    register.root = true;
    let again = SimulatedAgent::try_register(&plane.router, &plane.token, &register).await;
    assert_eq!(again.status, StatusCode::OK);
    let path = format!("agent-pools/{}", plane.seed.pool);
    let allow = async |allowed: bool| {
        let body = json!({"data": {"attributes": {"sandbox": {"root-allowed": allowed}}}});
        let answer = plane.api("PATCH", &path, Some(body)).await;
        assert_eq!(answer.status, StatusCode::OK);
    };
    allow(false).await;
    let claim = agent
        .try_claim(&offered[0].job, offered[0].generation, &plane.attempt())
        .await;
    assert_eq!(claim.status, StatusCode::CONFLICT);
    let synced = agent.sync(Millis::ZERO).await;
    assert!(synced.offers.is_empty() && synced.settings.root_refused);
    let waits = plane.api("GET", &format!("runs/{}", run.id), None).await;
    let waits: serde_json::Value = waits.json();
    let reason = &waits["data"]["attributes"]["wait-reason"];
    assert_eq!(
        (&reason["reason"], &reason["agents"]),
        (&json!("root-refused"), &json!(1))
    );
    allow(true).await;
    agent.take(Phase::Plan, &plane.attempt()).await;
}

async fn a_log_ends_at_its_limit(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (_, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    let limit = plan.spec.limits.log_mb << 20;
    // What runner and agent say about it still fits.
    let beyond = plan.try_log(limit + (1 << 20), b"x").await;
    assert_eq!(beyond.status, StatusCode::PAYLOAD_TOO_LARGE);
    let gap = plan.try_log(limit, b"x").await;
    assert_eq!(gap.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

on_both!(
    an_agent_with_root_in_its_sandboxes_is_given_nothing_where_the_pool_refuses_it,
    a_log_ends_at_its_limit,
);
