//! Calls that are not answered as they should be: what is tried again, and when.

use terrapool_agent_core::attempt::{Boottime, State};
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

/// What an agent does whose token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// Ends.
    End,
    /// Asks again, for so long. The control plane may have been moved to a copy of its database that is behind.
    AskAgain(Millis),
    /// Delivers what it holds, with the credentials of the jobs.
    FinishFirst,
}

/// Decides it by when the control plane last took the agent for one of its own, which it grants `grace` for.
fn refused(now: Boottime, contact: Option<Boottime>, grace: Millis, holds_nothing: bool) -> Refused {
    let left = contact.map_or(0, |contact| grace.0.saturating_sub(now.since(contact).0));
    match (holds_nothing, left) {
        (false, _) => Refused::FinishFirst,
        (true, 0) => Refused::End,
        (true, left) => Refused::AskAgain(Millis(left)),
    }
}

/// Seconds, or minutes once there are two.
fn in_words(time: Millis) -> String {
    match time.0.div_ceil(1000) {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds.div_ceil(60)),
    }
}

fn jittered(shortest: Millis, longest: Millis, failures: u32) -> Millis {
    let random = random()
        .iter()
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    backoff::wait(shortest, longest, failures, random)
}

/// What to think of an answer to a registration that says neither yes nor no.
fn misplaced(error: &CallError, url: &str) -> String {
    match error {
        CallError::Foreign
        | CallError::Unexpected {
            status: 404 | 405, ..
        } => format!(
            "there is no control plane at {url}; check the address (terrapool-agent configure --url) and what stands \
             before it"
        ),
        _ => format!(
            "{url} does not take this agent's registration; check the address, what stands before it, and that agent \
             and control plane have the same version (terrapool-agent doctor)"
        ),
    }
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
        let url = &self.config.url;
        match error {
            CallError::Unauthorized => {
                let holds_nothing = self.handles.is_empty();
                match refused(boottime(), self.contact, self.config.token_grace, holds_nothing) {
                    Refused::End => Err(ServiceError::Token { url: url.clone() }),
                    Refused::AskAgain(left) => {
                        let left = in_words(left);
                        tracing::error!(
                            url,
                            "the control plane does not accept the agent token any more: it was revoked or has expired, \
                             or the control plane was moved to an older copy of its database. This agent takes no jobs, \
                             asks for {left} more, and ends. A new token from the pool's page goes into \
                             `terrapool-agent configure --token-stdin`; then restart the agent"
                        );
                        self.rest(&format!(
                            "the agent token is not accepted any more (revoked or expired); the agent ends in {left} \
                             unless it is given another one: terrapool-agent configure --token-stdin"
                        ));
                        Ok(())
                    }
                    Refused::FinishFirst => {
                        self.mode = SyncMode::FinishOnly;
                        self.end_claims();
                        self.rest("the agent token is not accepted");
                        Ok(())
                    }
                }
            }
            // While a control plane is replaced, what stands before it may answer like that.
            error @ (CallError::Foreign | CallError::Unexpected { .. }) => {
                let words = format!("{}: {error}", misplaced(&error, url));
                tracing::error!(url, "{words}; trying again");
                self.rest(&words);
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

    /// Whether an agent that was told to finish only may go on is answered by another registration.
    pub(super) fn register_anew(&mut self) {
        self.registered = None;
        self.body.process_nonce = hex(&random());
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
                self.register_anew();
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

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Millis = Millis::from_seconds(600);

    #[test]
    fn a_token_that_never_was_good_ends_the_agent_and_one_that_was_is_asked_about_until_the_grace_is_over() {
        let asked = |now, contact| refused(Boottime(now), contact, GRACE, true);
        assert_eq!(asked(5_000, None), Refused::End);
        let contact = Some(Boottime(1_000));
        assert_eq!(asked(1_000, contact), Refused::AskAgain(GRACE));
        assert_eq!(asked(600_999, contact), Refused::AskAgain(Millis(1)));
        assert_eq!(asked(601_000, contact), Refused::End);
    }

    #[test]
    fn what_is_held_is_delivered_first_whenever_the_control_plane_was_heard_last() {
        for contact in [None, Some(Boottime(1_000))] {
            assert_eq!(
                refused(Boottime(900_000), contact, GRACE, false),
                Refused::FinishFirst
            );
        }
    }

    #[test]
    fn times_are_said_in_minutes_only_where_that_says_enough() {
        assert_eq!(in_words(Millis(600_000)), "10 min");
        assert_eq!(in_words(Millis(120_001)), "3 min");
        assert_eq!(in_words(Millis(119_000)), "119 s");
        assert_eq!(in_words(Millis(1)), "1 s");
    }

    #[test]
    fn an_address_without_a_control_plane_is_told_from_one_that_refuses() {
        let url = "https://tp.example.com";
        let answered = |status| CallError::Unexpected {
            status,
            text: String::new(),
        };
        for error in [CallError::Foreign, answered(404)] {
            assert!(misplaced(&error, url).contains("there is no control plane at https://tp.example.com"));
        }
        assert!(misplaced(&answered(400), url).contains("does not take this agent's registration"));
    }
}
