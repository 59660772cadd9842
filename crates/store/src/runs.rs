//! Runs: the rows, what people do with them, and their scheduling.
//!
//! Every change goes through the model's tables. Whatever may let another run of the workspace go on (an end, a
//! discard, an unlock) schedules it in the same transaction.

use std::collections::BTreeMap;

use terrapool_model::engine::EngineKind;
use terrapool_model::id::{
    AgentPoolId, ApplyId, ConfigurationVersionId, OrganizationId, PlanId, RunId, StateVersionId, UserId,
    WorkspaceId,
};
use terrapool_model::run::{Actions, Aftermath, ErrorReason, Run, RunStatus, StateRef};
use terrapool_model::time::Timestamp;
use terrapool_model::transition::Event;
use terrapool_protocol::job::{ChangeCounts, OutputFormat};

use crate::db::{Connection, Row, Tx, Value};
use crate::error::StoreError;
pub use crate::lifecycle::TransitionError;
use crate::lifecycle::{self, Details};
use crate::page::{Listed, Page};
use crate::sight::Sight;
use crate::values;

mod create;

pub use create::{NewRun, create, of_request};

/// A run with all its columns.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the API's flags of a run, each for itself"
)]
pub struct RunRecord {
    /// Id.
    pub id: RunId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// What it executes.
    pub configuration_version_id: ConfigurationVersionId,
    /// Grows in a workspace.
    pub number: u64,
    /// Its plan.
    pub plan_id: PlanId,
    /// Its apply.
    pub apply_id: ApplyId,
    /// Where it stands.
    pub status: RunStatus,
    /// When it reached what: the keys are the API's (`planned-at`).
    pub status_timestamps: BTreeMap<String, Timestamp>,
    /// Which client made it (`tfe-api`, `terraform+cloud`, …).
    pub source: String,
    /// A text of whoever made it.
    pub message: String,
    /// Who made it; `None` for a token that belongs to no user.
    pub created_by: Option<UserId>,
    /// It never applies.
    pub plan_only: bool,
    /// Its plan is kept for later.
    pub save_plan: bool,
    /// It applies without being confirmed.
    pub auto_apply: bool,
    /// It removes everything.
    pub is_destroy: bool,
    /// It reads the infrastructure first.
    pub refresh: bool,
    /// It only updates the state.
    pub refresh_only: bool,
    /// It may be applied without changes.
    pub allow_empty_apply: bool,
    /// Configuration is generated for import blocks.
    pub allow_config_generation: bool,
    /// `-target`, each.
    pub target_addrs: Vec<String>,
    /// `-replace`, each.
    pub replace_addrs: Vec<String>,
    /// The run's own variables: a JSON array of `protocol::job::RunVariable`, sealed with the run's id as context.
    pub variables: Option<Vec<u8>>,
    /// Output format of its logs.
    pub output_format: OutputFormat,
    /// Which program.
    pub engine: EngineKind,
    /// Which version, or `latest`; after the plan the version that was used.
    pub engine_version: String,
    /// SHA-256 of the engine binary that made the plan.
    pub engine_sha256: Option<String>,
    /// The pool its jobs go to.
    pub pool_id: AgentPoolId,
    /// The epoch at which it took the workspace's lock.
    pub lock_epoch: Option<u64>,
    /// Whether its plan has changes, once known.
    pub has_changes: Option<bool>,
    /// What its plan would change.
    pub plan_counts: Option<ChangeCounts>,
    /// What its apply changed.
    pub apply_counts: Option<ChangeCounts>,
    /// The state that its plan read.
    pub plan_state: Option<StateRef>,
    /// Why it is errored.
    pub error_reason: Option<ErrorReason>,
    /// The same for people.
    pub error_message: Option<String>,
    /// What was learnt after its end.
    pub aftermath: Aftermath,
    /// When it was canceled first.
    pub cancel_asked_at: Option<Timestamp>,
    /// From when on it may be force-canceled.
    pub force_cancel_available_at: Option<Timestamp>,
    /// Comment of whoever confirmed, discarded or canceled it.
    pub comment: Option<String>,
    /// Who confirmed it.
    pub confirmed_by: Option<UserId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

impl RunRecord {
    /// The row as the model's tables see it.
    pub fn model(&self) -> Run {
        Run {
            id: self.id.clone(),
            status: self.status,
            plan_only: self.plan_only,
            save_plan: self.save_plan,
            auto_apply: self.auto_apply,
            allow_empty_apply: self.allow_empty_apply,
            lock_epoch: self.lock_epoch,
            has_changes: self.has_changes,
            plan_state: self.plan_state.clone(),
            error: self.error_reason,
            aftermath: self.aftermath,
            cancel_asked_at: self.cancel_asked_at,
            force_cancel_available_at: self.force_cancel_available_at,
        }
    }

