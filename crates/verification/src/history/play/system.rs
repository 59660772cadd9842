//! What the server does by itself, and how agents and sandboxes go on.

use terrapool_agent_core::attempt::{Event as AgentEvent, State};
use terrapool_model::id::{AttemptId, RunId};
use terrapool_model::job::Phase;
use terrapool_model::transition::Event;

use super::{AGENTS, History, RUNS};
use crate::history::agent::{Agent, Process, Request, Sandbox};
use crate::history::counts::Rare;
use crate::history::server::Document;
use crate::invariant::Invariant;

impl History {
    pub(super) fn new_run(&mut self) -> &'static str {
        let runs: Vec<RunId> = self
            .agents
            .iter()
            .filter(|agent| agent.process != Process::Over)
            .map(|agent| agent.run.clone())
            .collect();
        self.server.clear(|run| runs.contains(run));
        if self.server.database.runs.len() < RUNS && self.server.runs_made < 200 {
            let plan_only = self.random.percent(10);
            let save_plan = self.random.percent(15);
            let auto_apply = self.random.percent(75);
            self.server.make_run(plan_only, save_plan, auto_apply);
        }
        "new run"
    }

    pub(super) fn mint(&mut self) -> &'static str {
        let queued = self.server.queued();
        if queued.is_empty() {
            return "nothing is queued";
        }
        let free = self.agents.len() < AGENTS;
        let over = self
            .agents
            .iter()
            .position(|agent| agent.process == Process::Over);
        if !free && over.is_none() {
            return "no agent is free";
        }
        let (run, phase, generation) = queued[self.random.place(queued.len())].clone();
        self.attempts = self.attempts.wrapping_add(1);
        let id = AttemptId::from_random([self.attempts; 16]);
        let incarnation = self.server.incarnation;
        let agent = Agent::new(run, phase, generation, id, incarnation, self.time);
        match over {
            Some(place) if !free || self.random.percent(30) => self.agents[place] = agent,
            _ if free => self.agents.push(agent),
            _ => {}
        }
        "an offer is seen"
    }

    /// An agent or a sandbox goes on.
    pub(super) fn work(&mut self) -> &'static str {
        let Some(place) = self.some_agent(|agent| agent.process != Process::Over) else {
            return "silence";
        };
        self.go_on(place, true)
    }

    pub(super) fn go_on(&mut self, place: usize, by_chance: bool) -> &'static str {
        let time = self.time;
        let agent = &mut self.agents[place];
        if agent.process == Process::Over {
            return "nothing";
        }
        let report = agent.attempt.report();
        if let (Process::Up, Some(report), true) = (agent.process, report, self.random.percent(40)) {
            let stage = report.stage;
            agent.requests.push(Request::Sync { sent: time, stage });
            return "a sync is sent";
        }
        if agent.process == Process::Up && matches!(agent.attempt.state, State::Claimed) {
            if by_chance && self.random.percent(15) {
                let message = String::new();
                agent.hear(AgentEvent::SandboxFailed { message }, time);
                return "no sandbox can be made";
            }
            agent.hand_over(time);
            return "a job is handed over";
        }
        let chance = self.random.below(100);
        match (&agent.sandbox, agent.stop) {
            (Sandbox::Preparing, None) if chance < 90 || !by_chance => {
                agent.init_done(time);
                "init is done"
            }
            (Sandbox::Preparing, None) => {
                agent.fails(time);
                "init fails"
            }
            (Sandbox::Preparing | Sandbox::Prepared | Sandbox::Going { .. }, Some(_)) => {
                agent.ends(false, time);
                "a runner stops"
            }
            (Sandbox::Going { .. }, None) => {
                self.execute(place);
                "an engine starts"
            }
            (Sandbox::Running, _) if agent.documents.len() < 2 && chance < 55 => {
                self.write(place);
                "an engine writes"
            }
            (Sandbox::Running, _) if chance < 60 && by_chance => {
                agent.fails(time);
                "an engine fails"
            }
            (Sandbox::Running, _) => {
                agent.ends(false, time);
                "an engine ends"
            }
            (Sandbox::Prepared | Sandbox::None | Sandbox::Ended(_) | Sandbox::Gone, _) => "nothing",
        }
    }

    pub(super) fn execute(&mut self, place: usize) {
        let agent = &mut self.agents[place];
        agent.sandbox = Sandbox::Running;
        agent.marker = true;
        if agent.attempt.phase == Phase::Plan {
            return;
        }
        let run = agent.run.clone();
        let this_history = agent.attempt.incarnation == self.server.incarnation;
        if self.executed.contains(&run) {
            self.breaks(Invariant::ExecutedOnce);
        }
        self.executed.push(run.clone());
        let current = self.server.current();
        let fresh = self.server.place(&run).is_none_or(|place| {
            let read = &self.server.database.runs[place].run.plan_state;
            read.as_ref().map(|state| &state.version) == current.as_ref().map(|state| &state.version)
        });
        if this_history && !self.risked && !fresh {
            self.breaks(Invariant::PlanFresh);
        }
    }

    pub(super) fn write(&mut self, place: usize) {
        if self.agents[place].attempt.phase == Phase::Plan {
            return;
        }
        self.documents += 1;
        let base = self.server.database.current.map_or(0, |current| current.serial);
        let agent = &mut self.agents[place];
        let serial = agent.documents.last().map_or(base, |last| last.serial) + 1;
        let number = self.documents;
        agent.documents.push(Document { number, serial });
        if agent.process == Process::Up {
            agent.send_states();
        }
    }

    /// The server's own passes.
    pub(super) fn pass(&mut self) -> &'static str {
        match self.random.below(3) {
            0 => self.schedule(),
            1 => self.expire(),
            _ => self.end_quarantine(),
        }
    }

    pub(super) fn runs(&self) -> Vec<RunId> {
        self.server
            .database
            .runs
            .iter()
            .map(|rows| rows.run.id.clone())
            .collect()
    }

    pub(super) fn schedule(&mut self) -> &'static str {
        for run in self.runs() {
            let _ = self.server.event(&run, &Event::Schedule, self.time);
        }
        "scheduling"
    }

    pub(super) fn expire(&mut self) -> &'static str {
        for run in self.runs() {
            for phase in [Phase::Plan, Phase::Apply] {
                let _ = self.server.event(&run, &Event::Expire { phase }, self.time);
                // A process with the same key registers, and knows nothing of the job.
                if self.random.percent(20) {
                    let event = Event::NotReported { phase, session: 2 };
                    if self.server.event(&run, &event, self.time).is_ok() {
                        self.server.counts.saw(Rare::NotReported);
                    }
                }
            }
        }
        "leases are looked at"
    }

    pub(super) fn end_quarantine(&mut self) -> &'static str {
        let now = self.server.wall(self.time);
        if let Ok(row) = self.server.database.workspace.quarantine_ended(now) {
            self.server.database.workspace = row;
            self.server.counts.saw(Rare::QuarantineEnded);
        }
        "quarantines are looked at"
    }
}
