//! The steps of a job, from the unpacked bundle to what it leaves behind.

mod phases;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use terrapool_model::engine::Engine;
use terrapool_protocol::job::{
    Artifact, ArtifactName, FailureReason, JobSpec, Limit, Outcome, PartName, Phase, StateMark, Usage,
};
use terrapool_protocol::mask::{self, Masker};
use terrapool_protocol::runner::{Egress, FromRunner, RunnerStage, StopReason, log_head};
use terrapool_protocol::secret::Secret;

use crate::archive::{self, ArchiveError, ArchiveLimits, Inventory};
use crate::bundle::{StateFile, part_path};
use crate::children::Exit;
use crate::configuration::{self, LOCK_FILE};
use crate::digest;
use crate::environment::{self, Environment};
use crate::error::{Failure, Halt};
use crate::guard::{self, Guard};
use crate::outcome;
use crate::plan_archive::{self, Manifest};
use crate::process::{self, Output};
use crate::providers;
use crate::relay;
use crate::remains;
use crate::shared::{Cause, Shared, Status, Stop};
use crate::spool::Spool;
use crate::usage::ControlGroup;

/// What the agent sent as [`Work`](terrapool_protocol::runner::ToRunner::Work).
#[derive(Debug, Clone)]
pub struct Work {
    /// What to do.
    pub spec: JobSpec,
    /// The engine below the folder of engines.
    pub engine_path: String,
    /// Kind and version.
    pub engine: Engine,
    /// The digest that it has to have.
    pub engine_sha256: String,
    /// Whether the agent has made sure of it.
    pub engine_verified: bool,
    /// Keys of the provider schemas that the agent has.
    pub known_schemas: Vec<String>,
    /// Names by which configurations may call the control plane.
    pub hosts: Vec<String>,
    /// The way out to the network.
    pub egress: Egress,
    /// What the log begins with, which the agent has delivered already.
    pub preface: String,
}

/// Where temporary files go, found once per sandbox.
pub fn temporary_folder(paths: &crate::paths::Paths) -> PathBuf {
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    if rustix::fs::access(&paths.tmp, access).is_ok() {
        return paths.tmp.clone();
    }
    paths.job.join("tmp")
}

/// What a job leaves behind apart from its log.
#[derive(Debug, Default)]
struct Left {
    state: Option<StateMark>,
    artifacts: Vec<Artifact>,
    schemas_key: Option<String>,
}

/// What the kernel has refused so far; `None` where it does not tell.
#[derive(Debug, Clone, Copy)]
struct Refusals {
    /// Processes that were killed for memory.
    kills: Option<u64>,
    /// Processes and threads that could not be made.
    processes: Option<u64>,
}

struct Job<'job> {
    shared: &'job Arc<Shared>,
    work: &'job Work,
    spool: &'job Spool,
    engine: PathBuf,
    environment: Environment,
    configuration: PathBuf,
    group: ControlGroup,
    clock: Option<Instant>,
    engine_ms: Option<u64>,
    begun: Instant,
    left: Left,
}

