//! Why a run waits: a closed set of reasons, with the figures that people are shown.

use crate::id::{RunId, UserId};
use crate::lock::Lock;
use crate::time::Timestamp;

/// An agent of the job's pool, as far as it decides who takes the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolAgent {
    /// Its name.
    pub name: String,
    /// It is heard from.
    pub connected: bool,
    /// It takes no new jobs.
    pub draining: bool,
    /// Its sandboxes run as root, which the pool does not allow.
    pub refused: bool,
    /// Jobs it may hold at once.
    pub slots: u32,
    /// Of these, free.
    pub free_slots: u32,
    /// Memory it may hand out in all, in MiB.
    pub memory_mb: u64,
    /// Memory not handed out, in MiB.
    pub free_memory_mb: u64,
}

impl PoolAgent {
    fn takes_jobs(&self) -> bool {
        self.connected && !self.draining && !self.refused
    }

    fn could_ever_take(&self, needs_mb: u64) -> bool {
        self.slots > 0 && self.memory_mb >= needs_mb
    }
}

/// A job in a pool's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueuedJob {
    /// Memory that its sandbox needs, in MiB.
    pub needs_mb: u64,
    /// Jobs that are offered before it.
    pub ahead: u64,
    /// The workspace may use the pool.
    pub allowed: bool,
    /// A person has paused the pool.
    pub paused: bool,
    /// When an agent of the pool was heard last; `None`: none ever was, or none is remembered.
    pub last_heard: Option<Timestamp>,
}

/// Why a run waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// The pool has no agent that is heard from.
    NoAgent {
        /// When one was heard last; `None`: none ever was, or none is remembered.
        since: Option<Timestamp>,
    },
    /// The sandboxes of all agents that are heard from run as root, which the pool does not allow.
    RootRefused {
        /// How many.
        agents: u64,
    },
    /// All agents that are heard from take no new jobs.
    Draining {
        /// How many.
        agents: u64,
    },
    /// No agent that is heard from is large enough, however little it does.
    TooLarge {
        /// Memory that the job needs, in MiB.
        needs_mb: u64,
        /// Memory of the largest agent that is heard from, in MiB.
        largest_mb: u64,
        /// An agent that is large enough, and lost.
        lost: Option<String>,
    },
    /// Large enough agents have not enough memory free now.
    NoMemory {
        /// Memory that the job needs, in MiB.
        needs_mb: u64,
        /// Most memory that an agent with a free slot has free, in MiB.
        most_free_mb: u64,
    },
    /// All slots are in use.
    NoSlot {
        /// Slots of all agents that are heard from.
        slots: u64,
        /// Jobs that are offered before it.
        ahead: u64,
    },
    /// Others are offered before it.
    Ahead {
        /// How many.
        ahead: u64,
    },
    /// It is offered now.
    Next,
    /// The workspace may not use the pool any more.
    NotAllowed,
    /// A person has paused the pool.
    Paused,
    /// Another run of the workspace has to end, or to be decided on, first.
    BehindRun {
        /// The run that holds the workspace.
        run: RunId,
        /// Runs of the workspace that come before this one, the holder included.
        ahead: u64,
    },
    /// A person has locked the workspace.
    LockedByUser {
        /// Who.
        user: UserId,
    },
    /// A lost apply's engine may still be alive.
    Quarantined {
        /// The lost run.
        run: RunId,
        /// From when on none can be; `None`: only its end or a person ends the lock.
        until: Option<Timestamp>,
    },
    /// The control plane schedules it in a moment.
    Scheduling,
}

