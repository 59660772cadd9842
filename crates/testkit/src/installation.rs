//! A whole installation: a real control plane, real agents, real command lines.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

mod agent_process;

pub use agent_process::AgentProcess;

use crate::agent_user::AgentUser;
use crate::cli::Cli;
use crate::leftovers;
use crate::wait::until;

/// Where the programs under test are: what `cargo xtask test` built, else beside the running test.
pub fn bin_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("TERRAPOOL_BIN_DIR") {
        return folder.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    test.parent()
        .and_then(Path::parent)
        .expect("tests lie in target/<profile>/deps")
        .to_owned()
}

/// The engines folder that `cargo xtask test` fills.
pub fn engines_dir() -> PathBuf {
    let folder = match std::env::var_os("TERRAPOOL_TEST_ENGINES") {
        Some(folder) => PathBuf::from(folder),
        None => bin_dir().join("../tools/engines"),
    };
    assert!(
        folder.is_dir(),
        "{} is missing: run `cargo xtask test`, or point TERRAPOOL_TEST_ENGINES to a folder with engines",
        folder.display()
    );
    folder
}

fn program(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`, or `cargo build --bins` first",
        path.display()
    );
    path
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    listener
        .local_addr()
        .expect("a bound listener has an address")
        .port()
}

/// Everything an installation writes. It goes with the last process that uses it.
#[derive(Debug)]
struct Folder(tempfile::TempDir);

impl Folder {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let entries = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with("agent-") {
                leftovers::remove(&entry.path());
            }
        }
    }
}

/// A control plane in a process of its own, with a site admin and the organization `acme`.
#[derive(Debug)]
pub struct Installation {
    folder: Arc<Folder>,
    server: Option<Child>,
    family: Family,
    port: u16,
    /// Token of the site admin, who owns `acme`.
    pub token: String,
    http: reqwest::Client,
    environment: Vec<(String, String)>,
}

/// Which addresses an installation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Installation {
    /// Starts on SQLite and a temporary folder.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with further environment variables for the server.
    pub async fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_in(Family::V4, environment).await
    }

    /// Starts where IPv4 leads nowhere.
    pub async fn start_on_ipv6() -> Self {
        Self::start_in(Family::V6, &[]).await
    }

    async fn start_in(family: Family, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("terrapool-test-").tempdir();
        let folder = Arc::new(Folder(folder.expect("a temporary folder")));
        let port = free_port();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut installation = Self {
            folder,
            server: None,
            family,
            port,
            token: String::new(),
            http: reqwest::Client::new(),
            environment,
        };
        installation.start_server().await;
        installation.token = installation
            .admin(&["create-user", "ada", "--email", "ada@example.com", "--site-admin"])
            .await;
        let organization = json!({"data": {"type": "organizations",
            "attributes": {"name": "acme", "email": "ada@example.com"}}});
        installation.post("/organizations", &organization).await;
        installation
    }

    /// Runs `terrapool admin …` before there is an installation.
    pub async fn prepare(arguments: &[&str], environment: &[(&str, &str)]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let output = Command::new(program("terrapool"))
            .arg("admin")
            .args(arguments)
            .env_clear()
            .env("TERRAPOOL_DATA_DIR", folder.path())
            .envs(environment.iter().copied())
            .output()
            .await
            .expect("admin runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Starts the server (again) and waits until it answers.
    pub async fn start_server(&mut self) {
        let log = self.log_file("server.log");
        let child = self
            .command("terrapool")
            .arg("server")
            .stdout(log.try_clone().expect("a log can be shared"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the server starts");
        self.server = Some(child);
        let ca = self.ca();
        let health = format!("{}/healthz", self.url());
        let mut client = None;
        let ready = until(Duration::from_secs(120), async || {
            if client.is_none() {
                let pem = std::fs::read(&ca).ok()?;
                let certificates = reqwest::Certificate::from_pem_bundle(&pem).ok()?;
                client = reqwest::Client::builder()
                    .tls_certs_only(certificates)
                    .build()
                    .ok();
            }
            let answer = client.as_ref()?.get(&health).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        assert!(
            ready.is_some(),
            "the server did not become ready:\n{}",
            self.log("server.log")
        );
        self.http = client.expect("a ready server has a client");
    }

    /// Kills the server, as a crash would.
    pub async fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().await.expect("a running server can be killed");
        }
    }

    /// Ends the server as a service manager does, and returns how long that took.
    pub async fn stop_server(&mut self) -> Duration {
        let mut server = self.server.take().expect("the server runs");
        let pid = server.id().expect("the server runs").to_string();
        let begin = std::time::Instant::now();
        let status = Command::new("kill").arg(&pid).status().await;
        assert!(status.is_ok_and(|status| status.success()), "kill {pid}");
        let end = tokio::time::timeout(Duration::from_secs(30), server.wait()).await;
        let status = end.expect("the server ends").expect("the server has a status");
        assert!(status.success(), "{status}: {}", self.log("server.log"));
        begin.elapsed()
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERRAPOOL_DATA_DIR", self.folder.path().join("data"))
            .env("TERRAPOOL_LISTEN", self.listens_on())
            .env("TERRAPOOL_PUBLIC_URL", self.url())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn log_file(&self, name: &str) -> std::fs::File {
        let path = self.folder.path().join(name);
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .expect("a log file can be made")
    }

    /// What a process of the installation has logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Runs `terrapool admin …` and returns what it printed.
    pub async fn admin(&self, arguments: &[&str]) -> String {
        let output = self
            .command("terrapool")
            .arg("admin")
            .args(arguments)
            .output()
            .await
            .expect("admin runs");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .expect("a token is text")
            .trim()
            .to_owned()
    }

    /// Makes a user who can sign in to the web UI.
    pub async fn create_account(&self, name: &str, password: &str) {
        use tokio::io::AsyncWriteExt as _;
        let mut child = self
            .command("terrapool")
            .args(["admin", "create-user", name, "--site-admin", "--password-stdin"])
            .args(["--email", &format!("{name}@example.com")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("admin runs");
        let mut input = child.stdin.take().expect("the input is a pipe");
        input
            .write_all(password.as_bytes())
            .await
            .expect("admin reads the password");
        drop(input);
        let status = child.wait().await.expect("admin ends");
        assert!(status.success(), "create-user {name}: {status}");
    }

    fn listens_on(&self) -> String {
        match self.family {
            Family::V4 => format!("127.0.0.1:{}", self.port),
            Family::V6 => format!("[::1]:{}", self.port),
        }
    }

    /// Host and port, as a `cloud` block names them.
    pub fn host(&self) -> String {
        match self.family {
            Family::V4 => format!("localhost:{}", self.port),
            Family::V6 => self.listens_on(),
        }
    }

    /// The server's port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's address.
    pub fn url(&self) -> String {
        format!("https://{}", self.host())
    }

    /// The server's own CA.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("data/ca.pem")
    }

    /// A folder for a test's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path).expect("a folder can be made");
        path
    }

    /// The process id of the server, while it runs.
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(Child::id)
    }

    /// A client that trusts the server's CA.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A call of the API: status and body (null when it is empty).
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self
            .http
            .request(method, format!("{}/api/v2{path}", self.url()))
            .bearer_auth(&self.token)
            .header("content-type", "application/vnd.api+json");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.expect("the server answers");
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("an answer has a body");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The log of a plan or apply, frame bytes included, from the URL that clients read.
    pub async fn read_log(&self, phase: &Value) -> String {
        let url = phase["data"]["attributes"]["log-read-url"]
            .as_str()
            .expect("a phase has a log");
        let answer = self
            .http
            .get(format!("{url}?limit=1000000&offset=0"))
            .send()
            .await;
        answer
            .expect("the server answers")
            .text()
            .await
            .expect("a log is text")
    }

    /// As [`Self::read_log`], however long the log is.
    pub async fn whole_log(&self, phase: &Value) -> String {
        let url = phase["data"]["attributes"]["log-read-url"]
            .as_str()
            .expect("a phase has a log");
        let mut log = Vec::new();
        loop {
            let address = format!("{url}?limit=500000&offset={}", log.len());
            let answer = self.http.get(address).send().await.expect("the server answers");
            let piece = answer.bytes().await.expect("a log has bytes");
            if piece.is_empty() {
                return String::from_utf8_lossy(&log).into_owned();
            }
            log.extend_from_slice(&piece);
        }
    }

    /// A GET that has to succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert!(status < 300, "GET {path}: {status} {body}");
        body
    }

    /// A POST that has to succeed.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call("POST", path, Some(body)).await;
        assert!(status < 300, "POST {path}: {status} {answer}");
        answer
    }

    /// A PATCH that has to succeed.
    pub async fn patch(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call("PATCH", path, Some(body)).await;
        assert!(status < 300, "PATCH {path}: {status} {answer}");
        answer
    }

    /// Makes a pool in `acme` and a token for its agents.
    pub async fn create_pool(&self, name: &str) -> (String, String) {
        let body = json!({"data": {"type": "agent-pools", "attributes": {"name": name}}});
        let pool = self.post("/organizations/acme/agent-pools", &body).await;
        let id = pool["data"]["id"].as_str().expect("a pool has an id").to_owned();
        let body = json!({"data": {"type": "authentication-tokens", "attributes": {"description": "test"}}});
        let token = self
            .post(&format!("/agent-pools/{id}/authentication-tokens"), &body)
            .await;
        (
            id,
            token["data"]["attributes"]["token"]
                .as_str()
                .expect("a new token is shown")
                .to_owned(),
        )
    }

    /// Starts an agent for the shared pool and waits until it has registered.
    pub async fn start_shared_agent(&self) -> AgentProcess {
        let token = self.admin(&["create-agent-token", "--shared"]).await;
        self.start_agent("shared", &token, &[]).await
    }

    /// Starts an agent and waits until it has registered.
    pub async fn start_agent(&self, name: &str, token: &str, environment: &[(&str, &str)]) -> AgentProcess {
        let agent = self.spawn_agent(name, token, environment);
        let registered = until(Duration::from_secs(120), async || {
            agent.log().contains("registered;").then_some(())
        })
        .await;
        assert!(
            registered.is_some(),
            "the agent did not register:\n{}",
            agent.log()
        );
        agent
    }

    /// Starts an agent and returns at once.
    pub fn spawn_agent(&self, name: &str, token: &str, environment: &[(&str, &str)]) -> AgentProcess {
        let log = format!("agent-{name}.log");
        let output = self.log_file(&log);
        let agent = program("terrapool-agent");
        let mut command = Command::new(&agent);
        let mut certificate = self.ca();
        let user = AgentUser::named();
        if let Some(user) = user {
            command = user.command(&agent);
            certificate = user.give(self.folder.path(), &self.agent_folder(name), &certificate);
        }
        command
            .arg("run")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(user.map(|user| ("XDG_RUNTIME_DIR", user.runtime_folder())))
            .env("TERRAPOOL_URL", self.url())
            .env("TERRAPOOL_TOKEN", token)
            .env("TERRAPOOL_CA_FILE", certificate)
            .env("TERRAPOOL_AGENT_NAME", name)
            .env("TERRAPOOL_AGENT_DATA_DIR", self.agent_folder(name))
            .env("TERRAPOOL_LOG", "info,terrapool_agent=debug")
            .envs(std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host)))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a log can be shared"))
            .stderr(output);
        let log = self.folder.path().join(log);
        let begin = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let child = command.spawn().expect("the agent starts");
        AgentProcess {
            child,
            log,
            begin,
            _folder: Arc::clone(&self.folder),
        }
    }

    /// The data folder of an agent of this name.
    pub fn agent_folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("agent-{name}"))
    }

    /// Runs `terrapool-agent …` beside a running agent, as on its host, and returns what it printed.
    pub async fn ask_agent(&self, name: &str, arguments: &[&str]) -> String {
        let output = Command::new(program("terrapool-agent"))
            .args(arguments)
            .env_clear()
            .env("TERRAPOOL_AGENT_DATA_DIR", self.agent_folder(name))
            .output()
            .await
            .expect("the agent's command line starts");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A folder with a configuration and a command line that is signed in.
    pub fn cli(&self, configuration: &str) -> Cli {
        Cli::new(&self.host(), &self.token, &self.ca(), configuration)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- server\n{}", tail(&self.log("server.log")));
        }
        let entries = std::fs::read_dir(self.folder.path())
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            if entry.file_name().to_string_lossy().starts_with("agent-") {
                leftovers::remove(&entry.path());
            }
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
