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

    /// Whether new workspaces of a project may use the pool.
    pub fn allows_project(&self, project: &ProjectId) -> bool {
        self.organization_scoped || self.allowed_projects.contains(project)
    }

    /// The smallest changes of which each by itself turns the answer for `to` into its opposite, the smallest first.
    pub fn turns(&self, to: &AccessSubject) -> Vec<AccessChange> {
        let project = &to.project;
        let Some(workspace) = &to.workspace else {
            return match (self.organization_scoped, self.allowed_projects.contains(project)) {
                // Only its workspaces can be taken out, one by one.
                (true, _) => Vec::new(),
                (false, true) => vec![AccessChange::ForbidProject],
                (false, false) => vec![AccessChange::AllowProject],
            };
        };
        let excluded = self.excluded_workspaces.contains(workspace);
        match (self.allows(workspace, project), excluded) {
            (true, _) if self.allows_project(project) => vec![AccessChange::ExcludeWorkspace],
            (true, _) => vec![AccessChange::ForbidWorkspace],
            (false, true) => vec![AccessChange::AllowWorkspace],
            (false, false) => vec![AccessChange::AllowWorkspace, AccessChange::AllowProject],
        }
    }

    /// Makes a change.
    pub fn make(&mut self, change: AccessChange, to: &AccessSubject) {
        match (change, &to.workspace) {
            (AccessChange::AllowProject, _) => {
                self.allowed_projects.insert(to.project.clone());
            }
            (AccessChange::ForbidProject, _) => {
                self.allowed_projects.remove(&to.project);
            }
            (AccessChange::AllowWorkspace, Some(workspace)) => {
                self.excluded_workspaces.remove(workspace);
                if !self.allows(workspace, &to.project) {
                    self.allowed_workspaces.insert(workspace.clone());
                }
            }
            (AccessChange::ForbidWorkspace, Some(workspace)) => {
                self.allowed_workspaces.remove(workspace);
            }
            (AccessChange::ExcludeWorkspace, Some(workspace)) => {
                self.excluded_workspaces.insert(workspace.clone());
            }
            (
                AccessChange::AllowWorkspace | AccessChange::ForbidWorkspace | AccessChange::ExcludeWorkspace,
                None,
            ) => {}
        }
    }
}

/// Who asks for access: a workspace of a project, or the project's workspaces as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSubject {
    /// The project.
    pub project: ProjectId,
    /// One of its workspaces.
    pub workspace: Option<WorkspaceId>,
}

/// A change of one thing in a pool's access rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessChange {
    /// All workspaces of the project may.
    AllowProject,
    /// They may not by being of the project.
    ForbidProject,
    /// The workspace may: it is excluded no more and, where that is not enough, allowed by name.
    AllowWorkspace,
    /// The workspace is allowed by name no more.
    ForbidWorkspace,
    /// The workspace may not, whatever else is said.
    ExcludeWorkspace,
}

impl AccessChange {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::AllowProject,
        Self::ForbidProject,
        Self::AllowWorkspace,
        Self::ForbidWorkspace,
        Self::ExcludeWorkspace,
    ];

    /// Its name in forms.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllowProject => "allow-project",
            Self::ForbidProject => "forbid-project",
            Self::AllowWorkspace => "allow-workspace",
            Self::ForbidWorkspace => "forbid-workspace",
            Self::ExcludeWorkspace => "exclude-workspace",
        }
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

    /// Every rule over one project and one workspace of it, with or without others.
    fn rules() -> Vec<(PoolAccess, ProjectId, WorkspaceId)> {
        let workspace = WorkspaceId::from_random([1; 16]);
        let project = ProjectId::from_random([1; 16]);
        (0..16)
            .map(|bits| {
                let mut access = PoolAccess {
                    organization_scoped: bits & 1 != 0,
                    ..PoolAccess::default()
                };
                access.allowed_projects.insert(ProjectId::from_random([9; 16]));
                access
                    .allowed_workspaces
                    .insert(WorkspaceId::from_random([9; 16]));
                if bits & 2 != 0 {
                    access.allowed_projects.insert(project.clone());
                }
                if bits & 4 != 0 {
                    access.allowed_workspaces.insert(workspace.clone());
                }
                if bits & 8 != 0 {
                    access.excluded_workspaces.insert(workspace.clone());
                }
                (access, project.clone(), workspace.clone())
            })
            .collect()
    }

    #[test]
    fn each_change_that_is_offered_turns_the_answer() {
        for (access, project, workspace) in rules() {
            let to = AccessSubject {
                project: project.clone(),
                workspace: Some(workspace.clone()),
            };
            let before = access.allows(&workspace, &project);
            let turns = access.turns(&to);
            assert!(!turns.is_empty(), "{access:?}");
            for change in turns {
                let mut after = access.clone();
                after.make(change, &to);
                assert_ne!(
                    after.allows(&workspace, &project),
                    before,
                    "{change:?} of {access:?}"
                );
            }
            let whole = AccessSubject {
                project: project.clone(),
                workspace: None,
            };
            let turns = access.turns(&whole);
            assert_eq!(turns.is_empty(), access.organization_scoped);
            for change in turns {
                let mut after = access.clone();
                after.make(change, &whole);
                assert_ne!(after.allows_project(&project), access.allows_project(&project));
            }
        }
    }

    #[test]
    fn a_change_touches_nobody_else() {
        for (access, project, workspace) in rules() {
            let others = [
                (WorkspaceId::from_random([9; 16]), ProjectId::from_random([8; 16])),
                (WorkspaceId::from_random([8; 16]), ProjectId::from_random([9; 16])),
                (WorkspaceId::from_random([8; 16]), ProjectId::from_random([8; 16])),
            ];
            let to = AccessSubject {
                project,
                workspace: Some(workspace),
            };
            for change in AccessChange::ALL {
                let mut after = access.clone();
                after.make(change, &to);
                for (workspace, project) in &others {
                    assert_eq!(
                        after.allows(workspace, project),
                        access.allows(workspace, project),
                        "{change:?} of {access:?}"
                    );
                }
            }
        }
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
