//! Waiting for a condition.

use std::time::Duration;

use tokio::time::Instant;

/// How much longer things take here than on most machines: `TERRAPOOL_TEST_PATIENCE`, which is set where processors are
/// emulated.
pub fn patience() -> u32 {
    let set = std::env::var("TERRAPOOL_TEST_PATIENCE").ok();
    set.and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// Looks until `look` finds something, at most for `limit`.
pub async fn until<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit * patience();
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