/// Does a job and says how it ended. `received` is what went wrong with the bundle.
pub fn execute(
    shared: &Arc<Shared>,
    work: &Work,
    state: &StateFile,
    received: Option<Failure>,
) -> FromRunner {
    let secrets = mask::secrets(&work.spec);
    let masker = Masker::new(secrets.iter().map(String::as_str));
    let limits = work.spec.limits;
    let spool = match Spool::create(shared, masker, limits.log_mb << 20) {
        Ok(spool) => spool,
        Err(failure) => return outcome::finished_without_log(&outcome::failed(failure)),
    };
    if work.preface.is_empty() {
        spool.append(log_head(&work.engine).as_bytes());
    } else {
        spool.repeat(&work.preface);
    }
    if shared.children.is_init() {
        set_open_files(limits.open_files);
    }
    let group = ControlGroup::new(&shared.paths.cgroup);
    Guard::start(shared, group.clone(), limits, work.spec.phase);
    let mut job = Job {
        shared,
        work,
        spool: &spool,
        engine: shared.paths.bin.join(&work.engine_path),
        environment: Environment::default(),
        configuration: shared.paths.configuration(),
        group,
        clock: None,
        engine_ms: None,
        begun: Instant::now(),
        left: Left::default(),
    };
    let result = match received {
        Some(failure) => Err(Halt::Failed(failure)),
        None => job.steps(state),
    };
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(Halt::Stopped) => {
            let status = shared.status();
            let (stop, started) = (status.stop.clone(), status.started);
            drop(status);
            match stop {
                Some(stop) if started || matches!(stop.cause, Cause::Limit(_)) => {
                    say_why(&spool, &stop);
                    outcome::stopped(work.spec.phase, stop)
                }
                _ => Outcome::Canceled,
            }
        }
        Err(Halt::Failed(failure)) => {
            spool.flush();
            spool.line(&format!("\nError: {}", failure.message));
            outcome::failed(failure)
        }
    };
    let usage = Usage {
        peak_memory_bytes: job.group.peak_memory(),
        cpu_ms: job.group.cpu_ms(),
        engine_ms: job.engine_ms,
        sandbox_ms: None,
        init_ms: shared.status().init_ms,
    };
    let (log_size, log_sha256) = spool.finish();
    FromRunner::Finished {
        outcome: outcome::masked(outcome, &spool),
        log_size,
        log_sha256,
        state: job.left.state,
        artifacts: job.left.artifacts,
        schemas_key: job.left.schemas_key,
        usage,
        memory: job.group.curve(),
        secrets: secrets.into_iter().map(Secret::new).collect(),
    }
}

/// A run that reached a limit says so in its log.
fn say_why(spool: &Spool, stop: &Stop) {
    if let Cause::Limit(failure) = &stop.cause {
        spool.flush();
        spool.line(&format!("\nError: {}", failure.message));
    }
}

/// Limits the open files of everything that is started from here on. The engine of the container may allow less.
fn set_open_files(most: u32) {
    let resource = rustix::process::Resource::Nofile;
    let before = rustix::process::getrlimit(resource);
    let most = u64::from(most).min(before.maximum.unwrap_or(u64::MAX));
    let limit = rustix::process::Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // A limit that is lowered is never refused.
    let _ = rustix::process::setrlimit(resource, limit);
}

