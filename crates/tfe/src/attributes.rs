//! The attributes of each resource type, named as clients read them.
//!
//! Times are texts made by [`crate::time::iso8601`]; an absent time is null, never an empty text, which the Go client
//! refuses.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

mod agents;
mod teams;
mod whereabouts;

pub use agents::{Agent, AgentPool, DuplicateIdentity};
pub use teams::{OrganizationMembership, ProjectAccess, Team, TeamProject, TeamWorkspace, WorkspaceAccess};
pub use whereabouts::{Kept, KeptApartState, RunWhereabouts, WhereaboutsAgent};

/// Of `organizations`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Organization {
    pub name: String,
    pub external_id: String,
    pub email: String,
    pub created_at: String,
    pub default_execution_mode: String,
    pub permissions: OrganizationPermissions,
    pub cost_estimation_enabled: bool,
    pub assessments_enabled: bool,
    pub stacks_enabled: bool,
    pub saml_enabled: bool,
    pub two_factor_conformant: bool,
    pub is_unified: bool,
    pub remaining_testable_count: u32,
    #[serde(flatten)]
    pub settings: serde_json::Map<String, Value>,
}

/// What the caller may do in an organization.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct OrganizationPermissions {
    pub can_update: bool,
    pub can_destroy: bool,
    pub can_access_via_teams: bool,
    pub can_create_team: bool,
    pub can_create_workspace: bool,
    pub can_create_workspace_migration: bool,
    pub can_create_project: bool,
    pub can_manage_users: bool,
    pub can_manage_subscription: bool,
    pub can_manage_sso: bool,
    pub can_update_oauth: bool,
    pub can_update_sentinel: bool,
    pub can_update_ssh_keys: bool,
    pub can_update_api_token: bool,
    pub can_update_agent_pools: bool,
    pub can_manage_tags: bool,
    pub can_manage_run_tasks: bool,
    pub can_read_run_tasks: bool,
    pub can_traverse: bool,
    pub can_start_trial: bool,
}

/// Of `entitlement-sets`: what this product does at all.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct EntitlementSet {
    pub agents: bool,
    pub operations: bool,
    pub state_storage: bool,
    pub teams: bool,
    pub user_limit: Option<u32>,
    pub audit_logging: bool,
    pub cost_estimation: bool,
    pub configuration_designer: bool,
    pub policy_enforcement: bool,
    pub private_module_registry: bool,
    pub run_tasks: bool,
    pub self_serve_billing: bool,
    pub sentinel: bool,
    pub sso: bool,
    pub usage_reporting: bool,
    pub vcs_integrations: bool,
}

impl Default for EntitlementSet {
    fn default() -> Self {
        Self {
            agents: true,
            operations: true,
            state_storage: true,
            teams: true,
            user_limit: None,
            audit_logging: false,
            cost_estimation: false,
            configuration_designer: false,
            policy_enforcement: false,
            private_module_registry: false,
            run_tasks: false,
            self_serve_billing: false,
            sentinel: false,
            sso: false,
            usage_reporting: false,
            vcs_integrations: false,
        }
    }
}

/// Of `projects`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Project {
    pub name: String,
    pub description: String,
    pub created_at: String,
    pub default_execution_mode: String,
    pub setting_overwrites: ProjectOverwrites,
    pub auto_destroy_activity_duration: Option<String>,
    pub is_unified: bool,
    pub workspace_count: u64,
    pub permissions: BTreeMap<&'static str, bool>,
}

/// Which settings of a project are its own, not the organization's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct ProjectOverwrites {
    pub default_execution_mode: bool,
    pub default_agent_pool: bool,
}

