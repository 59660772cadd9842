#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod attributes;
pub mod document;
pub mod errors;
pub mod page;
pub mod request;
pub mod state;
pub mod time;
