//! Which workspaces may use an agent pool, and which runs may read the state of a workspace.

use std::collections::BTreeSet;

use crate::id::{OrganizationId, ProjectId, WorkspaceId};

/// A pool's access rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolAccess {
    /// Every workspace of the organization may use the pool.
    pub organization_scoped: bool,
    /// Workspaces that may.
    pub allowed_workspaces: BTreeSet<WorkspaceId>,
    /// Projects whose workspaces may.
    pub allowed_projects: BTreeSet<ProjectId>,
    /// Workspaces that may not, whatever else is said.
    pub excluded_workspaces: BTreeSet<WorkspaceId>,
}

impl PoolAccess {
    /// Whether a workspace of a project may use the pool.
    pub fn allows(&self, workspace: &WorkspaceId, project: &ProjectId) -> bool {
        let named = self.organization_scoped
            || self.allowed_workspaces.contains(workspace)
            || self.allowed_projects.contains(project);
        named && !self.excluded_workspaces.contains(workspace)
    }
}

/// Whose runs may read a workspace's state and outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSharing {
    /// The workspace whose state it is.
    pub workspace: WorkspaceId,
    /// Its organization. Nothing is ever shared beyond it.
    pub organization: OrganizationId,
    /// Its project.
    pub project: ProjectId,
    /// Runs of every workspace of the organization may.
    pub with_organization: bool,
    /// Runs of every workspace of the project may.
    pub with_project: bool,
    /// Workspaces whose runs may.
    pub consumers: BTreeSet<WorkspaceId>,
}

/// The workspace that a run belongs to, as one that reads the state of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Its organization.
    pub organization: OrganizationId,
    /// Its project.
    pub project: ProjectId,
}

impl StateSharing {
    /// Whether runs of a workspace may read the state. Those of the workspace itself always may.
    pub fn allows(&self, reader: &Reader) -> bool {
        reader.workspace == self.workspace
            || reader.organization == self.organization
                && (self.with_organization
                    || self.with_project && reader.project == self.project
                    || self.consumers.contains(&reader.workspace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(workspace: u8, organization: u8, project: u8) -> Reader {
        Reader {
            workspace: WorkspaceId::from_random([workspace; 16]),
            organization: OrganizationId::from_random([organization; 16]),
            project: ProjectId::from_random([project; 16]),
        }
    }

    #[test]
    fn a_state_is_read_by_its_own_runs_and_by_whom_it_is_shared_with() {
        let own = reader(1, 1, 1);
        let mut sharing = StateSharing {
            workspace: own.workspace.clone(),
            organization: own.organization.clone(),
            project: own.project.clone(),
            with_organization: false,
            with_project: false,
            consumers: BTreeSet::new(),
        };
        let (sibling, cousin, stranger) = (reader(2, 1, 1), reader(3, 1, 2), reader(4, 2, 1));
        let allowed = |sharing: &StateSharing| {
            [&own, &sibling, &cousin, &stranger].map(|reader| sharing.allows(reader))
        };
        assert_eq!(allowed(&sharing), [true, false, false, false]);
        sharing.consumers = BTreeSet::from([cousin.workspace.clone(), stranger.workspace.clone()]);
        assert_eq!(allowed(&sharing), [true, false, true, false]);
        sharing.consumers.clear();
        sharing.with_project = true;
        assert_eq!(allowed(&sharing), [true, true, false, false]);
        sharing.with_organization = true;
        assert_eq!(allowed(&sharing), [true, true, true, false]);
    }

    #[test]
    fn exclusion_wins_over_every_grant() {
        let workspace = WorkspaceId::from_random([1; 16]);
        let project = ProjectId::from_random([1; 16]);
        let mut access = PoolAccess::default();
        assert!(!access.allows(&workspace, &project));
        access.allowed_projects.insert(project.clone());
        assert!(access.allows(&workspace, &project));
        access.allowed_projects.clear();
        access.allowed_workspaces.insert(workspace.clone());
        assert!(access.allows(&workspace, &project));
        access.organization_scoped = true;
        access.excluded_workspaces.insert(workspace.clone());
        assert!(!access.allows(&workspace, &project));
    }
}
