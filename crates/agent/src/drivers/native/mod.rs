//! Sandboxes by namespaces of the kernel, where there is no container engine.
//!
//! A sandbox is a folder and a tree of processes. The folder holds the three volumes, the root profile's changes of the
//! host's files, and a note by which a later agent finds the processes. What makes the sandbox around itself is in
//! [`setup`]; limits are control groups, the network is a link of its own to the host, or, where the agent is not root, a
//! program of its user.

mod adopt;
mod bin_folder;
mod control_groups;
mod delegation;
mod mounts;
mod network;
mod outlet;
mod privilege;
mod process;
mod remove;
mod root;
mod seccomp;
pub mod setup;
mod user_mode;
mod users;

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::stream;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use terrapool_protocol::job::{Limits, SandboxNetwork};
use terrapool_protocol::runner::{JOB, SOCKET, STATE, WORK};
use terrapool_protocol::secret::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::sandbox::greet;
use super::{DriverError, Place, Sandbox, SandboxKey, runner_file};
use crate::config::{Config, SandboxUser};
use crate::engines::{self, hex};
use crate::runner_link::RunnerLink;
use bin_folder::BinFolder;
use control_groups::ControlGroups;
use outlet::Outlet;
use privilege::Privilege;
use process::ProcessId;
use setup::{Link, Outside, Specification, Way, Wish};

/// Volumes of a sandbox: the folder's name, and where it is inside.
const VOLUMES: [(&str, &str); 3] = [("work", WORK), ("state", STATE), ("job", JOB)];

/// What a sandbox's image is called: there is none.
const HOST: &str = "host";

/// Where the processes of a sandbox say what went wrong.
const SAID: &str = "setup.log";

/// A sandbox that was started listens within this time, also on a machine under load.
const LISTENS: Duration = Duration::from_secs(60);

/// Kernel features, prepared for sandboxes.
#[derive(Debug)]
pub struct NativeDriver {
    identity: String,
    /// Where sandboxes have their folders.
    folder: PathBuf,
    user: SandboxUser,
    privilege: Privilege,
    bin: BinFolder,
    groups: ControlGroups,
    outlet: Outlet,
    answers: watch::Sender<bool>,
}

/// What is written down about a sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    /// Seconds since the Unix epoch.
    created: u64,
    /// The first process inside.
    process: Option<ProcessId>,
    link: Option<Link>,
    /// What joins it to the world, where that is a process.
    #[serde(default)]
    outlet: Option<ProcessId>,
}

impl NativeDriver {
    /// Prepares groups, network and the folder with engines and runner, and proves all of it by a sandbox.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] says which promise this host cannot keep.
    pub async fn prepare(config: &Config, identity: &str) -> Result<Self, DriverError> {
        let privilege = Privilege::of_this_process();
        privilege.check(config.user)?;
        let groups = ControlGroups::find(privilege)?;
        let home = config.data_dir.join("native");
        let folder = home.join("sandboxes");
        make_private(&folder)?;
        let driver = Self {
            identity: identity.to_owned(),
            folder,
            user: config.user,
            privilege,
            bin: BinFolder::prepare(home.join("bin"))?,
            groups,
            outlet: Outlet::prepare(privilege).await?,
            answers: watch::Sender::new(true),
        };
        let network = match driver.outlet.refusal() {
            None => SandboxNetwork::default(),
            Some(refusal) => {
                tracing::warn!("{refusal}");
                SandboxNetwork::None
            }
        };
        let key = driver.key(None, network, Limits::default());
        let probe = driver.create_sandbox(&key).await?;
        driver.remove_sandbox(probe.volumes()).await;
        Ok(driver)
    }

    /// Why sandboxes cannot have a network, where that is known: the pool may want none.
    pub fn network_refusal(&self) -> Option<DriverError> {
        self.outlet.refusal()
    }

