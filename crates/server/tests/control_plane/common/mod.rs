//! An in-process control plane on a temporary folder, and a small client.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

pub mod browser;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tempfile::TempDir;
use terrapool_model::id::AgentPoolId;
use terrapool_model::time::Millis;
use terrapool_server::admin::{self, UserRequest};
use terrapool_server::config::{Config, Tls};
use terrapool_server::server::{self, Running};
use terrapool_store::pools::{self, PoolChange, PoolError};

/// A control plane without TLS on a free port, with a user `ann` who owns the organization `acme`.
pub struct Plane {
    pub folder: TempDir,
    pub running: Running,
    pub token: String,
    client: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The text of the first error: title and detail, as clients print them.
    pub fn error(&self) -> String {
        let error = &self.json()["errors"][0];
        format!(
            "{} {}",
            error["title"].as_str().unwrap_or(""),
            error["detail"].as_str().unwrap_or("")
        )
    }

    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::in_folder(folder.path());
        config.listen = "127.0.0.1:0".to_owned();
        config.tls = Tls::Off;
        change(&mut config);
        let running = server::start(config).await.unwrap();
        let token = Self::user(&running, "ann", true).await;
        let plane = Self {
            folder,
            running,
            token,
            client: reqwest::Client::new(),
        };
        let body = json!({"data": {"type": "organizations", "attributes": {"name": "acme", "email": "a@example.com"}}});
        plane.post("organizations", &body).await.expect(201);
        plane
    }

    async fn user(running: &Running, name: &str, site_admin: bool) -> String {
        let request = UserRequest {
            username: name.to_owned(),
            email: format!("{name}@example.com"),
            site_admin,
            password: None,
        };
        admin::create_user(&running.app, request)
            .await
            .unwrap()
            .expose()
            .to_owned()
    }

    /// Makes a user without any organization and returns its token.
    pub async fn stranger(&self, name: &str) -> String {
        Self::user(&self.running, name, false).await
    }

    pub fn base(&self) -> String {
        format!("http://{}", self.running.address)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            bytes: response.bytes().await.unwrap().to_vec(),
        }
    }

    /// A request to a path of the API, or to a whole URL, with the user's token.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.request_as(&self.token, method, path)
    }

    pub fn request_as(&self, token: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
        let builder = self.anonymous(method, path);
        builder
            .bearer_auth(token)
            .header("Content-Type", "application/vnd.api+json")
    }

    pub fn anonymous(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = if path.starts_with("http") {
            // Public URLs name localhost, which may be ::1 first.
            path.replace("localhost", "127.0.0.1")
        } else if path.starts_with('/') {
            format!("{}{path}", self.base())
        } else {
            format!("{}/api/v2/{path}", self.base())
        };
        self.client.request(method.parse().unwrap(), url)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("POST", path).body(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("PATCH", path).body(body.to_string()))
            .await
    }

    /// The leases of a pool's applies end at once, and agents are not held.
    pub async fn leases_end(&self, pool: &str) {
        let pool: AgentPoolId = pool.parse().unwrap();
        let db = &self.running.app.db;
        let mut settings = pools::get(&mut db.read().await.unwrap(), &pool)
            .await
            .unwrap()
            .unwrap()
            .settings;
        settings.times.flush = Millis::ZERO;
        settings.times.lease_apply = Millis::ZERO;
        settings.times.hold = Millis::ZERO;
        let change = PoolChange {
            settings: Some(settings),
            ..PoolChange::default()
        };
        db.write::<_, PoolError, _>(move |tx| {
            let (pool, change) = (pool.clone(), change.clone());
            Box::pin(async move { pools::update(tx, &pool, &change).await })
        })
        .await
        .unwrap();
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path)).await
    }

    /// Makes a workspace in `acme` and returns its id.
    pub async fn workspace(&self, name: &str) -> String {
        self.workspace_with(name, json!({})).await
    }

    pub async fn workspace_with(&self, name: &str, mut attributes: Value) -> String {
        attributes["name"] = json!(name);
        let body = json!({"data": {"type": "workspaces", "attributes": attributes}});
        let answer = self
            .post("organizations/acme/workspaces", &body)
            .await
            .expect(201);
        id(&answer)
    }

    pub async fn lock(&self, workspace: &str) {
        self.post(&format!("workspaces/{workspace}/actions/lock"), &json!({}))
            .await
            .expect(200);
    }

    /// Uploads a small configuration and returns its id.
    pub async fn configuration(&self, workspace: &str, attributes: Value) -> String {
        let body = json!({"data": {"type": "configuration-versions", "attributes": attributes}});
        let made = self
            .post(&format!("workspaces/{workspace}/configuration-versions"), &body)
            .await
            .expect(201);
        let url = made["data"]["attributes"]["upload-url"]
            .as_str()
            .unwrap()
            .to_owned();
        self.send(self.anonymous("PUT", &url).body(archive()))
            .await
            .expect(200);
        id(&made)
    }

    /// Makes a run of an uploaded configuration and returns the answer.
    pub async fn run(&self, workspace: &str, configuration: &str) -> Value {
        self.post("runs", &run_body(workspace, configuration))
            .await
            .expect(201)
    }
}

pub fn run_body(workspace: &str, configuration: &str) -> Value {
    json!({"data": {"type": "runs", "attributes": {}, "relationships": {
        "workspace": {"data": {"type": "workspaces", "id": workspace}},
        "configuration-version": {"data": {"type": "configuration-versions", "id": configuration}},
    }}})
}

/// The id of a document's resource.
pub fn id(document: &Value) -> String {
    document["data"]["id"].as_str().unwrap().to_owned()
}

/// A gzipped tar with one file.
pub fn archive() -> Vec<u8> {
    archive_of("main.tf", b"resource \"terraform_data\" \"a\" {}\n")
}

pub fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut builder = tar::Builder::new(encoder);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

/// A raw state.
pub fn state(serial: u64, lineage: &str) -> Vec<u8> {
    json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage,
        "outputs": {
            "plain": {"value": "d", "type": "string"},
            "list": {"value": ["a", "b"], "type": ["tuple", ["string", "string"]]},
            "secret": {"value": "hunter2", "type": "string", "sensitive": true},
        },
        "resources": [{"mode": "managed", "type": "terraform_data", "name": "a",
            "provider": "provider[\"terraform.io/builtin/terraform\"]", "instances": [{"schema_version": 0}]}],
    })
    .to_string()
    .into_bytes()
}

pub fn md5(bytes: &[u8]) -> String {
    use md5::Digest as _;
    md5::Md5::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
