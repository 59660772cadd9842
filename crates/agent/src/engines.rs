//! Engines: where a `terraform` or `tofu` binary of a wanted version is, and what its digest is.
//!
//! Looked up in the engines folder, then on PATH if its version matches, then in what was downloaded before, then in
//! the catalogue entry that came with the job. A download is kept only when its digest is right.
//!
//! What is here when the agent starts is pinned by its digest, and so is what is downloaded later: a binary that changes
//! while the agent runs is not used any more.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use terrapool_model::engine::{Engine, EngineKind, EngineVersion};
use terrapool_protocol::job::{EngineDownload, EngineRequest};
use tokio::sync::Mutex;

use crate::config::Config;

mod downloads;
pub(crate) mod retention;

/// A download that gives nothing for so long is given up.
const STALL: Duration = Duration::from_secs(60);

/// Largest download and largest engine in bytes.
const LARGEST: usize = 1 << 30;

/// An engine that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing has it.
    #[error(
        "{kind} {version} is not on this agent: put it into the engines folder ({kind}_{version}/{kind}), install it, \
         or add it to the control plane's catalogue{known}"
    )]
    Unknown {
        /// The program.
        kind: EngineKind,
        /// The wanted version.
        version: String,
        /// What there is.
        known: String,
    },
    /// The download failed.
    #[error("{kind} {version} could not be downloaded: {problem}")]
    Download {
        /// The program.
        kind: EngineKind,
        /// The wanted version.
        version: String,
        /// Why.
        problem: String,
    },
    /// A file is not what it was.
    #[error(
        "engine {path} is not what it was: its SHA-256 is {found}, it was {pinned}. When that is right, restart the agent; \
         a downloaded engine is fetched again once its folder is removed"
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// What it is now.
        found: String,
        /// What it was when the agent started, or when it was downloaded.
        pinned: String,
    },
    /// A file cannot be read.
    #[error("engine {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// An engine on this host.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which one.
    pub engine: Engine,
    /// The binary.
    pub path: PathBuf,
    /// SHA-256 of the binary, lower-case hex.
    pub sha256: String,
}

/// The engines of this host.
#[derive(Debug)]
pub struct Engines {
    known: Mutex<BTreeMap<Engine, PathBuf>>,
    /// Digests that binaries have to have. Held while those of the start are read.
    pins: Mutex<BTreeMap<PathBuf, String>>,
    digests: Mutex<BTreeMap<PathBuf, (std::time::SystemTime, u64, String)>>,
    /// Engines that are being downloaded.
    fetching: Mutex<BTreeMap<Engine, Arc<Mutex<()>>>>,
    downloads: PathBuf,
    http: reqwest::Client,
}

