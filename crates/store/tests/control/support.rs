//! The steps that tests are made of.

use std::ops::Deref;

use terrapool_model::id::{AgentId, AttemptId, JobId, RunId};
use terrapool_model::job::Phase;
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::state_copy::Fate;
use terrapool_protocol::agent::Finish;
use terrapool_protocol::job::{FailureReason, Outcome, StateMark, Usage};
use terrapool_store::db::Connection;
use terrapool_store::error::StoreError;
use terrapool_store::jobs::{self, Ended, FinishError, JobRecord, NewClaim};
use terrapool_store::locks;
use terrapool_store::runs::{self, RunRecord, TransitionError};
use terrapool_store::state_copies::{self, NewCopy};
use terrapool_store::values;
use terrapool_testkit::database::{DatabaseKind, TestDatabase, database};
use terrapool_testkit::seed::Seed;

/// A database with rows.
pub(crate) struct World {
    seed: Seed,
    _database: TestDatabase,
}

impl Deref for World {
    type Target = Seed;
    fn deref(&self) -> &Seed {
        &self.seed
    }
}

pub(crate) async fn world(kind: DatabaseKind) -> World {
    let database = database(kind).await;
    World {
        seed: Seed::new(&database.db).await,
        _database: database,
    }
}

macro_rules! command {
    ($world:expr, $error:ty, [$($captured:ident = $value:expr),*], |$tx:ident| $body:expr) => {{
        $(
            #[allow(clippy::redundant_locals, reason = "the value may be a local already")]
            let $captured = $value;
        )*
        $world
            .db
            .write::<_, $error, _>(move |$tx| {
                $(let $captured = $captured.clone();)*
                Box::pin(async move { $body })
            })
            .await
    }};
}
pub(crate) use command;

pub(crate) type Done<T> = Result<T, TransitionError>;

/// An assignment.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) job: JobId,
    pub(crate) generation: u64,
    pub(crate) attempt: AttemptId,
}

impl World {
    pub(crate) async fn read(&self) -> Connection {
        self.db.read().await.unwrap()
    }

