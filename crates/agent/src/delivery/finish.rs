//! The end of a job: reported once everything has arrived.

use std::sync::Arc;

use sha2::Digest as _;
use terrapool_model::engine::Engine;
use terrapool_model::id::AttemptId;
use terrapool_protocol::agent::Finish;
use terrapool_protocol::job::{Artifact, FailureReason, Outcome, StateMark, Usage};
use terrapool_protocol::memory::MemoryCurve;
use terrapool_protocol::runner::ToRunner;
use terrapool_protocol::secret::Secret;
use tokio::sync::{mpsc, watch};

use super::artifacts::{self, ArtifactError, ArtifactPiece, Delivered};
use super::{LOOK_AGAIN, Recipient, RefusedState, StateProgress, until_answered};
use crate::control_plane::CallError;
use crate::engines::hex;
use crate::runner_link::RunnerSender;
use crate::schemas::SchemaCache;

/// What is known of a job's end.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of the whole log.
    pub log_size: u64,
    /// SHA-256 of the whole log.
    pub log_sha256: String,
    /// The newest state.
    pub state: Option<StateMark>,
    /// What it left.
    pub artifacts: Vec<Artifact>,
    /// Key of its provider schemas.
    pub schemas_key: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// Its memory over time.
    pub memory: Option<MemoryCurve>,
    /// Values that nothing may show that is made of its artifacts.
    pub secrets: Vec<Secret>,
    /// The engine and the digest of its binary.
    pub engine: Option<(Engine, String)>,
}

impl Ending {
    fn finish(&self, delivered: &Delivered) -> Finish {
        Finish {
            generation: self.generation,
            attempt: self.attempt.clone(),
            outcome: self.outcome.clone(),
            log_size: self.log_size,
            log_sha256: self.log_sha256.clone(),
            state: self.state.clone(),
            artifacts: delivered.artifacts.clone(),
            engine_sha256: self.engine.as_ref().map(|(_, sha256)| sha256.clone()),
            engine: self.engine.as_ref().map(|(engine, _)| engine.clone()),
            counts: delivered.counts,
            usage: self.usage,
            memory: self.memory.clone(),
        }
    }
}

/// Where the deliveries of log and state stand.
#[derive(Debug, Clone)]
pub struct Progress {
    /// How far the control plane has the log.
    pub log: watch::Receiver<u64>,
    /// What became of the state's copies.
    pub state: watch::Receiver<StateProgress>,
}

/// How far a delivery came when nothing more can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The control plane has everything.
    Complete,
    /// The newest state is on the sandbox's volume, and nowhere else.
    StateRemains,
}

/// Delivers what is missing, then reports the end until it is answered. `place` is where the state is.
pub async fn deliver(
    recipient: Recipient,
    runner: RunnerSender,
    mut progress: Progress,
    mut pieces: mpsc::Receiver<ArtifactPiece>,
    mut ending: Ending,
    schemas: Arc<SchemaCache>,
    place: &str,
) -> Delivery {
    let log_size = ending.log_size;
    let state = ending.state.clone();
    let log_arrived = async {
        // An error means that the delivery gave up; the finish will say what is missing.
        let _ = progress.log.wait_for(|received| *received >= log_size).await;
    };
    let state_arrived = async {
        if let Some(mark) = &state {
            let _ = progress
                .state
                .wait_for(|progress| progress.has_decided(mark))
                .await;
        }
    };
    let files = artifacts::deliver(
        &recipient,
        &runner,
        &mut pieces,
        &ending.artifacts,
        &ending.secrets,
        ending.schemas_key.as_deref(),
        &schemas,
    );
    let ((), (), files) = tokio::join!(log_arrived, state_arrived, files);
    let delivered = match files {
        Ok(delivered) => delivered,
        Err(error) => {
            tracing::error!(job = %recipient.job, error = &error as &dyn std::error::Error, "artifacts were not delivered");
            if matches!(ending.outcome, Outcome::Succeeded { .. }) {
                let message = match error {
                    ArtifactError::Gone => "the sandbox went away before the plan was delivered".to_owned(),
                    ArtifactError::Call(error) => format!("the plan could not be delivered: {error}"),
                };
                ending.outcome = Outcome::Failed {
                    reason: FailureReason::Internal,
                    message,
                };
            }
            Delivered::default()
        }
    };
    report_until_complete(&recipient, &runner, &mut progress, ending, &delivered, place).await
}

impl Ending {
    /// The end of an apply whose newest state is not taken: the run must not seem to have succeeded, and who reads why
    /// has to know where the state is.
    fn without_state(self, refused: &RefusedState, taken: Option<StateMark>, place: &str) -> Self {
        let RefusedState { mark, size, reason } = refused;
        let serial = mark
            .serial
            .map_or_else(String::new, |serial| format!(" {serial}"));
        let earlier = match &self.outcome {
            Outcome::Failed { message, .. } | Outcome::EngineLost { message } => format!("{message}. "),
            Outcome::Canceled => "the apply was canceled. ".to_owned(),
            Outcome::Succeeded { .. } | Outcome::NeverStarted { .. } => String::new(),
        };
        let message = format!(
            "{earlier}The control plane did not take the newest state{serial} of {size} bytes ({reason}). The agent's \
             host keeps it for seven days in {place}: let the control plane take it, then push it from there"
        );
        Self {
            outcome: Outcome::Failed {
                reason: FailureReason::Limit,
                message,
            },
            state: taken,
            ..self
        }
    }
}

