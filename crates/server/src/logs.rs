//! Log bytes on disk: one file for each log of a plan or apply.
//!
//! A file begins with STX and, once its phase is over, ends with ETX; both belong to the control plane and are not
//! counted in agents' offsets. When a plan is made again by another attempt, its output follows in the same file as
//! another section. What an attempt delivers after the end, or after another attempt took over, lies in a file of its
//! own beside it; a sealed file never changes.
//!
//! Appends are visible at once and durable a quarter of a second later, or when somebody asks for it.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use terrapool_model::id::AttemptId;
use terrapool_protocol::agent::LogPosition;
use tokio::sync::Notify;

mod reading;

/// First byte of every log.
pub const STX: u8 = 0x02;
/// Last byte of a log whose phase is over.
pub const ETX: u8 = 0x03;

/// How long appends wait for others before they are made durable together.
const BATCH: Duration = Duration::from_millis(250);

/// A log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The append begins behind what was received.
    #[error("the append begins behind the {} bytes that were received", .0.received)]
    Ahead(LogPosition),
    /// The id is none.
    #[error("`{0}` is no id of a log")]
    InvalidId(String),
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl LogError {
    /// Whether the disk is full.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io { action, path, source }
}

/// The line before what another attempt writes into a log, when the one before was lost.
pub const ANEW: &str = "The agent was lost; another one starts again.";

/// Who appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// Whether the job is still this attempt's. What others deliver is kept apart.
    pub holds_job: bool,
}

/// How far a whole log has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// How far.
    pub position: LogPosition,
    /// SHA-256 of what was received, lower-case hex.
    pub sha256: String,
}

/// The log store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    open: Mutex<HashMap<String, Arc<Mutex<Log>>>>,
    dirty: Mutex<HashSet<String>>,
    wake: Notify,
}

/// What one attempt wrote into the log's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Section {
    generation: u64,
    attempt: AttemptId,
    start: u64,
    /// Behind its last byte, once another section follows or the log is sealed.
    end: Option<u64>,
}

/// The sections, beside the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Index {
    sections: Vec<Section>,
    /// Bytes of the whole file with its end mark.
    sealed: Option<u64>,
}

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Arc<File>,
    length: u64,
    durable: u64,
    index: Index,
    /// Of the bytes of the last section.
    digest: Sha256,
    /// What attempts deliver that do not hold the job, by assignment.
    apart: HashMap<(u64, String), Apart>,
}

/// A file of its own, for an attempt that does not hold the job any more.
#[derive(Debug)]
struct Apart {
    file: Arc<File>,
    /// Bytes of the attempt that lie in the log itself.
    before: u64,
    length: u64,
    durable: u64,
    digest: Sha256,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while appending leaves at most a shorter log than counted; the next open counts anew.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LogStore {
    /// Opens the folder, and makes it where it is missing.
    ///
    /// # Errors
    /// [`LogError::Io`] when it cannot be made.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        std::fs::create_dir_all(folder).map_err(io("creating", folder))?;
        Ok(Self {
            inner: Arc::new(Inner {
                folder: folder.to_owned(),
                open: Mutex::default(),
                dirty: Mutex::default(),
                wake: Notify::new(),
            }),
        })
    }

    fn path(&self, id: &str) -> Result<PathBuf, LogError> {
        let plain = !id.is_empty()
            && id.len() <= 80
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain {
            Ok(self.inner.folder.join(id))
        } else {
            Err(LogError::InvalidId(id.to_owned()))
        }
    }

    fn log(&self, id: &str) -> Result<Arc<Mutex<Log>>, LogError> {
        let path = self.path(id)?;
        let mut open = lock(&self.inner.open);
        if let Some(log) = open.get(id) {
            return Ok(Arc::clone(log));
        }
        let log = Arc::new(Mutex::new(Log::open(&path)?));
        open.insert(id.to_owned(), Arc::clone(&log));
        Ok(log)
    }

    /// Begins a log: readers see that its phase has started.
    ///
    /// # Errors
    /// [`LogError`] when the file cannot be written.
    pub fn begin(&self, id: &str) -> Result<(), LogError> {
        self.log(id).map(|_| ())
    }

    /// Appends bytes at an offset of the attempt's own log. Bytes that were received before are passed over.
    ///
    /// # Errors
    /// [`LogError::Ahead`] when bytes before the offset are missing.
    pub fn append(
        &self,
        id: &str,
        writer: &Writer,
        offset: u64,
        bytes: &[u8],
    ) -> Result<LogPosition, LogError> {
        let log = self.log(id)?;
        let position = lock(&log).append(writer, offset, bytes)?;
        if position.durable < position.received {
            lock(&self.inner.dirty).insert(id.to_owned());
            self.inner.wake.notify_one();
        }
        Ok(position)
    }

