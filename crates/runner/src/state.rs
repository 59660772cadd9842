//! The state while applying: every document that the engine writes is copied, before anything can happen to it.
//!
//! The engine writes in place (truncate, write), so a reader sees a whole document or the beginning of one. The file is
//! read through a descriptor that was opened before the engine started, which survives its removal. A document counts
//! when it can be parsed; one that does not end in a line end might still be growing and is looked at once more.
//!
//! The engine shares its processor and its disk with this. So a copy that is not sent yet is only written: it is parsed
//! and its digest computed when it is announced to the sender, and a newer one takes its place until then.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify;
use serde::Deserialize;
use terrapool_protocol::job::StateMark;

use crate::archive::Fingerprint;
use crate::bundle::StateFile;
use crate::digest;
use crate::error::Failure;
use crate::shared::{Shared, StateCopy};

/// How long a document without a line end has to stay as it is to count as whole.
const SETTLED: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// How long after it was made a copy, or a newer one, is on the disk at the latest. Whatever happens to processes, each
/// copy counts at once; only a machine that loses its power forgets those that are younger. The engine syncs its own file
/// at each write, and as many syncs of ours again would slow it down.
const SYNC_WITHIN: Duration = Duration::from_millis(250);

/// Least time between two copies that are announced while the engine runs: an engine that makes many resources at once
/// writes a state for each of them, and each one that is sent costs the agent and the control plane work and disk.
const ANNOUNCE_EACH: Duration = Duration::from_millis(200);

/// How an indented document ends. In one only the last brace stands at the beginning of a line, and texts of JSON have
/// no line ends, so what ends so is whole.
const END: &[u8] = b"\n}\n";

/// Where the engine leaves a state that it could not save, in the folder it runs in.
pub(crate) const ERRORED: &str = "errored.tfstate";

/// Reads what there is to read of a state document. `None` when it is not a whole JSON object.
pub fn mark(bytes: &[u8]) -> Option<StateMark> {
    #[derive(Deserialize)]
    struct Document {
        serial: Option<u64>,
        lineage: Option<String>,
    }
    let document: Document = serde_json::from_slice(bytes).ok()?;
    Some(StateMark {
        serial: document.serial,
        lineage: document.lineage,
        sha256: digest::of(bytes),
        size: bytes.len() as u64,
    })
}

/// Watches the state file in a thread of its own.
#[derive(Debug)]
pub struct StateWatcher {
    thread: JoinHandle<Copier>,
    /// Dropping it ends the thread.
    stop: PipeWriter,
    errored: PathBuf,
    /// An `errored.tfstate` that was there before the engine started says nothing.
    errored_before: Option<Fingerprint>,
    path: PathBuf,
}

/// Makes copies and hands them to the sender.
#[derive(Debug)]
struct Copier {
    shared: Arc<Shared>,
    file: Arc<File>,
    /// What the job started from, then the newest document that was announced.
    newest: Option<StateMark>,
    /// A newer copy.
    unannounced: Option<CopyFile>,
    /// The file of a copy that a newer one has replaced, emptied: the next copy needs no new one.
    spare: Option<CopyFile>,
    /// When a copy was announced last.
    announced_at: Option<Instant>,
    /// The newest document: the one before the engine started, then what was copied last.
    seen: Vec<u8>,
    /// A copy of the document that was there before the engine started.
    initial: Option<PathBuf>,
    buffer: Vec<u8>,
    counter: u64,
    /// When the newest copy has to be on the disk, while it may not be.
    sync_due: Option<Instant>,
}

/// A file for copies that is held open.
#[derive(Debug)]
struct CopyFile {
    path: PathBuf,
    file: File,
}

impl StateWatcher {
    /// Begins to watch. `folder` is where the engine will run.
    ///
    /// # Errors
    /// A [`Failure`] when the state cannot be read or watched.
    pub fn start(shared: &Arc<Shared>, state: &StateFile, folder: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("watch the state file", &state.path, &error);
        let mut copier = Copier {
            shared: Arc::clone(shared),
            file: Arc::clone(&state.file),
            newest: None,
            unannounced: None,
            spare: None,
            announced_at: None,
            seen: Vec::new(),
            initial: None,
            buffer: Vec::new(),
            counter: 0,
            sync_due: None,
        };
        copier.read().map_err(failed)?;
        copier.newest = mark(&copier.buffer);
        if copier.newest.is_some() {
            // Only needed when the engine tears the file without ever completing it.
            let path = shared.paths.state_copies().join("0.tfstate");
            fs::write(&path, &copier.buffer).map_err(failed)?;
            copier.initial = Some(path);
            copier.seen.clone_from(&copier.buffer);
        }
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .and_then(|watch| {
                let events = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CLOSE_WRITE;
                inotify::add_watch(&watch, &state.path, events)?;
                Ok(watch)
            })
            .map_err(|error| failed(error.into()))?;
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let errored = folder.join(ERRORED);
        Ok(Self {
            thread: std::thread::spawn(move || {
                copier.watch(&watch, &stopped);
                copier
            }),
            stop,
            errored_before: fingerprint(&errored),
            errored,
            path: state.path.clone(),
        })
    }

