//! What a job is made of: everything of run, workspace, configuration, state and plan that its attempt is given.

use terrapool_model::id::{JobId, StateVersionId, VariableId};
use terrapool_protocol::job::{ArtifactName, VariableCategory};

use crate::artifacts::{self, ArtifactRecord};
use crate::db::Connection;
use crate::engine_versions::{self, EngineVersionRecord};
use crate::error::StoreError;
use crate::jobs::{self, JobRecord};
use crate::pools::PoolSettings;
use crate::runs::{self, RunRecord};
use crate::{lifecycle, values};

/// A variable as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVariable {
    /// Id; the context of a sealed value.
    pub id: VariableId,
    /// Name.
    pub key: String,
    /// Sealed when `sensitive`, plain UTF-8 otherwise.
    pub value: Vec<u8>,
    /// Input variable or environment variable.
    pub category: VariableCategory,
    /// Whether the value is HCL text.
    pub hcl: bool,
    /// Whether the value is secret.
    pub sensitive: bool,
}

/// An object that is part of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Where its bytes lie.
    pub object_key: String,
    /// The context it is sealed with.
    pub context: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// Everything about a job.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSpec {
    /// The job.
    pub job: JobRecord,
    /// Its run.
    pub run: RunRecord,
    /// The workspace's name.
    pub workspace_name: String,
    /// Folder inside the configuration.
    pub working_directory: String,
    /// The organization's name.
    pub organization: String,
    /// The project's name.
    pub project: String,
    /// The workspace's variables.
    pub variables: Vec<StoredVariable>,
    /// The configuration.
    pub configuration: Option<StoredPart>,
    /// The state that the plan read.
    pub state: Option<StoredPart>,
    /// What the plan left for the apply.
    pub plan_archive: Option<StoredPart>,
    /// What the engine catalogue has for the run.
    pub engine: Option<EngineVersionRecord>,
    /// Settings of the pool.
    pub settings: PoolSettings,
}

/// Everything about a job; `None` when there is no such job.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn load(connection: &mut Connection, id: &JobId) -> Result<Option<StoredSpec>, StoreError> {
    let Some(job) = jobs::get(connection, id).await? else {
        return Ok(None);
    };
    let Some(run) = runs::get(connection, &job.run_id).await? else {
        return Ok(None);
    };
    let row = connection
        .fetch_one(
            "SELECT w.name, w.working_directory, o.name AS organization, p.name AS project FROM workspaces w \
             JOIN organizations o ON o.id = w.organization_id JOIN projects p ON p.id = w.project_id \
             WHERE w.id = $1",
            values![&run.workspace_id],
        )
        .await?;
    let state = match &run.plan_state {
        Some(state) => state_part(connection, &state.version).await?,
        None => None,
    };
    let plan_archive = match job.row.phase {
        terrapool_model::job::Phase::Plan => None,
        terrapool_model::job::Phase::Apply => {
            artifacts::of_run(connection, &run.id, ArtifactName::PlanArchive)
                .await?
                .map(archive_part)
        }
    };
    Ok(Some(StoredSpec {
        workspace_name: row.text("name")?,
        working_directory: row.text("working_directory")?,
        organization: row.text("organization")?,
        project: row.text("project")?,
        variables: variables(connection, &run).await?,
        configuration: configuration(connection, &run).await?,
        state,
        plan_archive,
        engine: engine_versions::wanted(connection, run.engine, &run.engine_version).await?,
        settings: lifecycle::pool_settings(connection, &run.pool_id).await?,
        job,
        run,
    }))
}

fn archive_part(archive: ArtifactRecord) -> StoredPart {
    StoredPart {
        context: archive.context().to_owned(),
        object_key: archive.object_key,
        size: archive.size,
        sha256: archive.sha256,
    }
}

async fn state_part(
    connection: &mut Connection,
    version: &StateVersionId,
) -> Result<Option<StoredPart>, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT object_key, size, sha256 FROM state_versions WHERE id = $1 AND object_key IS NOT NULL",
            values![version],
        )
        .await?;
    row.map(|row| {
        Ok(StoredPart {
            object_key: row.text("object_key")?,
            context: version.to_string(),
            size: row.count("size")?,
            sha256: row.text("sha256")?,
        })
    })
    .transpose()
}

async fn configuration(
    connection: &mut Connection,
    run: &RunRecord,
) -> Result<Option<StoredPart>, StoreError> {
    let row = connection
        .fetch_optional(
            "SELECT object_key, size, sha256 FROM configuration_versions WHERE id = $1 \
             AND object_key IS NOT NULL",
            values![&run.configuration_version_id],
        )
        .await?;
    row.map(|row| {
        Ok(StoredPart {
            object_key: row.text("object_key")?,
            context: run.configuration_version_id.to_string(),
            size: row.count("size")?,
            sha256: row.text("sha256")?,
        })
    })
    .transpose()
}

async fn variables(connection: &mut Connection, run: &RunRecord) -> Result<Vec<StoredVariable>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT id, key, value, category, hcl, sensitive FROM variables WHERE workspace_id = $1 \
             ORDER BY category, key",
            values![&run.workspace_id],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let category = row.text("category")?;
            Ok(StoredVariable {
                id: row.parse("id")?,
                key: row.text("key")?,
                value: row.blob("value")?,
                category: match category.as_str() {
                    "terraform" => VariableCategory::Terraform,
                    "env" => VariableCategory::Env,
                    _ => {
                        return Err(StoreError::Corrupt {
                            column: "category".to_owned(),
                            found: category,
                        });
                    }
                },
                hcl: row.bool("hcl")?,
                sensitive: row.bool("sensitive")?,
            })
        })
        .collect()
}
