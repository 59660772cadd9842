//! Sandboxes that are found again: after a restart of the agent, and after their stream was cut.

use std::sync::Arc;

use terrapool_agent_core::attempt::{self, State};
use terrapool_protocol::job::Outcome;
use terrapool_protocol::runner::{RunnerStage, ToRunner};

use super::{Inbox, Report, Shell};
use crate::clock::boottime;
use crate::delivery::{LogDelivery, StateDelivery};
use crate::drivers::Found;
use crate::journal::{Record, Stage};

/// The state that a journal's line tells.
pub(super) fn state_of(record: &Record) -> State {
    match (record.stage, &record.outcome) {
        (Stage::Claiming, _) => State::Claiming,
        (Stage::Claimed, _) => State::Claimed,
        (Stage::Starting, _) => State::Starting { sent: boottime() },
        (Stage::Returning, Some(Outcome::NeverStarted { message })) => State::Returning {
            message: message.clone(),
        },
        (Stage::Delivering, Some(outcome)) => State::Delivering {
            outcome: outcome.clone(),
        },
        (Stage::Running | Stage::Returning | Stage::Delivering, _) => State::Running,
        (Stage::Over, _) => State::Done,
    }
}

impl Shell {
    /// Takes up what an earlier process began.
    pub(super) async fn run_resumed(mut self, record: Record, mut inbox: Inbox) {
        self.credential = record.credential;
        self.image = record.image;
        self.network = record.network;
        self.set_place(record.place);
        // The engine may have been started although its runner's word of it did not arrive.
        self.assumed_started = record.stage == Stage::Running;
        self.resumed = true;
        match self.attempt.state {
            State::Claiming => self.claim_anew(&mut inbox.0).await,
            State::Returning { .. } => self.restart(attempt::Found::Gone { marker: false }).await,
            _ => self.search(true),
        }
        self.run(inbox).await;
    }

    async fn restart(&mut self, found: attempt::Found) {
        self.resumed = false;
        let (next, actions) = attempt::restart(&self.attempt, found, boottime());
        self.attempt = next;
        self.publish();
        self.perform(actions, None).await;
    }

    /// Looks for the sandbox in the background. What the control plane says meanwhile is heard.
    fn search(&mut self, ask_position: bool) {
        let Some(place) = self.place() else {
            let _ = self.reports.send(Report::Searched(None));
            return;
        };
        let driver = Arc::clone(&self.shared.driver);
        let reports = self.reports.clone();
        let received = self.log.as_ref().map_or(0, |log| *log.received().borrow());
        let recipient = self.recipient().filter(|_| ask_position);
        self.searching = Some(tokio::spawn(async move {
            let mut from = received;
            if let Some(recipient) = recipient {
                // Only what is missing has to be sent; without an answer everything is.
                let position = recipient
                    .control_plane
                    .append_log(&recipient.credential, &recipient.job, 0, bytes::Bytes::new())
                    .await;
                from = position.map_or(0, |position| position.received);
            }
            let found = driver.find(&place, from).await;
            let _ = reports.send(Report::Searched(found.map(|found| Box::new((found, from)))));
        }));
    }

    /// The stream to the runner has ended: with its connection only, or with its sandbox.
    pub(super) fn lost_link(&mut self) {
        self.frames = None;
        self.relay.clear();
        match self.attempt.state {
            State::Preparing
            | State::Starting { .. }
            | State::Running
            | State::Stopping { .. }
            | State::Delivering { .. } => {}
            // Nobody needs it any more, or the job was not handed over yet: whoever does that notices.
            State::Claiming | State::Claimed | State::Returning { .. } | State::Dropped | State::Done => {
                return;
            }
        }
        if self
            .delivering
            .as_ref()
            .is_some_and(tokio::task::JoinHandle::is_finished)
        {
            return;
        }
        self.end_delivery();
        self.search(false);
        self.runner = None;
        self.log = None;
        self.state = None;
    }

    fn end_delivery(&mut self) {
        if let Some(delivering) = self.delivering.take() {
            delivering.abort();
        }
        self.end = None;
        self.pieces = None;
    }

    /// The search for the sandbox has ended. `None`: nothing is left of it.
    pub(super) async fn searched(&mut self, found: Option<Box<(Found, u64)>>) {
        self.searching = None;
        let found = match found.map(|found| *found) {
            Some((found, from)) if !(found.remains && found.stage == RunnerStage::Waiting) => {
                self.attach_found(found, from)
            }
            Some((remains, _)) => {
                self.set_place(Some(remains.place));
                attempt::Found::Gone { marker: false }
            }
            None => attempt::Found::Gone {
                marker: self.marker || self.assumed_started,
            },
        };
        match (&self.attempt.state, found) {
            (State::Claiming | State::Returning { .. } | State::Dropped | State::Done, _) => {}
            (State::Stopping { kind, reason }, attempt::Found::Runner(_)) => {
                let (kind, reason) = (*kind, *reason);
                self.tell(&ToRunner::Stop { kind, reason }).await;
            }
            // The same process goes on where it was.
            (State::Preparing | State::Starting { .. }, attempt::Found::Runner(_)) if !self.resumed => {}
            _ => self.restart(found).await,
        }
    }

    fn attach_found(&mut self, found: Found, from: u64) -> attempt::Found {
        tracing::info!(
            job = %self.attempt.job, stage = ?found.stage, remains = found.remains, "found the sandbox of a job again"
        );
        self.set_place(Some(found.place));
        self.engine = self.engine.take().or(found.engine);
        self.attach(found.link.sender, found.link.receiver, from);
        attempt::Found::Runner(found.stage)
    }

    pub(super) fn attach(
        &mut self,
        sender: crate::runner_link::RunnerSender,
        receiver: crate::runner_link::RunnerReceiver,
        from: u64,
    ) {
        if let Some(recipient) = self.recipient() {
            self.log = Some(LogDelivery::start(recipient.clone(), sender.clone(), from));
            self.state = Some(StateDelivery::start(recipient, sender.clone()));
        }
        self.runner = Some(sender);
        self.frames = Some(receiver);
    }
}