    /// The engine has ended: finds the newest state among the file, a file that was put in its place, what the engine
    /// left because it could not save, and what it printed; makes sure that it is sent, and names it.
    pub fn finish(self, dump: Option<Vec<u8>>) -> Option<StateMark> {
        drop(self.stop);
        let mut copier = self.thread.join().ok()?;
        let _ = copier.look(true);
        copier.announce_newest();
        let mut others = Vec::new();
        let replaced = match (copier.file.metadata(), fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) != (there.dev(), there.ino()),
            _ => false,
        };
        if replaced {
            others.extend(fs::read(&self.path).ok());
        }
        let errored_now = fingerprint(&self.errored);
        if errored_now.is_some() && errored_now != self.errored_before {
            others.extend(fs::read(&self.errored).ok());
        }
        others.extend(dump);
        for document in others {
            copier.offer(&document);
        }
        copier.conclude();
        copier.newest
    }
}

fn fingerprint(path: &Path) -> Option<Fingerprint> {
    fs::symlink_metadata(path)
        .ok()
        .filter(fs::Metadata::is_file)
        .map(|metadata| Fingerprint::of(&metadata))
}

impl Copier {
    fn watch(&mut self, watch: &OwnedFd, stopped: &PipeReader) {
        let mut events = [MaybeUninit::uninit(); 4096];
        let mut settling = false;
        loop {
            let mut sources = [
                PollFd::new(watch, PollFlags::IN),
                PollFd::new(stopped, PollFlags::IN),
            ];
            let timeout = self.patience(settling);
            if let Err(error) = poll(&mut sources, timeout.as_ref())
                && error != rustix::io::Errno::INTR
            {
                return;
            }
            let changed = !sources[0].revents().is_empty();
            if !sources[1].revents().is_empty() {
                return;
            }
            let mut reader = inotify::Reader::new(watch, &mut events);
            while reader.next().is_ok() {}
            if changed || settling {
                settling = self.look(settling && !changed);
            }
            let now = Instant::now();
            if self.announced_in(now).is_some_and(|left| left.is_zero()) {
                self.announce_newest();
            }
            if self.synced_in(now).is_some_and(|left| left.is_zero()) {
                self.sync();
            }
        }
    }

    /// How long to wait for the next change; `None` when nothing else is to be done.
    fn patience(&self, settling: bool) -> Option<Timespec> {
        let now = Instant::now();
        let left = self
            .synced_in(now)
            .into_iter()
            .chain(self.announced_in(now))
            .min();
        let until_due = left.map(|left| Timespec {
            tv_sec: 0,
            // A whole millisecond more: a timeout that is cut down would end just before the time.
            tv_nsec: (left + Duration::from_millis(1)).subsec_nanos().into(),
        });
        let until_settled = settling.then_some(SETTLED);
        until_due
            .into_iter()
            .chain(until_settled)
            .min_by_key(|time| time.tv_nsec)
    }

    /// Puts the newest copy on the disk.
    fn sync(&mut self) {
        self.sync_due = None;
        let announced = || self.shared.status().state.as_ref().map(|copy| copy.path.clone());
        let copied = self.unannounced.as_ref().map(|copy| copy.path.clone());
        let Some(path) = copied.or_else(announced) else {
            return;
        };
        let folder = path
            .parent()
            .map_or_else(|| self.shared.paths.state_copies(), Path::to_owned);
        // A disk that fails to sync shows itself to the engine too, which says so.
        let _ = File::open(&path).and_then(|file| file.sync_data());
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }

    /// Reads the file through the descriptor into the buffer.
    fn read(&mut self) -> io::Result<()> {
        let size = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        self.buffer.clear();
        self.buffer.resize(size, 0);
        let mut filled = 0;
        while filled < self.buffer.len() {
            match self.file.read_at(&mut self.buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(filled);
        Ok(())
    }

    /// Copies the document when it is a new one. Answers whether it has to be looked at again because it may not be
    /// whole; with `settled` it is taken as it is.
    fn look(&mut self, settled: bool) -> bool {
        if self.read().is_err() || self.buffer.is_empty() {
            return false;
        }
        if !self.buffer.ends_with(END) {
            if !settled && self.buffer.last() != Some(&b'\n') {
                return self.buffer.last() == Some(&b'}');
            }
            if mark(&self.buffer).is_none() {
                return false;
            }
        }
        // One write is seen more than once.
        if self.seen == self.buffer {
            return false;
        }
        let document = std::mem::take(&mut self.buffer);
        let copy = self.copy(&document);
        self.buffer = document;
        if let Some(copy) = copy {
            std::mem::swap(&mut self.seen, &mut self.buffer);
            self.spare = self.unannounced.replace(copy);
            // Of two whole copies that are equally old, the older one might be taken for the newest.
            if let Some(spare) = &self.spare
                && spare.file.set_len(0).is_err()
            {
                self.drop_spare();
            }
            self.sync_due.get_or_insert_with(|| Instant::now() + SYNC_WITHIN);
        }
        false
    }

    /// How long the newest copy waits until it is announced, unless it is.
    fn announced_in(&self, now: Instant) -> Option<Duration> {
        self.unannounced.as_ref()?;
        let due = self.announced_at.map(|last| last + ANNOUNCE_EACH);
        Some(due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now)))
    }