async fn report_until_complete(
    recipient: &Recipient,
    runner: &RunnerSender,
    progress: &mut Progress,
    mut ending: Ending,
    delivered: &Delivered,
    place: &str,
) -> Delivery {
    let mut delivery = Delivery::Complete;
    loop {
        let decided = progress.state.borrow_and_update().clone();
        if let Some(refused) = ending.state.as_ref().and_then(|mark| decided.refusal_of(mark)) {
            tracing::error!(job = %recipient.job, place, "the newest state stays on this host");
            delivery = Delivery::StateRemains;
            ending = ending.without_state(refused, decided.taken.clone(), place);
        }
        let body = ending.finish(delivered);
        let Recipient {
            control_plane,
            job,
            credential,
        } = recipient;
        match until_answered("the end of a job", || {
            control_plane.finish(credential, job, &body)
        })
        .await
        {
            Ok(answer) => {
                tracing::info!(%job, accepted = answer.accepted, "the end of a job was delivered");
                return delivery;
            }
            Err(CallError::Incomplete(missing)) => {
                tracing::info!(%job, ?missing, "the control plane still misses something");
                let _ = runner
                    .send(&ToRunner::LogFrom {
                        offset: missing.log.received,
                    })
                    .await;
                if missing.state_missing {
                    // It was taken, but by a control plane that was replaced by its backup since.
                    let _ = runner.send(&ToRunner::StateAgain).await;
                    let taken = tokio::time::timeout(LOOK_AGAIN, progress.state.changed()).await;
                    if matches!(taken, Ok(Err(_))) {
                        // Its delivery has given up: asking at once again would change nothing.
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                }
                let arrived = progress.log.wait_for(|received| *received >= body.log_size);
                let _ = tokio::time::timeout(LOOK_AGAIN, arrived).await;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            Err(error) => {
                tracing::error!(%job, error = &error as &dyn std::error::Error, "the end of a job was refused");
                let taken = progress.state.borrow().taken.clone();
                let has_all = ending.state.is_none() || ending.state == taken;
                return if has_all { delivery } else { Delivery::StateRemains };
            }
        }
    }
}

/// Reports an end that no runner reported. What went wrong is written to the log, where people look for it.
pub async fn report_without_runner(recipient: Recipient, mut ending: Ending, preface: &str) {
    let message = match &ending.outcome {
        Outcome::Failed { message, .. } | Outcome::EngineLost { message } => message.clone(),
        Outcome::Succeeded { .. } | Outcome::Canceled | Outcome::NeverStarted { .. } => String::new(),
    };
    let text = match (preface, message.as_str()) {
        (preface, "") => preface.to_owned(),
        // Clients drop the first three lines of an apply's log.
        ("", message) => format!("\n\n\nError: {message}\n"),
        (preface, message) => format!("{preface}\nError: {message}\n"),
    };
    if !text.is_empty() && ending.log_size == 0 {
        ending.log_size = text.len() as u64;
        ending.log_sha256 = hex(&sha2::Sha256::digest(&text));
        let Recipient {
            control_plane,
            job,
            credential,
        } = &recipient;
        let bytes = bytes::Bytes::from(text);
        let appended = until_answered("the log", || {
            control_plane.append_log(credential, job, 0, bytes.clone())
        })
        .await;
        if let Err(error) = appended {
            tracing::warn!(%job, error = &error as &dyn std::error::Error, "an error could not be put into the log");
        }
    }
    report(recipient, &ending).await;
}

async fn report(recipient: Recipient, ending: &Ending) {
    let body = ending.finish(&Delivered::default());
    let Recipient {
        control_plane,
        job,
        credential,
    } = &recipient;
    let answer = until_answered("the end of a job", || {
        control_plane.finish(credential, job, &body)
    })
    .await;
    if let Err(error) = answer {
        tracing::warn!(%job, error = &error as &dyn std::error::Error, "the end of a job was refused");
    }
}

/// Gives an assignment back: nothing was started.
pub async fn give_back(recipient: Recipient, generation: u64, attempt: AttemptId, message: String) {
    let empty = hex(&sha2::Sha256::digest(b""));
    let ending = Ending {
        generation,
        attempt,
        outcome: Outcome::NeverStarted { message },
        log_size: 0,
        log_sha256: empty,
        state: None,
        artifacts: Vec::new(),
        schemas_key: None,
        usage: Usage::default(),
        memory: None,
        secrets: Vec::new(),
        engine: None,
    };
    report(recipient, &ending).await;
}