    /// What the driver proved of the network when it was prepared.
    pub fn shown(&self) -> &'static str {
        match (&self.outlet, self.outlet.refusal()) {
            (_, Some(_)) => "left without a network",
            (Outlet::Links(_), None) => "connected",
            (Outlet::UserMode(_), None) => "connected by slirp4netns",
        }
    }

    /// Always: the kernel does not go away.
    pub fn answers(&self) -> watch::Receiver<bool> {
        self.answers.subscribe()
    }

    /// Puts an engine where sandboxes find it.
    ///
    /// # Errors
    /// [`DriverError`] when it cannot be copied.
    pub async fn offer_engine(&self, engine: &engines::Found) -> Result<String, DriverError> {
        self.bin.ensure(engine).await
    }

    /// Removes engines that no job has used for long, or that are too many, as of `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`DriverError`] when one cannot be removed.
    pub async fn remove_old_engines(&self, now: u64) -> Result<Vec<String>, DriverError> {
        self.bin.remove_old(now).await
    }

    /// What a sandbox for a job has to be.
    pub fn key(&self, image: Option<&str>, network: SandboxNetwork, limits: Limits) -> SandboxKey {
        SandboxKey {
            image: image.unwrap_or(HOST).to_owned(),
            user: self.user,
            network,
            limits,
        }
    }

    /// Makes a sandbox and waits until its runner answers.
    ///
    /// # Errors
    /// [`DriverError`]; nothing is left behind.
    pub async fn create_sandbox(&self, key: &SandboxKey) -> Result<Sandbox, DriverError> {
        if key.image != HOST {
            return Err(DriverError::Image {
                image: key.image.clone(),
                reason: "this pool's agent uses the native driver, which shows sandboxes the host's programs and has no \
                         images: take the image away from the workspace and its pool, or run the agent with the docker \
                         driver"
                    .to_owned(),
            });
        }
        let mut random = [0; 24];
        getrandom::fill(&mut random)
            .map_err(|error| failed("/dev/urandom")(io::Error::other(error.to_string())))?;
        let name = format!("terrapool-{}-{}", self.identity, hex(&random[..6]));
        let runner_key = Secret::new(hex(&random[6..]));
        let made = async {
            let at = self.folder.join(&name);
            make_private(&at)?;
            for (volume, _) in VOLUMES {
                let path = at.join(volume);
                fs::create_dir(&path).map_err(failed(&path))?;
                let owner = users::owner(self.privilege, key.user);
                chown(&path, owner, owner).map_err(failed(&path))?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed(&path))?;
            }
            self.start(&name, key, "run").await?;
            let mut link = self.connect(&name).await?;
            let greeting = greet(&mut link, &runner_key, 0).await.ok_or_else(silent)?;
            Ok((link, greeting.memory_limit))
        };
        match made.await {
            Ok((link, memory_limit)) => Ok(Sandbox {
                id: name.clone(),
                runner_key,
                link,
                key: key.clone(),
                note: None,
                memory_limit,
                connection: None,
                name,
            }),
            Err(error) => {
                self.remove_sandbox(&name).await;
                Err(error)
            }
        }
    }

    /// Starts the processes of a sandbox whose folder exists.
    async fn start(&self, name: &str, key: &SandboxKey, action: &str) -> Result<(), DriverError> {
        let at = self.folder.join(name);
        let mut note = Note {
            created: read_note(&at).map_or_else(now, |note| note.created),
            process: None,
            link: None,
            outlet: None,
        };
        let network = match key.network {
            SandboxNetwork::None => None,
            SandboxNetwork::Closed | SandboxNetwork::Metadata => {
                let (way, closed) = self.outlet.take(&at, &self.bin.runner()).await?;
                if let Way::Link(link) = &way {
                    note.link = Some(link.clone());
                }
                Some(Outside {
                    way,
                    metadata_open: key.network == SandboxNetwork::Metadata,
                    closed,
                })
            }
        };
        write_note(&at, &note)?;
        self.groups.create(name, key.limits)?;
        let specification = Specification {
            folder: at.clone(),
            bin: self.bin.path().to_owned(),
            runner: runner_file::NAME.to_owned(),
            action: action.to_owned(),
            user: key.user,
            privilege: self.privilege,
            network,
            groups: self.groups.views(name),
            resolvers: self.outlet.resolvers(),
        };
        let errors = at.join(SAID);
        let log = fs::File::create(&errors).map_err(failed(&errors))?;
        let mut child = Command::new("/proc/self/exe")
            .args(["native-sandbox", "outer"])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Signals for the agent's group are not for sandboxes.
            .process_group(0)
            .spawn()
            .map_err(failed("/proc/self/exe"))?;
        let accompanied = self
            .accompany(&mut child, name, &at, &mut note, specification)
            .await;
        let Err(error) = accompanied else {
            // Whoever started a process has to wait for its end.
            tokio::spawn(async move {
                let _ = child.wait().await;
            });
            return Ok(());
        };
        let _ = child.start_kill();
        let ended = child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        Err(match said(&at) {
            None => {
                tracing::warn!(
                    sandbox = name,
                    ended,
                    "the processes of a sandbox ended early and said nothing"
                );
                error
            }
            Some(said) => DriverError::NotNative(said),
        })
    }

    /// Does what the processes of a sandbox ask for, until they have become its runner.
    async fn accompany(
        &self,
        child: &mut Child,
        name: &str,
        at: &Path,
        note: &mut Note,
        specification: Specification,
    ) -> Result<(), DriverError> {
        let gone = || DriverError::NotNative("the first process of a sandbox has ended".to_owned());
        let outer = child.id().ok_or_else(gone)?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(gone());
        };
        // Everything that is started from here on counts.
        self.groups.enter(name, outer)?;
        let way = specification.network.as_ref().map(|outside| outside.way.clone());
        let mut text = serde_json::to_vec(&specification).map_err(|error| failed(at)(error.into()))?;
        text.push(b'\n');
        input.write_all(&text).await.map_err(failed(at))?;
        let mut lines = BufReader::new(output).lines();
        let (mut inner, mut early, mut mapped) = (None, None, false);
        while let Some(line) = lines.next_line().await.map_err(failed(at))? {
            let mut wish = serde_json::from_str(&line).map_err(|_| gone())?;
            if let Wish::Inner(number) = wish {
                inner = Some(number);
                note.process = ProcessId::of(number);
                write_note(at, note)?;
                match early.take() {
                    Some(earlier) => wish = earlier,
                    None => continue,
                }
            }
            // The inner process may speak before the outer one has told its number.
            let Some(process) = inner else {
                early = Some(wish);
                continue;
            };
            match wish {
                Wish::Inner(_) => continue,
                Wish::Link => {
                    let way = way.as_ref().ok_or_else(gone)?;
                    note.outlet = self.outlet.connect(way, process, at).await?;
                    if let Some(outlet) = &note.outlet {
                        // What it takes is the sandbox's appetite.
                        self.groups.enter(name, outlet.number())?;
                        write_note(at, note)?;
                    }
                }
                Wish::Users => {
                    users::map(self.privilege, process, specification.user).map_err(failed("/proc"))?;
                    mapped = true;
                }
            }
            input.write_all(b"\n").await.map_err(failed(at))?;
        }
        if mapped { Ok(()) } else { Err(gone()) }
    }

    /// Opens a stream to the runner of a sandbox.
    async fn connect(&self, name: &str) -> Result<RunnerLink, DriverError> {
        let at = self.folder.join(name);
        let deadline = tokio::time::Instant::now() + LISTENS;
        let stream = loop {
            match reach(&at).await {
                Ok(stream) => break stream,
                Err(source) => {
                    let runs = read_note(&at)
                        .and_then(|note| note.process)
                        .is_some_and(|process| process.is_alive());
                    if !runs && let Some(said) = said(&at) {
                        return Err(DriverError::NotNative(said));
                    }
                    if !runs || tokio::time::Instant::now() > deadline {
                        return Err(failed(at.join("job").join(SOCKET))(source));
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let (output, input) = stream.into_split();
        let pieces = stream::unfold(output, |mut output| async move {
            let mut buffer = bytes::BytesMut::with_capacity(64 << 10);
            match output.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => None,
                Ok(_) => Some((buffer.freeze(), output)),
            }
        });
        Ok(RunnerLink::new(Box::pin(input), Box::pin(pieces)))
    }

    /// Whether a sandbox still reaches the world; the rules of the host are made again where they are gone.
    pub async fn is_connected(&self, sandbox: &Sandbox) -> bool {
        if sandbox.key.network == SandboxNetwork::None {
            return true;
        }
        let Some(note) = read_note(&self.folder.join(&sandbox.name)) else {
            return false;
        };
        match self.outlet.keeps(note.link.as_ref(), note.outlet.as_ref()).await {
            Ok(keeps) => keeps,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the network of sandboxes cannot be kept as it has to be"
                );
                false
            }
        }
    }

    /// Gives a warm sandbox the limits of the job that takes it.
    ///
    /// # Errors
    /// [`DriverError`] when the kernel refuses.
    pub fn assign(&self, sandbox: &mut Sandbox, limits: Limits) -> Result<(), DriverError> {
        self.groups.set(&sandbox.name, limits)?;
        sandbox.key.limits = limits;
        Ok(())
    }

    /// Whether a file exists on the job volume of a sandbox.
    pub fn job_file_exists(&self, name: &str, file: &str) -> bool {
        fs::symlink_metadata(self.folder.join(name).join("job").join(file)).is_ok()
    }

    /// Ends a sandbox and removes everything of it.
    pub async fn remove_sandbox(&self, name: &str) {
        self.end(name).await;
        let at = self.folder.join(name);
        let removed = tokio::task::spawn_blocking({
            let at = at.clone();
            move || remove::folder(&at)
        });
        if let Ok(Err(error)) = removed.await
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(
                folder = %at.display(),
                error = &error as &dyn std::error::Error,
                "a sandbox's folder could not be removed"
            );
        }
    }

    /// The folder with the state of a sandbox.
    pub(super) fn state_folder(&self, place: &Place) -> String {
        self.folder
            .join(&place.volumes)
            .join("state")
            .display()
            .to_string()
    }

    /// Ends the processes of a sandbox. Its volumes stay.
    pub(super) async fn end(&self, name: &str) {
        let note = read_note(&self.folder.join(name));
        if let Some(process) = note.as_ref().and_then(|note| note.process.as_ref()) {
            process.kill();
        }
        if let Some(outlet) = note.as_ref().and_then(|note| note.outlet.as_ref()) {
            outlet.kill();
        }
        self.groups.remove(name).await;
        if let (Some(link), Outlet::Links(network)) = (note.and_then(|note| note.link), &self.outlet) {
            network.give_back(&link).await;
        }
    }
}

