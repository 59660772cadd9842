//! Log bytes on disk.

/// The log store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogStore {}
