//! A job: one phase of one run, and who holds it (protocol, section 4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, AttemptId};
use crate::refusal::Refusal;
use crate::time::{Millis, Timestamp};
use crate::times::Times;

/// How often a job is tried in all.
pub const MAX_TRIES: u32 = 3;

/// The phase of a run that a job executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// `init`, `plan -out`, `show -json`.
    Plan,
    /// `init`, then `apply` of the plan that the plan job made.
    Apply,
}

impl Phase {
    /// The word for logs, labels and columns.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Apply => "apply",
        }
    }
}

/// A text that is no value of the enum it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not known here")]
pub struct UnknownName(pub String);

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in columns and in the API.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::job::UnknownName;

            fn from_str(text: &str) -> Result<Self, $crate::job::UnknownName> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    other => Err($crate::job::UnknownName(other.chars().take(80).collect())),
                }
            }
        }
    };
}
pub(crate) use named;

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "plan" => Ok(Self::Plan),
            "apply" => Ok(Self::Apply),
            other => Err(UnknownName(other.chars().take(80).collect())),
        }
    }
}

named! {
    /// Where a job stands.
    JobState {
        /// Waits for an agent.
        Queued = "queued",
        /// An apply that is claimed; its start was not granted.
        Leased = "leased",
        /// A claimed plan, or an apply whose start was granted.
        Running = "running",
        /// It has ended.
        Done = "done",
        /// Given up.
        Lost = "lost",
    }
}

named! {
    /// What is wanted of the attempt that holds a job. It only ever moves downwards.
    Desired {
        /// That it goes on.
        Run = "run",
        /// That it stops gracefully.
        Cancel = "cancel",
        /// That it stops now.
        Kill = "kill",
    }
}

/// A job's row, as far as the protocol needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Job {
    /// Which phase.
    pub phase: Phase,
    /// Where it stands.
    pub state: JobState,
    /// Grows with every claim.
    pub generation: u64,
    /// Who holds it, or held it last.
    pub attempt: Option<AttemptId>,
    /// The agent of that attempt.
    pub agent: Option<AgentId>,
    /// The agent's session at the claim.
    pub session: Option<u64>,
    /// Whether the start of an apply was granted to that attempt.
    pub start_granted: bool,
    /// What is wanted.
    pub desired: Desired,
    /// Tries that came to nothing.
    pub tries: u32,
    /// When the attempt was last heard.
    pub last_contact: Option<Timestamp>,
}

impl Job {
    /// A job that waits for its first claim.
    pub fn queued(phase: Phase) -> Self {
        Self {
            phase,
            state: JobState::Queued,
            generation: 0,
            attempt: None,
            agent: None,
            session: None,
            start_granted: false,
            desired: Desired::Run,
            tries: 0,
            last_contact: None,
        }
    }

    /// Whether an attempt holds it.
    pub fn is_held(&self) -> bool {
        match self.state {
            JobState::Leased | JobState::Running => true,
            JobState::Queued | JobState::Done | JobState::Lost => false,
        }
    }

    /// Whether the message speaks of the newest assignment.
    pub fn is_of(&self, generation: u64, attempt: &AttemptId) -> bool {
        self.generation == generation && self.attempt.as_ref() == Some(attempt)
    }

    fn is_granted_apply(&self) -> bool {
        match self.phase {
            Phase::Plan => false,
            Phase::Apply => self.start_granted,
        }
    }

    /// Gives a failed try back to the queue while tries are left.
    fn try_again(&self) -> (Self, JobResult) {
        let mut next = self.clone();
        next.tries += 1;
        next.start_granted = false;
        next.session = None;
        if next.tries < MAX_TRIES {
            next.attempt = None;
            next.agent = None;
            next.state = JobState::Queued;
            (next, JobResult::Requeued)
        } else {
            next.attempt = None;
            next.state = JobState::Lost;
            (next, JobResult::Lost { granted: false })
        }
    }

    fn with_state(&self, state: JobState) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }

    fn ended(&self) -> Self {
        self.with_state(JobState::Done)
    }

    /// Nobody is alive for it, or nobody started anything.
    fn given_back(&self) -> (Self, JobResult) {
        match self.desired {
            Desired::Run => self.try_again(),
            Desired::Cancel | Desired::Kill => (self.ended(), JobResult::Returned),
        }
    }

    /// The attempt is silent or gone.
    fn silent(&self) -> (Self, JobResult) {
        if self.is_granted_apply() {
            (self.with_state(JobState::Lost), JobResult::Lost { granted: true })
        } else {
            self.given_back()
        }
    }

    fn wanting(&self, desired: Desired) -> Self {
        Self {
            desired: self.desired.max(desired),
            ..self.clone()
        }
    }
}

