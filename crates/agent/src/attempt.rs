//! One attempt's shell: carries out what the attempt machine decides, and tells it what happened.

mod actions;
mod adopt;
mod claim;
mod preface;
mod prepare;
mod relay;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use terrapool_agent_core::attempt::{Action, Attempt, Boottime, Event, State, step};
use terrapool_model::engine::Engine;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Offer, Progress, Verdict};
use terrapool_protocol::job::{Artifact, JobSpec, Limits, Outcome, SandboxNetwork, StateMark, Usage};
use terrapool_protocol::memory::MemoryCurve;
use terrapool_protocol::runner::{Egress, FromRunner, ToRunner};
use terrapool_protocol::secret::Secret;
use tokio::sync::{Notify, mpsc, watch};

use crate::clock::boottime;
use crate::control_plane::ControlPlane;
use crate::delivery::{ArtifactPiece, LogDelivery, Recipient, StateDelivery};
use crate::drivers::{Driver, Found, Place, WarmSandboxes, Working};
use crate::engines::Engines;
use crate::journal::{Journal, Record};
use crate::runner_link::{RunnerReceiver, RunnerSender};
use crate::schemas::SchemaCache;

/// What all attempts of an agent share.
#[derive(Debug)]
pub struct Shared {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The agent's own way out, for sandboxes whose pool says so.
    pub egress: Egress,
    /// The container engine.
    pub driver: Arc<Driver>,
    /// Warm sandboxes.
    pub warm: Arc<WarmSandboxes>,
    /// Engines.
    pub engines: Arc<Engines>,
    /// Provider schemas.
    pub schemas: Arc<SchemaCache>,
    /// The journal.
    pub journal: Arc<Journal>,
    /// The session of this process, once it has registered.
    pub session: watch::Sender<Option<Session>>,
    /// Wakes the sync loop: what it would report has changed.
    pub changed: Notify,
}

/// What a registration gave this process.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// Its credential.
    pub token: Secret,
}

/// What the sync loop tells an attempt.
#[derive(Debug, Clone)]
pub enum Word {
    /// A sync that was sent then named the attempt and was answered.
    Verdict {
        /// When it was sent.
        sent: Boottime,
        /// What it said.
        verdict: Verdict,
    },
    /// The agent wants to end.
    AgentEnds,
}

/// The sync loop's end of an attempt.
#[derive(Debug)]
pub struct Handle {
    /// The attempt, as it stands.
    pub attempt: watch::Receiver<Attempt>,
    /// Memory in MiB that its sandbox holds.
    pub memory_mb: u64,
    /// CPU that its sandbox holds, in thousandths of a processor.
    pub cpu_millis: u64,
    /// To the attempt.
    pub words: mpsc::UnboundedSender<Word>,
}

/// What background tasks of an attempt report.
enum Report {
    Prepared(Box<prepare::Ready>),
    /// The sandbox was found, with the position from which its log is heard; or it was not.
    Searched(Option<Box<(Found, u64)>>),
    /// Its newest state is on its sandbox's volume only.
    StateRemains,
    Event(Event),
}

/// How the runner said the job ended.
struct RunnerEnd {
    outcome: Outcome,
    log_size: u64,
    log_sha256: String,
    state: Option<StateMark>,
    artifacts: Vec<Artifact>,
    schemas_key: Option<String>,
    usage: Usage,
    memory: Option<MemoryCurve>,
    secrets: Vec<Secret>,
}

struct Shell {
    shared: Arc<Shared>,
    attempt: Attempt,
    snapshot: watch::Sender<Attempt>,
    reports: mpsc::UnboundedSender<Report>,
    credential: Option<Secret>,
    spec: Option<JobSpec>,
    /// What was told before there was a runner; shared with the preparing task.
    preface: preface::Preface,
    /// Image that the offer named.
    image: Option<String>,
    /// What the offer lets its sandbox reach.
    network: SandboxNetwork,
    memory_mb: u64,
    engine: Option<(Engine, String)>,
    /// Shared with the preparing task, so that a sandbox it was making can be removed.
    place: Arc<Mutex<Option<Place>>>,
    preparing: Option<tokio::task::JoinHandle<()>>,
    searching: Option<tokio::task::JoinHandle<()>>,
    delivering: Option<tokio::task::JoinHandle<()>>,
    telling: Option<tokio::task::JoinHandle<()>>,
    runner: Option<RunnerSender>,
    frames: Option<RunnerReceiver>,
    log: Option<LogDelivery>,
    state: Option<StateDelivery>,
    pieces: Option<mpsc::Sender<ArtifactPiece>>,
    /// What the sandbox asks the control plane for.
    relay: relay::Relay,
    /// Whether the engine phase was executed, as far as the runner said.
    marker: bool,
    /// An earlier process journaled the start: where nothing is left that tells, it counts as executed.
    assumed_started: bool,
    /// An earlier process began it, and where its sandbox stands is not known yet.
    resumed: bool,
    end: Option<RunnerEnd>,
    /// When this process took it up, and how long it then took until a sandbox had it.
    begun: Instant,
    sandbox_ms: Option<u64>,
    /// What was forwarded of the log, for an end that the runner does not report.
    forwarded: (u64, Sha256),
    last_state: Option<StateMark>,
    /// Keeps the container engine's housekeeping away while the job is worked on.
    working: Option<Working>,
}

