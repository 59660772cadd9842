//! People, clocks, backups and faults.

use terrapool_agent_core::attempt::{Event as AgentEvent, State};
use terrapool_model::id::{RunId, UserId};
use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::refusal::Refusal;
use terrapool_model::run::RunStatus;
use terrapool_model::transition::Event;

use super::History;
use crate::history::agent::{Process, Reply, Sandbox};
use crate::history::counts::Rare;
use crate::tables::user;

impl History {
    pub(super) fn new_clock(&mut self) -> &'static str {
        let hour = 3_600_000;
        let by = if self.random.percent(50) { hour } else { -hour };
        self.server.set_clock(by);
        "the server's clock is set"
    }

    pub(super) fn restore(&mut self) {
        if !self.server.restore(self.time) {
            return;
        }
        for agent in &mut self.agents {
            // What only the other history had is gone when no agent has it any more, or is told so at this moment.
            agent.excused |= agent.process == Process::Over || agent.replies.contains(&Reply::Ended);
        }
    }

    pub(super) fn person(&mut self) -> &'static str {
        let runs = self.runs();
        if runs.is_empty() {
            return "nobody";
        }
        let run = runs[self.random.place(runs.len())].clone();
        let lost = matches!(self.server.database.workspace.lock, Lock::Lost { .. });
        if lost && self.random.percent(40) {
            return self.override_quarantine();
        }
        match self.random.below(10) {
            0..=3 => self.confirm(&run),
            4 => {
                let _ = self.server.event(&run, &Event::Discard, self.time);
                "a discard"
            }
            5 => {
                let _ = self.server.event(&run, &Event::Cancel, self.time);
                "a cancel"
            }
            6..=7 => {
                if self.server.event(&run, &Event::ForceCancel, self.time).is_ok() {
                    self.server.counts.saw(Rare::ForceCanceled);
                }
                "a force-cancel"
            }
            8 => {
                let phase = if self.random.percent(50) {
                    Phase::Plan
                } else {
                    Phase::Apply
                };
                let _ = self.server.event(&run, &Event::CutOff { phase }, self.time);
                "an agent is cut off"
            }
            _ => "a person looks",
        }
    }

    pub(super) fn confirm(&mut self, run: &RunId) -> &'static str {
        let saved = self
            .server
            .place(run)
            .is_some_and(|place| self.server.database.runs[place].run.status == RunStatus::PlannedAndSaved);
        let after_restore = self.server.incarnation > 1;
        let current = self.server.current();
        match self.server.event(run, &Event::Confirm { current }, self.time) {
            Ok(_) => {
                self.risked |= after_restore;
                if saved {
                    self.server.counts.saw(Rare::SavedConfirmed);
                }
            }
            Err(Refusal::StalePlan) => self.server.counts.saw(Rare::StalePlan),
            Err(_) => {}
        }
        "a confirmation"
    }

    pub(super) fn override_quarantine(&mut self) -> &'static str {
        let Lock::Lost { run, .. } = self.server.database.workspace.lock.clone() else {
            return "nothing to override";
        };
        let acknowledge = self
            .server
            .job(&run, Phase::Apply)
            .and_then(|job| job.attempt.clone());
        let event = Event::ForceUnlock { acknowledge };
        if self.server.event(&run, &event, self.time).is_ok() {
            self.risked = true;
            self.server.counts.saw(Rare::Overridden);
        }
        "an override"
    }

    pub(super) fn lock(&mut self) -> &'static str {
        let by: UserId = user();
        let now = self.server.wall(self.time);
        let row = &self.server.database.workspace;
        let next = match &row.lock {
            Lock::User(_) => row.unlock_by_user(Some(&by), now),
            Lock::Free | Lock::Run(_) | Lock::Lost { .. } => row.lock_by_user(&by),
        };
        if let Ok(row) = next {
            self.server.database.workspace = row;
        }
        "a user locks or unlocks"
    }

    pub(super) fn fault(&mut self) -> &'static str {
        if self.agents.is_empty() {
            return "nothing";
        }
        let place = self.random.place(self.agents.len());
        let time = self.time;
        let agent = &mut self.agents[place];
        match (agent.process, self.random.below(10)) {
            (Process::Up, 0..=4) => {
                agent.die();
                "an agent dies"
            }
            (Process::Up, 5) => {
                agent.hear(AgentEvent::AgentEnds, time);
                "an agent ends"
            }
            (Process::Up, 6) if matches!(agent.attempt.state, State::Claiming) => {
                agent.hear(AgentEvent::ClaimFailed, time);
                "a claim is not answered"
            }
            (Process::Up | Process::Down, 7) => {
                agent.lose_host();
                self.server.counts.saw(Rare::HostLost);
                "a host is lost"
            }
            (Process::Up | Process::Down, 8) => match agent.sandbox {
                Sandbox::Preparing | Sandbox::Prepared | Sandbox::Going { .. } | Sandbox::Running => {
                    agent.vanishes(time);
                    "a sandbox goes away"
                }
                Sandbox::None | Sandbox::Ended(_) | Sandbox::Gone => "nothing",
            },
            (Process::Down, _) => {
                agent.restart(time, &mut self.server.counts);
                "an agent restarts"
            }
            (Process::Up | Process::Over, _) => "nothing",
        }
    }
}
