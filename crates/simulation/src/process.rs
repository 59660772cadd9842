//! The agent's process: a shell around the real attempt machine, as the agent's own is.

use terrapool_agent_core::attempt::{Action, Boottime, Event, Found, State, restart, step};
use terrapool_model::id::AttemptId;
use terrapool_protocol::job::Outcome;
use terrapool_protocol::runner::{RunnerStage, StopKind};

use crate::Sabotage;
use crate::host::{Live, Process};
use crate::sandbox::Sandbox;
use crate::world::{Happening, HostNumber, ProcessNumber, World, short};

impl World {
    pub(crate) fn live(&mut self, host: HostNumber, attempt: &AttemptId) -> Option<&mut Live> {
        self.hosts[host].process.as_mut()?.lives.get_mut(attempt)
    }

    /// Starts an agent, which takes up what its journal names.
    pub(crate) fn process_starts(&mut self, number: HostNumber) {
        if self.hosts[number].process.is_some() || (self.hosts[number].is_clone && self.is_healed()) {
            return;
        }
        let process_number = self.rng.u64(1..u64::MAX);
        let now = self.now();
        let host = &mut self.hosts[number];
        let mut process = Process::new(process_number, process_number);
        // What no journal names is nobody's.
        let journal = &host.journal;
        host.sandboxes.retain(|attempt, _| journal.contains_key(attempt));
        for (attempt, line) in &host.journal {
            let mut journaled = line.attempt.clone();
            journaled.contact = now;
            journaled.state = match journaled.state {
                State::Preparing => State::Claimed,
                State::Starting { .. } => State::Starting { sent: now },
                State::Stopping { .. } => State::Running,
                other => other,
            };
            let mut live = Live::new(journaled, line.credential.clone(), now);
            live.resumed = true;
            process.lives.insert(attempt.clone(), live);
        }
        let attempts: Vec<AttemptId> = process.lives.keys().cloned().collect();
        host.process = Some(process);
        self.note(|| {
            format!(
                "host {number}: process {process_number} starts with {} attempts",
                attempts.len()
            )
        });
        for attempt in attempts {
            let state = self.live(number, &attempt).map(|live| live.attempt.state.clone());
            match state {
                Some(State::Claiming) | None => {}
                Some(State::Returning { .. }) => {
                    self.take_up(number, &attempt, Found::Gone { marker: false })
                }
                Some(_) => {
                    let wait = self.rng.u64(50..1500);
                    self.after(wait, Happening::Searched(number, process_number, attempt));
                }
            }
        }
        self.pump(number, process_number);
    }

    /// Ends a process at once.
    pub(crate) fn kill_process(&mut self, host: HostNumber, down: u64) {
        if let Some(process) = self.hosts[host].process.take() {
            self.note(|| format!("host {host}: process {} is killed", process.number));
        }
        self.after(down, Happening::ProcessStarts(host));
    }

    pub(crate) fn is_current(&self, host: HostNumber, process: ProcessNumber) -> bool {
        self.hosts[host]
            .process
            .as_ref()
            .is_some_and(|current| current.number == process)
    }

