//! Where a run is, what is kept of it and what to do next, in words for people. Nothing here decides anything.

use crate::id::{AttemptId, RunId, UserId};
use crate::job::{Desired, Job, JobState, MAX_TRIES, Phase};
use crate::lock::Lock;
use crate::refusal::utc;
use crate::run::{Aftermath, ErrorReason, RunStatus};
use crate::time::{Millis, Timestamp};

crate::job::named! {
    /// Where a run is.
    Place {
        /// It waits for its workspace.
        Workspace = "waiting-for-workspace",
        /// It waits for an agent.
        Queue = "waiting-for-agent",
        /// An agent has it.
        Agent = "on-agent",
        /// It waits for a person.
        Person = "waiting-for-person",
        /// It has ended, but an engine of it may still be alive.
        Quarantine = "may-still-be-running",
        /// It has ended.
        Ended = "ended",
    }
}

/// What is known of a run.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The run.
    pub run: &'a RunId,
    /// Where it stands.
    pub status: RunStatus,
    /// Why it is errored.
    pub error: Option<ErrorReason>,
    /// What was learnt after its end.
    pub aftermath: Aftermath,
    /// The job of its newest phase.
    pub job: Option<&'a Job>,
    /// Name of that job's agent.
    pub agent: Option<&'a str>,
    /// Name of its pool.
    pub pool: &'a str,
    /// Agents of the pool that are connected.
    pub connected_agents: u64,
    /// Its workspace's lock.
    pub lock: &'a Lock,
    /// Whether auto-apply is off in its workspace until a person confirms a run.
    pub needs_person: bool,
    /// States of it that were kept apart.
    pub kept_apart: u64,
    /// The current time.
    pub now: Timestamp,
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whereabouts {
    /// Where it is.
    pub place: Place,
    /// What is going on, in a sentence.
    pub summary: String,
    /// What to do next, in a sentence.
    pub next: String,
}

/// An attempt that is silent for longer is mentioned as such.
const SILENCE: Millis = Millis::from_seconds(60);

/// Puts the facts into words.
pub fn describe(facts: &Facts<'_>) -> Whereabouts {
    let told = match facts.status {
        RunStatus::Pending => pending(facts),
        RunStatus::PlanQueued | RunStatus::Planning => executing(facts, Phase::Plan),
        RunStatus::ApplyQueued | RunStatus::Applying => executing(facts, Phase::Apply),
        RunStatus::Planned | RunStatus::PlannedAndSaved => planned(facts),
        RunStatus::Applied
        | RunStatus::PlannedAndFinished
        | RunStatus::Discarded
        | RunStatus::Errored
        | RunStatus::Canceled
        | RunStatus::ForceCanceled
        | RunStatus::PolicySoftFailed => ended(facts),
    };
    match facts.kept_apart {
        0 => told,
        number => Whereabouts {
            next: format!(
                "{} {number} state(s) of this run could not become current and were kept apart: compare them with the \
                 current one, and promote one if it is the true one.",
                told.next
            ),
            ..told
        },
    }
}

fn told(place: Place, summary: impl Into<String>, next: impl Into<String>) -> Whereabouts {
    Whereabouts {
        place,
        summary: summary.into(),
        next: next.into(),
    }
}

fn pending(facts: &Facts<'_>) -> Whereabouts {
    let place = Place::Workspace;
    match facts.lock {
        Lock::Free => told(
            place,
            "The run waits for its turn.",
            "Nothing: it starts by itself.",
        ),
        Lock::User(user) => told(
            place,
            locked_by(user),
            "Unlock the workspace; the run starts by itself.",
        ),
        Lock::Run(run) => told(
            place,
            format!("The run waits until run {run} has ended."),
            format!("Nothing, or confirm, discard or cancel run {run}."),
        ),
        Lock::Lost { run, safe_at } => told(
            place,
            format!("The run waits because the lost apply of run {run} may still be running."),
            quarantine_end(*safe_at, None),
        ),
    }
}

fn locked_by(user: &UserId) -> String {
    format!("The run waits because user {user} has locked the workspace.")
}

fn quarantine_end(safe_at: Option<Timestamp>, attempt: Option<&AttemptId>) -> String {
    let by_itself = match safe_at {
        Some(at) => format!(
            "Nothing: the lock ends by itself at {}, or at once when the agent reports the end.",
            utc(at)
        ),
        None => "The lock ends when the agent reports the end.".to_owned(),
    };
    let named = attempt.map_or_else(|| "the attempt".to_owned(), |id| format!("attempt {id}"));
    format!(
        "{by_itself} If you know that the engine is dead, an administrator may force-unlock the workspace, \
         acknowledging {named} (acknowledge-running)."
    )
}

