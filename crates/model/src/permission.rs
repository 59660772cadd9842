//! Who may do what in an organization: people hold roles in projects and workspaces through their teams.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::id::{ProjectId, WorkspaceId};

/// Something that is done in an organization as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrganizationPermission {
    /// See that it is there, its pools, its tags, and the projects and workspaces one has a role in.
    Read,
    /// See every workspace.
    ReadEverything,
    /// See what waits for and runs in agent pools, whichever workspace it is of.
    ReadQueues,
    /// Change or delete it; its members, teams and audit log.
    Manage,
    /// Make and delete the organization's own tokens.
    ManageTokens,
    /// Make projects.
    CreateProjects,
    /// Make, change and delete agent pools, their tokens and agents.
    ManageAgentPools,
}

/// Something that is done with a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProjectPermission {
    /// See it.
    Read,
    /// Make workspaces in it, and move workspaces into it.
    CreateWorkspaces,
    /// Change and delete it, and say which teams have a role in it.
    Manage,
}

/// Something that is done with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkspacePermission {
    /// See it, its runs and their logs.
    Read,
    /// Read outputs.
    ReadOutputs,
    /// Read states and plans in clear.
    ReadState,
    /// Read variables.
    ReadVariables,
    /// Upload configurations, make runs, and cancel those that only plan.
    QueueRuns,
    /// Confirm, discard and cancel runs, and make runs that confirm themselves.
    ApplyRuns,
    /// Lock and unlock.
    Lock,
    /// Write states.
    WriteState,
    /// Write variables.
    WriteVariables,
    /// Take another one's lock away.
    ForceUnlock,
    /// Give up a run whose agent does not answer.
    ForceCancelRuns,
    /// Change settings and tags, delete it, and say which teams have a role in it.
    Manage,
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no role here: the roles are {roles}")]
pub struct InvalidRole {
    /// What was found.
    pub found: String,
    /// What there is.
    pub roles: &'static str,
}

macro_rules! roles {
    ($(#[$doc:meta])* $name:ident, $all:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, the least first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in the API and in the database.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidRole;
            fn from_str(text: &str) -> Result<Self, InvalidRole> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    found => Err(InvalidRole { found: found.chars().take(80).collect(), roles: $all }),
                }
            }
        }
    };
}

roles! {
    /// A role in one workspace. Each holds what those before it hold.
    WorkspaceRole, "read, plan, write, admin" {
        /// See everything: runs, logs, states, variables.
        Read = "read",
        /// And make runs, which somebody else confirms.
        Plan = "plan",
        /// And apply; write states and variables; lock.
        Write = "write",
        /// And everything else.
        Admin = "admin",
    }
}

roles! {
    /// A role in one project and all its workspaces. Each holds what those before it hold.
    ProjectRole, "read, plan, write, maintain, admin" {
        /// See everything.
        Read = "read",
        /// And make runs, which somebody else confirms.
        Plan = "plan",
        /// And apply; write states and variables; lock.
        Write = "write",
        /// And make, change and delete workspaces.
        Maintain = "maintain",
        /// And change and delete the project itself.
        Admin = "admin",
    }
}

impl ProjectRole {
    /// What it is in each workspace of the project.
    pub fn in_workspaces(self) -> WorkspaceRole {
        match self {
            Self::Read => WorkspaceRole::Read,
            Self::Plan => WorkspaceRole::Plan,
            Self::Write => WorkspaceRole::Write,
            Self::Maintain | Self::Admin => WorkspaceRole::Admin,
        }
    }
}

/// What a team may do everywhere in its organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OrganizationAccess {
    /// Every project and workspace: read.
    pub read_workspaces: bool,
    /// Every project: see that it is there.
    pub read_projects: bool,
    /// Every workspace: admin; every project: make workspaces.
    pub manage_workspaces: bool,
    /// Every project: admin; make projects.
    pub manage_projects: bool,
    /// Every agent pool.
    pub manage_agent_pools: bool,
}

impl OrganizationAccess {
    /// Both together.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            read_workspaces: self.read_workspaces || other.read_workspaces,
            read_projects: self.read_projects || other.read_projects,
            manage_workspaces: self.manage_workspaces || other.manage_workspaces,
            manage_projects: self.manage_projects || other.manage_projects,
            manage_agent_pools: self.manage_agent_pools || other.manage_agent_pools,
        }
    }
}

/// A role in a workspace, and the project that the workspace is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceGrant {
    /// The workspace's project.
    pub project: ProjectId,
    /// The role.
    pub role: WorkspaceRole,
}

/// What a member's teams hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// The member is in the team of the owners.
    pub owner: bool,
    /// In the whole organization.
    pub everywhere: OrganizationAccess,
    /// In projects.
    pub projects: BTreeMap<ProjectId, ProjectRole>,
    /// In single workspaces.
    pub workspaces: BTreeMap<WorkspaceId, WorkspaceGrant>,
}

