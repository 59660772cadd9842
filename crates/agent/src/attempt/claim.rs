//! From an offer, or from what an earlier process claimed, to a job that is this attempt's.

use std::time::Duration;

use terrapool_agent_core::attempt::{Boottime, Event, step};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Claim, Claimed, Offer};
use tokio::sync::mpsc;

use super::{Inbox, Shell, Word, prepare};
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
        let deadline = tokio::time::Instant::now() + hold.to_std();
        match self.claim(offer.generation, Some(deadline)).await {
            Some(won) => {
                self.accept(won, sandbox).await;
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
    /// only once the job is known to be ours. However long the control plane is away: giving up would cost the job one
    /// of its tries, and this agent can do nothing else meanwhile.
    pub(super) async fn claim_anew(&mut self, words: &mut mpsc::UnboundedReceiver<Word>) {
        let won = tokio::select! {
            won = self.claim(self.attempt.generation, None) => won,
            () = told_to_end(words) => None,
        };
        match won {
            Some(won) => {
                let key =
                    self.shared
                        .driver
                        .key(self.image.as_deref(), self.network, won.claimed.spec.limits);
                let warm = std::sync::Arc::clone(&self.shared.warm);
                let sandbox = tokio::spawn(async move { warm.take(&key).await });
                self.accept(won, sandbox).await;
            }
            None => self.drop_unclaimed(),
        }
    }

    async fn accept(&mut self, won: Won, sandbox: prepare::Pending) {
        let Won { claimed, sent } = won;
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

    async fn claim_once(&self, generation_seen: u64) -> Result<Won, Lost> {
        let session = self.shared.session.borrow().clone();
        let Some(session) = session else {
            return Err(Lost::ForNow("this process is not registered yet".to_owned()));
        };
        let body = Claim {
            session: session.number,
            generation_seen,
            attempt: self.attempt.attempt.clone(),
            incarnation: self.attempt.incarnation,
        };
        let sent = boottime();
        let answer = self
            .shared
            .control_plane
            .claim(&session.token, &self.attempt.job, &body)
            .await;
        match answer {
            Ok(claimed) => Ok(Won { claimed, sent }),
            Err(error) if error.is_transient() => Err(Lost::ForNow(error.to_string())),
            Err(error) => Err(Lost::ForGood(error.to_string())),
        }
    }

    /// Without a deadline it is repeated until it is answered.
    async fn claim(&self, generation_seen: u64, deadline: Option<tokio::time::Instant>) -> Option<Won> {
        let won = until_decided(deadline, || self.claim_once(generation_seen));
        match won.await {
            Ok(won) => Some(won),
            Err(reason) => {
                tracing::info!(job = %self.attempt.job, reason, "a claim did not succeed");
                None
            }
        }
    }
}

/// A claim that succeeded.
struct Won {
    claimed: Claimed,
    /// When the request that was answered was sent.
    sent: Boottime,
}

/// A claim that did not, and why.
enum Lost {
    ForNow(String),
    ForGood(String),
}

/// Asks until the answer is final or the time is over.
async fn until_decided<T, F>(
    deadline: Option<tokio::time::Instant>,
    mut ask: impl FnMut() -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<T, Lost>>,
{
    loop {
        match ask().await {
            Ok(won) => return Ok(won),
            Err(Lost::ForNow(_))
                if deadline.is_none_or(|deadline| tokio::time::Instant::now() < deadline) =>
            {
                tokio::time::sleep(AGAIN).await;
            }
            Err(Lost::ForNow(reason) | Lost::ForGood(reason)) => return Err(reason),
        }
    }
}

/// Returns when the agent is told to end. Verdicts on what is not claimed yet mean nothing.
async fn told_to_end(words: &mut mpsc::UnboundedReceiver<Word>) {
    while let Some(word) = words.recv().await {
        match word {
            Word::AgentEnds => return,
            Word::Verdict { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// A control plane that answers the third request, asked by somebody whose time is over by then, if it ever is.
    async fn answered_late(deadline: Option<Instant>) -> Result<u32, String> {
        let mut asked = 0;
        until_decided(deadline, || {
            asked += 1;
            std::future::ready(if asked < 3 {
                Err(Lost::ForNow("away".to_owned()))
            } else {
                Ok(asked)
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_claim_of_before_the_restart_is_repeated_until_it_is_answered() {
        assert_eq!(answered_late(None).await, Ok(3));
    }

    #[tokio::test]
    async fn a_claim_of_an_offer_is_given_up_after_its_time() {
        assert_eq!(answered_late(Some(Instant::now())).await, Err("away".to_owned()));
    }

    #[tokio::test]
    async fn a_claim_that_is_refused_is_not_repeated() {
        let mut asked = 0;
        let refused: Result<(), String> = until_decided(None, || {
            asked += 1;
            std::future::ready(Err(Lost::ForGood("it is another attempt's".to_owned())))
        })
        .await;
        assert_eq!((refused, asked), (Err("it is another attempt's".to_owned()), 1));
    }
}
