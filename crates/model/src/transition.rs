//! One event on the rows of a workspace, a run and its jobs together.
//!
//! The store loads the rows locked (workspace, run, jobs), calls [`transition`], and writes back what changed. The
//! tables of [`job`], [`run`] and [`lock`](crate::lock) each decide for their row.

use crate::id::{AttemptId, RunId};
use crate::job::{self, Desired, Job, JobEvent, JobResult, JobState, Phase};
use crate::lock::Lock;
use crate::refusal::Refusal;
use crate::run::{self, Aftermath, End, ErrorReason, RunEffect, RunEvent};
use crate::time::Timestamp;
use crate::times::Times;

mod event;

pub use event::{Claim, Effect, Event, Outcome, Rows};

/// Applies an event.
///
/// # Errors
/// [`Refusal`] when it may not happen; then nothing changes.
pub fn transition(rows: &Rows, event: &Event, now: Timestamp, times: &Times) -> Result<Outcome, Refusal> {
    let mut step = Step {
        rows: rows.clone(),
        effects: Vec::new(),
        job: None,
        now,
        times,
    };
    step.event(event)?;
    Ok(step.ended(rows))
}

struct Step<'a> {
    rows: Rows,
    effects: Vec<Effect>,
    job: Option<JobResult>,
    now: Timestamp,
    times: &'a Times,
}