impl Grants {
    /// Adds a role in a project; the greatest counts.
    pub fn add_project(&mut self, project: ProjectId, role: ProjectRole) {
        let held = self.projects.entry(project).or_insert(role);
        *held = (*held).max(role);
    }

    /// Adds a role in a workspace; the greatest counts.
    pub fn add_workspace(&mut self, workspace: WorkspaceId, project: ProjectId, role: WorkspaceRole) {
        let held = self
            .workspaces
            .entry(workspace)
            .or_insert(WorkspaceGrant { project, role });
        held.role = held.role.max(role);
    }

    /// The role in a project.
    pub fn project_role(&self, project: &ProjectId) -> Option<ProjectRole> {
        if self.owner || self.everywhere.manage_projects {
            return Some(ProjectRole::Admin);
        }
        let everywhere = if self.everywhere.manage_workspaces {
            Some(ProjectRole::Maintain)
        } else if self.everywhere.read_workspaces {
            Some(ProjectRole::Read)
        } else {
            None
        };
        everywhere.max(self.projects.get(project).copied())
    }

    /// The role in a workspace of a project.
    pub fn workspace_role(&self, workspace: &WorkspaceId, project: &ProjectId) -> Option<WorkspaceRole> {
        let own = self.workspaces.get(workspace).map(|grant| grant.role);
        own.max(self.project_role(project).map(ProjectRole::in_workspaces))
    }
}

/// What somebody is in an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: the organization is not there for them.
    Outsider,
    /// A member.
    Member(Grants),
    /// The organization's own token.
    OrganizationToken,
    /// Somebody who administers the installation.
    SiteAdministrator,
}

impl Standing {
    /// Whether they may do this in the organization.
    pub fn may(&self, permission: OrganizationPermission) -> bool {
        match self {
            Self::Outsider => false,
            Self::OrganizationToken | Self::SiteAdministrator => true,
            Self::Member(grants) => {
                let everywhere = &grants.everywhere;
                grants.owner
                    || match permission {
                        OrganizationPermission::Read => true,
                        OrganizationPermission::ReadEverything => {
                            everywhere.read_workspaces
                                || everywhere.manage_workspaces
                                || everywhere.manage_projects
                        }
                        OrganizationPermission::ReadQueues => {
                            self.may(OrganizationPermission::ReadEverything) || everywhere.manage_agent_pools
                        }
                        OrganizationPermission::CreateProjects => everywhere.manage_projects,
                        OrganizationPermission::ManageAgentPools => everywhere.manage_agent_pools,
                        OrganizationPermission::Manage | OrganizationPermission::ManageTokens => false,
                    }
            }
        }
    }

    /// Whether they may do this with a project.
    pub fn may_in_project(&self, project: &ProjectId, permission: ProjectPermission) -> bool {
        match self {
            Self::Outsider => false,
            Self::OrganizationToken | Self::SiteAdministrator => true,
            Self::Member(grants) => {
                let role = grants.project_role(project);
                match permission {
                    ProjectPermission::Read => {
                        role.is_some()
                            || grants.everywhere.read_projects
                            || grants.workspaces.values().any(|grant| grant.project == *project)
                    }
                    ProjectPermission::CreateWorkspaces => role >= Some(ProjectRole::Maintain),
                    ProjectPermission::Manage => role >= Some(ProjectRole::Admin),
                }
            }
        }
    }

    /// Whether they may do this with a workspace of a project.
    pub fn may_in_workspace(
        &self,
        workspace: &WorkspaceId,
        project: &ProjectId,
        permission: WorkspacePermission,
    ) -> bool {
        match self {
            Self::Outsider => false,
            Self::SiteAdministrator => true,
            Self::OrganizationToken => organization_token_may(permission),
            Self::Member(grants) => grants.workspace_role(workspace, project) >= Some(least_role(permission)),
        }
    }

    /// Whether there is a project in which they may make workspaces.
    pub fn creates_workspaces(&self) -> bool {
        match self {
            Self::Outsider => false,
            Self::OrganizationToken | Self::SiteAdministrator => true,
            Self::Member(grants) => {
                grants.owner
                    || grants.everywhere.manage_projects
                    || grants.everywhere.manage_workspaces
                    || grants
                        .projects
                        .values()
                        .any(|role| *role >= ProjectRole::Maintain)
            }
        }
    }
}

/// The least role that holds a permission.
pub fn least_role(permission: WorkspacePermission) -> WorkspaceRole {
    match permission {
        WorkspacePermission::Read
        | WorkspacePermission::ReadOutputs
        | WorkspacePermission::ReadState
        | WorkspacePermission::ReadVariables => WorkspaceRole::Read,
        WorkspacePermission::QueueRuns => WorkspaceRole::Plan,
        WorkspacePermission::ApplyRuns
        | WorkspacePermission::Lock
        | WorkspacePermission::WriteState
        | WorkspacePermission::WriteVariables => WorkspaceRole::Write,
        WorkspacePermission::ForceUnlock
        | WorkspacePermission::ForceCancelRuns
        | WorkspacePermission::Manage => WorkspaceRole::Admin,
    }
}