/// Of `workspaces`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Workspace {
    pub name: String,
    pub description: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    pub environment: &'static str,
    pub execution_mode: String,
    pub operations: bool,
    pub setting_overwrites: WorkspaceOverwrites,
    pub terraform_version: String,
    /// `terraform` or `tofu`: which engine `terraform-version` is a version of. An addition of this product.
    pub engine: &'static str,
    pub working_directory: String,
    pub auto_apply: bool,
    pub global_remote_state: bool,
    pub structured_run_output_enabled: bool,
    pub locked: bool,
    pub locked_reason: Option<String>,
    pub source: String,
    pub tag_names: Vec<String>,
    pub resource_count: u64,
    pub workspace_kpis_runs_count: u64,
    pub actions: BTreeMap<&'static str, bool>,
    pub permissions: WorkspacePermissions,
    pub vcs_repo: Option<Value>,
    /// Settings that are stored and returned, and change nothing here.
    #[serde(flatten)]
    pub settings: serde_json::Map<String, Value>,
}

/// Which settings of a workspace are its own, not the project's or organization's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct WorkspaceOverwrites {
    pub execution_mode: bool,
    pub agent_pool: bool,
}

/// What the caller may do with a workspace. The CLI crashes when it is absent.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct WorkspacePermissions {
    pub can_destroy: bool,
    pub can_force_delete: bool,
    pub can_force_unlock: bool,
    pub can_lock: bool,
    pub can_manage_run_tasks: bool,
    pub can_manage_tags: bool,
    pub can_queue_apply: bool,
    pub can_queue_destroy: bool,
    pub can_queue_run: bool,
    pub can_read_settings: bool,
    pub can_read_state_outputs: bool,
    pub can_read_state_versions: bool,
    pub can_create_state_versions: bool,
    pub can_read_variable: bool,
    pub can_unlock: bool,
    pub can_update: bool,
    pub can_update_variable: bool,
}

/// Of `vars`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Variable {
    pub key: String,
    /// Null when sensitive.
    pub value: Option<String>,
    pub description: String,
    pub category: &'static str,
    pub hcl: bool,
    pub sensitive: bool,
    pub version_id: String,
    pub created_at: String,
}

/// Of `configuration-versions`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct ConfigurationVersion {
    pub auto_queue_runs: bool,
    pub error: Option<String>,
    pub error_message: Option<String>,
    pub source: String,
    pub speculative: bool,
    pub provisional: bool,
    pub status: String,
    pub status_timestamps: BTreeMap<String, String>,
    pub changed_files: Vec<String>,
    /// Only in the answer that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_url: Option<String>,
}

/// Of `state-versions`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct StateVersion {
    pub created_at: String,
    pub serial: Option<u64>,
    pub lineage: Option<String>,
    pub md5: Option<String>,
    pub size: Option<u64>,
    pub status: String,
    pub intermediate: bool,
    pub state_version: u32,
    pub terraform_version: Option<String>,
    pub resources_processed: bool,
    pub hosted_state_download_url: Option<String>,
    pub hosted_json_state_download_url: Option<String>,
    pub hosted_state_upload_url: Option<String>,
    pub hosted_json_state_upload_url: Option<String>,
    pub billable_rum_count: u64,
    pub resources: Vec<Value>,
    pub vcs_commit_sha: Option<String>,
    pub vcs_commit_url: Option<String>,
}

/// Of `state-version-outputs`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct StateVersionOutput {
    pub name: String,
    pub sensitive: bool,
    #[serde(rename = "type")]
    pub simple_type: &'static str,
    pub value: Value,
    pub detailed_type: Value,
}

