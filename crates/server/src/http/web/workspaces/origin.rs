//! Where a workspace's values come from: from itself, its project, its organization or its pool.

use std::fmt;

use terrapool_store::organizations::OrganizationRecord;
use terrapool_store::projects::ProjectRecord;
use terrapool_store::workspaces::WorkspaceRecord;

/// Who says where the runs of a workspace execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The workspace itself.
    Own,
    /// Its project, by name.
    Project(String),
    /// Its organization, by name.
    Organization(String),
}

impl Origin {
    /// For a workspace as it stands.
    pub(super) fn of(
        record: &WorkspaceRecord,
        project: Option<&ProjectRecord>,
        organization: &OrganizationRecord,
    ) -> Self {
        if record.execution_mode.is_some() {
            Self::Own
        } else {
            Self::inherited(project, organization)
        }
    }

    /// For a workspace that says nothing itself.
    pub(super) fn inherited(project: Option<&ProjectRecord>, organization: &OrganizationRecord) -> Self {
        match project {
            Some(project) if project.default_execution_mode.is_some() => Self::Project(project.name.clone()),
            _ => Self::Organization(organization.name.clone()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => out.write_str("set here"),
            Self::Project(name) => write!(out, "set by project {name}"),
            Self::Organization(name) => write!(out, "set by organization {name}"),
        }
    }
}

/// A limit of runs, in words, with who sets it. `pool` is the name of the workspace's own pool.
pub(super) fn limit(
    own: Option<u64>,
    pool: Option<&str>,
    of_pool: u64,
    words: impl Fn(u64) -> String,
) -> String {
    match (own, pool) {
        (Some(own), _) => format!("{}, set here", words(own)),
        (None, Some(name)) => format!("{}, from pool {name}", words(of_pool)),
        (None, None) => format!("{}, from the shared pool", words(of_pool)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sets_a_limit_is_named() {
        let words = |number: u64| format!("{number} MB");
        assert_eq!(limit(Some(768), Some("own"), 512, words), "768 MB, set here");
        assert_eq!(limit(None, Some("own"), 512, words), "512 MB, from pool own");
        assert_eq!(limit(None, None, 512, words), "512 MB, from the shared pool");
        assert_eq!(
            Origin::Project("edge".to_owned()).to_string(),
            "set by project edge"
        );
        assert_eq!(Origin::Own.to_string(), "set here");
    }
}
