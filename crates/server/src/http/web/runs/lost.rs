//! A run that was lost in its apply: what is kept, and what to do next.

use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::run::{Aftermath, ErrorReason, RunStatus};
use terrapool_store::overview::JobView;
use terrapool_store::runs::RunRecord;

use super::load::Loaded;
use crate::http::web::parts::Tone;
use crate::http::web::parts::status::Status;
use crate::http::web::parts::time::Day;
use crate::http::web::parts::words;

/// A run whose agent was lost during its apply.
pub(super) struct Lost {
    pub(super) agent: String,
    pub(super) attempt: Option<AttemptId>,
    pub(super) locked_until: Option<String>,
    pub(super) locked: bool,
    pub(super) delivered: bool,
    pub(super) kept: Vec<(Status, String, String)>,
    /// The state before the run, while it is another one than the current: its serial and where to go back to it.
    pub(super) before: Option<(String, String)>,
}

/// Whether nobody knows what became of the run's apply.
pub(super) fn is_lost(run: &RunRecord, apply: Option<&JobView>) -> bool {
    let Some(apply) = apply else {
        return false;
    };
    match run.status {
        RunStatus::Errored => run.error_reason == Some(ErrorReason::AgentLost),
        RunStatus::ForceCanceled => apply.started_at.is_some(),
        RunStatus::Pending
        | RunStatus::PlanQueued
        | RunStatus::Planning
        | RunStatus::Planned
        | RunStatus::PlannedAndSaved
        | RunStatus::PlannedAndFinished
        | RunStatus::ApplyQueued
        | RunStatus::Applying
        | RunStatus::Applied
        | RunStatus::Discarded
        | RunStatus::Canceled
        | RunStatus::PolicySoftFailed => false,
    }
}

/// What is kept of a run that was lost, and what to do next.
pub(super) fn lost(loaded: &Loaded) -> Option<Lost> {
    let run = &loaded.listed.run;
    let apply = loaded
        .apply_job
        .as_ref()
        .filter(|apply| is_lost(run, Some(apply)))?;
    let quarantine = loaded.quarantine();
    let mut kept = Vec::new();
    let good = || Status::new(Tone::Good, "ok", "");
    match loaded.states.first() {
        Some(version) => kept.push((
            good(),
            format!(
                "State, serial {}",
                version
                    .serial
                    .map_or_else(|| "unknown".to_owned(), |serial| serial.to_string())
            ),
            if loaded.current.as_ref().map(|current| &current.id) == Some(&version.id) {
                "stored here, checked by digest. It is the current state now".to_owned()
            } else {
                "stored here, checked by digest".to_owned()
            },
        )),
        None => kept.push((
            Status::new(Tone::Mute, "pend", ""),
            "No state of this apply".to_owned(),
            "nothing was written before contact was lost; the state before it is current".to_owned(),
        )),
    }
    kept.push((
        good(),
        format!(
            "Apply log, {}",
            words::count(loaded.lines(Phase::Apply) as u64, "line", "lines")
        ),
        "every byte that the agent sent".to_owned(),
    ));
    kept.push((
        good(),
        "The plan and the configuration".to_owned(),
        "unchanged, so that you can compare".to_owned(),
    ));
    if run.aftermath == Aftermath::None {
        kept.push((
            Status::new(Tone::Bad, "bad", ""),
            "Anything after the last contact".to_owned(),
            "may still be on the agent’s disk. If the agent comes back it delivers it, and this page changes"
                .to_owned(),
        ));
    }
    Some(Lost {
        agent: apply.agent.clone().unwrap_or_else(|| "the agent".to_owned()),
        attempt: apply.attempt.clone(),
        locked: quarantine.is_some(),
        locked_until: quarantine.flatten().map(|at| Day::new(at, loaded.now).words()),
        delivered: run.aftermath == Aftermath::Delivered,
        kept,
        before: before(loaded),
    })
}

/// The state that the run's plan read, when the current one has come after it.
fn before(loaded: &Loaded) -> Option<(String, String)> {
    let read = loaded.listed.run.plan_state.as_ref()?;
    let current = loaded.current.as_ref()?;
    if current.id == read.version || current.run_id.as_ref() != Some(&loaded.listed.run.id) {
        return None;
    }
    let address = format!(
        "/app/{}/workspaces/{}/states?to={}",
        loaded.organization, loaded.listed.workspace, read.version
    );
    Some((read.serial?.to_string(), address))
}
