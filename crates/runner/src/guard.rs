//! Looks after the limits that the kernel does not keep by itself, and stops a run that reaches one.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use terrapool_model::time::Millis;
use terrapool_protocol::job::{FailureReason, Limit, Limits, Phase, Usage};
use terrapool_protocol::runner::{FromRunner, StopKind};

use crate::error::Failure;
use crate::shared::{Cause, Shared};
use crate::usage::ControlGroup;

/// How often memory and time are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often is told what the job has used: first after the first time, then after the second one each.
const TELL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));

/// How often disk use is counted, at most; counting takes at most a twentieth of the time.
const COUNT: Duration = Duration::from_secs(2);

/// Part of the memory that an engine may fill: what is left is for writing the state, in percent.
const SOFT_MEMORY: u64 = 80;

const MIB: u64 = 1 << 20;

/// Where a limit is raised.
pub fn raise(limit: Limit) -> String {
    format!(
        "Raise `{}` of the workspace, or of its pool's sandboxes",
        limit.setting()
    )
}

/// Looks after the limits of a job until it has ended.
#[derive(Debug)]
pub struct Guard {
    shared: Arc<Shared>,
    group: ControlGroup,
    limits: Limits,
    phase: Phase,
    begin: Instant,
    /// When what was used is told next, after the beginning.
    tell: Duration,
    disk: Disk,
}

impl Guard {
    /// For a job that begins now.
    pub fn start(shared: &Arc<Shared>, group: ControlGroup, limits: Limits, phase: Phase) {
        let paths = &shared.paths;
        let mut folders = vec![paths.work.clone(), paths.state.clone(), paths.job.clone()];
        // Nobody else can write to the root of a sandbox.
        if shared.children.is_init() && rustix::process::geteuid().is_root() {
            folders.push("/".into());
        }
        let (shared, begin) = (Arc::clone(shared), Instant::now());
        thread::spawn(move || {
            let mut guard = Self {
                shared,
                group,
                limits,
                phase,
                begin,
                tell: TELL.0,
                disk: Disk::of(folders),
            };
            while guard.look() {
                thread::sleep(LOOK);
            }
        });
    }

    /// Looks once. Answers whether to look again.
    fn look(&mut self) -> bool {
        let (running, last_output, stopping) = {
            let status = self.shared.status();
            if status.finished.is_some() || status.released {
                return false;
            }
            (
                status.started && status.process.is_some(),
                status.last_output,
                status.stop.is_some(),
            )
        };
        let elapsed = self.begin.elapsed();
        self.group
            .look(Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)));
        if elapsed >= self.tell {
            self.tell = elapsed + TELL.1;
            self.tell();
        }
        // What is being stopped has no limit to reach any more; how its memory goes on is still told.
        if stopping {
            return true;
        }
        let reached = self
            .time()
            .or_else(|| self.silence(running, last_output))
            .or_else(|| self.memory(running))
            .or_else(|| self.disk());
        let Some(message) = reached else { return true };
        let failure = Failure::new(FailureReason::Limit, message);
        self.shared.request_stop(StopKind::Cancel, Cause::Limit(failure));
        true
    }

    /// Has told what the job has used so far.
    fn tell(&self) {
        let (peak, cpu, memory) = (self.group.peak_memory(), self.group.cpu_ms(), self.group.curve());
        let mut status = self.shared.status();
        let usage = Usage {
            peak_memory_bytes: peak,
            cpu_ms: cpu,
            init_ms: status.init_ms,
            ..Usage::default()
        };
        status.progress = Some(FromRunner::Progress { usage, memory });
        drop(status);
        self.shared.outgoing();
    }

    fn time(&self) -> Option<String> {
        let most = self.limits.seconds(self.phase);
        let limit = match self.phase {
            Phase::Plan => Limit::PlanTime,
            Phase::Apply => Limit::ApplyTime,
        };
        (self.begin.elapsed() >= Duration::from_secs(most)).then(|| {
            format!(
                "The {} was stopped: it took longer than the {most} s that are allowed. {}.",
                self.phase.as_str(),
                raise(limit)
            )
        })
    }

    fn silence(&self, running: bool, last_output: Option<Instant>) -> Option<String> {
        let most = self.limits.silence_seconds?;
        let since = last_output.unwrap_or(self.begin).elapsed();
        (running && since >= Duration::from_secs(most)).then(|| {
            format!(
                "The {} was stopped: it printed nothing for the {most} s that are allowed. {}.",
                self.phase.as_str(),
                raise(Limit::Silence)
            )
        })
    }

    fn memory(&self, running: bool) -> Option<String> {
        let limit = self.limits.memory_mb;
        let used = self.group.anonymous_memory().filter(|_| running)?;
        (used >= limit * MIB / 100 * SOFT_MEMORY).then(|| {
            format!(
                "The {} was stopped so that its state could be written: it used {} MiB, which is {SOFT_MEMORY} % of its \
                 {limit} MiB of memory. {}.",
                self.phase.as_str(),
                used / MIB,
                raise(Limit::Memory)
            )
        })
    }

    fn disk(&mut self) -> Option<String> {
        let limit = self.limits.disk_mb;
        let used = self.disk.look()?;
        (used >= limit * MIB).then(|| {
            format!(
                "The {} was stopped: it used {} MiB of disk, of the {limit} MiB that are allowed. {}.",
                self.phase.as_str(),
                used / MIB,
                raise(Limit::Disk)
            )
        })
    }
}

/// How much the folders of a sandbox have grown.
#[derive(Debug)]
struct Disk {
    folders: Vec<PathBuf>,
    before: u64,
    next: Instant,
}

impl Disk {
    fn of(folders: Vec<PathBuf>) -> Self {
        let mut disk = Self {
            folders,
            before: 0,
            next: Instant::now(),
        };
        // Only what is in the root of the image was there before.
        disk.before = match disk.folders.last() {
            Some(root) if root == Path::new("/") => size(std::slice::from_ref(root)),
            _ => 0,
        };
        disk
    }

    /// Bytes in use; `None` when it is not time to look.
    fn look(&mut self) -> Option<u64> {
        let now = Instant::now();
        if now < self.next {
            return None;
        }
        let used = size(&self.folders).saturating_sub(self.before);
        self.next = Instant::now() + COUNT.max(now.elapsed() * 20);
        Some(used)
    }
}

/// Bytes on disk below folders, without what is mounted below them. What vanishes meanwhile does not count.
fn size(folders: &[PathBuf]) -> u64 {
    let mut total = 0;
    let mut links = HashSet::new();
    for root in folders {
        let Ok(device) = fs::symlink_metadata(root).map(|metadata| metadata.dev()) else {
            continue;
        };
        let mut todo = vec![root.clone()];
        while let Some(folder) = todo.pop() {
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_dir() {
                    if metadata.dev() == device {
                        todo.push(entry.path());
                    }
                } else if metadata.nlink() == 1 || links.insert((metadata.dev(), metadata.ino())) {
                    total += metadata.blocks() * 512;
                }
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_once_and_by_what_they_take() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(below.join("file"), folder.path().join("same")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("elsewhere")).unwrap();
        let sparse = fs::File::create(below.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let found = size(&[folder.path().to_owned()]);
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&found), "{found}");
    }

    #[test]
    fn who_reaches_a_limit_is_told_how_to_raise_it() {
        assert_eq!(
            raise(Limit::Memory),
            "Raise `memory-mb` of the workspace, or of its pool's sandboxes"
        );
    }
}
