//! What a job leaves, on its way to the control plane.

mod artifacts;
mod finish;
mod log;
mod state;

use std::time::Duration;

use terrapool_agent_core::backoff;
use terrapool_model::id::JobId;
use terrapool_model::time::Millis;
use terrapool_protocol::secret::Secret;

pub use artifacts::ArtifactPiece;
pub use finish::{Delivery, Ending, Progress, deliver, give_back, report_without_runner};
pub use log::{LogDelivery, tell};
pub use state::{RefusedState, StateDelivery, StateProgress};

use crate::clock;
use crate::control_plane::{CallError, ControlPlane};

/// Whose deliveries these are.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The job.
    pub job: JobId,
    /// Its credential.
    pub credential: Secret,
}

const RETRY_MIN: Millis = Millis(250);
const RETRY_MAX: Millis = Millis(15_000);

/// Waits before the next try of a call that failed for a reason that may pass.
async fn pause(failures: u32) {
    let random = u64::from_le_bytes(clock::random()[..8].try_into().unwrap_or_default());
    tokio::time::sleep(backoff::wait(RETRY_MIN, RETRY_MAX, failures, random).to_std()).await;
}

/// Repeats a call until it is answered with something that another try would not change.
async fn until_answered<T, F>(what: &str, mut call: impl FnMut() -> F) -> Result<T, CallError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let mut failures = 0;
    loop {
        match call().await {
            Err(error) if error.is_transient() => {
                if failures == 0 {
                    tracing::warn!(error = &error as &dyn std::error::Error, "{what} is delayed");
                }
                pause(failures).await;
                failures += 1;
            }
            answer => return answer,
        }
    }
}

/// How long the end of a delivery is waited for before it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
