//! A runner inside the test process, in folders of its own, and an agent that talks to it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test file uses a part of it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use terrapool_model::engine::{Engine, EngineKind};
use terrapool_model::time::Millis;
use terrapool_protocol::frame::{Decoder, encode};
use terrapool_protocol::job::{
    Artifact, ArtifactName, BundlePart, EngineRequest, JobSpec, JobTimes, Limits, Outcome, OutputFormat,
    PartName, Phase, PlanMode, RunVariable, SandboxProxy, StateMark, Usage, Variable, VariableCategory,
};
use terrapool_protocol::memory::MemoryCurve;
use terrapool_protocol::runner::{Egress, FromRunner, RunnerStage, StopKind, StopReason, ToRunner};
use terrapool_protocol::secret::Secret;
use terrapool_runner::{Options, Paths, run, serve_remains};

pub const KEY: &str = "the-key-of-this-attempt";

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn terraform() -> &'static (PathBuf, String) {
    static TERRAFORM: OnceLock<(PathBuf, String)> = OnceLock::new();
    TERRAFORM.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap();
        let binary = std::env::split_paths(&path)
            .map(|folder| folder.join("terraform"))
            .find(|file| file.is_file())
            .expect("these tests need terraform on PATH");
        let digest = sha256(&fs::read(&binary).unwrap());
        (binary, digest)
    })
}

/// Lets another process write a file: a descriptor of ours could be inherited by a process that another test starts
/// meanwhile, and the kernel does not execute a file that is open for writing.
fn write_elsewhere(path: &Path, content: &str) {
    let mut child = std::process::Command::new("tee")
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// A sandbox's folders. They can be made anew at the same place, as the next sandbox has them.
pub struct Sandbox {
    folder: tempfile::TempDir,
    pub paths: Paths,
    runner: Option<JoinHandle<()>>,
    engine: Option<PathBuf>,
}

impl Sandbox {
    pub fn new() -> Self {
        let mut sandbox = Self::idle();
        sandbox.start();
        sandbox
    }

    fn idle() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("t");
        let paths = Paths {
            bin: root.join("bin"),
            job: root.join("job"),
            work: root.join("work"),
            state: root.join("state"),
            changes: root.join("changes"),
            providers: root.join("providers"),
            tmp: root.join("tmp"),
            cgroup: root.join("cgroup"),
        };
        Self {
            folder,
            paths,
            runner: None,
            engine: None,
        }
    }

    /// With a script in place of the engine.
    pub fn with_engine(script: &str) -> Self {
        let mut sandbox = Self::idle();
        let path = sandbox.folder.path().join("engine");
        write_elsewhere(&path, script);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        sandbox.engine = Some(path);
        sandbox.start();
        sandbox
    }

    fn start(&mut self) {
        let link = self.paths.bin.join("terraform_1.11.4/terraform");
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        fs::create_dir_all(&self.paths.tmp).unwrap();
        let engine = self.engine.clone().unwrap_or_else(|| terraform().0.clone());
        symlink(engine, link).unwrap();
        let options = Options {
            paths: self.paths.clone(),
            init: false,
            own_process: false,
        };
        let socket = self.paths.socket();
        self.runner = Some(std::thread::spawn(move || run(&options).unwrap()));
        while !socket.exists() {
            std::thread::yield_now();
        }
    }

    /// The same sandbox as it is for the next job: everything from scratch.
    pub fn renew(&mut self) {
        self.release();
        fs::remove_dir_all(self.folder.path().join("t")).unwrap();
        self.start();
    }

    /// The sandbox is gone as far as the agent can tell; another one serves its volumes.
    pub fn open_remains(&mut self, log_from: u64) -> Agent {
        let options = Options {
            paths: self.paths.clone(),
            init: false,
            own_process: false,
        };
        let socket = self.paths.socket();
        let before = fs::metadata(&socket).unwrap().ino();
        self.runner = Some(std::thread::spawn(move || serve_remains(&options).unwrap()));
        while !fs::metadata(&socket).is_ok_and(|metadata| metadata.ino() != before) {
            std::thread::yield_now();
        }
        self.connect(log_from)
    }

    pub fn stream(&self) -> UnixStream {
        self.try_stream().expect("the runner has ended")
    }

    fn try_stream(&self) -> Option<UnixStream> {
        // The socket file exists a moment before the socket listens.
        while self.runner.as_ref().is_some_and(|runner| !runner.is_finished()) {
            if let Ok(stream) = UnixStream::connect(self.paths.socket()) {
                stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
                return Some(stream);
            }
            std::thread::yield_now();
        }
        None
    }

    fn release(&mut self) {
        if let Some(stream) = self.try_stream() {
            Agent::hello(stream, KEY, 0).send(&ToRunner::Release);
        }
        if let Some(runner) = self.runner.take() {
            let _ = runner.join();
        }
    }

    pub fn connect(&self, log_from: u64) -> Agent {
        Agent::hello(self.stream(), KEY, log_from)
    }

    pub fn work(&self, spec: &JobSpec) -> ToRunner {
        let engine_sha256 = match &self.engine {
            Some(path) => sha256(&fs::read(path).unwrap()),
            None => terraform().1.clone(),
        };
        ToRunner::Work {
            spec: Box::new(spec.clone()),
            engine_path: "terraform_1.11.4/terraform".to_owned(),
            engine: Engine {
                kind: EngineKind::Terraform,
                version: "1.11.4".parse().unwrap(),
            },
            engine_sha256,
            engine_verified: false,
            known_schemas: Vec::new(),
            hosts: vec!["tp.example.com".to_owned()],
            egress: Egress::default(),
            preface: String::new(),
        }
    }

    /// Connects and hands over a job.
    pub fn begin(&self, job: &Job) -> Agent {
        let mut agent = self.connect(0);
        agent.submit(self, job);
        agent
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.release();
    }
}

