//! The control plane of a history: rows, states, its clock, its backup.

use std::collections::BTreeSet;

use terrapool_model::id::{RunId, StateVersionId};
use terrapool_model::job::{Job, JobResult, JobState, Phase};
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::refusal::Refusal;
use terrapool_model::run::{Run, StateRef};
use terrapool_model::state_copy::{self, Fate, Mark, Upload};
use terrapool_model::time::Timestamp;
use terrapool_model::times::Times;
use terrapool_model::transition::{self, Effect, Event, Rows};

use super::counts::{Counts, Rare};
use crate::invariant::{self, Invariant};
use crate::tables::{RunRows, pending};

/// A state that an apply wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Document {
    pub(super) number: u32,
    pub(super) serial: u64,
}

impl Document {
    fn mark(self) -> Mark {
        Mark {
            serial: Some(self.serial),
            lineage: Some("lineage".to_owned()),
        }
    }

    fn state_ref(self) -> StateRef {
        let mut bytes = [7; 16];
        bytes[..4].copy_from_slice(&self.number.to_be_bytes());
        StateRef {
            version: StateVersionId::from_random(bytes),
            serial: Some(self.serial),
            lineage: Some("lineage".to_owned()),
            sha256: Some(self.number.to_string()),
        }
    }
}

/// What the database holds.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) workspace: Workspace,
    pub(super) runs: Vec<RunRows>,
    pub(super) current: Option<Document>,
    pub(super) snapshots: Vec<(RunId, Document)>,
    /// States that are or were current, or are kept apart.
    pub(super) safe: BTreeSet<Document>,
    /// Every state that is stored.
    pub(super) stored: BTreeSet<Document>,
}

/// The control plane.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) database: Database,
    pub(super) backup: Option<Database>,
    pub(super) incarnation: u64,
    pub(super) times: Times,
    /// By how much its wall clock was set.
    pub(super) clock_set: i64,
    pub(super) runs_made: u8,
    pub(super) broken: Vec<Invariant>,
    pub(super) counts: Counts,
}

