//! Looks after the limits that the kernel does not keep by itself, and stops a run that reaches one.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
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
            folders.push(paths.changes.clone());
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
        let used = match self.disk.look()? {
            Ok(used) => used,
            Err(folder) => {
                return Some(format!(
                    "The {} was stopped: what is in its folder {} cannot be counted, so nobody knows whether it is more than \
                     the {limit} MiB of disk that are allowed. Leave folders readable, and their paths shorter than 4096 \
                     bytes.",
                    self.phase.as_str(),
                    cut(&folder)
                ));
            }
        };
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
            Some(root) if root == Path::new("/") => size(std::slice::from_ref(root)).unwrap_or(0),
            _ => 0,
        };
        disk
    }

    /// Bytes in use, or a folder that cannot be counted; `None` when it is not time to look.
    fn look(&mut self) -> Option<Result<u64, PathBuf>> {
        let now = Instant::now();
        if now < self.next {
            return None;
        }
        let used = size(&self.folders).map(|used| used.saturating_sub(self.before));
        self.next = Instant::now() + COUNT.max(now.elapsed() * 20);
        Some(used)
    }
}

/// What everything that has a name counts for at least, in bytes: empty files take room too.
const ENTRY: u64 = 4096;

/// Bytes on disk below folders, without what is mounted below them. What vanishes meanwhile does not count. Folders of this
/// user that are closed are opened.
///
/// # Errors
/// A folder that hides what is in it.
fn size(folders: &[PathBuf]) -> Result<u64, PathBuf> {
    let mut total = 0;
    let mut links = HashSet::new();
    for root in folders {
        let Ok(device) = fs::symlink_metadata(root).map(|metadata| metadata.dev()) else {
            continue;
        };
        let mut todo = vec![root.clone()];
        while let Some(folder) = todo.pop() {
            let entries = match open(&folder) {
                Ok(entries) => entries,
                Err(error) if hides(&folder, &error) => return Err(folder),
                Err(_) => continue,
            };
            for entry in entries.flatten() {
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(error) if hides(&folder, &error) => return Err(folder),
                    Err(_) => continue,
                };
                if metadata.is_dir() {
                    if metadata.dev() == device {
                        total += ENTRY.max(metadata.blocks() * 512);
                        todo.push(entry.path());
                    }
                } else if metadata.nlink() == 1 || links.insert((metadata.dev(), metadata.ino())) {
                    total += ENTRY.max(metadata.blocks() * 512);
                }
            }
        }
    }
    Ok(total)
}

/// What its owner needs to list a folder, and to look at what is in it.
const OPEN: u32 = 0o500;

fn open(folder: &Path) -> io::Result<fs::ReadDir> {
    let metadata = fs::symlink_metadata(folder)?;
    if metadata.mode() & OPEN != OPEN {
        // Refused where it is another user's.
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(metadata.mode() | OPEN));
    }
    fs::read_dir(folder)
}

/// Whether a folder that cannot be listed, though it was opened just now, may be one in which the job hides something.
fn hides(folder: &Path, error: &io::Error) -> bool {
    match error.kind() {
        // Others' folders are of the image, or of the host. Who closes one all the time closes those below as well.
        io::ErrorKind::PermissionDenied => match fs::symlink_metadata(folder) {
            Ok(metadata) => metadata.uid() == rustix::process::geteuid().as_raw(),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        },
        // Whoever goes down step by step makes longer paths than the kernel takes.
        io::ErrorKind::InvalidFilename => true,
        _ => false,
    }
}

/// The path of a folder, as much as fits into a message.
fn cut(folder: &Path) -> String {
    let text = folder.display().to_string();
    if text.chars().count() <= 200 {
        return text;
    }
    text.chars().take(200).chain("…".chars()).collect()
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
        let found = size(&[folder.path().to_owned()]).unwrap();
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&found), "{found}");
    }

    #[test]
    fn empty_files_and_folders_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..100 {
            fs::write(folder.path().join(format!("file-{number}")), "").unwrap();
            fs::create_dir(folder.path().join(format!("folder-{number}"))).unwrap();
        }
        let found = size(&[folder.path().to_owned()]).unwrap();
        assert!((200 * ENTRY..300 * ENTRY).contains(&found), "{found}");
    }

    #[test]
    fn a_closed_folder_is_opened_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        let below = closed.join("below");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("file"), vec![1; 1 << 20]).unwrap();
        for path in [&below, &closed] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }
        let found = size(&[folder.path().to_owned()]).unwrap();
        assert!(found > 1 << 20, "{found}");
        // Also where this test may look into everything.
        assert_eq!(fs::metadata(&below).unwrap().mode() & 0o777, OPEN);
    }

    #[test]
    fn a_folder_below_a_path_that_is_too_long_hides_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let name = "n".repeat(250);
        let flags = rustix::fs::OFlags::DIRECTORY;
        let mode = rustix::fs::Mode::from_raw_mode(0o700);
        let mut at = rustix::fs::open(folder.path(), flags, mode).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&at, &name, mode).unwrap();
            at = rustix::fs::openat(&at, &name, flags, mode).unwrap();
        }
        let hidden = size(&[folder.path().to_owned()]).unwrap_err();
        assert!(hidden.starts_with(folder.path().join(name)));
        assert!(cut(&hidden).ends_with('…'));
    }

    #[test]
    fn who_reaches_a_limit_is_told_how_to_raise_it() {
        assert_eq!(
            raise(Limit::Memory),
            "Raise `memory-mb` of the workspace, or of its pool's sandboxes"
        );
    }
}