    /// A search for the sandbox of an attempt has ended.
    pub(crate) fn searched(&mut self, host: HostNumber, process: ProcessNumber, attempt: &AttemptId) {
        if !self.is_current(host, process) {
            return;
        }
        let Some(live) = self.live(host, attempt) else {
            return;
        };
        let (state, resumed) = (live.attempt.state.clone(), live.resumed);
        let found = match self.hosts[host].sandboxes.get_mut(attempt) {
            None => Found::Gone {
                marker: state == State::Running,
            },
            Some(sandbox) if sandbox.remains => {
                if sandbox.end.is_none() && sandbox.marker {
                    sandbox.end = Some(Outcome::EngineLost {
                        message: "it went away".to_owned(),
                    });
                }
                match sandbox.end {
                    Some(_) => Found::Runner(RunnerStage::Finished),
                    None => Found::Gone { marker: false },
                }
            }
            Some(sandbox) => Found::Runner(sandbox.stage),
        };
        let found = match (self.settings.sabotage, found) {
            (Some(Sabotage::MarkerIgnored), _) => Found::Gone { marker: false },
            (_, found) => found,
        };
        self.note(|| {
            format!(
                "host {host}: {} is found {found:?} in {state:?}",
                short(attempt.as_str())
            )
        });
        if let (Found::Runner(_), Some(live)) = (found, self.live(host, attempt)) {
            live.is_linked = live.credential.is_some();
        }
        match (&state, found) {
            (State::Claiming | State::Returning { .. } | State::Dropped | State::Done, _) => {}
            (State::Stopping { kind, .. }, Found::Runner(_)) => {
                let kind = *kind;
                self.stop_sandbox(host, attempt, kind);
            }
            (State::Preparing | State::Starting { .. }, Found::Runner(_)) if !resumed => {}
            _ => self.take_up(host, attempt, found),
        }
        if let Some(live) = self.live(host, attempt) {
            live.resumed = false;
        }
        self.hear_again(host, attempt);
        self.pump(host, process);
    }

    /// What a runner tells whoever connects to it.
    fn hear_again(&mut self, host: HostNumber, attempt: &AttemptId) {
        let Some(sandbox) = self.hosts[host].sandboxes.get(attempt) else {
            return;
        };
        let (stage, marker, end) = (sandbox.stage, sandbox.marker, sandbox.end.clone());
        if !self.live(host, attempt).is_some_and(|live| live.is_linked) {
            return;
        }
        if let Some(outcome) = end {
            self.apply(host, attempt, Event::Ended { outcome, marker });
        } else if marker {
            self.apply(host, attempt, Event::EngineStarted);
        } else if stage == RunnerStage::Prepared {
            self.apply_if(host, attempt, |state| *state == State::Preparing, Event::Prepared);
        }
    }

    pub(crate) fn take_up(&mut self, host: HostNumber, attempt: &AttemptId, found: Found) {
        let now = self.now();
        let Some(live) = self.live(host, attempt) else {
            return;
        };
        let (next, actions) = restart(&live.attempt, found, now);
        live.attempt = next;
        self.perform(host, attempt, actions);
    }

    pub(crate) fn apply_if(
        &mut self,
        host: HostNumber,
        attempt: &AttemptId,
        expected: impl Fn(&State) -> bool,
        event: Event,
    ) {
        if self
            .live(host, attempt)
            .is_some_and(|live| expected(&live.attempt.state))
        {
            self.apply(host, attempt, event);
        }
    }

    /// Tells the attempt machine, and carries out what it decides.
    pub(crate) fn apply(&mut self, host: HostNumber, attempt: &AttemptId, event: Event) {
        let now = self.now();
        let Some(live) = self.live(host, attempt) else {
            return;
        };
        if let Ok((next, actions)) = step(&live.attempt, event, now) {
            live.attempt = next;
            self.perform(host, attempt, actions);
        }
    }

    fn perform(&mut self, host: HostNumber, attempt: &AttemptId, actions: Vec<Action>) {
        // The same order as the agent's: preparing and deliveries begin before the journal has them.
        let begins = |action: &Action| match action {
            Action::Prepare => true,
            Action::Finish { outcome } => !matches!(outcome, Outcome::NeverStarted { .. }),
            Action::Journal
            | Action::SendStart
            | Action::Go
            | Action::Stop { .. }
            | Action::Renew { .. }
            | Action::Remove => false,
        };
        let (first, then): (Vec<Action>, Vec<Action>) = actions.into_iter().partition(begins);
        for action in first.into_iter().chain(then) {
            if let Some(left) = self.hosts[host]
                .process
                .as_mut()
                .and_then(|process| process.actions_left.as_mut())
            {
                if *left == 0 {
                    let down = self.rng.u64(200..30_000);
                    self.kill_process(host, down);
                    return;
                }
                *left -= 1;
            }
            self.carry_out(host, attempt, action);
        }
    }

