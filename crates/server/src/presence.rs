//! Agents' contacts and reservations, in memory.

/// What is known of connected agents. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Presence {}
