//! The promises, looked at from outside.

use std::collections::{BTreeMap, BTreeSet};

use terrapool_model::id::WorkspaceId;
use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_store::page::Page;
use terrapool_store::state_versions::StateVersionRecord;
use terrapool_store::{jobs, kept_apart, runs, state_versions, workspaces};

use crate::sandbox::resources;
use crate::world::{Delivered, World, short};

/// The marks around a log.
const STX: u8 = 2;
const ETX: u8 = 3;

impl World {
    /// What has not come to its end yet.
    pub(crate) async fn unsettled(&mut self) -> anyhow::Result<Vec<String>> {
        let mut open = Vec::new();
        let mut connection = self.plane.db.read().await?;
        let ids: Vec<_> = self.runs.keys().cloned().collect();
        for id in ids {
            let Some(run) = runs::get(&mut connection, &id).await? else {
                continue;
            };
            let before = self.runs.get(&id).map(|row| row.status);
            if let Some(before) = before.filter(|before| before.is_terminal() && *before != run.status) {
                self.broken(format!("run {id} was {before:?} and is {:?}", run.status));
            }
            if let Some(row) = self.runs.get_mut(&id) {
                row.status = run.status;
            }
            if !run.status.is_terminal() {
                open.push(format!("run {} is {:?}", short(id.as_str()), run.status));
            }
        }
        for (workspace, _) in self.workspaces.clone() {
            let row = workspaces::get(&mut connection, &workspace).await?;
            if let Some(row) = row.filter(|row| row.lock != Lock::Free) {
                open.push(format!(
                    "workspace {} is locked: {:?}",
                    short(workspace.as_str()),
                    row.lock
                ));
            }
        }
        for host in &self.hosts {
            let Some(process) = &host.process else {
                if !host.is_clone {
                    open.push(format!("host {} has no agent", host.number));
                }
                continue;
            };
            for live in process.lives.values() {
                open.push(format!(
                    "host {} works on {}: {:?}",
                    host.number,
                    short(live.attempt.attempt.as_str()),
                    live.attempt.state
                ));
            }
        }
        Ok(open)
    }

    /// After everything has ended.
    pub(crate) async fn check_end(&mut self) -> anyhow::Result<()> {
        self.plane.reconcile().await?;
        for (workspace, _) in self.workspaces.clone() {
            self.check_states(&workspace).await?;
        }
        for (attempt, delivered) in self.delivered.clone() {
            self.check_log(attempt.as_str(), &delivered).await?;
        }
        self.check_runs().await
    }

    async fn names_in(&self, version: &StateVersionRecord) -> anyhow::Result<Vec<String>> {
        let Some(key) = &version.object_key else {
            return Ok(Vec::new());
        };
        Ok(resources(&self.plane.object(key, version.id.as_str()).await?))
    }

    /// Every resource that an engine made is in the current state or in one that was kept apart, unless its host has lost
    /// what it knew, and the control plane had not acknowledged it before.
    async fn check_states(&mut self, workspace: &WorkspaceId) -> anyhow::Result<()> {
        let mut connection = self.plane.db.read().await?;
        let current = state_versions::current(&mut connection, workspace).await?;
        let apart = kept_apart::list(&mut connection, workspace, &Page::first(1000)).await?;
        drop(connection);
        let mut known = BTreeSet::new();
        if let Some(current) = &current {
            known.extend(self.names_in(current).await?);
        }
        for version in &apart.items {
            self.counts.kept_apart += 1;
            known.extend(self.names_in(&version.version).await?);
        }
        let acknowledged = self.acknowledged.get(workspace).cloned().unwrap_or_default();
        let kept = self
            .made
            .iter()
            .filter(|made| made.workspace == *workspace && !self.forgotten.contains(&made.attempt))
            .map(|made| made.resource.clone());
        let missing: Vec<String> = kept
            .chain(acknowledged)
            .filter(|name| !known.contains(name))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        if !missing.is_empty() {
            self.broken(format!("{workspace} has lost what was made: {missing:?}"));
        }
        Ok(())
    }

    /// What an attempt printed is in its log, or in what was delivered apart from it.
    async fn check_log(&mut self, attempt: &str, delivered: &Delivered) -> anyhow::Result<()> {
        let mut connection = self.plane.db.read().await?;
        let Some(run) = runs::get(&mut connection, &delivered.run).await? else {
            return Ok(());
        };
        drop(connection);
        let log = match delivered.phase {
            Phase::Plan => run.plan_id.as_str().to_owned(),
            Phase::Apply => run.apply_id.as_str().to_owned(),
        };
        let bytes = self.plane.log_file(&log);
        let apart = self
            .plane
            .log_file(&format!("{log}.{}.{attempt}", delivered.generation));
        let in_log = delivered.log.len().saturating_sub(apart.len());
        let (before, after) = delivered.log.split_at(in_log);
        let is_whole = after == apart
            && bytes.first() == Some(&STX)
            && bytes.last() == Some(&ETX)
            && (before.is_empty() || bytes.windows(before.len()).any(|window| window == before));
        if !is_whole {
            self.broken(format!(
                "the log of {} of {} is not what was printed: {:?} and apart {:?}, printed {:?}",
                short(attempt),
                delivered.job,
                String::from_utf8_lossy(&bytes),
                String::from_utf8_lossy(&apart),
                String::from_utf8_lossy(&delivered.log)
            ));
        }
        if delivered.accepted && !apart.is_empty() {
            self.broken(format!(
                "the log of {} was cut although its end was taken",
                short(attempt)
            ));
        }
        Ok(())
    }

    /// What runs say of themselves is what happened.
    async fn check_runs(&mut self) -> anyhow::Result<()> {
        let mut connection = self.plane.db.read().await?;
        let mut told: Vec<String> = Vec::new();
        let mut lost = 0;
        let ended: BTreeMap<_, _> = self
            .runs
            .iter()
            .map(|(id, row)| (id.clone(), row.status))
            .collect();
        for (id, status) in ended {
            let apply = jobs::of_run(&mut connection, &id, Phase::Apply).await?;
            let starts = apply
                .as_ref()
                .and_then(|job| self.engine_starts.get(&job.id))
                .map_or(0, Vec::len);
            if status == RunStatus::Applied && starts != 1 {
                told.push(format!(
                    "run {id} is applied, and its engine was started {starts} times"
                ));
            }
            let unchanged = matches!(status, RunStatus::Discarded | RunStatus::PlannedAndFinished);
            if unchanged && starts > 0 {
                told.push(format!("run {id} is {status:?}, and its engine was started"));
            }
            let is_lost = apply.is_some_and(|job| job.row.start_granted && status == RunStatus::Errored);
            lost += u64::from(is_lost);
        }
        drop(connection);
        self.counts.lost = lost;
        for text in told {
            self.broken(text);
        }
        Ok(())
    }
}
