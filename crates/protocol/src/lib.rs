#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod agent;
pub mod block;
pub mod frame;
pub mod health;
pub mod job;
pub mod limits;
pub mod mask;
pub mod memory;
pub mod relay;
pub mod runner;
pub mod secret;
