//! Who does what, by chance.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use terrapool_agent_core::attempt::Event as AgentEvent;
use terrapool_model::id::RunId;
use terrapool_model::times::Times;

use super::agent::{Agent, Process};
use super::counts::Rare;
use super::random::Random;
use super::server::{Document, Server};
use super::{Played, Weakness};
use crate::invariant::Invariant;

mod messages;
mod orderly;
mod system;
mod trouble;

const RUNS: usize = 3;
const AGENTS: usize = 4;
const STEPS: usize = 120;
/// Rounds in which everybody does what they should until every run has ended.
const ROUNDS: usize = 700;

pub(super) struct History {
    random: Random,
    weakness: Weakness,
    server: Server,
    agents: Vec<Agent>,
    /// Milliseconds since the beginning, as no clock counts them.
    time: u64,
    /// Runs whose apply was executed.
    executed: Vec<RunId>,
    documents: u32,
    attempts: u8,
    /// A person took a risk: an override, or a confirmation after a restore.
    risked: bool,
    broken: Option<Invariant>,
    digest: DefaultHasher,
}

impl History {
    pub(super) fn new(seed: u64, weakness: Weakness) -> Self {
        let mut random = Random::new(seed);
        let mut times = Times::default();
        // Few contact limits are never: then only people end a quarantine.
        if random.percent(5) {
            times.contact_limit_apply = None;
        }
        Self {
            random,
            weakness,
            server: Server::new(times),
            agents: Vec::new(),
            time: 0,
            executed: Vec::new(),
            documents: 0,
            attempts: 0,
            risked: false,
            broken: None,
            digest: DefaultHasher::new(),
        }
    }

    pub(super) fn play(mut self, mut told: Option<&mut Vec<String>>) -> Played {
        let mut steps = 0;
        for _ in 0..=self.random.below(RUNS as u64) {
            self.new_run();
        }
        for _ in 0..self.random.below(24) {
            self.warm_up(&[]);
            self.look();
            self.note("warm up", &mut told);
        }
        for _ in 0..STEPS {
            let what = self.something();
            self.look();
            self.note(what, &mut told);
            steps += 1;
            if self.broken.is_some() {
                break;
            }
        }
        if self.random.percent(40) {
            self.without_the_executing(&mut told);
        }
        for _ in 0..ROUNDS {
            if self.broken.is_some() || self.is_over() {
                break;
            }
            self.round();
            self.look();
            self.note("round", &mut told);
            steps += 1;
        }
        if self.broken.is_none() && !self.is_over() {
            self.broken = Some(Invariant::EndReachableAlone);
        }
        Played {
            counts: self.server.counts,
            steps,
            broken: self.broken,
            digest: self.digest.finish(),
        }
    }

    fn note(&mut self, what: &'static str, told: &mut Option<&mut Vec<String>>) {
        what.hash(&mut self.digest);
        self.time.hash(&mut self.digest);
        self.server.database.workspace.hash(&mut self.digest);
        if let Some(told) = told {
            let statuses: Vec<String> = self
                .server
                .database
                .runs
                .iter()
                .map(|rows| format!("{} {}", rows.run.id, rows.run.status))
                .collect();
            let agents: Vec<String> = self
                .agents
                .iter()
                .map(|agent| {
                    format!(
                        "{:?} {} {:?} {:?}",
                        agent.process, agent.attempt.phase, agent.attempt.state, agent.sandbox
                    )
                })
                .collect();
            let lock = &self.server.database.workspace.lock;
            told.push(format!(
                "{:>9} {what}: {lock:?} {statuses:?} {agents:?}",
                self.time
            ));
        }
    }

    fn is_over(&self) -> bool {
        let idle = self.agents.iter().all(|agent| agent.process == Process::Over);
        self.server.is_over() && idle
    }

    fn breaks(&mut self, invariant: Invariant) {
        self.broken = self.broken.or(Some(invariant));
    }

    /// What must hold after every step.
    fn look(&mut self) {
        if let Some(first) = self.server.broken.first() {
            self.broken = self.broken.or(Some(*first));
        }
        let engines: Vec<&Agent> = self.agents.iter().filter(|agent| agent.engine_lives()).collect();
        if engines.len() > 1 {
            if self.risked {
                self.server.counts.saw(Rare::TwoEngines);
            } else {
                self.broken = self.broken.or(Some(Invariant::OneEngine));
            }
        }
        let workspace = &self.server.database.workspace;
        let holds = engines.iter().all(|agent| {
            let other_history = agent.attempt.incarnation != self.server.incarnation;
            other_history
                || self.risked
                || self.server.place(&agent.run).is_some_and(|place| {
                    let run = &self.server.database.runs[place].run;
                    workspace.is_held_by(&run.id, run.lock_epoch)
                        || workspace.is_lost_by(&run.id, run.lock_epoch)
                })
        });
        if !holds {
            self.breaks(Invariant::EngineHolds);
        }
        for place in 0..self.agents.len() {
            let agent = &self.agents[place];
            let lost = |document: &Document| !self.server.database.safe.contains(document);
            if agent.process == Process::Over && !agent.excused && agent.documents.iter().any(lost) {
                self.breaks(Invariant::NoStateLost);
            }
        }
    }

    /// One random step.
    fn something(&mut self) -> &'static str {
        match self.random.below(200) {
            0..=13 => self.pass_time(),
            14..=62 => self.serve(),
            63..=109 => self.deliver(),
            110..=158 => self.work(),
            159..=171 => self.pass(),
            172..=177 => self.mint(),
            178..=184 => self.person(),
            185..=189 => self.fault(),
            190..=194 => self.new_run(),
            195 => self.new_clock(),
            196..=197 => {
                self.server.backup = Some(self.server.database.clone());
                "backup"
            }
            198 => {
                if self.random.percent(50) {
                    self.restore();
                }
                "restore"
            }
            _ => self.lock(),
        }
    }

    /// Time goes on; what happens by itself happens when it is due.
    fn pass_time(&mut self) -> &'static str {
        let span = match self.random.below(40) {
            0..=19 => self.random.below(2_000),
            20..=29 => 3_000 + self.random.below(30_000),
            30..=32 => 60_000 + self.random.below(60_000),
            33..=35 => 300_000 + self.random.below(20_000),
            36 => 1_700_000 + self.random.below(300_000),
            37 => 2_400_000 + self.random.below(600_000),
            _ => 19_000 + self.random.below(2_000),
        };
        self.advance(self.time + span);
        "time"
    }

    fn advance(&mut self, until: u64) {
        while let Some((due, place)) = self
            .agents
            .iter()
            .enumerate()
            .filter_map(|(place, agent)| agent.next_deadline().map(|due| (due, place)))
            .min()
            .filter(|(due, _)| *due <= until)
        {
            self.time = self.time.max(due);
            let executes = self.agents[place].deadline(self.time, &mut self.server.counts);
            if executes {
                self.execute(place);
            }
            self.look();
        }
        self.time = until;
        for agent in &mut self.agents {
            // A timer may be late; the runner's own is not.
            if !self.random.percent(25) {
                agent.hear(AgentEvent::Tick, until);
            }
        }
    }
}
