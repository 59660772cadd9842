#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod configuration;
mod graph;
pub mod guard;
pub mod history;
pub mod invariant;
pub mod search;
pub mod situation;
pub mod step;
pub mod tables;
pub mod world;
