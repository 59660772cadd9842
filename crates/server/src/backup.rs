//! Backups of the whole control plane: database, objects, logs and key ring together, taken while it runs.
//!
//! Objects are copied before the database and once more after it, and the copy is kept only when every object that its
//! rows refer to is there. Logs follow the database, so they are never shorter than its rows say.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use terrapool_store::backup::{self, BackupError as CopyError};
use terrapool_store::error::StoreError;
use terrapool_store::installation::{self, InstallationRecord};

use crate::app::App;
use crate::config::Config;
use crate::server::{self, StartError};

/// The form of backups that this version writes.
const FORM: u32 = 1;

/// How often the database is copied again because an object that a row refers to was removed meanwhile.
const TRIES: u32 = 10;

const MANIFEST: &str = "manifest.json";
const DATABASE: &str = "database";
const OBJECTS: &str = "objects";
const LOGS: &str = "logs";
const KEYRING: &str = "keyring";

/// A backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder has something in it.
    #[error("{0} is not empty: name a new folder for the backup")]
    FolderInUse(PathBuf),
    /// The folder has no complete backup.
    #[error("{0} has no complete backup: its {MANIFEST}, which is written last, is missing or can't be read")]
    NoBackup(PathBuf),
    /// The backup was made by a newer version.
    #[error("the backup was made by a newer version of terrapool ({0}): install that version to restore it")]
    Newer(String),
    /// The backup is of the other kind of database.
    #[error("the backup is of a {found} database, and the configuration names a {configured} one")]
    OtherDatabase {
        /// The backup's.
        found: String,
        /// The configuration's.
        configured: String,
    },
    /// Something different is where a file should go.
    #[error("{0} exists and differs from the backup's: restore into an empty data folder, or move it away")]
    Exists(PathBuf),
    /// Objects keep disappearing while the backup is made.
    #[error("objects that the database refers to are missing, {0} for example: they were removed or lost")]
    ObjectMissing(String),
    /// A file can't be read or written.
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
    /// The database failed.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The restored control plane can't be opened.
    #[error(transparent)]
    Start(#[from] StartError),
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { action, path, source }
}

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Form of the backup.
    pub form: u32,
    /// Version of the program that made it.
    pub program: String,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Newest migration of the database.
    pub schema: i64,
    /// The installation.
    pub installation: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: i64,
    /// Objects that rows refer to.
    pub objects: u64,
}

fn kind(is_postgres: bool) -> String {
    if is_postgres { "postgres" } else { "sqlite" }.to_owned()
}

/// Backs the control plane up into a new folder. It may be running.
///
/// # Errors
/// [`BackupError`] when anything can't be read or written; the folder has no manifest then.
pub async fn backup(app: &App, folder: &Path) -> Result<Manifest, BackupError> {
    make_folder(folder)?;
    if std::fs::read_dir(folder)
        .map_err(io("reading", folder))?
        .next()
        .is_some()
    {
        return Err(BackupError::FolderInUse(folder.to_owned()));
    }
    let objects = folder.join(OBJECTS);
    copy_tree(&app.config.objects, &objects)?;
    let database = folder.join(DATABASE);
    let mut tries = 0;
    let references = loop {
        let references: BTreeSet<String> = backup::copy(&app.db, &database).await?.into_iter().collect();
        copy_tree(&app.config.objects, &objects)?;
        match references.iter().find(|key| !objects.join(key).is_file()) {
            None => break references,
            Some(key) if tries == TRIES => return Err(BackupError::ObjectMissing(key.clone())),
            Some(_) => tries += 1,
        }
        remove(&database)?;
    };
    copy_tree(&app.config.data_dir.join("logs"), &folder.join(LOGS))?;
    copy_file(&app.config.keyring_file, &folder.join(KEYRING))?;
    let mut connection = app.db.read().await?;
    let (id, incarnation) = installation::get(&mut connection)
        .await?
        .map(|found| (found.id.to_string(), found.incarnation))
        .unwrap_or_default();
    let manifest = Manifest {
        form: FORM,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        database: kind(app.config.is_postgres()),
        schema: backup::schema(&mut connection).await?,
        installation: id,
        incarnation,
        created_at: app.now().0,
        objects: references.len() as u64,
    };
    write_manifest(folder, &manifest)?;
    Ok(manifest)
}