    /// What people may do with it now.
    pub fn actions(&self, now: Timestamp) -> Actions {
        self.model().actions(now)
    }
}

pub(crate) const COLUMNS: &str = "r.id, r.workspace_id, r.configuration_version_id, r.number, r.plan_id, r.apply_id, \
     r.status, r.status_timestamps, r.source, r.message, r.created_by, r.plan_only, r.save_plan, r.auto_apply, \
     r.is_destroy, r.refresh, r.refresh_only, r.allow_empty_apply, r.allow_config_generation, r.target_addrs, \
     r.replace_addrs, r.variables, r.output_format, r.engine, r.engine_version, r.engine_sha256, r.pool_id, \
     r.lock_epoch, r.has_changes, r.plan_counts, r.apply_counts, r.plan_state_version_id, r.plan_state_serial, \
     r.plan_state_lineage, r.error_reason, r.error_message, r.aftermath, r.cancel_asked_at, \
     r.force_cancel_available_at, r.comment, r.confirmed_by, r.created_at, r.updated_at, \
     (SELECT s.sha256 FROM state_versions s WHERE s.id = r.plan_state_version_id) AS plan_state_sha256";

/// The statuses that may still change, for `IN (…)`.
pub(crate) const ACTIVE: &str = "'pending', 'plan_queued', 'planning', 'planned', 'planned_and_saved', \
     'apply_queued', 'applying'";

pub(crate) fn opt_count(row: &Row, column: &str) -> Result<Option<u64>, StoreError> {
    row.opt_int(column)?
        .map(|value| {
            u64::try_from(value).map_err(|_| StoreError::Corrupt {
                column: column.to_owned(),
                found: value.to_string(),
            })
        })
        .transpose()
}

fn engine(row: &Row) -> Result<EngineKind, StoreError> {
    let found = row.text("engine")?;
    match found.as_str() {
        "terraform" => Ok(EngineKind::Terraform),
        "tofu" => Ok(EngineKind::Tofu),
        _ => Err(StoreError::Corrupt {
            column: "engine".to_owned(),
            found,
        }),
    }
}

fn output_name(format: OutputFormat) -> &'static str {
    match format {
        OutputFormat::Json => "json",
        OutputFormat::Plain => "plain",
    }
}

fn output_format(row: &Row) -> Result<OutputFormat, StoreError> {
    let found = row.text("output_format")?;
    match found.as_str() {
        "json" => Ok(OutputFormat::Json),
        "plain" => Ok(OutputFormat::Plain),
        _ => Err(StoreError::Corrupt {
            column: "output_format".to_owned(),
            found,
        }),
    }
}

