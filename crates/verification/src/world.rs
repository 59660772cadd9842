//! Takes steps: what each of them does to rows, network, agents and sandboxes.

use terrapool_agent_core::attempt::State;
use terrapool_model::job::{JobState, Phase};
use terrapool_model::lock::{Lock, Workspace};
use terrapool_model::refusal::Refusal;
use terrapool_model::state_copy::{self, Fate, Mark, Upload};
use terrapool_model::sync::{AttemptStage, Verdict};

use crate::configuration::{Configuration, Kind};
use crate::guard::Guard;
use crate::invariant::{self, Invariant};
use crate::situation::{Answer, Ending, NOBODY, Process, Runner, Situation, Slot, Stop};
use crate::step::{Step, plans_at_once};
use crate::tables::{self, AttemptEvent, Deed, Holder, RowEvent, RunRows, Served, Tables};

mod normal;
mod sandbox;

/// A situation that is being changed.
#[derive(Debug)]
pub struct World<'t> {
    /// The situation.
    pub situation: Situation,
    /// The invariants that the step broke.
    pub broken: Vec<Invariant>,
    tables: &'t mut Tables,
    configuration: &'t Configuration,
}

/// The situation in which the search begins.
///
/// # Panics
/// When a step of the opening is not possible.
pub fn first(configuration: &Configuration, tables: &mut Tables) -> Situation {
    let mut situation = Situation {
        workspace: tables.intern_workspace(&Workspace::new()),
        user_locks: configuration.user_locks,
        overrides: configuration.overrides,
        cut_offs: configuration.cut_offs,
        ..Situation::default()
    };
    for (place, kind) in configuration.runs.iter().enumerate() {
        let rows = tables::pending(
            place,
            *kind == Kind::PlanOnly,
            *kind == Kind::SavedPlan,
            matches!(kind, Kind::AutoApply | Kind::ApplyOnly),
        );
        situation.runs[place].rows = tables.intern_rows(&rows);
    }
    for step in configuration.opening {
        let mut world = World::new(situation, tables, configuration);
        assert!(world.take(*step), "{step:?} opens the configuration");
        world.normalise();
        situation = world.situation;
    }
    situation
}

impl<'t> World<'t> {
    /// Begins with a situation.
    pub fn new(situation: Situation, tables: &'t mut Tables, configuration: &'t Configuration) -> Self {
        Self {
            situation,
            broken: Vec::new(),
            tables,
            configuration,
        }
    }

