//! States that could not become current by themselves (protocol, section 7), and the ways in which a person makes a
//! state current: promoting one of these, or rolling back to an earlier one.

use std::fmt;
use std::str::FromStr;

use terrapool_model::id::{AttemptId, JobId, OrganizationId, RunId, StateVersionId, UserId, WorkspaceId};
use terrapool_model::lock::Lock;
use terrapool_model::refusal::Refusal;

use crate::db::{Connection, Hint, Tx};
use crate::error::StoreError;
use crate::lifecycle::{self, TransitionError};
use crate::page::{Listed, Page};
use crate::runs::RunRecord;
use crate::state_copies::{self, NewCopy};
use crate::state_versions::{self, StateStatus, StateVersionRecord};
use crate::{audit, locks, values};

/// States kept apart for one job: the first and the newest two.
const KEPT_APART: usize = 3;

/// Why a state was kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The job was given to another attempt.
    Superseded,
    /// Somebody has taken the workspace's lock since.
    LockMoved,
    /// It does not follow the current state: another lineage, or a serial that is not higher.
    NotFollowing,
    /// The attempt was assigned before the control plane was restored from a backup.
    OtherHistory,
}

impl Reason {
    /// The word in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::LockMoved => "lock-moved",
            Self::NotFollowing => "not-following",
            Self::OtherHistory => "other-history",
        }
    }

    /// A sentence for people.
    pub fn message(self) -> &'static str {
        match self {
            Self::Superseded => "The job was given to another attempt before this state arrived.",
            Self::LockMoved => {
                "Somebody has taken the workspace's lock since, so this state may be out of date."
            }
            Self::NotFollowing => {
                "It does not follow the current state: its lineage is another, or its serial is not higher."
            }
            Self::OtherHistory => {
                "It was written by a run that was started before the control plane was restored from a backup."
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "superseded" => Ok(Self::Superseded),
            "lock-moved" => Ok(Self::LockMoved),
            "not-following" => Ok(Self::NotFollowing),
            "other-history" => Ok(Self::OtherHistory),
            _ => Err(()),
        }
    }
}

/// A state that was kept apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptApart {
    /// The state version.
    pub version: StateVersionRecord,
    /// The job that brought it.
    pub job: Option<JobId>,
    /// The attempt that brought it.
    pub attempt: Option<AttemptId>,
    /// Why it was kept apart.
    pub reason: Option<Reason>,
}

async fn organization(tx: &mut Tx, workspace: &WorkspaceId) -> Result<OrganizationId, StoreError> {
    tx.fetch_one(
        "SELECT organization_id FROM workspaces WHERE id = $1",
        values![workspace],
    )
    .await?
    .parse("organization_id")
}

/// Keeps an uploaded state apart; `run` is the run that brought it, when these rows know it.
pub(crate) async fn keep(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    run: Option<&RunRecord>,
    new: &NewCopy,
    reason: Reason,
) -> Result<(), StoreError> {
    state_copies::insert(tx, workspace, run, new, StateStatus::KeptApart, Some(reason)).await?;
    let rows = tx
        .fetch_all(
            "SELECT id FROM state_versions WHERE job_id = $1 AND status = 'kept_apart' ORDER BY created_at, id",
            values![&new.job],
        )
        .await?;
    // The one just stored may sort before others of the same millisecond; it stays all the same.
    let spare = rows.len().saturating_sub(KEPT_APART);
    for row in rows.iter().skip(1).take(spare) {
        let version: StateVersionId = row.parse("id")?;
        if version != new.id {
            state_copies::set_status(tx, Some(&version), "discarded").await?;
        }
    }
    let detail = serde_json::json!({
        "state-version": new.id.as_str(),
        "job": new.job.as_str(),
        "attempt": new.attempt.as_str(),
        "serial": new.serial,
        "reason": reason.as_str(),
    });
    let organization = organization(tx, workspace).await?;
    let subject = workspace.as_str();
    audit::record(
        tx,
        Some(&organization),
        "system",
        "state.kept-apart",
        subject,
        &detail,
    )
    .await
}

