//! What a plan leaves for its apply.
//!
//! A tar+gzip archive with `manifest.json`, `tfplan`, and below `config/` every file that is new or changed since the
//! configuration was unpacked. Providers are not in it (the apply installs them again, held to the lock file), nor what
//! the runner itself wrote.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use terrapool_model::id::WorkspaceId;
use terrapool_protocol::job::{Artifact, ArtifactName, FailureReason};

use crate::archive::{self, ArchiveLimits, Fingerprint, Inventory};
use crate::configuration;
use crate::digest;
use crate::error::Failure;
use crate::paths::Paths;

const MANIFEST: &str = "manifest.json";
const PLAN: &str = "tfplan";
const FILES: &str = "config";

/// What a plan belongs to. An apply refuses to go on with anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// SHA-256 of the configuration archive.
    pub configuration_sha256: Option<String>,
    /// SHA-256 of the engine binary.
    pub engine_sha256: String,
    /// SHA-256 of the dependency lock file, when there is one.
    pub lock_sha256: Option<String>,
    /// Folder of the root module inside the configuration.
    pub working_directory: String,
}

impl Manifest {
    /// Compares what the plan was made with to what is here.
    ///
    /// # Errors
    /// [`FailureReason::PlanMismatch`], naming the first difference.
    pub fn check(&self, here: &Self) -> Result<(), Failure> {
        let difference = if self.workspace != here.workspace {
            "for another workspace"
        } else if self.configuration_sha256 != here.configuration_sha256 {
            "from another configuration"
        } else if self.engine_sha256 != here.engine_sha256 {
            "by another engine binary"
        } else if self.lock_sha256 != here.lock_sha256 {
            "with another dependency lock file"
        } else if self.working_directory != here.working_directory {
            "in another working directory"
        } else {
            return Ok(());
        };
        let message = format!("The plan cannot be applied: it was made {difference}. Start a new run.");
        Err(Failure::new(FailureReason::PlanMismatch, message))
    }
}

/// Packs the plan archive.
///
/// # Errors
/// [`FailureReason::Limit`] when it has too many files or bytes; else a [`Failure`] of the volume.
pub fn pack(
    paths: &Paths,
    root: &Path,
    inventory: &Inventory,
    manifest: &Manifest,
) -> Result<Artifact, Failure> {
    let target = paths.artifacts().join("plan-archive.tar.gz");
    let failed = |error: io::Error| Failure::io("write the plan archive", &target, &error);
    let file = File::create(&target).map_err(failed)?;
    let writer = Hashing {
        file,
        hasher: Sha256::new(),
        size: 0,
    };
    let mut packer = Packer {
        tar: tar::Builder::new(GzEncoder::new(
            io::BufWriter::with_capacity(128 << 10, writer),
            Compression::fast(),
        )),
        configuration: paths.configuration(),
        root: root.to_owned(),
        inventory,
        bytes: 0,
        entries: 0,
    };
    packer.tar.follow_symlinks(false);
    packer.tar.sparse(false);
    let text = serde_json::to_vec(manifest).map_err(|error| {
        Failure::new(
            FailureReason::Internal,
            format!("Cannot describe the plan: {error}"),
        )
    })?;
    packer.bytes(MANIFEST, &text).map_err(failed)?;
    packer.file(&paths.plan_file(), Path::new(PLAN))?;
    packer.folder(Path::new(""))?;
    let writer = packer
        .tar
        .into_inner()
        .and_then(GzEncoder::finish)
        .and_then(|writer| writer.into_inner().map_err(io::IntoInnerError::into_error))
        .map_err(failed)?;
    Ok(Artifact {
        name: ArtifactName::PlanArchive,
        size: writer.size,
        sha256: digest::hex(writer.hasher),
    })
}

struct Hashing {
    file: File,
    hasher: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Packer<'inventory> {
    tar: tar::Builder<GzEncoder<io::BufWriter<Hashing>>>,
    configuration: PathBuf,
    root: PathBuf,
    inventory: &'inventory Inventory,
    bytes: u64,
    entries: u64,
}