impl Engines {
    /// Looks for engines in the engines folder, among downloads and on PATH.
    pub async fn discover(config: &Config, http: reqwest::Client) -> Arc<Self> {
        let downloads = config.data_dir.join("engines");
        let mut known = BTreeMap::new();
        for kind in [EngineKind::Terraform, EngineKind::Tofu] {
            if let Some((engine, path)) = on_path(kind).await {
                known.insert(engine, path);
            }
        }
        let downloaded = downloads::usable(&downloads, in_folder(&downloads));
        known.extend(
            downloaded
                .iter()
                .map(|(engine, (path, _))| (engine.clone(), path.clone())),
        );
        if let Some(folder) = &config.engines {
            known.extend(in_folder(folder));
        }
        let engines = Arc::new(Self {
            known: Mutex::new(known),
            pins: Mutex::new(downloaded.into_values().collect()),
            digests: Mutex::default(),
            fetching: Mutex::default(),
            downloads,
            http,
        });
        // Hashing takes a while; a job that comes meanwhile waits for it.
        let pinning = Arc::clone(&engines);
        let (begun, begins) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { pinning.pin(begun).await });
        // The task holds the lock from here on. An error would mean that it ended, which it does with it.
        let _ = begins.await;
        engines
    }

    /// Reads the digests of everything that is there, unless it is known what they have to be.
    async fn pin(&self, begun: tokio::sync::oneshot::Sender<()>) {
        let mut pins = self.pins.lock().await;
        let _ = begun.send(());
        let paths: Vec<PathBuf> = self.known.lock().await.values().cloned().collect();
        for path in paths {
            if pins.contains_key(&path) {
                continue;
            }
            match self.read_digest(&path).await {
                Ok(sha256) => {
                    tracing::debug!(path = %path.display(), sha256, "pinned an engine");
                    pins.insert(path, sha256);
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "an engine cannot be pinned"
                    );
                }
            }
        }
        drop(pins);
        self.sweep().await;
    }

    /// Removes downloads that nobody has used for long, or that are too many.
    async fn sweep(&self) {
        let mut known = self.known.lock().await;
        let folder = self.downloads.clone();
        let removed = tokio::task::spawn_blocking(move || downloads::sweep(&folder)).await;
        for path in removed.unwrap_or_default() {
            tracing::info!(path = %path.display(), "removed a downloaded engine that is not used any more");
            known.retain(|_, binary| !binary.starts_with(&path));
        }
    }

    /// What needs no download.
    pub async fn list(&self) -> Vec<Engine> {
        self.known.lock().await.keys().cloned().collect()
    }

    /// Finds or downloads an engine.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn obtain(&self, request: &EngineRequest) -> Result<Found, EngineError> {
        let wanted: Option<EngineVersion> = request.version.parse().ok();
        if let Some((engine, path)) = self.local(request.kind, wanted.as_ref()).await {
            return self.found(engine, path).await;
        }
        let offered = request
            .download
            .as_ref()
            .filter(|download| wanted.as_ref().is_none_or(|version| *version == download.version));
        let Some(download) = offered else {
            let names: Vec<String> = self.list().await.iter().map(ToString::to_string).collect();
            let known = if names.is_empty() {
                String::new()
            } else {
                format!(" (it has {})", names.join(", "))
            };
            return Err(EngineError::Unknown {
                kind: request.kind,
                version: request.version.clone(),
                known,
            });
        };
        let engine = Engine {
            kind: request.kind,
            version: download.version.clone(),
        };
        // Two jobs do not fetch the same engine at once, and nobody else waits for it.
        let fetching = {
            let mut fetching = self.fetching.lock().await;
            fetching.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(fetching.entry(engine.clone()).or_default())
        };
        let _fetching = fetching.lock().await;
        if let Some((engine, path)) = self.local(engine.kind, Some(&engine.version)).await {
            return self.found(engine, path).await;
        }
        let (path, installed) = self.download(&engine, download).await?;
        self.pins.lock().await.insert(path.clone(), installed);
        self.known.lock().await.insert(engine.clone(), path.clone());
        let sha256 = self.digest(&path).await?;
        self.sweep().await;
        Ok(Found { engine, path, sha256 })
    }

    /// An engine that needs no download: of this version, or the newest.
    async fn local(&self, kind: EngineKind, version: Option<&EngineVersion>) -> Option<(Engine, PathBuf)> {
        let known = self.known.lock().await;
        let of_kind = |engine: &Engine| engine.kind == kind;
        let found = match version {
            Some(version) => known.get_key_value(&Engine {
                kind,
                version: version.clone(),
            }),
            None => known
                .iter()
                .filter(|(engine, _)| of_kind(engine) && !engine.version.is_pre_release())
                .max_by(|(one, _), (two, _)| one.version.cmp(&two.version))
                .or_else(|| known.iter().rfind(|(engine, _)| of_kind(engine))),
        };
        found.map(|(engine, path)| (engine.clone(), path.clone()))
    }

    async fn found(&self, engine: Engine, path: PathBuf) -> Result<Found, EngineError> {
        let sha256 = self.digest(&path).await?;
        if path.starts_with(&self.downloads) {
            downloads::note_use(&path);
        }
        Ok(Found { engine, path, sha256 })
    }

    /// The digest of a binary, which has to be what it was.
    async fn digest(&self, path: &Path) -> Result<String, EngineError> {
        let pinned = self.pins.lock().await.get(path).cloned();
        let found = self.read_digest(path).await?;
        match pinned {
            Some(pinned) if pinned != found => Err(EngineError::Changed {
                path: path.to_owned(),
                found,
                pinned,
            }),
            Some(_) | None => Ok(found),
        }
    }

    /// The digest of a binary, read anew whenever the file changed.
    async fn read_digest(&self, path: &Path) -> Result<String, EngineError> {
        let read = |source| EngineError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = std::fs::metadata(path).map_err(read)?;
        let modified = metadata.modified().map_err(read)?;
        let mut digests = self.digests.lock().await;
        if let Some((time, size, sha256)) = digests.get(path)
            && *time == modified
            && *size == metadata.len()
        {
            return Ok(sha256.clone());
        }
        let owned = path.to_owned();
        let sha256 = tokio::task::spawn_blocking(move || file_sha256(&owned))
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the task ended early")))
            .map_err(read)?;
        digests.insert(path.to_owned(), (modified, metadata.len(), sha256.clone()));
        Ok(sha256)
    }

    /// Downloads an engine; answers where it is and its digest.
    async fn download(
        &self,
        engine: &Engine,
        download: &EngineDownload,
    ) -> Result<(PathBuf, String), EngineError> {
        let fail = |problem: String| EngineError::Download {
            kind: engine.kind,
            version: engine.version.to_string(),
            problem,
        };
        tracing::info!(%engine, url = download.url, "downloading an engine");
        let asked = tokio::time::timeout(STALL, self.http.get(&download.url).send()).await;
        let response = asked.map_err(|_| fail(format!("nothing came for {} s", STALL.as_secs())))?;
        let bytes = match response.and_then(reqwest::Response::error_for_status) {
            Ok(response) => body(response).await.map_err(fail)?,
            Err(error) => return Err(fail(error.to_string())),
        };
        let found = hex(&Sha256::digest(&bytes));
        if found != download.sha256 {
            return Err(fail(format!(
                "its SHA-256 is {found}, the catalogue says {}",
                download.sha256
            )));
        }
        let folder = self.downloads.join(format!("{}_{}", engine.kind, engine.version));
        let path = folder.join(engine.kind.binary());
        let target = path.clone();
        let kind = engine.kind;
        let install = move || -> std::io::Result<String> {
            std::fs::create_dir_all(&folder)?;
            let binary = if bytes.starts_with(b"PK") {
                from_zip(&bytes, kind)?
            } else {
                bytes
            };
            let sha256 = hex(&Sha256::digest(&binary));
            let temporary = folder.join(".new");
            std::fs::write(&temporary, binary)?;
            std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o755))?;
            // First what it has to be: a binary without that is not used.
            downloads::write_pin(&target, &sha256)?;
            std::fs::rename(&temporary, &target)?;
            downloads::note_use(&target);
            Ok(sha256)
        };
        let sha256 = tokio::task::spawn_blocking(install)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the task ended early")))
            .map_err(|error| fail(error.to_string()))?;
        Ok((path, sha256))
    }
}