/// A state that was kept apart.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &StateVersionId) -> Result<Option<KeptApart>, StoreError> {
    let Some(version) = state_versions::get(connection, id).await? else {
        return Ok(None);
    };
    if version.status != StateStatus::KeptApart {
        return Ok(None);
    }
    let row = connection
        .fetch_one(
            "SELECT job_id, attempt, kept_apart_reason FROM state_versions WHERE id = $1",
            values![id],
        )
        .await?;
    Ok(Some(KeptApart {
        version,
        job: row.opt_parse("job_id")?,
        attempt: row.opt_parse("attempt")?,
        reason: row.opt_parse("kept_apart_reason")?,
    }))
}

/// States of a workspace that were kept apart, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    page: &Page,
) -> Result<Listed<KeptApart>, StoreError> {
    let total = count(connection, workspace).await?;
    let rows = connection
        .fetch_all(
            "SELECT id FROM state_versions WHERE workspace_id = $1 AND status = 'kept_apart' \
             ORDER BY created_at DESC, id LIMIT $2 OFFSET $3",
            values![workspace, page.limit(), page.offset()],
        )
        .await?;
    let mut items = Vec::new();
    for row in rows {
        items.extend(get(connection, &row.parse("id")?).await?);
    }
    Ok(Listed { items, total })
}

/// How many states of a workspace are kept apart.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count(connection: &mut Connection, workspace: &WorkspaceId) -> Result<u64, StoreError> {
    connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM state_versions WHERE workspace_id = $1 AND status = 'kept_apart'",
            values![workspace],
        )
        .await?
        .count("total")
}

/// How many states of a run are kept apart.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count_of_run(connection: &mut Connection, run: &RunId) -> Result<u64, StoreError> {
    connection
        .fetch_one(
            "SELECT COUNT(*) AS total FROM state_versions WHERE run_id = $1 AND status = 'kept_apart'",
            values![run],
        )
        .await?
        .count("total")
}

/// Takes the lock for a moment, so that its epoch grows: an attempt that still holds the old epoch can't write over
/// what a person made current. A lock that the person holds already does as well.
async fn fence(tx: &mut Tx, workspace: &WorkspaceId, user: &UserId) -> Result<(), TransitionError> {
    let row = lifecycle::lock_workspace(tx, workspace)
        .await?
        .ok_or(TransitionError::NotFound)?;
    let row = lifecycle::workspace_from_row(&row)?;
    let held = match &row.lock {
        Lock::User(holder) => holder == user,
        Lock::Free | Lock::Run(_) | Lock::Lost { .. } => false,
    };
    if held {
        return Ok(());
    }
    locks::lock_by_user(tx, workspace, user, None).await?;
    locks::unlock_by_user(tx, workspace, Some(user)).await
}

async fn noted(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    user: &UserId,
    action: &str,
    detail: serde_json::Value,
) -> Result<(), TransitionError> {
    let organization = organization(tx, workspace).await?;
    let subject = workspace.as_str();
    audit::record(tx, Some(&organization), user.as_str(), action, subject, &detail).await?;
    Ok(())
}

/// A person makes a state current that was kept apart. Nobody else may hold the workspace's lock.
///
/// # Errors
/// [`TransitionError::NotFound`] when it is not kept apart (any more), [`TransitionError::Refused`] when somebody else
/// holds the lock.
pub async fn promote(tx: &mut Tx, id: &StateVersionId, user: &UserId) -> Result<(), TransitionError> {
    let found = get(tx, id).await?.ok_or(TransitionError::NotFound)?;
    let workspace = found.version.workspace_id;
    let before = current_id(tx, &workspace).await?;
    fence(tx, &workspace, user).await?;
    // Looked at again under the workspace's row lock.
    let changed = tx
        .execute(
            "UPDATE state_versions SET status = 'finalized' WHERE id = $1 AND status = 'kept_apart'",
            values![id],
        )
        .await?;
    if changed == 0 {
        return Err(TransitionError::NotFound);
    }
    state_copies::make_current(tx, &workspace, id).await?;
    let detail = serde_json::json!({
        "state-version": id.as_str(),
        "replaced": before.as_ref().map(StateVersionId::as_str),
        "reason": found.reason.map(Reason::as_str),
    });
    noted(tx, &workspace, user, "state.promote", detail).await
}

