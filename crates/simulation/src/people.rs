//! People: they make runs, confirm, discard and cancel them, and lose their patience.

use terrapool_model::id::{AttemptId, RunId, WorkspaceId};
use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_store::runs::{self, NewRun, RunRecord, TransitionError};
use terrapool_store::{jobs, locks, workspaces};

use crate::world::{World, short};

/// A run, as people last saw it.
#[derive(Debug, Clone)]
pub(crate) struct RunRow {
    pub(crate) workspace: WorkspaceId,
    pub(crate) status: RunStatus,
    /// It will be cancelled when it has come so far.
    cancels: Option<Impatience>,
    /// It is discarded instead of confirmed.
    discards: bool,
    cancelled_at: Option<u64>,
}

/// How far somebody lets a run come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Impatience {
    Anywhere,
    WhileApplying {
        by_force: bool,
    },
    /// The lock of a lost apply is taken away.
    Override,
}

/// What somebody does to a run.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Confirm,
    Discard,
    Cancel,
    ForceCancel,
}

impl World {
    pub(crate) async fn new_run(&mut self) -> anyhow::Result<()> {
        let number = self.rng.usize(0..self.workspaces.len());
        let (workspace, configuration) = self.workspaces[number].clone();
        let kind = self.rng.u32(0..10);
        let new = NewRun {
            workspace_id: workspace.clone(),
            configuration_version_id: configuration,
            plan_only: kind == 0,
            save_plan: kind == 1,
            auto_apply: kind >= 5,
            ..self.plane.seed.new_run()
        };
        self.plane.tell_postgres().await?;
        let run = self.plane.seed.create(new).await;
        let cancels = match self.rng.u32(0..20) {
            0 => Some(Impatience::Anywhere),
            1 => Some(Impatience::WhileApplying { by_force: false }),
            2 => Some(Impatience::WhileApplying { by_force: true }),
            3 => Some(Impatience::Override),
            _ => None,
        };
        self.note(|| {
            format!(
                "a run {} in {}",
                short(run.id.as_str()),
                short(workspace.as_str())
            )
        });
        self.counts.runs += 1;
        let row = RunRow {
            workspace,
            status: run.status,
            cancels,
            discards: self.rng.u32(0..10) == 0,
            cancelled_at: None,
        };
        self.runs.insert(run.id, row);
        Ok(())
    }

    /// People look at their runs, and act.
    pub(crate) async fn people(&mut self) -> anyhow::Result<()> {
        if self.is_healed() {
            self.remove_clones();
        }
        self.plane.tell_postgres().await?;
        let mut connection = self.plane.db.read().await?;
        let open: Vec<RunId> = self
            .runs
            .iter()
            .filter(|(_, row)| !row.status.is_terminal())
            .map(|(id, _)| id.clone())
            .collect();
        let mut seen = Vec::new();
        for id in open {
            if let Some(run) = runs::get(&mut connection, &id).await? {
                seen.push(run);
            }
        }
        drop(connection);
        for run in seen {
            self.look_at(run).await?;
        }
        Ok(())
    }

