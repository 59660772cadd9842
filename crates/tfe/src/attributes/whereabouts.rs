//! The attributes of what this product adds: where a run is, and states that were kept apart.

use serde::Serialize;

/// Of `run-whereabouts`: where a run is and what to do next. An addition of this product.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct RunWhereabouts {
    pub place: &'static str,
    pub summary: String,
    pub next: String,
    pub phase: Option<&'static str>,
    pub pool: String,
    pub connected_agents: u64,
    pub agent: Option<WhereaboutsAgent>,
    pub attempt: Option<String>,
    pub generation: Option<u64>,
    pub tries: Option<u32>,
    pub desired: Option<&'static str>,
    pub last_contact_at: Option<String>,
    /// When the lease ends if the agent stays silent.
    pub lease_ends_at: Option<String>,
    /// From when on no engine of a lost apply can be alive.
    pub safe_at: Option<String>,
    pub aftermath: &'static str,
    pub kept: Kept,
}

/// The agent of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct WhereaboutsAgent {
    pub id: String,
    pub name: String,
    pub ip_address: String,
    pub status: &'static str,
}

/// What is kept of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kept {
    /// Serial of the newest state copy that is not current yet.
    pub newest_copy_serial: Option<u64>,
    /// State versions that this run made current.
    pub state_versions: u64,
    /// States of this run that were kept apart.
    pub kept_apart_states: u64,
}

/// Of `kept-apart-states`: a state that may not become current by itself. An addition of this product.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the fields say what they are")]
pub struct KeptApartState {
    pub reason: String,
    /// The reason as a sentence for people.
    pub message: String,
    pub serial: Option<u64>,
    pub lineage: Option<String>,
    pub md5: Option<String>,
    pub size: Option<u64>,
    pub job: Option<String>,
    pub attempt: Option<String>,
    pub created_at: String,
    pub hosted_state_download_url: String,
}