    fn carry_out(&mut self, host: HostNumber, attempt: &AttemptId, action: Action) {
        let now = self.now();
        let forgets = self.settings.sabotage == Some(Sabotage::ForgottenJournal);
        let Some(live) = self.live(host, attempt) else {
            return;
        };
        match action {
            Action::Journal => {
                let (attempt, credential) = (live.attempt.clone(), live.credential.clone());
                let is_over = matches!(attempt.state, State::Done | State::Dropped);
                if is_over || !forgets {
                    self.hosts[host].journal(&attempt, credential.as_ref());
                }
                if let (true, Some(live)) = (is_over, self.live(host, &attempt.attempt)) {
                    live.is_over = true;
                }
            }
            Action::Prepare => {
                let Some(spec) = live.spec.clone() else { return };
                let job = live.attempt.job.clone();
                let sandbox = Sandbox::new(&spec, job, attempt.clone(), &mut self.rng);
                self.hosts[host].sandboxes.insert(attempt.clone(), sandbox);
            }
            Action::SendStart => {
                live.again.remove("start");
            }
            Action::Go => self.go(host, attempt),
            Action::Stop { kind, .. } => self.stop_sandbox(host, attempt, kind),
            Action::Renew { remaining } => {
                if let Some(sandbox) = self.hosts[host].sandboxes.get_mut(attempt) {
                    sandbox.deadline = remaining.map(|remaining| Boottime(now.0 + remaining.0));
                }
            }
            Action::Finish { outcome } => {
                live.finish = Some(outcome);
                live.again.remove("finish");
            }
            Action::Remove => {
                live.is_over = true;
                self.hosts[host].sandboxes.remove(attempt);
            }
        }
    }

    /// A second has passed on a host: runners look at their deadlines, attempts at their times.
    pub(crate) fn host_tick(&mut self, host: HostNumber) {
        let now = self.now();
        let late: Vec<AttemptId> = self.hosts[host]
            .sandboxes
            .values()
            .filter(|sandbox| {
                sandbox.engine_runs()
                    && sandbox.stopping.is_none()
                    && sandbox.deadline.is_some_and(|deadline| now >= deadline)
            })
            .map(|sandbox| sandbox.attempt.clone())
            .collect();
        for attempt in late {
            self.note(|| {
                format!(
                    "host {host}: the runner of {} stops by itself",
                    short(attempt.as_str())
                )
            });
            self.stop_sandbox(host, &attempt, StopKind::Cancel);
        }
        let Some(process) = &self.hosts[host].process else {
            return;
        };
        let number = process.number;
        let attempts: Vec<AttemptId> = process.lives.keys().cloned().collect();
        for attempt in attempts {
            self.apply(host, &attempt, Event::Tick);
        }
        self.pump(host, number);
    }

    /// Tells the agent what its runner says, when it listens.
    pub(crate) fn runner_says(&mut self, host: HostNumber, attempt: &AttemptId, event: Event) {
        if self.live(host, attempt).is_some_and(|live| live.is_linked) {
            self.apply(host, attempt, event);
        }
        if let Some(number) = self.hosts[host].process.as_ref().map(|process| process.number) {
            self.pump(host, number);
        }
    }

    /// The agent is told to end.
    pub(crate) fn tell_to_end(&mut self, host: HostNumber) {
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        process.told += 1;
        let (told, number) = (process.told, process.number);
        let attempts: Vec<AttemptId> = process.lives.keys().cloned().collect();
        self.note(|| format!("host {host}: told to end for the {told}. time"));
        match told {
            1 => self.sync_anew(host),
            2 => {
                for attempt in attempts {
                    self.apply(host, &attempt, Event::AgentEnds);
                }
            }
            _ => {
                let down = self.rng.u64(500..20_000);
                self.kill_process(host, down);
                return;
            }
        }
        self.pump(host, number);
    }
}
