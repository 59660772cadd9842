//! Sandboxes, and the processes that may die around them.

use terrapool_agent_core::attempt::Found;
use terrapool_protocol::runner::RunnerStage;

use super::World;
use crate::guard::Guard;
use crate::invariant::Invariant;
use crate::situation::{Answer, Ending, Process, Runner, Stop};
use crate::tables::AttemptEvent;

impl World<'_> {
    pub(super) fn init_done(&mut self, slot: usize) -> bool {
        if self.slot(slot).apply {
            self.slot_mut(slot).runner = Runner::Prepared;
            if self.tables.lacks(Guard::StartGrant) {
                self.slot_mut(slot).runner = Runner::Going;
                return true;
            }
        } else {
            // A plan's runner goes on by itself.
            let state = self.slot_mut(slot);
            state.runner = Runner::Running;
            state.marker = true;
        }
        self.report(slot);
        true
    }

    pub(super) fn execute(&mut self, slot: usize) -> bool {
        let run = usize::from(self.slot(slot).run);
        let rows = self.tables.rows(self.situation.runs[run].rows);
        let read = rows.run.plan_state.as_ref().map(|state| state.version.clone());
        let (current, _) = self.current();
        let now = self.tables.state_version(current);
        if read != now {
            self.broken.push(Invariant::PlanFresh);
        }
        self.situation.runs[run].executed = (self.situation.runs[run].executed + 1).min(2);
        let state = self.slot_mut(slot);
        state.runner = Runner::Running;
        state.marker = true;
        true
    }

    pub(super) fn write(&mut self, slot: usize) -> bool {
        let run = usize::from(self.slot(slot).run);
        let document = 1 + 2 * run as u8 + self.situation.runs[run].executed.saturating_sub(1);
        let (_, serial) = self.current();
        self.situation.serials[usize::from(document)] = serial + 1;
        let state = self.slot_mut(slot);
        state.document = document;
        state.document_sent = state.process == Process::Up;
        true
    }

    pub(super) fn ends(&mut self, slot: usize, ending: Ending) -> bool {
        self.slot_mut(slot).runner = Runner::Ended(ending);
        self.report(slot);
        true
    }

    /// A process that runs hears at once what its runner tells.
    pub(super) fn report(&mut self, slot: usize) {
        let state = *self.slot(slot);
        if state.process != Process::Up {
            return;
        }
        let marker = state.marker;
        let event = match state.runner {
            Runner::Prepared => AttemptEvent::Prepared,
            Runner::Running => AttemptEvent::EngineStarted,
            Runner::Ended(ending) => AttemptEvent::Ended { ending, marker },
            Runner::Gone => AttemptEvent::Vanished { marker },
            Runner::None | Runner::Preparing | Runner::Going => return,
        };
        self.hear(slot, event);
    }

    pub(super) fn contact_lost(&mut self, slot: usize) -> bool {
        if self.slot(slot).process == Process::Up {
            let before = self.situation;
            return self.hear(slot, AttemptEvent::ContactLost) && self.situation != before;
        }
        let state = self.slot_mut(slot);
        state.stop = state.stop.or(Some(Stop::LostContact));
        true
    }

    pub(super) fn die(&mut self, slot: usize) {
        let state = self.slot_mut(slot);
        if state.process == Process::Over {
            return;
        }
        state.process = Process::Down;
        state.attempt = state.journal;
        state.claim = Answer::None;
        state.start = Answer::None;
        state.end_answered = false;
    }

    pub(super) fn restart(&mut self, slot: usize) -> bool {
        let state = *self.slot(slot);
        let found = match state.runner {
            Runner::None | Runner::Gone => Found::Gone {
                marker: state.marker && !self.tables.lacks(Guard::MarkerAbsent),
            },
            Runner::Preparing => Found::Runner(RunnerStage::Preparing),
            Runner::Prepared => Found::Runner(RunnerStage::Prepared),
            Runner::Going | Runner::Running => Found::Runner(RunnerStage::Running),
            Runner::Ended(_) => Found::Runner(RunnerStage::Finished),
        };
        let stepped = self.tables.restart(state.journal, found);
        self.slot_mut(slot).process = Process::Up;
        self.slot_mut(slot).document_sent |= state.document > 0;
        self.settle(slot, stepped.attempt, &stepped.deeds);
        if matches!(state.runner, Runner::Ended(_)) {
            self.report(slot);
        }
        true
    }
}
