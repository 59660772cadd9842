//! What an agent's process sends, and when.

use terrapool_agent_core::attempt::{Boottime, Event, State};
use terrapool_model::id::AttemptId;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Claim, Finish, Start, Sync, SyncMode};
use terrapool_protocol::job::{Artifact, ArtifactName, Outcome, StateMark, Usage};
use terrapool_protocol::secret::Secret;
use terrapool_testkit::agent::sha256;

use crate::Sabotage;
use crate::calls::{Call, Copy, Speaker};
use crate::host::Live;
use crate::sandbox::Sandbox;
use crate::world::{HostNumber, ProcessNumber, World};

impl World {
    /// Everything that a process does by itself now.
    pub(crate) fn pump(&mut self, host: HostNumber, number: ProcessNumber) {
        if !self.is_current(host, number) {
            return;
        }
        let now = self.now();
        if let Some(process) = self.hosts[host].process.as_mut() {
            process.lives.retain(|_, live| !live.is_over);
            let ending = process.told > 0 || process.mode == SyncMode::FinishOnly;
            if ending && process.lives.is_empty() {
                let down = self.rng.u64(2000..30_000);
                self.kill_process(host, down);
                return;
            }
        }
        self.exchange(host, now);
        let attempts: Vec<AttemptId> = self.hosts[host]
            .process
            .iter()
            .flat_map(|process| process.lives.keys().cloned())
            .collect();
        for attempt in attempts {
            self.pump_attempt(host, &attempt, now);
        }
    }

    /// Registers when it has to, else syncs.
    fn exchange(&mut self, number: HostNumber, now: Boottime) {
        let host = &self.hosts[number];
        let Some(process) = &host.process else { return };
        if process.rests_until > now {
            return;
        }
        let Some(registered) = &process.registered else {
            if process.register_under_way.is_none() {
                let call = Call::Register(host.registration(process.nonce));
                let token = self.plane.token.clone();
                let call = self.send(number, Speaker::Process, call, token, 0);
                if let Some(process) = self.hosts[number].process.as_mut() {
                    process.register_under_way = Some(call);
                }
            }
            return;
        };
        if process.sync_under_way.is_some() {
            return;
        }
        let sync = Sync {
            session: registered.session,
            capacity: host.capacity(),
            draining: process.told > 0,
            hold: Millis::ZERO,
            attempts: process
                .lives
                .values()
                .filter_map(|live| live.attempt.report())
                .collect(),
            health: None,
        };
        let (token, hold) = (registered.session_token.clone(), registered.settings.hold);
        // A held answer is one of a request that came later.
        let held = self.rng.u64(0..hold.0.max(2));
        let call = self.send(number, Speaker::Process, Call::Sync(sync), token, held);
        if let Some(process) = self.hosts[number].process.as_mut() {
            process.sync_under_way = Some(call);
        }
    }

    fn call(&mut self, host: HostNumber, attempt: &AttemptId, call: Call, credential: Secret) {
        let name = call.name();
        let number = self.send(host, Speaker::Attempt(attempt.clone()), call, credential, 0);
        if let Some(live) = self.live(host, attempt) {
            live.under_way.insert(name, number);
        }
    }

