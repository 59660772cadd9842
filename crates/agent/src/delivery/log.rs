//! The log: pieces from the runner, appended at their offset.

use bytes::Bytes;
use terrapool_protocol::runner::ToRunner;
use tokio::sync::{mpsc, watch};

use super::{Recipient, until_answered};
use crate::control_plane::CallError;
use crate::runner_link::RunnerSender;

/// Bytes sent in one request at most.
const REQUEST: usize = 1 << 20;

/// Delivers one job's log in the background.
#[derive(Debug)]
pub struct LogDelivery {
    pieces: mpsc::UnboundedSender<(u64, Vec<u8>)>,
    received: watch::Receiver<u64>,
}

impl LogDelivery {
    /// Starts at the position from which the runner sends. It sends no more than its window ahead, so the queue is
    /// bounded.
    pub fn start(recipient: Recipient, runner: RunnerSender, from: u64) -> Self {
        let (pieces, queue) = mpsc::unbounded_channel();
        let (position, received) = watch::channel(from);
        tokio::spawn(run(recipient, runner, queue, position));
        Self { pieces, received }
    }

    /// Takes a piece.
    pub fn push(&self, offset: u64, bytes: Vec<u8>) {
        // The task ends early only when the credential is refused; then nothing can be delivered any more.
        let _ = self.pieces.send((offset, bytes));
    }

    /// How far the control plane has it.
    pub fn received(&self) -> watch::Receiver<u64> {
        self.received.clone()
    }
}

/// Delivers the beginning of a log, however much of it there is already, before a runner sends any. The runner sends it
/// again, so nothing is lost when this fails.
pub async fn tell(recipient: &Recipient, text: String) {
    let bytes = Bytes::from(text);
    let answer = until_answered("the log", || {
        recipient
            .control_plane
            .append_log(&recipient.credential, &recipient.job, 0, bytes.clone())
    })
    .await;
    if let Err(error) = answer {
        tracing::debug!(job = %recipient.job, error = &error as &dyn std::error::Error, "the beginning of a log was refused");
    }
}

async fn run(
    recipient: Recipient,
    runner: RunnerSender,
    mut queue: mpsc::UnboundedReceiver<(u64, Vec<u8>)>,
    position: watch::Sender<u64>,
) {
    while let Some((offset, mut bytes)) = queue.recv().await {
        // What came in while the last request was under way goes into one.
        while bytes.len() < REQUEST {
            match queue.try_recv() {
                Ok((next, more)) if next == offset + bytes.len() as u64 => bytes.extend(more),
                // Sent again after a new connection: the control plane sorts out what it has.
                Ok((_, more)) if more.is_empty() => {}
                Ok((next, more)) => {
                    if !append(&recipient, &runner, &position, offset, std::mem::take(&mut bytes)).await {
                        return;
                    }
                    bytes = more;
                    if !append(&recipient, &runner, &position, next, std::mem::take(&mut bytes)).await {
                        return;
                    }
                    break;
                }
                Err(_) => break,
            }
        }
        if !bytes.is_empty() && !append(&recipient, &runner, &position, offset, bytes).await {
            return;
        }
    }
}

/// `false`: nothing more can be delivered.
async fn append(
    recipient: &Recipient,
    runner: &RunnerSender,
    position: &watch::Sender<u64>,
    offset: u64,
    bytes: Vec<u8>,
) -> bool {
    let bytes = Bytes::from(bytes);
    let Recipient {
        control_plane,
        job,
        credential,
    } = recipient;
    let answer = until_answered("the log", || {
        control_plane.append_log(credential, job, offset, bytes.clone())
    })
    .await;
    match answer {
        Ok(at) => {
            position.send_replace(at.received);
            // A runner that is gone needs no word; its sandbox's end is noticed elsewhere.
            let _ = runner.send(&ToRunner::LogTaken { offset: at.received }).await;
            true
        }
        // The control plane was restored, or lost its unsynced tail.
        Err(CallError::LogPosition(at)) => {
            position.send_replace(at.received);
            let _ = runner.send(&ToRunner::LogFrom { offset: at.received }).await;
            true
        }
        Err(error) => {
            tracing::error!(%job, error = &error as &dyn std::error::Error, "the log cannot be delivered");
            false
        }
    }
}