/// A job and the bytes of its bundle.
#[derive(Clone)]
pub struct Job {
    pub spec: JobSpec,
    pub bundle: Vec<u8>,
}

impl Job {
    pub fn plan(configuration: &[(&str, &str)]) -> Self {
        Self::with_archive(&archive(configuration))
    }

    pub fn with_archive(bytes: &[u8]) -> Self {
        let mut job = Self {
            spec: spec(),
            bundle: Vec::new(),
        };
        job.part(PartName::Configuration, bytes);
        job
    }

    pub fn part(&mut self, name: PartName, bytes: &[u8]) {
        self.spec.parts.push(BundlePart {
            name,
            size: bytes.len() as u64,
            sha256: sha256(bytes),
        });
        self.bundle.extend_from_slice(bytes);
    }

    /// The apply of a plan.
    pub fn apply(&self, plan_archive: &[u8], state: Option<&[u8]>) -> Self {
        let mut job = self.clone();
        job.spec.phase = Phase::Apply;
        if let Some(state) = state {
            job.part(PartName::State, state);
        }
        job.part(PartName::PlanArchive, plan_archive);
        job
    }

    pub fn variable(
        mut self,
        key: &str,
        value: &str,
        category: VariableCategory,
        hcl: bool,
        sensitive: bool,
    ) -> Self {
        self.spec.variables.push(Variable {
            key: key.to_owned(),
            value: Secret::new(value),
            category,
            hcl,
            sensitive,
        });
        self
    }

    pub fn run_variable(mut self, key: &str, value: &str) -> Self {
        self.spec.run_variables.push(RunVariable {
            key: key.to_owned(),
            value: Secret::new(value),
        });
        self
    }
}

fn spec() -> JobSpec {
    JobSpec {
        run: "run-1111111111111111".parse().unwrap(),
        workspace: "ws-1111111111111111".parse().unwrap(),
        workspace_name: "net-prod".to_owned(),
        organization: "acme".to_owned(),
        project: "platform".to_owned(),
        configuration_version: "cv-1111111111111111".parse().unwrap(),
        phase: Phase::Plan,
        engine: EngineRequest {
            kind: EngineKind::Terraform,
            version: "1.11.4".to_owned(),
            download: None,
        },
        engine_sha256: None,
        working_directory: String::new(),
        output: OutputFormat::Plain,
        mode: PlanMode::Normal,
        refresh: true,
        targets: Vec::new(),
        replace: Vec::new(),
        generate_config: false,
        variables: Vec::new(),
        run_variables: Vec::new(),
        parts: Vec::new(),
        limits: Limits::default(),
        times: JobTimes {
            contact_limit: None,
            grace: Millis::from_seconds(60),
            kill_after: Millis::from_seconds(10),
            start_window: Millis::from_seconds(20),
        },
        hostname: "tp.example.com".to_owned(),
        proxy: SandboxProxy::None,
    }
}

pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

/// How a job ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub outcome: Outcome,
    pub log_size: u64,
    pub log_sha256: String,
    pub state: Option<StateMark>,
    pub artifacts: Vec<Artifact>,
    pub schemas_key: Option<String>,
    pub memory: Option<MemoryCurve>,
}

pub struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    pub stage: Option<RunnerStage>,
    pub prepared: bool,
    pub started: bool,
    pub log_from: u64,
    pub log: Vec<u8>,
    pub states: Vec<(StateMark, Vec<u8>)>,
    pub finished: Option<Ended>,
    pub artifact: Vec<u8>,
    pub artifact_complete: bool,
    /// What the sandbox asked the control plane for: number and path.
    pub requests: Vec<(u64, String)>,
    /// Requests whose next piece was asked for.
    pub more: Vec<u64>,
    /// Requests that have ended.
    pub closed: Vec<u64>,
    /// Whether what arrives is acknowledged.
    pub acknowledges: bool,
    /// What it told to have used so far.
    pub progress: Vec<(Usage, Option<MemoryCurve>)>,
}

impl Agent {
    pub fn hello(stream: UnixStream, key: &str, log_from: u64) -> Self {
        let mut agent = Self {
            stream,
            decoder: Decoder::new(),
            stage: None,
            prepared: false,
            started: false,
            log_from,
            log: Vec::new(),
            states: Vec::new(),
            finished: None,
            artifact: Vec::new(),
            artifact_complete: false,
            requests: Vec::new(),
            progress: Vec::new(),
            more: Vec::new(),
            closed: Vec::new(),
            acknowledges: true,
        };
        agent.send(&ToRunner::Hello {
            key: Secret::new(key),
            log_from,
        });
        agent
    }

    pub fn send(&mut self, message: &ToRunner) {
        self.send_body(message, b"");
    }

    pub fn send_body(&mut self, message: &ToRunner, body: &[u8]) {
        // An error shows when reading.
        let _ = self.stream.write_all(&encode(message, body).unwrap());
    }

    pub fn submit(&mut self, sandbox: &Sandbox, job: &Job) {
        self.send(&sandbox.work(&job.spec));
        for piece in job.bundle.chunks(1000) {
            self.send_body(&ToRunner::Part, piece);
        }
    }

    pub fn cancel(&mut self) {
        self.send(&ToRunner::Stop {
            kind: StopKind::Cancel,
            reason: StopReason::Canceled,
        });
    }

    /// Reads until a condition holds; `false` when the runner closes the connection first.
    pub fn until(&mut self, condition: impl Fn(&Self) -> bool) -> bool {
        let mut buffer = vec![0; 64 << 10];
        while !condition(self) {
            while let Some((message, body)) = self.decoder.next().unwrap() {
                self.take(message, body);
            }
            if condition(self) {
                break;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return false,
                // Children end in this process too.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}; log so far:\n{}", self.text()),
            }
        }
        true
    }

