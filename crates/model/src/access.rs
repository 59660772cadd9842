//! Which workspaces may use an agent pool.

use std::collections::BTreeSet;

use crate::id::{ProjectId, WorkspaceId};

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

#[cfg(test)]
mod tests {
    use super::*;

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
