//! Calls that are not answered as they should be: what is tried again, and when.

use terrapool_agent_core::attempt::State;
use terrapool_agent_core::backoff;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::SyncMode;

use super::{Service, ServiceError};
use crate::attempt::Word;
use crate::clock::{boottime, disagreement, random};
use crate::control_plane::CallError;
use crate::engines::hex;

/// Shortest hold, for networks that cut idle connections early.
const HOLD_MIN: Millis = Millis(5000);

/// A control plane that does not know the token any more may have been moved to a copy of its database that is behind. An
/// agent that had its place gives it so long before it ends.
const DISBELIEF: Millis = Millis::from_seconds(600);

fn jittered(shortest: Millis, longest: Millis, failures: u32) -> Millis {
    let random = random()
        .iter()
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    backoff::wait(shortest, longest, failures, random)
}

impl Service {
    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.trouble = None;
        self.contact = Some(boottime());
        let ahead = self.shared.control_plane.clock_ahead_seconds();
        let words = ahead.and_then(disagreement);
        if let Some(words) = words.as_ref().filter(|_| !self.clock_said) {
            tracing::warn!("{words}");
        }
        self.clock_said = words.is_some();
    }

    pub(super) fn not_registered(&mut self, error: CallError) -> Result<(), ServiceError> {
        let had_place = self
            .contact
            .is_some_and(|contact| boottime().since(contact) < DISBELIEF);
        match error {
            CallError::Unauthorized if self.handles.is_empty() && had_place => {
                tracing::error!(
                    url = self.config.url,
                    "the control plane does not accept the agent token any more; asking for some minutes whether it stays so"
                );
                self.rest("the agent token is not accepted any more");
                Ok(())
            }
            CallError::Unauthorized if self.handles.is_empty() => Err(ServiceError::Token {
                url: self.config.url.clone(),
            }),
            // What it holds is still delivered, with the credentials of the jobs.
            CallError::Unauthorized => {
                self.mode = SyncMode::FinishOnly;
                self.end_claims();
                self.rest("the agent token is not accepted");
                Ok(())
            }
            error if error.is_transient() => {
                tracing::warn!(
                    url = self.config.url, reason = %error,
                    "the control plane cannot be reached yet; trying again"
                );
                self.rest(&error.to_string());
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    /// What is not claimed yet never will be.
    fn end_claims(&self) {
        let claiming = self
            .handles
            .values()
            .filter(|handle| handle.attempt.borrow().state == State::Claiming);
        for handle in claiming {
            let _ = handle.words.send(Word::AgentEnds);
        }
    }

    pub(super) fn not_synced(&mut self, waited: Millis, error: &CallError) {
        match error {
            CallError::Superseded => {
                tracing::error!("a newer process of this agent has registered: finishing only");
                self.mode = SyncMode::FinishOnly;
                self.is_superseded = true;
            }
            // A control plane that was restored from a backup does not know this session: another one is asked for.
            CallError::Unauthorized => {
                tracing::warn!("the control plane does not know this session; registering again");
                self.registered = None;
                self.body.process_nonce = hex(&random());
            }
            error => {
                if waited >= HOLD_MIN {
                    // Cut while it was held: a proxy with a short idle limit.
                    self.hold = Millis((self.hold.0 / 2).max(HOLD_MIN.0));
                }
                tracing::warn!(reason = %error, "a sync was not answered; trying again");
            }
        }
        self.rest(&error.to_string());
    }

    pub(super) fn rest(&mut self, trouble: &str) {
        self.counters.failed_calls += 1;
        let wait = jittered(self.settings.retry_min, self.settings.retry_max, self.failures);
        self.failures += 1;
        self.trouble = Some(trouble.to_owned());
        self.last_failure = Some(trouble.to_owned());
        self.pause = Some(tokio::time::Instant::now() + wait.to_std());
    }
}
