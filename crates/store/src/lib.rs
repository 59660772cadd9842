#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod api_tokens;
pub mod audit;
pub mod configuration_versions;
pub mod db;
pub mod error;
pub mod organizations;
pub mod projects;
pub mod state_versions;
pub mod users;
pub mod variables;
pub mod workspaces;

mod search;
