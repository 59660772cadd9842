//! Artifacts: fetched from the runner, redacted here, uploaded.

use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest as _, Sha256};
use terrapool_protocol::job::{Artifact, ArtifactName, ChangeCounts};
use terrapool_protocol::mask::Masker;
use terrapool_protocol::runner::ToRunner;
use terrapool_protocol::secret::Secret;
use tokio::sync::mpsc;

use super::{Recipient, pause, until_answered};
use crate::control_plane::CallError;
use crate::engines::hex;
use crate::redaction::redact;
use crate::runner_link::RunnerSender;
use crate::schemas::SchemaCache;

/// A piece of an artifact, as the runner sent it.
#[derive(Debug)]
pub struct ArtifactPiece {
    /// Of which artifact.
    pub name: ArtifactName,
    /// Whether it is the last one.
    pub last: bool,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What was uploaded.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivered {
    /// The artifacts, as the finish names them.
    pub artifacts: Vec<Artifact>,
    /// What the plan would change.
    pub counts: Option<ChangeCounts>,
}

/// Artifacts that cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArtifactError {
    /// The sandbox went away before all was fetched.
    #[error("the sandbox went away before its artifacts were fetched")]
    Gone,
    /// The control plane refused.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Fetches, redacts and uploads what a job has left.
pub(super) async fn deliver(
    recipient: &Recipient,
    runner: &RunnerSender,
    pieces: &mut mpsc::Receiver<ArtifactPiece>,
    left: &[Artifact],
    secrets: &[Secret],
    schemas_key: Option<&str>,
    schemas: &SchemaCache,
) -> Result<Delivered, ArtifactError> {
    let mut delivered = Delivered::default();
    let mut plan = None;
    let mut new_schemas = None;
    for artifact in left {
        match artifact.name {
            ArtifactName::PlanJson => plan = Some((artifact.clone(), fetch(runner, pieces, artifact).await?)),
            ArtifactName::ProviderSchemas => new_schemas = Some(fetch(runner, pieces, artifact).await?),
            ArtifactName::PlanArchive | ArtifactName::PlanRedacted => {}
        }
    }
    if let (Some(key), Some(bytes)) = (schemas_key, &new_schemas) {
        schemas.put(key, bytes);
    }
    let documents = async {
        let Some((artifact, plan)) = plan else {
            return Ok(None);
        };
        let known = new_schemas
            .or_else(|| schemas.get(schemas_key?).map(Bytes::from))
            .unwrap_or_else(|| Bytes::from_static(b"{}"));
        let upload_plan = upload(recipient, &artifact, plan.clone());
        let upload_redacted = async {
            // Large plans take a while to parse.
            let masker = Masker::new(secrets.iter().map(Secret::expose));
            let made = tokio::task::spawn_blocking(move || redact(&plan, &known, &masker)).await;
            let Ok(Ok((redacted, counts))) = made else {
                tracing::warn!(job = %recipient.job, "the plan could not be redacted; clients will not render it");
                return Ok(None);
            };
            let redacted = Bytes::from(redacted);
            let artifact = Artifact {
                name: ArtifactName::PlanRedacted,
                size: redacted.len() as u64,
                sha256: hex(&Sha256::digest(&redacted)),
            };
            upload(recipient, &artifact, redacted).await?;
            Ok::<_, CallError>(Some((artifact, counts)))
        };
        let ((), redacted) = tokio::try_join!(upload_plan, upload_redacted)?;
        Ok::<_, CallError>(Some((artifact, redacted)))
    };
    let archive = async {
        for artifact in left
            .iter()
            .filter(|artifact| artifact.name == ArtifactName::PlanArchive)
        {
            stream_up(recipient, runner, pieces, artifact).await?;
        }
        Ok::<_, ArtifactError>(())
    };
    let (documents, archive) = tokio::join!(documents, archive);
    archive?;
    if let Some((plan, redacted)) = documents? {
        delivered.artifacts.push(plan);
        if let Some((artifact, counts)) = redacted {
            delivered.artifacts.push(artifact);
            delivered.counts = Some(counts);
        }
    }
    delivered.artifacts.extend(
        left.iter()
            .filter(|artifact| artifact.name == ArtifactName::PlanArchive)
            .cloned(),
    );
    Ok(delivered)
}

async fn upload(recipient: &Recipient, artifact: &Artifact, bytes: Bytes) -> Result<(), CallError> {
    let Recipient {
        control_plane,
        job,
        credential,
    } = recipient;
    until_answered("an artifact", || {
        control_plane.put_artifact(credential, job, artifact, bytes.clone().into())
    })
    .await
}

/// Fetches an artifact whole.
async fn fetch(
    runner: &RunnerSender,
    pieces: &mut mpsc::Receiver<ArtifactPiece>,
    artifact: &Artifact,
) -> Result<Bytes, ArtifactError> {
    runner
        .send(&ToRunner::Fetch { name: artifact.name })
        .await
        .map_err(|_| ArtifactError::Gone)?;
    let mut bytes = Vec::with_capacity(usize::try_from(artifact.size).unwrap_or_default());
    loop {
        let piece = pieces.recv().await.ok_or(ArtifactError::Gone)?;
        if piece.name != artifact.name {
            continue;
        }
        bytes.extend_from_slice(&piece.bytes);
        if piece.last {
            return Ok(bytes.into());
        }
    }
}

/// Uploads an artifact as it comes from the runner; after a failure it is fetched again.
async fn stream_up(
    recipient: &Recipient,
    runner: &RunnerSender,
    pieces: &mut mpsc::Receiver<ArtifactPiece>,
    artifact: &Artifact,
) -> Result<(), ArtifactError> {
    let mut failures = 0;
    loop {
        runner
            .send(&ToRunner::Fetch { name: artifact.name })
            .await
            .map_err(|_| ArtifactError::Gone)?;
        let (sender, receiver) = mpsc::channel::<Bytes>(8);
        let body = stream::unfold(receiver, |mut receiver| async move {
            Some((Ok::<_, std::io::Error>(receiver.recv().await?), receiver))
        });
        let Recipient {
            control_plane,
            job,
            credential,
        } = recipient;
        let put = control_plane.put_artifact(credential, job, artifact, reqwest::Body::wrap_stream(body));
        let pump = async {
            let mut sender = Some(sender);
            loop {
                let Some(piece) = pieces.recv().await else {
                    return Err(ArtifactError::Gone);
                };
                if piece.name != artifact.name {
                    continue;
                }
                if let Some(open) = &sender
                    && open.send(piece.bytes.into()).await.is_err()
                {
                    // The request has failed; the rest is still taken from the runner.
                    sender = None;
                }
                if piece.last {
                    return Ok(());
                }
            }
        };
        let (put, pumped) = tokio::join!(put, pump);
        match put {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => {
                pumped?;
                pause(failures).await;
                failures += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
