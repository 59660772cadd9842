//! The control plane under test, and the steps that tests are made of.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use terrapool_model::id::{AgentPoolId, AttemptId, JobId, RunId, StateVersionId};
use terrapool_model::job::Job;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;
use terrapool_objects::{Keyring, ObjectKey, Objects};
use terrapool_protocol::agent::{Finished, LogPosition};
use terrapool_protocol::job::{ArtifactName, Outcome, Phase};
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
use terrapool_store::api_tokens::{self, NewApiToken, TokenOwner};
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::jobs::{self, JobRecord};
use terrapool_store::page::Page;
use terrapool_store::pools::{self, NewPool};
use terrapool_store::runs::{self, NewRun, RunRecord, TransitionError};
use terrapool_store::{agent_tokens, audit, state_versions, workspaces};
use terrapool_testkit::agent::{Answer, Attempt, SimulatedAgent, api, read};
use terrapool_testkit::database::{DatabaseKind, TestDatabase, database, open};
use terrapool_testkit::seed::Seed;

pub(crate) const HOLD: Millis = Millis::from_seconds(20);
pub(crate) const CONFIGURATION: &[u8] = b"x";

/// A control plane's routes on a database of its own.
pub(crate) struct Plane {
    pub(crate) app: App,
    pub(crate) seed: Seed,
    pub(crate) router: Router,
    pub(crate) token: Secret,
    reconcilers: Option<Reconcilers>,
    pub(crate) user_token: Secret,
    database: TestDatabase,
    _folder: TempDir,
}

pub(crate) async fn plane(kind: DatabaseKind) -> Plane {
    plane_on(database(kind).await).await
}

/// A control plane on a database that is open already.
pub(crate) async fn plane_on(database: TestDatabase) -> Plane {
    let folder = tempfile::tempdir().unwrap();
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
        log_lines: Default::default(),
        presence: Presence::default(),
        rate_limiter: RateLimiter::default(),
        sign_in_attempts: terrapool_server::auth::attempts::Attempts::default(),
        fetches: terrapool_server::packages::Fetches::default(),
        refusals: terrapool_server::refusals::Refusals::default(),
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
    let user_token = secrets::new_token(TokenKind::User, app.db.entropy().as_ref());
    let new = NewApiToken {
        hash: secrets::hash(user_token.expose()),
        owner: TokenOwner::User(seed.user.clone()),
        description: "tests".to_owned(),
        created_by: None,
        expires_at: None,
    };
    app.db
        .write::<_, StoreError, _>(move |tx| {
            let new = new.clone();
            Box::pin(async move { api_tokens::create(tx, &new).await })
        })
        .await
        .unwrap();
    Plane {
        router: http::router(&app),
        reconcilers: Some(reconcile::start(app.clone())),
        app,
        seed,
        token,
        user_token,
        database,
        _folder: folder,
    }
}

/// Another process of the same control plane; objects and logs are shared.
pub(crate) struct Replica {
    pub(crate) app: App,
    pub(crate) router: Router,
}

impl Plane {
    /// Background work is done by hand from now on.
    pub(crate) async fn stop_reconcilers(&mut self) {
        if let Some(reconcilers) = self.reconcilers.take() {
            reconcilers.stop(&self.app).await;
        }
    }

    pub(crate) async fn replica(&self) -> Replica {
        let app = App {
            db: open(&self.database.address).await,
            presence: Presence::default(),
            ..self.app.clone()
        };
        Replica {
            router: http::router(&app),
            app,
        }
    }

    pub(crate) async fn read(&self) -> Connection {
        self.app.db.read().await.unwrap()
    }

    pub(crate) async fn job_row(&self, id: &JobId) -> Job {
        jobs::get(&mut self.read().await, id).await.unwrap().unwrap().row
    }

