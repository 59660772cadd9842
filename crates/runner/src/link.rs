//! The agent's connection: one at a time, resumable, with everything that was not taken sent again.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use terrapool_protocol::frame::{CHUNK, MAX_HEADER};
use terrapool_protocol::job::{ArtifactName, FailureReason, Outcome};
use terrapool_protocol::runner::{FromRunner, LOG_WINDOW, RunnerStage, ToRunner};
use terrapool_protocol::secret::Secret;

use crate::bundle::{Receiver, StateFile};
use crate::error::Failure;
use crate::frames;
use crate::job::{self, Work, artifact_path};
use crate::outcome;
use crate::remains;
use crate::shared::{Cause, LOG_PIECE, Shared, StateCopy};
use crate::state;
use crate::stop::DeadMan;
use crate::usage::ControlGroup;

/// Longest first message.
const LONGEST_HELLO: u32 = 64 << 10;

/// Time for the first message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that may be waiting for their first message. Processes of the sandbox can reach the socket too.
const STRANGERS: usize = 16;

/// Least time between two frames of log, unless there is enough for a whole one. Each costs everybody on its way to the
/// control plane a wakeup, which engines that print hundreds of lines a second would pay with their own speed. A line
/// after a silence goes at once.
const LOG_EACH: Duration = Duration::from_millis(50);

