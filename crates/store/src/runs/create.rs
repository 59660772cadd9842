//! New runs.

use std::collections::BTreeMap;

use terrapool_model::engine::EngineKind;
use terrapool_model::id::{AgentPoolId, ApplyId, ConfigurationVersionId, PlanId, RunId, UserId, WorkspaceId};
use terrapool_protocol::job::OutputFormat;

use super::{COLUMNS, RunRecord, from_row, get, json, output_name};
use crate::db::{Hint, Tx};
use crate::error::StoreError;
use crate::{lifecycle, values};

/// What a new run is made of.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the API's flags of a run, each for itself"
)]
pub struct NewRun {
    /// Its id, drawn by the caller because sealed variables are bound to it (`RunId::from_random(entropy.draw())`).
    pub id: RunId,
    /// The name that the request gives to what it makes; the same name in a workspace is the same run.
    pub request_key: Option<String>,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// What it executes.
    pub configuration_version_id: ConfigurationVersionId,
    /// Which client makes it.
    pub source: String,
    /// A text of whoever makes it.
    pub message: String,
    /// Who makes it; `None` for a token that belongs to no user.
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
    /// See [`RunRecord::variables`].
    pub variables: Option<Vec<u8>>,
    /// Output format of its logs.
    pub output_format: OutputFormat,
    /// Which program.
    pub engine: EngineKind,
    /// Which version, or `latest`.
    pub engine_version: String,
    /// The pool its jobs go to.
    pub pool_id: AgentPoolId,
}

async fn lock_workspace(tx: &mut Tx, id: &WorkspaceId) -> Result<(), StoreError> {
    let lock = format!("SELECT id FROM workspaces WHERE id = $1{}", tx.for_update());
    let found = tx.fetch_optional(&lock, values![id]).await?;
    found.map(|_| ()).ok_or(StoreError::Reference)
}

/// The run that an earlier request with the same name has made. No other request makes one before this transaction
/// ends.
///
/// # Errors
/// [`StoreError::Reference`] when the workspace does not exist; [`StoreError`] otherwise.
pub async fn of_request(tx: &mut Tx, new: &NewRun) -> Result<Option<RunRecord>, StoreError> {
    let Some(key) = &new.request_key else {
        return Ok(None);
    };
    lock_workspace(tx, &new.workspace_id).await?;
    let sql = format!("SELECT {COLUMNS} FROM runs r WHERE r.workspace_id = $1 AND r.request_key = $2");
    tx.fetch_optional(&sql, values![&new.workspace_id, key])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// Makes a run as pending and schedules it at once where its workspace allows it.
///
/// # Errors
/// [`StoreError::Reference`] when workspace, configuration or pool do not exist; [`StoreError`] otherwise.
pub async fn create(tx: &mut Tx, new: &NewRun) -> Result<RunRecord, StoreError> {
    let now = tx.now();
    lock_workspace(tx, &new.workspace_id).await?;
    let number = tx
        .fetch_one(
            "SELECT COALESCE(MAX(number), 0) + 1 AS number FROM runs WHERE workspace_id = $1",
            values![&new.workspace_id],
        )
        .await?
        .int("number")?;
    let plan = PlanId::from_random(tx.draw());
    let apply = ApplyId::from_random(tx.draw());
    let timestamps = BTreeMap::from([("plan-queueable-at".to_owned(), now)]);
    tx.execute(
        "INSERT INTO runs (id, workspace_id, configuration_version_id, number, plan_id, apply_id, status, \
         status_timestamps, source, message, created_by, plan_only, save_plan, auto_apply, is_destroy, refresh, \
         refresh_only, allow_empty_apply, allow_config_generation, target_addrs, replace_addrs, variables, \
         output_format, engine, engine_version, pool_id, request_key, aftermath, created_at, updated_at, \
         organization_id) \
         VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
         $20, $21, $22, $23, $24, $25, $26, 'none', $27, $28, (SELECT organization_id FROM workspaces WHERE id = $2))",
        values![
            &new.id,
            &new.workspace_id,
            &new.configuration_version_id,
            number,
            &plan,
            &apply,
            json(&timestamps),
            &new.source,
            &new.message,
            new.created_by.as_ref(),
            new.plan_only,
            new.save_plan,
            new.auto_apply,
            new.is_destroy,
            new.refresh,
            new.refresh_only,
            new.allow_empty_apply,
            new.allow_config_generation,
            json(&new.target_addrs),
            json(&new.replace_addrs),
            new.variables.clone(),
            output_name(new.output_format),
            new.engine.binary(),
            &new.engine_version,
            &new.pool_id,
            new.request_key.clone(),
            now,
            now,
        ],
    )
    .await?;
    for (id, phase) in [(plan.as_str(), "plan"), (apply.as_str(), "apply")] {
        tx.execute(
            "INSERT INTO logs (id, run_id, phase, ended) VALUES ($1, $2, $3, $4)",
            values![id, &new.id, phase, false],
        )
        .await?;
    }
    if !new.plan_only && !new.save_plan {
        // The newest run that is not speculative is the one that clients are shown.
        tx.execute(
            "UPDATE workspaces SET current_run_id = $2 WHERE id = $1 AND lock_state = 'free'",
            values![&new.workspace_id, &new.id],
        )
        .await?;
    }
    tx.hint(Hint::Run(new.id.clone()));
    lifecycle::schedule(tx, &new.workspace_id).await?;
    get(tx, &new.id).await?.ok_or(StoreError::Reference)
}
