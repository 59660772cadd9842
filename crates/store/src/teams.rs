//! Teams, their members, and their roles in projects and workspaces.

use serde_json::{Map, Value as Json};
use terrapool_model::id::{
    OrganizationId, ProjectId, TeamId, TeamProjectId, TeamWorkspaceId, UserId, WorkspaceId,
};
use terrapool_model::permission::{Grants, OrganizationAccess, ProjectRole, WorkspaceRole};
use terrapool_model::time::Timestamp;

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// Name of the team that every organization has.
pub const OWNERS: &str = "owners";

/// Who sees a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Its members, and the organization's owners.
    Secret,
    /// Every member of the organization.
    Organization,
}

impl Visibility {
    /// The word in the API and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Organization => "organization",
        }
    }
}

impl std::str::FromStr for Visibility {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "secret" => Ok(Self::Secret),
            "organization" => Ok(Self::Organization),
            _ => Err(()),
        }
    }
}

/// A team.
#[derive(Debug, Clone, PartialEq)]
pub struct TeamRecord {
    /// Id.
    pub id: TeamId,
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Name, unique in the organization.
    pub name: String,
    /// Whether its members own the organization.
    pub is_owners: bool,
    /// Who sees it.
    pub visibility: Visibility,
    /// What its members may do in the whole organization, as the API's flags.
    pub organization_access: Map<String, Json>,
    /// When it was made.
    pub created_at: Timestamp,
    /// How many members it has.
    pub users: u64,
}

impl TeamRecord {
    /// What its members may do in the whole organization.
    pub fn access(&self) -> OrganizationAccess {
        access(&self.organization_access)
    }
}

/// The flags that mean something here.
pub fn access(flags: &Map<String, Json>) -> OrganizationAccess {
    let flag = |name: &str| flags.get(name).and_then(Json::as_bool).unwrap_or(false);
    OrganizationAccess {
        read_workspaces: flag("read-workspaces"),
        read_projects: flag("read-projects"),
        manage_workspaces: flag("manage-workspaces"),
        manage_projects: flag("manage-projects"),
        manage_agent_pools: flag("manage-agent-pools"),
    }
}

/// A team to be made.
#[derive(Debug, Clone)]
pub struct NewTeam {
    /// Its organization.
    pub organization_id: OrganizationId,
    /// Its name.
    pub name: String,
    /// Who sees it.
    pub visibility: Visibility,
    /// What its members may do in the whole organization.
    pub organization_access: Map<String, Json>,
}

const SELECT: &str = "SELECT id, organization_id, name, is_owners, visibility, organization_access, created_at, \
     (SELECT COUNT(*) FROM team_members WHERE team_members.team_id = teams.id) AS users FROM teams";

fn read(row: &Row) -> Result<TeamRecord, StoreError> {
    Ok(TeamRecord {
        id: row.parse("id")?,
        organization_id: row.parse("organization_id")?,
        name: row.text("name")?,
        is_owners: row.bool("is_owners")?,
        visibility: row.parse("visibility")?,
        organization_access: row.json("organization_access")?,
        created_at: row.time("created_at")?,
        users: row.count("users")?,
    })
}

async fn insert(tx: &mut Tx, new: &NewTeam, is_owners: bool) -> Result<TeamRecord, StoreError> {
    let record = TeamRecord {
        id: TeamId::from_random(tx.draw()),
        organization_id: new.organization_id.clone(),
        name: new.name.clone(),
        is_owners,
        visibility: new.visibility,
        organization_access: new.organization_access.clone(),
        created_at: tx.now(),
        users: 0,
    };
    tx.execute(
        "INSERT INTO teams (id, organization_id, name, is_owners, visibility, organization_access, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        values![
            &record.id,
            &record.organization_id,
            &record.name,
            record.is_owners,
            record.visibility.as_str(),
            Json::Object(record.organization_access.clone()).to_string(),
            record.created_at
        ],
    )
    .await?;
    Ok(record)
}

/// Makes a team.
///
/// # Errors
/// [`StoreError::Conflict`] when the organization has one of this name.
pub async fn create(tx: &mut Tx, new: &NewTeam) -> Result<TeamRecord, StoreError> {
    insert(tx, new, false).await
}

/// Makes the team of a new organization's owners.
pub(crate) async fn create_owners(
    tx: &mut Tx,
    organization: &OrganizationId,
) -> Result<TeamRecord, StoreError> {
    let new = NewTeam {
        organization_id: organization.clone(),
        name: OWNERS.to_owned(),
        visibility: Visibility::Secret,
        organization_access: Map::new(),
    };
    insert(tx, &new, true).await
}