    /// Makes everything durable that was received, and tells how far the attempt's log has come.
    ///
    /// # Errors
    /// [`LogError::Io`] when the disk refuses.
    pub async fn complete(&self, id: &str, writer: &Writer) -> Result<Completion, LogError> {
        let log = self.log(id)?;
        sync(&log).await?;
        lock(&log).completion(writer)
    }

    /// Ends a log: nothing is added to it any more. Returns the bytes of the whole file. Repeating it is harmless.
    ///
    /// # Errors
    /// [`LogError::Io`] when the disk refuses.
    pub async fn seal(&self, id: &str) -> Result<u64, LogError> {
        let log = self.log(id)?;
        let size = lock(&log).seal()?;
        sync(&log).await?;
        Ok(size)
    }

    /// Makes appends durable, a batch at a time. Never ends.
    pub async fn sync_forever(&self) {
        loop {
            self.inner.wake.notified().await;
            tokio::time::sleep(BATCH).await;
            let dirty: Vec<String> = lock(&self.inner.dirty).drain().collect();
            for id in dirty {
                let synced = match self.log(&id) {
                    Ok(log) => sync(&log).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = synced {
                    tracing::error!(
                        log = id,
                        error = &error as &dyn std::error::Error,
                        "a log is not durable"
                    );
                    lock(&self.inner.dirty).insert(id);
                    self.inner.wake.notify_one();
                }
            }
        }
    }
}

/// Makes durable what a log holds now. Appends go on meanwhile.
async fn sync(log: &Arc<Mutex<Log>>) -> Result<(), LogError> {
    let (path, mut pending) = {
        let log = lock(log);
        let mut pending = Vec::new();
        if log.durable < log.length {
            pending.push((None, Arc::clone(&log.file), log.length));
        }
        for (key, apart) in &log.apart {
            if apart.durable < apart.length {
                pending.push((Some(key.clone()), Arc::clone(&apart.file), apart.length));
            }
        }
        (log.path.clone(), pending)
    };
    if pending.is_empty() {
        return Ok(());
    }
    let work = move || -> std::io::Result<Vec<_>> {
        for (_, file, _) in &pending {
            file.sync_data()?;
        }
        Ok(std::mem::take(&mut pending))
    };
    let synced = tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::other("the task ended early")))
        .map_err(io("syncing", &path))?;
    let mut log = lock(log);
    for (key, _, length) in synced {
        match key {
            None => log.durable = log.durable.max(length),
            Some(key) => {
                if let Some(apart) = log.apart.get_mut(&key) {
                    apart.durable = apart.durable.max(length);
                }
            }
        }
    }
    Ok(())
}

fn hex(digest: Sha256) -> String {
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// SHA-256 over a part of a file.
fn digest_of(file: &File, from: u64, to: u64) -> std::io::Result<Sha256> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..want], at)?;
        if count == 0 {
            break;
        }
        digest.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(digest)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Where an attempt's bytes lie that came when it did not hold the job any more.
fn apart_path(log: &Path, generation: u64, attempt: &AttemptId) -> PathBuf {
    with_suffix(log, &format!(".{generation}.{attempt}"))
}