    async fn look_at(&mut self, run: RunRecord) -> anyhow::Result<()> {
        let now = self.clock.elapsed();
        let patient = self.is_healed();
        let luck = self.rng.u32(0..3);
        let force_after = self.settings.times.cool_off.0 + 1000;
        let Some(row) = self.runs.get_mut(&run.id) else {
            return Ok(());
        };
        row.status = run.status;
        let (cancels, discards, cancelled_at) = (row.cancels, row.discards, row.cancelled_at);
        let workspace = row.workspace.clone();
        if let (Some(at), Some(Impatience::WhileApplying { by_force: true })) = (cancelled_at, cancels) {
            if now > at + force_after {
                self.deed(&run.id, Deed::ForceCancel).await?;
            }
            return Ok(());
        }
        let applies = matches!(run.status, RunStatus::Applying | RunStatus::ApplyQueued);
        let cancel = match cancels {
            Some(Impatience::Anywhere) => luck == 0,
            Some(Impatience::WhileApplying { .. }) => applies && luck > 0,
            Some(Impatience::Override) | None => false,
        };
        match run.status {
            RunStatus::Planned if discards => self.deed(&run.id, Deed::Discard).await?,
            RunStatus::Planned | RunStatus::PlannedAndSaved if luck == 0 || patient => {
                let done = self.deed(&run.id, Deed::Confirm).await?;
                if !done && self.holds_nothing(&run).await? {
                    // Its plan is stale.
                    self.deed(&run.id, Deed::Discard).await?;
                }
                done
            }
            _ if cancel && cancelled_at.is_none() && !patient => {
                let done = self.deed(&run.id, Deed::Cancel).await?;
                if let (true, Some(row)) = (done, self.runs.get_mut(&run.id)) {
                    row.cancelled_at = Some(now);
                }
                done
            }
            _ => false,
        };
        if cancels == Some(Impatience::Override) && !patient {
            self.take_lock_away(&workspace).await?;
        }
        Ok(())
    }

    /// Whether a run could be confirmed as far as the lock of its workspace goes.
    async fn holds_nothing(&self, run: &RunRecord) -> anyhow::Result<bool> {
        let mut connection = self.plane.db.read().await?;
        let workspace = workspaces::get(&mut connection, &run.workspace_id).await?;
        Ok(workspace.is_none_or(|workspace| match workspace.lock {
            Lock::Free => true,
            Lock::Run(holder) => holder == run.id,
            Lock::User(_) | Lock::Lost { .. } => false,
        }))
    }

    /// Whether it was done; a refusal changes nothing.
    async fn deed(&mut self, run: &RunId, deed: Deed) -> anyhow::Result<bool> {
        let id = run.clone();
        let done = self
            .plane
            .db
            .write::<_, TransitionError, _>(move |tx| {
                let id = id.clone();
                Box::pin(async move {
                    match deed {
                        Deed::Confirm => runs::confirm(tx, &id, None, None).await,
                        Deed::Discard => runs::discard(tx, &id, None, None).await,
                        Deed::Cancel => runs::cancel(tx, &id, None, None).await,
                        Deed::ForceCancel => runs::force_cancel(tx, &id, None, None).await,
                    }
                })
            })
            .await;
        self.note(|| format!("a person: {deed:?} {}: {}", short(run.as_str()), done.is_ok()));
        match done {
            Ok(_) => Ok(true),
            Err(TransitionError::NotFound | TransitionError::Refused(_)) => Ok(false),
            Err(TransitionError::Store(error)) => Err(error.into()),
        }
    }

    /// An administrator takes the lock of a lost apply away, and says whose engine may still run.
    async fn take_lock_away(&mut self, workspace: &WorkspaceId) -> anyhow::Result<()> {
        let mut connection = self.plane.db.read().await?;
        let Some(row) = workspaces::get(&mut connection, workspace).await? else {
            return Ok(());
        };
        let Lock::Lost { run, .. } = row.lock else {
            return Ok(());
        };
        let job = jobs::of_run(&mut connection, &run, Phase::Apply).await?;
        drop(connection);
        let Some(attempt): Option<AttemptId> = job.and_then(|job| job.row.attempt) else {
            return Ok(());
        };
        let id = workspace.clone();
        let named = attempt.clone();
        let freed = self
            .plane
            .db
            .write::<_, TransitionError, _>(move |tx| {
                let (id, attempt) = (id.clone(), named.clone());
                Box::pin(async move { locks::force_unlock(tx, &id, None, Some(&attempt)).await })
            })
            .await;
        self.note(|| {
            format!(
                "a person takes the lock of {} away: {}",
                short(workspace.as_str()),
                freed.is_ok()
            )
        });
        if freed.is_ok() {
            self.overridden.insert(workspace.clone());
        }
        Ok(())
    }
}
