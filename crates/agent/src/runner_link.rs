//! The stream to the runner inside a sandbox.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use terrapool_protocol::frame::{self, Decoder};
use terrapool_protocol::runner::{FromRunner, ToRunner};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Mutex, mpsc};

/// The stream has ended, or does not carry frames.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the connection to the runner has ended")]
pub struct LinkClosed;

/// Frames to the runner. Cheap to clone; frames of one call are never mixed with those of another.
#[derive(Clone)]
pub struct RunnerSender {
    writer: Arc<Mutex<Pin<Box<dyn AsyncWrite + Send>>>>,
}

impl std::fmt::Debug for RunnerSender {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RunnerSender")
    }
}

impl RunnerSender {
    /// Sends a message without a body.
    ///
    /// # Errors
    /// [`LinkClosed`].
    pub async fn send(&self, message: &ToRunner) -> Result<(), LinkClosed> {
        self.send_body(message, &[]).await
    }

    /// Sends a message with a body.
    ///
    /// # Errors
    /// [`LinkClosed`].
    pub async fn send_body(&self, message: &ToRunner, body: &[u8]) -> Result<(), LinkClosed> {
        let bytes = frame::encode(message, body).map_err(|_| LinkClosed)?;
        let mut writer = self.writer.lock().await;
        writer.write_all(&bytes).await.map_err(|_| LinkClosed)?;
        writer.flush().await.map_err(|_| LinkClosed)
    }
}

/// Frames from the runner, in order. `None` when the stream has ended.
#[derive(Debug)]
pub struct RunnerReceiver {
    frames: mpsc::Receiver<(FromRunner, Vec<u8>)>,
}

impl RunnerReceiver {
    /// Whether nothing more will come, as far as is known without reading.
    pub fn has_ended(&self) -> bool {
        self.frames.is_closed()
    }

    /// The next message and its body.
    pub async fn next(&mut self) -> Option<(FromRunner, Vec<u8>)> {
        self.frames.recv().await
    }
}

/// Both directions of a stream to a runner.
#[derive(Debug)]
pub struct RunnerLink {
    /// To the runner.
    pub sender: RunnerSender,
    /// From the runner.
    pub receiver: RunnerReceiver,
}

/// Frames read ahead of whoever takes them.
const READ_AHEAD: usize = 16;

impl RunnerLink {
    /// Joins the two halves of a stream. A task reads ahead, so that a sender that waits for the runner never keeps
    /// the runner from being heard.
    pub fn new(
        input: Pin<Box<dyn AsyncWrite + Send>>,
        mut output: impl Stream<Item = Bytes> + Send + Unpin + 'static,
    ) -> Self {
        let (frames, receiver) = mpsc::channel(READ_AHEAD);
        tokio::spawn(async move {
            let mut decoder = Decoder::new();
            while let Some(bytes) = output.next().await {
                decoder.push(&bytes);
                loop {
                    match decoder.next::<FromRunner>() {
                        Ok(Some(frame)) => {
                            if frames.send(frame).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::error!(
                                error = &error as &dyn std::error::Error,
                                "the runner sent no frame"
                            );
                            return;
                        }
                    }
                }
            }
        });
        let sender = RunnerSender {
            writer: Arc::new(Mutex::new(input)),
        };
        Self {
            sender,
            receiver: RunnerReceiver { frames: receiver },
        }
    }
}
