//! Copies of the state: only the newest matters.

use bytes::Bytes;
use terrapool_protocol::job::StateMark;
use terrapool_protocol::runner::ToRunner;
use tokio::sync::watch;

use super::{Recipient, until_answered};
use crate::runner_link::RunnerSender;

/// Delivers one job's states in the background.
#[derive(Debug)]
pub struct StateDelivery {
    newest: watch::Sender<Option<(StateMark, Bytes)>>,
    delivered: watch::Receiver<Option<String>>,
}

impl StateDelivery {
    /// Starts.
    pub fn start(recipient: Recipient, runner: RunnerSender) -> Self {
        let (newest, queue) = watch::channel(None);
        let (done, delivered) = watch::channel(None);
        tokio::spawn(run(recipient, runner, queue, done));
        Self { newest, delivered }
    }

    /// Takes a copy; one that has not been sent yet is replaced.
    pub fn push(&self, mark: StateMark, bytes: Vec<u8>) {
        self.newest.send_replace(Some((mark, bytes.into())));
    }

    /// SHA-256 of the copy that the control plane took last.
    pub fn delivered(&self) -> watch::Receiver<Option<String>> {
        self.delivered.clone()
    }
}

async fn run(
    recipient: Recipient,
    runner: RunnerSender,
    mut queue: watch::Receiver<Option<(StateMark, Bytes)>>,
    done: watch::Sender<Option<String>>,
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
                done.send_replace(Some(mark.sha256.clone()));
                let _ = runner.send(&ToRunner::StateTaken { sha256: mark.sha256 }).await;
            }
            Err(error) => {
                tracing::error!(%job, error = &error as &dyn std::error::Error, "a copy of the state was refused");
                return;
            }
        }
    }
}