/// Starts an attempt at an offered job.
pub fn start(shared: Arc<Shared>, offer: Offer, attempt: Attempt, hold: Millis) -> Handle {
    let memory_mb = offer.limits.memory_mb;
    let (mut handle, mut shell, inbox) = open(shared, attempt, memory_mb);
    handle.cpu_millis = offer.limits.cpu_millis;
    shell.image.clone_from(&offer.image);
    shell.network = offer.network;
    tokio::spawn(async move { shell.run_offer(offer, hold, inbox).await });
    handle
}

/// Takes up an attempt of an earlier process of this agent.
pub fn resume(shared: Arc<Shared>, record: Record) -> Handle {
    let mut attempt = Attempt::new(
        record.job.clone(),
        record.generation,
        record.attempt.clone(),
        record.phase,
        record.incarnation,
        boottime(),
    );
    attempt.times = record.times;
    attempt.state = adopt::state_of(&record);
    let (handle, shell, inbox) = open(shared, attempt, record.memory_mb);
    tokio::spawn(async move { shell.run_resumed(record, inbox).await });
    handle
}

type Inbox = (mpsc::UnboundedReceiver<Word>, mpsc::UnboundedReceiver<Report>);

fn open(shared: Arc<Shared>, attempt: Attempt, memory_mb: u64) -> (Handle, Shell, Inbox) {
    let (snapshot, seen) = watch::channel(attempt.clone());
    let (words, words_inbox) = mpsc::unbounded_channel();
    let (reports, reports_inbox) = mpsc::unbounded_channel();
    let working = Some(shared.warm.working());
    let shell = Shell {
        shared,
        working,
        attempt,
        snapshot,
        reports,
        credential: None,
        spec: None,
        preface: preface::Preface::default(),
        image: None,
        network: SandboxNetwork::default(),
        memory_mb,
        engine: None,
        place: Arc::default(),
        preparing: None,
        searching: None,
        delivering: None,
        telling: None,
        runner: None,
        frames: None,
        log: None,
        state: None,
        pieces: None,
        relay: relay::Relay::default(),
        marker: false,
        assumed_started: false,
        resumed: false,
        end: None,
        begun: Instant::now(),
        sandbox_ms: None,
        forwarded: (0, Sha256::new()),
        last_state: None,
    };
    (
        Handle {
            attempt: seen,
            memory_mb,
            // What an earlier process has begun does not say.
            cpu_millis: Limits::DEFAULT.cpu_millis,
            words,
        },
        shell,
        (words_inbox, reports_inbox),
    )
}