pub(crate) fn from_row(row: &Row) -> Result<RunRecord, StoreError> {
    let state: Option<StateVersionId> = row.opt_parse("plan_state_version_id")?;
    let plan_state = match state {
        Some(version) => Some(StateRef {
            version,
            serial: opt_count(row, "plan_state_serial")?,
            lineage: row.opt_text("plan_state_lineage")?,
            sha256: row.opt_text("plan_state_sha256")?,
        }),
        None => None,
    };
    Ok(RunRecord {
        id: row.parse("id")?,
        workspace_id: row.parse("workspace_id")?,
        configuration_version_id: row.parse("configuration_version_id")?,
        number: row.count("number")?,
        plan_id: row.parse("plan_id")?,
        apply_id: row.parse("apply_id")?,
        status: row.parse("status")?,
        status_timestamps: row.json("status_timestamps")?,
        source: row.text("source")?,
        message: row.text("message")?,
        created_by: row.opt_parse("created_by")?,
        plan_only: row.bool("plan_only")?,
        save_plan: row.bool("save_plan")?,
        auto_apply: row.bool("auto_apply")?,
        is_destroy: row.bool("is_destroy")?,
        refresh: row.bool("refresh")?,
        refresh_only: row.bool("refresh_only")?,
        allow_empty_apply: row.bool("allow_empty_apply")?,
        allow_config_generation: row.bool("allow_config_generation")?,
        target_addrs: row.json("target_addrs")?,
        replace_addrs: row.json("replace_addrs")?,
        variables: row.opt_blob("variables")?,
        output_format: output_format(row)?,
        engine: engine(row)?,
        engine_version: row.text("engine_version")?,
        engine_sha256: row.opt_text("engine_sha256")?,
        pool_id: row.parse("pool_id")?,
        lock_epoch: opt_count(row, "lock_epoch")?,
        has_changes: row.opt_bool("has_changes")?,
        plan_counts: row.opt_json("plan_counts")?,
        apply_counts: row.opt_json("apply_counts")?,
        plan_state,
        error_reason: row.opt_parse("error_reason")?,
        error_message: row.opt_text("error_message")?,
        aftermath: row.parse("aftermath")?,
        cancel_asked_at: row.opt_time("cancel_asked_at")?,
        force_cancel_available_at: row.opt_time("force_cancel_available_at")?,
        comment: row.opt_text("comment")?,
        confirmed_by: row.opt_parse("confirmed_by")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn json<T: serde::Serialize>(value: &T) -> String {
    // Strings and numbers in arrays and maps always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

async fn one(
    connection: &mut Connection,
    condition: &str,
    value: String,
) -> Result<Option<RunRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM runs r WHERE {condition}");
    connection
        .fetch_optional(&sql, values![value])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// A run.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &RunId) -> Result<Option<RunRecord>, StoreError> {
    one(connection, "r.id = $1", id.to_string()).await
}

/// The run of a plan.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_plan(connection: &mut Connection, id: &PlanId) -> Result<Option<RunRecord>, StoreError> {
    one(connection, "r.plan_id = $1", id.to_string()).await
}

/// The run of an apply.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn by_apply(connection: &mut Connection, id: &ApplyId) -> Result<Option<RunRecord>, StoreError> {
    one(connection, "r.apply_id = $1", id.to_string()).await
}

/// A workspace's runs, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list_of_workspace(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    page: &Page,
) -> Result<Listed<RunRecord>, StoreError> {
    let total = connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM runs WHERE workspace_id = $1",
            values![workspace],
        )
        .await?
        .count("total")?;
    let sql = format!(
        "SELECT {COLUMNS} FROM runs r WHERE r.workspace_id = $1 ORDER BY r.number DESC LIMIT $2 OFFSET $3"
    );
    let rows = connection
        .fetch_all(&sql, values![workspace, page.limit(), page.offset()])
        .await?;
    Ok(Listed {
        items: rows.iter().map(from_row).collect::<Result<_, _>>()?,
        total,
    })
}

