#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod app;
pub mod auth;
pub mod config;
pub mod http;
pub mod logs;
pub mod presence;
pub mod reconcile;
pub mod secrets;
