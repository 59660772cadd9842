//! The volume that is mounted read-only at `/terrapool/bin` in every sandbox: the runner and the engines.
//!
//! Filled through a container that is never started, so it also works when the agent itself runs in a container or the
//! engine on another host. Mounts cannot be added later, but new files appear in sandboxes that are already running.
//!
//! Sandboxes cannot write to it, so an engine is verified here, once for each process of the agent: while it is copied,
//! or by reading back what an earlier process has copied. Runners need not read a hundred megabytes at each job.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, RemoveContainerOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use terrapool_protocol::runner::{BIN, ENGINE_USED, EngineFolder};
use tokio::sync::{Mutex, MutexGuard};

use super::{DriverError, is_status, labels, seconds_since_epoch};
use crate::drivers::runner_file;
use crate::engines::retention::{Kept, OF_SANDBOXES};
use crate::engines::{Found, hex};

/// Piece of a file that is sent at once.
const PIECE: usize = 256 << 10;

/// The volume with runner and engines.
#[derive(Debug)]
pub struct BinVolume {
    docker: Docker,
    name: String,
    loader: String,
    runner: String,
    /// Digest of an engine -> what is known of it. Held while engines are removed.
    engines: Mutex<BTreeMap<String, Known>>,
}

/// An engine that is in the volume, verified.
#[derive(Debug)]
struct Known {
    /// Its path below [`BIN`].
    path: String,
    /// When the volume was told last that it is used.
    marked: Instant,
}

/// A mark that is not older need not be made anew.
const MARKED: Duration = Duration::from_secs(3600);

