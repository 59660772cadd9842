//! Stopping the engine: by request, by SIGTERM to the sandbox, and when contact was lost for too long.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use terrapool_model::time::Millis;
use terrapool_protocol::runner::{RunnerStage, StopKind, StopReason};

use crate::children::kill_everything;
use crate::shared::{Cause, Shared};

/// Where the sequence of signals stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    First,
    Second,
    Kill,
}

/// Sends the signals of a stop request to the process that runs when it comes; no process is started after it. Ends when
/// the job has ended.
pub fn run_sequence(shared: &Shared) {
    let mut sent = Sent::Nothing;
    let mut deadline = Instant::now();
    let mut status = shared.status();
    loop {
        if status.finished.is_some() || status.released {
            return;
        }
        let (Some(kind), Some(pid)) = (status.stop.as_ref().map(|stop| stop.kind), status.process) else {
            status = shared.wait_control(status);
            continue;
        };
        let (grace, kill_after) = match &status.times {
            Some(times) => (times.grace.to_std(), times.kill_after.to_std()),
            None => (Duration::ZERO, Duration::ZERO),
        };
        let now = Instant::now();
        let hard = kind == StopKind::Kill;
        match sent {
            Sent::Nothing => {
                interrupt(pid);
                (sent, deadline) = if hard {
                    (Sent::Second, now + kill_after)
                } else {
                    (Sent::First, now + grace)
                };
            }
            Sent::First if hard || now >= deadline => {
                interrupt(pid);
                (sent, deadline) = (Sent::Second, now + kill_after);
            }
            Sent::Second | Sent::Kill if now >= deadline => {
                drop(status);
                kill_everything(shared, Some(pid));
                (sent, deadline) = (Sent::Kill, now + Duration::from_secs(1));
                status = shared.status();
            }
            Sent::First | Sent::Second | Sent::Kill => {
                status = shared.wait_control_for(status, deadline - now);
            }
        }
    }
}

/// SIGINT to the engine only: its providers are told by it, and must live as long as it still needs them.
fn interrupt(pid: Pid) {
    let _ = rustix::process::kill_process(pid, Signal::INT);
}

/// Reads from a pipe that gets a byte for each SIGTERM. Before there is a job the runner just ends; later it stops the
/// engine, and stays to deliver what there is.
pub fn obey_sigterm(shared: &Shared, mut signals: UnixStream) {
    let mut byte = [0];
    loop {
        match signals.read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        let idle = shared.change(|status| {
            let idle = status.stage == RunnerStage::Waiting;
            status.released |= idle;
            idle
        });
        if !idle {
            shared.request_stop(StopKind::Cancel, Cause::Asked(StopReason::AgentEnds));
        }
    }
}

/// Stops the engine when the agent has not renewed its contact in time. Counts the time that the machine was suspended.
#[derive(Debug)]
pub struct DeadMan {
    timer: OwnedFd,
    /// Deadline on CLOCK_BOOTTIME.
    deadline: Mutex<Option<Duration>>,
    /// Whether the timer itself counts suspended time. Before Linux 3.15 it does not, and is looked at more often.
    counts_suspend: bool,
}

/// How long a timer that does not count suspended time may sleep at once.
const CHECK: Duration = Duration::from_secs(10);

impl DeadMan {
    /// An idle timer.
    ///
    /// # Errors
    /// When the kernel gives no timer.
    pub fn new() -> io::Result<Self> {
        let (timer, counts_suspend) = match timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC) {
            Ok(timer) => (timer, true),
            Err(_) => (
                timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?,
                false,
            ),
        };
        Ok(Self {
            timer,
            deadline: Mutex::new(None),
            counts_suspend,
        })
    }

    /// Sets the contact limit anew; `None` is never.
    pub fn renew(&self, remaining: Option<Millis>) {
        let deadline = remaining.map(|time| now() + time.to_std());
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
        self.arm(deadline);
    }

    fn arm(&self, deadline: Option<Duration>) {
        // Zero would disarm.
        let wait = deadline.map_or(Duration::ZERO, |deadline| {
            let wait = deadline.saturating_sub(now()).max(Duration::from_nanos(1));
            if self.counts_suspend {
                wait
            } else {
                wait.min(CHECK)
            }
        });
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let time = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time);
    }

    /// Waits for the deadline, for the rest of the process's life.
    pub fn watch(&self, shared: &Arc<Shared>) {
        let mut count = [0; 8];
        loop {
            match rustix::io::read(&self.timer, &mut count) {
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::CANCELED) => {}
                Err(_) => return,
            }
            let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
            match deadline {
                Some(deadline) if now() >= deadline => {
                    shared.request_stop(StopKind::Cancel, Cause::Asked(StopReason::LostContact));
                }
                other => self.arm(other),
            }
        }
    }
}

/// Time since the machine started, suspended time included.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}