/// What the processes of a sandbox had to say before they ended.
fn said(at: &Path) -> Option<String> {
    let said = fs::read_to_string(at.join(SAID)).ok()?;
    let said = said.trim().trim_start_matches("terrapool-agent: ");
    (!said.is_empty()).then(|| said.to_owned())
}

fn silent() -> DriverError {
    DriverError::RunnerSilent {
        image: HOST.to_owned(),
    }
}

fn failed(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.as_ref().to_owned();
    move |source| DriverError::File { path, source }
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

fn make_private(path: &Path) -> Result<(), DriverError> {
    let mut folder = fs::DirBuilder::new();
    folder
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path))
}

/// Connects to the runner's socket. What is inside a sandbox may put anything in its place, so nothing is followed.
async fn reach(at: &Path) -> io::Result<tokio::net::UnixStream> {
    let folder = rustix::fs::open(
        at,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let socket = rustix::fs::openat2(
        &folder,
        Path::new("job").join(SOCKET),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    tokio::net::UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

fn read_note(at: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(at.join("sandbox.json")).ok()?).ok()
}

fn write_note(at: &Path, note: &Note) -> Result<(), DriverError> {
    let (path, temporary) = (at.join("sandbox.json"), at.join(".sandbox.json"));
    let text = serde_json::to_vec(note).map_err(|error| failed(&path)(error.into()))?;
    fs::write(&temporary, text).map_err(failed(&temporary))?;
    fs::rename(&temporary, &path).map_err(failed(&path))
}
