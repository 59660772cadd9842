//! How a job is isolated.

pub mod docker;
