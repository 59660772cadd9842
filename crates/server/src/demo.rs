//! `terrapool demo`: a whole installation on this machine, and a real configuration through it.
//!
//! Starts a control plane in this process and two agents beside it, one for the shared pool and one in a pool of its
//! own, then drives the stock command line as a user would. Everything lies in a temporary folder and ends with the
//! process.

mod api;
mod cli;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use terrapool_model::id::WorkspaceId;
use terrapool_model::job::Phase;
use terrapool_model::times::Times;
use terrapool_protocol::secret::Secret;
use terrapool_store::page::Page;
use terrapool_store::{agents, jobs, organizations, pools, runs};
use tokio::process::{Child, Command};

use crate::admin::{self, UserRequest};
use crate::config::Config;
use crate::secrets::{self, TokenKind};
use crate::server::{self, Running};
use crate::shared_agent;
use api::Api;
use cli::Terraform;

/// The example, as it lies in the repository.
const EXAMPLE: &str = include_str!("../../../examples/hello/main.tf");
const ORGANIZATION: &str = "demo";

/// Flags of `terrapool demo`.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct DemoArgs {
    /// End after the first apply, with its exit code.
    #[arg(long)]
    pub once: bool,
}

/// Runs the demo and returns the exit code of the work.
///
/// # Errors
/// When a part of the installation cannot be started.
pub async fn run(arguments: DemoArgs) -> anyhow::Result<u8> {
    let folder = TemporaryFolder::create()?;
    say("Starting the control plane (SQLite, local disk)");
    let running = start_server(folder.path()).await?;
    let address = running.app.config.public_url.clone();
    let outcome = present(&running, folder.path(), arguments).await;
    if outcome.is_err() {
        eprintln!("{}", read_logs(folder.path()));
    }
    let stopped = running.shutdown().await;
    let code = outcome?;
    stopped.with_context(|| format!("the control plane at {address} did not end well"))?;
    Ok(code)
}

async fn present(running: &Running, folder: &Path, arguments: DemoArgs) -> anyhow::Result<u8> {
    // Drawn anew each time: the server listens on this machine only, but others may use the machine.
    let password = Secret::new(
        secrets::new_token(TokenKind::Browser, running.app.db.entropy().as_ref())
            .expose()
            .chars()
            .skip(TokenKind::Browser.prefix().len())
            .take(16)
            .collect::<String>(),
    );
    let user = UserRequest {
        username: "demo".to_owned(),
        email: "demo@example.com".to_owned(),
        site_admin: true,
        password: Some(password.clone()),
    };
    let token = admin::create_user(&running.app, user).await?.expose().to_owned();
    let api = Api::new(&running.app, token.clone());
    let private_pool = set_up(&api).await?;
    say("Starting two agents: one for the shared pool, one in the pool `private-network`");
    let shared_token = shared_agent::create_token(&running.app, "demo").await?;
    let private_token = agent_token(&api, &private_pool).await?;
    let driver = driver().await;
    say(match driver {
        "docker" => "Sandboxes are containers of the Docker engine",
        _ => "No container engine answers: sandboxes are made by the native driver",
    });
    let mut agents = Agents {
        driver,
        running: Vec::new(),
    };
    agents.start(running, folder, "shared-agent", shared_token.expose())?;
    agents.start(running, folder, "private-agent", &private_token)?;
    agents.wait_until_registered(running).await?;

    let mut code = 0;
    for workspace in ["on-the-shared-pool", "in-the-private-network"] {
        let terraform = Terraform::new(folder, running, &token, ORGANIZATION, workspace, EXAMPLE)?;
        code = walk_through(running, &api, &terraform, workspace).await?;
        if arguments.once || code != 0 {
            break;
        }
    }
    if !arguments.once && code == 0 {
        explain(running, &token, &password, folder);
        tokio::signal::ctrl_c()
            .await
            .context("the signal handler could not be set up")?;
        say("Ending");
    }
    agents.stop().await;
    Ok(code)
}