fn write_manifest(folder: &Path, manifest: &Manifest) -> Result<(), BackupError> {
    let path = folder.join(MANIFEST);
    let text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
    let write = || -> std::io::Result<()> {
        let staging = folder.join("manifest.json~");
        let mut file = File::create(&staging)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&staging, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(io("writing", &path))
}

fn make_folder(folder: &Path) -> Result<(), BackupError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(io("creating", folder))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    removed.map_err(io("removing", path))
}

/// Copies the files of a folder that are not in the other one yet, those that are being written aside. One that goes
/// away meanwhile is passed over.
fn copy_tree(from: &Path, to: &Path) -> Result<(), BackupError> {
    make_folder(to)?;
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("reading", from)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io("reading", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if source.is_dir() {
            copy_tree(&source, &target)?;
        } else if !target.exists() {
            match copy_file(&source, &target) {
                Err(BackupError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    }
    File::open(to)
        .and_then(|folder| folder.sync_all())
        .map_err(io("syncing", to))
}

/// Copies a file durably; a half of it is never under its name.
fn copy_file(from: &Path, to: &Path) -> Result<(), BackupError> {
    let mut source = File::open(from).map_err(io("reading", from))?;
    let mut name = to.as_os_str().to_owned();
    name.push("~");
    let staging = PathBuf::from(name);
    let mut copy = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&staging)?;
        std::io::copy(&mut source, &mut file)?;
        file.sync_all()?;
        std::fs::rename(&staging, to)
    };
    copy().map_err(io("writing", to))
}

/// Restores a backup into the empty data folder and database that the configuration names, and does what follows: the
/// incarnation grows, and every run that had not ended ends.
///
/// # Errors
/// [`BackupError`] when the folder has no backup, something is in the way, or disk or database fail. It can be tried
/// again then.
pub async fn restore(config: Config, folder: &Path) -> Result<InstallationRecord, BackupError> {
    let manifest = std::fs::read(folder.join(MANIFEST))
        .ok()
        .and_then(|text| serde_json::from_slice::<Manifest>(&text).ok())
        .ok_or_else(|| BackupError::NoBackup(folder.to_owned()))?;
    if manifest.form > FORM {
        return Err(BackupError::Newer(manifest.program));
    }
    let configured = kind(config.is_postgres());
    if manifest.database != configured {
        return Err(BackupError::OtherDatabase {
            found: manifest.database,
            configured,
        });
    }
    make_folder(&config.data_dir)?;
    put_keyring(&folder.join(KEYRING), &config.keyring_file)?;
    copy_tree(&folder.join(OBJECTS), &config.objects)?;
    copy_tree(&folder.join(LOGS), &config.data_dir.join("logs"))?;
    backup::bring_back(config.database_url.expose(), &folder.join(DATABASE)).await?;
    let app = server::open(config).await?;
    let installation = installation::get(&mut app.db.read().await?).await?;
    Ok(installation.ok_or(StoreError::Reference)?)
}

fn put_keyring(from: &Path, to: &Path) -> Result<(), BackupError> {
    if to.exists() {
        let same = std::fs::read(to).map_err(io("reading", to))?
            == std::fs::read(from).map_err(io("reading", from))?;
        return if same {
            Ok(())
        } else {
            Err(BackupError::Exists(to.to_owned()))
        };
    }
    copy_file(from, to)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600)).map_err(io("writing", to))
}

/// Does what follows from a restore that was done by other means than [`restore`], with the control plane stopped.
///
/// # Errors
/// [`BackupError::Store`] when the database fails.
pub async fn restored(app: &App) -> Result<InstallationRecord, BackupError> {
    Ok(app
        .db
        .write::<_, StoreError, _>(|tx| Box::pin(installation::restored(tx)))
        .await?)
}
