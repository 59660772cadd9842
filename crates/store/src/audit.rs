//! The audit log: who did what to whom, in the transaction that did it.

use std::fmt;
use std::str::FromStr;

use serde_json::Value as Json;
use terrapool_model::id::{AuditId, OrganizationId};
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// An entry.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// Id.
    pub id: AuditId,
    /// The organization it belongs to; none for the installation itself.
    pub organization_id: Option<OrganizationId>,
    /// Who: a user's id, a token's id, or `system`.
    pub actor: String,
    /// What, for example `workspace.delete`.
    pub action: String,
    /// To whom: an id or a name.
    pub subject: String,
    /// More, without secrets.
    pub detail: Json,
    /// When.
    pub at: Timestamp,
    /// The request that it was done by; none for what the server does by itself.
    pub request_id: Option<String>,
    /// The address that the request came from.
    pub address: Option<String>,
}

/// Adds an entry.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn record(
    tx: &mut Tx,
    organization: Option<&OrganizationId>,
    actor: &str,
    action: &str,
    subject: &str,
    detail: &Json,
) -> Result<(), StoreError> {
    let id = AuditId::from_random(tx.draw());
    let now = tx.now();
    let request_id = tx.origin().map(|origin| origin.request_id.clone());
    let address = tx.origin().and_then(|origin| origin.address.clone());
    tx.execute(
        "INSERT INTO audit_entries (id, organization_id, actor, action, subject, detail, at, request_id, address) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        values![
            &id,
            organization.cloned(),
            actor,
            action,
            subject,
            detail.to_string(),
            now,
            request_id,
            address
        ],
    )
    .await?;
    Ok(())
}

/// The newest entries of an organization, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn newest(
    connection: &mut Connection,
    organization: &OrganizationId,
    limit: u32,
) -> Result<Vec<AuditRecord>, StoreError> {
    list(connection, Some(organization), &AuditFilter::default(), limit).await
}

/// The newest entries about something, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_subject(
    connection: &mut Connection,
    organization: &OrganizationId,
    subject: &str,
    limit: u32,
) -> Result<Vec<AuditRecord>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, organization_id, actor, action, subject, detail, at, request_id, address FROM audit_entries \
             WHERE subject = $1 AND organization_id = $2 ORDER BY at DESC, id LIMIT $3",
            values![subject, organization, limit],
        )
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<AuditRecord, StoreError> {
    Ok(AuditRecord {
        id: row.parse("id")?,
        organization_id: row.opt_parse("organization_id")?,
        actor: row.text("actor")?,
        action: row.text("action")?,
        subject: row.text("subject")?,
        detail: row.json("detail")?,
        at: row.time("at")?,
        request_id: row.opt_text("request_id")?,
        address: row.opt_text("address")?,
    })
}

/// Which entries of the log are listed.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Actor (the name of a user, too), action, subject or detail contain this.
    pub text: Option<String>,
    /// Actions that begin with one of these; all when there are none.
    pub kinds: Vec<&'static str>,
    /// From this moment on.
    pub from: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// What is listed behind this.
    pub before: Option<Before>,
}

/// A place in the log. As text it is the milliseconds of an entry and, behind a dot, its id; without an id, everything of
/// that millisecond stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// When the entry was made.
    pub at: Timestamp,
    /// Which of that millisecond.
    pub id: Option<AuditId>,
}

impl Before {
    /// The place of an entry.
    pub fn entry(record: &AuditRecord) -> Self {
        Self {
            at: record.at,
            id: Some(record.id.clone()),
        }
    }
}

impl fmt::Display for Before {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.at.0)?;
        self.id.iter().try_for_each(|id| write!(formatter, ".{id}"))
    }
}

impl FromStr for Before {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let (at, id) = match text.split_once('.') {
            Some((at, id)) => (at, Some(id.parse().map_err(|_| NoPlace)?)),
            None => (text, None),
        };
        Ok(Self {
            at: Timestamp(at.parse().map_err(|_| NoPlace)?),
            id,
        })
    }
}

/// The text names no place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a place in the audit log is written as milliseconds, a dot and the id of an entry")]
pub struct NoPlace;

/// Entries of an organization, or of the installation itself, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    organization: Option<&OrganizationId>,
    filter: &AuditFilter,
    limit: u32,
) -> Result<Vec<AuditRecord>, StoreError> {
    let mut values: Vec<crate::db::Value> = Vec::new();
    let mut condition = match organization {
        Some(id) => {
            values.push(id.into());
            "organization_id = $1".to_owned()
        }
        None => "organization_id IS NULL".to_owned(),
    };
    if let Some(Before { at, id }) = &filter.before {
        values.push((*at).into());
        let moment = values.len();
        match id {
            Some(id) => {
                values.push(id.into());
                let id = values.len();
                condition.push_str(&format!(
                    " AND (at < ${moment} OR (at = ${moment} AND id > ${id}))"
                ));
            }
            None => condition.push_str(&format!(" AND at < ${moment}")),
        }
    }
    for (comparison, moment) in [(">=", filter.from), ("<", filter.until)] {
        if let Some(moment) = moment {
            values.push(moment.into());
            condition.push_str(&format!(" AND at {comparison} ${}", values.len()));
        }
    }
    if let Some(text) = &filter.text {
        values.push(crate::search::contains(text).into());
        let number = values.len();
        condition.push_str(&format!(
            " AND (LOWER(actor) LIKE ${number} ESCAPE '!' OR LOWER(action) LIKE ${number} ESCAPE '!' \
             OR LOWER(subject) LIKE ${number} ESCAPE '!' OR LOWER(detail) LIKE ${number} ESCAPE '!' \
             OR request_id LIKE ${number} ESCAPE '!' OR address LIKE ${number} ESCAPE '!' \
             OR actor IN (SELECT id FROM users WHERE LOWER(username) LIKE ${number} ESCAPE '!'))"
        ));
    }
    if !filter.kinds.is_empty() {
        let kinds: Vec<String> = filter
            .kinds
            .iter()
            .map(|kind| {
                values.push(format!("{kind}%").into());
                format!("action LIKE ${}", values.len())
            })
            .collect();
        condition.push_str(&format!(" AND ({})", kinds.join(" OR ")));
    }
    values.push(limit.into());
    let sql = format!(
        "SELECT id, organization_id, actor, action, subject, detail, at, request_id, address FROM audit_entries \
         WHERE {condition} ORDER BY at DESC, id LIMIT ${}",
        values.len()
    );
    connection
        .fetch_all(&sql, values)
        .await?
        .iter()
        .map(read)
        .collect()
}
