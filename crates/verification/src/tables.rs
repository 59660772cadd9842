//! The product's own pure functions, asked once for each question: rows and attempts are interned, and answers are
//! remembered. A guard that is taken out is taken out here, around the function.

use std::collections::HashMap;
use std::hash::Hash;

use terrapool_agent_core::attempt::{self, Action, Attempt, Boottime, Found};
use terrapool_model::id::{AttemptId, JobId, RunId, StateVersionId, UserId};
use terrapool_model::job::{Job, JobResult, Phase};
use terrapool_model::lock::Workspace;
use terrapool_model::refusal::Refusal;
use terrapool_model::run::{Aftermath, End, Run, StateRef};
use terrapool_model::sync::{self, AttemptStage, Report, Verdict};
use terrapool_model::time::Timestamp;
use terrapool_model::times::Times;
use terrapool_model::transition::{self, Effect, Rows};
use terrapool_protocol::job::{FailureReason, JobTimes, Outcome};

use crate::guard::Guard;
use crate::situation::{Ending, Index};

mod intern;
mod question;

use intern::{HashInterner, Interner};

/// When everything happens that is not late.
const NOW: Timestamp = Timestamp(0);
/// When every limit has passed.
const LATE: Timestamp = Timestamp(i64::MAX / 2);

/// A run's rows. A job's attempt is either none or the one that its place in the situation tells.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunRows {
    /// The run.
    pub run: Run,
    /// Its plan job.
    pub plan: Option<Job>,
    /// Its apply job.
    pub apply: Option<Job>,
}

impl RunRows {
    /// The job of a phase.
    pub fn job(&self, phase: Phase) -> Option<&Job> {
        match phase {
            Phase::Plan => self.plan.as_ref(),
            Phase::Apply => self.apply.as_ref(),
        }
    }
}

/// An event on rows, as the search sees it. `holds`: the attempt that speaks is the one that the row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the events of the model, by the same names")]
pub enum RowEvent {
    Schedule,
    Confirm {
        current: u8,
        serial: u8,
    },
    Discard,
    Cancel,
    ForceCancel,
    Claim {
        phase: Phase,
        seen: u8,
        holds: bool,
        current: u8,
        serial: u8,
    },
    Start {
        generation: u8,
        holds: bool,
    },
    End {
        phase: Phase,
        generation: u8,
        holds: bool,
        ending: Ending,
    },
    Expire {
        phase: Phase,
    },
    CutOff {
        phase: Phase,
    },
    Override,
}

/// What an event did to rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// The workspace's row afterwards.
    pub workspace: Index,
    /// The run's rows afterwards.
    pub rows: Index,
    /// Who the plan's row names afterwards.
    pub plan: Holder,
    /// Who the apply's row names afterwards.
    pub apply: Holder,
    /// What it did to the job it speaks of.
    pub job: Option<JobResult>,
    /// Whether the newest state copy becomes current.
    pub promotes: bool,
}

/// Who a job's row names after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// Whoever it named before.
    Same,
    /// The attempt that spoke.
    Speaker,
}

/// An event on an attempt, as the search sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the events of the agent, by the same names")]
pub enum AttemptEvent {
    ClaimAccepted { generation: u8 },
    ClaimFailed,
    SandboxFailed,
    HandedOver,
    Prepared,
    Granted,
    StartFailed,
    EngineStarted,
    Ended { ending: Ending, marker: bool },
    Vanished { marker: bool },
    Verdict(Verdict),
    WindowPassed,
    ContactLost,
    FinishAnswered,
}

/// What a process does after an event, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the actions of the agent, by the same names")]
pub enum Deed {
    Journal,
    SendStart,
    Go,
    Stop { canceled: bool },
    Finish(Ending),
    Remove,
}

/// What an event did to an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stepped {
    /// The attempt afterwards.
    pub attempt: Index,
    /// What has to be done.
    pub deeds: Vec<Deed>,
}

type RowQuestion = (Index, Index, RowEvent);

/// The tables, with what was asked of them before.
#[derive(Debug)]
pub struct Tables {
    times: Times,
    removed: Option<Guard>,
    workspaces: HashInterner<Workspace>,
    rows: HashInterner<RunRows>,
    attempts: Interner<Attempt>,
    served: HashMap<RowQuestion, Result<Served, Refusal>>,
    stepped: HashMap<(Index, AttemptEvent), Option<Stepped>>,
    verdicts: HashMap<(Index, Index, Phase, u8, bool, AttemptStage), Verdict>,
    restarts: HashMap<(Index, FoundKey), Stepped>,
}

