//! Typed ids: the prefix names the kind, sixteen base-58 characters name the thing.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Characters behind the prefix of a new id (about 93 bits).
const RANDOM_CHARACTERS: usize = 16;

/// A text that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is not an id of this kind: it has to start with `{prefix}`, followed by letters and digits"
)]
pub struct InvalidId {
    /// The prefix that was expected.
    pub prefix: &'static str,
    /// What was found instead.
    pub found: String,
}

fn check(prefix: &'static str, text: &str) -> Result<(), InvalidId> {
    let well_formed = text.strip_prefix(prefix).is_some_and(|rest| {
        (1..=64).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if well_formed {
        Ok(())
    } else {
        let found = text.chars().take(80).collect();
        Err(InvalidId { prefix, found })
    }
}

fn base58(random: [u8; 16]) -> String {
    // A byte modulo 58 favours some characters a little; ids need to be unguessable, not uniform.
    random
        .iter()
        .take(RANDOM_CHARACTERS)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % 58]))
        .collect()
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an id from 16 random bytes, which the caller draws.
            pub fn from_random(random: [u8; 16]) -> Self {
                Self(format!("{}{}", $prefix, base58(random)))
            }

            /// The id as text, prefix included.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                check($prefix, text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                check($prefix, &text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    )*};
}

ids! {
    /// An organization (its `external-id` in the API; clients know it by name).
    OrganizationId = "org-";
    /// A project.
    ProjectId = "prj-";
    /// A workspace.
    WorkspaceId = "ws-";
    /// A workspace variable.
    VariableId = "var-";
    /// An uploaded configuration.
    ConfigurationVersionId = "cv-";
    /// A run. Saved plans of the CLI insist on the prefix.
    RunId = "run-";
    /// The plan of a run.
    PlanId = "plan-";
    /// The apply of a run.
    ApplyId = "apply-";
    /// A job: one phase of one run, as agents see it.
    JobId = "job-";
    /// A state version.
    StateVersionId = "sv-";
    /// An output of a state version.
    StateVersionOutputId = "wsout-";
    /// An agent pool.
    AgentPoolId = "apool-";
    /// An agent.
    AgentId = "agent-";
    /// A token of a user, an organization or an agent pool (the record, not the secret).
    TokenId = "at-";
    /// A user.
    UserId = "user-";
    /// A team of an organization.
    TeamId = "team-";
    /// That a user is a member of an organization.
    MembershipId = "ou-";
    /// A team's role in a project.
    TeamProjectId = "tprj-";
    /// A team's role in a workspace.
    TeamWorkspaceId = "tws-";
    /// A control-plane installation.
    InstallationId = "inst-";
    /// An entry of the engine catalogue.
    EngineVersionId = "tool-";
    /// An entry of the audit log.
    AuditId = "aud-";
    /// An agent process's try at a job. Minted by the agent and journaled before it is sent.
    AttemptId = "att-";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_reads_back_as_itself() {
        let id = RunId::from_random([7; 16]);
        assert_eq!(id.as_str().len(), "run-".len() + RANDOM_CHARACTERS);
        assert_eq!(id.as_str().parse::<RunId>(), Ok(id));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        assert!("ws-abc".parse::<RunId>().is_err());
        assert!("run-".parse::<RunId>().is_err());
        assert!("run-a/b".parse::<RunId>().is_err());
    }
}
