//! Receiving the parts of a bundle.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use terrapool_protocol::job::{BundlePart, FailureReason, JobSpec, PartName};

use crate::digest;
use crate::error::Failure;
use crate::paths::Paths;

/// The state file of a workspace, opened before the engine can touch it: it is read through this descriptor even when
/// the file is removed.
#[derive(Debug, Clone)]
pub struct StateFile {
    /// The open file.
    pub file: Arc<File>,
    /// Where it was made.
    pub path: PathBuf,
}

impl StateFile {
    /// Makes the file, empty, and the folders that the local backend wants to find.
    ///
    /// # Errors
    /// A [`Failure`] when the state volume does not take them, or when the name is no name of a workspace.
    pub fn create(paths: &Paths, workspace: &str) -> Result<Self, Failure> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !workspace.bytes().all(plain) || matches!(workspace, "" | "." | "..") {
            let message =
                format!("`{workspace}` cannot be the name of a workspace: letters, digits, `-` and `_` can.");
            return Err(Failure::new(FailureReason::Configuration, message));
        }
        let path = paths.state_file(workspace);
        let failed = |error: io::Error| Failure::io("make the state file", &path, &error);
        std::fs::create_dir_all(paths.backend_workspaces()).map_err(failed)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(failed)?;
        Ok(Self {
            file: Arc::new(file),
            path,
        })
    }
}

/// Writes the bundle's bytes where they belong, as they arrive.
#[derive(Debug)]
pub struct Receiver {
    /// Parts to come, the next one last.
    todo: Vec<(BundlePart, PathBuf)>,
    current: Option<Part>,
    state: StateFile,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Part {
    part: BundlePart,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    rest: u64,
}

impl Receiver {
    /// Prepares for the parts that the job announces. The state goes straight to the workspace's state file.
    ///
    /// # Errors
    /// A [`Failure`] when the volumes do not take it.
    pub fn new(paths: &Paths, spec: &JobSpec) -> Result<Self, Failure> {
        let state = StateFile::create(paths, &spec.workspace_name)?;
        let target = |part: &BundlePart| match part.name {
            PartName::State => state.path.clone(),
            other => part_path(paths, other),
        };
        let todo = spec
            .parts
            .iter()
            .rev()
            .map(|part| (part.clone(), target(part)))
            .collect();
        let mut receiver = Self {
            todo,
            current: None,
            state,
            failure: None,
        };
        receiver.advance();
        Ok(receiver)
    }

    /// Takes bytes, however they are cut. After a failure the rest is taken and thrown away.
    pub fn accept(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(part) = &mut self.current else { return };
            let count = bytes.len().min(usize::try_from(part.rest).unwrap_or(usize::MAX));
            let (now, later) = bytes.split_at(count);
            if self.failure.is_none() {
                part.hasher.update(now);
                if let Err(error) = part.file.write_all(now) {
                    self.failure = Some(Failure::io("store a part of the job in", &part.path, &error));
                }
            }
            part.rest -= count as u64;
            bytes = later;
            self.advance();
        }
    }

    /// Whether all parts are there.
    pub fn is_complete(&self) -> bool {
        self.current.is_none() && self.todo.is_empty()
    }

    /// The state file, and what went wrong while receiving.
    pub fn finish(self) -> (StateFile, Option<Failure>) {
        (self.state, self.failure)
    }

    /// Closes the part that is complete and opens the next.
    fn advance(&mut self) {
        loop {
            match self.current.take() {
                Some(part) if part.rest > 0 => {
                    self.current = Some(part);
                    return;
                }
                Some(part) => self.close(part),
                None => {}
            }
            let Some((part, path)) = self.todo.pop() else {
                return;
            };
            match self.open(&part, &path) {
                Ok(file) => {
                    let rest = part.size;
                    let hasher = Sha256::new();
                    self.current = Some(Part {
                        part,
                        path,
                        file,
                        hasher,
                        rest,
                    });
                }
                // The bytes of the other parts still come and are thrown away, up to the end of the connection.
                Err(error) => {
                    self.failure = Some(Failure::io("store a part of the job in", &path, &error));
                    self.todo.clear();
                    return;
                }
            }
        }
    }

    fn open(&self, part: &BundlePart, path: &Path) -> io::Result<File> {
        if part.name == PartName::State {
            return self.state.file.try_clone();
        }
        File::create(path)
    }

    fn close(&mut self, part: Part) {
        let found = digest::hex(part.hasher);
        if self.failure.is_none() && found != part.part.sha256 {
            let what = match part.part.name {
                PartName::Configuration => "configuration",
                PartName::State => "state",
                PartName::PlanArchive => "plan archive",
            };
            let message = format!(
                "The {what} was damaged on its way: its SHA-256 is {found}, expected was {}. Start the run again.",
                part.part.sha256
            );
            self.failure = Some(Failure::new(FailureReason::Internal, message));
        }
    }
}

/// Where a part lies that is no state.
pub fn part_path(paths: &Paths, name: PartName) -> PathBuf {
    paths.bundle().join(match name {
        PartName::Configuration => "configuration.tar.gz",
        PartName::State => "state",
        PartName::PlanArchive => "plan-archive.tar.gz",
    })
}
