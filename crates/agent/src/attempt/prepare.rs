//! From a claimed job to a runner that has everything it needs.

use std::sync::Mutex;

use terrapool_agent_core::attempt::Event;
use terrapool_model::engine::Engine;
use terrapool_protocol::frame::CHUNK;
use terrapool_protocol::job::{FailureReason, JobSpec, Outcome, SandboxProxy};
use terrapool_protocol::runner::{Egress, ToRunner};
use tokio::sync::oneshot;

use super::Shared;
use super::preface::Preface;
use crate::control_plane::CallError;
use crate::delivery::Recipient;
use crate::drivers::{DriverError, Place, Sandbox};
use crate::engines::EngineError;
use crate::runner_link::{LinkClosed, RunnerReceiver, RunnerSender};

/// A sandbox that is being taken.
pub(super) type Pending = tokio::task::JoinHandle<Result<Sandbox, DriverError>>;

/// A runner that works on the job.
pub(super) struct Ready {
    pub(super) sender: RunnerSender,
    pub(super) receiver: RunnerReceiver,
    /// The engine and the digest of its binary.
    pub(super) engine: (Engine, String),
}

/// Why a job could not be handed to a sandbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("no sandbox could be made")]
    Sandbox(#[from] DriverError),
    #[error("the sandbox ended while it received its job")]
    Link(#[from] LinkClosed),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the job's input could not be fetched")]
    Bundle(#[from] CallError),
    #[error("the agent is ending")]
    Ending,
}

impl PrepareError {
    /// An engine or an image that cannot be had fails the run: another try would fail too. Everything else is this host's trouble,
    /// and the job is given back.
    pub(super) fn event(&self, message: String) -> Event {
        match self {
            Self::Engine(_) | Self::Sandbox(DriverError::Image { .. }) => Event::Ended {
                outcome: Outcome::Failed {
                    reason: FailureReason::Engine,
                    message,
                },
                marker: false,
            },
            Self::Sandbox(_) | Self::Link(_) | Self::Bundle(_) | Self::Ending => {
                Event::SandboxFailed { message }
            }
        }
    }
}

/// What is to be prepared, and who hears of it.
pub(super) struct Asked {
    pub(super) spec: JobSpec,
    /// Image that its offer named.
    pub(super) image: Option<String>,
    pub(super) recipient: Recipient,
}

pub(super) async fn prepare(
    shared: &Shared,
    Asked {
        spec,
        image,
        recipient,
    }: Asked,
    mut sandbox: Pending,
    place: &Mutex<Option<Place>>,
    preface: &Preface,
) -> Result<Ready, PrepareError> {
    let (known, engine_known) = oneshot::channel();
    let engine = async {
        let found = shared.engines.obtain(&spec.engine).await?;
        // Nobody waits for it where there is no image to pull.
        let _ = known.send(found.engine.clone());
        let path = shared.driver.offer_engine(&found).await?;
        Ok::<_, PrepareError>((found, path))
    };
    let bundle = async {
        shared
            .control_plane
            .bundle(&recipient.credential, &recipient.job)
            .await
            .map_err(PrepareError::from)
    };
    let made = async {
        let made = match (shared.driver.pulls(), &image) {
            (Some(pulls), Some(image)) => tokio::select! {
                made = &mut sandbox => made,
                never = preface.follow(pulls, image, engine_known, &recipient) => match never {},
            },
            _ => sandbox.await,
        };
        made.map_err(|_| PrepareError::Ending)
    };
    let (engine, bundle, made) = tokio::join!(engine, bundle, made);
    let mut sandbox = made??;
    *place.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sandbox.place());
    let (found, path) = engine?;
    let mut bundle = bundle?;
    if let Some(note) = sandbox.note.take() {
        preface.add(&found.engine, &note);
    }
    let name = format!("terrapool-{}-{}", spec.run, spec.phase.as_str());
    shared.driver.assign(&mut sandbox, spec.limits, &name).await?;
    let mut hosts = vec![spec.hostname.clone(), shared.control_plane.host()];
    hosts.dedup();
    let egress = match spec.proxy {
        SandboxProxy::None => Egress::default(),
        SandboxProxy::Agent => shared.egress.clone(),
    };
    let work = ToRunner::Work {
        hosts,
        egress,
        spec: Box::new(spec),
        engine_path: path,
        engine: found.engine.clone(),
        engine_sha256: found.sha256.clone(),
        engine_verified: true,
        known_schemas: shared.schemas.keys(),
        preface: preface.text(),
    };
    let link = sandbox.link;
    link.sender.send(&work).await?;
    while let Some(bytes) = bundle
        .chunk()
        .await
        .map_err(|error| CallError::Unavailable(error.to_string()))?
    {
        for piece in bytes.chunks(CHUNK) {
            link.sender.send_body(&ToRunner::Part, piece).await?;
        }
    }
    Ok(Ready {
        sender: link.sender,
        receiver: link.receiver,
        engine: (found.engine, found.sha256),
    })
}
