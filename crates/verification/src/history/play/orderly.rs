//! Moments in which everybody, or nearly everybody, does what they should.

use terrapool_model::id::AttemptId;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::transition::Event;

use super::History;
use crate::history::agent::{Agent, Process, Request};

impl History {
    /// A moment in which nothing goes wrong, so that histories begin in the middle of things. Nobody hears of those that
    /// are cut off.
    pub(super) fn warm_up(&mut self, cut_off: &[AttemptId]) {
        self.advance(self.time + 500);
        self.schedule();
        self.mint();
        for place in 0..self.agents.len() {
            let agent = &self.agents[place];
            if agent.process != Process::Up || cut_off.contains(&agent.attempt.attempt) {
                continue;
            }
            if let Some(request) = self.agents[place].requests.last().cloned() {
                self.handle(place, &request);
            }
            while let Some(reply) = self.agents[place].replies.pop() {
                self.arrive(place, &reply);
            }
            self.go_on(place, true);
        }
    }

    /// The hosts whose engines execute are cut off, time passes, and all others go on: what the control plane gives free
    /// then has to be free.
    pub(super) fn without_the_executing(&mut self, told: &mut Option<&mut Vec<String>>) {
        let executing = self.agents.iter().filter(|agent| agent.engine_lives());
        let cut_off: Vec<AttemptId> = executing.map(|agent| agent.attempt.attempt.clone()).collect();
        if cut_off.is_empty() {
            return;
        }
        let longer = self.random.below(4);
        for moment in 0..60 {
            match moment {
                5 => self.advance(self.time + 303_000),
                10 | 11 if longer > 0 => {
                    let span = 900_000 + self.random.below(600_000);
                    self.advance(self.time + span);
                }
                7 if longer == 0 => {
                    self.override_quarantine();
                }
                _ => {}
            }
            if moment % 15 == 8 {
                self.new_run();
            }
            if moment > 5 {
                self.expire();
                self.end_quarantine();
            }
            for run in self.runs() {
                self.confirm(&run);
            }
            self.warm_up(&cut_off);
            self.look();
            self.note("all others go on", told);
        }
    }

    /// Everybody does what they should.
    pub(super) fn round(&mut self) {
        let next = self.agents.iter().filter_map(Agent::next_deadline).min();
        let busy = self.agents.iter().any(|agent| agent.process != Process::Over);
        let span = if busy { 15_000 } else { 240_000 };
        let until = next.map_or(self.time + span, |due| due.min(self.time + span));
        self.advance(until.max(self.time + 1000));
        for place in 0..self.agents.len() {
            if self.agents[place].process == Process::Down {
                let time = self.time;
                self.agents[place].restart(time, &mut self.server.counts);
            }
            self.talk(place);
        }
        self.schedule();
        self.expire();
        self.end_quarantine();
        if matches!(self.server.database.workspace.lock, Lock::User(_)) {
            self.lock();
        }
        let never = self.server.times.contact_limit_apply.is_none();
        if never && matches!(self.server.database.workspace.lock, Lock::Lost { .. }) && !busy {
            self.override_quarantine();
        }
        for run in self.runs() {
            let status = self
                .server
                .place(&run)
                .map(|place| self.server.database.runs[place].run.status);
            if matches!(status, Some(RunStatus::Planned | RunStatus::PlannedAndSaved)) {
                let free = self.server.database.workspace.lock == Lock::Free;
                if status == Some(RunStatus::Planned) || free {
                    self.confirm(&run);
                }
                let left = self
                    .server
                    .place(&run)
                    .is_some_and(|place| Some(self.server.database.runs[place].run.status) == status);
                if left && (status == Some(RunStatus::Planned) || free) {
                    let _ = self.server.event(&run, &Event::Discard, self.time);
                }
            }
        }
        if !self.server.queued().is_empty() {
            self.mint();
        }
    }

    /// A process and the server exchange everything, and the sandbox goes on.
    pub(super) fn talk(&mut self, place: usize) {
        if self.agents[place].process == Process::Over {
            return;
        }
        let time = self.time;
        let agent = &mut self.agents[place];
        if agent.process == Process::Up
            && let Some(report) = agent.attempt.report()
        {
            let stage = report.stage;
            agent.requests.push(Request::Sync { sent: time, stage });
        }
        let newest = agent.requests.len().saturating_sub(5);
        let mut requests: Vec<Request> = agent.requests[newest..].to_vec();
        // An end that was reported long ago is reported until it is answered.
        for request in &agent.requests[..newest] {
            let asked = matches!(request, Request::Finish { .. } | Request::State { .. });
            if asked && !requests.contains(request) {
                requests.push(request.clone());
            }
        }
        for request in requests {
            self.handle(place, &request);
            while let Some(reply) = self.agents[place].replies.pop() {
                self.arrive(place, &reply);
            }
        }
        for _ in 0..3 {
            self.go_on(place, false);
        }
    }
}
