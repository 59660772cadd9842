//! What systemd is told: that the agent is ready, what it does, that it lives. Elsewhere nobody listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::clock::boottime;

/// A loop that has not turned for this long hangs: no call is held nearly as long.
const HANGS: Duration = Duration::from_secs(300);

/// The service manager's end.
#[derive(Debug)]
pub struct Supervisor {
    turned: Arc<AtomicU64>,
    said: String,
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(error = &error as &dyn std::error::Error, "systemd is not told");
    }
}

impl Supervisor {
    /// Begins; where a watchdog watches it is fed as long as the loop turns.
    pub fn start() -> Self {
        let turned = Arc::new(AtomicU64::new(boottime().0));
        if let Some(limit) = sd_notify::watchdog_enabled() {
            let turned = Arc::clone(&turned);
            tokio::spawn(async move {
                let mut pace = tokio::time::interval(limit / 3);
                loop {
                    pace.tick().await;
                    let still = boottime().0.saturating_sub(turned.load(Ordering::Relaxed));
                    if u128::from(still) < HANGS.as_millis() {
                        tell(&[NotifyState::Watchdog]);
                    }
                }
            });
        }
        Self {
            turned,
            said: String::new(),
        }
    }

    /// Everything is prepared.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// The loop has turned; `summary` says what the agent does.
    pub fn turn(&mut self, summary: &str) {
        self.turned.store(boottime().0, Ordering::Relaxed);
        if self.said != summary {
            summary.clone_into(&mut self.said);
            tell(&[NotifyState::Status(summary)]);
        }
    }

    /// It is told to end.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}