impl BinVolume {
    pub(super) async fn prepare(docker: &Docker, image: &str, identity: &str) -> Result<Self, DriverError> {
        let name = format!("terrapool-{identity}-bin");
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(labels(identity, "bin", "")),
            ..Default::default()
        };
        docker
            .create_volume(request)
            .await
            .map_err(DriverError::call("making the volume for engines"))?;
        let loader = create_loader(docker, image, identity, &name).await?;
        let runner = runner_file::NAME.to_owned();
        let volume = Self {
            docker: docker.clone(),
            name,
            loader,
            runner,
            engines: Mutex::default(),
        };
        if !volume.holds(&volume.runner).await? {
            let path = volume.runner.clone();
            volume
                .put(&path, runner_file::length(), runner_file::open())
                .await?;
            volume.mark(&whole_mark(&path)).await?;
        }
        Ok(volume)
    }

    /// The volume's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Path of the runner inside a sandbox.
    pub(super) fn runner_path(&self) -> String {
        format!("{BIN}/{}", self.runner)
    }

    /// Makes sure that an engine is in the volume, with the right digest, and returns its path below [`BIN`].
    ///
    /// # Errors
    /// [`DriverError`] when it cannot be copied or read back.
    pub async fn ensure(&self, found: &Found) -> Result<String, DriverError> {
        // Held over the copy: two jobs that want the same engine copy it once.
        let mut engines = self.engines.lock().await;
        if let Some(known) = engines.get_mut(&found.sha256) {
            if known.marked.elapsed() > MARKED {
                self.mark(&used_mark(&known.path)).await?;
                known.marked = Instant::now();
            }
            return Ok(known.path.clone());
        }
        let folder = format!(
            "{}_{}-{}",
            found.engine.kind,
            found.engine.version,
            &found.sha256[..16]
        );
        let path = format!("{folder}/{}", found.engine.kind.binary());
        let there = self.holds(&path).await? && self.read_back(&path).await? == found.sha256;
        if !there {
            let fail = |source| DriverError::File {
                path: found.path.clone(),
                source,
            };
            let file = std::fs::File::open(&found.path).map_err(fail)?;
            let size = file.metadata().map_err(fail)?.len();
            tracing::info!(engine = %found.engine, "copying an engine into the sandboxes' volume");
            let copied = self.put(&path, size, file).await?;
            if copied != found.sha256 {
                let changed =
                    std::io::Error::other("it was changed while it was copied; start the run again");
                return Err(fail(changed));
            }
            self.mark(&whole_mark(&path)).await?;
        }
        self.mark(&used_mark(&path)).await?;
        let known = Known {
            path: path.clone(),
            marked: Instant::now(),
        };
        engines.insert(found.sha256.clone(), known);
        Ok(path)
    }

    /// Which of the engines in the volume go, as of `now` (seconds since 1970).
    pub(super) fn surplus(listed: &str, now: u64) -> Vec<String> {
        let kept = listed.lines().filter_map(EngineFolder::parse).map(|engine| Kept {
            unused: Duration::from_secs(now.saturating_sub(engine.used)),
            name: engine.name,
            size: engine.size,
        });
        OF_SANDBOXES.surplus(kept.collect())
    }

    /// Keeps jobs from being given engines until the value is dropped; by it is said which ones are gone.
    pub(super) async fn hold(&self) -> Held<'_> {
        Held(self.engines.lock().await)
    }

    /// Whether a file is in the volume and was copied to its end.
    async fn holds(&self, path: &str) -> Result<bool, DriverError> {
        use bollard::query_parameters::ContainerArchiveInfoOptions;
        let options = ContainerArchiveInfoOptions {
            path: format!("{BIN}/{}", whole_mark(path)),
        };
        match self
            .docker
            .get_container_archive_info(&self.loader, Some(options))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if is_status(&error, 404) => Ok(false),
            Err(error) => Err(DriverError::call("looking into the volume for engines")(error)),
        }
    }

    /// The digest of a file in the volume.
    async fn read_back(&self, path: &str) -> Result<String, DriverError> {
        let options = DownloadFromContainerOptions {
            path: format!("{BIN}/{path}"),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let reader = tokio::task::spawn_blocking(move || {
            let mut archive = tar::Archive::new(PieceReader {
                pieces: receiver,
                piece: Bytes::new(),
            });
            let mut entries = archive.entries()?;
            let entry = entries.next().ok_or(std::io::ErrorKind::UnexpectedEof)??;
            let mut content = Hashing::new(entry);
            std::io::copy(&mut content, &mut std::io::sink())?;
            Ok::<_, std::io::Error>(content.finish())
        });
        let mut pieces = self.docker.download_from_container(&self.loader, Some(options));
        let mut failed = None;
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    if sender.send(piece).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(sender);
        let digest = reader
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the task ended early")));
        if let Some(error) = failed {
            return Err(DriverError::call(format!(
                "reading {path} in the volume for engines"
            ))(error));
        }
        digest.map_err(|source| DriverError::File {
            path: path.into(),
            source,
        })
    }

    /// Copies a file into the volume and returns the digest of what was copied.
    async fn put(
        &self,
        path: &str,
        size: u64,
        content: impl std::io::Read + Send + 'static,
    ) -> Result<String, DriverError> {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(4);
        let name = path.to_owned();
        let writer = tokio::task::spawn_blocking(move || {
            let mut content = Hashing::new(content);
            archive(&name, size, &mut content, PieceWriter::new(sender))?;
            Ok(content.finish())
        });
        let pieces = stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let options = UploadToContainerOptions {
            path: BIN.to_owned(),
            ..Default::default()
        };
        let sent = self
            .docker
            .upload_to_container(&self.loader, Some(options), bollard::body_stream(pieces))
            .await;
        let written = writer
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the task ended early")));
        sent.map_err(DriverError::call(format!(
            "copying {path} into the volume for engines"
        )))?;
        written.map_err(|source| DriverError::File {
            path: path.into(),
            source,
        })
    }

    /// Puts an empty file of now into the volume.
    async fn mark(&self, path: &str) -> Result<(), DriverError> {
        let mut mark = Vec::new();
        archive(path, 0, std::io::empty(), &mut mark).map_err(|source| DriverError::File {
            path: path.into(),
            source,
        })?;
        let options = UploadToContainerOptions {
            path: BIN.to_owned(),
            ..Default::default()
        };
        self.docker
            .upload_to_container(&self.loader, Some(options), bollard::body_full(mark.into()))
            .await
            .map_err(DriverError::call("marking an engine in the volume"))
    }
}

/// The mark beside a file that says it was copied to its end.
fn whole_mark(path: &str) -> String {
    format!("{path}.whole")
}

/// The mark in an engine's folder whose time says when it was used last.
fn used_mark(engine: &str) -> String {
    let folder = engine.rsplit_once('/').map_or(engine, |(folder, _)| folder);
    format!("{folder}/{ENGINE_USED}")
}