/// What a server gives, unless it stalls or gives more than an engine is.
async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        match tokio::time::timeout(STALL, response.chunk()).await {
            Ok(Ok(Some(chunk))) if bytes.len() + chunk.len() <= LARGEST => bytes.extend_from_slice(&chunk),
            Ok(Ok(Some(_))) => return Err(format!("it is larger than {} MiB", LARGEST >> 20)),
            Ok(Ok(None)) => return Ok(bytes),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("nothing more came for {} s", STALL.as_secs())),
        }
    }
}

fn from_zip(bytes: &[u8], kind: EngineKind) -> std::io::Result<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(std::io::Error::other)?;
    let mut file = archive.by_name(kind.binary()).map_err(std::io::Error::other)?;
    let mut binary = Vec::new();
    (&mut file).take(LARGEST as u64 + 1).read_to_end(&mut binary)?;
    if binary.len() > LARGEST {
        let message = format!("{} in it is larger than {} MiB", kind.binary(), LARGEST >> 20);
        return Err(std::io::Error::other(message));
    }
    Ok(binary)
}

/// Folders named like `terraform_1.11.4` with the binary inside.
fn in_folder(folder: &Path) -> BTreeMap<Engine, PathBuf> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((kind, version)) = name.to_str().and_then(|name| name.split_once('_')) else {
            continue;
        };
        let kind = match kind {
            "terraform" => EngineKind::Terraform,
            "tofu" => EngineKind::Tofu,
            _ => continue,
        };
        let path = entry.path().join(kind.binary());
        if let Ok(version) = version.parse()
            && path.is_file()
        {
            found.insert(Engine { kind, version }, path);
        }
    }
    found
}