    pub(crate) async fn job_of(&self, run: &RunId, phase: Phase) -> JobRecord {
        jobs::of_run(&mut self.read().await, run, phase)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn lock(&self) -> Lock {
        workspaces::get(&mut self.read().await, &self.seed.workspace)
            .await
            .unwrap()
            .unwrap()
            .lock
    }

    pub(crate) async fn current_state(&self) -> Option<StateVersionId> {
        let current = state_versions::current(&mut self.read().await, &self.seed.workspace).await;
        current.unwrap().map(|version| version.id)
    }

    pub(crate) async fn current_serial(&self) -> Option<u64> {
        let current = state_versions::current(&mut self.read().await, &self.seed.workspace).await;
        current.unwrap().and_then(|version| version.serial)
    }

    /// A run whose apply the agent has claimed, and not started.
    pub(crate) async fn claimed_apply(&self, agent: &mut SimulatedAgent) -> (RunRecord, Attempt) {
        let (run, plan) = self.planning(agent, self.seed.new_run()).await;
        self.end_plan(agent, &plan).await;
        self.by_person(&run, Action::Confirm).await;
        let apply = agent.take(Phase::Apply, &self.attempt()).await;
        (run, apply)
    }

    /// Sends a whole log until it has arrived, and tells how long it is.
    pub(crate) async fn log_through(&self, attempt: &Attempt, bytes: &[u8]) -> u64 {
        let position: LogPosition = attempt.try_log(0, bytes).await.ok();
        position.received
    }

    /// Waits until the server gives a run's job up.
    pub(crate) async fn lose(&self, run: &RunRecord) {
        eventually("the run is given up", async || {
            Leases::new().expire(&self.app).await.unwrap();
            (self.run(run).await.status == RunStatus::Errored).then_some(())
        })
        .await;
    }

    /// Waits until the workspace's lock is free.
    pub(crate) async fn freed(&self) {
        eventually("the lock is free", async || {
            (self.lock().await == Lock::Free).then_some(())
        })
        .await;
    }

    /// Leases end at once, and so do quarantines.
    pub(crate) async fn end_quarantines_at_once(&self) {
        self.seed.end_leases_at_once().await;
        self.seed
            .set_pool(|settings| {
                settings.times.contact_limit_apply = Some(Millis::ZERO);
                settings.times.grace_apply = Millis::ZERO;
                settings.times.kill_after = Millis::ZERO;
                settings.times.margin = Millis::ZERO;
            })
            .await;
    }

    pub(crate) async fn usual_times(&self) {
        self.seed
            .set_pool(|settings| settings.times = Default::default())
            .await;
    }

    pub(crate) async fn other_pool(&self) -> AgentPoolId {
        let new = NewPool {
            organization_id: self.seed.organization.clone(),
            name: "other".to_owned(),
            access: Default::default(),
            settings: Default::default(),
        };
        let made = self
            .app
            .db
            .write::<_, StoreError, _>(move |tx| {
                let new = new.clone();
                Box::pin(async move { pools::create(tx, &new).await })
            })
            .await;
        made.unwrap().id
    }

    /// Revokes the agents' token, as a person does through the API.
    pub(crate) async fn revoke(&self, cut_off: bool) {
        let hash = secrets::hash(self.token.expose());
        let token = agent_tokens::by_hash(&mut self.read().await, &hash)
            .await
            .unwrap()
            .unwrap();
        let path = format!("authentication-tokens/{}?cut-off={cut_off}", token.id);
        let answer = self.api("DELETE", &path, None).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
    }

    /// A request of the API by the organization's owner.
    pub(crate) async fn api(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let method = method.parse().unwrap();
        api(&self.router, &self.user_token, method, path, body.as_ref()).await
    }

    /// Whether something is in the organization's audit log.
    pub(crate) async fn audited(&self, action: &str) -> bool {
        let entries = audit::newest(&mut self.read().await, &self.seed.organization, 100).await;
        entries.unwrap().iter().any(|entry| entry.action == action)
    }

    /// A person's action is refused.
    pub(crate) async fn refused_by(&self, run: &RunRecord, action: Action) {
        let refused = self.try_by_person(run, action).await;
        assert!(matches!(refused, Err(TransitionError::Refused(_))), "{refused:?}");
    }

    pub(crate) async fn agent(&self, name: &str) -> SimulatedAgent {
        SimulatedAgent::register(&self.router, &self.token, name, "1").await
    }

    pub(crate) fn attempt(&self) -> AttemptId {
        self.seed.attempt()
    }

    pub(crate) async fn run(&self, run: &RunRecord) -> RunRecord {
        self.seed.run(&run.id).await
    }

    /// A new run whose plan the agent holds.
    pub(crate) async fn planning(&self, agent: &mut SimulatedAgent, new: NewRun) -> (RunRecord, Attempt) {
        let run = self.seed.create(new).await;
        let plan = agent.take(Phase::Plan, &self.attempt()).await;
        (run, plan)
    }

    /// Ends a plan with changes.
    pub(crate) async fn end_plan(&self, agent: &mut SimulatedAgent, plan: &Attempt) {
        let mut end = plan.end(Outcome::Succeeded { changes: true });
        end.artifacts = vec![plan.artifact(ArtifactName::PlanArchive, b"archive").await];
        let finished: Finished = plan.try_finish(&end).await.ok();
        assert!(finished.accepted);
        agent.forget(&plan.key);
    }

    pub(crate) async fn by_person(&self, run: &RunRecord, action: Action) {
        self.try_by_person(run, action).await.unwrap();
    }

    async fn try_by_person(&self, run: &RunRecord, action: Action) -> Result<RunRecord, TransitionError> {
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
                        Action::ForceCancel => runs::force_cancel(tx, &id, None, None).await,
                    }
                })
            })
            .await
    }

    pub(crate) async fn log(&self, id: &str) -> Vec<u8> {
        let url = log_read_url(&self.app, id);
        let path = url.strip_prefix("https://localhost").unwrap();
        let answer = read(&self.router, &format!("{path}?limit=65536&offset=0")).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.body
    }

    /// The log once it has ended.
    pub(crate) async fn ended_log(&self, id: &str) -> Vec<u8> {
        eventually("the log ends", async || {
            let log = self.log(id).await;
            (log.last() == Some(&3)).then_some(log)
        })
        .await
    }
}

/// The first page of a list.
pub(crate) fn page() -> Page {
    Page::first(20)
}

/// What a person does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Confirm,
    Discard,
    Cancel,
    ForceCancel,
}

pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
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
