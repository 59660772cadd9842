//! What the attempt machine wants done, carried out.

use std::sync::Arc;
use std::time::Duration;

use sha2::Digest as _;
use terrapool_agent_core::attempt::{Action, Event, State};
use terrapool_protocol::agent::Start;
use terrapool_protocol::job::{Outcome, Usage};
use terrapool_protocol::runner::{StopKind, StopReason, ToRunner};
use tokio::sync::mpsc;

use super::{Report, RunnerEnd, Shell, prepare};
use crate::control_plane::CallError;
use crate::delivery::{Delivery, Ending, Progress, deliver, give_back, report_without_runner};
use crate::engines::hex;

impl Shell {
    pub(super) async fn perform(&mut self, actions: Vec<Action>, sandbox: Option<prepare::Pending>) {
        // Nothing that preparing does needs the claim in the journal: after a crash in between, the sandbox is removed
        // and the job given up, as if it had never been claimed. So the two go side by side.
        if actions.contains(&Action::Prepare) {
            self.prepare(sandbox);
        }
        // Nor does a delivery: after a crash in between it is made again, from the same sandbox. What is given back as
        // never started has to be in the journal before anybody hears of it.
        let mut delivering = false;
        if let Some(Action::Finish { outcome }) = actions
            .iter()
            .find(|action| matches!(action, Action::Finish { .. }))
            && !matches!(outcome, Outcome::NeverStarted { .. })
        {
            self.finish(outcome.clone());
            delivering = true;
        }
        for action in actions {
            match action {
                Action::Journal => {
                    let written = self.journal().await;
                    self.publish();
                    if written.is_err()
                        && matches!(self.attempt.state, State::Running | State::Starting { .. })
                    {
                        // An engine that a restart would not know of must not be started.
                        self.tell(&ToRunner::Stop {
                            kind: StopKind::Kill,
                            reason: StopReason::AgentEnds,
                        })
                        .await;
                        return;
                    }
                }
                // Begun above.
                Action::Prepare => {}
                Action::SendStart => self.send_start(),
                Action::Go => self.tell(&ToRunner::Go).await,
                Action::Stop { kind, reason } => self.tell(&ToRunner::Stop { kind, reason }).await,
                Action::Renew { remaining } => self.tell(&ToRunner::Renew { remaining }).await,
                Action::Finish { .. } if delivering => {}
                Action::Finish { outcome } => self.finish(outcome),
                Action::Remove => self.remove().await,
            }
        }
    }

    fn prepare(&mut self, sandbox: Option<prepare::Pending>) {
        let (Some(spec), Some(recipient), Some(sandbox)) = (self.spec.clone(), self.recipient(), sandbox)
        else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let place = Arc::clone(&self.place);
        let image = self.image.clone();
        let preface = self.preface.clone();
        let reports = self.reports.clone();
        let job = self.attempt.job.clone();
        self.preparing = Some(tokio::spawn(async move {
            let asked = prepare::Asked {
                spec,
                image,
                recipient,
            };
            let report = match prepare::prepare(&shared, asked, sandbox, &place, &preface).await {
                Ok(ready) => Report::Prepared(Box::new(ready)),
                Err(error) => {
                    let mut message = error.to_string();
                    let mut source = std::error::Error::source(&error);
                    while let Some(cause) = source {
                        message = format!("{message}: {cause}");
                        source = cause.source();
                    }
                    tracing::error!(%job, message, "a sandbox could not be prepared");
                    Report::Event(error.event(message))
                }
            };
            // The shell has ended: the attempt is over.
            let _ = reports.send(report);
        }));
    }