impl WaitReason {
    /// The word in the API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoAgent { .. } => "no-agent",
            Self::RootRefused { .. } => "root-refused",
            Self::Draining { .. } => "draining",
            Self::TooLarge { .. } => "too-large",
            Self::NoMemory { .. } => "no-memory",
            Self::NoSlot { .. } => "no-slot",
            Self::Ahead { .. } => "ahead",
            Self::Next => "next",
            Self::NotAllowed => "not-allowed",
            Self::Paused => "paused",
            Self::BehindRun { .. } => "behind-run",
            Self::LockedByUser { .. } => "locked-by-user",
            Self::Quarantined { .. } => "quarantined",
            Self::Scheduling => "scheduling",
        }
    }

    /// Whether the run can't start unless somebody changes something.
    pub fn is_stalled(&self) -> bool {
        match self {
            Self::NoAgent { .. }
            | Self::RootRefused { .. }
            | Self::TooLarge { .. }
            | Self::NotAllowed
            | Self::Paused => true,
            Self::Draining { .. }
            | Self::NoMemory { .. }
            | Self::NoSlot { .. }
            | Self::Ahead { .. }
            | Self::Next
            | Self::BehindRun { .. }
            | Self::LockedByUser { .. }
            | Self::Quarantined { .. }
            | Self::Scheduling => false,
        }
    }

    /// Whether agents are there, and none has room.
    pub fn is_capacity(&self) -> bool {
        match self {
            Self::Draining { .. } | Self::NoMemory { .. } | Self::NoSlot { .. } => true,
            Self::NoAgent { .. }
            | Self::RootRefused { .. }
            | Self::TooLarge { .. }
            | Self::NotAllowed
            | Self::Paused
            | Self::Ahead { .. }
            | Self::Next
            | Self::BehindRun { .. }
            | Self::LockedByUser { .. }
            | Self::Quarantined { .. }
            | Self::Scheduling => false,
        }
    }
}

/// Why a queued job is not taken, by what its pool's agents can take. What ends the wait of a person's doing comes
/// first.
pub fn of_job(job: &QueuedJob, agents: &[PoolAgent]) -> WaitReason {
    if !job.allowed {
        return WaitReason::NotAllowed;
    }
    if job.paused {
        return WaitReason::Paused;
    }
    let connected: Vec<&PoolAgent> = agents.iter().filter(|agent| agent.connected).collect();
    if connected.is_empty() {
        return WaitReason::NoAgent {
            since: job.last_heard,
        };
    }
    if connected.iter().all(|agent| agent.refused) {
        return WaitReason::RootRefused {
            agents: connected.len() as u64,
        };
    }
    let taking: Vec<&PoolAgent> = connected
        .iter()
        .copied()
        .filter(|agent| agent.takes_jobs())
        .collect();
    if taking.is_empty() {
        return WaitReason::Draining {
            agents: connected.len() as u64,
        };
    }
    if !taking.iter().any(|agent| agent.could_ever_take(job.needs_mb)) {
        let lost = agents
            .iter()
            .find(|agent| !agent.connected && agent.could_ever_take(job.needs_mb));
        return WaitReason::TooLarge {
            needs_mb: job.needs_mb,
            largest_mb: taking.iter().map(|agent| agent.memory_mb).max().unwrap_or(0),
            lost: lost.map(|agent| agent.name.clone()),
        };
    }
    let open: Vec<&PoolAgent> = taking
        .iter()
        .copied()
        .filter(|agent| agent.free_slots > 0)
        .collect();
    if open.is_empty() {
        return WaitReason::NoSlot {
            slots: taking.iter().map(|agent| u64::from(agent.slots)).sum(),
            ahead: job.ahead,
        };
    }
    if !open.iter().any(|agent| agent.free_memory_mb >= job.needs_mb) {
        return WaitReason::NoMemory {
            needs_mb: job.needs_mb,
            most_free_mb: open.iter().map(|agent| agent.free_memory_mb).max().unwrap_or(0),
        };
    }
    if job.ahead > 0 {
        WaitReason::Ahead { ahead: job.ahead }
    } else {
        WaitReason::Next
    }
}