/// [`Found`], to be looked up.
type FoundKey = (u8, bool);

/// Which run, by its place.
pub fn run_id(run: usize) -> RunId {
    RunId::from_random([run as u8 + 1; 16])
}

fn holder() -> AttemptId {
    AttemptId::from_random([1; 16])
}

fn other() -> AttemptId {
    AttemptId::from_random([2; 16])
}

/// The user that locks.
pub fn user() -> UserId {
    UserId::from_random([1; 16])
}

fn speaker(holds: bool) -> AttemptId {
    if holds { holder() } else { other() }
}

fn state_ref(document: u8, serial: u8) -> Option<StateRef> {
    (document > 0).then(|| StateRef {
        version: StateVersionId::from_random([document; 16]),
        serial: Some(u64::from(serial)),
        lineage: Some("lineage".to_owned()),
        sha256: Some(document.to_string()),
    })
}

fn end(ending: Ending) -> Option<End> {
    match ending {
        Ending::NeverStarted => None,
        Ending::Succeeded => Some(End::Succeeded { changes: true }),
        Ending::Failed => Some(End::Failed),
        Ending::Canceled => Some(End::Canceled),
        Ending::EngineLost => Some(End::EngineLost),
    }
}

fn outcome(ending: Ending) -> Outcome {
    let message = String::new();
    match ending {
        Ending::NeverStarted => Outcome::NeverStarted { message },
        Ending::Succeeded => Outcome::Succeeded { changes: true },
        Ending::Failed => Outcome::Failed {
            reason: FailureReason::Exit,
            message,
        },
        Ending::Canceled => Outcome::Canceled,
        Ending::EngineLost => Outcome::EngineLost { message },
    }
}

fn ending(outcome: &Outcome) -> Ending {
    match outcome {
        Outcome::NeverStarted { .. } => Ending::NeverStarted,
        Outcome::Succeeded { .. } => Ending::Succeeded,
        Outcome::Failed { .. } => Ending::Failed,
        Outcome::Canceled => Ending::Canceled,
        Outcome::EngineLost { .. } => Ending::EngineLost,
    }
}

impl Tables {
    /// Tables whose contact limit of an apply is `never` or not, and of which a guard was taken out or none.
    pub fn new(never: bool, removed: Option<Guard>) -> Self {
        let mut times = Times::default();
        if never {
            times.contact_limit_apply = None;
        }
        Self {
            times,
            removed,
            workspaces: HashInterner::default(),
            rows: HashInterner::default(),
            attempts: Interner { values: Vec::new() },
            served: HashMap::new(),
            stepped: HashMap::new(),
            verdicts: HashMap::new(),
            restarts: HashMap::new(),
        }
    }

    /// Whether the guard was taken out.
    pub fn lacks(&self, guard: Guard) -> bool {
        self.removed == Some(guard)
    }

    /// A workspace's row.
    pub fn workspace(&self, index: Index) -> &Workspace {
        self.workspaces.get(index)
    }

    /// A run's rows.
    pub fn rows(&self, index: Index) -> &RunRows {
        self.rows.get(index)
    }

    /// An attempt.
    pub fn attempt(&self, index: Index) -> &Attempt {
        self.attempts.get(index)
    }

    /// Interns a workspace's row.
    pub fn intern_workspace(&mut self, row: &Workspace) -> Index {
        self.workspaces.intern(row)
    }

    /// Interns a run's rows.
    pub fn intern_rows(&mut self, rows: &RunRows) -> Index {
        self.rows.intern(rows)
    }

    /// Interns an attempt; what it says to people makes no difference.
    pub fn intern_attempt(&mut self, attempt: &Attempt) -> Index {
        let mut plain = attempt.clone();
        plain.contact = Boottime(0);
        match &mut plain.state {
            attempt::State::Returning { message } => message.clear(),
            attempt::State::Delivering { outcome: end } => *end = outcome(ending(end)),
            attempt::State::Starting { sent } => *sent = Boottime(0),
            attempt::State::Claiming
            | attempt::State::Claimed
            | attempt::State::Preparing
            | attempt::State::Running
            | attempt::State::Stopping { .. }
            | attempt::State::Dropped
            | attempt::State::Done => {}
        }
        self.attempts.intern(&plain)
    }

    /// A state's version, as plans remember it.
    pub fn state_version(&self, document: u8) -> Option<StateVersionId> {
        state_ref(document, 0).map(|state| state.version)
    }

