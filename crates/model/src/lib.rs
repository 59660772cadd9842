#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod access;
pub mod agent_status;
pub mod engine;
pub mod execution;
pub mod id;
pub mod image;
pub mod job;
pub mod lock;
pub mod permission;
pub mod pool_minutes;
pub mod refusal;
pub mod run;
pub mod schedule;
pub mod state_copy;
pub mod sync;
pub mod time;
pub mod times;
pub mod transition;
pub mod wait;
pub mod whereabouts;
