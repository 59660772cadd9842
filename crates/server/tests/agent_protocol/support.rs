//! The control plane under test, and the steps that tests are made of.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use tempfile::TempDir;
use terrapool_model::id::AttemptId;
use terrapool_model::time::Millis;
use terrapool_objects::{Keyring, ObjectKey, Objects};
use terrapool_protocol::agent::Finished;
use terrapool_protocol::job::{ArtifactName, Outcome, Phase};
use terrapool_protocol::secret::Secret;
use terrapool_server::app::App;
use terrapool_server::config::Config;
use terrapool_server::http;
use terrapool_server::http::logs::log_read_url;
use terrapool_server::http::rate_limit::RateLimiter;
use terrapool_server::logs::LogStore;
use terrapool_server::presence::Presence;
use terrapool_server::reconcile::{self, Reconcilers};
use terrapool_server::secrets::{self, TokenKind};
use terrapool_store::agent_tokens;
use terrapool_store::error::StoreError;
use terrapool_store::runs::{self, NewRun, RunRecord, TransitionError};
use terrapool_testkit::agent::{Attempt, SimulatedAgent, read};
use terrapool_testkit::database::{DatabaseKind, TestDatabase, database};
use terrapool_testkit::seed::Seed;

pub(crate) const HOLD: Millis = Millis::from_seconds(20);
pub(crate) const CONFIGURATION: &[u8] = b"x";

/// A control plane's routes on a database of its own.
pub(crate) struct Plane {
    pub(crate) app: App,
    pub(crate) seed: Seed,
    pub(crate) router: Router,
    pub(crate) token: Secret,
    _reconcilers: Reconcilers,
    _database: TestDatabase,
    _folder: TempDir,
}

pub(crate) async fn plane(kind: DatabaseKind) -> Plane {
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

/// What a person does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Confirm,
    Discard,
    Cancel,
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