/// init, plan, apply with its confirmation, output; then where each phase ran.
async fn walk_through(
    running: &Running,
    api: &Api,
    terraform: &Terraform,
    workspace: &str,
) -> anyhow::Result<u8> {
    for (arguments, input) in [
        (&["init", "-no-color"][..], ""),
        (&["plan", "-no-color"][..], ""),
        (&["apply", "-no-color"][..], "yes\n"),
        (&["output", "-no-color"][..], ""),
    ] {
        say(&format!("[{workspace}] terraform {}", arguments[0]));
        let code = terraform.run(arguments, input).await?;
        if code != 0 {
            return Ok(code);
        }
    }
    let record = api
        .get(&format!("/organizations/{ORGANIZATION}/workspaces/{workspace}"))
        .await?;
    let id: WorkspaceId = text(&record["data"]["id"])?.parse()?;
    show_places(running, &id).await?;
    Ok(0)
}

async fn show_places(running: &Running, workspace: &WorkspaceId) -> anyhow::Result<()> {
    let mut connection = running.app.db.read().await?;
    let listed = runs::list_of_workspace(&mut connection, workspace, &Page::default()).await?;
    say("Where each phase ran");
    println!(
        "{:<22} {:<7} {:<22} {:<16} agent",
        "run", "phase", "status", "pool"
    );
    for run in listed.items.iter().rev() {
        let run_id = &run.id;
        for phase in [Phase::Plan, Phase::Apply] {
            let Some(job) = jobs::of_run(&mut connection, run_id, phase).await? else {
                continue;
            };
            let agent = match &job.row.agent {
                Some(agent) => agents::get(&mut connection, agent).await?.map(|agent| agent.name),
                None => None,
            };
            let pool = pools::get(&mut connection, &job.pool_id)
                .await?
                .map(|pool| pool.name);
            println!(
                "{:<22} {:<7} {:<22} {:<16} {}",
                run_id.as_str(),
                job.row.phase.as_str(),
                run.status.to_string(),
                pool.unwrap_or_default(),
                agent.unwrap_or_default()
            );
        }
    }
    Ok(())
}

fn explain(running: &Running, token: &str, password: &Secret, folder: &Path) {
    let url = &running.app.config.public_url;
    let host = url.strip_prefix("https://").unwrap_or(url);
    let programs = std::env::current_exe().unwrap_or_default();
    let programs = programs.parent().unwrap_or(Path::new("."));
    say("The installation stays up until Ctrl-C");
    println!(
        "Web UI     {url}\nsign in    as demo with the password {password}\n           (the browser warns of the demo's own CA)\n\nAPI        \
         {url}/api/v2\ntoken      {token}\nCA         {ca}\n\nTry it with a configuration of your own:\n\n  \
         terraform {{\n    cloud {{\n      hostname     = \"{host}\"\n      organization = \"{ORGANIZATION}\"\n      \
         workspaces {{ name = \"mine\" }}\n    }}\n  }}\n\n  export SSL_CERT_FILE={ca}\n  terraform login {host}     # \
         paste the token\n  terraform init && terraform apply\n\n\
         An agent of your own: make a pool in the web UI; its page has what to paste in a terminal here, with\n\n  \
         export PATH={programs}:$PATH\n",
        programs = programs.display(),
        ca = folder.join("data/ca.pem").display(),
        password = password.expose()
    );
}

fn say(text: &str) {
    println!("\n=== {text}\n");
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value
        .as_str()
        .context("the API left out something it always gives")
}

/// The usual port when it is free, so that addresses look the same each time.
async fn start_server(folder: &Path) -> anyhow::Result<Running> {
    let mut config = Config::in_folder(&folder.join("data"));
    match server::start(config.clone()).await {
        Err(server::StartError::InUse { .. }) => {
            config.listen = "127.0.0.1:0".to_owned();
            Ok(server::start(config).await?)
        }
        started => Ok(started?),
    }
}

/// Organization, pool and workspaces. Returns the pool's id.
async fn set_up(api: &Api) -> anyhow::Result<String> {
    let organization = json!({"data": {"type": "organizations", "attributes": {"name": ORGANIZATION, "email": "demo@example.com"}}});
    api.post("/organizations", &organization).await?;
    let pool = json!({"data": {"type": "agent-pools", "attributes": {"name": "private-network"}}});
    let pool = api
        .post(&format!("/organizations/{ORGANIZATION}/agent-pools"), &pool)
        .await?;
    let pool = text(&pool["data"]["id"])?.to_owned();
    let workspaces = format!("/organizations/{ORGANIZATION}/workspaces");
    let shared = json!({"data": {"type": "workspaces",
        "attributes": {"name": "on-the-shared-pool", "execution-mode": "remote"}}});
    api.post(&workspaces, &shared).await?;
    let private = json!({"data": {"type": "workspaces",
        "attributes": {"name": "in-the-private-network", "execution-mode": "agent", "agent-pool-id": pool}}});
    api.post(&workspaces, &private).await?;
    Ok(pool)
}