    fn take(&mut self, message: FromRunner, body: Vec<u8>) {
        match message {
            FromRunner::Ready { stage, .. } => self.stage = Some(stage),
            FromRunner::Prepared => self.prepared = true,
            FromRunner::Started => self.started = true,
            FromRunner::Log { offset } => {
                assert_eq!(offset, self.log_from + self.log.len() as u64);
                assert!(body.len() <= 64 << 10);
                self.log.extend_from_slice(&body);
                if self.acknowledges {
                    let offset = offset + body.len() as u64;
                    self.send(&ToRunner::LogTaken { offset });
                }
            }
            FromRunner::State { mark } => {
                assert_eq!(
                    (mark.size, mark.sha256.as_str()),
                    (body.len() as u64, sha256(&body).as_str())
                );
                if self.acknowledges {
                    let sha256 = mark.sha256.clone();
                    self.send(&ToRunner::StateTaken { sha256 });
                }
                self.states.push((mark, body));
            }
            FromRunner::Request { request, path, .. } => self.requests.push((request, path)),
            FromRunner::More { request } => self.more.push(request),
            FromRunner::Close { request } => self.closed.push(request),
            FromRunner::ArtifactData { offset, last, .. } => {
                assert_eq!(offset, self.artifact.len() as u64);
                self.artifact.extend_from_slice(&body);
                self.artifact_complete = last;
            }
            FromRunner::Progress { usage, memory } => self.progress.push((usage, memory)),
            FromRunner::Finished {
                outcome,
                log_size,
                log_sha256,
                state,
                artifacts,
                schemas_key,
                memory,
                ..
            } => {
                self.finished = Some(Ended {
                    outcome,
                    log_size,
                    log_sha256,
                    state,
                    artifacts,
                    schemas_key,
                    memory,
                });
            }
        }
    }

    /// Waits for the end; checks that the log is what its digest says.
    pub fn finish(&mut self) -> Ended {
        assert!(self.until(|agent| agent.finished.is_some()), "connection closed");
        let ended = self.finished.clone().unwrap();
        assert_eq!(self.log_from + self.log.len() as u64, ended.log_size);
        if self.log_from == 0 {
            assert_eq!(sha256(&self.log), ended.log_sha256);
        }
        ended
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.log).into_owned()
    }

    pub fn fetch(&mut self, ended: &Ended, name: ArtifactName) -> Vec<u8> {
        let known = ended
            .artifacts
            .iter()
            .find(|artifact| artifact.name == name)
            .unwrap();
        self.artifact.clear();
        self.artifact_complete = false;
        self.send(&ToRunner::Fetch { name });
        assert!(self.until(|agent| agent.artifact_complete));
        let bytes = std::mem::take(&mut self.artifact);
        assert_eq!(
            (known.size, known.sha256.as_str()),
            (bytes.len() as u64, sha256(&bytes).as_str())
        );
        bytes
    }
}

/// Plans in a sandbox, then makes it anew and begins the apply, up to the moment before the start grant.
pub fn planned(sandbox: &mut Sandbox, job: &Job, state: Option<&[u8]>) -> (Agent, Job) {
    let mut with_state = job.clone();
    if let Some(state) = state {
        with_state.part(PartName::State, state);
    }
    let mut agent = sandbox.begin(&with_state);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    let plan = agent.fetch(&ended, ArtifactName::PlanArchive);
    agent.send(&ToRunner::Release);
    sandbox.renew();
    let apply = job.apply(&plan, state);
    let mut agent = sandbox.begin(&apply);
    agent.until(|agent| agent.prepared || agent.finished.is_some());
    assert!(agent.prepared, "{:?}\n{}", agent.finished, agent.text());
    (agent, apply)
}

pub fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Steps around an engine phase; the test gives what `plan` and `apply` do.
const COMMON: &str = r#"#!/bin/sh
case "$1" in
init) mkdir -p .terraform
  echo "{\"backend\":{\"type\":\"local\",\"config\":{\"path\":\"$STATE/terraform.tfstate\",\"workspace_dir\":\"$STATE/d\"}}}" > .terraform/terraform.tfstate; exit 0;;
show|providers) echo '{}'; exit 0;;
esac
for a in "$@"; do case $a in -out=*) echo plan > "${a#-out=}"; [ -n "$PLANS" ] || exit 2;; esac; done
F=$STATE/d/net-prod/terraform.tfstate
"#;

pub fn scripted(body: &str) -> (Sandbox, Job) {
    let sandbox = Sandbox::with_engine(&format!("{COMMON}{body}"));
    let state = sandbox.paths.state.display().to_string();
    let job = Job::plan(&[("main.tf", "")]).variable("STATE", &state, VariableCategory::Env, false, false);
    (sandbox, job)
}

/// A script whose plan is the body too.
pub fn scripted_plan(body: &str) -> (Sandbox, Job) {
    let (sandbox, job) = scripted(body);
    (
        sandbox,
        job.variable("PLANS", "1", VariableCategory::Env, false, false),
    )
}