    fn send_start(&self) {
        let Some(credential) = self.credential.clone() else {
            return;
        };
        let control_plane = self.shared.control_plane.clone();
        let job = self.attempt.job.clone();
        let body = Start {
            generation: self.attempt.generation,
            attempt: self.attempt.attempt.clone(),
        };
        let reports = self.reports.clone();
        // The attempt's own timer gives up after the window; repeating until then is safe.
        tokio::spawn(async move {
            let event = loop {
                match control_plane.start(&credential, &job, &body).await {
                    Ok(_) => break Event::Granted,
                    Err(error) if error.is_transient() && !reports.is_closed() => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(CallError::Refused(refused)) => {
                        break Event::StartFailed {
                            message: refused.reason,
                        };
                    }
                    Err(error) => {
                        break Event::StartFailed {
                            message: error.to_string(),
                        };
                    }
                }
            };
            let _ = reports.send(Report::Event(event));
        });
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(recipient) = self.recipient() else { return };
        let (generation, attempt) = (self.attempt.generation, self.attempt.attempt.clone());
        let reports = self.reports.clone();
        if let Outcome::NeverStarted { message } = outcome {
            self.delivering = Some(tokio::spawn(async move {
                give_back(recipient, generation, attempt, message).await;
                let _ = reports.send(Report::Event(Event::FinishAnswered));
            }));
            return;
        }
        let end = self.end.take().unwrap_or_else(|| RunnerEnd {
            outcome: outcome.clone(),
            log_size: self.forwarded.0,
            log_sha256: hex(&self.forwarded.1.clone().finalize()),
            state: self.last_state.clone(),
            artifacts: Vec::new(),
            schemas_key: None,
            usage: Usage::default(),
            memory: None,
            secrets: Vec::new(),
        });
        let ending = Ending {
            generation,
            attempt,
            outcome: end.outcome,
            log_size: end.log_size,
            log_sha256: end.log_sha256,
            state: end.state,
            artifacts: end.artifacts,
            schemas_key: end.schemas_key,
            usage: Usage {
                sandbox_ms: self.sandbox_ms,
                ..end.usage
            },
            memory: end.memory,
            secrets: end.secrets,
            engine: self.engine.clone(),
        };
        let (pieces, inbox) = mpsc::channel(32);
        self.pieces = Some(pieces);
        let (Some(runner), Some(log), Some(state)) = (self.runner.clone(), &self.log, &self.state) else {
            // No runner ever worked on it: the end, and why, is all there is to report.
            let preface = self.preface.text();
            self.delivering = Some(tokio::spawn(async move {
                report_without_runner(recipient, ending, &preface).await;
                let _ = reports.send(Report::Event(Event::FinishAnswered));
            }));
            return;
        };
        let progress = Progress {
            log: log.received(),
            state: state.progress(),
        };
        let schemas = Arc::clone(&self.shared.schemas);
        let volume = self
            .place()
            .map_or_else(String::new, |place| self.shared.driver.state_place(&place));
        self.delivering = Some(tokio::spawn(async move {
            match deliver(recipient, runner, progress, inbox, ending, schemas, &volume).await {
                Delivery::Complete => {}
                Delivery::StateRemains => {
                    let _ = reports.send(Report::StateRemains);
                }
            }
            let _ = reports.send(Report::Event(Event::FinishAnswered));
        }));
    }

    /// What is on the volumes is needed by a person: only the container goes. The journal forgets them, so that the next
    /// start keeps them like those of a job it does not know.
    pub(super) async fn leave_volumes(&mut self) {
        let runner = self.runner.take();
        let place = self.place();
        self.set_place(None);
        if let Some(place) = place {
            self.shared.warm.leave_volumes(place, runner).await;
        }
    }

    async fn remove(&mut self) {
        if let Some(preparing) = self.preparing.take() {
            preparing.abort();
        }
        for task in [self.searching.take(), self.delivering.take()]
            .into_iter()
            .flatten()
        {
            task.abort();
        }
        self.working = None;
        let runner = self.runner.take();
        if let Some(place) = self.place() {
            self.shared.warm.remove(place, runner).await;
        }
        self.shared.warm.refill_when_quiet();
    }
}