/// Accepts connections until the listener is shut down.
pub fn accept(shared: &Arc<Shared>, dead_man: &Arc<DeadMan>, listener: &UnixListener) {
    let strangers = Arc::new(AtomicUsize::new(0));
    let current = Arc::new(std::sync::Mutex::new(None));
    let mut number = 0;
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) if shared.status().released => return,
            Err(_) => {
                // Out of descriptors, most likely by what runs in the sandbox; it passes.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if strangers.fetch_add(1, Ordering::SeqCst) >= STRANGERS {
            strangers.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        // What counts as newer is the order of arrival, not of the first messages.
        number += 1;
        let connection = Connection {
            number,
            shared: Arc::clone(shared),
            dead_man: Arc::clone(dead_man),
            current: Arc::clone(&current),
        };
        let strangers = Arc::clone(&strangers);
        let spawned = thread::Builder::new().spawn(move || {
            let greeted = connection.greet(&stream);
            strangers.fetch_sub(1, Ordering::SeqCst);
            if let Some(greeted) = greeted {
                let _ = connection.serve(greeted, &stream);
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
        if spawned.is_err() {
            thread::sleep(Duration::from_millis(100));
        }
    }
}

struct Connection {
    number: u64,
    shared: Arc<Shared>,
    dead_man: Arc<DeadMan>,
    /// The stream of the connection that holds.
    current: Arc<std::sync::Mutex<Option<UnixStream>>>,
}

impl Connection {
    /// Reads the first message and, with the right key, takes the place of the connection before. Answers
    /// where the runner stood then.
    fn greet(&self, stream: &UnixStream) -> Option<RunnerStage> {
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut reader = stream;
        let (message, body) = frames::read_header(&mut reader, LONGEST_HELLO).ok()?;
        let ToRunner::Hello { key, log_from } = message else {
            return None;
        };
        frames::read_body(&mut reader, body, |_| {}).ok()?;
        stream.set_read_timeout(None).ok()?;
        let ours = stream.try_clone().ok()?;
        let mut current = self
            .current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut status = self.shared.status();
        match &status.key {
            Some(expected) if !same(expected, &key) => return None,
            Some(_) => {}
            None => status.key = Some(key),
        }
        if status.connection > self.number {
            return None;
        }
        if let Some(before) = current.replace(ours) {
            let _ = before.shutdown(Shutdown::Both);
        }
        status.connection = self.number;
        // A bundle that breaks off is forgotten by its connection; only then is clear where the runner stands.
        while status.receiving {
            status = self.shared.wait_control(status);
        }
        let log_from = log_from.min(status.log_size);
        status.log_next = log_from;
        status.log_taken = log_from;
        status.log_rests_until = None;
        status.state_in_flight = None;
        // Also one that was taken: whoever connects anew may not know of it, and waits for it at the end.
        status.state_sent = None;
        status.fetches.clear();
        self.shared.relay.reconnected();
        Some(status.stage)
    }

    fn serve(&self, stage: RunnerStage, stream: &UnixStream) -> io::Result<()> {
        let mut output = stream.try_clone()?;
        let sender = Sender {
            shared: Arc::clone(&self.shared),
            number: self.number,
        };
        thread::Builder::new().spawn(move || {
            let _ = sender.send(stage, &mut output);
            let _ = output.shutdown(Shutdown::Both);
        })?;
        let mut input = BufReader::with_capacity(CHUNK, stream.try_clone()?);
        let mut bundle = None;
        let result = self.read(&mut input, &mut bundle);
        self.shared.change(|status| {
            if bundle.is_some() {
                // The agent sends the job again on its next connection; nothing has happened with it yet.
                status.receiving = false;
                status.stage = RunnerStage::Waiting;
            }
            status.closed = status.closed.max(self.number);
        });
        result
    }

    fn read(
        &self,
        input: &mut BufReader<UnixStream>,
        bundle: &mut Option<(Work, Receiver)>,
    ) -> io::Result<()> {
        loop {
            let (message, body) = frames::read_header(input, MAX_HEADER)?;
            let mut kept = Vec::new();
            match (&message, bundle.as_mut()) {
                (ToRunner::Part, Some((_, receiver))) => {
                    frames::read_body(input, body, |bytes| receiver.accept(bytes))?;
                }
                (ToRunner::AnswerPart { .. }, _) if body as usize <= CHUNK => {
                    frames::read_body(input, body, |bytes| kept.extend_from_slice(bytes))?;
                }
                _ => frames::read_body(input, body, |_| {})?,
            }
            if self.shared.status().connection != self.number {
                return Ok(());
            }
            self.obey(message, kept, bundle);
            if bundle
                .as_ref()
                .is_some_and(|(_, receiver)| receiver.is_complete())
                && let Some((work, receiver)) = bundle.take()
            {
                let (state, failure) = receiver.finish();
                self.shared.change(|status| status.receiving = false);
                start(&self.shared, work, state, failure);
            }
        }
    }

    fn obey(&self, message: ToRunner, body: Vec<u8>, bundle: &mut Option<(Work, Receiver)>) {
        let shared = &self.shared;
        match message {
            ToRunner::Hello { .. } | ToRunner::Part => {}
            ToRunner::Work {
                spec,
                engine_path,
                engine,
                engine_sha256,
                engine_verified,
                known_schemas,
                hosts,
                egress,
                preface,
            } => {
                let work = Work {
                    spec: *spec,
                    engine_path,
                    engine,
                    engine_sha256,
                    engine_verified,
                    known_schemas,
                    hosts,
                    egress,
                    preface,
                };
                *bundle = self.begin(work);
            }
            ToRunner::Go => shared.change(|status| status.go = true),
            ToRunner::Renew { remaining } => self.dead_man.renew(remaining),
            ToRunner::LogTaken { offset } => shared.change(|status| {
                if offset > status.log_taken && offset <= status.log_size {
                    status.log_taken = offset;
                }
            }),
            ToRunner::LogFrom { offset } => shared.change(|status| {
                status.log_next = offset.min(status.log_size);
                status.log_taken = status.log_next;
            }),
            ToRunner::StateTaken { sha256 } => shared.change(|status| {
                if status.state_in_flight.as_ref() == Some(&sha256) {
                    status.state_in_flight = None;
                }
            }),
            ToRunner::StateAgain => shared.change(|status| {
                status.state_in_flight = None;
                status.state_sent = None;
            }),
            ToRunner::Fetch { name } => shared.change(|status| status.fetches.push_back(name)),
            ToRunner::Stop { kind, reason } => {
                shared.request_stop(kind, Cause::Asked(reason));
                if shared.status().stage == RunnerStage::Waiting {
                    finish(shared, outcome::finished_without_log(&Outcome::Canceled));
                }
            }
            ToRunner::Answer {
                request,
                status,
                headers,
                length,
            } => shared.relay.head(request, status, headers, length),
            ToRunner::AnswerPart { request, last } => shared.relay.part(request, body, last),
            ToRunner::Release => shared.change(|status| status.released = true),
        }
    }

    /// Takes a job, the first and only one.
    fn begin(&self, work: Work) -> Option<(Work, Receiver)> {
        let taken = self.shared.change(|status| {
            let free = status.stage == RunnerStage::Waiting && status.finished.is_none();
            if free {
                status.stage = RunnerStage::Preparing;
                status.receiving = true;
                status.times = Some(work.spec.times);
                status.engine = Some((work.engine.clone(), work.engine_sha256.clone()));
            }
            free
        });
        if !taken {
            return None;
        }
        match Receiver::new(&self.shared.paths, &work.spec) {
            Ok(receiver) => Some((work, receiver)),
            Err(failure) => {
                self.shared.change(|status| status.receiving = false);
                let outcome = Outcome::Failed {
                    reason: failure.reason,
                    message: failure.message,
                };
                finish(&self.shared, outcome::finished_without_log(&outcome));
                None
            }
        }
    }
}

/// Compares without telling by time how much of the key is right.
fn same(one: &Secret, other: &Secret) -> bool {
    let (one, other) = (one.expose().as_bytes(), other.expose().as_bytes());
    let difference = one
        .iter()
        .zip(other)
        .fold(0, |all, (left, right)| all | (left ^ right));
    one.len() == other.len() && difference == 0
}

/// Does the job in a thread of its own.
fn start(shared: &Arc<Shared>, work: Work, state: StateFile, failure: Option<Failure>) {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let steps = Arc::clone(&shared);
        let ended = thread::spawn(move || job::execute(&steps, &work, &state, failure)).join();
        let message = ended.unwrap_or_else(|_| {
            outcome::finished_without_log(&Outcome::Failed {
                reason: FailureReason::Internal,
                message: "The runner failed. Its container's output says why.".to_owned(),
            })
        });
        finish(&shared, message);
    });
}

