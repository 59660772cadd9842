//! The folder that is mounted read-only at `/terrapool/bin` in every sandbox: the runner and the engines.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use terrapool_protocol::runner::ENGINE_USED;
use tokio::sync::Mutex;

use crate::drivers::DriverError;
use crate::drivers::runner_file;
use crate::engines::retention::{Kept, OF_SANDBOXES};
use crate::engines::{Found, hex};

/// The folder, which only the agent can write to.
#[derive(Debug)]
pub(super) struct BinFolder {
    path: PathBuf,
    /// Digest of an engine that this process has verified -> its path below the folder.
    engines: Mutex<BTreeMap<String, String>>,
}

impl BinFolder {
    pub(super) fn prepare(path: PathBuf) -> Result<Self, DriverError> {
        let folder = Self {
            path,
            engines: Mutex::default(),
        };
        let runner = folder.runner();
        let whole = fs::File::open(&runner).and_then(|file| are_equal(file, runner_file::open()));
        if !whole.unwrap_or(false) {
            put(&runner, runner_file::open()).map_err(failed(&runner))?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The runner on the host.
    pub(super) fn runner(&self) -> PathBuf {
        self.path.join(runner_file::NAME)
    }

    /// Makes sure that an engine is in the folder, with the right digest, and returns its path below it.
    pub(super) async fn ensure(&self, found: &Found) -> Result<String, DriverError> {
        // Held over the copy: two jobs that want the same engine copy it once.
        let mut engines = self.engines.lock().await;
        if let Some(path) = engines.get(&found.sha256) {
            self.mark_used(path)?;
            return Ok(path.clone());
        }
        let binary = found.engine.kind.binary();
        let path = format!(
            "{}_{}-{}/{binary}",
            found.engine.kind,
            found.engine.version,
            &found.sha256[..16]
        );
        let (from, to, wanted) = (found.path.clone(), self.path.join(&path), found.sha256.clone());
        let copied = tokio::task::spawn_blocking(move || {
            if digest(&to).is_ok_and(|digest| digest == wanted) {
                return Ok(());
            }
            put(&to, fs::File::open(&from).map_err(failed(&from))?).map_err(failed(&to))?;
            if digest(&to).map_err(failed(&to))? == wanted {
                return Ok(());
            }
            let _ = fs::remove_file(&to);
            let changed = "it was changed while it was copied; start the run again";
            Err(failed(&from)(io::Error::other(changed)))
        });
        copied
            .await
            .unwrap_or_else(|error| Err(failed(&found.path)(io::Error::other(error))))?;
        self.mark_used(&path)?;
        engines.insert(found.sha256.clone(), path.clone());
        Ok(path)
    }

    /// The time of this file says when a job used an engine last.
    fn mark_used(&self, engine: &str) -> Result<(), DriverError> {
        let mark = self.path.join(engine).with_file_name(ENGINE_USED);
        fs::write(&mark, "").map_err(failed(&mark))
    }

    /// Removes engines that no job has used for long, or that are too many, as of `now` (seconds since 1970).
    pub(super) async fn remove_old(&self, now: u64) -> Result<Vec<String>, DriverError> {
        // Held meanwhile: no job is given one that goes.
        let mut engines = self.engines.lock().await;
        let entries = fs::read_dir(&self.path).map_err(failed(&self.path))?;
        let kept = entries.flatten().filter_map(|entry| {
            let files = fs::read_dir(entry.path()).ok()?.flatten();
            let used = fs::metadata(entry.path().join(ENGINE_USED))
                .ok()?
                .modified()
                .ok()?;
            let used = used.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            Some(Kept {
                name: entry.file_name().into_string().ok()?,
                size: files
                    .filter_map(|file| file.metadata().ok())
                    .map(|file| file.len())
                    .sum(),
                unused: Duration::from_secs(now.saturating_sub(used)),
            })
        });
        let gone = OF_SANDBOXES.surplus(kept.collect());
        for name in &gone {
            let folder = self.path.join(name);
            fs::remove_dir_all(&folder).map_err(failed(&folder))?;
            engines.retain(|_, path| Path::new(path.as_str()).parent() != Some(Path::new(name)));
        }
        Ok(gone)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |source| DriverError::File { path, source }
}

/// Writes an executable file, whole or not at all.
fn put(path: &Path, mut content: impl io::Read) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    // Sandboxes' users look into it, whatever the agent's mask is.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let temporary = path.with_extension("part");
    let mut file = fs::File::create(&temporary)?;
    io::copy(&mut content, &mut file)?;
    file.flush()?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Whether two streams are the same to their ends.
fn are_equal(one: impl io::Read, other: impl io::Read) -> io::Result<bool> {
    let (mut one, mut other) = (io::BufReader::new(one), io::BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}

fn digest(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&digest.finalize())),
            count => digest.update(&buffer[..count]),
        }
    }
}
