//! What answers make of an agent's process and of its attempts.

use terrapool_agent_core::attempt::{Attempt, Boottime, Event};
use terrapool_agent_core::backoff;
use terrapool_model::id::AttemptId;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Finish, SyncMode, Synced};
use terrapool_protocol::job::{FailureReason, Outcome};

use crate::calls::{Call, Reply, Speaker};
use crate::host::Live;
use crate::sandbox::Step;
use crate::world::{Delivered, Envelope, Happening, HostNumber, World, short};

/// Waits between tries.
const RETRY_MIN: Millis = Millis(250);
const RETRY_MAX: Millis = Millis(5000);

impl World {
    /// An answer has reached a process.
    pub(crate) fn answered(&mut self, envelope: &Envelope, reply: Reply) {
        if !self.is_current(envelope.host, envelope.process) {
            return;
        }
        let (host, number) = (envelope.host, envelope.process);
        match envelope.speaker.clone() {
            Speaker::Process => self.process_hears(envelope, reply),
            Speaker::Attempt(attempt) => self.attempt_hears(envelope, &attempt, reply),
        }
        self.pump(host, number);
    }

    fn process_hears(&mut self, envelope: &Envelope, reply: Reply) {
        let host = envelope.host;
        let healthy = self.is_healed();
        let random = self.rng.u64(..);
        let Some(process) = self.hosts[host].process.as_mut() else {
            return;
        };
        let under_way = match envelope.call {
            Call::Register(_) => &mut process.register_under_way,
            _ => &mut process.sync_under_way,
        };
        if *under_way != Some(envelope.number) {
            return;
        }
        *under_way = None;
        let mut rest = None;
        match reply {
            Reply::Registered(registered) => {
                process.registered = Some(*registered);
                process.mode = SyncMode::Normal;
                process.failures = 0;
            }
            Reply::Synced(synced) => {
                process.failures = 0;
                self.hear(host, envelope.sent, *synced);
                return;
            }
            Reply::Superseded => {
                process.mode = SyncMode::FinishOnly;
                rest = Some(1000);
            }
            Reply::Unauthorized => {
                process.registered = None;
                process.nonce = random;
                rest = Some(1000);
            }
            _ => {
                let wait = backoff::wait(RETRY_MIN, RETRY_MAX, process.failures, random);
                process.failures += 1;
                rest = Some(if healthy { wait.0.min(1000) } else { wait.0 });
            }
        }
        if let Some(wait) = rest {
            process.rests_until = Boottime(self.clock.elapsed() + wait);
            let number = envelope.process;
            self.after(wait, Happening::Pump(host, number));
        }
    }

