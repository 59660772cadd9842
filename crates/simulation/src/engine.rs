//! What runners and engines do in their sandboxes.

use terrapool_agent_core::attempt::{Event, State};
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_protocol::job::Outcome;
use terrapool_protocol::runner::{RunnerStage, StopKind};

use crate::sandbox::{Fate, Sandbox, Step};
use crate::world::{Happening, HostNumber, Made, World, short};

/// Kill of a stop that is to be quick, after this.
const SHORT_GRACE: Millis = Millis::from_seconds(2);

impl World {
    fn sandbox(&mut self, host: HostNumber, attempt: &AttemptId) -> Option<&mut Sandbox> {
        self.hosts[host].sandboxes.get_mut(attempt)
    }

    fn step_after(&mut self, host: HostNumber, attempt: &AttemptId, milliseconds: u64, step: Step) {
        if let Some(version) = self.sandbox(host, attempt).map(|sandbox| sandbox.version) {
            let happening = Happening::Sandbox(host, attempt.clone(), version, step);
            self.after(milliseconds, happening);
        }
    }

    /// A scheduled step of a sandbox.
    pub(crate) fn sandbox_goes_on(
        &mut self,
        host: HostNumber,
        attempt: &AttemptId,
        version: u64,
        step: Step,
    ) {
        let wait = self.rng.u64(300..8000);
        let Some(sandbox) = self.sandbox(host, attempt) else {
            return;
        };
        if sandbox.version != version || sandbox.remains || sandbox.end.is_some() {
            return;
        }
        match step {
            Step::Handed => {
                sandbox.stage = RunnerStage::Preparing;
                sandbox.print("init");
                self.step_after(host, attempt, wait / 3, Step::Init);
                if let Some(live) = self.hosts[host]
                    .process
                    .as_mut()
                    .and_then(|process| process.lives.get_mut(attempt))
                {
                    live.is_linked = true;
                }
                self.runner_says(host, attempt, Event::HandedOver);
            }
            Step::Init => {
                sandbox.print("init is done");
                if sandbox.fate == Fate::InitFails {
                    let outcome = sandbox.own_end();
                    self.end_sandbox(host, attempt, outcome);
                    return;
                }
                sandbox.stage = RunnerStage::Prepared;
                let goes_on = sandbox.phase == Phase::Plan;
                self.runner_says(host, attempt, Event::Prepared);
                if goes_on {
                    self.execute(host, attempt);
                }
            }
            Step::Engine => self.engine_goes_on(host, attempt, wait),
            Step::KillAll => {
                sandbox.print("killed");
                self.end_sandbox(host, attempt, Outcome::Canceled);
            }
        }
    }

    /// The runner is told to execute the apply.
    pub(crate) fn go(&mut self, host: HostNumber, attempt: &AttemptId) {
        let Some(sandbox) = self.sandbox(host, attempt) else {
            return;
        };
        let waits = sandbox.stage == RunnerStage::Prepared && sandbox.phase == Phase::Apply;
        if waits && !sandbox.remains && sandbox.end.is_none() && sandbox.stopping.is_none() {
            self.execute(host, attempt);
        }
    }

    /// The marker is written, and the engine executed.
    fn execute(&mut self, host: HostNumber, attempt: &AttemptId) {
        let wait = self.rng.u64(300..4000);
        let Some(sandbox) = self.sandbox(host, attempt) else {
            return;
        };
        sandbox.marker = true;
        sandbox.stage = RunnerStage::Running;
        sandbox.print("the engine starts");
        let (job, workspace, phase) = (sandbox.job.clone(), sandbox.workspace.clone(), sandbox.phase);
        if phase == Phase::Apply {
            self.counts.engine_starts += 1;
            let starts = self.engine_starts.entry(job.clone()).or_default();
            starts.push(attempt.clone());
            let again = starts.len() > 1;
            if again {
                self.broken(format!("the apply {job} was executed twice"));
            }
            let beside: Vec<String> = self
                .hosts
                .iter()
                .flat_map(|host| host.sandboxes.values())
                .filter(|other| {
                    other.attempt != *attempt
                        && other.workspace == workspace
                        && other.phase == Phase::Apply
                        && other.engine_runs()
                        && !other.slept
                })
                .map(|other| other.attempt.to_string())
                .collect();
            if !beside.is_empty() && !self.overridden.contains(&workspace) {
                self.broken(format!(
                    "two engines apply in {workspace} at once: {attempt} beside {beside:?}"
                ));
            }
        }
        self.note(|| {
            format!(
                "host {host}: the engine of {} starts ({phase:?})",
                short(attempt.as_str())
            )
        });
        self.step_after(host, attempt, wait, Step::Engine);
        self.runner_says(host, attempt, Event::EngineStarted);
    }

