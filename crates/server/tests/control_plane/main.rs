//! The control plane as its clients see it: one program of all tests, for each is linked with the whole server.
#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

mod agent_protocol;
mod backups;
mod common;
mod configuration_uploads;
mod disk_full;
mod engine_versions;
mod organization_runs;
mod pool_settings;
mod shared_pool;
mod startup;
mod state_versions;
mod stock_cli_state;
mod tenant_sweep;
mod tokens;
mod traps;
mod web_forms;
mod web_pages;
mod web_pools;
mod web_runs;
mod web_sign_in;
mod web_views;
mod workspace_pools;
mod workspaces;
