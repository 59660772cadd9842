#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod agent_tokens;
pub mod agents;
pub mod api_tokens;
pub mod artifacts;
pub mod audit;
pub mod backup;
pub mod configuration_versions;
pub mod db;
pub mod deadlines;
pub mod engine_versions;
pub mod error;
pub mod form_answers;
pub mod gauges;
pub mod host_memory;
pub mod installation;
pub mod job_specs;
pub mod jobs;
pub mod kept_apart;
pub mod locks;
pub mod logs;
pub mod memberships;
pub mod organizations;
pub mod orphans;
pub mod overview;
pub mod page;
pub mod pool_minutes;
pub mod pools;
pub mod projects;
pub mod runs;
pub mod sight;
pub mod state_copies;
pub mod state_sharing;
pub mod state_versions;
pub mod teams;
pub mod users;
pub mod variables;
pub mod web_sessions;
pub mod workspaces;

mod lifecycle;
mod search;
