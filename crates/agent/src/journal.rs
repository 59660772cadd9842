//! What a restarted agent has to know: an append-only file, synced before anything is done that it must not forget.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use terrapool_agent_core::attempt::{Attempt, State};
use terrapool_model::id::{AttemptId, JobId};
use terrapool_protocol::job::{JobTimes, Phase};
use terrapool_protocol::secret::Secret;

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
    /// The container, once there is one.
    pub sandbox: Option<String>,
    /// Key of the runner in it.
    pub runner_key: Option<Secret>,
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
            sandbox: None,
            runner_key: None,
        }
    }
}

/// The journal of one agent. Only one process may have it open.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal and returns the attempts that were not over, in the order they began.
    ///
    /// # Errors
    /// [`JournalError`] when the file cannot be read or written, or another process has it.
    pub fn open(path: &Path) -> Result<(Self, Vec<Record>), JournalError> {
        let fail = |action| {
            move |source| JournalError {
                path: path.to_owned(),
                action,
                source,
            }
        };
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true).mode(0o600);
        let file = options.open(path).map_err(fail("opening"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let held = "another terrapool-agent uses this data folder: stop it, or give this one its own";
            let text = if error == rustix::io::Errno::WOULDBLOCK {
                held.to_owned()
            } else {
                error.to_string()
            };
            fail("locking")(std::io::Error::other(text))
        })?;
        let text = std::fs::read_to_string(path).map_err(fail("reading"))?;
        let mut open = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            // The last line may be cut by a crash; it was not acted upon.
            let Ok(record) = serde_json::from_str::<Record>(line) else {
                continue;
            };
            if record.stage == Stage::Over {
                open.remove(&record.attempt);
            } else {
                let first = open.get(&record.attempt).map_or(index, |(first, _)| *first);
                open.insert(record.attempt.clone(), (first, record));
            }
        }
        let mut records: Vec<(usize, Record)> = open.into_values().collect();
        records.sort_by_key(|(first, _)| *first);
        let records: Vec<Record> = records.into_iter().map(|(_, record)| record).collect();
        let journal = Self {
            path: path.to_owned(),
            file: Mutex::new(file),
        };
        if records.is_empty() && !text.is_empty() {
            let file = journal.lock();
            file.set_len(0).map_err(fail("truncating"))?;
            file.sync_all().map_err(fail("syncing"))?;
        } else if !text.is_empty() && !text.ends_with('\n') {
            journal.lock().write_all(b"\n").map_err(fail("writing"))?;
        }
        Ok((journal, records))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, File> {
        self.file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
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
        let mut line =
            serde_json::to_vec(record).map_err(|error| fail("writing")(std::io::Error::other(error)))?;
        line.push(b'\n');
        let mut file = self.lock();
        file.write_all(&line).map_err(fail("writing"))?;
        file.sync_data().map_err(fail("syncing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_reopened_journal_gives_what_was_not_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, open) = Journal::open(&path).unwrap();
        assert!(open.is_empty());
        journal.append(&record(1, Stage::Claiming)).unwrap();
        journal.append(&record(2, Stage::Claiming)).unwrap();
        journal.append(&record(2, Stage::Running)).unwrap();
        journal.append(&record(1, Stage::Over)).unwrap();
        drop(journal);
        // A crash in the middle of a line.
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"job\":\"jo")
            .unwrap();
        let (_journal, open) = Journal::open(&path).unwrap();
        assert_eq!(open.len(), 1);
        assert_eq!(
            (open[0].stage, &open[0].attempt),
            (Stage::Running, &AttemptId::from_random([2; 16]))
        );
    }

    #[test]
    fn a_second_process_on_the_same_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let _journal = Journal::open(&path).unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(
            std::error::Error::source(&error)
                .unwrap()
                .to_string()
                .contains("another terrapool-agent")
        );
    }
}