/// What a token of the organization itself may do: manage it, but not act in a person's place.
fn organization_token_may(permission: WorkspacePermission) -> bool {
    match permission {
        WorkspacePermission::Read
        | WorkspacePermission::ReadOutputs
        | WorkspacePermission::ReadState
        | WorkspacePermission::ReadVariables
        | WorkspacePermission::WriteVariables
        | WorkspacePermission::QueueRuns
        | WorkspacePermission::ApplyRuns
        | WorkspacePermission::ForceCancelRuns
        | WorkspacePermission::Manage => true,
        WorkspacePermission::Lock | WorkspacePermission::ForceUnlock | WorkspacePermission::WriteState => {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(number: u8) -> ProjectId {
        ProjectId::from_random([number; 16])
    }

    fn workspace(number: u8) -> WorkspaceId {
        WorkspaceId::from_random([number; 16])
    }

    fn held(grants: &Grants, permission: WorkspacePermission) -> bool {
        Standing::Member(grants.clone()).may_in_workspace(&workspace(1), &project(1), permission)
    }

    #[test]
    fn a_member_without_a_role_sees_the_organization_and_nothing_in_it() {
        let member = Standing::Member(Grants::default());
        assert!(member.may(OrganizationPermission::Read));
        assert!(!member.may(OrganizationPermission::ReadEverything));
        assert!(!member.may(OrganizationPermission::Manage));
        assert!(!member.may_in_project(&project(1), ProjectPermission::Read));
        assert!(!member.may_in_workspace(&workspace(1), &project(1), WorkspacePermission::Read));
        assert!(!member.creates_workspaces());
    }

    #[test]
    fn each_role_holds_what_the_roles_before_it_hold() {
        let first_of = [
            (WorkspaceRole::Read, WorkspacePermission::ReadState),
            (WorkspaceRole::Plan, WorkspacePermission::QueueRuns),
            (WorkspaceRole::Write, WorkspacePermission::ApplyRuns),
            (WorkspaceRole::Admin, WorkspacePermission::Manage),
        ];
        for held_role in WorkspaceRole::ALL {
            let mut grants = Grants::default();
            grants.add_workspace(workspace(1), project(1), *held_role);
            for (role, permission) in first_of {
                assert_eq!(
                    held(&grants, permission),
                    *held_role >= role,
                    "{held_role} {permission:?}"
                );
            }
        }
    }

    #[test]
    fn the_greatest_of_several_roles_counts_whichever_team_brings_it() {
        let mut grants = Grants::default();
        grants.add_project(project(1), ProjectRole::Write);
        grants.add_project(project(1), ProjectRole::Read);
        grants.add_workspace(workspace(1), project(1), WorkspaceRole::Plan);
        assert!(held(&grants, WorkspacePermission::ApplyRuns));
        assert!(!held(&grants, WorkspacePermission::Manage));
        grants.add_workspace(workspace(1), project(1), WorkspaceRole::Admin);
        assert!(held(&grants, WorkspacePermission::Manage));
    }

    #[test]
    fn a_role_in_a_workspace_shows_its_project_and_opens_no_other_workspace_of_it() {
        let mut grants = Grants::default();
        grants.add_workspace(workspace(1), project(1), WorkspaceRole::Admin);
        let member = Standing::Member(grants);
        assert!(member.may_in_project(&project(1), ProjectPermission::Read));
        assert!(!member.may_in_project(&project(1), ProjectPermission::CreateWorkspaces));
        assert!(!member.may_in_project(&project(2), ProjectPermission::Read));
        assert!(!member.may_in_workspace(&workspace(2), &project(1), WorkspacePermission::Read));
    }

    #[test]
    fn maintaining_a_project_is_everything_but_the_project_itself() {
        let mut grants = Grants::default();
        grants.add_project(project(1), ProjectRole::Maintain);
        assert!(held(&grants, WorkspacePermission::Manage));
        let member = Standing::Member(grants);
        assert!(member.may_in_project(&project(1), ProjectPermission::CreateWorkspaces));
        assert!(!member.may_in_project(&project(1), ProjectPermission::Manage));
        assert!(member.creates_workspaces());
    }

    #[test]
    fn the_organizations_own_token_does_not_act_in_a_persons_place() {
        let token = Standing::OrganizationToken;
        assert!(token.may(OrganizationPermission::Manage));
        let may = |permission| token.may_in_workspace(&workspace(1), &project(1), permission);
        assert!(may(WorkspacePermission::ApplyRuns));
        assert!(!may(WorkspacePermission::Lock));
        assert!(!may(WorkspacePermission::WriteState));
    }
}
