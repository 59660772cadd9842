//! Whether the database takes writes, as the last one showed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use terrapool_model::time::Timestamp;

use crate::error::StoreError;

/// Since when writes are not taken, in milliseconds since 1970; 0 while they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Writability(Arc<AtomicI64>);

impl Writability {
    /// Notes how a write went. Refusals of commands are no failures.
    pub(super) fn note(&self, failure: Option<&StoreError>, now: impl Fn() -> Timestamp) {
        if failure.is_some_and(StoreError::is_unavailable) {
            // The first one counts.
            let _ = self
                .0
                .compare_exchange(0, now().0, Ordering::Relaxed, Ordering::Relaxed);
        } else {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Since when writes are not taken.
    pub(super) fn refused_since(&self) -> Option<Timestamp> {
        Some(self.0.load(Ordering::Relaxed))
            .filter(|since| *since != 0)
            .map(Timestamp)
    }
}
