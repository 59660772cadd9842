//! Variables of workspaces. A sensitive value is sealed with the key ring, with the variable's id as context.

use terrapool_model::id::{VariableId, WorkspaceId};
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::VariableCategory;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// A variable as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VariableRecord {
    /// Id; the context of a sealed value.
    pub id: VariableId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
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
    /// What it is for.
    pub description: String,
    /// New with every change.
    pub version_id: String,
    /// When it was made.
    pub created_at: Timestamp,
}

const COLUMNS: &str =
    "id, workspace_id, key, value, category, hcl, sensitive, description, version_id, created_at";

/// The word in the API and the database.
pub fn category_name(category: VariableCategory) -> &'static str {
    match category {
        VariableCategory::Terraform => "terraform",
        VariableCategory::Env => "env",
    }
}

fn read(row: &Row) -> Result<VariableRecord, StoreError> {
    Ok(VariableRecord {
        id: row.parse("id")?,
        workspace_id: row.parse("workspace_id")?,
        key: row.text("key")?,
        value: row.blob("value")?,
        category: match row.text("category")?.as_str() {
            "env" => VariableCategory::Env,
            _ => VariableCategory::Terraform,
        },
        hcl: row.bool("hcl")?,
        sensitive: row.bool("sensitive")?,
        description: row.text("description")?,
        version_id: row.text("version_id")?,
        created_at: row.time("created_at")?,
    })
}

/// Stores a new variable. Its id was drawn before, because a sealed value needs it.
///
/// # Errors
/// [`StoreError::Conflict`] when the workspace has one of this name and category.
pub async fn create(tx: &mut Tx, record: &VariableRecord) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO variables (id, workspace_id, key, value, category, hcl, sensitive, description, version_id, \
         created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        values![
            &record.id,
            &record.workspace_id,
            &record.key,
            &record.value,
            category_name(record.category),
            record.hcl,
            record.sensitive,
            &record.description,
            &record.version_id,
            record.created_at
        ],
    )
    .await?;
    Ok(())
}

/// Writes a changed variable.
///
/// # Errors
/// [`StoreError::Conflict`] when the workspace has another one of this name and category.
pub async fn update(tx: &mut Tx, record: &VariableRecord) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE variables SET key = $2, value = $3, category = $4, hcl = $5, sensitive = $6, description = $7, \
         version_id = $8 WHERE id = $1",
        values![
            &record.id,
            &record.key,
            &record.value,
            category_name(record.category),
            record.hcl,
            record.sensitive,
            &record.description,
            &record.version_id
        ],
    )
    .await?;
    Ok(())
}

/// The variable with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &VariableId) -> Result<Option<VariableRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM variables WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// All variables of a workspace, oldest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_workspace(
    connection: &mut Connection,
    workspace: &WorkspaceId,
) -> Result<Vec<VariableRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM variables WHERE workspace_id = $1 ORDER BY created_at, id");
    connection
        .fetch_all(&sql, values![workspace])
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Deletes a variable.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete(tx: &mut Tx, id: &VariableId) -> Result<bool, StoreError> {
    Ok(tx
        .execute("DELETE FROM variables WHERE id = $1", values![id])
        .await?
        > 0)
}
