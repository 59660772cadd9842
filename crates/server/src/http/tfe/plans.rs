//! Plans and applies: the two phases of a run, as clients see them.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use terrapool_model::id::{ApplyId, PlanId};
use terrapool_model::job::Phase;
use terrapool_model::run::RunStatus;
use terrapool_objects::{ObjectKey, ObjectReader};
use terrapool_protocol::job::ArtifactName;
use terrapool_store::db::Connection;
use terrapool_store::runs::{self, RunRecord};
use terrapool_store::{artifacts, overview};
use terrapool_tfe::attributes;
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::time::iso8601;

use super::AppState;
use crate::app::App;
use crate::auth::{self, Caller, WorkspacePermission};
use crate::http::answer::{Answer, Result};
use crate::http::error::ApiError;
use crate::http::logs::log_read_url;

/// The plan's status. It comes from the run's own row, so that a plan is never seen finished before the run has its
/// changes and can be confirmed: the CLI would apply nothing, and say that all is well.
fn plan_status(run: &RunRecord) -> &'static str {
    match run.status {
        RunStatus::Pending => "pending",
        RunStatus::PlanQueued => "queued",
        RunStatus::Planning => "running",
        RunStatus::Planned
        | RunStatus::PlannedAndSaved
        | RunStatus::PlannedAndFinished
        | RunStatus::ApplyQueued
        | RunStatus::Applying
        | RunStatus::Applied
        | RunStatus::PolicySoftFailed => "finished",
        _ if run.has_changes.is_some() => "finished",
        RunStatus::Errored => "errored",
        RunStatus::Canceled | RunStatus::ForceCanceled => "canceled",
        RunStatus::Discarded => "unreachable",
    }
}

/// Whether the run got as far as its apply.
fn reached_apply(run: &RunRecord) -> bool {
    ["confirmed-at", "apply-queued-at", "applying-at"]
        .iter()
        .any(|name| run.status_timestamps.contains_key(*name))
}

fn apply_status(run: &RunRecord) -> &'static str {
    match run.status {
        RunStatus::Pending
        | RunStatus::PlanQueued
        | RunStatus::Planning
        | RunStatus::Planned
        | RunStatus::PlannedAndSaved => "pending",
        RunStatus::ApplyQueued => "queued",
        RunStatus::Applying => "running",
        RunStatus::Applied => "finished",
        RunStatus::PlannedAndFinished | RunStatus::Discarded | RunStatus::PolicySoftFailed => "unreachable",
        RunStatus::Errored if reached_apply(run) => "errored",
        RunStatus::Canceled | RunStatus::ForceCanceled if reached_apply(run) => "canceled",
        RunStatus::Errored | RunStatus::Canceled | RunStatus::ForceCanceled => "unreachable",
    }
}

/// The run's times, under the names of a phase.
fn phase_times(run: &RunRecord, names: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut times = BTreeMap::new();
    for (from, to) in names {
        if let Some(at) = run.status_timestamps.get(*from) {
            times.entry((*to).to_owned()).or_insert_with(|| iso8601(*at));
        }
    }
    times
}

/// A plan as clients see it.
pub(super) fn plan_resource(app: &App, run: &RunRecord) -> Resource {
    let counts = run.plan_counts.unwrap_or_default();
    let times = phase_times(
        run,
        &[
            ("plan-queued-at", "queued-at"),
            ("planning-at", "started-at"),
            ("planned-at", "finished-at"),
            ("planned-and-saved-at", "finished-at"),
            ("planned-and-finished-at", "finished-at"),
        ],
    );
    let attributes = attributes::Plan {
        status: plan_status(run),
        status_timestamps: times,
        has_changes: run.has_changes.unwrap_or(false),
        generated_configuration: run.allow_config_generation && run.has_changes.is_some(),
        log_read_url: log_read_url(app, run.plan_id.as_str()),
        resource_additions: counts.add,
        resource_changes: counts.change,
        resource_destructions: counts.destroy,
        resource_imports: counts.import,
    };
    let path = format!("/api/v2/plans/{}", run.plan_id);
    Resource::new(Kind::Plans, run.plan_id.to_string(), &attributes)
        .many("exports", &[])
        .link("self", path.clone())
        .link("json-output", format!("{path}/json-output"))
        .link("json-output-redacted", format!("{path}/json-output-redacted"))
}

/// An apply as clients see it.
pub(super) fn apply_resource(app: &App, run: &RunRecord) -> Resource {
    let counts = run.apply_counts.unwrap_or_default();
    let times = phase_times(
        run,
        &[
            ("apply-queued-at", "queued-at"),
            ("applying-at", "started-at"),
            ("applied-at", "finished-at"),
        ],
    );
    let attributes = attributes::Apply {
        status: apply_status(run),
        status_timestamps: times,
        log_read_url: log_read_url(app, run.apply_id.as_str()),
        resource_additions: counts.add,
        resource_changes: counts.change,
        resource_destructions: counts.destroy,
        resource_imports: counts.import,
    };
    Resource::new(Kind::Applies, run.apply_id.to_string(), &attributes)
        .many("state-versions", &[])
        .link("self", format!("/api/v2/applies/{}", run.apply_id))
}

