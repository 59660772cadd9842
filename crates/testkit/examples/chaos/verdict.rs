//! What was promised, counted.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};
use terrapool_testkit::recorder::{Told, steps_in};
use terrapool_testkit::runs::has_ended;

use crate::site::Site;

/// The count.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    runs: usize,
    statuses: BTreeMap<String, usize>,
    applies: usize,
    logs: usize,
    resources: usize,
    kept_apart: usize,
    broken: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} runs", self.runs)?;
        for (status, count) in &self.statuses {
            write!(formatter, ", {status} {count}")?;
        }
        write!(
            formatter,
            "\n{} applies began, {} logs compared, {} resources finished, {} states kept apart\n{} promises broken",
            self.applies,
            self.logs,
            self.resources,
            self.kept_apart,
            self.broken.len()
        )?;
        for broken in &self.broken {
            write!(formatter, "\n  {broken}")?;
        }
        Ok(())
    }
}

async fn document(site: &Site, url: &Value) -> Value {
    match url.as_str() {
        Some(url) => site
            .fetch(url)
            .await
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or(Value::Null),
        None => Value::Null,
    }
}

/// The log of a phase, without its frame.
async fn log(site: &Site, run: &Value, phase: &str) -> Option<String> {
    let id = run["relationships"][phase]["data"]["id"].as_str()?;
    let path = if phase == "plan" { "plans" } else { "applies" };
    let (_, answer) = site.try_call("GET", &format!("/{path}/{id}"), None).await?;
    let url = answer["data"]["attributes"]["log-read-url"].as_str()?;
    site.fetch(&format!("{url}?limit=100000000&offset=0")).await
}

/// Looks at everything once it has healed.
pub(crate) async fn of(site: &Site) -> Verdict {
    let mut verdict = Verdict::default();
    let told = site.recorder.told();
    let mut starts: BTreeMap<&str, u32> = BTreeMap::new();
    let mut made: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in &told {
        match line {
            Told::Start { run } => *starts.entry(run).or_default() += 1,
            Told::Made { run, index } => made.entry(run).or_default().push(*index),
        }
    }
    verdict.applies = starts.len();
    if starts.is_empty() {
        verdict.broken.push("no apply began".to_owned());
    }
    for (run, count) in &starts {
        if *count > 1 {
            verdict.broken.push(format!("{run} was applied {count} times"));
        }
    }
    for workspace in &site.workspaces {
        of_workspace(site, workspace, &made, &mut verdict).await;
    }
    verdict
}

async fn of_workspace(site: &Site, workspace: &str, made: &BTreeMap<&str, Vec<u64>>, verdict: &mut Verdict) {
    let current = site
        .try_call(
            "GET",
            &format!("/workspaces/{workspace}/current-state-version"),
            None,
        )
        .await
        .map_or(Value::Null, |(_, answer)| answer);
    let url = &current["data"]["attributes"]["hosted-state-download-url"];
    let mut kept = steps_in(&document(site, url).await);
    let apart = site
        .try_call("GET", &format!("/workspaces/{workspace}/kept-apart-states"), None)
        .await
        .map_or(Value::Null, |(_, answer)| answer);
    for state in apart["data"].as_array().into_iter().flatten() {
        verdict.kept_apart += 1;
        let url = &state["attributes"]["hosted-state-download-url"];
        kept.extend(steps_in(&document(site, url).await));
    }
    let answer = site
        .try_call("GET", &format!("/workspaces/{workspace}"), None)
        .await;
    if answer.is_none_or(|(_, answer)| answer["data"]["attributes"]["locked"] != json!(false)) {
        verdict.broken.push(format!("{workspace} is still locked"));
    }
    for run in site.runs(workspace).await {
        let id = run["id"].as_str().unwrap_or_default();
        let status = run["attributes"]["status"].as_str().unwrap_or_default();
        verdict.runs += 1;
        *verdict.statuses.entry(status.to_owned()).or_default() += 1;
        if !has_ended(status) {
            verdict.broken.push(format!("{id} is stuck: {status}"));
        }
        let of_run = made.get(id).map_or(&[][..], Vec::as_slice);
        // The last step of an apply that did not succeed may have been cut off before its state was written.
        let finished = if status == "applied" {
            of_run.len()
        } else {
            of_run.len().saturating_sub(1)
        };
        let finished = &of_run[..finished];
        verdict.resources += finished.len();
        for index in finished {
            if !kept.contains(index) {
                verdict
                    .broken
                    .push(format!("step {index} of {id} ({status}) is in no state"));
            }
        }
        let Some(text) = log(site, &run, "apply").await else {
            continue;
        };
        verdict.logs += 1;
        for index in finished {
            let line = format!("told MADE {id} {index}");
            if !text.contains(&line) {
                verdict
                    .broken
                    .push(format!("the log of {id} ({status}) lacks `{line}`"));
            }
        }
    }
}