    /// Takes a step. False when it is not possible, or does nothing.
    pub fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Schedule(run) => self.schedule(run),
            Step::Confirm(run) => {
                let (current, serial) = self.current();
                self.row_event(run, RowEvent::Confirm { current, serial }, None)
            }
            Step::Discard(run) => self.row_event(run, RowEvent::Discard, None),
            Step::Cancel(run) => self.row_event(run, RowEvent::Cancel, None),
            Step::ForceCancel(run) => self.row_event(run, RowEvent::ForceCancel, None),
            Step::CutOff(run, phase) => {
                self.situation.cut_offs -= 1;
                self.row_event(run, RowEvent::CutOff { phase }, None)
            }
            Step::UserLocks => match self.tables.lock_by_user(self.situation.workspace) {
                Ok(row) => {
                    self.situation.workspace = row;
                    self.situation.user_locks -= 1;
                    true
                }
                Err(_) => false,
            },
            Step::UserUnlocks => self.set_workspace(|tables, row| tables.unlock_by_user(row)),
            Step::Override(run) => {
                let done = self.row_event(run, RowEvent::Override, None);
                if done {
                    self.situation.overrides -= 1;
                    self.situation.overridden = true;
                }
                done
            }
            Step::Expire(run, phase) => self.row_event(run, RowEvent::Expire { phase }, None),
            Step::QuarantineEnds => {
                (self.is_safe() || self.tables.lacks(Guard::SafeAt))
                    && self.set_workspace(|tables, row| tables.quarantine_ended(row))
            }
            Step::Mint(slot, run, phase) => self.mint(slot, run, phase),
            Step::HandleClaim(slot) => self.handle_claim(slot),
            Step::HandleStart(slot) => self.handle_start(slot),
            Step::HandleEnd(slot, ending) => self.handle_end(slot, ending),
            Step::HandleState(slot) => self.handle_state(slot),
            Step::HearClaim(slot) => match self.slot(slot).claim {
                Answer::Yes(generation) => self.hear(slot, AttemptEvent::ClaimAccepted { generation }),
                Answer::No => self.hear(slot, AttemptEvent::ClaimFailed),
                Answer::None => false,
            },
            Step::ClaimTimesOut(slot) => self.hear(slot, AttemptEvent::ClaimFailed),
            Step::HearStart(slot) => match self.slot(slot).start {
                Answer::Yes(_) => self.hear(slot, AttemptEvent::Granted),
                Answer::No => self.hear(slot, AttemptEvent::StartFailed),
                Answer::None => false,
            },
            Step::HearStartAndDie(slot) => {
                let before = self.slot(slot).runner;
                let heard = self.hear(slot, AttemptEvent::Granted);
                self.slot_mut(slot).runner = before;
                self.die(slot);
                heard
            }
            Step::StartTimesOut(slot) => self.hear(slot, AttemptEvent::WindowPassed),
            Step::HearEnd(slot) => self.hear(slot, AttemptEvent::FinishAnswered),
            Step::Sync(slot, stage) => self.sync(slot, stage),
            Step::SandboxFails(slot) => self.hear(slot, AttemptEvent::SandboxFailed),
            Step::HandOver(slot) => {
                self.slot_mut(slot).runner = Runner::Preparing;
                self.hear(slot, AttemptEvent::HandedOver)
            }
            Step::InitFails(slot) => self.ends(slot, Ending::Failed),
            Step::InitDone(slot) => self.init_done(slot),
            Step::Execute(slot) => self.execute(slot),
            Step::Write(slot) => self.write(slot),
            Step::Ends(slot, ending) => self.ends(slot, ending),
            Step::ContactLost(slot) => self.contact_lost(slot),
            Step::Vanishes(slot) => {
                self.slot_mut(slot).runner = Runner::Gone;
                self.report(slot);
                true
            }
            Step::Dies(slot) => {
                self.die(slot);
                true
            }
            Step::Restarts(slot) => self.restart(slot),
            Step::HostLost(slot) => {
                self.die(slot);
                let state = self.slot_mut(slot);
                state.runner = Runner::None;
                state.process = Process::Over;
                true
            }
        }
    }

    fn slot(&self, slot: usize) -> &Slot {
        &self.situation.slots[slot]
    }

    fn slot_mut(&mut self, slot: usize) -> &mut Slot {
        &mut self.situation.slots[slot]
    }

    fn current(&self) -> (u8, u8) {
        let current = self.situation.current;
        (current, self.situation.serials[usize::from(current)])
    }

    fn holds(&self, slot: usize) -> bool {
        let state = self.slot(slot);
        self.situation.runs[usize::from(state.run)].holder(state.phase()) == slot as u8 + 1
    }

    fn generation(&self, slot: usize) -> u8 {
        let attempt = self.tables.attempt(self.slot(slot).attempt);
        u8::try_from(attempt.generation).unwrap_or(u8::MAX)
    }

    fn set_workspace(&mut self, change: impl FnOnce(&mut Tables, u16) -> Result<u16, Refusal>) -> bool {
        match change(self.tables, self.situation.workspace) {
            Ok(row) => {
                self.situation.workspace = row;
                true
            }
            Err(_) => false,
        }
    }

    /// Applies an event to rows. `speaker` is the slot whose attempt speaks.
    fn row_event(&mut self, run: usize, event: RowEvent, speaker: Option<usize>) -> bool {
        self.served(run, event, speaker).is_ok()
    }

    fn served(&mut self, run: usize, event: RowEvent, speaker: Option<usize>) -> Result<Served, Refusal> {
        let (workspace, rows) = (self.situation.workspace, self.situation.runs[run].rows);
        let served = self.tables.serve(workspace, rows, event)?;
        let (before, after) = (self.tables.rows(rows), self.tables.rows(served.rows));
        self.broken.extend(invariant::broken_by(before, after));
        let epochs = [workspace, served.workspace].map(|row| self.tables.workspace(row).lock_epoch);
        if epochs[1] < epochs[0] {
            self.broken.push(Invariant::NumbersGrow);
        }
        let place = &mut self.situation.runs[run];
        place.rows = served.rows;
        for (phase, holder) in [(Phase::Plan, served.plan), (Phase::Apply, served.apply)] {
            let named = place.holder_mut(phase);
            *named = match holder {
                Holder::Nobody => 0,
                Holder::Same => *named,
                Holder::Speaker => speaker.map_or(NOBODY, |slot| slot as u8 + 1),
            };
        }
        if served.promotes {
            let snapshot = std::mem::take(&mut self.situation.runs[run].snapshot);
            if snapshot > 0 {
                self.make_current(run, snapshot, workspace);
            }
        }
        self.situation.workspace = served.workspace;
        Ok(served)
    }

    fn schedule(&mut self, run: usize) -> bool {
        if !self.row_event(run, RowEvent::Schedule, None) {
            return false;
        }
        if plans_at_once(self.configuration.runs[run]) {
            let (current, serial) = self.current();
            let phase = Phase::Plan;
            let claim = RowEvent::Claim {
                phase,
                seen: 0,
                holds: false,
                current,
                serial,
            };
            let end = RowEvent::End {
                phase,
                generation: 1,
                holds: true,
                ending: Ending::Succeeded,
            };
            return self.row_event(run, claim, None) && self.row_event(run, end, None);
        }
        true
    }

    fn make_current(&mut self, run: usize, document: u8, workspace: u16) {
        let epoch = self.tables.workspace(workspace).lock_epoch;
        if self.tables.rows(self.situation.runs[run].rows).run.lock_epoch != Some(epoch) {
            self.broken.push(Invariant::HolderWrites);
        }
        let serials = &self.situation.serials;
        if serials[usize::from(document)] < serials[usize::from(self.situation.current)] {
            self.broken.push(Invariant::SerialGrows);
        }
        self.situation.current = document;
        self.situation.promoted |= 1 << document;
    }

    /// Whether no engine of the lost apply can be alive: the contact limit has stopped those that ran, and a grant that
    /// is on its way cannot be used any more.
    fn is_safe(&self) -> bool {
        let Lock::Lost { run, .. } = &self.tables.workspace(self.situation.workspace).lock else {
            return false;
        };
        self.situation.slots.iter().all(|slot| {
            let of_run = slot.apply
                && slot.process != Process::Empty
                && self
                    .tables
                    .rows(self.situation.runs[usize::from(slot.run)].rows)
                    .run
                    .id
                    == *run;
            let alive = matches!(slot.runner, Runner::Going | Runner::Running)
                || matches!(slot.start, Answer::Yes(_));
            !(of_run && alive)
        })
    }

    fn mint(&mut self, slot: usize, run: usize, phase: Phase) -> bool {
        let Some(job) = self.tables.rows(self.situation.runs[run].rows).job(phase) else {
            return false;
        };
        if job.state != JobState::Queued {
            return false;
        }
        let generation = u8::try_from(job.generation).unwrap_or(u8::MAX);
        self.situation.forget_slot(slot);
        let attempt = self.tables.mint(phase, generation);
        *self.slot_mut(slot) = Slot {
            process: Process::Up,
            run: run as u8,
            apply: phase == Phase::Apply,
            attempt,
            journal: attempt,
            seen: generation,
            ..Slot::default()
        };
        true
    }

    fn handle_claim(&mut self, slot: usize) -> bool {
        let state = *self.slot(slot);
        let (current, serial) = self.current();
        let event = RowEvent::Claim {
            phase: state.phase(),
            seen: state.seen,
            holds: self.holds(slot),
            current,
            serial,
        };
        let before = self.situation;
        let answer = match self.served(usize::from(state.run), event, Some(slot)) {
            Ok(_) => {
                let rows = self.tables.rows(self.situation.runs[usize::from(state.run)].rows);
                let generation = rows.job(state.phase()).map_or(0, |job| job.generation);
                Answer::Yes(u8::try_from(generation).unwrap_or(u8::MAX))
            }
            Err(_) => Answer::No,
        };
        let waits = matches!(self.tables.attempt(state.attempt).state, State::Claiming);
        if state.process == Process::Up && waits {
            self.slot_mut(slot).claim = answer;
        }
        self.situation != before
    }

    fn handle_start(&mut self, slot: usize) -> bool {
        let state = *self.slot(slot);
        let event = RowEvent::Start {
            generation: self.generation(slot),
            holds: self.holds(slot),
        };
        let before = self.situation;
        let answer = match self.served(usize::from(state.run), event, Some(slot)) {
            Ok(_) => Answer::Yes(0),
            Err(_) => Answer::No,
        };
        let waits = match self.tables.attempt(state.attempt).state {
            State::Starting { .. } => true,
            State::Returning { .. } => self.tables.lacks(Guard::GrantGivenUp),
            _ => false,
        };
        if state.process == Process::Up && waits {
            self.slot_mut(slot).start = answer;
        }
        self.situation != before
    }

    fn handle_end(&mut self, slot: usize, ending: Ending) -> bool {
        let state = *self.slot(slot);
        let run = usize::from(state.run);
        let undelivered = state.document > 0 && !state.document_stored && ending != Ending::NeverStarted;
        if undelivered && !self.tables.lacks(Guard::StateBeforeEnd) {
            return false;
        }
        let event = RowEvent::End {
            phase: state.phase(),
            generation: self.generation(slot),
            holds: self.holds(slot),
            ending,
        };
        let before = self.situation;
        match self.served(run, event, Some(slot)) {
            Ok(_)
            | Err(
                Refusal::OtherAttempt | Refusal::OtherGeneration | Refusal::JobEnded | Refusal::Unfitting(_),
            ) => {}
            Err(_) => self.broken.push(Invariant::EndAnswered),
        }
        let waits = matches!(
            self.tables.attempt(state.attempt).state,
            State::Returning { .. } | State::Delivering { .. }
        );
        if state.process == Process::Up && waits {
            self.slot_mut(slot).end_answered = true;
        }
        self.situation != before
    }

    fn handle_state(&mut self, slot: usize) -> bool {
        let state = *self.slot(slot);
        let run = usize::from(state.run);
        let generation = u64::from(self.generation(slot));
        let place = self.situation.runs[run];
        let rows: &RunRows = self.tables.rows(place.rows);
        let Some(job) = rows.job(state.phase()) else {
            return false;
        };
        let mark = |document: u8| {
            (document > 0).then(|| Mark {
                serial: Some(u64::from(self.situation.serials[usize::from(document)])),
                lineage: Some("lineage".to_owned()),
            })
        };
        let upload = Upload {
            is_stored: state.document_stored,
            is_newest_attempt: self.holds(slot) && job.generation == generation,
            mark: mark(state.document).unwrap_or_default(),
            current: mark(self.situation.current),
            snapshot: mark(place.snapshot),
        };
        let workspace = self.tables.workspace(self.situation.workspace);
        let mut run_row = rows.run.clone();
        if self.tables.lacks(Guard::StateEpoch) {
            run_row.lock_epoch = Some(workspace.lock_epoch);
        }
        let fate = state_copy::decide(&upload, workspace, &run_row, job);
        self.slot_mut(slot).document_stored = true;
        match fate {
            Fate::AlreadyStored | Fate::Forbidden => {}
            Fate::Intermediate => self.situation.runs[run].snapshot = state.document,
            Fate::Current => {
                let workspace = self.situation.workspace;
                self.make_current(run, state.document, workspace);
            }
            Fate::KeptApart => {
                if !self.tables.lacks(Guard::KeptApart) {
                    self.situation.kept |= 1 << state.document;
                }
            }
        }
        true
    }

    /// Brings an event to the attempt, and does what it wants done.
    fn hear(&mut self, slot: usize, event: AttemptEvent) -> bool {
        let before = self.slot(slot).attempt;
        let state = self.tables.attempt(before).state.clone();
        let late_grant = event == AttemptEvent::Granted && matches!(state, State::Returning { .. });
        if late_grant && self.tables.lacks(Guard::GrantGivenUp) {
            self.slot_mut(slot).start = Answer::None;
            self.slot_mut(slot).runner = Runner::Going;
            return true;
        }
        let event = match event {
            AttemptEvent::Ended { ending, .. } if self.tables.lacks(Guard::MarkerAbsent) => {
                let _ = ending;
                AttemptEvent::Vanished { marker: false }
            }
            AttemptEvent::Vanished { .. } if self.tables.lacks(Guard::MarkerAbsent) => {
                AttemptEvent::Vanished { marker: false }
            }
            other => other,
        };
        let Some(stepped) = self.tables.step(before, event) else {
            return false;
        };
        self.settle(slot, stepped.attempt, &stepped.deeds);
        true
    }

    fn settle(&mut self, slot: usize, attempt: u16, deeds: &[Deed]) {
        self.slot_mut(slot).attempt = attempt;
        for deed in deeds {
            let state = self.slot_mut(slot);
            match deed {
                Deed::Journal => state.journal = attempt,
                Deed::SendStart => state.start_sent = true,
                Deed::Go => {
                    if state.runner == Runner::Prepared {
                        state.runner = Runner::Going;
                    }
                }
                Deed::Stop { canceled } => {
                    let reason = if *canceled {
                        Stop::Canceled
                    } else {
                        Stop::LostContact
                    };
                    state.stop = state.stop.or(Some(reason));
                }
                Deed::Finish(ending) => state.ends_sent.insert(*ending),
                Deed::Remove => {}
            }
        }
        // An answer is for the state that waits for it.
        let now = self.tables.attempt(attempt).state.clone();
        let keeps_grants = self.tables.lacks(Guard::GrantGivenUp);
        let state = self.slot_mut(slot);
        if !matches!(now, State::Claiming) {
            state.claim = Answer::None;
        }
        match now {
            State::Starting { .. } => {}
            State::Returning { .. } if keeps_grants => {}
            _ => state.start = Answer::None,
        }
        match now {
            State::Returning { .. } | State::Delivering { .. } => {}
            _ => state.end_answered = false,
        }
        if matches!(now, State::Done | State::Dropped) {
            state.process = Process::Over;
            state.runner = Runner::None;
            let document = state.document;
            let safe =
                document == 0 || (self.situation.promoted | self.situation.kept) & (1 << document) != 0;
            if !safe {
                self.broken.push(Invariant::NoStateLost);
            }
        }
    }

    fn sync(&mut self, slot: usize, stage: AttemptStage) -> bool {
        let state = *self.slot(slot);
        let place = self.situation.runs[usize::from(state.run)];
        let (generation, holds) = (self.generation(slot), self.holds(slot));
        let verdict = self.tables.verdict(
            self.situation.workspace,
            place.rows,
            state.phase(),
            generation,
            holds,
            stage,
        );
        let rows = self.tables.rows(place.rows);
        let stops = rows.run.cancel_asked_at.is_some() && !rows.run.status.is_terminal();
        if stops && holds && verdict == Verdict::Keep {
            self.broken.push(Invariant::NoKeepAfterCancel);
        }
        let before = self.situation;
        match verdict {
            Verdict::Keep | Verdict::Deliver => false,
            Verdict::Cancel | Verdict::Kill | Verdict::Forget | Verdict::Surrender { .. } => {
                self.hear(slot, AttemptEvent::Verdict(verdict)) && self.situation != before
            }
        }
    }

    /// The invariants that the situation breaks, those of the step before included.
    pub fn violation(&self, wanted: impl Fn(Invariant) -> bool + Copy) -> Option<Invariant> {
        let overridden = self.situation.overridden;
        let counts =
            |invariant: Invariant| wanted(invariant) && !(overridden && invariant.is_exempt_after_override());
        let of_step = self.broken.iter().copied().find(|broken| counts(*broken));
        let runs = self.configuration.runs.len();
        of_step.or_else(|| invariant::broken(&self.situation, runs, self.tables, counts))
    }
}