async fn run_of_plan(
    connection: &mut Connection,
    caller: &Caller,
    id: &str,
    permission: WorkspacePermission,
) -> Result<RunRecord> {
    let id: PlanId = id.parse().map_err(|_| ApiError::NotFound)?;
    let run = runs::by_plan(connection, &id).await?.ok_or(ApiError::NotFound)?;
    auth::workspace(connection, caller, run.workspace_id.as_str(), permission).await?;
    Ok(run)
}

/// The memory of a phase that is over, where its agent told it; clients that wait for the end are not sent it each time.
async fn with_memory(
    connection: &mut Connection,
    resource: Resource,
    run: &RunRecord,
    (phase, status): (Phase, &str),
) -> Result<Resource> {
    if !["finished", "errored", "canceled"].contains(&status) {
        return Ok(resource);
    }
    let Some((curve, limit_mb)) = overview::memory_of(connection, &run.id, phase).await? else {
        return Ok(resource);
    };
    let points = curve.points().iter().map(|used| attributes::MemoryPoint {
        total_mb: used.total_mb,
        anonymous_mb: used.anonymous_mb,
    });
    let memory = attributes::Memory {
        limit_mb,
        step_ms: curve.step().0,
        points: points.collect(),
    };
    Ok(resource.attribute("memory", &memory))
}

/// `GET plans/:id`
pub(in crate::http) async fn plan(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let run = run_of_plan(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let phase = (Phase::Plan, plan_status(&run));
    let resource = with_memory(&mut connection, plan_resource(&app, &run), &run, phase).await?;
    Ok(Answer::ok(Document::one(resource)))
}

/// `GET runs/:id/plan`
pub(in crate::http) async fn plan_of_run(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (run, _) = super::runs::find(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let phase = (Phase::Plan, plan_status(&run));
    let resource = with_memory(&mut connection, plan_resource(&app, &run), &run, phase).await?;
    Ok(Answer::ok(Document::one(resource)))
}

/// `GET applies/:id`
pub(in crate::http) async fn apply(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let id: ApplyId = id.parse().map_err(|_| ApiError::NotFound)?;
    let run = runs::by_apply(&mut connection, &id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let workspace = run.workspace_id.as_str();
    auth::workspace(&mut connection, &caller, workspace, WorkspacePermission::Read).await?;
    let phase = (Phase::Apply, apply_status(&run));
    let resource = with_memory(&mut connection, apply_resource(&app, &run), &run, phase).await?;
    Ok(Answer::ok(Document::one(resource)))
}

/// `GET runs/:id/apply`
pub(in crate::http) async fn apply_of_run(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result {
    let mut connection = app.db.read().await?;
    let (run, _) = super::runs::find(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let phase = (Phase::Apply, apply_status(&run));
    let resource = with_memory(&mut connection, apply_resource(&app, &run), &run, phase).await?;
    Ok(Answer::ok(Document::one(resource)))
}

/// Streams an object as JSON.
pub(super) fn stream(reader: ObjectReader, kind: HeaderValue) -> Response {
    let chunks = futures_util::stream::try_unfold(reader, |mut reader| async move {
        Ok::<_, terrapool_objects::ObjectError>(reader.next().await?.map(|chunk| (chunk, reader)))
    });
    ([(CONTENT_TYPE, kind)], Body::from_stream(chunks)).into_response()
}

/// The JSON of plans and states.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

async fn artifact(
    app: &App,
    caller: &Caller,
    id: &str,
    name: ArtifactName,
    permission: WorkspacePermission,
) -> Result<Response> {
    let mut connection = app.db.read().await?;
    let run = run_of_plan(&mut connection, caller, id, permission).await?;
    let found = artifacts::of_run(&mut connection, &run.id, name).await?;
    drop(connection);
    let Some(record) = found else {
        // Not made yet, or a plan that failed.
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let key = ObjectKey::new(record.object_key.as_str())?;
    Ok(stream(app.objects.reader(&key, record.context()).await?, JSON))
}

/// `GET plans/:id/json-output`: `terraform show -json`, with sensitive values in clear.
pub(in crate::http) async fn json_output(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    artifact(
        &app,
        &caller,
        &id,
        ArtifactName::PlanJson,
        WorkspacePermission::ReadState,
    )
    .await
}

/// `GET plans/:id/json-output-redacted`: what the CLI renders.
pub(in crate::http) async fn json_output_redacted(
    State(app): AppState,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    artifact(
        &app,
        &caller,
        &id,
        ArtifactName::PlanRedacted,
        WorkspacePermission::Read,
    )
    .await
}
