//! Runs, one after the other in each workspace, as long as it lasts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use terrapool_testkit::recorder::tell;
use terrapool_testkit::runs::{archive, has_ended};

use crate::End;
use crate::site::Site;

/// Resources that a run adds.
const STEPS: u64 = 5;

/// The configuration whose workspace has this many resources in the end. Each step tells the recorder, and the log.
fn configuration(recorder: &str, count: u64) -> String {
    format!(
        r#"
resource "terraform_data" "start" {{
  triggers_replace = timestamp()
  provisioner "local-exec" {{
    interpreter = ["bash", "-c"]
    command     = "{}"
  }}
}}
resource "terraform_data" "step" {{
  count      = {count}
  depends_on = [terraform_data.start]
  provisioner "local-exec" {{
    interpreter = ["bash", "-c"]
    command     = "sleep 0.$((RANDOM % 9)); {}"
  }}
}}
"#,
        tell(recorder, "START $TFC_RUN_ID"),
        tell(recorder, "MADE $TFC_RUN_ID ${count.index}")
    )
}

/// Keeps every workspace busy until the end.
pub(crate) async fn keep(site: &Site, seed: u64, end: &End) {
    let workspaces = site.workspaces.iter().enumerate().map(|(number, workspace)| {
        let random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64 + 1));
        busy(site, workspace, random, end)
    });
    futures_util::future::join_all(workspaces).await;
}

async fn busy(site: &Site, workspace: &str, mut random: fastrand::Rng, end: &End) {
    let mut count = 0;
    while !end.is_over() {
        count += STEPS;
        let Some(configuration) = upload(
            site,
            workspace,
            &configuration(&site.recorder.address, count),
            end,
        )
        .await
        else {
            return;
        };
        let relationships = json!({
            "workspace": {"data": {"type": "workspaces", "id": workspace}},
            "configuration-version": {"data": {"type": "configuration-versions", "id": configuration}},
        });
        let body = json!({"data": {"type": "runs", "attributes": {"auto-apply": true}, "relationships": relationships}});
        let Some(run) = site.insist("POST", "/runs", Some(&body), end).await else {
            return;
        };
        let Some(run) = run["data"]["id"].as_str() else {
            continue;
        };
        let cancel = (random.u8(..) < 25).then(|| Duration::from_millis(random.u64(500..8000)));
        watch(site, run, cancel, end).await;
    }
}

async fn upload(site: &Site, workspace: &str, configuration: &str, end: &End) -> Option<String> {
    let path = format!("/workspaces/{workspace}/configuration-versions");
    let body = json!({"data": {"type": "configuration-versions", "attributes": {"auto-queue-runs": false}}});
    let bytes = archive(configuration);
    while !end.is_over() {
        let version = site.insist("POST", &path, Some(&body), end).await?;
        let url = version["data"]["attributes"]["upload-url"].as_str()?.to_owned();
        let http = site.http();
        if http
            .put(&url)
            .body(bytes.clone())
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            return version["data"]["id"].as_str().map(str::to_owned);
        }
    }
    None
}

/// Waits for a run's end. What waits for a person is confirmed; some runs are canceled.
async fn watch(site: &Site, run: &str, cancel: Option<Duration>, end: &End) {
    let begin = Instant::now();
    let mut canceled = false;
    while !end.is_over() {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let Some((200, answer)) = site.try_call("GET", &format!("/runs/{run}"), None).await else {
            continue;
        };
        let status = answer["data"]["attributes"]["status"]
            .as_str()
            .unwrap_or_default();
        if has_ended(status) {
            return;
        }
        if status == "planned" {
            site.try_call("POST", &format!("/runs/{run}/actions/apply"), Some(&Value::Null))
                .await;
        }
        if !canceled && cancel.is_some_and(|after| begin.elapsed() > after) {
            let answer = site
                .try_call("POST", &format!("/runs/{run}/actions/cancel"), Some(&Value::Null))
                .await;
            canceled = matches!(answer, Some((200..300, _)));
        }
    }
}
