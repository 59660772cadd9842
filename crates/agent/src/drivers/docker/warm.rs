//! Warm sandboxes: started ahead, used once, destroyed.
//!
//! A container takes about 200 ms to start and its runner under a millisecond to begin work, so one is kept ready.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::{DockerDriver, DriverError, Sandbox, SandboxKey};

/// The sandbox that waits for the next job of the usual kind.
#[derive(Debug)]
pub struct WarmSandboxes {
    driver: Arc<DockerDriver>,
    key: Mutex<SandboxKey>,
    /// Held while a sandbox is being made, so that a job that comes meanwhile waits for that one.
    ready: Mutex<Option<Sandbox>>,
}

impl WarmSandboxes {
    /// Keeps sandboxes of this key.
    pub fn new(driver: Arc<DockerDriver>, key: SandboxKey) -> Arc<Self> {
        Arc::new(Self {
            driver,
            key: Mutex::new(key),
            ready: Mutex::new(None),
        })
    }

    /// Makes the next sandbox, in the background, unless one is ready.
    pub fn refill(self: &Arc<Self>) {
        let warm = Arc::clone(self);
        tokio::spawn(async move {
            let mut ready = warm.ready.lock().await;
            if ready.is_some() {
                return;
            }
            let key = warm.key.lock().await.clone();
            match warm.driver.create_sandbox(&key).await {
                Ok(sandbox) => *ready = Some(sandbox),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no warm sandbox could be made"
                    );
                }
            }
        });
    }

    /// Takes the warm sandbox when it fits, else makes one. The next one is not begun here: the caller decides when
    /// its cost disturbs least.
    ///
    /// # Errors
    /// [`DriverError`] when none can be made.
    pub async fn take(&self, wanted: &SandboxKey) -> Result<Sandbox, DriverError> {
        let ready = {
            let mut ready = self.ready.lock().await;
            let fits =
                |sandbox: &Sandbox| sandbox.key.image == wanted.image && sandbox.key.user == wanted.user;
            if ready.as_ref().is_some_and(fits) {
                ready.take()
            } else {
                None
            }
        };
        if let Some(sandbox) = ready {
            if !sandbox.link.receiver.has_ended() {
                return Ok(sandbox);
            }
            let driver = Arc::clone(&self.driver);
            tokio::spawn(async move {
                driver.remove_sandbox(&sandbox.id, Some(sandbox.volumes())).await;
            });
        }
        self.driver.create_sandbox(wanted).await
    }

    /// Removes the sandbox that waits.
    pub async fn drain(&self) {
        if let Some(sandbox) = self.ready.lock().await.take() {
            self.driver
                .remove_sandbox(&sandbox.id, Some(sandbox.volumes()))
                .await;
        }
    }
}
