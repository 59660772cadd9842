//! Runs, as a client makes them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::setup::Bench;

/// A workspace with a configuration, ready for runs.
pub(crate) struct Workspace {
    id: String,
    configuration: String,
}

/// How often a run is looked at. The end is seen late by half of it on average, which counts against us.
const LOOK: Duration = Duration::from_millis(8);

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

impl Bench {
    pub(crate) async fn workspace(&self, pool: &str, version: &str, configuration: &str) -> Workspace {
        let attributes = json!({"name": self.name(), "auto-apply": true, "execution-mode": "agent",
            "agent-pool-id": pool, "terraform-version": version,
            // The same output as on the other side, where people do not ask for JSON.
            "structured-run-output-enabled": false});
        let body = json!({"data": {"type": "workspaces", "attributes": attributes}});
        let workspace = self
            .installation
            .post("/organizations/acme/workspaces", &body)
            .await;
        let id = text(&workspace["data"]["id"]);
        let body =
            json!({"data": {"type": "configuration-versions", "attributes": {"auto-queue-runs": false}}});
        let version = self
            .installation
            .post(&format!("/workspaces/{id}/configuration-versions"), &body)
            .await;
        let upload = text(&version["data"]["attributes"]["upload-url"]);
        let answer = self
            .installation
            .http()
            .put(upload)
            .body(archive(configuration))
            .send()
            .await
            .expect("the server answers");
        assert!(answer.status().is_success(), "{}", answer.status());
        Workspace {
            id,
            configuration: text(&version["data"]["id"]),
        }
    }

    pub(crate) async fn create_run(&self, workspace: &Workspace) -> String {
        let relationships = json!({
            "workspace": {"data": {"type": "workspaces", "id": workspace.id}},
            "configuration-version": {"data": {"type": "configuration-versions", "id": workspace.configuration}},
        });
        let body = json!({"data": {"type": "runs", "attributes": {"auto-apply": true}, "relationships": relationships}});
        let run = self.installation.post("/runs", &body).await;
        text(&run["data"]["id"])
    }

    /// Waits for a run's end, which has to be this one, and returns the run.
    pub(crate) async fn ended(&self, run: &str, wanted: &str) -> Value {
        loop {
            let answer = self.installation.get(&format!("/runs/{run}")).await;
            let status = text(&answer["data"]["attributes"]["status"]);
            if status == wanted {
                return answer;
            }
            if ["errored", "canceled", "planned_and_finished", "discarded"].contains(&status.as_str()) {
                let log = self.log(&answer, "plan").await;
                panic!("a run ended as {status}:\n{log}\n{}", self.pool.agent.log());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The log of a run's plan or apply.
    pub(crate) async fn log(&self, run: &Value, phase: &str) -> String {
        let id = text(&run["data"]["relationships"][phase]["data"]["id"]);
        let found = self
            .installation
            .get(&format!(
                "/{}/{id}",
                if phase == "plan" { "plans" } else { "applies" }
            ))
            .await;
        let url = text(&found["data"]["attributes"]["log-read-url"]);
        self.fetch(&url).await
    }

    /// The JSON of a run's plan, as text.
    pub(crate) async fn plan_json(&self, run: &Value) -> String {
        let id = text(&run["data"]["relationships"]["plan"]["data"]["id"]);
        self.fetch(&format!(
            "{}/api/v2/plans/{id}/json-output",
            self.installation.url()
        ))
        .await
    }

    async fn fetch(&self, url: &str) -> String {
        let answer = self
            .installation
            .http()
            .get(url)
            .bearer_auth(&self.installation.token)
            .send()
            .await
            .expect("the server answers");
        answer.text().await.expect("an answer has a body")
    }
}

/// A configuration as clients upload it.
fn archive(configuration: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::File::create(folder.path().join("main.tf"))
        .and_then(|mut file| file.write_all(configuration.as_bytes()))
        .expect("a file can be written");
    let output = Command::new("tar")
        .args(["-czf", "-", "-C"])
        .arg(folder.path())
        .arg(".")
        .stderr(Stdio::inherit())
        .output()
        .expect("tar is installed");
    output.stdout
}