/// Of `runs`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Run {
    pub status: String,
    pub status_timestamps: BTreeMap<String, String>,
    pub actions: RunActions,
    pub permissions: RunPermissions,
    pub auto_apply: bool,
    pub allow_config_generation: bool,
    pub allow_empty_apply: bool,
    pub canceled_at: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    pub force_cancel_available_at: Option<String>,
    pub has_changes: bool,
    pub is_destroy: bool,
    pub message: String,
    pub plan_only: bool,
    pub position_in_queue: Option<u64>,
    pub refresh: bool,
    pub refresh_only: bool,
    pub replace_addrs: Option<Vec<String>>,
    pub target_addrs: Option<Vec<String>>,
    pub save_plan: bool,
    pub source: String,
    pub terraform_version: String,
    pub trigger_reason: &'static str,
    pub variables: Option<Vec<RunVariable>>,
    /// Why the run ended with an error, and what the status can't say. An addition of this product.
    pub error_message: Option<String>,
    /// Why it is errored: failed, engine_lost, agent_lost, not_started, restored. An addition of this product.
    pub error_reason: Option<&'static str>,
    /// Why it waits, with its figures; null when it does not. An addition of this product.
    pub wait_reason: Option<Value>,
    /// What was learnt after its end: none, delivered, overridden. An addition of this product.
    pub aftermath: &'static str,
}

/// A `-var` of a run: the value is HCL text.
#[derive(Debug, Clone, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct RunVariable {
    pub key: String,
    pub value: String,
}

/// What can be done with a run now. The CLI crashes when it is absent.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct RunActions {
    pub is_confirmable: bool,
    pub is_discardable: bool,
    pub is_cancelable: bool,
    pub is_force_cancelable: bool,
}

/// What the caller may do with a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct RunPermissions {
    pub can_apply: bool,
    pub can_cancel: bool,
    pub can_comment: bool,
    pub can_discard: bool,
    pub can_force_cancel: bool,
    pub can_force_execute: bool,
    pub can_override_policy_check: bool,
}

/// Of `plans`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Plan {
    pub status: &'static str,
    pub status_timestamps: BTreeMap<String, String>,
    pub has_changes: bool,
    pub generated_configuration: bool,
    pub log_read_url: String,
    pub resource_additions: u64,
    pub resource_changes: u64,
    pub resource_destructions: u64,
    pub resource_imports: u64,
}

/// The memory of a plan's or an apply's sandbox over time.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Memory {
    /// The hard limit.
    pub limit_mb: u64,
    /// Time from one point to the next.
    pub step_ms: u64,
    /// The most of each step, oldest first.
    pub points: Vec<MemoryPoint>,
}

/// Memory in use within a step, MiB.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryPoint {
    /// With page cache.
    pub total_mb: u64,
    /// Without it.
    pub anonymous_mb: u64,
}

/// Of `applies`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Apply {
    pub status: &'static str,
    pub status_timestamps: BTreeMap<String, String>,
    pub log_read_url: String,
    pub resource_additions: u64,
    pub resource_changes: u64,
    pub resource_destructions: u64,
    pub resource_imports: u64,
}

/// Of `users`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct User {
    pub username: String,
    pub email: String,
    pub avatar_url: String,
    pub is_service_account: bool,
    pub is_site_admin: bool,
    pub is_admin: bool,
    pub is_sso_login: bool,
    pub v2_only: bool,
    pub two_factor: BTreeMap<&'static str, bool>,
    pub permissions: BTreeMap<&'static str, bool>,
}

/// Of `authentication-tokens`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct AuthenticationToken {
    pub description: Option<String>,
    pub created_at: String,
    pub last_used_at: Option<String>,
    pub expired_at: Option<String>,
    /// The secret, in the answer that creates it; null later.
    pub token: Option<String>,
}

/// Of `terraform-versions` and `opentofu-versions`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct EngineVersion {
    pub version: String,
    pub url: String,
    pub sha: String,
    pub enabled: bool,
    pub official: bool,
    pub beta: bool,
    pub deprecated: bool,
    pub deprecated_reason: Option<String>,
    pub usage: u64,
    pub created_at: String,
}

/// Of `tags`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Tag {
    pub name: String,
    pub instance_count: u64,
}

/// Of `tag-bindings`.
#[derive(Debug, Clone, Serialize)]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct TagBinding {
    pub key: String,
    pub value: String,
}
