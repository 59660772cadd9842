//! What a sandbox leaves on its volumes, for whoever opens them after it is gone: how the job ended, as far as that was
//! known, its log and the newest whole state.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use terrapool_model::id::RunId;
use terrapool_protocol::job::{Outcome, Phase, StateMark, Usage};
use terrapool_protocol::runner::{FromRunner, RunnerStage};

use crate::digest;
use crate::paths::Paths;
use crate::shared::{Shared, StateCopy};
use crate::state::{ERRORED, mark};

/// What the marker says of the engine phase that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The run.
    pub run: RunId,
    /// The phase.
    pub phase: Phase,
    /// Where the engine ran.
    pub folder: PathBuf,
}

impl Mark {
    /// Writes the marker's content.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn write(&self, file: &mut File) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        file.write_all(&text)
    }

    fn read(paths: &Paths) -> Option<Self> {
        serde_json::from_slice(&fs::read(paths.marker()).ok()?).ok()
    }
}

/// Keeps a job's end on the job volume. It is not synced: an end that a power cut takes away is told as a lost engine,
/// with the same log and state.
pub fn keep_end(paths: &Paths, end: &FromRunner) {
    let temporary = paths.end().with_extension("tmp");
    let written = serde_json::to_vec(end)
        .map_err(io::Error::from)
        .and_then(|text| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, paths.end()));
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
}

/// Puts what lies on the volumes into the status, as if its runner were still here: `Finished` when an engine phase was
/// started or an end is known, else `Waiting`.
pub fn load(shared: &Shared) {
    let paths = &shared.paths;
    let marked = paths.marker().exists();
    let log = File::open(paths.log()).ok();
    let (log_size, log_sha256) = digest::of_file(&paths.log()).unwrap_or_else(|_| (0, digest::of(b"")));
    let end = fs::read(paths.end())
        .ok()
        .and_then(|text| serde_json::from_slice::<FromRunner>(&text).ok())
        .filter(|end| matches!(end, FromRunner::Finished { log_size: size, log_sha256: sha256, .. } if (*size, sha256) == (log_size, &log_sha256)));
    let Some((end, state)) = end
        .map(|end| {
            let state = match &end {
                FromRunner::Finished {
                    state: Some(mark), ..
                } => copy_of(paths, mark),
                _ => None,
            };
            (end, state)
        })
        .or_else(|| marked.then(|| lost(paths, log_size, log_sha256)))
    else {
        return;
    };
    if let Some(log) = log {
        let _ = shared.log.set(log);
    }
    shared.change(|status| {
        status.stage = RunnerStage::Finished;
        status.prepared = marked;
        status.started = marked;
        status.log_size = log_size;
        status.state = state;
        status.finished = Some(Arc::new(end));
    });
}

/// The end of a job whose runner went away in the middle of it.
fn lost(paths: &Paths, log_size: u64, log_sha256: String) -> (FromRunner, Option<StateCopy>) {
    let mark = Mark::read(paths);
    let state = match &mark {
        Some(mark) if mark.phase == Phase::Plan => None,
        _ => newest_state(paths, mark.as_ref().map(|mark| mark.folder.as_path())),
    };
    let end = FromRunner::Finished {
        outcome: Outcome::EngineLost {
            message: "The sandbox went away while the engine ran.".to_owned(),
        },
        log_size,
        log_sha256,
        state: state.as_ref().map(|copy| copy.mark.clone()),
        artifacts: Vec::new(),
        schemas_key: None,
        usage: Usage::default(),
        memory: None,
        secrets: Vec::new(),
    };
    (end, state)
}

/// Files directly in a folder, and in its folders when `deep`.
fn files(folder: &Path, deep: bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_file() => vec![entry.path()],
            Ok(kind) if kind.is_dir() && deep => files(&entry.path(), false),
            _ => Vec::new(),
        })
        .collect()
}

/// Every whole state document: the copies, the engine's own file, and what it left because it could not save.
fn states(paths: &Paths, folder: Option<&Path>) -> Vec<StateCopy> {
    let copies = files(&paths.state_copies(), false).into_iter();
    let own = files(&paths.state, false)
        .into_iter()
        .chain(files(&paths.backend_workspaces(), true));
    let errored = folder.map(|folder| folder.join(ERRORED));
    copies
        .chain(own)
        .chain(errored)
        .filter(|path| path.extension().is_some_and(|extension| extension == "tfstate"))
        .filter_map(|path| {
            let mark = mark(&fs::read(&path).ok()?)?;
            Some(StateCopy { mark, path })
        })
        .collect()
}

/// The newest of them by serial; of two with the same serial the one that was written last. Documents of another
/// lineage than the copies' do not count.
fn newest_state(paths: &Paths, folder: Option<&Path>) -> Option<StateCopy> {
    let found = states(paths, folder);
    let lineage = found
        .iter()
        .find(|copy| copy.path.starts_with(paths.state_copies()))
        .and_then(|copy| copy.mark.lineage.clone());
    let written = |copy: &StateCopy| {
        fs::metadata(&copy.path)
            .and_then(|metadata| metadata.modified())
            .ok()
    };
    found
        .into_iter()
        .filter(|copy| lineage.is_none() || copy.mark.lineage == lineage)
        .max_by_key(|copy| (copy.mark.serial, written(copy)))
}

fn copy_of(paths: &Paths, mark: &StateMark) -> Option<StateCopy> {
    let folder = Mark::read(paths).map(|mark| mark.folder);
    states(paths, folder.as_deref())
        .into_iter()
        .find(|copy| copy.mark.sha256 == mark.sha256)
}
