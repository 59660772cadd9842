//! Since when a pool's access rule says what it says: what the audit log keeps of a change, and how that is found again.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use terrapool_model::access::PoolAccess;
use terrapool_model::id::{ProjectId, WorkspaceId};
use terrapool_store::audit::AuditRecord;

/// The field of an entry's detail.
const FIELD: &str = "access";
const SCOPED: &str = "organization-scoped";
const PROJECTS: &str = "allowed-projects";
const WORKSPACES: &str = "allowed-workspaces";
const EXCLUDED: &str = "excluded-workspaces";

/// One thing that an access rule says or does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said<'a> {
    /// Every workspace of the organization may.
    Scoped,
    /// A project is allowed.
    Project(&'a ProjectId),
    /// A workspace is allowed by name.
    Workspace(&'a WorkspaceId),
    /// A workspace is excluded.
    Excluded(&'a WorkspaceId),
}

fn list<T: Ord + ToString>(before: &BTreeSet<T>, after: &BTreeSet<T>) -> Option<Value> {
    let texts = |one: &BTreeSet<T>, other: &BTreeSet<T>| -> Vec<String> {
        one.difference(other).map(T::to_string).collect()
    };
    let (added, removed) = (texts(after, before), texts(before, after));
    (!added.is_empty() || !removed.is_empty()).then(|| json!({"added": added, "removed": removed}))
}

/// Adds to the detail of an entry what a change does to a pool's access rule.
pub fn note(detail: &mut Value, before: &PoolAccess, after: &PoolAccess) {
    let mut changes = Map::new();
    if before.organization_scoped != after.organization_scoped {
        changes.insert(SCOPED.to_owned(), json!(after.organization_scoped));
    }
    let lists = [
        (PROJECTS, list(&before.allowed_projects, &after.allowed_projects)),
        (
            WORKSPACES,
            list(&before.allowed_workspaces, &after.allowed_workspaces),
        ),
        (
            EXCLUDED,
            list(&before.excluded_workspaces, &after.excluded_workspaces),
        ),
    ];
    for (name, list) in lists {
        if let Some(list) = list {
            changes.insert(name.to_owned(), list);
        }
    }
    if !changes.is_empty() {
        detail[FIELD] = Value::Object(changes);
    }
}

/// The entry that made the rule say this, or not say it any more: the newest that touched it. `entries` are those about
/// the pool, newest first.
pub fn set_by<'a>(entries: &'a [AuditRecord], said: Said<'_>) -> Option<&'a AuditRecord> {
    let touches = |changes: &Value| {
        let named = |list: &str, id: &str| {
            ["added", "removed"].iter().any(|side| {
                changes[list][side]
                    .as_array()
                    .is_some_and(|ids| ids.iter().any(|found| found == id))
            })
        };
        match said {
            Said::Scoped => changes[SCOPED].is_boolean(),
            Said::Project(id) => named(PROJECTS, id.as_str()),
            Said::Workspace(id) => named(WORKSPACES, id.as_str()),
            Said::Excluded(id) => named(EXCLUDED, id.as_str()),
        }
    };
    entries.iter().find(|entry| touches(&entry.detail[FIELD]))
}

#[cfg(test)]
mod tests {
    use terrapool_model::id::AuditId;
    use terrapool_model::time::Timestamp;

    use super::*;

    fn entry(at: i64, before: &PoolAccess, after: &PoolAccess) -> AuditRecord {
        let mut detail = json!({"name": null});
        note(&mut detail, before, after);
        AuditRecord {
            id: AuditId::from_random([u8::try_from(at).unwrap(); 16]),
            organization_id: None,
            actor: "user".to_owned(),
            action: "agent-pool.update".to_owned(),
            subject: "apool".to_owned(),
            detail,
            at: Timestamp(at),
            request_id: None,
            address: None,
        }
    }

    #[test]
    fn the_newest_change_of_the_very_thing_is_found() {
        let (project, workspace) = (ProjectId::from_random([1; 16]), WorkspaceId::from_random([1; 16]));
        let none = PoolAccess::default();
        let mut allowed = none.clone();
        allowed.allowed_projects.insert(project.clone());
        let mut excluded = allowed.clone();
        excluded.excluded_workspaces.insert(workspace.clone());
        let entries = [
            entry(5, &excluded, &excluded),
            entry(4, &allowed, &excluded),
            entry(3, &none, &allowed),
            entry(2, &allowed, &none),
            entry(1, &none, &allowed),
        ];
        let at = |said| set_by(&entries, said).map(|entry| entry.at.0);
        assert_eq!(at(Said::Project(&project)), Some(3));
        assert_eq!(at(Said::Excluded(&workspace)), Some(4));
        assert_eq!(at(Said::Workspace(&workspace)), None);
        assert_eq!(at(Said::Scoped), None);
        assert_eq!(entries[0].detail, json!({"name": null}));
    }
}
