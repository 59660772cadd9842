//! What a run may read of the control plane, through its runner and its agent.
//!
//! The runner listens on loopback inside the sandbox and hands requests to the agent over the stream that it holds with
//! it; the agent forwards those that are on the list here, with the credential of the job, to
//! `GET jobs/:id/relay/…`. The sandbox holds no credential and needs no network.

/// What stands where clients insist on a token. It opens nothing.
pub const PLACEHOLDER: &str = "inside-a-run";

/// Where the Terraform Enterprise API is, on the runner's listener as on the control plane.
pub const PREFIX: &str = "/api/v2/";

/// Requests of one run that are open at once.
pub const MOST_OPEN: usize = 16;

/// Largest body of a request in bytes. States are not written through the relay.
pub const LARGEST_BODY: u32 = 8 << 20;

/// Headers of requests that are handed on, in lower case.
pub const REQUEST_HEADERS: [&str; 5] = [
    "accept",
    "content-type",
    "user-agent",
    "terraform-version",
    "x-terraform-integration",
];

/// Headers of answers that are handed on, in lower case. How long the body is, the relay says itself.
pub const ANSWER_HEADERS: [&str; 6] = [
    "content-type",
    "tfp-api-version",
    "tfp-appname",
    "x-tfe-version",
    "x-tfe-current-version",
    "location",
];

/// A read that a run may ask for. Whether it may have what it asks for, the control plane decides at each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// What clients ask first.
    Ping,
    /// What an organization may use.
    Entitlements {
        /// Its name.
        organization: String,
    },
    /// A workspace by its name.
    WorkspaceByName {
        /// The organization's name.
        organization: String,
        /// The workspace's name.
        name: String,
    },
    /// A workspace.
    Workspace {
        /// Its id.
        id: String,
    },
    /// The newest state of a workspace.
    CurrentState {
        /// The workspace's id.
        workspace: String,
    },
    /// The outputs of the newest state of a workspace.
    CurrentOutputs {
        /// The workspace's id.
        workspace: String,
    },
    /// The bytes of a state.
    StateDownload {
        /// The state version's id.
        version: String,
    },
    /// One output.
    Output {
        /// Its id.
        id: String,
    },
}

impl Route {
    /// The read that a path (without its query) names; `None` when it is not on the list.
    pub fn of(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix(PREFIX)?.split('/').collect();
        let plain = |segment: &&str| {
            !segment.is_empty()
                && segment
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !segments.iter().all(plain) {
            return None;
        }
        let owned = |segment: &str| segment.to_owned();
        Some(match segments.as_slice() {
            ["ping"] => Self::Ping,
            ["organizations", organization, "entitlement-set"] => Self::Entitlements {
                organization: owned(organization),
            },
            ["organizations", organization, "workspaces", name] => Self::WorkspaceByName {
                organization: owned(organization),
                name: owned(name),
            },
            ["workspaces", id] => Self::Workspace { id: owned(id) },
            ["workspaces", id, "current-state-version"] => Self::CurrentState { workspace: owned(id) },
            ["workspaces", id, "current-state-version-outputs"] => {
                Self::CurrentOutputs { workspace: owned(id) }
            }
            ["state-versions", id, "download"] => Self::StateDownload { version: owned(id) },
            ["state-version-outputs", id] => Self::Output { id: owned(id) },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Route;

    #[test]
    fn only_reads_of_workspaces_states_and_outputs_are_on_the_list() {
        let named = Route::of("/api/v2/organizations/acme/workspaces/net-prod");
        assert_eq!(
            named,
            Some(Route::WorkspaceByName {
                organization: "acme".to_owned(),
                name: "net-prod".to_owned(),
            })
        );
        for path in [
            "/api/v2/ping",
            "/api/v2/organizations/acme/entitlement-set",
            "/api/v2/workspaces/ws-1",
            "/api/v2/workspaces/ws-1/current-state-version",
            "/api/v2/workspaces/ws-1/current-state-version-outputs",
            "/api/v2/state-versions/sv-1/download",
            "/api/v2/state-version-outputs/wsout-1",
        ] {
            assert!(Route::of(path).is_some(), "{path}");
        }
        for path in [
            "/api/v2/workspaces/ws-1/vars",
            "/api/v2/workspaces/ws-1/runs",
            "/api/v2/workspaces/ws-1/state-versions",
            "/api/v2/workspaces/../organizations",
            "/api/v2/workspaces/%2e%2e",
            "/api/v2/organizations/acme/agent-pools",
            "/api/v2/organizations/acme/workspaces/",
            "/api/v2/runs/run-1",
            "/api/v2/account/details",
            "/agent/v1/register",
            "/healthz",
            "",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
