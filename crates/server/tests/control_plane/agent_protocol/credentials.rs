//! Who may do what: credentials, older processes, revoked tokens.

use axum::http::StatusCode;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{SyncMode, Verdict};
use terrapool_protocol::secret::Secret;
use terrapool_server::secrets;
use terrapool_store::agent_tokens;
use terrapool_store::error::StoreError;
use terrapool_store::runs::NewRun;
use terrapool_testkit::agent::{SimulatedAgent, read};
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::{HOLD, plane};

async fn credentials_open_only_their_own_doors(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let nonsense = Secret::new("tpa_nonsense");
    let refused = SimulatedAgent::try_register(
        &plane.router,
        &nonsense,
        &SimulatedAgent::registration("one", "1"),
    )
    .await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let mut agent = plane.agent("one").await;
    let (_, plan) = plane
        .planning(
            &mut agent,
            NewRun {
                plan_only: true,
                ..plane.seed.new_run()
            },
        )
        .await;
    let (_, other) = plane
        .planning(
            &mut agent,
            NewRun {
                plan_only: true,
                ..plane.seed.new_run()
            },
        )
        .await;
    let stolen = plan.with_credential(&other.credential);
    assert_eq!(stolen.try_log(0, b"x").await.status, StatusCode::UNAUTHORIZED);
    let session = plan.with_credential(&agent.registered.session_token);
    assert_eq!(session.bundle().await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        plan.try_state(1, "line", b"x").await.status,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        read(&plane.router, "/_logs/plan-1/AAAA?offset=0").await.status,
        StatusCode::NOT_FOUND
    );
}

async fn interleaving_27_an_older_process_finishes_what_it_holds_and_gets_nothing_new(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut old = plane.agent("one").await;
    let (run, plan) = plane.planning(&mut old, plane.seed.new_run()).await;
    let new = SimulatedAgent::register(&plane.router, &plane.token, "one", "2").await;
    assert_eq!(new.registered.agent, old.registered.agent);
    assert_eq!(new.registered.session, old.registered.session + 1);
    let synced = old.sync(HOLD).await;
    assert_eq!(
        (synced.mode, synced.answers[0].verdict),
        (SyncMode::FinishOnly, Verdict::Keep)
    );
    plane
        .seed
        .create(NewRun {
            plan_only: true,
            ..plane.seed.new_run()
        })
        .await;
    assert!(old.sync(Millis::ZERO).await.offers.is_empty());
    assert_eq!(new.sync(HOLD).await.offers.len(), 1);
    plane.end_plan(&mut old, &plan).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Planned);
    assert_eq!(old.try_sync(Millis::ZERO).await.status, StatusCode::GONE);
}

async fn a_revoked_token_lets_its_agents_finish_only(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (_, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    let hash = secrets::hash(plane.token.expose());
    plane
        .app
        .db
        .write::<_, StoreError, _>(move |tx| {
            let hash = hash.clone();
            Box::pin(async move {
                let token = agent_tokens::by_hash(tx, &hash)
                    .await?
                    .ok_or(StoreError::Reference)?;
                agent_tokens::revoke(tx, &token.id).await
            })
        })
        .await
        .unwrap();
    let again = SimulatedAgent::try_register(
        &plane.router,
        &plane.token,
        &SimulatedAgent::registration("two", "1"),
    )
    .await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    assert_eq!(agent.sync(HOLD).await.mode, SyncMode::FinishOnly);
    plane.end_plan(&mut agent, &plan).await;
    assert_eq!(
        agent.try_sync(Millis::ZERO).await.status,
        StatusCode::UNAUTHORIZED
    );
}

on_both!(
    credentials_open_only_their_own_doors,
    interleaving_27_an_older_process_finishes_what_it_holds_and_gets_nothing_new,
    a_revoked_token_lets_its_agents_finish_only,
);