impl Step<'_> {
    fn event(&mut self, event: &Event) -> Result<(), Refusal> {
        let lock = self.rows.workspace.lock.clone();
        match event {
            Event::Schedule => self.run(&RunEvent::Schedule { lock }),
            Event::Confirm { current } => self.run(&RunEvent::Confirm {
                lock,
                current: current.clone(),
            }),
            Event::Discard => self.run(&RunEvent::Discard),
            Event::Cancel => {
                let job = self.current_job().map(|job| job.state);
                self.run(&RunEvent::Cancel { job })
            }
            Event::ForceCancel => {
                let job = self.current_job().map(|job| job.state);
                let granted = self.rows.apply.as_ref().is_some_and(|job| job.start_granted);
                self.run(&RunEvent::ForceCancel { job, granted })
            }
            Event::Claim(claim) => self.claim(claim),
            Event::Start { generation, attempt } => self.start(*generation, attempt),
            Event::Contact {
                phase,
                generation,
                attempt,
                at,
            } => {
                let event = JobEvent::Contact {
                    generation: *generation,
                    attempt: attempt.clone(),
                    at: *at,
                };
                self.table(*phase, &event)?;
                self.heard(*phase);
                Ok(())
            }
            Event::Finish {
                phase,
                generation,
                attempt,
                end,
            } => self.finish(*phase, *generation, attempt, *end),
            Event::NeverStarted {
                phase,
                generation,
                attempt,
            } => {
                let event = JobEvent::NeverStarted {
                    generation: *generation,
                    attempt: attempt.clone(),
                };
                self.gone(*phase, &event, ErrorReason::NotStarted)?;
                if self.rows.run.status.is_terminal() && self.holds_own_grant(*phase) {
                    self.deliver();
                }
                Ok(())
            }
            Event::Expire { phase } => self.gone(*phase, &JobEvent::Expire, ErrorReason::AgentLost),
            Event::NotReported { phase, session } => {
                let event = JobEvent::NotReported { session: *session };
                self.gone(*phase, &event, ErrorReason::AgentLost)
            }
            Event::ForceUnlock { acknowledge } => self.force_unlock(acknowledge.as_ref()),
            Event::CutOff { phase } => {
                self.table(
                    *phase,
                    &JobEvent::Stop {
                        desired: Desired::Kill,
                    },
                )?;
                self.effects.push(Effect::AgentTold(*phase));
                Ok(())
            }
            Event::Restored => self.restored(),
        }
    }

    fn current_job(&self) -> Option<&Job> {
        self.rows
            .run
            .status
            .phase()
            .and_then(|phase| self.rows.job(phase))
    }

    /// The job table, for the job of a phase.
    fn table(&mut self, phase: Phase, event: &JobEvent) -> Result<JobResult, Refusal> {
        let job = self.rows.job(phase).ok_or(Refusal::NoJob)?;
        let (next, result) = job::transition(job, event, self.now, self.times)?;
        self.rows.set_job(next);
        self.job = Some(result);
        Ok(result)
    }

    /// The run table, and what it wants of the other rows.
    fn run(&mut self, event: &RunEvent) -> Result<(), Refusal> {
        let (next, effects) = run::transition(&self.rows.run, event, self.now, self.times)?;
        self.rows.run = next;
        for effect in effects {
            self.effect(effect)?;
        }
        Ok(())
    }

    fn effect(&mut self, effect: RunEffect) -> Result<(), Refusal> {
        let id = self.rows.run.id.clone();
        match effect {
            RunEffect::TakeLock => {
                self.rows.workspace = self.rows.workspace.take_for_run(&id)?;
                self.rows.run.lock_epoch = Some(self.rows.workspace.lock_epoch);
            }
            RunEffect::ReleaseLock => self.rows.workspace = self.rows.workspace.release(&id),
            RunEffect::LoseLock => {
                let contact = self.rows.apply.as_ref().and_then(|job| job.last_contact);
                let safe_at = self.times.safe_at(contact.unwrap_or(self.now));
                self.rows.workspace = self.rows.workspace.lose(&id, safe_at);
            }
            RunEffect::QuarantineLock => {
                let safe_at = self.times.safe_at(self.now);
                self.rows.workspace = self.rows.workspace.restored(&id, safe_at);
            }
            RunEffect::QueueJob(phase) => {
                self.rows.set_job(Job::queued(phase));
                self.effects.push(Effect::JobQueued(phase));
            }
            RunEffect::WithdrawJob(phase) => {
                self.table(phase, &JobEvent::Withdraw)?;
            }
            RunEffect::StopJob(phase, desired) => {
                self.table(phase, &JobEvent::Stop { desired })?;
                self.effects.push(Effect::AgentTold(phase));
            }
            RunEffect::SnapshotCurrent => self.effects.push(Effect::SnapshotCurrent),
            RunEffect::ClearLostRun => self.rows.workspace.lost_run = None,
            RunEffect::NoteRetry(phase) => {
                self.effects
                    .extend([Effect::LogRetried(phase), Effect::JobQueued(phase)]);
            }
        }
        Ok(())
    }

    fn claim(&mut self, claim: &Claim) -> Result<(), Refusal> {
        let run = &self.rows.run;
        let obstacle = if !claim.incarnation_is_equal {
            Some(Refusal::NotAllowed(
                "the control plane was restored from a backup: register again",
            ))
        } else if !claim.session_is_newest {
            Some(Refusal::NotAllowed(
                "a newer process of this agent has registered",
            ))
        } else if !claim.pool_is_allowed {
            Some(Refusal::NotAllowed(
                "the agent's pool gives it nothing, or the workspace may not use the pool",
            ))
        } else if run.status.phase() != Some(claim.phase) {
            Some(Refusal::RunEnded(run.status))
        } else {
            None
        };
        let event = JobEvent::Claim {
            generation_seen: claim.generation_seen,
            attempt: claim.attempt.clone(),
            agent: claim.agent.clone(),
            session: claim.session,
            obstacle,
        };
        match self.table(claim.phase, &event)? {
            JobResult::Claimed => self.run(&RunEvent::Claimed {
                phase: claim.phase,
                current: claim.current.clone(),
            }),
            JobResult::ClaimRepeated
            | JobResult::Granted
            | JobResult::GrantRepeated
            | JobResult::Contacted
            | JobResult::Requeued
            | JobResult::Lost { .. }
            | JobResult::Finished { .. }
            | JobResult::FinishedLate
            | JobResult::Returned
            | JobResult::ReturnedLate
            | JobResult::Asked
            | JobResult::Withdrawn => Ok(()),
        }
    }

    fn start(&mut self, generation: u64, attempt: &AttemptId) -> Result<(), Refusal> {
        let run = &self.rows.run;
        let obstacle = if run.status.is_terminal() {
            Some(Refusal::RunEnded(run.status))
        } else if !self.rows.workspace.is_held_by(&run.id, run.lock_epoch) {
            Some(Refusal::LockMoved)
        } else {
            None
        };
        let event = JobEvent::Start {
            generation,
            attempt: attempt.clone(),
            obstacle,
        };
        match self.table(Phase::Apply, &event)? {
            JobResult::Granted => self.run(&RunEvent::Granted),
            JobResult::Claimed
            | JobResult::ClaimRepeated
            | JobResult::GrantRepeated
            | JobResult::Contacted
            | JobResult::Requeued
            | JobResult::Lost { .. }
            | JobResult::Finished { .. }
            | JobResult::FinishedLate
            | JobResult::Returned
            | JobResult::ReturnedLate
            | JobResult::Asked
            | JobResult::Withdrawn => Ok(()),
        }
    }

    fn finish(
        &mut self,
        phase: Phase,
        generation: u64,
        attempt: &AttemptId,
        end: End,
    ) -> Result<(), Refusal> {
        let desired = self.rows.job(phase).map_or(Desired::Run, |job| job.desired);
        let event = JobEvent::Finish {
            generation,
            attempt: attempt.clone(),
        };
        let granted = match self.table(phase, &event)? {
            JobResult::Finished { granted } => granted,
            JobResult::FinishedLate
            | JobResult::Claimed
            | JobResult::ClaimRepeated
            | JobResult::Granted
            | JobResult::GrantRepeated
            | JobResult::Contacted
            | JobResult::Requeued
            | JobResult::Lost { .. }
            | JobResult::Returned
            | JobResult::ReturnedLate
            | JobResult::Asked
            | JobResult::Withdrawn => self.rows.job(phase).is_some_and(|job| job.start_granted),
        };
        let was_terminal = self.rows.run.status.is_terminal();
        let needs_person = self.rows.workspace.lost_run.is_some();
        self.run(&RunEvent::Finished {
            phase,
            end,
            desired,
            granted,
            needs_person,
        })?;
        match phase {
            Phase::Apply if was_terminal => self.deliver(),
            Phase::Apply | Phase::Plan => {}
        }
        Ok(())
    }

    /// Whether the apply job still carries the grant of the attempt that speaks.
    fn holds_own_grant(&self, phase: Phase) -> bool {
        match phase {
            Phase::Plan => false,
            Phase::Apply => self.rows.apply.as_ref().is_some_and(|job| job.attempt.is_some()),
        }
    }

    /// The attempt of the run's apply has confirmed its end after the run's.
    fn deliver(&mut self) {
        let run = &self.rows.run;
        self.rows.workspace = self.rows.workspace.delivered(&run.id, run.lock_epoch);
    }

    /// An attempt that gives back, or that is not heard any more.
    fn gone(&mut self, phase: Phase, event: &JobEvent, reason: ErrorReason) -> Result<(), Refusal> {
        match self.table(phase, event)? {
            JobResult::Requeued => self.run(&RunEvent::Requeued { phase }),
            JobResult::Returned => self.run(&RunEvent::Returned { phase }),
            JobResult::Lost { granted } => {
                let reason = match (phase, granted, reason) {
                    (Phase::Apply, false, ErrorReason::AgentLost) => ErrorReason::NotStarted,
                    (
                        Phase::Plan | Phase::Apply,
                        true | false,
                        ErrorReason::Failed
                        | ErrorReason::EngineLost
                        | ErrorReason::AgentLost
                        | ErrorReason::NotStarted
                        | ErrorReason::Restored,
                    ) => reason,
                };
                self.run(&RunEvent::Lost {
                    phase,
                    granted,
                    reason,
                })
            }
            JobResult::Claimed
            | JobResult::ClaimRepeated
            | JobResult::Granted
            | JobResult::GrantRepeated
            | JobResult::Contacted
            | JobResult::Finished { .. }
            | JobResult::FinishedLate
            | JobResult::ReturnedLate
            | JobResult::Asked
            | JobResult::Withdrawn => Ok(()),
        }
    }

    /// A contact of an attempt whose run is in quarantine moves the quarantine.
    fn heard(&mut self, phase: Phase) {
        let run = &self.rows.run;
        match (phase, self.rows.apply.as_ref()) {
            (Phase::Apply, Some(job)) => {
                let safe_at = job.last_contact.map_or_else(
                    || self.times.safe_at(self.now),
                    |contact| self.times.safe_at(contact),
                );
                self.rows.workspace = self.rows.workspace.heard(&run.id, run.lock_epoch, safe_at);
            }
            (Phase::Apply, None) | (Phase::Plan, None | Some(_)) => {}
        }
    }

    /// The database is a backup: whatever goes on belongs to a history that it does not know.
    fn restored(&mut self) -> Result<(), Refusal> {
        let run = &self.rows.run;
        if run.status.is_terminal() && !self.rows.workspace.is_lost_by(&run.id, run.lock_epoch) {
            return Err(Refusal::RunEnded(run.status));
        }
        for phase in [Phase::Plan, Phase::Apply] {
            match self.rows.job(phase).map(|job| job.state) {
                Some(JobState::Queued | JobState::Leased | JobState::Running | JobState::Lost) => {
                    self.table(phase, &JobEvent::Restored)?;
                }
                Some(JobState::Done) | None => {}
            }
        }
        self.run(&RunEvent::Restored)
    }

    fn force_unlock(&mut self, acknowledge: Option<&AttemptId>) -> Result<(), Refusal> {
        let running = self.rows.apply.as_ref().and_then(|job| job.attempt.clone());
        let done = self
            .rows
            .workspace
            .force_unlock(running.as_ref(), acknowledge, self.now)
            .map_err(|refusal| self.explained(refusal))?;
        self.rows.workspace = done.workspace;
        if done.overridden.as_ref() == Some(&self.rows.run.id) {
            self.rows.run.aftermath = Aftermath::Overridden;
            self.effects.push(Effect::Overridden);
            if self
                .rows
                .apply
                .as_ref()
                .is_some_and(|job| job.state != JobState::Done)
            {
                self.table(
                    Phase::Apply,
                    &JobEvent::Stop {
                        desired: Desired::Kill,
                    },
                )?;
                self.effects.push(Effect::AgentTold(Phase::Apply));
            }
        }
        Ok(())
    }

    fn explained(&self, refusal: Refusal) -> Refusal {
        explain_lost(refusal, &self.rows.run.id, self.rows.apply.as_ref())
    }

    /// What follows from the rows before and after.
    fn ended(mut self, before: &Rows) -> Outcome {
        let (old, new) = (before.run.status, self.rows.run.status);
        for phase in [Phase::Plan, Phase::Apply] {
            if new.has_ended(phase) && !old.has_ended(phase) {
                self.effects.push(Effect::LogEnded(phase));
            }
        }
        if new.is_terminal() && !old.is_terminal() {
            self.effects.push(Effect::RunEnded);
        }
        let freed = match (&before.workspace.lock, &self.rows.workspace.lock) {
            (Lock::User(_) | Lock::Run(_) | Lock::Lost { .. }, Lock::Free) => true,
            (Lock::Free, Lock::Free)
            | (
                Lock::Free | Lock::User(_) | Lock::Run(_) | Lock::Lost { .. },
                Lock::User(_) | Lock::Run(_) | Lock::Lost { .. },
            ) => false,
        };
        if freed {
            self.effects.push(Effect::LockFreed);
        }
        Outcome {
            rows: self.rows,
            effects: self.effects,
            job: self.job,
        }
    }
}

/// Adds to a refusal by a quarantine what is known of its attempt: `run` and `apply` are the rows it belongs to.
pub fn explain_lost(refusal: Refusal, run: &RunId, apply: Option<&Job>) -> Refusal {
    let Refusal::LockedByLostRun {
        run: holder,
        safe_at,
        attempt,
        last_contact,
    } = refusal
    else {
        return refusal;
    };
    if holder != *run {
        return Refusal::LockedByLostRun {
            run: holder,
            safe_at,
            attempt,
            last_contact,
        };
    }
    Refusal::LockedByLostRun {
        run: holder,
        safe_at,
        attempt: apply.and_then(|job| job.attempt.clone()),
        last_contact: apply.and_then(|job| job.last_contact),
    }
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
