//! Where a run is, what is kept of it, and what to do next.

use axum::extract::{Path, State};
use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::whereabouts::{Facts, describe};
use terrapool_store::jobs::JobRecord;
use terrapool_store::{agents, jobs, kept_apart, pools, runs, workspaces};
use terrapool_tfe::attributes::{self, Kept, WhereaboutsAgent};
use terrapool_tfe::document::{Document, Kind, Resource};
use terrapool_tfe::time::iso8601;

use super::AppState;
use crate::auth::{Caller, WorkspacePermission};
use crate::http::answer::{Answer, Result};
use crate::http::error::ApiError;

/// `GET runs/:id/whereabouts`
pub(super) async fn show(State(app): AppState, caller: Caller, Path(id): Path<String>) -> Result {
    let mut connection = app.db.read().await?;
    let (run, _) = super::runs::find(&mut connection, &caller, &id, WorkspacePermission::Read).await?;
    let workspace = workspaces::get(&mut connection, &run.workspace_id)
        .await?
        .ok_or(ApiError::NotFound)?;
    let now = app.db.time().await?;
    let pool = pools::get(&mut connection, &run.pool_id).await?;
    let settings = pool
        .as_ref()
        .map(|pool| pool.settings.clone())
        .unwrap_or_default();
    let pool_name = pool.map_or_else(|| "that was deleted".to_owned(), |pool| pool.name);
    let connected = agents::count(&mut connection, &run.pool_id, now, &settings.times).await?;
    let job = newest_job(&mut connection, &run.id).await?;
    let agent = match job.as_ref().and_then(|job| job.row.agent.as_ref()) {
        Some(id) => agents::get(&mut connection, id).await?,
        None => None,
    };
    let kept = Kept {
        newest_copy_serial: match &job {
            Some(job) => jobs::newest_copy_serial(&mut connection, &job.id).await?,
            None => None,
        },
        state_versions: runs::state_versions(&mut connection, &run.id).await?,
        kept_apart_states: kept_apart::count_of_run(&mut connection, &run.id).await?,
    };
    let row = job.as_ref().map(|job| &job.row);
    let told = describe(&Facts {
        run: &run.id,
        status: run.status,
        error: run.error_reason,
        aftermath: run.aftermath,
        job: row,
        agent: agent.as_ref().map(|agent| agent.name.as_str()),
        pool: &pool_name,
        connected_agents: connected,
        lock: &workspace.lock,
        needs_person: workspace.lost_run.is_some(),
        kept_apart: kept.kept_apart_states,
        now,
    });
    let held = row.filter(|row| row.is_held());
    let safe_at = match &workspace.lock {
        Lock::Lost { run: holder, safe_at } if *holder == run.id => *safe_at,
        Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => None,
    };
    let attributes = attributes::RunWhereabouts {
        place: told.place.as_str(),
        summary: told.summary,
        next: told.next,
        phase: row.map(|row| row.phase.as_str()),
        pool: pool_name,
        connected_agents: connected,
        agent: agent.map(|agent| WhereaboutsAgent {
            id: agent.id.to_string(),
            status: agent.status(now, &settings.times).as_str(),
            name: agent.name,
            ip_address: agent.ip_address,
        }),
        attempt: row.and_then(|row| row.attempt.as_ref()).map(ToString::to_string),
        generation: row.map(|row| row.generation),
        tries: row.map(|row| row.tries),
        desired: row.map(|row| row.desired.as_str()),
        last_contact_at: row.and_then(|row| row.last_contact).map(iso8601),
        lease_ends_at: held
            .and_then(|row| Some(settings.times.expires_at(row.phase, row.last_contact?)))
            .map(iso8601),
        safe_at: safe_at.map(iso8601),
        aftermath: run.aftermath.as_str(),
        kept,
    };
    let resource = Resource::new(Kind::RunWhereabouts, run.id.to_string(), &attributes)
        .one("run", Kind::Runs, run.id.to_string())
        .one("workspace", Kind::Workspaces, run.workspace_id.to_string());
    Ok(Answer::ok(Document::one(resource)))
}

async fn newest_job(
    connection: &mut terrapool_store::db::Connection,
    run: &terrapool_model::id::RunId,
) -> Result<Option<JobRecord>> {
    let apply = jobs::of_run(connection, run, Phase::Apply).await?;
    Ok(match apply {
        Some(job) => Some(job),
        None => jobs::of_run(connection, run, Phase::Plan).await?,
    })
}
