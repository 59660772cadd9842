//! An attempt of a history, with its process, its sandbox and its messages.

use terrapool_agent_core::attempt::{self, Action, Attempt, Boottime, Event, Found, State};
use terrapool_model::id::{AttemptId, JobId, RunId};
use terrapool_model::job::Phase;
use terrapool_model::sync::{AttemptStage, Verdict};
use terrapool_model::time::Millis;
use terrapool_model::times::Times;
use terrapool_protocol::job::{FailureReason, JobTimes, Outcome};
use terrapool_protocol::runner::{RunnerStage, StopKind, StopReason};

use super::counts::{Counts, Rare};
use super::server::Document;

/// What an agent sent. Nothing is ever taken out of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Claim { sent: u64 },
    Start { sent: u64 },
    Finish { outcome: Outcome },
    State { document: Document },
    Sync { sent: u64, stage: AttemptStage },
}

/// What is on its way to an agent's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Claimed { generation: u64, sent: u64 },
    ClaimRefused,
    Granted { sent: u64 },
    StartRefused { sent: u64 },
    Ended,
    Stored { document: Document },
    Verdict { sent: u64, verdict: Verdict },
}

/// The sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sandbox {
    None,
    Preparing,
    Prepared,
    Going { since: u64 },
    Running,
    Ended(Outcome),
    Gone,
}

/// A stop that was asked of the runner: why, and when it kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) reason: StopReason,
    pub(super) kills_at: u64,
}

/// The process that has the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Process {
    Up,
    Down,
    Over,
}

/// Longest time from being told until the engine executes.
pub(super) const EXECUTES_WITHIN: u64 = 1000;

#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) run: RunId,
    pub(super) generation_seen: u64,
    pub(super) attempt: Attempt,
    journal: Attempt,
    pub(super) process: Process,
    pub(super) sandbox: Sandbox,
    pub(super) stop: Option<Stop>,
    /// When the runner stops its engine unless somebody renews the contact.
    dead_man: Option<u64>,
    pub(super) marker: bool,
    /// States on the disk, the newest last.
    pub(super) documents: Vec<Document>,
    /// Of these, those whose arrival was confirmed.
    pub(super) confirmed: usize,
    pub(super) requests: Vec<Request>,
    pub(super) replies: Vec<Reply>,
    /// Whether states were lost that only an earlier history of the control plane had.
    pub(super) excused: bool,
}

fn outcome(stop: Option<Stop>, killed: bool) -> Outcome {
    let failed = |reason| Outcome::Failed {
        reason,
        message: String::new(),
    };
    match stop.map(|stop| stop.reason) {
        Some(StopReason::Canceled) => Outcome::Canceled,
        Some(StopReason::LostContact) => failed(FailureReason::LostContact),
        Some(StopReason::AgentEnds) => failed(FailureReason::Internal),
        None if killed => failed(FailureReason::OutOfMemory),
        None => Outcome::Succeeded { changes: true },
    }
}

pub(super) fn job_times(times: &Times, phase: Phase) -> JobTimes {
    JobTimes {
        contact_limit: times.contact_limit(phase),
        grace: times.grace(phase),
        kill_after: times.kill_after,
        start_window: times.start_window,
    }
}

impl Agent {
    pub(super) fn new(
        run: RunId,
        phase: Phase,
        generation: u64,
        id: AttemptId,
        incarnation: u64,
        time: u64,
    ) -> Self {
        let job = JobId::from_random([1; 16]);
        let attempt = Attempt::new(job, generation, id, phase, incarnation, Boottime(time));
        Self {
            run,
            generation_seen: generation,
            journal: attempt.clone(),
            attempt,
            process: Process::Up,
            sandbox: Sandbox::None,
            stop: None,
            dead_man: None,
            marker: false,
            documents: Vec::new(),
            confirmed: 0,
            requests: vec![Request::Claim { sent: time }],
            replies: Vec::new(),
            excused: false,
        }
    }