/// The engine that a shell would find, if it says its version.
async fn on_path(kind: EngineKind) -> Option<(Engine, PathBuf)> {
    let path = std::env::var_os("PATH")?;
    let binary = std::env::split_paths(&path)
        .map(|folder| folder.join(kind.binary()))
        .find(|file| file.is_file())?;
    let output = tokio::process::Command::new(&binary)
        .args(["version", "-json"])
        .env_clear()
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .await
        .ok()?;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let version = version.get("terraform_version")?.as_str()?.parse().ok()?;
    Some((Engine { kind, version }, binary))
}

fn file_sha256(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&digest.finalize()));
        }
        digest.update(&buffer[..count]);
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use terrapool_protocol::job::EngineRequest;

    use super::*;
    use crate::config::SandboxUser;

    fn config(folder: &Path) -> Config {
        Config {
            url: "https://localhost".to_owned(),
            token: terrapool_protocol::secret::Secret::new("t"),
            name: "test".to_owned(),
            data_dir: folder.join("data"),
            concurrency: 1,
            memory_mb: None,
            cpu_millis: None,
            driver: crate::config::DriverKind::Docker,
            user: SandboxUser::Unprivileged,
            image: None,
            registry_auth: None,
            engines: Some(folder.join("engines")),
            ca_file: None,
            docker_host: None,
            listen: None,
            token_grace: terrapool_model::time::Millis::from_seconds(600),
        }
    }

    fn request(version: &str) -> EngineRequest {
        EngineRequest {
            kind: EngineKind::Terraform,
            version: version.to_owned(),
            download: None,
        }
    }

    fn put(folder: &Path, version: &str, content: &str) -> PathBuf {
        let path = folder.join(format!("terraform_{version}/terraform"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    #[tokio::test]
    async fn an_engine_that_changes_while_the_agent_runs_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        put(&folder.path().join("engines"), "0.0.1", "one");
        let changing = put(&folder.path().join("engines"), "0.0.2", "two");
        let engines = Engines::discover(&config(folder.path()), reqwest::Client::new()).await;
        assert!(engines.obtain(&request("0.0.2")).await.is_ok());
        std::fs::write(&changing, "something else").unwrap();
        let error = engines.obtain(&request("0.0.2")).await.unwrap_err();
        assert!(matches!(error, EngineError::Changed { .. }), "{error}");
        assert!(engines.obtain(&request("0.0.1")).await.is_ok());
        // The next start takes it as it is.
        let engines = Engines::discover(&config(folder.path()), reqwest::Client::new()).await;
        assert!(engines.obtain(&request("0.0.2")).await.is_ok());
    }

    #[tokio::test]
    async fn a_download_has_to_be_what_was_downloaded_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        let downloads = folder.path().join("data/engines");
        let good = put(&downloads, "0.0.3", "good");
        downloads::write_pin(&good, &hex(&Sha256::digest("good"))).unwrap();
        let changed = put(&downloads, "0.0.4", "changed");
        downloads::write_pin(&changed, &hex(&Sha256::digest("original"))).unwrap();
        // Nobody knows what this one has to be.
        put(&downloads, "0.0.5", "unknown");
        let engines = Engines::discover(&config(folder.path()), reqwest::Client::new()).await;
        assert!(engines.obtain(&request("0.0.3")).await.is_ok());
        let error = engines.obtain(&request("0.0.4")).await.unwrap_err();
        assert!(matches!(error, EngineError::Changed { .. }), "{error}");
        let error = engines.obtain(&request("0.0.5")).await.unwrap_err();
        assert!(matches!(error, EngineError::Unknown { .. }), "{error}");
    }
}
