//! Workspaces and runs, made and watched through the API.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::installation::Installation;
use crate::wait::until;

/// Longest wait for a run, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(180);

/// A workspace with an uploaded configuration.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    configuration: String,
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// A configuration as clients upload it: a gzipped archive with `main.tf`.
pub fn archive(main_tf: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("main.tf"), main_tf).expect("a file can be written");
    let mut tar = Command::new("tar")
        .args(["-czf", "-", "-C"])
        .arg(folder.path())
        .arg("main.tf")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("tar is there");
    let mut bytes = Vec::new();
    std::io::copy(&mut tar.stdout.take().expect("the output is a pipe"), &mut bytes).expect("tar writes");
    assert!(tar.wait().is_ok_and(|status| status.success()), "tar failed");
    bytes.flush().expect("memory takes everything");
    bytes
}

/// Whether a run of this status has ended.
pub fn has_ended(status: &str) -> bool {
    matches!(
        status,
        "applied"
            | "planned_and_finished"
            | "discarded"
            | "errored"
            | "canceled"
            | "force_canceled"
            | "policy_soft_failed"
    )
}

impl Installation {
    /// Makes a workspace with these attributes and uploads its configuration.
    pub async fn workspace(&self, name: &str, attributes: &Value, main_tf: &str) -> Workspace {
        let mut attributes = attributes.clone();
        attributes["name"] = json!(name);
        let body = json!({"data": {"type": "workspaces", "attributes": attributes}});
        let workspace = self.post("/organizations/acme/workspaces", &body).await;
        let mut workspace = Workspace {
            id: text(&workspace["data"]["id"]),
            name: name.to_owned(),
            configuration: String::new(),
        };
        self.configure(&mut workspace, main_tf).await;
        workspace
    }

    /// A workspace that somebody else made; it has no configuration yet.
    pub async fn find_workspace(&self, name: &str) -> Workspace {
        let found = self.get(&format!("/organizations/acme/workspaces/{name}")).await;
        Workspace {
            id: text(&found["data"]["id"]),
            name: name.to_owned(),
            configuration: String::new(),
        }
    }

    /// Uploads a new configuration, which later runs use.
    pub async fn configure(&self, workspace: &mut Workspace, main_tf: &str) {
        let (status, answer) = self.upload(workspace, archive(main_tf)).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Uploads an archive, which later runs use. Answers status and body.
    pub async fn upload(&self, workspace: &mut Workspace, archive: Vec<u8>) -> (u16, String) {
        let body =
            json!({"data": {"type": "configuration-versions", "attributes": {"auto-queue-runs": false}}});
        let path = format!("/workspaces/{}/configuration-versions", workspace.id);
        let version = self.post(&path, &body).await;
        let upload = text(&version["data"]["attributes"]["upload-url"]);
        let answer = self.http().put(upload).body(archive).send().await;
        workspace.configuration = text(&version["data"]["id"]);
        let answer = answer.expect("the server answers");
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap_or_default())
    }

    /// Makes a run with these attributes and returns its id.
    pub async fn run(&self, workspace: &Workspace, attributes: &Value) -> String {
        let relationships = json!({
            "workspace": {"data": {"type": "workspaces", "id": workspace.id}},
            "configuration-version": {"data": {"type": "configuration-versions", "id": workspace.configuration}},
        });
        let body =
            json!({"data": {"type": "runs", "attributes": attributes, "relationships": relationships}});
        text(&self.post("/runs", &body).await["data"]["id"])
    }

    /// The status of a run; `None` while the server does not answer.
    pub async fn run_status(&self, run: &str) -> Option<String> {
        let answer = self
            .http()
            .get(format!("{}/api/v2/runs/{run}", self.url()))
            .bearer_auth(&self.token)
            .send()
            .await
            .ok()?;
        let run: Value = answer.json().await.ok()?;
        run["data"]["attributes"]["status"].as_str().map(str::to_owned)
    }

    /// Waits until a run has this status, and fails when it ends with another one.
    pub async fn run_reaches(&self, run: &str, wanted: &str) {
        let reached = until(PATIENCE, async || {
            let status = self.run_status(run).await?;
            (status == wanted || has_ended(&status)).then_some(status)
        })
        .await;
        let status = match reached {
            Some(status) => status,
            None => format!("{:?}, for minutes", self.run_status(run).await),
        };
        if status != wanted {
            let logs = [
                self.phase_log(run, "plan").await,
                self.phase_log(run, "apply").await,
            ];
            panic!("{run} is {status}, not {wanted}\n{}\n{}", logs[0], logs[1]);
        }
    }

    /// Waits until a run has ended and returns its status.
    pub async fn run_ends(&self, run: &str) -> String {
        let ended = until(PATIENCE, async || {
            self.run_status(run).await.filter(|status| has_ended(status))
        })
        .await;
        match ended {
            Some(status) => status,
            None => panic!("{run} does not end; it is {:?}", self.run_status(run).await),
        }
    }

    /// Waits until the log of a run's phase holds a text.
    pub async fn log_shows(&self, run: &str, phase: &str, wanted: &str) {
        let seen = until(PATIENCE, async || {
            self.phase_log(run, phase).await.contains(wanted).then_some(())
        })
        .await;
        assert!(
            seen.is_some(),
            "the log of the {phase} does not show `{wanted}`:\n{}",
            self.phase_log(run, phase).await
        );
    }

    /// The log of a run's plan or apply; empty when there is none.
    pub async fn phase_log(&self, run: &str, phase: &str) -> String {
        let run = self.get(&format!("/runs/{run}")).await;
        let Some(id) = run["data"]["relationships"][phase]["data"]["id"].as_str() else {
            return String::new();
        };
        let path = if phase == "plan" { "plans" } else { "applies" };
        let phase = self.get(&format!("/{path}/{id}")).await;
        if phase["data"]["attributes"]["log-read-url"].is_string() {
            self.read_log(&phase).await
        } else {
            String::new()
        }
    }

    /// The current state of a workspace as its document; `None` when there is none.
    pub async fn current_state(&self, workspace: &Workspace) -> Option<Value> {
        let path = format!("/workspaces/{}/current-state-version", workspace.id);
        let (status, version) = self.call("GET", &path, None).await;
        if status == 404 {
            return None;
        }
        self.document(&version["data"]).await
    }

    async fn document(&self, version: &Value) -> Option<Value> {
        let url = text(&version["attributes"]["hosted-state-download-url"]);
        let answer = self.http().get(url).bearer_auth(&self.token).send().await;
        answer.expect("the server answers").json().await.ok()
    }

    /// Whether a resource is in a copy of the state that the server has, also in one of an apply that still runs.
    pub async fn has_copied(&self, workspace: &Workspace, resource: &str) -> bool {
        let path = format!(
            "/state-versions?filter[organization][name]=acme&filter[workspace][name]={}",
            workspace.name
        );
        let versions = self.get(&path).await;
        for version in versions["data"].as_array().into_iter().flatten() {
            let state = self.document(version).await.unwrap_or_default();
            if addresses(&state).iter().any(|address| address == resource) {
                return true;
            }
        }
        false
    }

    /// Addresses of the resources in the current state, sorted.
    pub async fn resources(&self, workspace: &Workspace) -> Vec<String> {
        addresses(&self.current_state(workspace).await.unwrap_or_default())
    }
}

/// Addresses of the resources in a state, sorted.
fn addresses(state: &Value) -> Vec<String> {
    let mut found: Vec<String> = state["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|resource| format!("{}.{}", text(&resource["type"]), text(&resource["name"])))
        .collect();
    found.sort();
    found
}
