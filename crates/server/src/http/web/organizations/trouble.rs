//! What went wrong in the last 24 hours by a fault of the platform, and the next step for each.

use terrapool_model::job::Phase;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::job::{FailureReason, Outcome};
use terrapool_store::overview::JobView;

use crate::http::web::parts::Tone;
use crate::http::web::parts::time::Ago;
use crate::http::web::parts::words::{count, some, theirs};
use crate::refusals::Refusal;
use crate::waiting::PoolState;

/// What is looked back on.
pub(super) const DAY: Millis = Millis::from_seconds(24 * 3600);

/// Things of one kind that are named.
const NAMED: usize = 3;

/// Something that went wrong, or that will.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) tone: Tone,
    pub(super) icon: &'static str,
    pub(super) what: String,
    /// What may be done about it.
    pub(super) next: String,
    /// The page to do it on.
    pub(super) address: String,
    pub(super) at: Option<Ago>,
}

/// Failures of one kind, which have the same next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LostInApply,
    LostInPlan,
    Memory,
    Limit,
    Engine,
    Internal,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::LostInApply,
        Self::LostInPlan,
        Self::Memory,
        Self::Limit,
        Self::Engine,
        Self::Internal,
    ];

    /// `None` for what is no fault of the platform.
    fn of(job: &JobView) -> Option<Self> {
        let lost = match job.phase {
            Phase::Apply => Self::LostInApply,
            Phase::Plan => Self::LostInPlan,
        };
        match &job.outcome {
            None | Some(Outcome::EngineLost { .. }) => Some(lost),
            Some(Outcome::Failed { reason, .. }) => match reason {
                FailureReason::LostContact => Some(lost),
                FailureReason::OutOfMemory => Some(Self::Memory),
                FailureReason::Limit => Some(Self::Limit),
                FailureReason::Engine => Some(Self::Engine),
                FailureReason::Internal => Some(Self::Internal),
                FailureReason::Configuration
                | FailureReason::Init
                | FailureReason::Exit
                | FailureReason::PlanMismatch => None,
            },
            Some(Outcome::Succeeded { .. } | Outcome::Canceled | Outcome::NeverStarted { .. }) => None,
        }
    }

    /// One, many, how it looks, and the next step.
    fn words(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::LostInApply => (
                "apply was lost",
                "applies were lost",
                "lost",
                "An apply is never started twice: the page of the run says what is known of each resource and what to do",
            ),
            Self::LostInPlan => (
                "plan was lost",
                "plans were lost",
                "lost",
                "Start it again from the run’s page; if it happens again, look at the agent’s page and run \
                 terrapool-agent doctor on its host",
            ),
            Self::Memory => (
                "job was killed for memory",
                "jobs were killed for memory",
                "mem",
                "Raise the workspace’s memory from the run’s page, or the memory per run of the pool",
            ),
            Self::Limit => (
                "job ran into a limit",
                "jobs ran into a limit",
                "clock",
                "Raise the limit that the run’s page names, in the workspace’s settings or the pool’s",
            ),
            Self::Engine => (
                "job had no engine",
                "jobs had no engine",
                "bad",
                "The agent could not have the engine’s version: see the run’s log, and the address that agents download from",
            ),
            Self::Internal => (
                "job failed by a fault of the agent",
                "jobs failed by a fault of the agent",
                "bad",
                "See the run’s page; then the agent’s log: journalctl -u terrapool-agent",
            ),
        }
    }
}

/// "in a, b and 2 more", each workspace once.
fn workspaces(jobs: &[&JobView]) -> String {
    let mut names: Vec<String> = Vec::new();
    for job in jobs {
        let name = theirs(&job.workspace);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("in {}", some(&names, NAMED))
}

/// The pages that troubles lead to.
pub(super) struct Addresses<'a> {
    /// The organization's pages.
    pub(super) base: &'a str,
    /// The page of a job's run.
    pub(super) run: fn(&JobView) -> String,
}

