//! A host with an agent: its disk, its sandboxes, and the process that runs on it.

use std::collections::BTreeMap;

use terrapool_agent_core::attempt::{Attempt, Boottime, State};
use terrapool_agent_core::capacity;
use terrapool_model::id::AttemptId;
use terrapool_protocol::agent::{Capacity, Register, Registered, SyncMode};
use terrapool_protocol::job::{JobSpec, Outcome};
use terrapool_protocol::secret::Secret;
use terrapool_testkit::agent::SimulatedAgent;

use crate::sandbox::Sandbox;
use crate::world::{HostNumber, ProcessNumber};

/// Memory of a sandbox, in MiB.
const MEMORY_MB: u64 = 512;

/// What a job needs.
const SIZE: capacity::Size = capacity::Size {
    memory_mb: MEMORY_MB,
    cpu_millis: 1000,
};

/// What the journal tells of an attempt that is not over.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) attempt: Attempt,
    pub(crate) credential: Option<Secret>,
}

/// A host.
pub(crate) struct Host {
    pub(crate) number: HostNumber,
    pub(crate) slots: u32,
    /// Which installed agent it is. A cloned machine has another one's.
    pub(crate) identity: String,
    /// It takes part until the simulation heals.
    pub(crate) is_clone: bool,
    pub(crate) journal: BTreeMap<AttemptId, Line>,
    pub(crate) sandboxes: BTreeMap<AttemptId, Sandbox>,
    pub(crate) process: Option<Process>,
    pub(crate) cut_until: u64,
    pub(crate) sleeps_until: u64,
}

/// One attempt, as the process works on it.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) attempt: Attempt,
    pub(crate) credential: Option<Secret>,
    pub(crate) spec: Option<JobSpec>,
    pub(crate) claim_sent: Boottime,
    pub(crate) claim_until: Boottime,
    /// Requests under way, by name.
    pub(crate) under_way: BTreeMap<&'static str, u64>,
    /// From when on a request may be sent again, and how often it has failed.
    pub(crate) again: BTreeMap<&'static str, (Boottime, u32)>,
    pub(crate) has_bundle: bool,
    /// It hears its sandbox.
    pub(crate) is_linked: bool,
    pub(crate) log_taken: u64,
    pub(crate) state_taken: Option<String>,
    pub(crate) archive_taken: bool,
    pub(crate) finish: Option<Outcome>,
    /// An earlier process began it, and where its sandbox stands is not known yet.
    pub(crate) resumed: bool,
    pub(crate) is_over: bool,
}

impl Live {
    pub(crate) fn new(attempt: Attempt, credential: Option<Secret>, now: Boottime) -> Self {
        Self {
            attempt,
            credential,
            spec: None,
            claim_sent: now,
            claim_until: Boottime(now.0 + 25_000),
            under_way: BTreeMap::new(),
            again: BTreeMap::new(),
            has_bundle: false,
            is_linked: false,
            log_taken: 0,
            state_taken: None,
            archive_taken: false,
            finish: None,
            resumed: false,
            is_over: false,
        }
    }

    /// Whether a request of this name may be sent now.
    pub(crate) fn may_send(&self, name: &str, now: Boottime) -> bool {
        !self.under_way.contains_key(name) && self.again.get(name).is_none_or(|(from, _)| *from <= now)
    }
}

/// A process of the agent.
pub(crate) struct Process {
    pub(crate) number: ProcessNumber,
    pub(crate) nonce: u64,
    pub(crate) registered: Option<Registered>,
    pub(crate) lives: BTreeMap<AttemptId, Live>,
    pub(crate) register_under_way: Option<u64>,
    pub(crate) sync_under_way: Option<u64>,
    pub(crate) failures: u32,
    pub(crate) rests_until: Boottime,
    pub(crate) mode: SyncMode,
    /// It was told to end.
    pub(crate) told: u32,
    /// It dies before it has carried out so many actions more.
    pub(crate) actions_left: Option<u32>,
}

impl Process {
    pub(crate) fn new(number: ProcessNumber, nonce: u64) -> Self {
        Self {
            number,
            nonce,
            registered: None,
            lives: BTreeMap::new(),
            register_under_way: None,
            sync_under_way: None,
            failures: 0,
            rests_until: Boottime(0),
            mode: SyncMode::Normal,
            told: 0,
            actions_left: None,
        }
    }
}

impl Host {
    pub(crate) fn new(number: HostNumber, slots: u32) -> Self {
        Self {
            number,
            slots,
            identity: format!("host-{number}"),
            is_clone: false,
            journal: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            process: None,
            cut_until: 0,
            sleeps_until: 0,
        }
    }

    fn held(&self) -> capacity::Held {
        let lives = self.process.iter().flat_map(|process| process.lives.values());
        let jobs = lives.filter(|live| live.attempt.holds_slot()).count();
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        capacity::Held {
            jobs,
            memory_mb: u64::from(jobs) * (MEMORY_MB + capacity::OVERHEAD_MB),
            cpu_millis: 0,
            resident_mb: 0,
        }
    }

    fn machine(&self) -> capacity::Host {
        capacity::Host {
            total_mb: 65_536,
            available_mb: 60_000,
            allowed_mb: None,
            allowed_cpu_millis: None,
            concurrency: self.slots,
        }
    }

    pub(crate) fn free_slots(&self) -> u32 {
        capacity::free_slots(self.machine(), self.held(), SIZE)
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let free = self.free_slots();
        Capacity {
            slots: free + self.held().jobs,
            free_slots: free,
            memory_mb: 60_000,
            free_memory_mb: capacity::free_memory(self.machine(), self.held()),
            reserve_mb: capacity::reserve(65_536),
        }
    }

    pub(crate) fn registration(&self, nonce: u64) -> Register {
        SimulatedAgent::registration(&self.identity, &nonce.to_string())
    }

    /// Makes an attempt's state as durable as the agent's journal does.
    pub(crate) fn journal(&mut self, attempt: &Attempt, credential: Option<&Secret>) {
        match attempt.state {
            State::Dropped | State::Done => {
                self.journal.remove(&attempt.attempt);
            }
            State::Claiming
            | State::Claimed
            | State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Returning { .. }
            | State::Delivering { .. } => {
                let line = Line {
                    attempt: attempt.clone(),
                    credential: credential.cloned(),
                };
                self.journal.insert(attempt.attempt.clone(), line);
            }
        }
    }
}
