//! What can happen in a situation.

use terrapool_agent_core::attempt::State;
use terrapool_model::job::{JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::sync::AttemptStage;

use crate::configuration::{Configuration, Kind};
use crate::situation::{Answer, Ending, Process, Runner, SLOTS, Situation, Slot, Stop};
use crate::tables::Tables;

/// One step. Slots and runs are named by their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The server schedules a run; where the configuration says so, its plan is made at once.
    Schedule(usize),
    /// A person confirms a run.
    Confirm(usize),
    /// A person discards it.
    Discard(usize),
    /// A person cancels it.
    Cancel(usize),
    /// A person force-cancels it.
    ForceCancel(usize),
    /// An administrator cuts off the agent that holds a job.
    CutOff(usize, Phase),
    /// A user locks the workspace.
    UserLocks,
    /// The user unlocks it.
    UserUnlocks,
    /// An administrator overrides the quarantine of a run's lost apply.
    Override(usize),
    /// The server gives a silent job up.
    Expire(usize, Phase),
    /// The server ends a quarantine.
    QuarantineEnds,
    /// An agent sees an offer, and journals an attempt.
    Mint(usize, usize, Phase),
    /// The server handles an attempt's claim, for the first time or again.
    HandleClaim(usize),
    /// The server handles an attempt's start request.
    HandleStart(usize),
    /// The server handles an attempt's end.
    HandleEnd(usize, Ending),
    /// The server handles an attempt's state.
    HandleState(usize),
    /// The answer to the claim arrives.
    HearClaim(usize),
    /// It never does.
    ClaimTimesOut(usize),
    /// The answer to the start request arrives.
    HearStart(usize),
    /// It arrives, and the agent dies after it has journaled it.
    HearStartAndDie(usize),
    /// It does not arrive within its window.
    StartTimesOut(usize),
    /// The answer to the end arrives.
    HearEnd(usize),
    /// A sync that reported this stage is answered.
    Sync(usize, AttemptStage),
    /// No sandbox can be made.
    SandboxFails(usize),
    /// The runner is given the job.
    HandOver(usize),
    /// `init` fails.
    InitFails(usize),
    /// `init` is done. A plan goes on by itself.
    InitDone(usize),
    /// The runner writes its marker and executes the engine.
    Execute(usize),
    /// The engine writes a state.
    Write(usize),
    /// The runner's work ends.
    Ends(usize, Ending),
    /// The contact limit passes.
    ContactLost(usize),
    /// The sandbox goes away.
    Vanishes(usize),
    /// The agent's process dies.
    Dies(usize),
    /// A new process finds its journal.
    Restarts(usize),
    /// The host is lost with its disk.
    HostLost(usize),
}

/// Who takes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// Server, agent, runner or network, working.
    System,
    /// A process or a disk dies, or a message does not arrive at all.
    Fault,
    /// A person who does what the system waits for: confirm, discard, the user's own unlock, an override where there is
    /// no contact limit.
    Awaited,
    /// A person.
    Person,
}

impl Step {
    /// Who takes it.
    pub fn actor(self, configuration: &Configuration) -> Actor {
        match self {
            Self::Confirm(_) | Self::Discard(_) | Self::UserUnlocks => Actor::Awaited,
            Self::Override(_) if configuration.never => Actor::Awaited,
            Self::Cancel(_)
            | Self::ForceCancel(_)
            | Self::CutOff(..)
            | Self::UserLocks
            | Self::Override(_) => Actor::Person,
            Self::ClaimTimesOut(_) | Self::Dies(_) | Self::HearStartAndDie(_) | Self::HostLost(_) => {
                Actor::Fault
            }
            Self::Schedule(_)
            | Self::Expire(..)
            | Self::QuarantineEnds
            | Self::Mint(..)
            | Self::HandleClaim(_)
            | Self::HandleStart(_)
            | Self::HandleEnd(..)
            | Self::HandleState(_)
            | Self::HearClaim(_)
            | Self::HearStart(_)
            | Self::StartTimesOut(_)
            | Self::HearEnd(_)
            | Self::Sync(..)
            | Self::SandboxFails(_)
            | Self::HandOver(_)
            | Self::InitFails(_)
            | Self::InitDone(_)
            | Self::Execute(_)
            | Self::Write(_)
            | Self::Ends(..)
            | Self::ContactLost(_)
            | Self::Vanishes(_)
            | Self::Restarts(_) => Actor::System,
        }
    }
}

