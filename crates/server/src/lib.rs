#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod access_log;
pub mod admin;
pub mod app;
pub mod archive;
pub mod auth;
pub mod backup;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod http;
pub mod logs;
pub mod packages;
pub mod presence;
pub mod reconcile;
pub mod refusals;
pub mod secrets;
pub mod server;
pub mod shared_agent;
pub mod tls;
pub mod urls;
pub mod waiting;
