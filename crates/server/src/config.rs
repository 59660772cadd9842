//! The configuration.

/// The configuration of a control plane.
#[derive(Debug, Clone, Default)]
pub struct Config {}
