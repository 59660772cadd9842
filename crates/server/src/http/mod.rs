//! All routes.

pub mod agent;
pub mod logs;
pub mod ops;
pub mod tfe;