/// All troubles, what is broken before what will be. `failures` are newest first; `refused` with the pool that the token
/// is of.
pub(super) fn of(
    addresses: &Addresses<'_>,
    states: &[PoolState],
    failures: &[JobView],
    refused: &[(&PoolState, Refusal)],
    now: Timestamp,
) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    // The agents of the shared pool are the operators', who have pages of their own.
    let own = || states.iter().filter(|state| state.pool.organization_id.is_some());
    let pool_address =
        |state: &PoolState, tail: &str| format!("{}/agent-pools/{}{tail}", addresses.base, state.pool.id);
    for state in own() {
        let heard: Vec<_> = state.connected(now).map(|agent| &agent.id).collect();
        for agent in &state.agents {
            if agent.exited || heard.contains(&&agent.id) {
                continue;
            }
            let held = count(agent.jobs, "job is", "jobs are");
            troubles.push(Trouble {
                tone: Tone::Bad,
                icon: "lost",
                what: format!("{} is not heard from, in {}", theirs(&agent.name), theirs(&state.pool.name)),
                next: format!(
                    "{held} in the balance. On {}: systemctl status terrapool-agent, then terrapool-agent doctor",
                    theirs(&agent.hostname)
                ),
                address: pool_address(state, &format!("/agents/{}", agent.id)),
                at: Some(Ago::new(agent.last_ping_at, now)),
            });
        }
    }
    for kind in Kind::ALL {
        let jobs: Vec<&JobView> = failures
            .iter()
            .filter(|job| Kind::of(job) == Some(kind))
            .collect();
        let Some(newest) = jobs.first() else { continue };
        let (one, many, icon, next) = kind.words();
        troubles.push(Trouble {
            tone: Tone::Bad,
            icon,
            what: format!("{} {}", count(jobs.len() as u64, one, many), workspaces(&jobs)),
            next: next.to_owned(),
            address: (addresses.run)(newest),
            at: Some(Ago::new(newest.finished_at.unwrap_or(newest.queued_at), now)),
        });
    }
    for state in own() {
        let old: Vec<_> = state
            .connected(now)
            .filter(|agent| agent.version != env!("CARGO_PKG_VERSION"))
            .collect();
        let Some(first) = old.first() else { continue };
        troubles.push(Trouble {
            tone: Tone::Warn,
            icon: "warn",
            what: format!(
                "{} of {} another version than this server, the first {}",
                count(old.len() as u64, "agent", "agents"),
                theirs(&state.pool.name) + if old.len() == 1 { " has" } else { " have" },
                theirs(&first.version)
            ),
            next: format!(
                "They are served. Install {} on their hosts when it suits: runs that are under way go on",
                env!("CARGO_PKG_VERSION")
            ),
            address: pool_address(state, "/install"),
            at: None,
        });
    }
    for (state, refusal) in refused {
        troubles.push(Trouble {
            tone: Tone::Warn,
            icon: "warn",
            what: format!(
                "{} from {}",
                count(
                    refusal.tries.number,
                    "refused registration",
                    "refused registrations"
                ),
                refusal.address
            ),
            next: format!(
                "The token “{}” of {} {}: give the agent there another one",
                theirs(&refusal.token),
                theirs(&state.pool.name),
                if refusal.revoked {
                    "was revoked"
                } else {
                    "has expired"
                }
            ),
            address: pool_address(state, "/tokens"),
            at: Some(Ago::new(refusal.tries.last, now)),
        });
    }
    troubles
}

#[cfg(test)]
mod tests {
    use terrapool_model::id::{AgentPoolId, JobId, RunId};
    use terrapool_model::job::JobState;
    use terrapool_protocol::job::Limits;

    use super::*;

    fn job(workspace: &str, phase: Phase, ended: i64, outcome: Option<Outcome>) -> JobView {
        JobView {
            id: JobId::from_random([1; 16]),
            run_id: RunId::from_random([1; 16]),
            message: String::new(),
            workspace: workspace.to_owned(),
            organization: "acme".to_owned(),
            pool_id: AgentPoolId::from_random([1; 16]),
            phase,
            state: if outcome.is_some() {
                JobState::Done
            } else {
                JobState::Lost
            },
            generation: 1,
            attempt: None,
            agent_id: None,
            agent: None,
            tries: 1,
            last_contact: None,
            queued_at: Timestamp(0),
            started_at: Some(Timestamp(1)),
            finished_at: Some(Timestamp(ended)),
            limits: Limits::default(),
            outcome,
            usage: None,
        }
    }

    #[test]
    fn failures_of_one_kind_are_told_once_with_their_next_step() {
        let failed = |reason| {
            Some(Outcome::Failed {
                reason,
                message: String::new(),
            })
        };
        let memory = || failed(FailureReason::OutOfMemory);
        let failures = [
            job("five", Phase::Apply, 900_000, memory()),
            job("four", Phase::Plan, 800_000, memory()),
            job("three", Phase::Plan, 700_000, memory()),
            job("three", Phase::Plan, 650_000, memory()),
            job("two", Phase::Plan, 600_000, memory()),
            job("one", Phase::Apply, 500_000, None),
            job("zero", Phase::Plan, 400_000, failed(FailureReason::Exit)),
        ];
        let addresses = Addresses {
            base: "/app/acme",
            run: |job| format!("/{}", job.workspace),
        };
        let now = Timestamp(1_000_000);
        let found = of(&addresses, &[], &failures, &[], now);
        let told: Vec<(String, &str)> = found
            .iter()
            .map(|trouble| {
                let plain = trouble.what.replace(['\u{2068}', '\u{2069}'], "");
                (plain, trouble.address.as_str())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("1 apply was lost in one".to_owned(), "/one"),
                (
                    "5 jobs were killed for memory in five, four, three and 1 more".to_owned(),
                    "/five"
                ),
            ]
        );
        assert!(found[0].next.contains("never started twice"));
        assert!(found[1].next.contains("Raise"));
        assert_eq!(found[1].at, Some(Ago::new(Timestamp(900_000), now)));
    }
}