impl Server {
    pub(super) fn new(times: Times) -> Self {
        Self {
            database: Database {
                workspace: Workspace::new(),
                runs: Vec::new(),
                current: None,
                snapshots: Vec::new(),
                safe: BTreeSet::new(),
                stored: BTreeSet::new(),
            },
            backup: None,
            incarnation: 1,
            times,
            clock_set: 0,
            runs_made: 0,
            broken: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// The wall clock, `time` milliseconds after the beginning.
    pub(super) fn wall(&self, time: u64) -> Timestamp {
        let time = i64::try_from(time).unwrap_or(i64::MAX);
        Timestamp(1_700_000_000_000 + time + self.clock_set)
    }

    pub(super) fn make_run(&mut self, plan_only: bool, save_plan: bool, auto_apply: bool) {
        let rows = pending(usize::from(self.runs_made), plan_only, save_plan, auto_apply);
        self.runs_made += 1;
        self.database.runs.push(rows);
    }

    pub(super) fn place(&self, run: &RunId) -> Option<usize> {
        self.database.runs.iter().position(|rows| rows.run.id == *run)
    }

    pub(super) fn job(&self, run: &RunId, phase: Phase) -> Option<&Job> {
        self.place(run)
            .and_then(|place| self.database.runs[place].job(phase))
    }

    /// The current state, as claims and confirmations name it.
    pub(super) fn current(&self) -> Option<StateRef> {
        self.database.current.map(Document::state_ref)
    }

    /// An event on a run, in one transaction.
    pub(super) fn event(
        &mut self,
        run: &RunId,
        event: &Event,
        time: u64,
    ) -> Result<Option<JobResult>, Refusal> {
        let place = self.place(run).ok_or(Refusal::NoJob)?;
        let before = self.database.runs[place].clone();
        let rows = Rows {
            workspace: self.database.workspace.clone(),
            run: before.run.clone(),
            plan: before.plan.clone(),
            apply: before.apply.clone(),
        };
        let outcome = transition::transition(&rows, event, self.wall(time), &self.times)?;
        let after = RunRows {
            run: outcome.rows.run,
            plan: outcome.rows.plan,
            apply: outcome.rows.apply,
        };
        self.broken.extend(invariant::broken_by(&before, &after));
        if outcome.rows.workspace.lock_epoch < rows.workspace.lock_epoch {
            self.broken.push(Invariant::NumbersGrow);
        }
        if outcome.effects.contains(&Effect::SnapshotCurrent)
            && let Some(copy) = self.database.snapshots.iter().position(|(of, _)| of == run)
        {
            let (_, document) = self.database.snapshots.remove(copy);
            self.make_current(&before.run, document);
        }
        self.database.runs[place] = after;
        self.database.workspace = outcome.rows.workspace;
        if !invariant::agree(&self.database.workspace, self.database.runs.iter()) {
            self.broken.push(Invariant::RowsAgree);
        }
        self.note(outcome.job);
        Ok(outcome.job)
    }

    fn note(&mut self, job: Option<JobResult>) {
        let rare = match job {
            Some(JobResult::Requeued) => Rare::Requeued,
            Some(JobResult::Lost { granted: true }) => Rare::GrantedLost,
            Some(JobResult::Lost { granted: false }) => Rare::TriesUsedUp,
            Some(JobResult::FinishedLate) => Rare::FinishedLate,
            Some(JobResult::Returned) => Rare::ReturnedUnwanted,
            Some(JobResult::ReturnedLate) => Rare::ReturnedLate,
            Some(JobResult::GrantRepeated) => Rare::GrantRepeated,
            Some(JobResult::ClaimRepeated) => Rare::ClaimRepeated,
            Some(
                JobResult::Claimed
                | JobResult::Granted
                | JobResult::Contacted
                | JobResult::Finished { .. }
                | JobResult::Asked
                | JobResult::Withdrawn,
            )
            | None => return,
        };
        self.counts.saw(rare);
    }

    fn make_current(&mut self, run: &Run, document: Document) {
        if run.lock_epoch != Some(self.database.workspace.lock_epoch) {
            self.broken.push(Invariant::HolderWrites);
        }
        if self
            .database
            .current
            .is_some_and(|current| current.serial > document.serial)
        {
            self.broken.push(Invariant::SerialGrows);
        }
        self.database.current = Some(document);
        self.database.safe.insert(document);
    }

    /// A state arrives. False when there is nobody to take it.
    pub(super) fn store(&mut self, run: &RunId, newest: bool, document: Document) -> bool {
        let Some(place) = self.place(run) else {
            // Another history: it is kept, away from every run.
            self.database.stored.insert(document);
            self.database.safe.insert(document);
            return true;
        };
        let rows = &self.database.runs[place];
        let Some(job) = rows.apply.as_ref() else {
            self.database.stored.insert(document);
            self.database.safe.insert(document);
            return true;
        };
        let snapshot = self.database.snapshots.iter().position(|(of, _)| of == run);
        let upload = Upload {
            is_stored: self.database.stored.contains(&document),
            is_newest_attempt: newest,
            mark: document.mark(),
            current: self.database.current.map(Document::mark),
            snapshot: snapshot.map(|place| self.database.snapshots[place].1.mark()),
        };
        let run_row = rows.run.clone();
        let fate = state_copy::decide(&upload, &self.database.workspace, &run_row, job);
        self.database.stored.insert(document);
        match fate {
            Fate::AlreadyStored | Fate::Forbidden => {}
            Fate::Intermediate => {
                if let Some(place) = snapshot {
                    // A newer copy of the same attempt holds everything that the older one held.
                    let (_, older) = self.database.snapshots.remove(place);
                    self.database.safe.insert(older);
                }
                self.database.snapshots.push((run.clone(), document));
            }
            Fate::Current => {
                self.counts.saw(Rare::CurrentAtOnce);
                self.make_current(&run_row, document);
            }
            Fate::KeptApart => {
                self.counts.saw(Rare::KeptApart);
                self.database.safe.insert(document);
            }
        }
        true
    }

    /// The clock is set. Contacts and deadlines follow it.
    pub(super) fn set_clock(&mut self, by: i64) {
        self.clock_set += by;
        let moved = |at: &mut Option<Timestamp>| {
            if let Some(at) = at {
                at.0 += by;
            }
        };
        if let Lock::Lost { safe_at, .. } = &mut self.database.workspace.lock {
            moved(safe_at);
        }
        for rows in &mut self.database.runs {
            moved(&mut rows.run.force_cancel_available_at);
            for job in [&mut rows.plan, &mut rows.apply].into_iter().flatten() {
                moved(&mut job.last_contact);
            }
        }
        self.counts.saw(Rare::ClockSet);
    }

    /// The database is replaced by its backup.
    pub(super) fn restore(&mut self, time: u64) -> bool {
        let Some(backup) = self.backup.clone() else {
            return false;
        };
        self.database = backup;
        self.incarnation += 1;
        self.counts.saw(Rare::Restored);
        let runs: Vec<RunId> = self
            .database
            .runs
            .iter()
            .map(|rows| rows.run.id.clone())
            .collect();
        for run in &runs {
            match self.event(run, &Event::Restored, time) {
                Ok(_) | Err(Refusal::RunEnded(_)) => {}
                Err(_) => self.broken.push(Invariant::EndReachable),
            }
        }
        if self.database.workspace.lost_run.is_none() {
            self.database.workspace.lost_run = runs.first().cloned();
        }
        true
    }

    /// Runs that have ended and that nobody speaks of make room for new ones.
    pub(super) fn clear(&mut self, spoken_of: impl Fn(&RunId) -> bool) {
        let lost = match &self.database.workspace.lock {
            Lock::Lost { run, .. } => Some(run.clone()),
            Lock::Free | Lock::User(_) | Lock::Run(_) => None,
        };
        self.database.runs.retain(|rows| {
            !rows.run.status.is_terminal() || lost.as_ref() == Some(&rows.run.id) || spoken_of(&rows.run.id)
        });
    }

    /// Whether every run has ended and nobody holds the lock.
    pub(super) fn is_over(&self) -> bool {
        self.database.workspace.lock == Lock::Free
            && self
                .database
                .runs
                .iter()
                .all(|rows| rows.run.status.is_terminal())
    }

    /// Jobs that wait for an agent.
    pub(super) fn queued(&self) -> Vec<(RunId, Phase, u64)> {
        let mut found = Vec::new();
        for rows in &self.database.runs {
            for job in [&rows.plan, &rows.apply].into_iter().flatten() {
                if job.state == JobState::Queued {
                    found.push((rows.run.id.clone(), job.phase, job.generation));
                }
            }
        }
        found
    }
}