/// What happens to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// An attempt wants it.
    Claim {
        /// The generation in the offer.
        generation_seen: u64,
        /// The attempt.
        attempt: AttemptId,
        /// Its agent.
        agent: AgentId,
        /// Its agent's session.
        session: u64,
        /// Why the agent may not have it: pool, access, incarnation, session, run. `None`: it may.
        obstacle: Option<Refusal>,
    },
    /// An apply's attempt asks for the start grant.
    Start {
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
        /// Why the run does not allow it: it has ended, or its lock has moved. `None`: it does.
        obstacle: Option<Refusal>,
    },
    /// The attempt was heard.
    Contact {
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Timestamp,
    },
    /// The attempt reports the end of its phase.
    Finish {
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt gives it back: nothing was started (its marker is absent).
    NeverStarted {
        /// The assignment.
        generation: u64,
        /// The attempt.
        attempt: AttemptId,
    },
    /// The server looks whether the lease has ended.
    Expire,
    /// A newer session of the agent does not name it.
    NotReported {
        /// The newer session.
        session: u64,
    },
    /// The run is canceled or force-canceled.
    Stop {
        /// How.
        desired: Desired,
    },
    /// The run ended while it was waiting.
    Withdraw,
    /// The database was restored: whatever held it belongs to another history.
    Restored,
}

/// What an event did to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobResult {
    /// A new assignment.
    Claimed,
    /// The same attempt asked again.
    ClaimRepeated,
    /// The start is granted.
    Granted,
    /// The same attempt asked again.
    GrantRepeated,
    /// It was heard.
    Contacted,
    /// Back in the queue.
    Requeued,
    /// Given up. `granted`: an engine may be alive.
    Lost {
        /// Whether its start was granted.
        granted: bool,
    },
    /// It has ended.
    Finished {
        /// Whether its start was granted before.
        granted: bool,
    },
    /// Its end arrived after it was given up.
    FinishedLate,
    /// It was given back, or fell silent, when nobody wanted it any more.
    Returned,
    /// It was given back after it was given up.
    ReturnedLate,
    /// The attempt will be told to stop.
    Asked,
    /// It was taken out of the queue.
    Withdrawn,
}

fn must_match(job: &Job, generation: u64, attempt: &AttemptId) -> Result<(), Refusal> {
    if job.is_of(generation, attempt) {
        Ok(())
    } else {
        Err(Refusal::OtherAttempt)
    }
}

fn must_be_wanted(job: &Job) -> Result<(), Refusal> {
    match job.desired {
        Desired::Run => Ok(()),
        Desired::Cancel | Desired::Kill => Err(Refusal::NotWanted(job.desired)),
    }
}

fn allowed(obstacle: Option<&Refusal>) -> Result<(), Refusal> {
    obstacle.map_or(Ok(()), |refusal| Err(refusal.clone()))
}