/// Why a pending run is not scheduled, by its workspace's lock.
pub fn of_pending(run: &RunId, lock: &Lock, ahead: u64) -> WaitReason {
    match lock {
        Lock::User(user) => WaitReason::LockedByUser { user: user.clone() },
        Lock::Run(holder) if holder != run => WaitReason::BehindRun {
            run: holder.clone(),
            ahead,
        },
        Lock::Lost { run, safe_at } => WaitReason::Quarantined {
            run: run.clone(),
            until: *safe_at,
        },
        Lock::Run(_) | Lock::Free => WaitReason::Scheduling,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(free_slots: u32, free_memory_mb: u64) -> PoolAgent {
        PoolAgent {
            name: "one".to_owned(),
            connected: true,
            draining: false,
            refused: false,
            slots: 2,
            free_slots,
            memory_mb: 2048,
            free_memory_mb,
        }
    }

    fn job() -> QueuedJob {
        QueuedJob {
            needs_mb: 512,
            ahead: 0,
            allowed: true,
            paused: false,
            last_heard: None,
        }
    }

    #[test]
    fn without_an_agent_nothing_can_start() {
        let lost = PoolAgent {
            connected: false,
            ..agent(2, 2048)
        };
        let waits = of_job(
            &QueuedJob {
                last_heard: Some(Timestamp(7)),
                ..job()
            },
            &[lost],
        );
        assert_eq!(
            waits,
            WaitReason::NoAgent {
                since: Some(Timestamp(7))
            }
        );
        assert!(waits.is_stalled());
    }

    #[test]
    fn a_job_that_fits_no_connected_agent_names_the_lost_one_that_it_fits() {
        let big = PoolAgent {
            name: "big".to_owned(),
            connected: false,
            memory_mb: 8192,
            ..agent(2, 0)
        };
        let large = QueuedJob {
            needs_mb: 4096,
            ..job()
        };
        assert_eq!(
            of_job(&large, &[agent(2, 2048), big]),
            WaitReason::TooLarge {
                needs_mb: 4096,
                largest_mb: 2048,
                lost: Some("big".to_owned())
            }
        );
    }

    #[test]
    fn slots_and_memory_are_told_apart() {
        assert_eq!(
            of_job(&job(), &[agent(0, 2048), agent(0, 2048)]),
            WaitReason::NoSlot { slots: 4, ahead: 0 }
        );
        assert_eq!(
            of_job(&job(), &[agent(1, 380), agent(0, 2048)]),
            WaitReason::NoMemory {
                needs_mb: 512,
                most_free_mb: 380
            }
        );
        assert_eq!(of_job(&job(), &[agent(1, 512)]), WaitReason::Next);
        assert_eq!(
            of_job(&QueuedJob { ahead: 2, ..job() }, &[agent(1, 512)]),
            WaitReason::Ahead { ahead: 2 }
        );
    }

    #[test]
    fn a_pool_that_may_not_be_used_and_one_that_drains_are_named() {
        let refused = QueuedJob {
            allowed: false,
            ..job()
        };
        assert_eq!(of_job(&refused, &[agent(2, 2048)]), WaitReason::NotAllowed);
        let paused = QueuedJob {
            paused: true,
            ..job()
        };
        assert_eq!(of_job(&paused, &[agent(2, 2048)]), WaitReason::Paused);
        let root = PoolAgent {
            refused: true,
            ..agent(2, 2048)
        };
        assert_eq!(
            of_job(&job(), std::slice::from_ref(&root)),
            WaitReason::RootRefused { agents: 1 }
        );
        assert_eq!(of_job(&job(), &[root, agent(2, 2048)]), WaitReason::Next);
        let draining = PoolAgent {
            draining: true,
            ..agent(2, 2048)
        };
        assert_eq!(of_job(&job(), &[draining]), WaitReason::Draining { agents: 1 });
    }

    #[test]
    fn a_pending_run_waits_for_whoever_holds_the_workspace() {
        let (run, holder) = (RunId::from_random([1; 16]), RunId::from_random([2; 16]));
        let user = UserId::from_random([3; 16]);
        assert_eq!(
            of_pending(&run, &Lock::User(user.clone()), 0),
            WaitReason::LockedByUser { user }
        );
        assert_eq!(
            of_pending(&run, &Lock::Run(holder.clone()), 2),
            WaitReason::BehindRun {
                run: holder.clone(),
                ahead: 2
            }
        );
        let lost = Lock::Lost {
            run: holder.clone(),
            safe_at: Some(Timestamp(9)),
        };
        assert_eq!(
            of_pending(&run, &lost, 0),
            WaitReason::Quarantined {
                run: holder,
                until: Some(Timestamp(9))
            }
        );
        assert_eq!(of_pending(&run, &Lock::Free, 0), WaitReason::Scheduling);
    }
}