    fn pump_attempt(&mut self, host: HostNumber, attempt: &AttemptId, now: Boottime) {
        let Some(process) = &self.hosts[host].process else {
            return;
        };
        let Some(live) = process.lives.get(attempt) else {
            return;
        };
        let job = live.attempt.job.clone();
        if live.attempt.state == State::Claiming {
            if now >= live.claim_until {
                self.claim_failed(host, attempt);
            } else if let (Some(registered), true) = (&process.registered, live.may_send("claim", now)) {
                let claim = Claim {
                    session: registered.session,
                    generation_seen: live.attempt.generation,
                    attempt: attempt.clone(),
                    incarnation: live.attempt.incarnation,
                };
                let token = registered.session_token.clone();
                self.call(host, attempt, Call::Claim(job, claim), token);
            }
            return;
        }
        let Some(credential) = live.credential.clone() else {
            return;
        };
        let mut calls = Vec::new();
        if live.attempt.state == State::Claimed && !live.resumed && !live.has_bundle {
            calls.push(Call::Bundle(job.clone()));
        }
        if matches!(live.attempt.state, State::Starting { .. }) {
            let start = Start {
                generation: live.attempt.generation,
                attempt: attempt.clone(),
            };
            calls.push(Call::Start(job.clone(), start));
        }
        if let (true, Some(sandbox)) = (live.is_linked, self.hosts[host].sandboxes.get(attempt)) {
            let from = usize::try_from(live.log_taken).unwrap_or(usize::MAX);
            if let Some(bytes) = sandbox.log.get(from..).filter(|bytes| !bytes.is_empty()) {
                // Rarely the whole rest, so that several requests make a log.
                let size = bytes.len().min(60);
                calls.push(Call::Log(job.clone(), live.log_taken, bytes[..size].to_vec()));
            }
            if let Some(newest) = self
                .newest(sandbox)
                .filter(|newest| live.state_taken.as_ref() != Some(&newest.sha256()))
            {
                calls.push(Call::State(job.clone(), newest.clone()));
            }
            if let (State::Delivering { .. }, Some(archive), false) =
                (&live.attempt.state, &sandbox.archive, live.archive_taken)
            {
                calls.push(Call::PlanArchive(job.clone(), archive.clone()));
            }
        }
        if live.finish.is_some() && calls.is_empty() && live.under_way.is_empty() {
            calls.push(Call::Finish(job, Box::new(self.end_of(host, live))));
        }
        for call in calls {
            if self
                .live(host, attempt)
                .is_some_and(|live| live.may_send(call.name(), now))
            {
                self.call(host, attempt, call, credential.clone());
            }
        }
    }

    fn end_of(&self, host: HostNumber, live: &Live) -> Finish {
        let outcome = live.finish.clone().unwrap_or(Outcome::Canceled);
        let gives_back = matches!(outcome, Outcome::NeverStarted { .. });
        let sandbox = self.hosts[host].sandboxes.get(&live.attempt.attempt);
        let sandbox = sandbox.filter(|_| live.is_linked && !gives_back);
        let log: &[u8] = sandbox.map_or(&[], |sandbox| &sandbox.log);
        let archive = sandbox.and_then(|sandbox| sandbox.archive.as_ref());
        Finish {
            generation: live.attempt.generation,
            attempt: live.attempt.attempt.clone(),
            outcome,
            log_size: log.len() as u64,
            log_sha256: sha256(log),
            state: sandbox
                .and_then(|sandbox| self.newest(sandbox))
                .map(|newest| StateMark {
                    serial: Some(newest.serial),
                    lineage: Some(newest.lineage.clone()),
                    sha256: newest.sha256(),
                    size: newest.bytes.len() as u64,
                }),
            artifacts: archive
                .filter(|_| live.archive_taken)
                .map(|bytes| Artifact {
                    name: ArtifactName::PlanArchive,
                    size: bytes.len() as u64,
                    sha256: sha256(bytes),
                })
                .into_iter()
                .collect(),
            engine_sha256: Some("e".repeat(64)),
            engine: "1.11.4"
                .parse()
                .ok()
                .map(|version| terrapool_model::engine::Engine {
                    kind: terrapool_model::engine::EngineKind::Terraform,
                    version,
                }),
            counts: None,
            usage: Usage::default(),
            memory: None,
        }
    }

    /// The state that the runner tells.
    fn newest<'s>(&self, sandbox: &'s Sandbox) -> Option<&'s Copy> {
        let is_told = self.settings.sabotage != Some(Sabotage::UntoldState);
        sandbox.newest().filter(|_| is_told)
    }

    pub(crate) fn claim_failed(&mut self, host: HostNumber, attempt: &AttemptId) {
        self.apply(host, attempt, Event::ClaimFailed);
    }
}
