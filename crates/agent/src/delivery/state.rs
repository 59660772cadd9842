//! Copies of the state: only the newest matters.

use bytes::Bytes;
use terrapool_protocol::job::StateMark;
use terrapool_protocol::runner::ToRunner;
use tokio::sync::watch;

use super::{Recipient, until_answered};
use crate::runner_link::RunnerSender;

/// What became of the copies so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateProgress {
    /// The copy that the control plane took last.
    pub taken: Option<StateMark>,
    /// The copy that it refused since, for a reason that another try would not change.
    pub refused: Option<RefusedState>,
}

/// A copy of the state that the control plane does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedState {
    /// Which one.
    pub mark: StateMark,
    /// Its size in bytes.
    pub size: u64,
    /// Why, as the control plane said.
    pub reason: String,
}

impl StateProgress {
    /// Whether a copy has been decided on.
    pub fn has_decided(&self, mark: &StateMark) -> bool {
        let taken = self
            .taken
            .as_ref()
            .is_some_and(|taken| taken.sha256 == mark.sha256);
        taken || self.refusal_of(mark).is_some()
    }

    /// The refusal of a copy.
    pub fn refusal_of(&self, mark: &StateMark) -> Option<&RefusedState> {
        self.refused
            .as_ref()
            .filter(|refused| refused.mark.sha256 == mark.sha256)
    }
}

/// Delivers one job's states in the background.
#[derive(Debug)]
pub struct StateDelivery {
    newest: watch::Sender<Option<(StateMark, Bytes)>>,
    progress: watch::Receiver<StateProgress>,
}

impl StateDelivery {
    /// Starts.
    pub fn start(recipient: Recipient, runner: RunnerSender) -> Self {
        let (newest, queue) = watch::channel(None);
        let (decided, progress) = watch::channel(StateProgress::default());
        tokio::spawn(run(recipient, runner, queue, decided));
        Self { newest, progress }
    }

    /// Takes a copy; one that has not been sent yet is replaced.
    pub fn push(&self, mark: StateMark, bytes: Vec<u8>) {
        self.newest.send_replace(Some((mark, bytes.into())));
    }

    /// What became of the copies so far.
    pub fn progress(&self) -> watch::Receiver<StateProgress> {
        self.progress.clone()
    }
}

async fn run(
    recipient: Recipient,
    runner: RunnerSender,
    mut queue: watch::Receiver<Option<(StateMark, Bytes)>>,
    decided: watch::Sender<StateProgress>,
) {
    let Recipient {
        control_plane,
        job,
        credential,
    } = recipient;
    while queue.changed().await.is_ok() {
        let Some((mark, bytes)) = queue.borrow_and_update().clone() else {
            continue;
        };
        let answer = until_answered("a copy of the state", || {
            control_plane.put_state(&credential, &job, &mark, bytes.clone())
        })
        .await;
        match answer {
            Ok(stored) => {
                tracing::debug!(%job, serial = mark.serial, fate = ?stored.fate, "a copy of the state was delivered");
                decided.send_replace(StateProgress {
                    taken: Some(mark.clone()),
                    refused: None,
                });
                let _ = runner.send(&ToRunner::StateTaken { sha256: mark.sha256 }).await;
            }
            // The next one may be smaller.
            Err(error) => {
                tracing::error!(%job, error = &error as &dyn std::error::Error, "a copy of the state was refused");
                let sha256 = mark.sha256.clone();
                let refused = RefusedState {
                    mark,
                    size: bytes.len() as u64,
                    reason: error.to_string(),
                };
                decided.send_modify(|progress| progress.refused = Some(refused));
                // It waits for that before it sends another one.
                let _ = runner.send(&ToRunner::StateTaken { sha256 }).await;
            }
        }
    }
}