impl Packer<'_> {
    fn count(&mut self, bytes: u64) -> Result<(), Failure> {
        const LIMITS: ArchiveLimits = ArchiveLimits::PLAN;
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries += 1;
        let message = if self.bytes > LIMITS.bytes {
            format!(
                "The files that the plan leaves for the apply have more than {} MiB",
                LIMITS.bytes >> 20
            )
        } else if self.entries > LIMITS.entries {
            format!("The plan leaves more than {} files for the apply", LIMITS.entries)
        } else {
            return Ok(());
        };
        let message =
            format!("{message}. Have the configuration make fewer or smaller files while planning.");
        Err(Failure::new(FailureReason::Limit, message))
    }

    fn bytes(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        self.tar.append_data(&mut header, name, content)
    }

    /// Everything new or changed below a folder of the configuration.
    fn folder(&mut self, folder: &Path) -> Result<(), Failure> {
        let full = self.configuration.join(folder);
        let failed = |error: io::Error| Failure::io("read the work folder", &full, &error);
        for entry in fs::read_dir(&full).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let relative = folder.join(entry.file_name());
            let in_root = full == self.root;
            if in_root && configuration::is_ours(&entry.file_name()) {
                continue;
            }
            let metadata = entry.metadata().map_err(failed)?;
            let kind = metadata.file_type();
            if kind.is_dir() {
                let is_data = full == self.root.join(".terraform");
                if is_data && entry.file_name() == "providers" {
                    continue;
                }
                let is_empty = fs::read_dir(entry.path()).is_ok_and(|mut entries| entries.next().is_none());
                if is_empty {
                    self.count(0)?;
                    self.tar
                        .append_dir(Path::new(FILES).join(&relative), entry.path())
                        .map_err(failed)?;
                } else {
                    self.folder(&relative)?;
                }
                continue;
            }
            // The backend's settings and the chosen workspace come from the apply's own `init`.
            let is_data = full == self.root.join(".terraform");
            if is_data && (entry.file_name() == "terraform.tfstate" || entry.file_name() == "environment") {
                continue;
            }
            if self.inventory.get(&relative) == Some(&Fingerprint::of(&metadata)) {
                continue;
            }
            // Sockets, FIFOs and devices cannot be carried along.
            if kind.is_file() {
                self.file(&entry.path(), &Path::new(FILES).join(&relative))?;
            } else if kind.is_symlink() {
                self.count(0)?;
                let target = fs::read_link(entry.path()).map_err(failed)?;
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                self.tar
                    .append_link(&mut header, Path::new(FILES).join(&relative), target)
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, source: &Path, name: &Path) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io("pack", source, &error);
        let file = File::open(source).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        self.count(metadata.len())?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        header.set_entry_type(tar::EntryType::Regular);
        // Exactly as many bytes as announced, should something still write.
        let content = io::Read::take(BufReader::new(file), metadata.len());
        self.tar.append_data(&mut header, name, content).map_err(failed)
    }
}

/// Unpacks a plan archive over the unpacked configuration and puts the plan file in its place.
///
/// # Errors
/// [`FailureReason::Limit`] and [`FailureReason::PlanMismatch`] when the archive cannot be used.
pub fn unpack(paths: &Paths, archive: File) -> Result<Manifest, Failure> {
    let staging = paths.plan();
    let failed = |error: io::Error| Failure::io("unpack the plan archive into", &staging, &error);
    // The archive's `config` folder is the configuration itself: both are next to each other on the work volume.
    archive::unpack(archive, &paths.work, ArchiveLimits::PLAN).map_err(|error| {
        let reason = match error {
            archive::ArchiveError::Limit(_) => FailureReason::Limit,
            archive::ArchiveError::Write { .. } => FailureReason::Internal,
            _ => FailureReason::PlanMismatch,
        };
        Failure::new(reason, format!("The plan archive cannot be unpacked. {error}"))
    })?;
    let manifest = paths.work.join(MANIFEST);
    let bytes = fs::read(&manifest).map_err(failed)?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| {
        let message = format!("The plan archive's description cannot be read: {error}. Start a new run.");
        Failure::new(FailureReason::PlanMismatch, message)
    })?;
    // The volumes may be different ones, so it is not renamed.
    fs::copy(paths.work.join(PLAN), paths.plan_file()).map_err(failed)?;
    fs::remove_file(paths.work.join(PLAN)).map_err(failed)?;
    Ok(manifest)
}
