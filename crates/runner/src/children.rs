//! Starting processes, waiting for them, and reaping what nobody waits for.
//!
//! As PID 1 every orphan of the sandbox becomes our child. One thread then does all reaping and hands the exit of the
//! processes that we started to whoever waits for them. Elsewhere (in tests) only our own processes are waited for, so
//! that children of other threads are left alone.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use crate::shared::Shared;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, when it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl From<WaitStatus> for Exit {
    fn from(status: WaitStatus) -> Self {
        Self {
            code: status.exit_status(),
            signal: status.terminating_signal(),
        }
    }
}

/// The processes that the runner started.
#[derive(Debug)]
pub struct Children {
    init: bool,
    /// Processes somebody will wait for, with their exit once it is known. Only used as PID 1.
    known: Mutex<HashMap<Pid, Option<Exit>>>,
    changed: Condvar,
}

impl Children {
    /// `init` tells whether this process is PID 1.
    pub fn new(init: bool) -> Self {
        Self {
            init,
            known: Mutex::new(HashMap::new()),
            changed: Condvar::new(),
        }
    }

    /// Whether this process is PID 1.
    pub fn is_init(&self) -> bool {
        self.init
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Pid, Option<Exit>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process, which has to be waited for with [`Self::wait`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Pid> {
        // The lock keeps the reaper from taking the exit before the process is known.
        let mut known = self.known();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the kernel gave no process id"))?;
        if self.init {
            known.insert(pid, None);
            self.changed.notify_all();
        }
        Ok(pid)
    }

    /// Waits for the end of a process that [`Self::spawn`] started.
    pub fn wait(&self, pid: Pid) -> Exit {
        if self.init {
            let mut known = self.known();
            loop {
                if let Some(Some(exit)) = known.get(&pid).copied() {
                    known.remove(&pid);
                    return exit;
                }
                known = self.changed.wait(known).unwrap_or_else(PoisonError::into_inner);
            }
        }
        loop {
            match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => return status.into(),
                Ok(None) | Err(Errno::INTR) => {}
                Err(_) => {
                    return Exit {
                        code: None,
                        signal: None,
                    };
                }
            }
        }
    }

    /// Reaps for the rest of the process's life. Only for PID 1.
    pub fn reap(&self) {
        loop {
            // Look first and take later, under the lock: starting a process may have to reap it itself.
            let seen = rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut known = self.known();
            if matches!(seen, Err(Errno::CHILD)) {
                // Without children there can be no orphans before the next start of a process.
                if !known.values().any(Option::is_none) {
                    drop(self.changed.wait(known).unwrap_or_else(PoisonError::into_inner));
                }
                continue;
            }
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                if let Some(slot) = known.get_mut(&pid) {
                    *slot = Some(status.into());
                }
            }
            self.changed.notify_all();
        }
    }
}

/// Starts the reaping thread when this process is PID 1.
pub fn start_reaper(shared: &Arc<Shared>) {
    if shared.children.is_init() {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || shared.children.reap());
    }
}

/// Kills the engine with everything that it left behind. As PID 1 that is every process of the sandbox that was started
/// in it; else the engine's process group.
pub fn kill_everything(shared: &Shared, engine: Option<Pid>) {
    if !shared.children.is_init() {
        if let Some(group) = engine {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        return;
    }
    // New processes may appear while one goes through the list, so until none is left.
    for _ in 0..64 {
        let Ok(targets) = living() else { break };
        if targets.is_empty() {
            return;
        }
        for pid in targets {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        std::thread::yield_now();
    }
    // Something multiplies faster than it dies, or there is no /proc: all at once, the agent's connection included,
    // which the agent makes anew. `kill(-1)` is what the group of PID 1 means.
    let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
}

/// Processes of this namespace that are not dead yet and were started in it. Those that came in from outside, as the
/// one that carries the agent's connection, have a parent outside, which shows as 0; nothing in here can have that.
fn living() -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else {
            continue;
        };
        // State and parent stand behind the name, which is in parentheses and may hold any character.
        let mut fields = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace();
        let (state, parent) = (fields.next(), fields.next());
        let dead = matches!(state, Some("Z" | "X") | None);
        if !dead && parent != Some("0") {
            found.push(pid);
        }
    }
    Ok(found)
}