fn finish(shared: &Shared, message: FromRunner) {
    // What was released is being removed: its end is nobody's any more.
    if !shared.status().released {
        remains::keep_end(&shared.paths, &message);
    }
    shared.change(|status| {
        status.stage = RunnerStage::Finished;
        status.finished = Some(Arc::new(message));
    });
}

/// What a connection has to send next.
enum Next {
    Message(FromRunner),
    Relayed(FromRunner, Vec<u8>),
    State(StateCopy),
    Log { offset: u64, length: u64 },
    Artifact(ArtifactName),
    End,
}

struct Sender {
    shared: Arc<Shared>,
    number: u64,
}

/// What was said on this connection.
#[derive(Default)]
struct Said {
    prepared: bool,
    started: bool,
    finished: bool,
}

impl Sender {
    fn send(&self, stage: RunnerStage, output: &mut UnixStream) -> io::Result<()> {
        let ready = FromRunner::Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stage,
            engine: self.shared.status().engine.clone(),
            memory_limit: ControlGroup::new(&self.shared.paths.cgroup).memory_limit(),
        };
        frames::write(output, &ready, b"")?;
        let mut said = Said::default();
        let mut piece = Vec::new();
        loop {
            match self.next(&mut said) {
                Next::End => return Ok(()),
                Next::Message(message) => frames::write(output, &message, b"")?,
                Next::Relayed(message, body) => frames::write(output, &message, &body)?,
                Next::State(copy) => {
                    if let Some(mut file) = state::open(&copy) {
                        let message = FromRunner::State {
                            mark: copy.mark.clone(),
                        };
                        frames::write_file(output, &message, &mut file, copy.mark.size)?;
                    }
                }
                Next::Log { offset, length } => {
                    piece.resize(usize::try_from(length).unwrap_or(0), 0);
                    if let Some(log) = self.shared.log.get() {
                        log.read_exact_at(&mut piece, offset)?;
                    }
                    frames::write(output, &FromRunner::Log { offset }, &piece)?;
                }
                Next::Artifact(name) => self.artifact(output, name)?,
            }
        }
    }

    fn next(&self, said: &mut Said) -> Next {
        let mut status = self.shared.status();
        loop {
            if status.connection != self.number || status.closed >= self.number {
                return Next::End;
            }
            if status.prepared && !std::mem::replace(&mut said.prepared, true) {
                return Next::Message(FromRunner::Prepared);
            }
            if status.started && !std::mem::replace(&mut said.started, true) {
                return Next::Message(FromRunner::Started);
            }
            if status.state_in_flight.is_none()
                && let Some(copy) = status.state.clone()
                && status.state_sent.as_ref() != Some(&copy.mark.sha256)
            {
                status.state_in_flight = Some(copy.mark.sha256.clone());
                status.state_sent = Some(copy.mark.sha256.clone());
                return Next::State(copy);
            }
            if let Some((message, body)) = self.shared.relay.next() {
                return Next::Relayed(message, body);
            }
            let window = (status.log_taken + LOG_WINDOW).min(status.log_size);
            let rests = status.log_rests(Instant::now());
            if status.log_next < window && rests.is_none() {
                let offset = status.log_next;
                let length = (window - offset).min(LOG_PIECE);
                status.log_next += length;
                status.log_rests_until = Some(Instant::now() + LOG_EACH);
                return Next::Log { offset, length };
            }
            if let Some(progress) = status.progress.take() {
                return Next::Message(progress);
            }
            if let Some(name) = status.fetches.pop_front() {
                return Next::Artifact(name);
            }
            let state_is_sent = status
                .state
                .as_ref()
                .is_none_or(|copy| status.state_sent.as_ref() == Some(&copy.mark.sha256));
            if let Some(finished) = &status.finished
                && !said.finished
                && status.log_next >= status.log_size
                && state_is_sent
            {
                said.finished = true;
                return Next::Message(finished.as_ref().clone());
            }
            status = self.shared.wait_outgoing(status, rests);
        }
    }

    /// Sends an artifact. One that there is not is sent empty: its digest tells.
    fn artifact(&self, output: &mut UnixStream, name: ArtifactName) -> io::Result<()> {
        let path = artifact_path(&self.shared.paths, name);
        let (file, size) = match File::open(path).and_then(|file| Ok((file.metadata()?.len(), file))) {
            Ok((size, file)) => (Some(file), size),
            Err(_) => (None, 0),
        };
        let mut piece = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let length = (size - offset).min(CHUNK as u64);
            let piece = &mut piece[..usize::try_from(length).unwrap_or(0)];
            if let Some(file) = &file {
                file.read_exact_at(piece, offset)?;
            }
            let last = offset + length == size;
            frames::write(output, &FromRunner::ArtifactData { name, offset, last }, piece)?;
            offset += length;
            if last {
                return Ok(());
            }
        }
    }
}