    pub(super) fn engine_lives(&self) -> bool {
        self.attempt.phase == Phase::Apply && self.sandbox == Sandbox::Running
    }

    /// Brings an event to the attempt's process. False when it is not expected.
    pub(super) fn hear(&mut self, event: Event, time: u64) -> bool {
        if self.process != Process::Up {
            return false;
        }
        let Ok((next, actions)) = attempt::step(&self.attempt, event, Boottime(time)) else {
            return false;
        };
        self.attempt = next;
        self.perform(actions, time);
        true
    }

    fn perform(&mut self, actions: Vec<Action>, time: u64) {
        for action in actions {
            match action {
                Action::Journal => self.journal = self.attempt.clone(),
                Action::Prepare => {}
                Action::SendStart => self.requests.push(Request::Start { sent: time }),
                Action::Go => {
                    if self.sandbox == Sandbox::Prepared {
                        self.sandbox = Sandbox::Going { since: time };
                    }
                }
                Action::Stop { kind, reason } => self.stop_runner(kind, reason, time),
                Action::Renew { remaining } => self.renew(remaining, time),
                Action::Finish { outcome } => self.requests.push(Request::Finish { outcome }),
                Action::Remove => self.sandbox = Sandbox::None,
            }
        }
        match self.attempt.state {
            State::Done | State::Dropped => {
                self.process = Process::Over;
                self.sandbox = Sandbox::None;
            }
            State::Claiming
            | State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Returning { .. }
            | State::Delivering { .. } => {}
        }
    }

    fn renew(&mut self, remaining: Option<Millis>, time: u64) {
        self.dead_man = remaining.map(|remaining| time + remaining.0);
    }

    pub(super) fn stop_runner(&mut self, kind: StopKind, reason: StopReason, time: u64) {
        let Some(times) = self.attempt.times else { return };
        let kills_at = match kind {
            StopKind::Kill => time + times.kill_after.0,
            StopKind::Cancel => time + times.grace.0 + times.kill_after.0,
        };
        let stop = self.stop.get_or_insert(Stop { reason, kills_at });
        stop.kills_at = stop.kills_at.min(kills_at);
    }

    /// The runner is given the job.
    pub(super) fn hand_over(&mut self, time: u64) {
        self.sandbox = Sandbox::Preparing;
        let remaining = self.attempt.remaining_contact(Boottime(time));
        self.renew(remaining, time);
        self.hear(Event::HandedOver, time);
    }

    /// What the process hears of its runner.
    pub(super) fn report(&mut self, time: u64) {
        let marker = self.marker;
        let event = match &self.sandbox {
            Sandbox::Prepared => Event::Prepared,
            Sandbox::Running => Event::EngineStarted,
            Sandbox::Ended(outcome) => Event::Ended {
                outcome: outcome.clone(),
                marker,
            },
            Sandbox::Gone => Event::SandboxVanished { marker },
            Sandbox::None | Sandbox::Preparing | Sandbox::Going { .. } => return,
        };
        self.hear(event, time);
    }

    pub(super) fn init_done(&mut self, time: u64) {
        match self.attempt.phase {
            Phase::Apply => self.sandbox = Sandbox::Prepared,
            Phase::Plan => {
                self.sandbox = Sandbox::Running;
                self.marker = true;
            }
        }
        self.report(time);
    }

    /// The runner's work ends, by itself or as it was told.
    pub(super) fn ends(&mut self, killed: bool, time: u64) {
        let executed = self.sandbox == Sandbox::Running;
        let end = if executed {
            outcome(self.stop, killed)
        } else {
            Outcome::Canceled
        };
        self.sandbox = Sandbox::Ended(end);
        self.report(time);
    }

    pub(super) fn fails(&mut self, time: u64) {
        self.sandbox = Sandbox::Ended(Outcome::Failed {
            reason: FailureReason::Exit,
            message: String::new(),
        });
        self.report(time);
    }

