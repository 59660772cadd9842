//! The agent protocol, spoken by simulated agents to the routes of a control plane in this process.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use tempfile::TempDir;
use terrapool_model::id::AttemptId;
use terrapool_model::run::{Aftermath, RunStatus};
use terrapool_model::time::Millis;
use terrapool_objects::{Keyring, ObjectKey, Objects};
use terrapool_protocol::agent::{
    AttemptStage, Finished, Incomplete, LogPosition, StateFate, SyncMode, Verdict,
};
use terrapool_protocol::job::{ArtifactName, Outcome, PartName, Phase};
use terrapool_protocol::secret::Secret;
use terrapool_server::app::App;
use terrapool_server::config::Config;
use terrapool_server::http;
use terrapool_server::http::logs::log_read_url;
use terrapool_server::http::rate_limit::RateLimiter;
use terrapool_server::logs::LogStore;
use terrapool_server::presence::Presence;
use terrapool_server::reconcile::{self, Leases, Reconcilers};
use terrapool_server::secrets::{self, TokenKind};
use terrapool_store::error::StoreError;
use terrapool_store::runs::{self, NewRun, RunRecord, TransitionError};
use terrapool_store::{agent_tokens, artifacts};
use terrapool_testkit::agent::{Attempt, SimulatedAgent, read, reason, state_mark};
use terrapool_testkit::database::{DatabaseKind, TestDatabase, database};
use terrapool_testkit::seed::Seed;

const HOLD: Millis = Millis::from_seconds(20);
const CONFIGURATION: &[u8] = b"x";

/// Runs each test on both databases.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::DatabaseKind::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::DatabaseKind::Postgres).await;
            })*
        }
    };
}

on_both! {
    a_run_is_planned_confirmed_and_applied
    a_held_sync_is_answered_at_once_when_there_is_work
    a_sync_without_news_is_held_and_then_answered
    a_held_sync_is_answered_when_the_server_stops
    a_cancel_reaches_the_attempt_through_a_held_sync
    discarding_a_run_ends_the_log_of_its_apply
    a_job_is_offered_to_one_agent_and_claimed_by_one_attempt
    no_more_is_offered_than_an_agent_has_slots
    credentials_open_only_their_own_doors
    log_appends_answer_by_offset_and_a_finish_waits_for_the_whole_log
    an_older_process_finishes_what_it_holds_and_gets_nothing_new
    a_revoked_token_lets_its_agents_finish_only
    a_silent_plan_is_made_again_and_the_old_attempt_is_told_to_stop
    a_lost_apply_finishes_late_and_frees_its_workspace
}

struct Plane {
    app: App,
    seed: Seed,
    router: Router,
    token: Secret,
    _reconcilers: Reconcilers,
    _database: TestDatabase,
    _folder: TempDir,
}

async fn plane(kind: DatabaseKind) -> Plane {
    let folder = tempfile::tempdir().unwrap();
    let database = database(kind).await;
    let seed = Seed::new(&database.db).await;
    let keyring = Arc::new(Keyring::open_or_create(&folder.path().join("keyring")).unwrap());
    let objects = Objects::open(&folder.path().join("objects"), keyring).unwrap();
    let key = ObjectKey::new(format!("configurations/{}", seed.configuration)).unwrap();
    objects
        .put(&key, seed.configuration.as_str(), CONFIGURATION)
        .await
        .unwrap();
    let config = Config {
        public_url: "https://localhost".to_owned(),
        ..Config::in_folder(folder.path())
    };
    let app = App {
        db: database.db.clone(),
        objects,
        logs: LogStore::open(&folder.path().join("logs")).unwrap(),
        presence: Presence::default(),
        rate_limiter: RateLimiter::default(),
        config: Arc::new(config),
    };
    let token = secrets::new_token(TokenKind::Agent, app.db.entropy().as_ref());
    let (pool, hash) = (seed.pool.clone(), secrets::hash(token.expose()));
    app.db
        .write::<_, StoreError, _>(move |tx| {
            let (pool, hash) = (pool.clone(), hash.clone());
            Box::pin(async move { agent_tokens::create(tx, &pool, &hash, "agents", None, None).await })
        })
        .await
        .unwrap();
    Plane {
        router: http::router(&app),
        _reconcilers: reconcile::start(app.clone()),
        app,
        seed,
        token,
        _database: database,
        _folder: folder,
    }
}

impl Plane {
    async fn agent(&self, name: &str) -> SimulatedAgent {
        SimulatedAgent::register(&self.router, &self.token, name, "1").await
    }

    fn attempt(&self) -> AttemptId {
        self.seed.attempt()
    }

    async fn run(&self, run: &RunRecord) -> RunRecord {
        self.seed.run(&run.id).await
    }

    /// A new run whose plan the agent holds.
    async fn planning(&self, agent: &mut SimulatedAgent, new: NewRun) -> (RunRecord, Attempt) {
        let run = self.seed.create(new).await;
        let plan = agent.take(Phase::Plan, &self.attempt()).await;
        (run, plan)
    }

    /// Ends a plan with changes.
    async fn end_plan(&self, agent: &mut SimulatedAgent, plan: &Attempt) {
        let mut end = plan.end(Outcome::Succeeded { changes: true });
        end.artifacts = vec![plan.artifact(ArtifactName::PlanArchive, b"archive").await];
        let finished: Finished = plan.try_finish(&end).await.ok();
        assert!(finished.accepted);
        agent.forget(&plan.key);
    }

    async fn by_person(&self, run: &RunRecord, action: Action) {
        let id = run.id.clone();
        self.app
            .db
            .write::<_, TransitionError, _>(move |tx| {
                let id = id.clone();
                Box::pin(async move {
                    match action {
                        Action::Confirm => runs::confirm(tx, &id, None, None).await,
                        Action::Discard => runs::discard(tx, &id, None, None).await,
                        Action::Cancel => runs::cancel(tx, &id, None, None).await,
                    }
                })
            })
            .await
            .unwrap();
    }

    async fn log(&self, id: &str) -> Vec<u8> {
        let url = log_read_url(&self.app, id);
        let path = url.strip_prefix("https://localhost").unwrap();
        let answer = read(&self.router, &format!("{path}?limit=65536&offset=0")).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.body
    }

    /// The log once it has ended.
    async fn ended_log(&self, id: &str) -> Vec<u8> {
        eventually("the log ends", async || {
            let log = self.log(id).await;
            (log.last() == Some(&3)).then_some(log)
        })
        .await
    }
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Confirm,
    Discard,
    Cancel,
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "it did not happen: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

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

async fn discarding_a_run_ends_the_log_of_its_apply(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    plane.end_plan(&mut agent, &plan).await;
    plane.by_person(&run, Action::Discard).await;
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

async fn an_older_process_finishes_what_it_holds_and_gets_nothing_new(kind: DatabaseKind) {
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

async fn a_lost_apply_finishes_late_and_frees_its_workspace(kind: DatabaseKind) {
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