/// The job table.
///
/// # Errors
/// [`Refusal`] when the event may not happen; the row stays as it is.
pub fn transition(
    job: &Job,
    event: &JobEvent,
    now: Timestamp,
    times: &Times,
) -> Result<(Job, JobResult), Refusal> {
    match (job.state, event) {
        (
            JobState::Queued,
            JobEvent::Claim {
                generation_seen,
                attempt,
                agent,
                session,
                obstacle,
            },
        ) => {
            if job.generation != *generation_seen {
                return Err(Refusal::OtherGeneration);
            }
            must_be_wanted(job)?;
            allowed(obstacle.as_ref())?;
            let state = match job.phase {
                Phase::Plan => JobState::Running,
                Phase::Apply => JobState::Leased,
            };
            let next = Job {
                state,
                generation: job.generation + 1,
                attempt: Some(attempt.clone()),
                agent: Some(agent.clone()),
                session: Some(*session),
                start_granted: false,
                last_contact: Some(now),
                ..job.clone()
            };
            Ok((next, JobResult::Claimed))
        }
        (JobState::Leased | JobState::Running, JobEvent::Claim { attempt, .. }) => {
            if job.attempt.as_ref() == Some(attempt) {
                Ok((job.clone(), JobResult::ClaimRepeated))
            } else {
                Err(Refusal::OtherAttempt)
            }
        }
        (JobState::Done | JobState::Lost, JobEvent::Claim { .. }) => Err(Refusal::JobEnded),

        (
            JobState::Leased,
            JobEvent::Start {
                generation,
                attempt,
                obstacle,
            },
        ) => {
            must_match(job, *generation, attempt)?;
            must_be_wanted(job)?;
            allowed(obstacle.as_ref())?;
            let next = Job {
                start_granted: true,
                last_contact: Some(now),
                ..job.with_state(JobState::Running)
            };
            Ok((next, JobResult::Granted))
        }
        // A repeated answer may be used as long after its request as the first one, so it is a grant anew.
        (
            JobState::Running,
            JobEvent::Start {
                generation,
                attempt,
                obstacle,
            },
        ) => {
            must_match(job, *generation, attempt)?;
            match job.phase {
                Phase::Apply => {
                    must_be_wanted(job)?;
                    allowed(obstacle.as_ref())?;
                    let next = Job {
                        last_contact: job.last_contact.max(Some(now)),
                        ..job.clone()
                    };
                    Ok((next, JobResult::GrantRepeated))
                }
                Phase::Plan => Err(Refusal::Unfitting("a plan needs no start grant")),
            }
        }
        (JobState::Queued, JobEvent::Start { .. }) => Err(Refusal::OtherAttempt),
        (JobState::Done | JobState::Lost, JobEvent::Start { .. }) => Err(Refusal::JobEnded),

        (
            JobState::Leased | JobState::Running | JobState::Lost,
            JobEvent::Contact {
                generation,
                attempt,
                at,
            },
        ) => {
            must_match(job, *generation, attempt)?;
            let next = Job {
                last_contact: job.last_contact.max(Some(*at)),
                ..job.clone()
            };
            Ok((next, JobResult::Contacted))
        }
        (JobState::Queued, JobEvent::Contact { .. }) => Err(Refusal::OtherAttempt),
        (JobState::Done, JobEvent::Contact { .. }) => Err(Refusal::JobEnded),

        (JobState::Leased | JobState::Running, JobEvent::Finish { generation, attempt }) => {
            must_match(job, *generation, attempt)?;
            Ok((
                job.ended(),
                JobResult::Finished {
                    granted: job.is_granted_apply(),
                },
            ))
        }
        (JobState::Lost, JobEvent::Finish { generation, attempt }) => {
            must_match(job, *generation, attempt)?;
            Ok((job.ended(), JobResult::FinishedLate))
        }
        (JobState::Queued, JobEvent::Finish { .. }) => Err(Refusal::OtherAttempt),
        (JobState::Done, JobEvent::Finish { .. }) => Err(Refusal::JobEnded),

        (JobState::Leased | JobState::Running, JobEvent::NeverStarted { generation, attempt }) => {
            must_match(job, *generation, attempt)?;
            Ok(job.given_back())
        }
        (JobState::Lost, JobEvent::NeverStarted { generation, attempt }) => {
            must_match(job, *generation, attempt)?;
            Ok((job.ended(), JobResult::ReturnedLate))
        }
        (JobState::Queued, JobEvent::NeverStarted { .. }) => Err(Refusal::OtherAttempt),
        (JobState::Done, JobEvent::NeverStarted { .. }) => Err(Refusal::JobEnded),

        (JobState::Leased | JobState::Running, JobEvent::Expire) => {
            let due = job
                .last_contact
                .is_none_or(|at| now > times.expires_at(job.phase, at));
            if due {
                Ok(job.silent())
            } else {
                Err(Refusal::NotDue)
            }
        }
        (JobState::Queued | JobState::Done | JobState::Lost, JobEvent::Expire) => Err(Refusal::NotDue),

        (JobState::Leased | JobState::Running, JobEvent::NotReported { session }) => {
            let newer = job.session.is_none_or(|held| *session > held);
            let silence = Millis(times.hold.0 * 2);
            let silent = job.last_contact.is_none_or(|at| now > at + silence);
            if newer && silent {
                Ok(job.silent())
            } else {
                Err(Refusal::NotDue)
            }
        }
        (JobState::Queued | JobState::Done | JobState::Lost, JobEvent::NotReported { .. }) => {
            Err(Refusal::NotDue)
        }

        (JobState::Leased | JobState::Running | JobState::Lost, JobEvent::Stop { desired }) => {
            Ok((job.wanting(*desired), JobResult::Asked))
        }
        (JobState::Queued | JobState::Done, JobEvent::Stop { .. }) => Err(Refusal::JobEnded),

        (JobState::Queued, JobEvent::Withdraw) => {
            Ok((job.wanting(Desired::Cancel).ended(), JobResult::Withdrawn))
        }
        (JobState::Leased | JobState::Running, JobEvent::Withdraw) => Err(Refusal::OtherAttempt),
        (JobState::Done | JobState::Lost, JobEvent::Withdraw) => Err(Refusal::JobEnded),

        // A restored row may be older than the newest claim and grant: even a queued apply may have an engine
        // somewhere, and the attempt that the row names may not be the one that has it.
        (JobState::Queued | JobState::Leased | JobState::Running | JobState::Lost, JobEvent::Restored) => {
            let next = Job {
                attempt: None,
                session: None,
                ..job.with_state(JobState::Lost)
            };
            let granted = match job.phase {
                Phase::Apply => true,
                Phase::Plan => false,
            };
            Ok((next, JobResult::Lost { granted }))
        }
        (JobState::Done, JobEvent::Restored) => Err(Refusal::JobEnded),
    }
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
