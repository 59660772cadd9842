//! The attributes of agents and their pools.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Of `agent-pools`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct AgentPool {
    pub name: String,
    pub created_at: String,
    pub organization_scoped: bool,
    pub agent_count: u64,
    /// Its agents are given nothing new. An addition of this product.
    pub paused: bool,
    /// Times of leases, stops and locks, in seconds; null is never. An addition of this product.
    pub lease_times: BTreeMap<&'static str, Option<u64>>,
    /// What the sandboxes of its jobs may use and reach. An addition of this product.
    pub sandbox: serde_json::Value,
}

/// Of `agents`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct Agent {
    pub name: Option<String>,
    pub status: &'static str,
    pub ip_address: String,
    pub last_ping_at: String,
    pub created_at: String,
    pub version: String,
    /// It takes no new jobs, by its own decision. An addition of this product, as what follows.
    pub draining: bool,
    /// A person wants it drained.
    pub drain_wanted: bool,
    /// Jobs it holds.
    pub jobs: u64,
    /// Another live process with the same key: a cloned machine, or an older process that is still finishing.
    pub duplicate_identity: Option<DuplicateIdentity>,
    /// What it found when it last looked at itself and its host; null from agents that do not report it.
    pub health: Option<Value>,
}

/// Another live process of an agent.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "the fields are the attributes of the public API, named as there"
)]
pub struct DuplicateIdentity {
    pub ip_address: String,
    pub last_ping_at: String,
    /// Both addresses, as a sentence for people.
    pub message: String,
}
