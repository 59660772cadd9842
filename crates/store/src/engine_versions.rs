//! The engine catalogue: where agents get an engine that none of them has.

use terrapool_model::engine::{EngineKind, EngineVersion};
use terrapool_model::id::EngineVersionId;
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::page::{Listed, Page};
use crate::values;

/// What is said of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersionSettings {
    /// The version.
    pub version: EngineVersion,
    /// Address of a zip archive with the binary inside, or of the binary itself.
    pub url: String,
    /// SHA-256 of what the address gives, lower-case hex.
    pub sha256: String,
    /// Whether runs may use it.
    pub enabled: bool,
    /// Whether it is the maker's own build.
    pub official: bool,
    /// Whether `latest` leaves it out.
    pub beta: bool,
    /// Whether people should move on to another one.
    pub deprecated: bool,
    /// Why they should.
    pub deprecated_reason: Option<String>,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersionRecord {
    /// Id.
    pub id: EngineVersionId,
    /// The program.
    pub kind: EngineKind,
    /// What is said of it.
    pub settings: EngineVersionSettings,
    /// Workspaces that name exactly this version.
    pub usage: u64,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Which versions a list has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineVersionFilter {
    /// Exactly this text.
    pub version: Option<String>,
    /// This text somewhere in the version.
    pub search: Option<String>,
}

const SELECT: &str = "SELECT e.id, e.engine, e.version, e.url, e.sha256, e.enabled, e.official, e.beta, \
     e.deprecated, e.deprecated_reason, e.created_at, \
     (SELECT COUNT(*) FROM workspaces w WHERE w.engine = e.engine AND w.engine_version = e.version) AS usage_count \
     FROM engine_versions e";

fn from_row(row: &Row) -> Result<EngineVersionRecord, StoreError> {
    let corrupt = |column: &str, found: String| StoreError::Corrupt {
        column: column.to_owned(),
        found,
    };
    let kind = match row.text("engine")?.as_str() {
        "terraform" => EngineKind::Terraform,
        "tofu" => EngineKind::Tofu,
        other => return Err(corrupt("engine", other.to_owned())),
    };
    let version = row.text("version")?;
    Ok(EngineVersionRecord {
        id: row.parse("id")?,
        kind,
        settings: EngineVersionSettings {
            version: version.parse().map_err(|_| corrupt("version", version))?,
            url: row.text("url")?,
            sha256: row.text("sha256")?,
            enabled: row.bool("enabled")?,
            official: row.bool("official")?,
            beta: row.bool("beta")?,
            deprecated: row.bool("deprecated")?,
            deprecated_reason: row.opt_text("deprecated_reason")?,
        },
        usage: row.count("usage_count")?,
        created_at: row.time("created_at")?,
    })
}

/// Adds a version.
///
/// # Errors
/// [`StoreError::Conflict`] when the catalogue has it already.
pub async fn create(
    tx: &mut Tx,
    kind: EngineKind,
    new: &EngineVersionSettings,
) -> Result<EngineVersionRecord, StoreError> {
    let (id, now) = (EngineVersionId::from_random(tx.draw()), tx.now());
    tx.execute(
        "INSERT INTO engine_versions (id, engine, version, url, sha256, enabled, official, beta, deprecated, \
         deprecated_reason, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        values![
            &id,
            kind.binary(),
            new.version.to_string(),
            &new.url,
            &new.sha256,
            new.enabled,
            new.official,
            new.beta,
            new.deprecated,
            new.deprecated_reason.clone(),
            now
        ],
    )
    .await?;
    get(tx, kind, &id).await?.ok_or(StoreError::Reference)
}

/// Changes a version. `None` when there is none.
///
/// # Errors
/// [`StoreError::Conflict`] when another entry has the new version.
pub async fn update(
    tx: &mut Tx,
    kind: EngineKind,
    id: &EngineVersionId,
    new: &EngineVersionSettings,
) -> Result<Option<EngineVersionRecord>, StoreError> {
    tx.execute(
        "UPDATE engine_versions SET version = $3, url = $4, sha256 = $5, enabled = $6, official = $7, beta = $8, \
         deprecated = $9, deprecated_reason = $10 WHERE id = $1 AND engine = $2",
        values![
            id,
            kind.binary(),
            new.version.to_string(),
            &new.url,
            &new.sha256,
            new.enabled,
            new.official,
            new.beta,
            new.deprecated,
            new.deprecated_reason.clone()
        ],
    )
    .await?;
    get(tx, kind, id).await
}

/// Removes a version.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete(tx: &mut Tx, id: &EngineVersionId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM engine_versions WHERE id = $1", values![id])
        .await?;
    Ok(())
}

/// A version of this program.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    kind: EngineKind,
    id: &EngineVersionId,
) -> Result<Option<EngineVersionRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE e.id = $1 AND e.engine = $2");
    connection
        .fetch_optional(&sql, values![id, kind.binary()])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// A program's versions, newest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    kind: EngineKind,
    filter: &EngineVersionFilter,
    page: &Page,
) -> Result<Listed<EngineVersionRecord>, StoreError> {
    let mut found = all(connection, kind).await?;
    found.retain(|record| {
        let version = record.settings.version.to_string();
        filter.version.as_ref().is_none_or(|wanted| *wanted == version)
            && filter
                .search
                .as_ref()
                .is_none_or(|part| version.contains(part.as_str()))
    });
    let total = found.len() as u64;
    let skipped = usize::try_from(page.offset()).unwrap_or(usize::MAX);
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    Ok(Listed {
        items: found.into_iter().skip(skipped).take(size).collect(),
        total,
    })
}

/// The entry that gives a run its engine: for `latest` the newest that is enabled and no beta, else exactly the version
/// when it is enabled.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn wanted(
    connection: &mut Connection,
    kind: EngineKind,
    version: &str,
) -> Result<Option<EngineVersionRecord>, StoreError> {
    let exact: Option<EngineVersion> = version.parse().ok();
    // Sorted, newest first.
    let found = all(connection, kind).await?.into_iter().find(|record| {
        let settings = &record.settings;
        settings.enabled
            && match &exact {
                Some(version) => settings.version == *version,
                None => !settings.beta && !settings.version.is_pre_release(),
            }
    });
    Ok(found)
}

/// All versions of a program, newest first. Versions are ordered by their rules, which no database knows; a catalogue
/// has some dozens.
async fn all(connection: &mut Connection, kind: EngineKind) -> Result<Vec<EngineVersionRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE e.engine = $1");
    let rows = connection.fetch_all(&sql, values![kind.binary()]).await?;
    let mut found: Vec<EngineVersionRecord> = rows.iter().map(from_row).collect::<Result<_, _>>()?;
    found.sort_by(|one, two| two.settings.version.cmp(&one.settings.version));
    Ok(found)
}