/// A person has looked at a state that was kept apart and does not want it. Its bytes are removed.
///
/// # Errors
/// [`TransitionError::NotFound`] when it is not kept apart (any more).
pub async fn dismiss(tx: &mut Tx, id: &StateVersionId, user: &UserId) -> Result<(), TransitionError> {
    let found = get(tx, id).await?.ok_or(TransitionError::NotFound)?;
    let workspace = found.version.workspace_id;
    state_copies::set_status(tx, Some(id), "discarded").await?;
    let detail = serde_json::json!({"state-version": id.as_str(), "serial": found.version.serial});
    noted(tx, &workspace, user, "state.dismiss", detail).await
}

/// A copy of an earlier state version, whose object the caller has stored under the new id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollback {
    /// The earlier one.
    pub to: StateVersionId,
    /// The new one.
    pub id: StateVersionId,
    /// The serial that was written into the copy; `None` when its bytes, and with them its serial, had to stay.
    pub serial: Option<u64>,
    /// Where its bytes lie.
    pub object_key: String,
    /// Bytes.
    pub size: u64,
    /// MD5 of the bytes, lower-case hex, which the API shows.
    pub md5: String,
    /// SHA-256 of the bytes, lower-case hex.
    pub sha256: String,
}

/// A person, who holds the workspace's lock, makes a copy of an earlier state current.
///
/// # Errors
/// [`TransitionError::NotFound`] when there is no such complete state version in the workspace,
/// [`TransitionError::Refused`] when the person does not hold the lock, or a state with the copy's serial or a higher one
/// has come meanwhile.
pub async fn roll_back(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    rollback: &Rollback,
    user: &UserId,
) -> Result<(), TransitionError> {
    let row = lifecycle::lock_workspace(tx, workspace)
        .await?
        .ok_or(TransitionError::NotFound)?;
    let row = lifecycle::workspace_from_row(&row)?;
    match &row.lock {
        Lock::User(holder) if holder == user => {}
        Lock::Free => {
            return Err(
                Refusal::NotAllowed("the workspace is not locked: lock it before rolling back").into(),
            );
        }
        Lock::User(_) | Lock::Run(_) | Lock::Lost { .. } => row.require_free()?,
    }
    // What the same holder announced before the copy would replace it when it arrives.
    state_versions::discard_pending(tx, workspace).await?;
    let highest = state_versions::highest_serial(tx, workspace).await?;
    if rollback.serial.is_some() && rollback.serial <= highest {
        return Err(Refusal::NotAllowed(
            "another state has come while the earlier one was copied: look at it, and roll back again",
        )
        .into());
    }
    let now = tx.now();
    let before = current_id(tx, workspace).await?;
    let made = tx
        .execute(
            "INSERT INTO state_versions (id, workspace_id, run_id, created_by, status, serial, lineage, md5, sha256, \
             size, object_key, resource_count, engine_version, created_at, copy_of) \
             SELECT $2, workspace_id, run_id, $3, 'finalized', COALESCE($8, serial), lineage, $9, $4, $10, $5, \
             resource_count, engine_version, $6, id FROM state_versions \
             WHERE id = $1 AND workspace_id = $7 AND status = 'finalized'",
            values![
                &rollback.to,
                &rollback.id,
                user,
                &rollback.sha256,
                &rollback.object_key,
                now,
                workspace,
                rollback.serial,
                &rollback.md5,
                rollback.size,
            ],
        )
        .await?;
    if made == 0 {
        return Err(TransitionError::NotFound);
    }
    state_copies::make_current(tx, workspace, &rollback.id).await?;
    tx.hint(Hint::Schedule);
    let detail = serde_json::json!({
        "state-version": rollback.id.as_str(),
        "copy-of": rollback.to.as_str(),
        "serial": rollback.serial,
        "replaced": before.as_ref().map(StateVersionId::as_str),
    });
    noted(tx, workspace, user, "state.roll-back", detail).await
}

async fn current_id(
    connection: &mut Connection,
    workspace: &WorkspaceId,
) -> Result<Option<StateVersionId>, StoreError> {
    connection
        .fetch_optional(
            "SELECT current_state_version_id FROM workspaces WHERE id = $1",
            values![workspace],
        )
        .await?
        .map_or(Ok(None), |row| row.opt_parse("current_state_version_id"))
}