    fn engine_goes_on(&mut self, host: HostNumber, attempt: &AttemptId, wait: u64) {
        let writes_late = self.rng.bool();
        let Some(sandbox) = self.sandbox(host, attempt) else {
            return;
        };
        let is_apply = sandbox.phase == Phase::Apply;
        let obeys = sandbox.stopping.is_some();
        if sandbox.left == 0 || (obeys && !writes_late) {
            let outcome = if obeys {
                Outcome::Canceled
            } else {
                sandbox.own_end()
            };
            self.end_sandbox(host, attempt, outcome);
            return;
        }
        sandbox.left -= 1;
        let left = sandbox.left;
        sandbox.print(&format!("{left} things are left"));
        if is_apply {
            let resource = sandbox.make_resource();
            let workspace = sandbox.workspace.clone();
            self.made.push(Made {
                workspace,
                attempt: attempt.clone(),
                resource,
            });
        }
        self.step_after(host, attempt, if obeys { wait / 8 } else { wait }, Step::Engine);
        if let Some(number) = self.hosts[host].process.as_ref().map(|process| process.number) {
            self.pump(host, number);
        }
    }

    fn end_sandbox(&mut self, host: HostNumber, attempt: &AttemptId, outcome: Outcome) {
        let archive = format!("the plan of {attempt}").into_bytes();
        let Some(sandbox) = self.sandbox(host, attempt) else {
            return;
        };
        sandbox.version += 1;
        sandbox.stage = RunnerStage::Finished;
        sandbox.print("the end");
        if sandbox.phase == Phase::Plan && matches!(outcome, Outcome::Succeeded { .. }) {
            sandbox.archive = Some(archive);
        }
        sandbox.end = Some(outcome.clone());
        let marker = sandbox.marker;
        self.note(|| {
            format!(
                "host {host}: {} ends in its sandbox: {outcome:?}",
                short(attempt.as_str())
            )
        });
        self.runner_says(host, attempt, Event::Ended { outcome, marker });
    }

    /// The runner begins the stop sequence, or escalates it.
    pub(crate) fn stop_sandbox(&mut self, host: HostNumber, attempt: &AttemptId, kind: StopKind) {
        let soon = self.rng.u64(50..1500);
        let Some(sandbox) = self.sandbox(host, attempt) else {
            return;
        };
        if sandbox.remains || sandbox.end.is_some() {
            return;
        }
        let harder = matches!(
            (sandbox.stopping, kind),
            (None, _) | (Some(StopKind::Cancel), StopKind::Kill)
        );
        if !harder {
            return;
        }
        sandbox.stopping = Some(kind);
        sandbox.version += 1;
        if !sandbox.marker {
            self.end_sandbox(host, attempt, Outcome::Canceled);
            return;
        }
        let grace = match kind {
            StopKind::Cancel => sandbox.times.grace,
            StopKind::Kill => SHORT_GRACE,
        };
        let (deaf, all) = (sandbox.deaf, grace.0 + sandbox.times.kill_after.0);
        if !deaf {
            self.step_after(host, attempt, soon, Step::Engine);
        }
        self.step_after(host, attempt, all, Step::KillAll);
    }

    /// Every runner of a host dies; volumes stay.
    pub(crate) fn kill_sandboxes(&mut self, host: HostNumber) {
        for sandbox in self.hosts[host].sandboxes.values_mut() {
            sandbox.remains = true;
            sandbox.version += 1;
        }
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let number = process.number;
        let (mut cut, mut unmade) = (Vec::new(), Vec::new());
        for (attempt, live) in &mut process.lives {
            if live.attempt.state == State::Claimed && !live.resumed {
                unmade.push(attempt.clone());
            } else if std::mem::take(&mut live.is_linked) && !live.is_over {
                live.finish = None;
                live.under_way.remove("finish");
                cut.push(attempt.clone());
            }
        }
        for attempt in unmade {
            let message = "the sandbox went away while it was prepared".to_owned();
            self.apply(host, &attempt, Event::SandboxFailed { message });
        }
        for attempt in cut {
            let wait = self.rng.u64(100..3000);
            self.after(wait, Happening::Searched(host, number, attempt));
        }
    }
}
