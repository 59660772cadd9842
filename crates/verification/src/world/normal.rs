//! Brings situations that differ in nothing that matters into one form.

use terrapool_model::job::{Job, JobState};
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;

use super::World;
use crate::guard::Guard;
use crate::situation::{Answer, Place, Process, Runner, SLOTS, Slot};
use crate::tables;

impl World<'_> {
    /// Forgets what makes no difference any more.
    pub fn normalise(&mut self) {
        self.normalise_numbers();
        for slot in 0..SLOTS {
            if self.slot(slot).process != Process::Empty && self.is_inert(slot) {
                self.situation.forget_slot(slot);
            }
        }
        for run in 0..self.configuration.runs.len() {
            self.normalise_ended(run);
        }
        self.normalise_documents();
        for slot in 0..SLOTS {
            let named = self.slot(slot).process != Process::Empty && self.holds(slot);
            self.slot_mut(slot).named = named;
        }
        self.situation.sort_slots();
    }

    /// Whether nothing that an attempt does, or has sent, can make a difference any more.
    fn is_inert(&self, slot: usize) -> bool {
        let state = self.slot(slot);
        let run = self.situation.runs[usize::from(state.run)];
        let Some(job) = self.tables.rows(run.rows).job(state.phase()) else {
            return true;
        };
        let holds = self.holds(slot);
        let silent = match job.state {
            JobState::Queued => u64::from(state.seen) != job.generation,
            JobState::Leased | JobState::Running => !holds,
            JobState::Lost => !holds || (state.process == Process::Over && state.ends_sent.is_empty()),
            JobState::Done => true,
        };
        let over = match job.state {
            JobState::Queued | JobState::Leased | JobState::Running => false,
            JobState::Lost | JobState::Done => true,
        };
        if !silent || !state.apply {
            return silent;
        }
        let safe = self.situation.promoted | self.situation.kept;
        let kept = state.document == 0 || safe & (1 << state.document) != 0;
        let executes = match state.runner {
            Runner::Going | Runner::Running => true,
            Runner::None | Runner::Preparing | Runner::Prepared => self.tables.lacks(Guard::StartGrant),
            Runner::Ended(_) | Runner::Gone => false,
        };
        let granted = matches!(state.start, Answer::Yes(_));
        match state.process {
            Process::Empty => false,
            Process::Over => kept || !state.document_sent || state.document_stored,
            Process::Up | Process::Down => over && kept && !executes && !granted,
        }
    }

    /// How a run has ended, and by which way, makes no difference once nothing of it is left.
    fn normalise_ended(&mut self, run: usize) {
        let place = self.situation.runs[run];
        let rows = self.tables.rows(place.rows);
        let lost = match &self.tables.workspace(self.situation.workspace).lock {
            Lock::Lost { run: holder, .. } => *holder == rows.run.id,
            Lock::Free | Lock::User(_) | Lock::Run(_) => false,
        };
        let left = |slot: &Slot| slot.process != Process::Empty && usize::from(slot.run) == run;
        if !rows.run.status.is_terminal() || lost || self.situation.slots.iter().any(left) {
            return;
        }
        let mut plain = tables::pending(run, false, false, false);
        plain.run.status = RunStatus::Discarded;
        self.situation.runs[run] = Place {
            rows: self.tables.intern_rows(&plain),
            ..Place::default()
        };
    }

    /// States that neither are current nor belong to an attempt or a run are forgotten.
    fn normalise_documents(&mut self) {
        let mut known = 0_u8;
        for slot in &self.situation.slots {
            known |= 1 << slot.document;
        }
        self.situation.promoted &= known;
        self.situation.kept &= known;
        for run in &self.situation.runs {
            known |= 1 << run.snapshot;
        }
        known |= 1 << self.situation.current;
        for (document, serial) in self.situation.serials.iter_mut().enumerate() {
            if known & (1 << document) == 0 {
                *serial = 0;
            }
        }
    }

    /// Generations and epochs matter only by whether they are the newest.
    fn normalise_numbers(&mut self) {
        let workspace = self.situation.workspace;
        let epoch = self.tables.workspace(workspace).lock_epoch;
        let runs = self.configuration.runs.len();
        if epoch > 1 {
            let mut row = self.tables.workspace(workspace).clone();
            row.lock_epoch = 1;
            self.situation.workspace = self.tables.intern_workspace(&row);
        }
        for run in 0..runs {
            let index = self.situation.runs[run].rows;
            let rows = self.tables.rows(index);
            let newest = |job: Option<&Job>| job.map_or(0, |job| job.generation);
            let generations = [newest(rows.plan.as_ref()), newest(rows.apply.as_ref())];
            if epoch <= 1 && generations.iter().all(|generation| *generation <= 1) {
                continue;
            }
            let mut next = rows.clone();
            if epoch > 1 {
                next.run.lock_epoch = next.run.lock_epoch.map(|held| u64::from(held == epoch));
            }
            for job in [&mut next.plan, &mut next.apply].into_iter().flatten() {
                job.generation = job.generation.min(1);
            }
            if next != *rows {
                self.situation.runs[run].rows = self.tables.intern_rows(&next);
            }
            for slot in 0..SLOTS {
                let state = *self.slot(slot);
                if state.process == Process::Empty || usize::from(state.run) != run {
                    continue;
                }
                let newest = generations[usize::from(state.apply)];
                if newest > 1 {
                    self.normalise_slot(slot, newest);
                }
            }
        }
    }

    fn normalise_slot(&mut self, slot: usize, newest: u64) {
        let state = *self.slot(slot);
        let plain = |generation: u64| u8::from(generation == newest);
        let attempt = plain(self.tables.attempt(state.attempt).generation);
        let journal = plain(self.tables.attempt(state.journal).generation);
        let attempt = self.tables.with_generation(state.attempt, attempt);
        let journal = self.tables.with_generation(state.journal, journal);
        let state = self.slot_mut(slot);
        (state.attempt, state.journal) = (attempt, journal);
        state.seen = plain(u64::from(state.seen));
        if let Answer::Yes(generation) = &mut state.claim {
            *generation = plain(u64::from(*generation));
        }
    }
}