/// An organization's runs that may still change, oldest first: the run queue.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn active_of_organization(
    connection: &mut Connection,
    organization: &OrganizationId,
    sight: &Sight,
    page: &Page,
) -> Result<Listed<RunRecord>, StoreError> {
    let mut values: Vec<Value> = values![organization];
    let seen = sight.of_workspaces("w", &mut values);
    let from = format!(
        "FROM runs r JOIN workspaces w ON w.id = r.workspace_id \
         WHERE w.organization_id = $1 AND r.status IN ({ACTIVE}) AND {seen}"
    );
    let total = connection
        .fetch_one(&format!("SELECT COUNT(*) AS total {from}"), values.clone())
        .await?
        .count("total")?;
    let (first, second) = (values.len() + 1, values.len() + 2);
    values.extend(values![page.limit(), page.offset()]);
    let sql = format!("SELECT {COLUMNS} {from} ORDER BY r.created_at, r.id LIMIT ${first} OFFSET ${second}");
    let rows = connection.fetch_all(&sql, values).await?;
    Ok(Listed {
        items: rows.iter().map(from_row).collect::<Result<_, _>>()?,
        total,
    })
}

/// How many runs of its workspace a pending run waits for; 0 for one that does not wait.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn queue_position(connection: &mut Connection, run: &RunRecord) -> Result<u64, StoreError> {
    if run.status != RunStatus::Pending {
        return Ok(0);
    }
    let sql = format!(
        "SELECT COUNT(*) AS ahead FROM runs WHERE workspace_id = $1 AND number < $2 AND plan_only = $3 \
         AND status IN ({ACTIVE}) AND status <> 'planned_and_saved'"
    );
    connection
        .fetch_one(&sql, values![&run.workspace_id, run.number, false])
        .await?
        .count("ahead")
}

async fn by_person(
    tx: &mut Tx,
    id: &RunId,
    event: &Event,
    details: Details,
) -> Result<RunRecord, TransitionError> {
    lifecycle::drive(tx, id, event, &details).await?;
    get(tx, id).await?.ok_or(TransitionError::NotFound)
}

/// Confirms a plan: its apply is queued.
///
/// # Errors
/// [`TransitionError::Refused`] when the run does not wait for it, or its plan is stale.
pub async fn confirm(
    tx: &mut Tx,
    id: &RunId,
    actor: Option<&UserId>,
    comment: Option<&str>,
) -> Result<RunRecord, TransitionError> {
    let current = lifecycle::current_state_of_run(tx, id).await?;
    let details = Details {
        comment: comment.map(str::to_owned),
        confirmed_by: actor.cloned(),
        ..Details::default()
    };
    by_person(tx, id, &Event::Confirm { current }, details).await
}

/// Discards a run that waits.
///
/// # Errors
/// [`TransitionError::Refused`] when it does not wait.
pub async fn discard(
    tx: &mut Tx,
    id: &RunId,
    _actor: Option<&UserId>,
    comment: Option<&str>,
) -> Result<RunRecord, TransitionError> {
    let details = Details {
        comment: comment.map(str::to_owned),
        ..Details::default()
    };
    by_person(tx, id, &Event::Discard, details).await
}

/// Cancels a run: at once when nobody works on it, else its agent is told to stop.
///
/// # Errors
/// [`TransitionError::Refused`] when there is nothing to cancel.
pub async fn cancel(
    tx: &mut Tx,
    id: &RunId,
    _actor: Option<&UserId>,
    comment: Option<&str>,
) -> Result<RunRecord, TransitionError> {
    let details = Details {
        comment: comment.map(str::to_owned),
        ..Details::default()
    };
    by_person(tx, id, &Event::Cancel, details).await
}

/// Gives a canceled run up whose agent does not stop.
///
/// # Errors
/// [`TransitionError::Refused`] when it was not canceled long enough ago.
pub async fn force_cancel(
    tx: &mut Tx,
    id: &RunId,
    _actor: Option<&UserId>,
    comment: Option<&str>,
) -> Result<RunRecord, TransitionError> {
    let details = Details {
        comment: comment.map(str::to_owned),
        ..Details::default()
    };
    by_person(tx, id, &Event::ForceCancel, details).await
}

/// How many state versions a run made current.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn state_versions(connection: &mut Connection, run: &RunId) -> Result<u64, StoreError> {
    connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM state_versions WHERE run_id = $1 AND status = 'finalized'",
            values![run],
        )
        .await?
        .count("total")
}