    pub(super) fn vanishes(&mut self, time: u64) {
        self.sandbox = Sandbox::Gone;
        self.report(time);
    }

    pub(super) fn die(&mut self) {
        self.process = Process::Down;
        self.attempt = self.journal.clone();
        self.replies.clear();
    }

    /// The grant is journaled, and the process dies before it tells the runner.
    pub(super) fn die_with_grant(&mut self, time: u64) {
        let before = self.sandbox.clone();
        self.hear(Event::Granted, time);
        self.sandbox = before;
        if self.process == Process::Up {
            self.die();
        }
    }

    pub(super) fn lose_host(&mut self) {
        self.die();
        self.sandbox = Sandbox::None;
        self.process = Process::Over;
        self.excused = true;
    }

    pub(super) fn restart(&mut self, time: u64, counts: &mut Counts) {
        let marker = self.marker;
        let found = match &self.sandbox {
            Sandbox::None | Sandbox::Gone => Found::Gone { marker },
            Sandbox::Preparing => Found::Runner(RunnerStage::Preparing),
            Sandbox::Prepared => Found::Runner(RunnerStage::Prepared),
            Sandbox::Going { .. } | Sandbox::Running => Found::Runner(RunnerStage::Running),
            Sandbox::Ended(_) => Found::Runner(RunnerStage::Finished),
        };
        self.process = Process::Up;
        let mut journaled = self.journal.clone();
        // Its clock begins anew: what was heard before is not in the journal.
        journaled.contact = Boottime(time);
        let (next, actions) = attempt::restart(&journaled, found, Boottime(time));
        self.attempt = next;
        self.perform(actions, time);
        if matches!(self.attempt.state, State::Claiming) {
            self.requests.push(Request::Claim { sent: time });
        }
        self.send_states();
        if matches!(self.sandbox, Sandbox::Ended(_)) {
            self.report(time);
        }
        counts.saw(Rare::TakenUp);
    }

    /// What its process sends as long as it was not confirmed.
    pub(super) fn send_states(&mut self) {
        for document in &self.documents[self.confirmed..] {
            let request = Request::State { document: *document };
            if !self.requests.contains(&request) {
                self.requests.push(request);
            }
        }
    }

    /// The next moment at which something happens by itself, and may not happen later.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        match self.sandbox {
            Sandbox::Preparing | Sandbox::Prepared | Sandbox::Going { .. } | Sandbox::Running => {}
            Sandbox::None | Sandbox::Ended(_) | Sandbox::Gone => return None,
        }
        let executes = match self.sandbox {
            Sandbox::Going { since } => Some(since + EXECUTES_WITHIN),
            Sandbox::None
            | Sandbox::Preparing
            | Sandbox::Prepared
            | Sandbox::Running
            | Sandbox::Ended(_)
            | Sandbox::Gone => None,
        };
        let stops = match self.stop {
            Some(stop) => Some(stop.kills_at),
            None => self.dead_man,
        };
        executes.into_iter().chain(stops).min()
    }

    /// Does what is due. True when the engine is to execute.
    pub(super) fn deadline(&mut self, time: u64, counts: &mut Counts) -> bool {
        if let Sandbox::Going { since } = self.sandbox
            && since + EXECUTES_WITHIN <= time
        {
            if self.stop.is_none() {
                return true;
            }
            self.ends(false, time);
            return false;
        }
        match self.stop {
            Some(stop) if stop.kills_at <= time => {
                counts.saw(Rare::Killed);
                self.ends(true, time);
            }
            Some(_) => {}
            None => {
                if self.dead_man.is_some_and(|deadline| deadline <= time) {
                    counts.saw(Rare::DeadMan);
                    self.stop_runner(StopKind::Cancel, StopReason::LostContact, time);
                }
            }
        }
        false
    }
}