fn executing(facts: &Facts<'_>, phase: Phase) -> Whereabouts {
    let Some(job) = facts.job else {
        return told(
            Place::Queue,
            format!("The {phase} is about to be queued."),
            "Nothing: it goes on by itself.",
        );
    };
    match job.state {
        JobState::Queued => waiting(facts, phase, job),
        JobState::Leased | JobState::Running | JobState::Done | JobState::Lost => held(facts, phase, job),
    }
}

fn waiting(facts: &Facts<'_>, phase: Phase, job: &Job) -> Whereabouts {
    let again = match job.tries {
        0 => String::new(),
        tries => format!(" again (try {} of {MAX_TRIES})", tries + 1),
    };
    let pool = facts.pool;
    if facts.connected_agents == 0 {
        told(
            Place::Queue,
            format!("The {phase} waits{again} for an agent of pool {pool}, and none is connected."),
            format!("Start an agent of pool {pool}, or look why its agents can't reach the control plane."),
        )
    } else {
        told(
            Place::Queue,
            format!("The {phase} waits{again} for a free slot on an agent of pool {pool}."),
            "Nothing: it starts as soon as an agent has a slot and memory for it.",
        )
    }
}

fn held(facts: &Facts<'_>, phase: Phase, job: &Job) -> Whereabouts {
    let agent = facts.agent.unwrap_or("an agent that was removed");
    let doing = match (phase, job.state) {
        (Phase::Apply, JobState::Leased) => "prepares the apply; nothing was started yet".to_owned(),
        (
            Phase::Plan | Phase::Apply,
            JobState::Queued | JobState::Leased | JobState::Running | JobState::Done | JobState::Lost,
        ) => format!("executes the {phase}"),
    };
    let told_to = match job.desired {
        Desired::Run => "",
        Desired::Cancel => " It was told to stop, and has time to do so gracefully.",
        Desired::Kill => " It was told to stop now.",
    };
    let silence = job.last_contact.map_or(Millis::ZERO, |at| facts.now - at);
    if silence > SILENCE {
        let at = job.last_contact.map(utc).unwrap_or_default();
        return told(
            Place::Agent,
            format!("Agent {agent} {doing}, and was last heard at {at}.{told_to}"),
            "Look whether the agent's machine is up and reaches the control plane. If it stays silent, the server \
             decides by itself: a plan is made again elsewhere, an apply is never started twice.",
        );
    }
    let next = match job.desired {
        Desired::Run => "Nothing: the log shows what it does. Cancel the run to stop it.",
        Desired::Cancel => "Nothing, or force-cancel the run once that is allowed.",
        Desired::Kill => "Nothing: the agent reports the end.",
    };
    told(Place::Agent, format!("Agent {agent} {doing}.{told_to}"), next)
}

fn planned(facts: &Facts<'_>) -> Whereabouts {
    let why = if facts.needs_person {
        " Auto-apply is off until a person confirms a run, because an earlier apply was lost or the database was \
         restored: what was done last may not be in the state."
    } else {
        ""
    };
    told(
        Place::Person,
        format!("The plan is made and waits for a person.{why}"),
        "Read the plan, then confirm or discard the run.",
    )
}

fn ended(facts: &Facts<'_>) -> Whereabouts {
    if let Lock::Lost { run, safe_at } = facts.lock
        && run == facts.run
    {
        return quarantined(facts, *safe_at);
    }
    let after = match facts.aftermath {
        Aftermath::None => "",
        Aftermath::Delivered => " Its attempt has delivered its end afterwards.",
        Aftermath::Overridden => " A person took its lock away while its apply could still be running.",
    };
    let (summary, next) = match facts.error {
        Some(ErrorReason::AgentLost) => (
            "The run's agent was lost. The newest state that arrived is the current one.",
            "Start a new run and read its plan: what the lost apply did last may not be in the state.",
        ),
        Some(ErrorReason::EngineLost) => (
            "The engine was killed or its machine went away. The last state it wrote is the current one.",
            "Start a new run and read its plan: what was done last may not be in the state.",
        ),
        Some(ErrorReason::NotStarted) => (
            "No agent could start the run; nothing was changed.",
            "Read the log and the pool's agents, then start a new run.",
        ),
        Some(ErrorReason::Restored) => (
            "The control plane was restored from a backup while this run was active.",
            "Start a new run and read its plan: the state may be older than the infrastructure.",
        ),
        Some(ErrorReason::Failed) | None => match facts.status {
            RunStatus::Errored => (
                "The run failed.",
                "Read the log, correct the cause and start a new run.",
            ),
            RunStatus::Canceled | RunStatus::ForceCanceled => {
                ("The run was canceled.", "Nothing, or start a new run.")
            }
            RunStatus::Pending
            | RunStatus::PlanQueued
            | RunStatus::Planning
            | RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::PlannedAndFinished
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | RunStatus::Applied
            | RunStatus::Discarded
            | RunStatus::PolicySoftFailed => ("The run has ended.", "Nothing."),
        },
    };
    told(Place::Ended, format!("{summary}{after}"), next)
}

