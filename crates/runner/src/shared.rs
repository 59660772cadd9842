//! What the threads of a runner share: where the job stands, what the agent has taken, and what it asked for.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use terrapool_model::engine::Engine;
use terrapool_protocol::job::{ArtifactName, JobTimes, StateMark};
use terrapool_protocol::runner::{FromRunner, RunnerStage, StopKind, StopReason};
use terrapool_protocol::secret::Secret;

use crate::children::Children;
use crate::error::Failure;
use crate::paths::Paths;
use crate::relay::Relay;

/// Largest piece of log in a frame.
pub const LOG_PIECE: u64 = 64 << 10;

/// Why a job is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The agent asked for it, or lost contact.
    Asked(StopReason),
    /// A limit was reached.
    Limit(Failure),
}

/// A request to stop, as it stands by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The hardest kind that was asked for.
    pub kind: StopKind,
    /// The first cause that was given.
    pub cause: Cause,
}

/// A state copy on the job volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateCopy {
    /// What it is.
    pub mark: StateMark,
    /// Where it lies.
    pub path: PathBuf,
}

/// The part of the shared state that is guarded by the lock.
#[derive(Debug)]
pub struct Status {
    /// The agent's key, from the first connection.
    pub key: Option<Secret>,
    /// Number of the connection that holds; the threads of an older one end when they see it.
    pub connection: u64,
    /// Highest number of a connection that has ended.
    pub closed: u64,
    /// Whether a connection is in the middle of a bundle.
    pub receiving: bool,
    /// Where the job stands.
    pub stage: RunnerStage,
    /// `init` is done.
    pub prepared: bool,
    /// The engine phase was started.
    pub started: bool,
    /// The start grant is here.
    pub go: bool,
    /// Times of the job.
    pub times: Option<JobTimes>,
    /// The engine of the job and the digest of its binary.
    pub engine: Option<(Engine, String)>,
    /// The request to stop.
    pub stop: Option<Stop>,
    /// The process that runs now and gets signals.
    pub process: Option<Pid>,
    /// When the engine phase printed something last.
    pub last_output: Option<Instant>,
    /// Time until `init` was done, in milliseconds.
    pub init_ms: Option<u64>,
    /// What the job has used so far, to be sent.
    pub progress: Option<FromRunner>,
    /// Bytes in the spool.
    pub log_size: u64,
    /// Bytes that the agent has taken.
    pub log_taken: u64,
    /// Where the sender goes on.
    pub log_next: u64,
    /// No log is sent before, unless there is enough for a whole piece.
    pub log_rests_until: Option<Instant>,
    /// The newest state.
    pub state: Option<StateCopy>,
    /// Digest of the state that is under way and not taken yet, on this connection.
    pub state_in_flight: Option<String>,
    /// Digest of the last state that was sent on this connection.
    pub state_sent: Option<String>,
    /// Artifacts to send.
    pub fetches: VecDeque<ArtifactName>,
    /// The end of the job.
    pub finished: Option<Arc<FromRunner>>,
    /// The agent needs nothing any more.
    pub released: bool,
}

impl Status {
    /// How long more log has to gather before it is sent; `None` when what there is may go at once.
    pub fn log_rests(&self, now: Instant) -> Option<Duration> {
        if self.finished.is_some() || self.log_size.saturating_sub(self.log_next) >= LOG_PIECE {
            return None;
        }
        let left = self.log_rests_until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// Everything that the threads share.
#[derive(Debug)]
pub struct Shared {
    /// The sandbox's folders.
    pub paths: Paths,
    /// Starting and reaping processes.
    pub children: Children,
    /// Requests to the control plane.
    pub relay: Relay,
    /// The log spool, open for reading, once there is a job.
    pub log: OnceLock<File>,
    status: Mutex<Status>,
    /// Something may have to be sent.
    outgoing: Condvar,
    /// Something that steps, signals or connections wait for.
    control: Condvar,
}

impl Shared {
    /// For a fresh sandbox. `init` tells whether this process is PID 1.
    pub fn new(paths: Paths, init: bool) -> Self {
        Self {
            paths,
            children: Children::new(init),
            relay: Relay::default(),
            log: OnceLock::new(),
            status: Mutex::new(Status {
                key: None,
                connection: 0,
                closed: 0,
                receiving: false,
                stage: RunnerStage::Waiting,
                prepared: false,
                started: false,
                go: false,
                times: None,
                engine: None,
                stop: None,
                process: None,
                last_output: None,
                init_ms: None,
                progress: None,
                log_size: 0,
                log_taken: 0,
                log_next: 0,
                log_rests_until: None,
                state: None,
                state_in_flight: None,
                state_sent: None,
                fetches: VecDeque::new(),
                finished: None,
                released: false,
            }),
            outgoing: Condvar::new(),
            control: Condvar::new(),
        }
    }

    /// The status, locked.
    pub fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status and wakes everybody who waits for a change of it.
    pub fn change<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let result = change(&mut self.status());
        self.control.notify_all();
        self.outgoing.notify_all();
        result
    }

    /// The spool has grown to this size.
    pub fn log_grew(&self, size: u64) {
        let mut status = self.status();
        let now = Instant::now();
        status.log_size = size;
        status.last_output = Some(now);
        let rests = status.log_rests(now).is_some();
        drop(status);
        // Who rests wakes by itself.
        if !rests {
            self.outgoing.notify_all();
        }
    }

    /// There is something to send.
    pub fn outgoing(&self) {
        // The sender looks with the lock held, so it either sees what is new or is waiting by now.
        drop(self.status());
        self.outgoing.notify_all();
    }

    /// Waits for something to send, for at most this long when a time is given.
    pub fn wait_outgoing<'status>(
        &self,
        status: MutexGuard<'status, Status>,
        time: Option<Duration>,
    ) -> MutexGuard<'status, Status> {
        match time {
            Some(time) => wait_for(&self.outgoing, status, time),
            None => self.outgoing.wait(status).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Waits for a change that steps, signals or connections care about.
    pub fn wait_control<'status>(&self, status: MutexGuard<'status, Status>) -> MutexGuard<'status, Status> {
        self.control.wait(status).unwrap_or_else(PoisonError::into_inner)
    }

    /// Like [`Self::wait_control`], for at most this long.
    pub fn wait_control_for<'status>(
        &self,
        status: MutexGuard<'status, Status>,
        time: Duration,
    ) -> MutexGuard<'status, Status> {
        wait_for(&self.control, status, time)
    }

    /// Asks for the end of the job. The first cause stays, the kind only becomes harder.
    pub fn request_stop(&self, kind: StopKind, cause: Cause) {
        self.change(|status| {
            let stop = status.stop.get_or_insert(Stop { kind, cause });
            if kind == StopKind::Kill {
                stop.kind = StopKind::Kill;
            }
        });
    }
}

fn wait_for<'status>(
    changed: &Condvar,
    status: MutexGuard<'status, Status>,
    time: Duration,
) -> MutexGuard<'status, Status> {
    match changed.wait_timeout(status, time) {
        Ok((status, _)) => status,
        Err(poisoned) => poisoned.into_inner().0,
    }
}
