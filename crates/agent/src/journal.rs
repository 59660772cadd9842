//! What a restarted agent has to know: an append-only file, synced before anything is done that it must not forget.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use terrapool_agent_core::attempt::{Attempt, State};
use terrapool_model::id::{AttemptId, JobId};
use terrapool_protocol::job::{JobTimes, Outcome, Phase, SandboxNetwork};
use terrapool_protocol::secret::Secret;

use crate::drivers::Place;

/// The journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("journal {path}: {action}")]
pub struct JournalError {
    path: PathBuf,
    action: &'static str,
    #[source]
    source: std::io::Error,
}

/// States, as far as a restart has to tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The claim may have been sent.
    Claiming,
    /// The job is ours.
    Claimed,
    /// The start request may have been sent.
    Starting,
    /// The engine may run.
    Running,
    /// Being given back.
    Returning,
    /// Its end is known.
    Delivering,
    /// Over.
    Over,
}

/// One line of the journal: an attempt, as it stands from here on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The job.
    pub job: JobId,
    /// Its generation.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// The phase.
    pub phase: Phase,
    /// Incarnation of the control plane.
    pub incarnation: u64,
    /// Where it stands.
    pub stage: Stage,
    /// Its times, once claimed.
    pub times: Option<JobTimes>,
    /// The job credential, once claimed.
    pub credential: Option<Secret>,
    /// Its sandbox, once there is one.
    pub place: Option<Place>,
    /// Its end, once that is known.
    pub outcome: Option<Outcome>,
    /// Image of its sandbox, where the offer named one.
    pub image: Option<String>,
    /// What its sandbox reaches.
    #[serde(default)]
    pub network: SandboxNetwork,
    /// Memory in MiB that its sandbox holds.
    pub memory_mb: u64,
}

impl Record {
    /// The line for an attempt.
    pub fn of(attempt: &Attempt) -> Self {
        let stage = match attempt.state {
            State::Claiming => Stage::Claiming,
            State::Claimed | State::Preparing => Stage::Claimed,
            State::Starting { .. } => Stage::Starting,
            State::Running | State::Stopping { .. } => Stage::Running,
            State::Returning { .. } => Stage::Returning,
            State::Delivering { .. } => Stage::Delivering,
            State::Dropped | State::Done => Stage::Over,
        };
        Self {
            job: attempt.job.clone(),
            generation: attempt.generation,
            attempt: attempt.attempt.clone(),
            phase: attempt.phase,
            incarnation: attempt.incarnation,
            stage,
            times: attempt.times,
            credential: None,
            place: None,
            outcome: match &attempt.state {
                State::Delivering { outcome } => Some(outcome.clone()),
                State::Returning { message } => Some(Outcome::NeverStarted {
                    message: message.clone(),
                }),
                _ => None,
            },
            image: None,
            network: SandboxNetwork::default(),
            memory_mb: 0,
        }
    }
}

/// The journal of one agent. Only one process may have it open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    size: u64,
    open: Open,
}

/// Attempts that are not over, with their place in the order in which they began.
type Open = BTreeMap<AttemptId, (u64, Record)>;

/// What a journal held when it was opened.
#[derive(Debug, Default)]
pub struct Past {
    /// Attempts that were not over, in the order they began.
    pub open: Vec<Record>,
    /// Volumes of attempts that are over. Removing them may have been cut short.
    pub over: BTreeSet<String>,
}

/// A journal that has grown to this many bytes is written anew, with what is not over.
const LARGE: u64 = 1 << 20;

fn note(open: &mut Open, record: Record) {
    if record.stage == Stage::Over {
        open.remove(&record.attempt);
        return;
    }
    let next = open.values().map(|(number, _)| number + 1).max().unwrap_or(0);
    let number = open.get(&record.attempt).map_or(next, |(number, _)| *number);
    open.insert(record.attempt.clone(), (number, record));
}

fn in_order(open: &Open) -> Vec<Record> {
    let mut records: Vec<&(u64, Record)> = open.values().collect();
    records.sort_by_key(|(number, _)| *number);
    records.into_iter().map(|(_, record)| record.clone()).collect()
}

fn line_of(record: &Record) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record).map_err(std::io::Error::other)?;
    line.push(b'\n');
    Ok(line)
}

fn open_locked(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .read(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            use std::os::unix::fs::MetadataExt as _;
            // The process that has it may have put another file in its place at this moment.
            if file.metadata()?.ino() == std::fs::metadata(path)?.ino() {
                Ok(file)
            } else {
                open_locked(path)
            }
        }
        Err(rustix::io::Errno::WOULDBLOCK) => Err(std::io::Error::other(
            "another terrapool-agent uses this data folder: stop it, or give this one its own",
        )),
        Err(error) => Err(error.into()),
    }
}