impl Job<'_> {
    fn steps(&mut self, state: &StateFile) -> Result<Outcome, Halt> {
        let spec = &self.work.spec;
        let inventory = self.unpack()?;
        let planned = match spec.phase {
            Phase::Plan => None,
            Phase::Apply => Some(self.unpack_plan()?),
        };
        let root = configuration::root_module(&self.configuration, &spec.working_directory)?;
        configuration::write_override(&self.shared.paths, &root, self.work.engine.kind)?;
        let notes = configuration::write_variables(&root, spec)?;
        let temporary = temporary_folder(&self.shared.paths);
        self.environment = environment::build(&self.shared.paths, &temporary, spec, &self.work.egress);
        for note in notes.iter().chain(&self.environment.notes) {
            self.spool.line(note);
        }
        let port = match relay::start(self.shared) {
            Ok(port) => Some(port),
            Err(error) => {
                let note = format!("The states of other workspaces cannot be read in this run: {error}.");
                self.spool.line(&note);
                None
            }
        };
        environment::write_cli_config(&self.shared.paths, &self.work.hosts, port)
            .map_err(|error| Failure::io("write", &self.shared.paths.cli_config(), &error))?;
        if let Some(planned) = &planned {
            planned.check(&self.manifest(&root)?)?;
        }
        self.init_with_consent(&root, state)?;
        configuration::check_backend(&self.shared.paths, &root)?;
        let init_ms = u64::try_from(self.begun.elapsed().as_millis()).ok();
        self.shared.change(|status| {
            status.init_ms = init_ms;
            status.prepared = true;
            status.stage = RunnerStage::Prepared;
        });
        match spec.phase {
            Phase::Plan => self.plan(&root, &inventory),
            Phase::Apply => self.apply(&root, state),
        }
    }

    fn has_part(&self, name: PartName) -> bool {
        self.work.spec.parts.iter().any(|part| part.name == name)
    }

    fn unpack(&self) -> Result<Inventory, Failure> {
        let path = part_path(&self.shared.paths, PartName::Configuration);
        let root = &self.configuration;
        let in_root = |error: io::Error| Failure::io("unpack into", root, &error);
        fs::create_dir_all(root).map_err(in_root)?;
        if !self.has_part(PartName::Configuration) {
            let message = "The run has no configuration. Upload one, then start a new run.";
            return Err(Failure::new(FailureReason::Configuration, message));
        }
        let file = File::open(&path).map_err(in_root)?;
        let unpacked = archive::unpack(file, root, ArchiveLimits::CONFIGURATION).map_err(|error| {
            let reason = match &error {
                ArchiveError::Limit(_) => FailureReason::Limit,
                ArchiveError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                    FailureReason::Limit
                }
                _ => FailureReason::Configuration,
            };
            Failure::new(reason, format!("The configuration cannot be unpacked. {error}"))
        });
        let _ = fs::remove_file(&path);
        unpacked
    }

    fn unpack_plan(&self) -> Result<Manifest, Failure> {
        let path = part_path(&self.shared.paths, PartName::PlanArchive);
        if !self.has_part(PartName::PlanArchive) {
            let message = "The plan of this run is missing. Start a new run.";
            return Err(Failure::new(FailureReason::PlanMismatch, message));
        }
        let file = File::open(&path).map_err(|error| Failure::io("open", &path, &error))?;
        let unpacked = plan_archive::unpack(&self.shared.paths, file);
        let _ = fs::remove_file(&path);
        let manifest = unpacked?;
        if self
            .work
            .spec
            .engine_sha256
            .as_ref()
            .is_some_and(|sha256| *sha256 != self.work.engine_sha256)
        {
            let message = format!(
                "The plan cannot be applied: it was made by another binary of {}. Start a new run.",
                self.work.engine
            );
            return Err(Failure::new(FailureReason::PlanMismatch, message));
        }
        Ok(manifest)
    }

    fn manifest(&self, root: &Path) -> Result<Manifest, Failure> {
        let spec = &self.work.spec;
        Ok(Manifest {
            workspace: spec.workspace.clone(),
            configuration_sha256: spec
                .parts
                .iter()
                .find(|part| part.name == PartName::Configuration)
                .map(|part| part.sha256.clone()),
            engine_sha256: self.work.engine_sha256.clone(),
            lock_sha256: lock_file(root)?.as_deref().map(digest::of),
            working_directory: spec.working_directory.clone(),
        })
    }

    fn command(&self, root: &Path, arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(&self.engine);
        command
            .args(arguments)
            .current_dir(root)
            .env_clear()
            .envs(&self.environment.variables)
            .process_group(0);
        command
    }

    /// Runs the engine and adds to the time that it took.
    fn run(
        &mut self,
        command: Command,
        output: Output<'_>,
        started: impl FnOnce(&mut Status),
    ) -> Result<Exit, Halt> {
        let clock = *self.clock.get_or_insert_with(Instant::now);
        let exit = process::run(self.shared, command, output, started)?;
        self.engine_ms = u64::try_from(clock.elapsed().as_millis()).ok();
        Ok(exit)
    }

    /// `init`, which installs no provider that only the state names.
    fn init_with_consent(&mut self, root: &Path, state: &StateFile) -> Result<(), Halt> {
        let without_consent = || -> Result<BTreeSet<String>, Failure> {
            let failed = |error: io::Error| Failure::io("read", &state.path, &error);
            let document = File::open(&state.path).map_err(failed)?;
            let lock_file = lock_file(root)?.unwrap_or_default();
            Ok(providers::without_consent(
                document,
                &String::from_utf8_lossy(&lock_file),
            ))
        };
        if without_consent()?.is_empty() {
            return self.init(root);
        }
        // Modules may require what the lock file does not know yet: without the state, `init` finds all of that.
        let aside = state.path.with_extension("aside");
        let failed = |error: io::Error| Failure::io("move", &state.path, &error);
        fs::rename(&state.path, &aside).map_err(failed)?;
        let initialized = self.init(root);
        fs::rename(&aside, &state.path).map_err(failed)?;
        initialized?;
        let left = without_consent()?;
        if left.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = left.into_iter().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "The state has resources of {}, which the configuration does not require. Nothing is installed because a state \
             names it: add it to `required_providers`, or to the lock file, until the state is rid of it.",
            names.join(", ")
        );
        Err(Failure::new(FailureReason::Init, message).into())
    }

    /// `init`, while the engine's binary is verified unless the agent has done that.
    fn init(&mut self, root: &Path) -> Result<(), Halt> {
        let mut arguments = vec!["init", "-input=false", "-no-color"];
        if self.work.spec.phase == Phase::Apply && root.join(LOCK_FILE).exists() {
            arguments.push("-lockfile=readonly");
        }
        let command = self.command(root, &arguments);
        let engine = self.engine.clone();
        let expected = self.work.engine_sha256.clone();
        let before = self.refusals();
        let mut output = Vec::new();
        let (verified, exit) = thread::scope(|scope| {
            let verification =
                (!self.work.engine_verified).then(|| scope.spawn(move || verify(&engine, &expected)));
            let exit = self.run(command, Output::Capture(&mut output), |_| {});
            (
                verification.map_or(Ok(Ok(())), thread::ScopedJoinHandle::join),
                exit,
            )
        });
        let exit = exit?;
        match verified {
            Ok(result) => result?,
            Err(_) => {
                return Err(Failure::new(FailureReason::Internal, "The engine cannot be verified.").into());
            }
        }
        if exit.code == Some(0) {
            return Ok(());
        }
        self.spool.append(&output);
        self.spool.flush();
        if self.shared.status().stop.is_some() {
            return Err(Halt::Stopped);
        }
        if let Some(failure) = self.out_of_memory(before) {
            return Err(failure.into());
        }
        let detail = self
            .spool
            .first_error()
            .unwrap_or_else(|| outcome::describe(exit));
        let message = format!("`{} init` failed: {detail}", self.work.engine.kind);
        Err(Failure::new(FailureReason::Init, self.with_refused_processes(message, before)).into())
    }

    /// Makes the marker, then runs the engine phase. Returns its exit only when it ended by itself and was not told to.
    fn engine_phase(
        &mut self,
        root: &Path,
        command: Command,
        dump: &mut Option<Vec<u8>>,
    ) -> Result<Exit, Halt> {
        {
            let mut status = self.shared.status();
            if status.stop.is_some() {
                return Err(Halt::Stopped);
            }
            status.stage = RunnerStage::Running;
        }
        let marker = self.shared.paths.marker();
        let made = File::options()
            .write(true)
            .create_new(true)
            .open(&marker)
            .and_then(|mut file| {
                let mark = remains::Mark {
                    run: self.work.spec.run.clone(),
                    phase: self.work.spec.phase,
                    folder: root.to_owned(),
                };
                mark.write(&mut file)?;
                file.sync_all()?;
                File::open(&self.shared.paths.job)?.sync_all()
            });
        if let Err(error) = made {
            let message = if error.kind() == io::ErrorKind::AlreadyExists {
                "An engine was started in this sandbox before; it is not started a second time.".to_owned()
            } else {
                format!("Cannot mark the start of the engine: {error}.")
            };
            return Err(Failure::new(FailureReason::Internal, message).into());
        }
        self.run(command, Output::Log(self.spool, dump), |status| {
            status.started = true
        })
    }

    /// What a stop request, the kernel or the engine's exit mean for the outcome. `None` when the engine succeeded.
    fn ending(&self, exit: Exit, good: &[i32], before: Refusals, stop: Option<Stop>) -> Option<Outcome> {
        let phase = self.work.spec.phase.as_str();
        let succeeded = exit.code.is_some_and(|code| good.contains(&code));
        match stop {
            // Whoever was told to end for a reason of ours, and yet came to the end of the work, has done it.
            Some(stop) if stop.cause == Cause::Asked(StopReason::Canceled) || !succeeded => {
                say_why(self.spool, &stop);
                return Some(outcome::stopped(self.work.spec.phase, stop));
            }
            _ if succeeded => {
                self.tell_refusals(before);
                return None;
            }
            _ => {}
        }
        if let Some(failure) = self.out_of_memory(before) {
            self.spool.line(&format!("\nError: {}", failure.message));
            return Some(outcome::failed(failure));
        }
        let detail = match (exit.code, self.spool.first_error()) {
            (Some(_), Some(error)) => error,
            _ => outcome::describe(exit),
        };
        if exit.code.is_none() {
            self.spool
                .line(&format!("\nError: the engine {}", outcome::describe(exit)));
        }
        let message = format!("`{} {phase}` failed: {detail}", self.work.engine.kind);
        self.tell_refusals(before);
        let message = self.with_refused_processes(message, before);
        Some(outcome::failed(Failure::new(FailureReason::Exit, message)))
    }

    fn refusals(&self) -> Refusals {
        Refusals {
            kills: self.group.out_of_memory_kills(),
            processes: self.group.refused_processes(),
        }
    }

    /// Says in the log which limits were reached though the engine went on to its own end.
    fn tell_refusals(&self, before: Refusals) {
        let memory = self.out_of_memory(before).map(|failure| failure.message);
        let notes = memory.into_iter().chain(self.refused_processes(before));
        for note in notes {
            self.spool.flush();
            self.spool.line(&format!("\nWarning: {note}"));
        }
    }

    fn with_refused_processes(&self, message: String, before: Refusals) -> String {
        match self.refused_processes(before) {
            Some(note) => format!("{}. {note}", message.trim_end_matches('.')),
            None => message,
        }
    }

    fn refused_processes(&self, before: Refusals) -> Option<String> {
        let limit = self.work.spec.limits.pids;
        (self.group.refused_processes() > before.processes).then(|| {
            format!(
                "Processes or threads of the run were refused: it may have {limit} at once. {}.",
                guard::raise(Limit::Processes)
            )
        })
    }

    fn out_of_memory(&self, before: Refusals) -> Option<Failure> {
        let more = self.group.out_of_memory_kills() > before.kills;
        let limit = self.work.spec.limits.memory_mb;
        more.then(|| {
            self.group.killed();
            let peak = match self.group.peak_memory() {
                Some(peak) => format!(" (peak {} MiB)", peak >> 20),
                None => String::new(),
            };
            let message = format!(
                "The run needed more than its {limit} MiB of memory{peak}, and the kernel killed a process of it. {}.",
                guard::raise(Limit::Memory)
            );
            Failure::new(FailureReason::OutOfMemory, message)
        })
    }
}

fn verify(engine: &Path, expected: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        let message = format!("The engine {} cannot be read: {error}.", engine.display());
        Failure::new(FailureReason::Engine, message)
    };
    let (_, found) = digest::of_file(engine).map_err(failed)?;
    if found == expected {
        return Ok(());
    }
    let message = format!(
        "The engine {} is not what it should be: its SHA-256 is {found}, expected was {expected}.",
        engine.display()
    );
    Err(Failure::new(FailureReason::Engine, message))
}

fn lock_file(root: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let path = root.join(LOCK_FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("read", &path, &error)),
    }
}

/// Where an artifact lies.
pub fn artifact_path(paths: &crate::paths::Paths, name: ArtifactName) -> PathBuf {
    let file = match name {
        ArtifactName::PlanArchive => "plan-archive.tar.gz",
        ArtifactName::PlanJson => "plan.json",
        ArtifactName::PlanRedacted => "plan-redacted.json",
        ArtifactName::ProviderSchemas => "provider-schemas.json",
    };
    paths.artifacts().join(file)
}
