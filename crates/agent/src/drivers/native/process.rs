//! Processes of sandboxes, known across restarts of the agent and of the host.

use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process, told from later ones with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    number: u32,
    /// Clock ticks between the start of the kernel and its own.
    started: u64,
    /// The kernel's own start.
    boot: String,
}

impl ProcessId {
    /// The process that has a number now.
    pub(super) fn of(number: u32) -> Option<Self> {
        Some(Self {
            number,
            started: started(&fs::read_to_string(format!("/proc/{number}/stat")).ok()?)?,
            boot: boot(),
        })
    }

    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Whether it runs.
    pub(super) fn is_alive(&self) -> bool {
        Self::of(self.number).as_ref() == Some(self)
    }

    /// Kills it.
    pub(super) fn kill(&self) {
        let Some(handle) = handle(self.number) else { return };
        // The handle is of whoever has the number: looked at once more, it can be nobody else.
        if self.is_alive() {
            let _ = pidfd_send_signal(handle, Signal::KILL);
        }
    }
}

/// Kills the process that has a number now.
pub(super) fn kill(number: u32) {
    if let Some(handle) = handle(number) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

fn handle(number: u32) -> Option<rustix::fd::OwnedFd> {
    let number = Pid::from_raw(i32::try_from(number).ok()?)?;
    pidfd_open(number, PidfdFlags::empty()).ok()
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Field 22 of `/proc/PID/stat`; `None` also for a process that has ended and was not waited for (proc_pid_stat(5)).
fn started(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_with_its_number() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        let earlier = ProcessId {
            started: own.started - 1,
            ..own.clone()
        };
        assert!(!earlier.is_alive());
        let of_another_boot = ProcessId {
            boot: "x".to_owned(),
            ..own
        };
        assert!(!of_another_boot.is_alive());
        assert_eq!(started("7 (a) b) Z 1 2"), None);
    }
}