async fn agent_token(api: &Api, pool: &str) -> anyhow::Result<String> {
    let body = json!({"data": {"type": "authentication-tokens", "attributes": {"description": "demo"}}});
    let token = api
        .post(&format!("/agent-pools/{pool}/authentication-tokens"), &body)
        .await?;
    Ok(text(&token["data"]["attributes"]["token"])?.to_owned())
}

/// The agents' processes.
struct Agents {
    /// How they isolate jobs.
    driver: &'static str,
    running: Vec<(String, Child)>,
}

/// The agents' driver: what the environment says, else Docker where an engine answers.
async fn driver() -> &'static str {
    match std::env::var("TERRAPOOL_AGENT_DRIVER").as_deref() {
        Ok("native") => return "native",
        Ok("docker") => return "docker",
        _ => {}
    }
    let named = std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty());
    if named
        || tokio::net::UnixStream::connect("/var/run/docker.sock")
            .await
            .is_ok()
    {
        "docker"
    } else {
        "native"
    }
}

impl Agents {
    fn start(&mut self, running: &Running, folder: &Path, name: &str, token: &str) -> anyhow::Result<()> {
        let own = std::env::current_exe().context("this program's own path is not known")?;
        let program = own.with_file_name("terrapool-agent");
        if !program.exists() {
            bail!(
                "{} is missing: the demo needs the agent beside it (cargo xtask demo builds both)",
                program.display()
            );
        }
        let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
        let mut command = Command::new(&program);
        command
            .arg("run")
            .env("TERRAPOOL_URL", &running.app.config.public_url)
            .env("TERRAPOOL_TOKEN", token)
            .env("TERRAPOOL_CA_FILE", folder.join("data/ca.pem"))
            .env("TERRAPOOL_AGENT_NAME", name)
            .env("TERRAPOOL_AGENT_DATA_DIR", folder.join(name))
            .env("TERRAPOOL_AGENT_CONCURRENCY", "2")
            .env("TERRAPOOL_AGENT_DRIVER", self.driver)
            // Ctrl-C is for the demo, which then ends its agents in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("{} could not be started", program.display()))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    async fn wait_until_registered(&mut self, running: &Running) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            for (name, child) in &mut self.running {
                if let Some(status) = child.try_wait()? {
                    bail!("{name} ended ({status}); its log says why");
                }
            }
            if registered(running).await? >= self.running.len() {
                return Ok(());
            }
            if tokio::time::Instant::now() > deadline {
                bail!("the agents did not register within a minute");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(&mut self) {
        for (_, child) in &self.running {
            if let Some(pid) = child.id() {
                let _ = Command::new("kill").arg(pid.to_string()).status().await;
            }
        }
        for (_, child) in &mut self.running {
            let _ = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
        }
    }
}

/// How many agents the shared pool and the organization's pools have.
async fn registered(running: &Running) -> anyhow::Result<usize> {
    let mut connection = running.app.db.read().await?;
    let now = running.app.now();
    let times = Times::default();
    let mut found = 0;
    let organization = organizations::by_name(&mut connection, ORGANIZATION).await?;
    let mut pools_of_demo = Vec::new();
    if let Some(organization) = organization {
        let (filter, page) = (pools::PoolFilter::default(), Page::default());
        let listed = pools::list(&mut connection, &organization.id, &filter, &page).await?;
        pools_of_demo.extend(listed.items);
    }
    pools_of_demo.extend(pools::find_shared(&mut connection).await?);
    for pool in pools_of_demo {
        found += agents::count(&mut connection, &pool.id, now, &times).await?;
    }
    Ok(usize::try_from(found).unwrap_or(usize::MAX))
}

fn read_logs(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let logs = entries.filter(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "log")
    });
    logs.map(|entry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        format!("--- {}\n{text}", entry.file_name().to_string_lossy())
    })
    .collect()
}

/// A folder that goes with the demo.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("terrapool-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