impl Journal {
    /// Opens the journal and returns what it held.
    ///
    /// # Errors
    /// [`JournalError`] when the file cannot be read or written, or another process has it.
    pub fn open(path: &Path) -> Result<(Self, Past), JournalError> {
        let fail = |action| {
            move |source| JournalError {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let file = open_locked(path).map_err(fail("opening"))?;
        let text = std::fs::read_to_string(path).map_err(fail("reading"))?;
        let mut open = Open::new();
        let mut over = BTreeSet::new();
        // The last line may be cut by a crash; it was not acted upon.
        for record in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Record>(line).ok())
        {
            if record.stage == Stage::Over {
                over.extend(record.place.as_ref().map(|place| place.volumes.clone()));
            }
            note(&mut open, record);
        }
        let past = Past {
            open: in_order(&open),
            over,
        };
        let journal = Self {
            path: path.to_owned(),
            inner: Mutex::new(Inner { file, size: 0, open }),
        };
        if !text.is_empty() {
            let mut inner = journal.lock();
            journal.rewrite(&mut inner).map_err(fail("rewriting"))?;
        }
        Ok((journal, past))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Puts a journal in place that holds only what is not over: whole or not at all, whatever happens meanwhile.
    fn rewrite(&self, inner: &mut Inner) -> std::io::Result<()> {
        let temporary = self.path.with_extension("new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = open_locked(&temporary)?;
        let mut bytes = Vec::new();
        for record in in_order(&inner.open) {
            bytes.extend(line_of(&record)?);
        }
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        inner.file = file;
        inner.size = bytes.len() as u64;
        Ok(())
    }

    /// Appends a line and returns once it is durable. Blocks for the time of a disk sync.
    ///
    /// # Errors
    /// [`JournalError`] when the disk refuses; then nothing may be done that the line was for.
    pub fn append(&self, record: &Record) -> Result<(), JournalError> {
        let fail = |action| {
            move |source| JournalError {
                path: self.path.clone(),
                action,
                source,
            }
        };
        let line = line_of(record).map_err(fail("writing"))?;
        let mut inner = self.lock();
        let before = inner.size;
        if let Err(error) = inner.file.write_all(&line).and_then(|()| inner.file.sync_data()) {
            // Half a line must not spoil the next one.
            let _ = inner.file.set_len(before);
            return Err(fail("writing")(error));
        }
        inner.size += line.len() as u64;
        note(&mut inner.open, record.clone());
        if inner.size > LARGE
            && inner.size > 4 * size_of_open(&inner.open)
            && let Err(error) = self.rewrite(&mut inner)
        {
            // The long one is as good.
            tracing::warn!(path = %self.path.display(), %error, "the journal could not be written anew");
        }
        Ok(())
    }
}

/// Bytes that what is not over takes, roughly.
fn size_of_open(open: &Open) -> u64 {
    open.values()
        .filter_map(|(_, record)| serde_json::to_vec(record).ok())
        .map(|line| line.len() as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SandboxUser;
    use terrapool_agent_core::attempt::Boottime;

    fn record(number: u8, stage: Stage) -> Record {
        let attempt = Attempt::new(
            JobId::from_random([number; 16]),
            0,
            AttemptId::from_random([number; 16]),
            Phase::Apply,
            1,
            Boottime(0),
        );
        Record {
            stage,
            ..Record::of(&attempt)
        }
    }

    #[test]
    fn a_reopened_journal_gives_what_was_not_over_and_the_volumes_of_what_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, past) = Journal::open(&path).unwrap();
        assert!(past.open.is_empty());
        journal.append(&record(1, Stage::Claiming)).unwrap();
        journal.append(&record(2, Stage::Claiming)).unwrap();
        journal.append(&record(2, Stage::Running)).unwrap();
        let place = Place {
            id: "c0ffee".to_owned(),
            volumes: "terrapool-one".to_owned(),
            user: SandboxUser::Unprivileged,
            runner_key: Secret::new("key"),
        };
        let over = Record {
            place: Some(place),
            ..record(1, Stage::Over)
        };
        journal.append(&over).unwrap();
        drop(journal);
        // A crash in the middle of a line.
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"job\":\"jo")
            .unwrap();
        let (_journal, past) = Journal::open(&path).unwrap();
        assert_eq!(past.open.len(), 1);
        assert_eq!(
            (past.open[0].stage, &past.open[0].attempt),
            (Stage::Running, &AttemptId::from_random([2; 16]))
        );
        assert_eq!(past.over, BTreeSet::from(["terrapool-one".to_owned()]));
    }

    #[test]
    fn a_journal_stays_small_and_keeps_what_is_not_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, _) = Journal::open(&path).unwrap();
        journal.append(&record(1, Stage::Running)).unwrap();
        let line = line_of(&record(2, Stage::Claiming)).unwrap().len() as u64;
        journal.lock().size = LARGE - line;
        journal.append(&record(2, Stage::Claiming)).unwrap();
        journal.append(&record(2, Stage::Over)).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() < 4 * line);
        journal.append(&record(3, Stage::Claiming)).unwrap();
        drop(journal);
        let (_journal, past) = Journal::open(&path).unwrap();
        let open: Vec<_> = past.open.into_iter().map(|record| record.attempt).collect();
        assert_eq!(open, [1, 3].map(|number| AttemptId::from_random([number; 16])));
    }

    #[test]
    fn a_second_process_on_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, _) = Journal::open(&path).unwrap();
        journal.append(&record(1, Stage::Running)).unwrap();
        drop(journal);
        // The file is another one after it was written anew, and locked like the first.
        let (_journal, _) = Journal::open(&path).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(
            std::error::Error::source(&error)
                .unwrap()
                .to_string()
                .contains("another terrapool-agent")
        );
    }
}
