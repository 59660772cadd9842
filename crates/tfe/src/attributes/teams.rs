//! The attributes of teams, their members and their roles.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// Of `teams`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Team {
    pub name: String,
    pub visibility: &'static str,
    pub users_count: u64,
    pub sso_team_id: Option<String>,
    pub is_unified: bool,
    pub allow_member_token_management: bool,
    pub permissions: BTreeMap<&'static str, bool>,
    pub organization_access: Map<String, Value>,
}

/// Of `organization-memberships`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct OrganizationMembership {
    pub status: &'static str,
    pub email: String,
    /// An addition of this product.
    pub username: String,
}

/// Of `team-workspaces`. Everything but `access` follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct TeamWorkspace {
    pub access: &'static str,
    pub runs: &'static str,
    pub variables: &'static str,
    pub state_versions: &'static str,
    pub sentinel_mocks: &'static str,
    pub workspace_locking: bool,
    pub run_tasks: bool,
    pub policy_overrides: bool,
}

/// Of `team-projects`. Everything but `access` follows from it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct TeamProject {
    pub access: &'static str,
    pub project_access: ProjectAccess,
    pub workspace_access: WorkspaceAccess,
}

/// What a role allows with the project itself.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct ProjectAccess {
    pub settings: &'static str,
    pub teams: &'static str,
    pub variable_sets: &'static str,
}

/// What a role allows with the project's workspaces.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct WorkspaceAccess {
    pub runs: &'static str,
    pub sentinel_mocks: &'static str,
    pub state_versions: &'static str,
    pub variables: &'static str,
    pub create: bool,
    pub locking: bool,
    #[serde(rename = "move")]
    pub moves: bool,
    pub delete: bool,
    pub run_tasks: bool,
    pub policy_overrides: bool,
}
