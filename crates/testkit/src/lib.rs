#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::missing_panics_doc,
    reason = "a fixture that cannot do its work fails the test"
)]

pub mod agent;
pub mod browser;
pub mod cli;
pub mod database;
pub mod file_server;
pub mod forms;
pub mod installation;
mod leftovers;
pub mod runs;
pub mod secluded;
pub mod seed;
pub mod system;
pub mod wait;
