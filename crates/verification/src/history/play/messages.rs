//! Requests are handled, for the first time or again; replies arrive, or are lost.

use terrapool_agent_core::attempt::{Boottime, Event as AgentEvent, State};
use terrapool_model::id::{AgentId, AttemptId, RunId};
use terrapool_model::job::{Desired, Phase};
use terrapool_model::refusal::Refusal;
use terrapool_model::run::{End, RunStatus};
use terrapool_model::sync::{self, AttemptStage, Report, Verdict};
use terrapool_model::transition::{Claim, Event};
use terrapool_protocol::job::Outcome;

use super::History;
use crate::history::Weakness;
use crate::history::agent::{Agent, Process, Reply, Request, job_times};
use crate::history::counts::Rare;
use crate::invariant::Invariant;

impl History {
    /// One of the agents that are meant.
    pub(super) fn some_agent(&mut self, meant: impl Fn(&Agent) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.agents.len())
            .filter(|place| meant(&self.agents[*place]))
            .collect();
        (!found.is_empty()).then(|| found[self.random.place(found.len())])
    }

    /// The server handles a request, for the first time or again.
    pub(super) fn serve(&mut self) -> &'static str {
        // What an attempt that is over has sent may still arrive.
        let late = self.random.percent(10);
        let Some(place) = self.some_agent(|agent| late || agent.process != Process::Over) else {
            return "silence";
        };
        let requests = self.agents[place].requests.len();
        // The newest one is the most likely.
        let number = if self.random.percent(70) {
            requests - 1
        } else {
            self.random.place(requests)
        };
        let request = self.agents[place].requests[number].clone();
        self.handle(place, &request)
    }

    pub(super) fn handle(&mut self, place: usize, request: &Request) -> &'static str {
        let agent = &self.agents[place];
        let (run, phase) = (agent.run.clone(), agent.attempt.phase);
        let (generation, id) = (agent.attempt.generation, agent.attempt.attempt.clone());
        let (reply, what) = match request {
            Request::Claim { sent } => {
                let event = Event::Claim(Claim {
                    phase,
                    generation_seen: agent.generation_seen,
                    attempt: id,
                    agent: AgentId::from_random([1; 16]),
                    session: 1,
                    session_is_newest: true,
                    incarnation_is_equal: agent.attempt.incarnation == self.server.incarnation,
                    pool_is_allowed: !self.random.percent(3),
                    current: self.server.current(),
                });
                let reply = match self.server.event(&run, &event, self.time) {
                    Ok(_) => Reply::Claimed {
                        generation: self.server.job(&run, phase).map_or(0, |job| job.generation),
                        sent: *sent,
                    },
                    Err(_) => Reply::ClaimRefused,
                };
                (reply, "a claim is handled")
            }
            Request::Start { sent } => {
                let attempt = id;
                let reply = match self
                    .server
                    .event(&run, &Event::Start { generation, attempt }, self.time)
                {
                    Ok(_) => Reply::Granted { sent: *sent },
                    Err(_) => Reply::StartRefused { sent: *sent },
                };
                (reply, "a start is handled")
            }
            Request::Finish { outcome } => {
                let returned = matches!(outcome, Outcome::NeverStarted { .. });
                let stored = &self.server.database.stored;
                let arrived = agent
                    .documents
                    .iter()
                    .take_while(|document| stored.contains(document));
                let arrived = arrived.count();
                if !returned && arrived < agent.documents.len() {
                    // Told what is missing, the agent sends it again.
                    let agent = &mut self.agents[place];
                    agent.confirmed = agent.confirmed.min(arrived);
                    agent.send_states();
                    return "an end waits for its state";
                }
                self.finish(&run, phase, generation, id, outcome);
                (Reply::Ended, "an end is handled")
            }
            Request::State { document } => {
                let newest = self
                    .server
                    .job(&run, phase)
                    .is_some_and(|job| job.is_of(generation, &id));
                self.server.store(&run, newest, *document);
                let document = *document;
                (Reply::Stored { document }, "a state is handled")
            }
            Request::Sync { sent, stage } => {
                let verdict = self.sync(place, *stage);
                (Reply::Verdict { sent: *sent, verdict }, "a sync is handled")
            }
        };
        let agent = &mut self.agents[place];
        if agent.process == Process::Up && agent.replies.len() < 8 {
            agent.replies.push(reply);
        }
        what
    }

    pub(super) fn finish(
        &mut self,
        run: &RunId,
        phase: Phase,
        generation: u64,
        attempt: AttemptId,
        outcome: &Outcome,
    ) {
        let end = match outcome {
            Outcome::NeverStarted { .. } => None,
            Outcome::Succeeded { changes } => Some(End::Succeeded { changes: *changes }),
            Outcome::Failed { .. } => Some(End::Failed),
            Outcome::Canceled => Some(End::Canceled),
            Outcome::EngineLost { .. } => Some(End::EngineLost),
        };
        let event = match end {
            None => Event::NeverStarted {
                phase,
                generation,
                attempt,
            },
            Some(end) => Event::Finish {
                phase,
                generation,
                attempt,
                end,
            },
        };
        match self.server.event(run, &event, self.time) {
            Ok(_)
            | Err(
                Refusal::OtherAttempt
                | Refusal::OtherGeneration
                | Refusal::JobEnded
                | Refusal::NoJob
                | Refusal::Unfitting(_),
            ) => {}
            Err(_) => self.breaks(Invariant::EndAnswered),
        }
        let waits = self.server.place(run).is_some_and(|place| {
            let run = &self.server.database.runs[place].run;
            run.status == RunStatus::Planned && run.auto_apply
        });
        if waits {
            self.server.counts.saw(Rare::WaitedForPerson);
        }
    }

    pub(super) fn sync(&mut self, place: usize, stage: AttemptStage) -> Verdict {
        let agent = &self.agents[place];
        let (run, phase) = (agent.run.clone(), agent.attempt.phase);
        let report = Report {
            phase,
            generation: agent.attempt.generation,
            attempt: agent.attempt.attempt.clone(),
            stage,
            incarnation_is_equal: agent.attempt.incarnation == self.server.incarnation,
        };
        let job = self.server.job(&run, phase).cloned();
        let epoch = self.server.database.workspace.lock_epoch;
        let lock_epoch = self
            .server
            .place(&run)
            .and_then(|place| self.server.database.runs[place].run.lock_epoch);
        let verdict = sync::answer(&report, job.as_ref(), lock_epoch == Some(epoch));
        if sync::renews(&report, job.as_ref()) {
            // Contacts reach the database a moment later.
            let late = self.random.below(self.server.times.flush.0 + 1);
            let event = Event::Contact {
                phase,
                generation: report.generation,
                attempt: report.attempt.clone(),
                at: self.server.wall(self.time.saturating_sub(late)),
            };
            if self.server.event(&run, &event, self.time).is_err() {
                self.breaks(Invariant::RowsAgree);
            }
        }
        let stops = job.as_ref().is_some_and(|job| {
            job.is_of(report.generation, &report.attempt) && job.is_held() && job.desired != Desired::Run
        });
        if stops && report.incarnation_is_equal && verdict == Verdict::Keep {
            self.breaks(Invariant::NoKeepAfterCancel);
        }
        verdict
    }

    /// A reply arrives, or is lost.
    pub(super) fn deliver(&mut self) -> &'static str {
        let Some(place) = self.some_agent(|agent| !agent.replies.is_empty()) else {
            return "silence";
        };
        let replies = self.agents[place].replies.len();
        let number = self.random.place(replies);
        let reply = self.agents[place].replies.remove(number);
        if self.random.percent(5) {
            return "a reply is lost";
        }
        self.arrive(place, &reply);
        "a reply arrives"
    }

    pub(super) fn arrive(&mut self, place: usize, reply: &Reply) {
        let time = self.time;
        let mut times = self.server.times;
        if let (Weakness::LongContactLimit, Some(limit)) = (self.weakness, times.contact_limit_apply.as_mut())
        {
            *limit = *limit + *limit;
        }
        let dies = self.random.percent(5);
        let agent = &mut self.agents[place];
        match reply {
            Reply::Claimed { generation, sent } => {
                let times = job_times(&times, agent.attempt.phase);
                let sent = Boottime(*sent);
                agent.hear(
                    AgentEvent::ClaimAccepted {
                        generation: *generation,
                        sent,
                        times,
                    },
                    time,
                );
            }
            Reply::ClaimRefused => {
                agent.hear(AgentEvent::ClaimFailed, time);
            }
            // The answer to an earlier request went with the connection that waited for it.
            Reply::Granted { sent }
                if agent.attempt.state
                    == (State::Starting {
                        sent: Boottime(*sent),
                    }) =>
            {
                if dies {
                    agent.die_with_grant(time);
                } else {
                    agent.hear(AgentEvent::Granted, time);
                }
                if matches!(agent.attempt.state, State::Returning { .. }) {
                    self.server.counts.saw(Rare::LateGrant);
                }
            }
            Reply::StartRefused { sent }
                if agent.attempt.state
                    == (State::Starting {
                        sent: Boottime(*sent),
                    }) =>
            {
                let message = String::new();
                agent.hear(AgentEvent::StartFailed { message }, time);
            }
            Reply::Granted { .. } | Reply::StartRefused { .. } => {}
            Reply::Ended => {
                agent.hear(AgentEvent::FinishAnswered, time);
            }
            Reply::Stored { document } => {
                if agent.documents.get(agent.confirmed) == Some(document) {
                    agent.confirmed += 1;
                }
            }
            Reply::Verdict { sent, verdict } => {
                if matches!(verdict, Verdict::Surrender { .. }) {
                    self.server.counts.saw(Rare::Surrendered);
                }
                let sent = Boottime(*sent);
                agent.hear(
                    AgentEvent::Verdict {
                        sent,
                        verdict: *verdict,
                    },
                    time,
                );
            }
        }
    }
}