/// Writes what can be changed: name, visibility, organization access.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken.
pub async fn update(tx: &mut Tx, record: &TeamRecord) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE teams SET name = $2, visibility = $3, organization_access = $4 WHERE id = $1",
        values![
            &record.id,
            &record.name,
            record.visibility.as_str(),
            Json::Object(record.organization_access.clone()).to_string()
        ],
    )
    .await?;
    Ok(())
}

/// Deletes a team with its memberships and roles.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn delete(tx: &mut Tx, id: &TeamId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM teams WHERE id = $1", values![id]).await?;
    Ok(())
}

/// The team with an id.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &TeamId) -> Result<Option<TeamRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// The teams of an organization, oldest first.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_organization(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<Vec<TeamRecord>, StoreError> {
    let sql = format!("{SELECT} WHERE organization_id = $1 ORDER BY created_at, id");
    let rows = connection.fetch_all(&sql, values![organization]).await?;
    rows.iter().map(read).collect()
}

/// The teams of an organization that a user is in.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn of_user(
    connection: &mut Connection,
    organization: &OrganizationId,
    user: &UserId,
) -> Result<Vec<TeamId>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT teams.id FROM teams JOIN team_members ON team_members.team_id = teams.id \
             WHERE organization_id = $1 AND user_id = $2 ORDER BY created_at, teams.id",
            values![organization, user],
        )
        .await?;
    rows.iter().map(|row| row.parse("id")).collect()
}

/// Ids and names of a team's members, by name.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn members(connection: &mut Connection, id: &TeamId) -> Result<Vec<(UserId, String)>, StoreError> {
    let rows = connection
        .fetch_all(
            "SELECT users.id, users.username FROM team_members JOIN users ON users.id = team_members.user_id \
             WHERE team_id = $1 ORDER BY username",
            values![id],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.parse("id")?, row.text("username")?)))
        .collect()
}

/// Puts a member of the organization into a team; nothing happens when it is in it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn add_member(tx: &mut Tx, team: &TeamId, user: &UserId) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO team_members (team_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        values![team, user],
    )
    .await?;
    Ok(())
}

/// Takes a user out of a team.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove_member(tx: &mut Tx, team: &TeamId, user: &UserId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM team_members WHERE team_id = $1 AND user_id = $2",
        values![team, user],
    )
    .await?;
    Ok(())
}

/// How many members the team of the owners has.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count_owners(
    connection: &mut Connection,
    organization: &OrganizationId,
) -> Result<u64, StoreError> {
    connection
        .fetch_one(
            "SELECT COUNT(*) AS owners FROM team_members JOIN teams ON teams.id = team_members.team_id \
             WHERE organization_id = $1 AND is_owners = $2",
            values![organization, true],
        )
        .await?
        .count("owners")
}

/// What a user's teams hold in an organization; `None` when the user is no member.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn grants(
    connection: &mut Connection,
    organization: &OrganizationId,
    user: &UserId,
) -> Result<Option<Grants>, StoreError> {
    const MINE: &str =
        "JOIN team_members m ON m.team_id = t.id WHERE t.organization_id = $1 AND m.user_id = $2";
    let member = connection
        .fetch_optional(
            "SELECT user_id FROM organization_members WHERE organization_id = $1 AND user_id = $2",
            values![organization, user],
        )
        .await?;
    if member.is_none() {
        return Ok(None);
    }
    let mut grants = Grants::default();
    let sql = format!("SELECT t.is_owners, t.organization_access FROM teams t {MINE}");
    for row in connection.fetch_all(&sql, values![organization, user]).await? {
        grants.owner |= row.bool("is_owners")?;
        grants.everywhere = grants.everywhere.or(access(&row.json("organization_access")?));
    }
    if grants.owner {
        return Ok(Some(grants));
    }
    let sql =
        format!("SELECT g.project_id, g.role FROM team_projects g JOIN teams t ON t.id = g.team_id {MINE}");
    for row in connection.fetch_all(&sql, values![organization, user]).await? {
        grants.add_project(row.parse("project_id")?, row.parse("role")?);
    }
    let sql = format!(
        "SELECT g.workspace_id, w.project_id, g.role FROM team_workspaces g JOIN teams t ON t.id = g.team_id \
         JOIN workspaces w ON w.id = g.workspace_id {MINE}"
    );
    for row in connection.fetch_all(&sql, values![organization, user]).await? {
        grants.add_workspace(
            row.parse("workspace_id")?,
            row.parse("project_id")?,
            row.parse("role")?,
        );
    }
    Ok(Some(grants))
}

