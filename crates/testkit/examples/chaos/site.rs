//! The installation that is maltreated.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use terrapool_testkit::container_engine::ContainerEngine;
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::recorder::Recorder;
use terrapool_testkit::wait::until;
use tokio::sync::Mutex;

use crate::End;
use crate::postgres::Postgres;
use crate::proxy::{Proxy, Weather};

const AGENTS: usize = 3;
const WORKSPACES: usize = 5;

/// Everything that runs.
pub(crate) struct Site {
    installation: Mutex<Installation>,
    http: std::sync::Mutex<reqwest::Client>,
    url: String,
    token: String,
    agent_token: String,
    agents: Vec<Mutex<Option<AgentProcess>>>,
    on_postgres: bool,
    postgres: Mutex<Option<Postgres>>,
    pub(crate) engine: Mutex<ContainerEngine>,
    /// Holds the key ring.
    _folder: tempfile::TempDir,
    pub(crate) proxy: Proxy,
    pub(crate) recorder: Recorder,
    /// Ids.
    pub(crate) workspaces: Vec<String>,
}

impl Site {
    pub(crate) async fn start(on_postgres: bool) -> Self {
        let engine = ContainerEngine::start().await;
        let recorder = Recorder::listen(&engine.outside()).await;
        let postgres = if on_postgres {
            Some(Postgres::start().await)
        } else {
            None
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ring = folder.path().join("keyring");
        let ring = ring.to_string_lossy().into_owned();
        let installation = match &postgres {
            Some(postgres) => {
                let address = postgres.address();
                let environment = [
                    ("TERRAPOOL_DATABASE_URL", address.as_str()),
                    ("TERRAPOOL_KEYRING_FILE", ring.as_str()),
                ];
                Installation::prepare(&["create-keyring"], &environment).await;
                Installation::start_with(&environment).await
            }
            None => Installation::start().await,
        };
        let (pool, agent_token) = installation.create_pool("chaos").await;
        // Short times: a lost apply has to be over while somebody watches.
        let times = json!({"plan-lease": 60, "apply-lease": 60, "plan-contact-limit": 30, "apply-contact-limit": 60,
            "plan-grace": 5, "apply-grace": 5, "cool-off": 5});
        let body = json!({"data": {"type": "agent-pools", "attributes": {"lease-times": times}}});
        installation.patch(&format!("/agent-pools/{pool}"), &body).await;
        let mut workspaces = Vec::new();
        for number in 0..WORKSPACES {
            let attributes = json!({"name": format!("network-{number}"), "execution-mode": "agent",
                "agent-pool-id": pool, "auto-apply": true});
            let body = json!({"data": {"type": "workspaces", "attributes": attributes}});
            let workspace = installation.post("/organizations/acme/workspaces", &body).await;
            let id = workspace["data"]["id"].as_str().unwrap_or_default().to_owned();
            let variable = json!({"data": {"type": "vars", "attributes": {"key": "TF_CLI_ARGS_apply",
                "value": "-parallelism=1", "category": "env"}}});
            installation
                .post(&format!("/workspaces/{id}/vars"), &variable)
                .await;
            workspaces.push(id);
        }
        let proxy = Proxy::start(installation.port()).await;
        let site = Self {
            http: std::sync::Mutex::new(installation.http().clone()),
            url: installation.url(),
            token: installation.token.clone(),
            installation: Mutex::new(installation),
            agent_token,
            agents: (0..AGENTS).map(|_| Mutex::new(None)).collect(),
            on_postgres,
            postgres: Mutex::new(postgres),
            engine: Mutex::new(engine),
            _folder: folder,
            proxy,
            recorder,
            workspaces,
        };
        for number in 0..AGENTS {
            site.start_agent(number).await;
        }
        site
    }

    pub(crate) fn agents(&self) -> usize {
        self.agents.len()
    }

    pub(crate) async fn start_agent(&self, number: usize) {
        let host = self.engine.lock().await.host();
        let url = format!("https://localhost:{}", self.proxy.port);
        let installation = self.installation.lock().await;
        let environment = [
            ("DOCKER_HOST", host.as_str()),
            ("TERRAPOOL_URL", url.as_str()),
            ("TERRAPOOL_AGENT_CONCURRENCY", "3"),
        ];
        let agent = installation.spawn_agent(&format!("agent-{number}"), &self.agent_token, &environment);
        *self.agents[number].lock().await = Some(agent);
    }

    pub(crate) async fn kill_agent(&self, number: usize) {
        if let Some(agent) = self.agents[number].lock().await.as_mut()
            && agent.is_running()
        {
            agent.kill().await;
        }
    }

    pub(crate) async fn signal_agent(&self, number: usize, signal: &str) {
        if let Some(agent) = self.agents[number].lock().await.as_mut()
            && agent.is_running()
        {
            agent.signal(signal).await;
        }
    }

    /// An agent that gave up, for example because the container engine was away when it started, is started again, as a
    /// service manager does.
    pub(crate) async fn supervise(&self) {
        for number in 0..self.agents.len() {
            let runs = self.agents[number]
                .lock()
                .await
                .as_mut()
                .is_some_and(AgentProcess::is_running);
            if !runs {
                self.start_agent(number).await;
            }
        }
    }

    pub(crate) async fn restart_server(&self, away: Duration) {
        let mut installation = self.installation.lock().await;
        installation.kill_server().await;
        tokio::time::sleep(away).await;
        installation.start_server().await;
        *self
            .http
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = installation.http().clone();
        drop(installation);
        self.supervise().await;
    }

    /// Whether the database is a process of its own.
    pub(crate) fn has_database(&self) -> bool {
        self.on_postgres
    }

    pub(crate) async fn restart_database(&self, away: Duration) {
        if let Some(postgres) = self.postgres.lock().await.as_mut() {
            postgres.kill_and_restart(away).await;
        }
    }

    pub(crate) fn http(&self) -> reqwest::Client {
        self.http
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// A call of the API; `None` when it is not answered.
    pub(crate) async fn try_call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).ok()?;
        let mut request = self
            .http()
            .request(method, format!("{}/api/v2{path}", self.url))
            .bearer_auth(&self.token)
            .timeout(Duration::from_secs(60))
            .header("content-type", "application/vnd.api+json");
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// Repeats a call until it succeeds.
    pub(crate) async fn insist(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        end: &End,
    ) -> Option<Value> {
        while !end.is_over() {
            match self.try_call(method, path, body).await {
                Some((200..300, answer)) => return Some(answer),
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        None
    }

    /// Text from an address that needs the token or not.
    pub(crate) async fn fetch(&self, url: &str) -> Option<String> {
        let answer = self.http().get(url).bearer_auth(&self.token).send().await.ok()?;
        if answer.status().is_success() {
            answer.text().await.ok()
        } else {
            None
        }
    }

    /// Runs of a workspace.
    pub(crate) async fn runs(&self, workspace: &str) -> Vec<Value> {
        let mut found = Vec::new();
        for page in 1.. {
            let path = format!("/workspaces/{workspace}/runs?page%5Bsize%5D=100&page%5Bnumber%5D={page}");
            let Some((200, answer)) = self.try_call("GET", &path, None).await else {
                break;
            };
            let runs = answer["data"].as_array().cloned().unwrap_or_default();
            let last = runs.len() < 100;
            found.extend(runs);
            if last {
                break;
            }
        }
        found
    }

    /// Ends all faults and waits until every run has ended and every lock is free, at most for a quarter of an hour.
    pub(crate) async fn heal(&self) -> Duration {
        let begin = Instant::now();
        self.proxy.set(Weather::Fair);
        for number in 0..self.agents.len() {
            self.signal_agent(number, "CONT").await;
        }
        until(Duration::from_secs(900), async || {
            self.supervise().await;
            let mut quiet = true;
            for workspace in &self.workspaces {
                for run in self.runs(workspace).await {
                    let status = run["attributes"]["status"].as_str().unwrap_or_default();
                    let id = run["id"].as_str().unwrap_or_default();
                    if status == "planned" {
                        let path = format!("/runs/{id}/actions/apply");
                        self.try_call("POST", &path, Some(&Value::Null)).await;
                    }
                    quiet &= terrapool_testkit::runs::has_ended(status);
                }
                let answer = self
                    .try_call("GET", &format!("/workspaces/{workspace}"), None)
                    .await;
                let locked =
                    answer.is_none_or(|(_, answer)| answer["data"]["attributes"]["locked"] != json!(false));
                quiet &= !locked;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            quiet.then_some(())
        })
        .await;
        begin.elapsed()
    }

    /// What agents and server have logged lies there.
    pub(crate) async fn stop(self) {
        for agent in self.agents {
            drop(agent.into_inner());
        }
        if let Some(postgres) = self.postgres.into_inner() {
            postgres.stop().await;
        }
        drop(self.engine);
    }
}
