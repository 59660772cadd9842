//! From an offer, or from what an earlier process claimed, to a job that is this attempt's.

use std::time::Duration;

use terrapool_agent_core::attempt::{Event, step};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Claim, Claimed, Offer};

use super::{Inbox, Shell, prepare};
use crate::clock::boottime;
use crate::journal::Record;

/// Wait before a claim that was not answered is repeated.
const AGAIN: Duration = Duration::from_millis(200);

impl Shell {
    /// Claims what was offered, and works on it.
    pub(super) async fn run_offer(mut self, offer: Offer, hold: Millis, inbox: Inbox) {
        // A job that is claimed without an engine to run it would only lose one of its tries.
        let can_run = self.shared.warm.is_ready().await || self.shared.driver.check().await;
        if !can_run || self.journal().await.is_err() {
            self.drop_unclaimed();
            return;
        }
        // A sandbox is taken while the claim is on its way; a refused claim gives it back.
        let key = self
            .shared
            .driver
            .key(offer.image.as_deref(), offer.network, offer.limits);
        let warm = std::sync::Arc::clone(&self.shared.warm);
        let sandbox = tokio::spawn(async move { warm.take(&key).await });
        let sent = boottime();
        match self.claim(offer.generation, hold).await {
            Some(claimed) => {
                self.accept(claimed, sent, sandbox).await;
                self.run(inbox).await;
            }
            None => {
                if let Ok(Ok(sandbox)) = sandbox.await {
                    self.shared
                        .driver
                        .remove_sandbox(&sandbox.id, sandbox.volumes())
                        .await;
                }
                self.drop_unclaimed();
                self.shared.warm.refill();
            }
        }
    }

    /// Asks again for what an earlier process may have claimed: the same attempt gets the same answer. A sandbox is made
    /// only once the job is known to be ours.
    pub(super) async fn claim_anew(&mut self) {
        let hold = Millis::from_seconds(25);
        let sent = boottime();
        match self.claim(self.attempt.generation, hold).await {
            Some(claimed) => {
                let key = self
                    .shared
                    .driver
                    .key(self.image.as_deref(), self.network, claimed.spec.limits);
                let warm = std::sync::Arc::clone(&self.shared.warm);
                let sandbox = tokio::spawn(async move { warm.take(&key).await });
                self.accept(claimed, sent, sandbox).await;
            }
            None => self.drop_unclaimed(),
        }
    }

    async fn accept(
        &mut self,
        claimed: Claimed,
        sent: terrapool_agent_core::attempt::Boottime,
        sandbox: prepare::Pending,
    ) {
        tracing::info!(
            job = %self.attempt.job, run = %claimed.spec.run, phase = claimed.spec.phase.as_str(),
            workspace = claimed.spec.workspace_name, "claimed a job"
        );
        self.credential = Some(claimed.credential);
        let times = claimed.spec.times;
        self.spec = Some(claimed.spec);
        let event = Event::ClaimAccepted {
            generation: claimed.generation,
            sent,
            times,
        };
        if let Ok((next, actions)) = step(&self.attempt, event, boottime()) {
            self.attempt = next;
            self.publish();
            // Only now does a sync name the job.
            self.shared.changed.notify_one();
            self.perform(actions, Some(sandbox)).await;
        }
    }

    fn drop_unclaimed(&mut self) {
        if let Ok((next, _)) = step(&self.attempt, Event::ClaimFailed, boottime()) {
            self.attempt = next;
        }
        let record = Record::of(&self.attempt);
        if let Err(error) = self.shared.journal.append(&record) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the journal could not be written"
            );
        }
        self.publish();
    }

    async fn claim(&self, generation_seen: u64, hold: Millis) -> Option<Claimed> {
        let deadline = tokio::time::Instant::now() + hold.to_std();
        loop {
            let session = self.shared.session.borrow().clone();
            let answer = match &session {
                Some(session) => {
                    let body = Claim {
                        session: session.number,
                        generation_seen,
                        attempt: self.attempt.attempt.clone(),
                        incarnation: self.attempt.incarnation,
                    };
                    self.shared
                        .control_plane
                        .claim(&session.token, &self.attempt.job, &body)
                        .await
                        .map_err(|error| (error.is_transient(), error.to_string()))
                }
                None => Err((true, "this process is not registered yet".to_owned())),
            };
            match answer {
                Ok(claimed) => return Some(claimed),
                Err((true, _)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err((_, reason)) => {
                    tracing::info!(job = %self.attempt.job, reason, "a claim did not succeed");
                    return None;
                }
            }
        }
    }
}
