//! Which projects and workspaces of an organization lists show to somebody.

use terrapool_model::id::UserId;

use crate::db::Value;

/// What somebody sees of an organization. Who may do what is decided by `terrapool_model::permission`; this is the
/// same rule for lists: whatever a team of theirs has a role in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sight {
    /// Everything.
    #[default]
    All,
    /// Every project, and the workspaces that the user's teams have a role in.
    Projects(UserId),
    /// What the user's teams have a role in.
    GrantedTo(UserId),
}

impl Sight {
    /// The condition on rows of `workspaces`, known in the statement as `alias`, and the value it needs.
    pub(crate) fn of_workspaces(&self, alias: &str, values: &mut Vec<Value>) -> String {
        match self {
            Self::All => "1 = 1".to_owned(),
            Self::Projects(user) | Self::GrantedTo(user) => {
                values.push(user.into());
                let number = values.len();
                format!(
                    "({alias}.id IN (SELECT g.workspace_id FROM team_workspaces g \
                     JOIN team_members m ON m.team_id = g.team_id WHERE m.user_id = ${number}) \
                     OR {alias}.project_id IN (SELECT g.project_id FROM team_projects g \
                     JOIN team_members m ON m.team_id = g.team_id WHERE m.user_id = ${number}))"
                )
            }
        }
    }

    /// The condition on rows of `projects`, known in the statement as `alias`, and the value it needs.
    pub(crate) fn of_projects(&self, alias: &str, values: &mut Vec<Value>) -> String {
        match self {
            Self::All | Self::Projects(_) => "1 = 1".to_owned(),
            Self::GrantedTo(user) => {
                values.push(user.into());
                let number = values.len();
                format!(
                    "({alias}.id IN (SELECT g.project_id FROM team_projects g \
                     JOIN team_members m ON m.team_id = g.team_id WHERE m.user_id = ${number}) \
                     OR {alias}.id IN (SELECT seen.project_id FROM workspaces seen \
                     JOIN team_workspaces g ON g.workspace_id = seen.id \
                     JOIN team_members m ON m.team_id = g.team_id WHERE m.user_id = ${number}))"
                )
            }
        }
    }
}
