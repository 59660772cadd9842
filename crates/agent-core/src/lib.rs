#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod attempt;
pub mod backoff;
pub mod capacity;