    pub(crate) async fn job(&self, run: &RunId, phase: Phase) -> JobRecord {
        jobs::of_run(&mut self.read().await, run, phase)
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn lock(&self) -> Workspace {
        let row = self
            .read()
            .await
            .fetch_one(
                "SELECT lock_state, lock_user_id, lock_run_id, lock_safe_at, lock_epoch, lost_run_id \
                 FROM workspaces WHERE id = $1",
                values![&self.workspace],
            )
            .await
            .unwrap();
        let lock = match row.text("lock_state").unwrap().as_str() {
            "free" => Lock::Free,
            "user" => Lock::User(row.parse("lock_user_id").unwrap()),
            "run" => Lock::Run(row.parse("lock_run_id").unwrap()),
            _ => Lock::Lost {
                run: row.parse("lock_run_id").unwrap(),
                safe_at: row.opt_time("lock_safe_at").unwrap(),
            },
        };
        Workspace {
            lock,
            lock_epoch: row.count("lock_epoch").unwrap(),
            lost_run: row.opt_parse("lost_run_id").unwrap(),
        }
    }

    pub(crate) async fn claim(&self, job: &JobId, agent: &AgentId, attempt: &AttemptId) -> Done<JobRecord> {
        let seen = jobs::get(&mut self.read().await, job)
            .await
            .unwrap()
            .unwrap()
            .row
            .generation;
        self.claim_seen(job, agent, attempt, seen).await
    }

    pub(crate) async fn claim_seen(
        &self,
        job: &JobId,
        agent: &AgentId,
        attempt: &AttemptId,
        generation_seen: u64,
    ) -> Done<JobRecord> {
        let new = NewClaim {
            job: job.clone(),
            generation_seen,
            attempt: attempt.clone(),
            agent: agent.clone(),
            session: 1,
            incarnation: self.incarnation,
        };
        command!(self, TransitionError, [new = new], |tx| jobs::claim(tx, &new)
            .await)
    }

    /// Claims the job of a phase by a new attempt.
    pub(crate) async fn hold(&self, run: &RunId, phase: Phase, agent: &AgentId) -> Held {
        let job = self.job(run, phase).await.id;
        let attempt = self.attempt();
        let claimed = self.claim(&job, agent, &attempt).await.unwrap();
        Held {
            job,
            generation: claimed.row.generation,
            attempt,
        }
    }

    pub(crate) async fn start(&self, held: &Held) -> Done<()> {
        command!(self, TransitionError, [held = held.clone()], |tx| {
            jobs::start(tx, &held.job, held.generation, &held.attempt).await
        })
    }

    pub(crate) async fn finish(&self, held: &Held, outcome: Outcome) -> Result<Ended, FinishError> {
        self.finish_with(held, outcome, None).await
    }

    pub(crate) async fn finish_with(
        &self,
        held: &Held,
        outcome: Outcome,
        state: Option<StateMark>,
    ) -> Result<Ended, FinishError> {
        let report = Finish {
            generation: held.generation,
            attempt: held.attempt.clone(),
            outcome,
            log_size: 0,
            log_sha256: String::new(),
            state,
            artifacts: Vec::new(),
            engine_sha256: None,
            engine: None,
            counts: None,
            usage: Usage::default(),
            memory: None,
        };
        command!(
            self,
            FinishError,
            [job = held.job.clone(), report = report],
            |tx| jobs::finish(tx, &job, &report).await
        )
    }

    pub(crate) async fn expire(&self, job: &JobId) -> Done<()> {
        // A lease of no length has ended a millisecond after the last contact.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        command!(self, TransitionError, [job = job.clone()], |tx| jobs::expire(
            tx, &job
        )
        .await)
    }

    pub(crate) async fn confirm(&self, run: &RunId) -> Done<RunRecord> {
        command!(
            self,
            TransitionError,
            [run = run.clone(), user = self.user.clone()],
            |tx| runs::confirm(tx, &run, Some(&user), Some("go")).await
        )
    }

    pub(crate) async fn cancel(&self, run: &RunId) -> Done<RunRecord> {
        command!(self, TransitionError, [run = run.clone()], |tx| runs::cancel(
            tx, &run, None, None
        )
        .await)
    }

    pub(crate) async fn force_cancel(&self, run: &RunId) -> Done<RunRecord> {
        command!(self, TransitionError, [run = run.clone()], |tx| {
            runs::force_cancel(tx, &run, None, None).await
        })
    }

    pub(crate) async fn discard(&self, run: &RunId) -> Done<RunRecord> {
        command!(self, TransitionError, [run = run.clone()], |tx| runs::discard(
            tx, &run, None, None
        )
        .await)
    }

    pub(crate) async fn end_quarantine(&self) -> Done<()> {
        command!(self, TransitionError, [id = self.workspace.clone()], |tx| {
            locks::end_quarantine(tx, &id).await
        })
    }

    /// A run whose plan has changes and waits for a person.
    pub(crate) async fn planned(&self, agent: &AgentId) -> RunRecord {
        let run = self.create(self.new_run()).await;
        let plan = self.hold(&run.id, Phase::Plan, agent).await;
        self.finish(&plan, succeeded(true)).await.unwrap();
        self.run(&run.id).await
    }

    /// A run whose apply was started.
    pub(crate) async fn applying(&self, agent: &AgentId) -> (RunRecord, Held) {
        let run = self.planned(agent).await;
        self.confirm(&run.id).await.unwrap();
        let apply = self.hold(&run.id, Phase::Apply, agent).await;
        self.start(&apply).await.unwrap();
        (self.run(&run.id).await, apply)
    }

    pub(crate) async fn upload(&self, held: &Held, serial: u64, digest: &str) -> Fate {
        let id = terrapool_model::id::StateVersionId::from_random(terrapool_testkit::seed::draw(&self.db));
        let copy = NewCopy {
            object_key: format!("states/{id}"),
            id,
            job: held.job.clone(),
            generation: held.generation,
            attempt: held.attempt.clone(),
            serial: Some(serial),
            lineage: Some("lineage".to_owned()),
            md5: "md5".to_owned(),
            sha256: digest.to_owned(),
            size: 1,
        };
        command!(self, TransitionError, [copy = copy], |tx| state_copies::store(
            tx, &copy
        )
        .await)
        .unwrap()
    }

    /// Serial of the current state.
    pub(crate) async fn current_serial(&self) -> Option<i64> {
        self.read()
            .await
            .fetch_optional(
                "SELECT s.serial FROM workspaces w JOIN state_versions s ON s.id = w.current_state_version_id \
                 WHERE w.id = $1",
                values![&self.workspace],
            )
            .await
            .unwrap()
            .and_then(|row| row.opt_int("serial").unwrap())
    }

    pub(crate) async fn set_epoch(&self, epoch: u64) {
        command!(self, StoreError, [id = self.workspace.clone()], |tx| {
            tx.execute(
                "UPDATE workspaces SET lock_epoch = $2 WHERE id = $1",
                values![&id, epoch],
            )
            .await
        })
        .unwrap();
    }
}

pub(crate) fn succeeded(changes: bool) -> Outcome {
    Outcome::Succeeded { changes }
}

pub(crate) fn failed() -> Outcome {
    Outcome::Failed {
        reason: FailureReason::Exit,
        message: "the engine failed".to_owned(),
    }
}

pub(crate) fn never_started() -> Outcome {
    Outcome::NeverStarted {
        message: "no sandbox".to_owned(),
    }
}

pub(crate) fn mark(serial: u64, digest: &str) -> StateMark {
    StateMark {
        serial: Some(serial),
        lineage: Some("lineage".to_owned()),
        sha256: digest.to_owned(),
        size: 1,
    }
}
