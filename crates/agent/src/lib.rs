#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod attempt;
pub mod clock;
pub mod config;
pub mod configure;
pub mod control;
pub mod control_plane;
pub mod delivery;
pub mod doctor;
pub mod drivers;
pub mod egress;
pub mod engines;
pub mod host;
pub mod journal;
pub mod monitoring;
pub mod redaction;
pub mod runner_link;
pub mod schemas;
pub mod service;
pub mod signals;
pub mod supervisor;