/// Every step that may be possible in a situation.
pub fn steps(situation: &Situation, configuration: &Configuration, tables: &Tables, found: &mut Vec<Step>) {
    found.clear();
    for run in 0..configuration.runs.len() {
        of_run(situation, configuration, tables, run, found);
    }
    of_lock(situation, configuration, tables, found);
    for slot in 0..SLOTS {
        match situation.slots[slot].process {
            Process::Empty => {}
            Process::Up => {
                of_network(&situation.slots[slot], slot, found);
                of_process(&situation.slots[slot], slot, configuration, tables, found);
                of_sandbox(&situation.slots[slot], slot, configuration, found);
            }
            Process::Down => {
                of_network(&situation.slots[slot], slot, found);
                of_sandbox(&situation.slots[slot], slot, configuration, found);
                found.extend([Step::Restarts(slot), Step::HostLost(slot)]);
            }
            Process::Over => of_network(&situation.slots[slot], slot, found),
        }
    }
}

fn of_run(
    situation: &Situation,
    configuration: &Configuration,
    tables: &Tables,
    run: usize,
    found: &mut Vec<Step>,
) {
    let rows = tables.rows(situation.runs[run].rows);
    match rows.run.status {
        RunStatus::Pending => found.extend([Step::Schedule(run), Step::Cancel(run)]),
        RunStatus::Planned | RunStatus::PlannedAndSaved => {
            found.extend([Step::Confirm(run), Step::Discard(run)]);
        }
        RunStatus::PlanQueued | RunStatus::Planning | RunStatus::ApplyQueued | RunStatus::Applying => {
            if rows.run.cancel_asked_at.is_none() {
                found.push(Step::Cancel(run));
            } else {
                found.push(Step::ForceCancel(run));
            }
        }
        RunStatus::PlannedAndFinished
        | RunStatus::Applied
        | RunStatus::Discarded
        | RunStatus::Errored
        | RunStatus::Canceled
        | RunStatus::ForceCanceled
        | RunStatus::PolicySoftFailed => {}
    }
    for phase in [Phase::Plan, Phase::Apply] {
        match rows.job(phase).map(|job| job.state) {
            Some(JobState::Queued) => {
                if let Some(slot) = free_slot(situation, configuration) {
                    found.push(Step::Mint(slot, run, phase));
                } else {
                    let over = |slot: &usize| situation.slots[*slot].process == Process::Over;
                    let reused = (0..SLOTS).filter(over);
                    found.extend(reused.map(|slot| Step::Mint(slot, run, phase)));
                }
            }
            Some(JobState::Leased | JobState::Running) => {
                found.push(Step::Expire(run, phase));
                if situation.cut_offs > 0 {
                    found.push(Step::CutOff(run, phase));
                }
            }
            Some(JobState::Done | JobState::Lost) | None => {}
        }
    }
}

fn free_slot(situation: &Situation, configuration: &Configuration) -> Option<usize> {
    let taken = |slot: &&Slot| slot.process != Process::Empty;
    if situation.slots.iter().filter(taken).count() >= configuration.slots {
        return None;
    }
    situation
        .slots
        .iter()
        .position(|slot| slot.process == Process::Empty)
}

fn of_lock(situation: &Situation, configuration: &Configuration, tables: &Tables, found: &mut Vec<Step>) {
    match &tables.workspace(situation.workspace).lock {
        Lock::Free => {
            if situation.user_locks > 0 {
                found.push(Step::UserLocks);
            }
        }
        Lock::User(_) => found.push(Step::UserUnlocks),
        Lock::Run(_) => {}
        Lock::Lost { run, .. } => {
            found.push(Step::QuarantineEnds);
            let holder = (0..configuration.runs.len())
                .find(|place| tables.rows(situation.runs[*place].rows).run.id == *run);
            if let (Some(holder), true) = (holder, situation.overrides > 0) {
                found.push(Step::Override(holder));
            }
        }
    }
}

fn of_network(state: &Slot, slot: usize, found: &mut Vec<Step>) {
    found.push(Step::HandleClaim(slot));
    if state.start_sent {
        found.push(Step::HandleStart(slot));
    }
    for ending in Ending::ALL {
        if state.ends_sent.contains(ending) {
            found.push(Step::HandleEnd(slot, ending));
        }
    }
    if state.document_sent && !state.document_stored {
        found.push(Step::HandleState(slot));
    }
}