/// The engines, while they are held.
pub(super) struct Held<'a>(MutexGuard<'a, BTreeMap<String, Known>>);

impl Held<'_> {
    /// These folders are gone.
    pub(super) fn forget(&mut self, folders: &[String]) {
        let gone = |path: &str| {
            folders
                .iter()
                .any(|folder| path.split('/').next() == Some(folder))
        };
        self.0.retain(|_, known| !gone(&known.path));
    }
}

/// Writes an archive with one executable file and its folder.
fn archive(
    path: &str,
    size: u64,
    content: impl std::io::Read,
    output: impl std::io::Write,
) -> std::io::Result<()> {
    // The kernel closes processes of a program that their user may not read to that user from their first moment on; by
    // itself the runner does it a moment later.
    let mode = if path == runner_file::NAME { 0o711 } else { 0o755 };
    let mut archive = tar::Builder::new(output);
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(seconds_since_epoch());
        header
    };
    if let Some((folder, _)) = path.split_once('/') {
        archive.append_data(
            &mut header(tar::EntryType::Directory, 0o755, 0),
            format!("{folder}/"),
            std::io::empty(),
        )?;
    }
    archive.append_data(&mut header(tar::EntryType::Regular, mode, size), path, content)?;
    archive.into_inner()?.flush()
}

/// Digests what is read through it.
struct Hashing<R> {
    inner: R,
    digest: Sha256,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            digest: Sha256::new(),
        }
    }

    fn finish(self) -> String {
        hex(&self.digest.finalize())
    }
}

impl<R: std::io::Read> std::io::Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

/// Reads what an asynchronous body brings, piece by piece.
struct PieceReader {
    pieces: tokio::sync::mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl std::io::Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Hands what is written to it to an asynchronous body, piece by piece.
struct PieceWriter {
    pieces: tokio::sync::mpsc::Sender<Bytes>,
    pending: Vec<u8>,
}

impl PieceWriter {
    fn new(pieces: tokio::sync::mpsc::Sender<Bytes>) -> Self {
        Self {
            pieces,
            pending: Vec::with_capacity(PIECE),
        }
    }

    fn hand_over(&mut self) -> std::io::Result<()> {
        let piece = std::mem::replace(&mut self.pending, Vec::with_capacity(PIECE));
        self.pieces
            .blocking_send(piece.into())
            .map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

impl std::io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE {
            self.hand_over()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.pending.is_empty() {
            Ok(())
        } else {
            self.hand_over()
        }
    }
}

async fn create_loader(
    docker: &Docker,
    image: &str,
    identity: &str,
    volume: &str,
) -> Result<String, DriverError> {
    let name = format!("terrapool-{identity}-loader");
    let stale = RemoveContainerOptions {
        force: true,
        ..Default::default()
    };
    let _ = docker.remove_container(&name, Some(stale)).await;
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        // Never started; an image without any command needs one to be created from.
        cmd: Some(vec!["never".to_owned()]),
        labels: Some(labels(identity, "loader", "")),
        host_config: Some(HostConfig {
            binds: Some(vec![format!("{volume}:{BIN}")]),
            network_mode: Some("none".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let options = CreateContainerOptions {
        name: Some(name),
        ..Default::default()
    };
    let created = docker
        .create_container(Some(options), body)
        .await
        .map_err(DriverError::call(format!(
            "making a container from image {image}"
        )))?;
    Ok(created.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_no_job_used_for_a_month_go_and_those_of_this_week_stay_however_many_they_are() {
        let day = 24 * 3600;
        let now = 1000 * day;
        let line = |name: &str, gigabytes: u64, days: u64| {
            EngineFolder {
                name: name.to_owned(),
                size: gigabytes << 30,
                used: now - days * day,
            }
            .to_string()
        };
        let few = [line("terraform_1.0.0-a", 1, 31), line("tofu_1.9.0-b", 1, 29)].join("\n");
        assert_eq!(BinVolume::surplus(&few, now), ["terraform_1.0.0-a"]);
        let many = [
            line("a", 3, 7),
            line("b", 3, 1),
            line("c", 1, 9),
            line("d", 1, 10),
        ]
        .join("\n");
        assert_eq!(BinVolume::surplus(&many, now), ["c", "d"]);
        assert!(BinVolume::surplus("no such thing\n", now).is_empty());
    }
}