impl Shell {
    fn place(&self) -> Option<Place> {
        self.place
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn set_place(&self, place: Option<Place>) {
        *self
            .place
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = place;
    }

    fn recipient(&self) -> Option<Recipient> {
        Some(Recipient {
            control_plane: self.shared.control_plane.clone(),
            job: self.attempt.job.clone(),
            credential: self.credential.clone()?,
        })
    }

    fn publish(&self) {
        let held = self.snapshot.borrow().holds_slot();
        self.snapshot.send_replace(self.attempt.clone());
        if held && !self.attempt.holds_slot() {
            self.shared.changed.notify_one();
        }
    }

    async fn run(mut self, (mut words, mut reports): Inbox) {
        loop {
            if matches!(self.attempt.state, State::Done | State::Dropped) {
                return;
            }
            let next_look = self.next_look();
            tokio::select! {
                Some(report) = reports.recv() => self.take(report).await,
                Some(word) = words.recv() => match word {
                    Word::Verdict { sent, verdict } => self.apply(Event::Verdict { sent, verdict }).await,
                    Word::AgentEnds => self.apply(Event::AgentEnds).await,
                },
                frame = next_frame(self.frames.as_mut()) => match frame {
                    Some((message, body)) => self.hear(message, body).await,
                    None => self.lost_link(),
                },
                () = tokio::time::sleep(next_look) => self.apply(Event::Tick).await,
            }
        }
    }

    /// Time until something may be due by itself.
    fn next_look(&self) -> Duration {
        let now = boottime();
        let contact = self.attempt.remaining_contact(now).unwrap_or(Millis(60_000));
        let start = match (&self.attempt.state, self.attempt.times) {
            (State::Starting { sent }, Some(times)) => {
                Millis(times.start_window.0.saturating_sub(now.since(*sent).0))
            }
            _ => Millis(60_000),
        };
        // A suspended machine does not advance this timer: look once a second at least while something is due soon.
        Millis(contact.0.min(start.0).clamp(20, 1000)).to_std()
    }

    async fn take(&mut self, report: Report) {
        match report {
            Report::Event(event) => self.apply(event).await,
            Report::Searched(found) => self.searched(found).await,
            Report::StateRemains => self.leave_volumes().await,
            Report::Prepared(ready) => {
                self.engine = Some(ready.engine);
                self.sandbox_ms = u64::try_from(self.begun.elapsed().as_millis()).ok();
                if matches!(self.attempt.state, State::Claimed) {
                    self.attach(ready.sender, ready.receiver, 0);
                    let remaining = self.attempt.remaining_contact(boottime());
                    self.tell(&ToRunner::Renew { remaining }).await;
                } else {
                    // Given back meanwhile: what this runner prints is not delivered.
                    self.runner = Some(ready.sender);
                    self.frames = Some(ready.receiver);
                }
                self.apply(Event::HandedOver).await;
            }
        }
    }

    async fn tell(&self, message: &ToRunner) {
        if let Some(runner) = &self.runner {
            // A runner that is gone is noticed by its stream's end.
            let _ = runner.send(message).await;
        }
    }

    async fn hear(&mut self, message: FromRunner, body: Vec<u8>) {
        match message {
            FromRunner::Ready { .. } => {}
            FromRunner::Prepared => {
                if matches!(self.attempt.state, State::Preparing) {
                    self.apply(Event::Prepared).await;
                }
            }
            FromRunner::Started => {
                self.marker = true;
                self.shared.warm.refill_when_quiet();
                self.apply(Event::EngineStarted).await;
            }
            FromRunner::Log { offset } => {
                let known = usize::try_from(self.forwarded.0.saturating_sub(offset)).unwrap_or(usize::MAX);
                if let Some(new) = body.get(known..).filter(|_| offset <= self.forwarded.0) {
                    self.forwarded.0 += new.len() as u64;
                    self.forwarded.1.update(new);
                }
                if let Some(log) = &self.log {
                    log.push(offset, body);
                }
            }
            FromRunner::State { mark } => {
                self.last_state = Some(mark.clone());
                if let Some(state) = &self.state {
                    state.push(mark, body);
                }
            }
            FromRunner::Request {
                request,
                method,
                path,
                headers,
                credential,
            } => {
                let asked = relay::Asked {
                    method,
                    path,
                    headers,
                    credential,
                    body,
                };
                if let (Some(runner), Some(own)) = (self.runner.clone(), self.credential.clone()) {
                    let job = (self.shared.control_plane.clone(), self.attempt.job.clone(), own);
                    self.relay.begin(request, asked, job, runner);
                }
            }
            FromRunner::More { request } => self.relay.more(request),
            FromRunner::Close { request } => self.relay.close(request),
            FromRunner::ArtifactData { name, last, .. } => {
                if let Some(pieces) = &self.pieces {
                    let _ = pieces
                        .send(ArtifactPiece {
                            name,
                            last,
                            bytes: body,
                        })
                        .await;
                }
            }
            FromRunner::Progress { usage, memory } => {
                let usage = Usage {
                    sandbox_ms: self.sandbox_ms,
                    ..usage
                };
                self.tell_progress(Progress { usage, memory });
            }
            FromRunner::Finished {
                outcome,
                log_size,
                log_sha256,
                state,
                artifacts,
                schemas_key,
                usage,
                memory,
                secrets,
            } => {
                if self.end.is_none() {
                    let end = RunnerEnd {
                        outcome: outcome.clone(),
                        log_size,
                        log_sha256,
                        state,
                        artifacts,
                        schemas_key,
                        usage,
                        memory,
                        secrets,
                    };
                    self.end = Some(end);
                    self.apply(Event::Ended {
                        outcome,
                        marker: self.marker,
                    })
                    .await;
                }
            }
        }
    }

    /// Tells the control plane what was used so far, unless it is still being told what was before.
    fn tell_progress(&mut self, progress: Progress) {
        let told = self
            .telling
            .as_ref()
            .is_none_or(tokio::task::JoinHandle::is_finished);
        let Some(to) = self.recipient().filter(|_| told && self.end.is_none()) else {
            return;
        };
        self.telling = Some(tokio::spawn(async move {
            let _ = to
                .control_plane
                .put_progress(&to.credential, &to.job, &progress)
                .await;
        }));
    }

    async fn apply(&mut self, event: Event) {
        match step(&self.attempt, event, boottime()) {
            Ok((next, actions)) => {
                let journaled_first = matches!(actions.first(), Some(Action::Journal));
                self.attempt = next;
                // What is reported must not run ahead of the journal.
                if !journaled_first {
                    self.publish();
                }
                self.perform(actions, None).await;
            }
            Err(unexpected) => tracing::debug!(%unexpected, "ignored"),
        }
    }

    async fn journal(&self) -> Result<(), ()> {
        let record = Record {
            credential: self.credential.clone(),
            place: self.place(),
            image: self.image.clone(),
            network: self.network,
            memory_mb: self.memory_mb,
            ..Record::of(&self.attempt)
        };
        let journal = Arc::clone(&self.shared.journal);
        let written = tokio::task::spawn_blocking(move || journal.append(&record)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the journal could not be written"
                );
                Err(())
            }
            Err(_) => Err(()),
        }
    }
}

async fn next_frame(frames: Option<&mut RunnerReceiver>) -> Option<(FromRunner, Vec<u8>)> {
    match frames {
        Some(frames) => frames.next().await,
        None => std::future::pending().await,
    }
}