    /// A new attempt at a job whose row has this generation.
    pub fn mint(&mut self, phase: Phase, generation: u8) -> Index {
        let job = JobId::from_random([1; 16]);
        let generation = u64::from(generation);
        let attempt = Attempt::new(job, generation, holder(), phase, 1, Boottime(0));
        self.intern_attempt(&attempt)
    }

    /// How many different rows and attempts were seen.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (
            self.workspaces.values.len(),
            self.rows.values.len(),
            self.attempts.values.len(),
        )
    }

    fn job_times(&self, phase: Phase) -> JobTimes {
        JobTimes {
            contact_limit: self.times.contact_limit(phase),
            grace: self.times.grace(phase),
            kill_after: self.times.kill_after,
            start_window: self.times.start_window,
        }
    }

    /// The joint transition of the rows.
    ///
    /// # Errors
    /// The table's refusal.
    pub fn serve(&mut self, workspace: Index, rows: Index, event: RowEvent) -> Result<Served, Refusal> {
        let question = (workspace, rows, event);
        if let Some(known) = self.served.get(&question) {
            return known.clone();
        }
        let answer = self.ask(workspace, rows, event);
        self.served.insert(question, answer.clone());
        answer
    }

    fn ask(&mut self, workspace: Index, rows: Index, event: RowEvent) -> Result<Served, Refusal> {
        let run_rows = self.rows.get(rows).clone();
        let before = Rows {
            workspace: self.workspaces.get(workspace).clone(),
            run: run_rows.run,
            plan: run_rows.plan,
            apply: run_rows.apply,
        };
        let (asked, event, now) = self.question(&before, event);
        let outcome = transition::transition(&asked, &event, now, &self.times)?;
        let promotes = outcome.effects.contains(&Effect::SnapshotCurrent);
        let mut after = outcome.rows;
        self.afterwards(&before, &mut after, &event);
        let plan = settle(&mut after.plan);
        let apply = settle(&mut after.apply);
        Ok(Served {
            workspace: self.workspaces.intern(&after.workspace),
            rows: self.rows.intern(&RunRows {
                run: after.run,
                plan: after.plan,
                apply: after.apply,
            }),
            plan,
            apply,
            job: outcome.job,
            promotes,
        })
    }

    /// A user takes the lock.
    ///
    /// # Errors
    /// The table's refusal.
    pub fn lock_by_user(&mut self, workspace: Index) -> Result<Index, Refusal> {
        let row = self.workspaces.get(workspace).lock_by_user(&user())?;
        Ok(self.workspaces.intern(&row))
    }

    /// The user gives it back.
    ///
    /// # Errors
    /// The table's refusal.
    pub fn unlock_by_user(&mut self, workspace: Index) -> Result<Index, Refusal> {
        let row = self
            .workspaces
            .get(workspace)
            .unlock_by_user(Some(&user()), NOW)?;
        Ok(self.workspaces.intern(&row))
    }

    /// The server's pass over quarantines, once their time has come.
    ///
    /// # Errors
    /// The table's refusal.
    pub fn quarantine_ended(&mut self, workspace: Index) -> Result<Index, Refusal> {
        let row = self.workspaces.get(workspace).quarantine_ended(LATE)?;
        Ok(self.workspaces.intern(&row))
    }

    /// What a sync answers.
    pub fn verdict(
        &mut self,
        workspace: Index,
        rows: Index,
        phase: Phase,
        generation: u8,
        holds: bool,
        stage: AttemptStage,
    ) -> Verdict {
        let question = (workspace, rows, phase, generation, holds, stage);
        if let Some(known) = self.verdicts.get(&question) {
            return *known;
        }
        let row = self.rows.get(rows);
        let epoch_is_runs = row.run.lock_epoch == Some(self.workspaces.get(workspace).lock_epoch);
        let report = Report {
            phase,
            generation: u64::from(generation),
            attempt: speaker(holds),
            stage,
            incarnation_is_equal: true,
        };
        let verdict = sync::answer(&report, row.job(phase), epoch_is_runs);
        self.verdicts.insert(question, verdict);
        verdict
    }

    /// The attempt table. `None`: it does not expect the event.
    pub fn step(&mut self, attempt: Index, event: AttemptEvent) -> Option<Stepped> {
        let question = (attempt, event);
        if let Some(known) = self.stepped.get(&question) {
            return known.clone();
        }
        let before = self.attempts.get(attempt).clone();
        let times = self.job_times(before.phase);
        let window = Boottime(times.start_window.0);
        let limit = Boottime(times.contact_limit.map_or(0, |limit| limit.0));
        let message = String::new();
        let sent = Boottime(0);
        let (event, now) = match event {
            AttemptEvent::ClaimAccepted { generation } => {
                let generation = u64::from(generation);
                (
                    attempt::Event::ClaimAccepted {
                        generation,
                        sent,
                        times,
                    },
                    sent,
                )
            }
            AttemptEvent::ClaimFailed => (attempt::Event::ClaimFailed, sent),
            AttemptEvent::SandboxFailed => (attempt::Event::SandboxFailed { message }, sent),
            AttemptEvent::HandedOver => (attempt::Event::HandedOver, sent),
            AttemptEvent::Prepared => (attempt::Event::Prepared, sent),
            AttemptEvent::Granted => (attempt::Event::Granted, sent),
            AttemptEvent::StartFailed => (attempt::Event::StartFailed { message }, sent),
            AttemptEvent::EngineStarted => (attempt::Event::EngineStarted, sent),
            AttemptEvent::Ended { ending, marker } => (
                attempt::Event::Ended {
                    outcome: outcome(ending),
                    marker,
                },
                sent,
            ),
            AttemptEvent::Vanished { marker } => (attempt::Event::SandboxVanished { marker }, sent),
            AttemptEvent::Verdict(verdict) => (attempt::Event::Verdict { sent, verdict }, sent),
            AttemptEvent::WindowPassed => (attempt::Event::Tick, window),
            AttemptEvent::ContactLost => (attempt::Event::Tick, limit),
            AttemptEvent::FinishAnswered => (attempt::Event::FinishAnswered, sent),
        };
        let answer = match attempt::step(&before, event, now) {
            Ok(next) => Some(self.stepped(next)),
            Err(_) => None,
        };
        self.stepped.insert(question, answer.clone());
        answer
    }

    fn stepped(&mut self, (attempt, actions): (Attempt, Vec<Action>)) -> Stepped {
        let deeds = actions.iter().filter_map(deed).collect();
        Stepped {
            attempt: self.intern_attempt(&attempt),
            deeds,
        }
    }

    /// What a new process makes of a journaled attempt.
    pub fn restart(&mut self, journaled: Index, found: Found) -> Stepped {
        let key = match found {
            Found::Runner(stage) => (stage as u8, false),
            Found::Gone { marker } => (u8::MAX, marker),
        };
        if let Some(known) = self.restarts.get(&(journaled, key)) {
            return known.clone();
        }
        let attempt = self.attempts.get(journaled).clone();
        let answer = attempt::restart(&attempt, found, Boottime(0));
        let answer = self.stepped(answer);
        self.restarts.insert((journaled, key), answer.clone());
        answer
    }

    /// The same attempt, with another generation.
    pub fn with_generation(&mut self, attempt: Index, generation: u8) -> Index {
        let next = Attempt {
            generation: u64::from(generation),
            ..self.attempts.get(attempt).clone()
        };
        self.intern_attempt(&next)
    }
}

