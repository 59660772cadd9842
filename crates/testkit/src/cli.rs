//! The stock command lines, run as users run them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

use crate::wait::until;

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Both outputs, as they came.
    pub output: String,
}

impl Ended {
    /// Fails with the output unless the exit code is zero.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.output);
        self.output
    }

    /// Fails with the output when the exit code is zero.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_ne!(self.code, Some(0), "{}", self.output);
        self.output
    }
}

/// A folder with a configuration, and a home where the command line is signed in.
#[derive(Debug)]
pub struct Cli {
    folder: tempfile::TempDir,
    program: PathBuf,
    ca: PathBuf,
    environment: Vec<(String, String)>,
}

impl Cli {
    pub(crate) fn new(host: &str, token: &str, ca: &Path, configuration: &str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("terrapool-cli-")
            .tempdir()
            .expect("a temporary folder");
        std::fs::create_dir_all(folder.path().join("home/.terraform.d")).expect("a home can be made");
        std::fs::create_dir_all(folder.path().join("work")).expect("a folder can be made");
        let cli = Self {
            folder,
            program: "terraform".into(),
            ca: ca.to_owned(),
            environment: Vec::new(),
        };
        let credentials = format!("credentials \"{host}\" {{\n  token = \"{token}\"\n}}\n");
        std::fs::write(cli.folder.path().join("home/cli.tfrc"), credentials).expect("a file can be written");
        cli.write("main.tf", configuration);
        cli
    }

    /// Uses another program: a path, or a name on PATH.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The folder with the configuration.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// The home folder.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// Writes a file of the configuration.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
        std::fs::write(path, content).expect("a file can be written");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.work())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home())
            .env("TF_CLI_CONFIG_FILE", self.home().join("cli.tfrc"))
            .env("SSL_CERT_FILE", &self.ca)
            .env("CHECKPOINT_DISABLE", "1")
            .env("NO_COLOR", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with_input(arguments, "").await
    }

    /// Runs a command to its end, with this on its standard input.
    pub async fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut running = self.start(arguments);
        running.write(input).await;
        running.end().await
    }

    /// Starts a command.
    pub fn start(&self, arguments: &[&str]) -> RunningCli {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} is missing: {error}", self.program.display()));
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        readers.push(tokio::spawn(collect(stdout, Arc::clone(&output))));
        readers.push(tokio::spawn(collect(stderr, Arc::clone(&output))));
        let input = child.stdin.take();
        RunningCli {
            child,
            input,
            output,
            readers,
        }
    }
}

async fn collect(mut stream: impl tokio::io::AsyncRead + Unpin, output: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(&buffer[..count]);
    }
}

/// A text without terminal control sequences: the cloud integration colours its output on any output.
fn plain(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\x1b[") {
        kept.push_str(&rest[..start]);
        let sequence = &rest[start + 2..];
        let end = sequence
            .find(|letter: char| letter.is_ascii_alphabetic())
            .map_or(sequence.len(), |end| end + 1);
        rest = &sequence[end..];
    }
    kept.push_str(rest);
    kept
}

/// A command that runs.
#[derive(Debug)]
pub struct RunningCli {
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl RunningCli {
    /// What it printed so far, without colours.
    pub fn output(&self) -> String {
        plain(&String::from_utf8_lossy(
            &self.output.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Waits until it has printed this.
    pub async fn wait_for(&mut self, text: &str) {
        let found = until(Duration::from_secs(90), async || {
            self.output().contains(text).then_some(())
        })
        .await;
        assert!(found.is_some(), "waited for `{text}`:\n{}", self.output());
    }

    /// Types.
    pub async fn write(&mut self, text: &str) {
        if let Some(input) = &mut self.input {
            // A command that has ended reads no more.
            let _ = input.write_all(text.as_bytes()).await;
            let _ = input.flush().await;
        }
    }

    /// Ctrl-C.
    pub async fn interrupt(&self) {
        let pid = self.child.id().expect("it still runs").to_string();
        let status = Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .await
            .expect("kill is there");
        assert!(status.success());
    }

    /// Closes its input and waits for its end.
    pub async fn end(mut self) -> Ended {
        self.input = None;
        let limit = Duration::from_secs(180);
        let status = tokio::time::timeout(limit, self.child.wait()).await;
        let Ok(status) = status else {
            panic!("it does not end:\n{}", self.output())
        };
        for reader in std::mem::take(&mut self.readers) {
            let _ = reader.await;
        }
        Ended {
            code: status.expect("an exit status").code(),
            output: self.output(),
        }
    }
}
