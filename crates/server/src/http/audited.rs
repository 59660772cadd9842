//! Changes that are written into the audit log in the transaction that makes them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;
use terrapool_model::id::OrganizationId;
use terrapool_store::audit;
use terrapool_store::db::Tx;

use super::error::ApiError;
use crate::app::App;
use crate::auth::Caller;

/// What the audit log says of a change.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose log.
    pub organization: OrganizationId,
    /// What is done (`team.update`).
    pub action: &'static str,
    /// The id of what it is done to.
    pub subject: String,
    /// What people want to know of it.
    pub detail: Value,
}

/// Makes a change and writes its entry, or does neither.
///
/// # Errors
/// Whatever the change returns, and [`ApiError::Store`] when the database fails.
pub async fn change<T, F>(app: &App, caller: &Caller, entry: Entry, change: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, ApiError>> + Send + Sync + 'static,
{
    let (actor, change) = (caller.audit_name(), Arc::new(change));
    app.db
        .write(move |tx| {
            let (actor, entry, change) = (actor.clone(), entry.clone(), Arc::clone(&change));
            Box::pin(async move {
                let made = change(tx).await?;
                let organization = Some(&entry.organization);
                audit::record(
                    tx,
                    organization,
                    &actor,
                    entry.action,
                    &entry.subject,
                    &entry.detail,
                )
                .await?;
                Ok::<_, ApiError>(made)
            })
        })
        .await
}