    /// How long the newest copy may not be on the disk yet, unless it is.
    fn synced_in(&self, now: Instant) -> Option<Duration> {
        Some(self.sync_due?.saturating_duration_since(now))
    }

    /// Hands the newest copy to the sender.
    fn announce_newest(&mut self) {
        let Some(CopyFile { path, .. }) = self.unannounced.take() else {
            return;
        };
        match mark(&self.seen) {
            Some(found)
                if self
                    .newest
                    .as_ref()
                    .is_none_or(|newest| newest.sha256 != found.sha256) =>
            {
                self.announced_at = Some(Instant::now());
                self.announce(found, path);
            }
            // The same document again, or a part of one that nobody writes so.
            Some(_) | None => {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// A document from elsewhere: it counts when it belongs to the same state and is newer.
    fn offer(&mut self, document: &[u8]) {
        let Some(found) = mark(document) else { return };
        let newer = match &self.newest {
            None => true,
            Some(newest) => {
                let related = newest.lineage.is_none() || newest.lineage == found.lineage;
                related && found.sha256 != newest.sha256 && found.serial >= newest.serial
            }
        };
        if newer && let Some(copy) = self.copy(document) {
            self.announce(found, copy.path);
            self.sync();
        }
    }

    /// The state that the job started from is the newest one when nothing was written; it too has to be sent.
    fn conclude(&mut self) {
        if self.shared.status().state.is_none()
            && let (Some(newest), Some(path)) = (self.newest.clone(), self.initial.take())
        {
            self.announce(newest, path);
        }
    }

    /// Writes a copy. While it is being written only the beginning of a document is there, which nobody takes for one.
    fn copy(&mut self, document: &[u8]) -> Option<CopyFile> {
        if let Some(spare) = self.spare.take() {
            if spare.file.write_all_at(document, 0).is_ok() {
                return Some(spare);
            }
            let _ = fs::remove_file(spare.path);
        }
        let name = format!("{}.tfstate", self.counter + 1);
        let paths = &self.shared.paths;
        // A job volume that is full is no reason to lose a state: the state volume is another one.
        let copy = [paths.state_copies(), paths.state.clone()]
            .into_iter()
            .map(|folder| folder.join(&name))
            .find_map(|path| match write(&path, document) {
                Ok(file) => Some(CopyFile { path, file }),
                Err(_) => {
                    let _ = fs::remove_file(path);
                    None
                }
            })?;
        self.counter += 1;
        Some(copy)
    }

    fn drop_spare(&mut self) {
        if let Some(spare) = self.spare.take() {
            let _ = fs::remove_file(spare.path);
        }
    }

    fn announce(&mut self, mark: StateMark, path: PathBuf) {
        self.newest = Some(mark.clone());
        let previous = self
            .shared
            .change(|status| status.state.replace(StateCopy { mark, path }));
        // A sender that has it open reads it to its end.
        if let Some(previous) = previous {
            let _ = fs::remove_file(previous.path);
        }
    }
}

fn write(path: &Path, document: &[u8]) -> io::Result<File> {
    let file = File::create(path)?;
    file.write_all_at(document, 0)?;
    Ok(file)
}

/// Opens a state copy for sending. `None` when a newer one has replaced it.
pub fn open(copy: &StateCopy) -> Option<File> {
    File::open(&copy.path).ok()
}

#[cfg(test)]
mod tests {
    use super::mark;

    #[test]
    fn clear_and_encrypted_states_are_told_from_torn_ones() {
        let clear = br#"{"version":4,"serial":7,"lineage":"a-b","resources":[]}"#;
        let found = mark(clear).unwrap();
        assert_eq!((found.serial, found.lineage.as_deref()), (Some(7), Some("a-b")));
        let encrypted =
            br#"{"serial":8,"lineage":"c","meta":{},"encrypted_data":"eA==","encryption_version":"v0"}"#;
        assert_eq!(mark(encrypted).unwrap().serial, Some(8));
        assert_eq!(mark(&clear[..20]), None);
        assert_eq!(mark(b""), None);
    }
}
