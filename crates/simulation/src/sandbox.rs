//! Sandboxes of the simulation: what runner and engine do, without either.

use serde_json::json;
use terrapool_agent_core::attempt::Boottime;
use terrapool_model::id::{AttemptId, JobId, RunId, WorkspaceId};
use terrapool_protocol::job::{FailureReason, JobSpec, JobTimes, Outcome, PartName, Phase};
use terrapool_protocol::runner::{RunnerStage, StopKind};

use crate::calls::Copy;

/// What a sandbox does next by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The runner has what it needs.
    Handed,
    /// `init` has ended.
    Init,
    /// The engine did one thing more.
    Engine,
    /// The stop sequence's patience is over.
    KillAll,
}

/// One sandbox. Its volume outlives the runner.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) job: JobId,
    pub(crate) attempt: AttemptId,
    pub(crate) run: RunId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) phase: Phase,
    pub(crate) times: JobTimes,
    pub(crate) stage: RunnerStage,
    /// The runner is dead; its volume is here.
    pub(crate) remains: bool,
    /// The `started` marker.
    pub(crate) marker: bool,
    pub(crate) log: Vec<u8>,
    /// The state the engine began with, then the newest that it wrote.
    pub(crate) state: Option<Copy>,
    /// Whether the engine has written one.
    pub(crate) wrote: bool,
    pub(crate) end: Option<Outcome>,
    /// What it left, once a plan has succeeded.
    pub(crate) archive: Option<Vec<u8>>,
    /// When the engine is stopped without another contact.
    pub(crate) deadline: Option<Boottime>,
    pub(crate) stopping: Option<StopKind>,
    /// Things the engine still does.
    pub(crate) left: u32,
    /// How it ends by itself.
    pub(crate) fate: Fate,
    /// The engine does not listen to signals.
    pub(crate) deaf: bool,
    /// The host stood still while the engine's time ran out.
    pub(crate) slept: bool,
    /// Scheduled steps of an older version are void.
    pub(crate) version: u64,
}

/// How a job ends when nothing intervenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    InitFails,
    Fails,
    Succeeds { changes: bool },
}

impl Sandbox {
    /// A sandbox for a claimed job.
    pub(crate) fn new(spec: &JobSpec, job: JobId, attempt: AttemptId, rng: &mut fastrand::Rng) -> Self {
        let fate = match rng.u32(0..20) {
            0 => Fate::InitFails,
            1 => Fate::Fails,
            2 => Fate::Succeeds { changes: false },
            _ => Fate::Succeeds { changes: true },
        };
        Self {
            job,
            attempt,
            run: spec.run.clone(),
            workspace: spec.workspace.clone(),
            phase: spec.phase,
            times: spec.times,
            stage: RunnerStage::Waiting,
            remains: false,
            marker: false,
            log: Vec::new(),
            state: None,
            wrote: false,
            end: None,
            archive: None,
            deadline: None,
            stopping: None,
            // Some take longer than any agent may be out of contact.
            left: if rng.u32(0..12) == 0 {
                rng.u32(20..60)
            } else {
                rng.u32(1..8)
            },
            fate,
            deaf: rng.u32(0..10) == 0,
            slept: false,
            version: 0,
        }
    }

    /// Whether its engine phase executes.
    pub(crate) fn engine_runs(&self) -> bool {
        !self.remains && self.marker && self.end.is_none()
    }

    /// Takes the bundle: the state that the engine begins with.
    pub(crate) fn unpack(&mut self, spec: &JobSpec, bundle: &[u8], lineage: &str) -> Result<(), String> {
        let mut at = 0;
        for part in &spec.parts {
            let size = usize::try_from(part.size).map_err(|error| error.to_string())?;
            let bytes = bundle
                .get(at..at + size)
                .ok_or_else(|| format!("the bundle of {} is too short", self.job))?;
            at += size;
            if part.name == PartName::State {
                self.state = Some(read_state(bytes)?);
            }
        }
        if at != bundle.len() {
            return Err(format!("the bundle of {} is too long", self.job));
        }
        if self.state.is_none() {
            self.state = Some(state(0, lineage, &[]));
        }
        Ok(())
    }

    /// The engine makes one resource and writes its state.
    pub(crate) fn make_resource(&mut self) -> String {
        let before = self.state.take().unwrap_or_else(|| state(0, "", &[]));
        let mut resources = resources(&before.bytes);
        let name = format!("{}-{}-{}", self.run, self.attempt, self.left);
        resources.push(name.clone());
        self.state = Some(state(before.serial + 1, &before.lineage, &resources));
        self.wrote = true;
        name
    }

    /// The runner prints a line.
    pub(crate) fn print(&mut self, text: &str) {
        self.log.extend_from_slice(text.as_bytes());
        self.log.push(b'\n');
    }

    /// The newest state, once the engine has written one.
    pub(crate) fn newest(&self) -> Option<&Copy> {
        self.state.as_ref().filter(|_| self.wrote)
    }

    /// How the engine's end is reported.
    pub(crate) fn own_end(&self) -> Outcome {
        match self.fate {
            Fate::Succeeds { changes } => Outcome::Succeeded { changes },
            Fate::InitFails => failed(FailureReason::Init),
            Fate::Fails => failed(FailureReason::Engine),
        }
    }
}

fn failed(reason: FailureReason) -> Outcome {
    Outcome::Failed {
        reason,
        message: "it failed".to_owned(),
    }
}

/// A state document that holds these resources.
pub(crate) fn state(serial: u64, lineage: &str, resources: &[String]) -> Copy {
    let resources: Vec<_> = resources
        .iter()
        .map(|name| json!({"mode": "managed", "type": "terraform_data", "name": name, "instances": []}))
        .collect();
    let document = json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage,
        "outputs": {}, "resources": resources,
    });
    Copy {
        serial,
        lineage: lineage.to_owned(),
        bytes: document.to_string().into_bytes(),
    }
}

/// Reads a state document.
pub(crate) fn read_state(bytes: &[u8]) -> Result<Copy, String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Copy {
        serial: document["serial"].as_u64().ok_or("a state without a serial")?,
        lineage: document["lineage"]
            .as_str()
            .ok_or("a state without a lineage")?
            .to_owned(),
        bytes: bytes.to_vec(),
    })
}

/// Names of the resources in a state document.
pub(crate) fn resources(bytes: &[u8]) -> Vec<String> {
    let document: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let resources = document["resources"].as_array().cloned().unwrap_or_default();
    resources
        .iter()
        .filter_map(|resource| resource["name"].as_str().map(str::to_owned))
        .collect()
}