    fn hear(&mut self, host: HostNumber, sent: Boottime, synced: Synced) {
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.mode = if process.told > 0 {
                SyncMode::Normal
            } else {
                synced.mode
            };
            if let Some(registered) = process.registered.as_mut() {
                registered.settings = synced.settings;
            }
        }
        for answer in synced.answers {
            let event = Event::Verdict {
                sent,
                verdict: answer.verdict,
            };
            self.apply(host, &answer.key.attempt, event);
        }
        for offer in synced.offers {
            let now = self.now();
            let free = self.hosts[host].free_slots();
            let Some(process) = self.hosts[host].process.as_mut() else {
                return;
            };
            let known = process.lives.values().any(|live| live.attempt.job == offer.job);
            let Some(incarnation) = process
                .registered
                .as_ref()
                .map(|registered| registered.incarnation)
            else {
                return;
            };
            if free == 0 || known || process.told > 0 || process.mode != SyncMode::Normal {
                continue;
            }
            let id = AttemptId::from_random({
                let mut bytes = [0; 16];
                self.rng.fill(&mut bytes);
                bytes
            });
            let attempt = Attempt::new(
                offer.job,
                offer.generation,
                id.clone(),
                offer.phase,
                incarnation,
                now,
            );
            process
                .lives
                .insert(id.clone(), Live::new(attempt.clone(), None, now));
            self.hosts[host].journal(&attempt, None);
        }
    }

    fn attempt_hears(&mut self, envelope: &Envelope, attempt: &AttemptId, reply: Reply) {
        let host = envelope.host;
        let now = self.now();
        let name = envelope.call.name();
        let random = self.rng.u64(..);
        let Some(live) = self.live(host, attempt) else {
            return;
        };
        if live.under_way.get(name) != Some(&envelope.number) {
            return;
        }
        live.under_way.remove(name);
        if let Reply::Unavailable = reply {
            let failures = live.again.get(name).map_or(0, |(_, failures)| *failures);
            let wait = match envelope.call {
                Call::Claim(..) | Call::Start(..) => Millis(200),
                _ => backoff::wait(RETRY_MIN, RETRY_MAX, failures, random),
            };
            live.again.insert(name, (Boottime(now.0 + wait.0), failures + 1));
            self.after(wait.0, Happening::Pump(host, envelope.process));
            return;
        }
        live.again.remove(name);
        match (&envelope.call, reply) {
            (Call::Claim(..), Reply::Claimed(claimed)) => {
                live.credential = Some(claimed.credential);
                let event = Event::ClaimAccepted {
                    generation: claimed.generation,
                    sent: live.claim_sent,
                    times: claimed.spec.times,
                };
                live.spec = Some(claimed.spec);
                live.resumed = false;
                self.apply(host, attempt, event);
                self.sync_anew(host);
            }
            (Call::Claim(..), _) => self.claim_failed(host, attempt),
            (Call::Start(..), Reply::Started) => self.apply(host, attempt, Event::Granted),
            (Call::Start(..), other) => {
                let message = format!("{other:?}");
                self.apply(host, attempt, Event::StartFailed { message });
            }
            (Call::Bundle(_), Reply::Bundle(bytes)) => self.has_bundle(host, attempt, &bytes),
            (Call::Bundle(_), other) => {
                let message = format!("{other:?}");
                self.apply(host, attempt, Event::SandboxFailed { message });
            }
            (Call::Log(..), Reply::Log(position)) => live.log_taken = position.received,
            (Call::State(_, copy), Reply::State(_)) => live.state_taken = Some(copy.sha256()),
            (Call::PlanArchive(..), Reply::Stored) => live.archive_taken = true,
            (Call::PlanArchive(..), _) => {
                // A plan that cannot be delivered is no plan.
                live.archive_taken = true;
                live.finish = Some(Outcome::Failed {
                    reason: FailureReason::Internal,
                    message: "the plan could not be delivered".to_owned(),
                });
            }
            (Call::Finish(_, finish), Reply::Finished(finished)) => {
                let (finish, accepted) = (finish.clone(), finished.accepted);
                self.has_finished(host, attempt, &finish, accepted);
            }
            (Call::Finish(..), Reply::Incomplete(missing)) => {
                live.log_taken = missing.log.received;
                if missing.state_missing {
                    live.state_taken = None;
                }
                if !missing.artifacts_missing.is_empty() {
                    live.archive_taken = false;
                }
                live.again.insert("finish", (Boottime(now.0 + 200), 0));
                self.after(200, Happening::Pump(host, envelope.process));
            }
            (call, other) => {
                let text = format!(
                    "{} of {} was answered {other:?}",
                    call.name(),
                    short(attempt.as_str())
                );
                self.broken(text);
            }
        }
    }

    /// A slot is free, or a job is held: the sync under way does not tell.
    pub(crate) fn sync_anew(&mut self, host: HostNumber) {
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.sync_under_way = None;
        }
    }

    fn has_bundle(&mut self, host: HostNumber, attempt: &AttemptId, bytes: &[u8]) {
        let lineage = format!("lineage-{}", self.rng.u64(..));
        let wait = self.rng.u64(50..2500);
        let Some(live) = self.live(host, attempt) else {
            return;
        };
        live.has_bundle = true;
        let Some(spec) = live.spec.clone() else { return };
        let Some(sandbox) = self.hosts[host].sandboxes.get_mut(attempt) else {
            return;
        };
        if let Err(error) = sandbox.unpack(&spec, bytes, &lineage) {
            self.broken(error);
            return;
        }
        let version = sandbox.version;
        self.after(
            wait,
            Happening::Sandbox(host, attempt.clone(), version, Step::Handed),
        );
    }

    fn has_finished(&mut self, host: HostNumber, attempt: &AttemptId, finish: &Finish, accepted: bool) {
        let gives_back = matches!(finish.outcome, Outcome::NeverStarted { .. });
        if let (Some(sandbox), false) = (self.hosts[host].sandboxes.get(attempt), gives_back) {
            let delivered = Delivered {
                job: sandbox.job.clone(),
                run: sandbox.run.clone(),
                phase: sandbox.phase,
                generation: finish.generation,
                log: sandbox.log.clone(),
                accepted,
            };
            self.delivered.insert(attempt.clone(), delivered);
        }
        self.apply(host, attempt, Event::FinishAnswered);
        self.sync_anew(host);
    }
}