fn quarantined(facts: &Facts<'_>, safe_at: Option<Timestamp>) -> Whereabouts {
    let agent = facts.agent.unwrap_or("an agent that was removed");
    let heard = match facts.job.and_then(|job| job.last_contact) {
        Some(at) => format!("last heard at {}", utc(at)),
        None => "never heard".to_owned(),
    };
    let attempt = facts.job.and_then(|job| job.attempt.as_ref());
    if facts.error == Some(ErrorReason::Restored) {
        return told(
            Place::Quarantine,
            "The control plane was restored from a backup while this run was active. Its apply may have been started \
             since the backup, and may still be running. Until that is over no other run starts in the workspace.",
            quarantine_end(safe_at, attempt),
        );
    }
    told(
        Place::Quarantine,
        format!(
            "The run has ended ({}), but its apply may still be running on agent {agent}, {heard}. Until that is \
             over no other run starts in the workspace.",
            facts.status
        ),
        quarantine_end(safe_at, attempt),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn run() -> RunId {
        RunId::from_random([1; 16])
    }

    fn job(phase: Phase, state: JobState) -> Job {
        Job {
            state,
            attempt: Some(AttemptId::from_random([2; 16])),
            last_contact: Some(NOW),
            ..Job::queued(phase)
        }
    }

    fn told_of(status: RunStatus, job: Option<&Job>, lock: &Lock) -> Whereabouts {
        told_with(status, job, lock, |_| {})
    }

    fn told_with(
        status: RunStatus,
        job: Option<&Job>,
        lock: &Lock,
        change: impl FnOnce(&mut Facts<'_>),
    ) -> Whereabouts {
        let run = run();
        let mut facts = Facts {
            run: &run,
            status,
            error: None,
            aftermath: Aftermath::None,
            job,
            agent: Some("rack-7"),
            pool: "dc-1",
            connected_agents: 2,
            lock,
            needs_person: false,
            kept_apart: 0,
            now: NOW,
        };
        change(&mut facts);
        describe(&facts)
    }

    #[test]
    fn every_status_has_a_place_and_something_to_do_next() {
        for status in RunStatus::ALL {
            for lock in [
                Lock::Free,
                Lock::Run(run()),
                Lock::User(UserId::from_random([3; 16])),
                Lock::Lost {
                    run: run(),
                    safe_at: None,
                },
            ] {
                let told = told_of(*status, None, &lock);
                assert!(
                    told.summary.ends_with('.') && told.next.ends_with('.'),
                    "{told:?}"
                );
            }
        }
    }

    #[test]
    fn a_run_that_waits_names_what_it_waits_for() {
        let queued = job(Phase::Plan, JobState::Queued);
        let told = told_of(RunStatus::PlanQueued, Some(&queued), &Lock::Run(run()));
        assert_eq!(told.place, Place::Queue);
        assert!(told.summary.contains("pool dc-1"), "{told:?}");
        let alone = told_with(RunStatus::PlanQueued, Some(&queued), &Lock::Run(run()), |facts| {
            facts.connected_agents = 0;
        });
        assert!(alone.summary.contains("none is connected"), "{alone:?}");
        let lost = Lock::Lost {
            run: RunId::from_random([9; 16]),
            safe_at: Some(Timestamp(0)),
        };
        let behind = told_of(RunStatus::Pending, None, &lost);
        assert!(behind.next.contains("1970-01-01 00:00:00 UTC"), "{behind:?}");
    }

    #[test]
    fn a_silent_agent_is_told_with_its_last_contact() {
        let silent = Job {
            last_contact: Some(Timestamp(NOW.0 - 61_000)),
            ..job(Phase::Apply, JobState::Running)
        };
        let told = told_of(RunStatus::Applying, Some(&silent), &Lock::Run(run()));
        assert_eq!(told.place, Place::Agent);
        assert!(
            told.summary.contains("rack-7") && told.summary.contains("last heard at"),
            "{told:?}"
        );
    }

    #[test]
    fn a_quarantine_names_agent_attempt_and_its_end() {
        let lost = job(Phase::Apply, JobState::Lost);
        let lock = Lock::Lost {
            run: run(),
            safe_at: Some(NOW),
        };
        let told = told_with(RunStatus::Errored, Some(&lost), &lock, |facts| {
            facts.error = Some(ErrorReason::AgentLost);
            facts.kept_apart = 2;
        });
        assert_eq!(told.place, Place::Quarantine);
        assert!(told.summary.contains("rack-7"), "{told:?}");
        let attempt = AttemptId::from_random([2; 16]).to_string();
        assert!(
            told.next.contains(&attempt) && told.next.contains("kept apart"),
            "{told:?}"
        );
    }
}