fn deed(action: &Action) -> Option<Deed> {
    match action {
        Action::Journal => Some(Deed::Journal),
        Action::SendStart => Some(Deed::SendStart),
        Action::Go => Some(Deed::Go),
        Action::Stop { reason, .. } => Some(Deed::Stop {
            canceled: *reason == terrapool_protocol::runner::StopReason::Canceled,
        }),
        Action::Finish { outcome } => Some(Deed::Finish(ending(outcome))),
        Action::Remove => Some(Deed::Remove),
        // Handing over is a step of its own, and contact has no time here.
        Action::Prepare | Action::Renew { .. } => None,
    }
}

/// Who a row names: the row itself then names whoever holds the job.
fn settle(job: &mut Option<Job>) -> Holder {
    let Some(job) = job else { return Holder::Nobody };
    match &job.attempt {
        None => Holder::Nobody,
        Some(attempt) if *attempt == other() => {
            job.attempt = Some(holder());
            Holder::Speaker
        }
        Some(_) => Holder::Same,
    }
}

/// A run that waits to be scheduled.
pub fn pending(run: usize, plan_only: bool, save_plan: bool, auto_apply: bool) -> RunRows {
    RunRows {
        run: Run {
            id: run_id(run),
            status: terrapool_model::run::RunStatus::Pending,
            plan_only,
            save_plan,
            auto_apply,
            allow_empty_apply: false,
            lock_epoch: None,
            has_changes: None,
            plan_state: None,
            error: None,
            aftermath: Aftermath::None,
            cancel_asked_at: None,
            force_cancel_available_at: None,
        },
        plan: None,
        apply: None,
    }
}