macro_rules! roles {
    (
        $(#[$doc:meta])* $record:ident, $id:ident, $subject:ident: $subject_id:ident, $role:ident,
        $table:literal, $column:literal,
        $grant:ident, $set:ident, $revoke:ident, $get:ident, $of_subject:ident, $of_team:ident
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $record {
            /// Id.
            pub id: $id,
            /// The team.
            pub team_id: TeamId,
            /// What the role is in.
            pub $subject: $subject_id,
            /// The role.
            pub role: $role,
        }

        impl $record {
            fn read(row: &Row) -> Result<Self, StoreError> {
                Ok(Self {
                    id: row.parse("id")?,
                    team_id: row.parse("team_id")?,
                    $subject: row.parse($column)?,
                    role: row.parse("role")?,
                })
            }
        }

        /// Gives a team a role.
        ///
        /// # Errors
        /// [`StoreError::Conflict`] when it has one there.
        pub async fn $grant(
            tx: &mut Tx,
            team: &TeamId,
            subject: &$subject_id,
            role: $role,
        ) -> Result<$record, StoreError> {
            let record = $record {
                id: $id::from_random(tx.draw()),
                team_id: team.clone(),
                $subject: subject.clone(),
                role,
            };
            let now = tx.now();
            tx.execute(
                concat!(
                    "INSERT INTO ", $table, " (id, team_id, ", $column, ", role, created_at) VALUES ($1, $2, $3, $4, $5)"
                ),
                values![&record.id, team, subject, role.as_str(), now],
            )
            .await?;
            Ok(record)
        }

        /// Gives another role instead.
        ///
        /// # Errors
        /// [`StoreError`] when the database fails.
        pub async fn $set(tx: &mut Tx, id: &$id, role: $role) -> Result<(), StoreError> {
            tx.execute(
                concat!("UPDATE ", $table, " SET role = $2 WHERE id = $1"),
                values![id, role.as_str()],
            )
            .await?;
            Ok(())
        }

        /// Takes the role away.
        ///
        /// # Errors
        /// [`StoreError`] when the database fails.
        pub async fn $revoke(tx: &mut Tx, id: &$id) -> Result<(), StoreError> {
            tx.execute(concat!("DELETE FROM ", $table, " WHERE id = $1"), values![id])
                .await?;
            Ok(())
        }

        /// The role with an id.
        ///
        /// # Errors
        /// [`StoreError`] when the database fails.
        pub async fn $get(connection: &mut Connection, id: &$id) -> Result<Option<$record>, StoreError> {
            connection
                .fetch_optional(
                    concat!("SELECT id, team_id, ", $column, ", role FROM ", $table, " WHERE id = $1"),
                    values![id],
                )
                .await?
                .as_ref()
                .map($record::read)
                .transpose()
        }

        /// The roles that teams have there, oldest first.
        ///
        /// # Errors
        /// [`StoreError`] when the database fails.
        pub async fn $of_subject(
            connection: &mut Connection,
            subject: &$subject_id,
        ) -> Result<Vec<$record>, StoreError> {
            let rows = connection
                .fetch_all(
                    concat!(
                        "SELECT id, team_id, ", $column, ", role FROM ", $table, " WHERE ", $column,
                        " = $1 ORDER BY created_at, id"
                    ),
                    values![subject],
                )
                .await?;
            rows.iter().map($record::read).collect()
        }

        /// The roles that a team has, oldest first.
        ///
        /// # Errors
        /// [`StoreError`] when the database fails.
        pub async fn $of_team(connection: &mut Connection, team: &TeamId) -> Result<Vec<$record>, StoreError> {
            let rows = connection
                .fetch_all(
                    concat!(
                        "SELECT id, team_id, ", $column, ", role FROM ", $table,
                        " WHERE team_id = $1 ORDER BY created_at, id"
                    ),
                    values![team],
                )
                .await?;
            rows.iter().map($record::read).collect()
        }
    };
}

roles! {
    /// A team's role in a project.
    TeamProject, TeamProjectId, project_id: ProjectId, ProjectRole, "team_projects", "project_id",
    grant_project, set_project_role, revoke_project, project_role, of_project, projects_of
}

roles! {
    /// A team's role in a workspace.
    TeamWorkspace, TeamWorkspaceId, workspace_id: WorkspaceId, WorkspaceRole, "team_workspaces", "workspace_id",
    grant_workspace, set_workspace_role, revoke_workspace, workspace_role, of_workspace, workspaces_of
}
