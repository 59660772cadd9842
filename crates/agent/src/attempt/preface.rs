//! What a log begins with when its sandbox takes long to make: people see it at once, the runner's copy repeats it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use terrapool_model::engine::Engine;
use terrapool_protocol::runner::log_head;
use tokio::sync::{oneshot, watch};

use crate::delivery::{Recipient, tell};
use crate::drivers::PullProgress;

/// The beginning of a log, as far as the agent has written it.
#[derive(Debug, Clone, Default)]
pub(super) struct Preface(Arc<Mutex<String>>);

impl Preface {
    /// All of it.
    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a line. What was told is repeated by the runner, so it counts even when its delivery is cut off.
    pub(super) fn add(&self, engine: &Engine, line: &str) {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text.is_empty() {
            text.push_str(&log_head(engine));
        }
        text.push_str(line);
        text.push('\n');
    }

    /// Puts into the log, as it comes, what there is to tell of the pull of an image.
    pub(super) async fn follow(
        &self,
        mut pulls: watch::Receiver<Option<PullProgress>>,
        image: &str,
        engine: oneshot::Receiver<Engine>,
        recipient: &Recipient,
    ) -> Infallible {
        // Without an engine there is no log: the job fails.
        let Ok(engine) = engine.await else {
            return std::future::pending().await;
        };
        loop {
            let seen = pulls.borrow_and_update().clone();
            if let Some(progress) = seen.filter(|progress| progress.image == image) {
                self.add(&engine, &progress.line);
                tell(recipient, self.text()).await;
            }
            if pulls.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
