//! Changes, and readings of states, that are written into the audit log in the transaction that makes them.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use terrapool_model::id::OrganizationId;
use terrapool_store::audit;
use terrapool_store::db::Tx;
use terrapool_store::error::StoreError;

use super::error::ApiError;
use crate::app::App;
use crate::auth::Caller;

/// What the audit log says of a change.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose log; `None`: the installation's.
    pub organization: Option<OrganizationId>,
    /// What is done (`team.update`).
    pub action: &'static str,
    /// The id of what it is done to.
    pub subject: String,
    /// What people want to know of it.
    pub detail: Value,
}

/// A detail with what a change of settings changes: `before` and `after` have the members that differ, by their paths. No
/// secret may be in either.
pub fn with_change(mut detail: Value, before: &Value, after: &Value) -> Value {
    let (mut old, mut new) = (Map::new(), Map::new());
    differences("", before, after, &mut old, &mut new);
    if !old.is_empty() || !new.is_empty() {
        detail["before"] = Value::Object(old);
        detail["after"] = Value::Object(new);
    }
    detail
}

fn differences(
    path: &str,
    before: &Value,
    after: &Value,
    old: &mut Map<String, Value>,
    new: &mut Map<String, Value>,
) {
    if before == after {
        return;
    }
    let (Value::Object(was), Value::Object(is)) = (before, after) else {
        old.insert(path.to_owned(), before.clone());
        new.insert(path.to_owned(), after.clone());
        return;
    };
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let [was, is] = [was, is].map(|members| members.get(name).unwrap_or(&Value::Null));
        differences(&path, was, is, old, new);
    }
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
    change_with(
        app,
        caller,
        entry,
        |_| Box::pin(async { Ok(Value::Null) }),
        change,
    )
    .await
}

/// Makes a change and writes its entry with what `told` reads before and after it, all in one transaction. What it reads
/// may hold no secret.
///
/// # Errors
/// As of [`change`], and whatever `told` returns.
pub async fn change_with<T, R, F>(
    app: &App,
    caller: &Caller,
    entry: Entry,
    told: R,
    change: F,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    R: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<Value, ApiError>> + Send + Sync + 'static,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, ApiError>> + Send + Sync + 'static,
{
    let (actor, parts) = (caller.audit_name(), Arc::new((told, change)));
    app.db
        .write(move |tx| {
            let (actor, entry, parts) = (actor.clone(), entry.clone(), Arc::clone(&parts));
            Box::pin(async move {
                let (told, change) = &*parts;
                let before = told(tx).await?;
                let made = change(tx).await?;
                let detail = with_change(entry.detail, &before, &told(tx).await?);
                let organization = entry.organization.as_ref();
                audit::record(tx, organization, &actor, entry.action, &entry.subject, &detail).await?;
                Ok::<_, ApiError>(made)
            })
        })
        .await
}

/// Writes that something is read that the log tells of. A database that takes no writes now (its disk is full) does
/// not hinder the reading: then the program's own log has the line.
///
/// # Errors
/// [`ApiError::Store`] when the database fails otherwise.
pub async fn reading(
    app: &App,
    caller: &Caller,
    organization: Option<OrganizationId>,
    action: &'static str,
    subject: &str,
    detail: Value,
) -> Result<(), ApiError> {
    let (actor, subject) = (caller.audit_name(), subject.to_owned());
    let noted = {
        let (actor, subject) = (actor.clone(), subject.clone());
        app.db
            .write::<_, StoreError, _>(move |tx| {
                let (organization, actor) = (organization.clone(), actor.clone());
                let (subject, detail) = (subject.clone(), detail.clone());
                Box::pin(async move {
                    audit::record(tx, organization.as_ref(), &actor, action, &subject, &detail).await
                })
            })
            .await
    };
    match noted {
        Err(error) if error.is_unavailable() => {
            tracing::warn!(
                actor,
                action,
                subject,
                error = &error as &dyn std::error::Error,
                "a reading could not be written into the audit log"
            );
            Ok(())
        }
        noted => Ok(noted?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_of_settings_tells_only_what_differs() {
        let before = json!({"name": "a", "times": {"lease": 60, "grace": 5}, "image": null});
        let after = json!({"name": "a", "times": {"lease": 90, "grace": 5}, "image": "one"});
        let told = with_change(json!({"pool": "p"}), &before, &after);
        let expected = json!({"pool": "p", "before": {"image": null, "times.lease": 60},
            "after": {"image": "one", "times.lease": 90}});
        assert_eq!(told, expected);
        assert_eq!(with_change(json!({}), &before, &before), json!({}));
    }
}