fn of_process(
    state: &Slot,
    slot: usize,
    configuration: &Configuration,
    tables: &Tables,
    found: &mut Vec<Step>,
) {
    found.extend([Step::Dies(slot), Step::HostLost(slot)]);
    let attempt = tables.attempt(state.attempt);
    let limited = !(configuration.never && state.apply);
    match attempt.state {
        State::Claiming => {
            if state.claim != Answer::None {
                found.push(Step::HearClaim(slot));
            }
            found.push(Step::ClaimTimesOut(slot));
        }
        State::Claimed => {
            found.push(Step::HandOver(slot));
            if configuration.failures {
                found.push(Step::SandboxFails(slot));
            }
            if limited {
                found.push(Step::ContactLost(slot));
            }
        }
        State::Starting { .. } => {
            match state.start {
                Answer::Yes(_) => found.extend([Step::HearStart(slot), Step::HearStartAndDie(slot)]),
                Answer::No => found.push(Step::HearStart(slot)),
                Answer::None => {}
            }
            found.push(Step::StartTimesOut(slot));
        }
        State::Preparing | State::Running => {
            if limited {
                found.push(Step::ContactLost(slot));
            }
        }
        State::Returning { .. } | State::Delivering { .. } => {
            if state.end_answered {
                found.push(Step::HearEnd(slot));
            }
            // Only where an attempt that has given its grant up still waits for it.
            if let Answer::Yes(_) = state.start {
                found.push(Step::HearStart(slot));
            }
        }
        State::Stopping { .. } | State::Dropped | State::Done => {}
    }
    found.extend(
        reported(&attempt.state)
            .iter()
            .map(|stage| Step::Sync(slot, *stage)),
    );
}

/// What an attempt may have reported until now. The answer to an old report may come late.
fn reported(state: &State) -> &'static [AttemptStage] {
    match state {
        State::Claimed | State::Preparing | State::Starting { .. } => &[AttemptStage::Preparing],
        State::Running => &[AttemptStage::Preparing, AttemptStage::Running],
        State::Stopping { .. } => &[
            AttemptStage::Preparing,
            AttemptStage::Running,
            AttemptStage::Stopping,
        ],
        State::Returning { .. } => &[
            AttemptStage::Preparing,
            AttemptStage::Running,
            AttemptStage::Stopping,
            AttemptStage::Returning,
        ],
        State::Delivering { .. } => &[
            AttemptStage::Preparing,
            AttemptStage::Running,
            AttemptStage::Stopping,
            AttemptStage::Delivering,
        ],
        State::Claiming | State::Dropped | State::Done => &[],
    }
}

fn of_sandbox(state: &Slot, slot: usize, configuration: &Configuration, found: &mut Vec<Step>) {
    match state.runner {
        Runner::Preparing | Runner::Prepared | Runner::Going => {
            if state.stop.is_some() {
                found.push(Step::Ends(slot, Ending::Canceled));
            }
            match state.runner {
                Runner::Preparing => {
                    if state.stop.is_none() {
                        found.push(Step::InitDone(slot));
                    }
                    if configuration.failures {
                        found.push(Step::InitFails(slot));
                    }
                }
                Runner::Going => found.push(Step::Execute(slot)),
                Runner::Prepared | Runner::None | Runner::Running | Runner::Ended(_) | Runner::Gone => {}
            }
        }
        Runner::Running => {
            if state.apply && state.document == 0 {
                found.push(Step::Write(slot));
            }
            match state.stop {
                None => {
                    found.push(Step::Ends(slot, Ending::Succeeded));
                    if configuration.failures {
                        found.push(Step::Ends(slot, Ending::Failed));
                    }
                }
                Some(Stop::Canceled) => found.push(Step::Ends(slot, Ending::Canceled)),
                Some(Stop::LostContact) => {
                    found.extend([
                        Step::Ends(slot, Ending::Succeeded),
                        Step::Ends(slot, Ending::Failed),
                    ]);
                }
            }
        }
        Runner::None | Runner::Ended(_) | Runner::Gone => return,
    }
    let dead_man = state.process == Process::Down && state.stop.is_none();
    if dead_man && !(configuration.never && state.apply) {
        found.push(Step::ContactLost(slot));
    }
    if configuration.failures {
        found.push(Step::Vanishes(slot));
    }
}

/// Whether a run's plan is made at once.
pub fn plans_at_once(kind: Kind) -> bool {
    match kind {
        Kind::ApplyOnly | Kind::SavedPlan => true,
        Kind::Confirmed | Kind::AutoApply | Kind::PlanOnly => false,
    }
}
