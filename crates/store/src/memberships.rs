//! Which users are members of which organizations.

use terrapool_model::id::{MembershipId, OrganizationId, UserId};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// That a user is a member of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipRecord {
    /// Id.
    pub id: MembershipId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// The user.
    pub user_id: UserId,
    /// The user's name.
    pub username: String,
    /// The user's e-mail address.
    pub email: String,
}

const SELECT: &str = "SELECT m.id AS id, m.organization_id AS organization_id, m.user_id AS user_id, \
     u.username AS username, u.email AS email FROM organization_members m JOIN users u ON u.id = m.user_id";

fn read(row: &Row) -> Result<MembershipRecord, StoreError> {
    Ok(MembershipRecord {
        id: row.parse("id")?,
        organization_id: row.parse("organization_id")?,
        user_id: row.parse("user_id")?,
        username: row.text("username")?,
        email: row.text("email")?,
    })
}

/// Makes a user a member.
///
/// # Errors
/// [`StoreError::Conflict`] when it is one already.
pub async fn add(
    tx: &mut Tx,
    organization: &OrganizationId,
    user: &UserId,
) -> Result<MembershipId, StoreError> {
    let id = MembershipId::from_random(tx.draw());
    tx.execute(
        "INSERT INTO organization_members (id, organization_id, user_id) VALUES ($1, $2, $3)",
        values![&id, organization, user],
    )
    .await?;
    Ok(id)
}

/// Ends a membership, also in the organization's teams.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove(tx: &mut Tx, organization: &OrganizationId, user: &UserId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM team_members WHERE user_id = $2 \
         AND team_id IN (SELECT id FROM teams WHERE organization_id = $1)",
        values![organization, user],
    )
    .await?;
    tx.execute(
        "DELETE FROM organization_members WHERE organization_id = $1 AND user_id = $2",
        values![organization, user],
    )
    .await?;
    Ok(())
}

/// The membership with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(
    connection: &mut Connection,
    id: &MembershipId,
) -> Result<Option<MembershipRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE m.id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The membership of a user in an organization.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_user(
    connection: &mut Connection,
    organization: &OrganizationId,
    user: &UserId,
) -> Result<Option<MembershipRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE m.organization_id = $1 AND m.user_id = $2");
    connection
        .fetch_optional(&sql, values![organization, user])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The members of an organization, by name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_organization(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<Vec<MembershipRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE m.organization_id = $1 ORDER BY u.username");
    let rows = connection.fetch_all(&sql, values![organization]).await?;
    rows.iter().map(read).collect()
}
