#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod archive;
pub mod bridges;
pub mod bundle;
pub mod children;
pub mod configuration;
pub mod connect;
pub mod dump;
pub mod egress;
pub mod engines;
pub mod environment;
pub mod error;
pub mod frames;
pub mod guard;
pub mod hcl;
pub mod job;
pub mod link;
pub mod network;
pub mod paths;
pub mod plan_archive;
pub mod providers;
pub mod relay;
pub mod remains;
pub mod runner;
pub mod shared;
pub mod spool;
pub mod state;
pub mod stop;
pub mod usage;

mod digest;
mod http;
mod outcome;
mod process;

pub use error::RunnerError;
pub use paths::Paths;
pub use runner::{Options, run, serve_remains};