impl Log {
    fn open(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io("opening", path))?;
        let mut length = file.metadata().map_err(io("reading", path))?.len();
        if length == 0 {
            file.write_all_at(&[STX], 0).map_err(io("writing", path))?;
            length = 1;
        } else {
            // What an earlier process wrote may still be in the page cache only.
            file.sync_data().map_err(io("syncing", path))?;
        }
        let index = read_index(&with_suffix(path, ".index"))?;
        let mut log = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            length,
            durable: if length == 1 { 0 } else { length },
            index,
            digest: Sha256::new(),
            apart: HashMap::new(),
        };
        if let Some(section) = log.index.sections.last() {
            let to = section.end.unwrap_or(length);
            log.digest = digest_of(&log.file, section.start, to).map_err(io("reading", path))?;
        }
        if log.index.sealed.is_some() {
            log.write_end()?;
        }
        Ok(log)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.file
            .write_all_at(bytes, self.length)
            .map_err(io("writing", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn save_index(&self) -> Result<(), LogError> {
        let path = with_suffix(&self.path, ".index");
        let temporary = with_suffix(&self.path, ".index~");
        let text = serde_json::to_vec(&self.index).unwrap_or_default();
        // Without its index a log would be counted from its first byte after a power cut, whoever wrote what.
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_data()
        };
        write().map_err(io("writing", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(io("publishing", &path))
    }

    /// Whether the writer's bytes go into the log itself; begins its section when it is the first time.
    fn admits(&mut self, writer: &Writer) -> Result<bool, LogError> {
        if !writer.holds_job || self.index.sealed.is_some() {
            return Ok(false);
        }
        let newest = self.index.sections.last().map_or(0, |section| section.generation);
        if writer.generation < newest {
            return Ok(false);
        }
        if writer.generation > newest {
            if let Some(section) = self.index.sections.last_mut() {
                section.end = Some(self.length);
                self.write(format!("\n{ANEW}\n").as_bytes())?;
            }
            self.index.sections.push(Section {
                generation: writer.generation,
                attempt: writer.attempt.clone(),
                start: self.length,
                end: None,
            });
            self.digest = Sha256::new();
            self.save_index()?;
        }
        Ok(true)
    }

    fn section_position(&self) -> LogPosition {
        let start = self
            .index
            .sections
            .last()
            .map_or(self.length, |section| section.start);
        LogPosition {
            received: self.length - start,
            durable: self.durable.saturating_sub(start),
        }
    }

    fn append(&mut self, writer: &Writer, offset: u64, bytes: &[u8]) -> Result<LogPosition, LogError> {
        if !self.admits(writer)? {
            return self.append_apart(writer, offset, bytes);
        }
        let position = self.section_position();
        let Some(new) = unseen(position, offset, bytes)? else {
            return Ok(position);
        };
        self.write(new)?;
        self.digest.update(new);
        Ok(self.section_position())
    }

    fn apart(&mut self, writer: &Writer) -> Result<&mut Apart, LogError> {
        let key = (writer.generation, writer.attempt.to_string());
        if !self.apart.contains_key(&key) {
            let path = apart_path(&self.path, writer.generation, &writer.attempt);
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(io("opening", &path))?;
            let mut existing = Vec::new();
            file.read_to_end(&mut existing).map_err(io("reading", &path))?;
            file.sync_data().map_err(io("syncing", &path))?;
            let section =
                self.index.sections.iter().find(|section| {
                    section.generation == writer.generation && section.attempt == writer.attempt
                });
            let (before, mut digest) = match section {
                Some(section) => {
                    let to = section.end.unwrap_or(self.length);
                    let digest =
                        digest_of(&self.file, section.start, to).map_err(io("reading", &self.path))?;
                    (to - section.start, digest)
                }
                None => (0, Sha256::new()),
            };
            digest.update(&existing);
            let length = existing.len() as u64;
            let apart = Apart {
                file: Arc::new(file),
                before,
                length,
                durable: length,
                digest,
            };
            self.apart.insert(key.clone(), apart);
        }
        self.apart.get_mut(&key).ok_or(LogError::InvalidId(key.1))
    }

    fn append_apart(&mut self, writer: &Writer, offset: u64, bytes: &[u8]) -> Result<LogPosition, LogError> {
        let path = self.path.clone();
        let apart = self.apart(writer)?;
        let position = apart.position();
        let Some(new) = unseen(position, offset, bytes)? else {
            return Ok(position);
        };
        apart
            .file
            .write_all_at(new, apart.length)
            .map_err(io("writing", &path))?;
        apart.length += new.len() as u64;
        apart.digest.update(new);
        Ok(apart.position())
    }

    fn completion(&mut self, writer: &Writer) -> Result<Completion, LogError> {
        if self.admits(writer)? {
            return Ok(Completion {
                position: self.section_position(),
                sha256: hex(self.digest.clone()),
            });
        }
        let apart = self.apart(writer)?;
        Ok(Completion {
            position: apart.position(),
            sha256: hex(apart.digest.clone()),
        })
    }

    fn seal(&mut self) -> Result<u64, LogError> {
        if self.index.sealed.is_none() {
            if let Some(section) = self.index.sections.last_mut() {
                section.end = Some(self.length);
            }
            self.index.sealed = Some(self.length + 1);
            // Written first: after a crash the end mark follows from it.
            self.save_index()?;
        }
        self.write_end()?;
        Ok(self.length)
    }

    fn write_end(&mut self) -> Result<(), LogError> {
        match self.index.sealed {
            Some(size) if self.length < size => self.write(&[ETX]),
            Some(_) | None => Ok(()),
        }
    }
}

impl Apart {
    fn position(&self) -> LogPosition {
        LogPosition {
            received: self.before + self.length,
            durable: self.before + self.durable,
        }
    }
}

/// The bytes of an append that were not received yet.
fn unseen(position: LogPosition, offset: u64, bytes: &[u8]) -> Result<Option<&[u8]>, LogError> {
    if offset > position.received {
        return Err(LogError::Ahead(position));
    }
    let known = usize::try_from(position.received - offset).unwrap_or(usize::MAX);
    Ok(bytes.get(known..).filter(|new| !new.is_empty()))
}

fn read_index(path: &Path) -> Result<Index, LogError> {
    match std::fs::read(path) {
        // An index that a crash left empty is as good as none: its bytes count as the first writer's.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
        Err(error) => Err(io("reading", path)(error)),
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
