//! What the model's transition is asked, and what a guard that was taken out changes of question and answer.

use terrapool_model::id::AgentId;
use terrapool_model::job::{Desired, Job, JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Timestamp;
use terrapool_model::transition::{Claim, Event, Rows};

use super::{LATE, NOW, RowEvent, Tables, end, speaker, state_ref};
use crate::guard::Guard;

impl Tables {
    /// What the function is asked. Without a guard the rows are shown to it so that the guard does not see.
    pub(super) fn question(&self, before: &Rows, event: RowEvent) -> (Rows, Event, Timestamp) {
        let mut rows = before.clone();
        let mut now = NOW;
        let matched = |job: Option<&Job>, generation: u8, holds: bool, free: bool| {
            let held = job.and_then(|job| job.attempt.clone());
            match (free, job, held) {
                (true, Some(job), Some(attempt)) => (job.generation, attempt),
                (true | false, Some(_) | None, Some(_) | None) => (u64::from(generation), speaker(holds)),
            }
        };
        let event = match event {
            RowEvent::Schedule => {
                if self.lacks(Guard::ScheduledLockFree) {
                    rows.workspace.lock = Lock::Free;
                }
                Event::Schedule
            }
            RowEvent::Confirm { current, serial } => {
                let mut current = state_ref(current, serial);
                if self.lacks(Guard::SavedLockFree) && rows.run.save_plan {
                    rows.workspace.lock = Lock::Free;
                }
                if self.lacks(Guard::SavedStateSame) && rows.run.save_plan {
                    current.clone_from(&rows.run.plan_state);
                }
                Event::Confirm { current }
            }
            RowEvent::Discard => Event::Discard,
            RowEvent::Cancel => Event::Cancel,
            RowEvent::ForceCancel => {
                now = LATE;
                Event::ForceCancel
            }
            RowEvent::Claim {
                phase,
                seen,
                holds,
                current,
                serial,
            } => {
                let free = self.lacks(Guard::AttemptCompared);
                let (_, attempt) = matched(rows.job(phase), seen, holds, free);
                Event::Claim(Claim {
                    phase,
                    generation_seen: u64::from(seen),
                    attempt,
                    agent: AgentId::from_random([1; 16]),
                    session: 1,
                    session_is_newest: true,
                    incarnation_is_equal: true,
                    pool_is_allowed: true,
                    current: state_ref(current, serial),
                })
            }
            RowEvent::Start { generation, holds } => {
                let free = self.lacks(Guard::AttemptCompared);
                let (generation, attempt) = matched(rows.apply.as_ref(), generation, holds, free);
                if let Some(job) = rows.apply.as_mut()
                    && (self.lacks(Guard::StartWanted)
                        || (self.lacks(Guard::RepeatedStart) && job.state == JobState::Running))
                {
                    job.desired = Desired::Run;
                }
                Event::Start { generation, attempt }
            }
            RowEvent::End {
                phase,
                generation,
                holds,
                ending,
            } => {
                let late = rows.run.status.is_terminal();
                let free = self.lacks(Guard::EndMatches) || (self.lacks(Guard::LateEndMatches) && late);
                let (generation, attempt) = matched(rows.job(phase), generation, holds, free);
                if let Some(end) = end(ending) {
                    if let (Phase::Plan, Some(job)) = (phase, rows.plan.as_mut())
                        && self.lacks(Guard::PlanEndCanceled)
                    {
                        job.desired = Desired::Run;
                    }
                    if late && self.lacks(Guard::TerminalFinal) && phase == Phase::Apply {
                        rows.run.status = RunStatus::Applying;
                    }
                    Event::Finish {
                        phase,
                        generation,
                        attempt,
                        end,
                    }
                } else {
                    if self.lacks(Guard::ReturnWanted) {
                        want(&mut rows, phase);
                    }
                    if self.lacks(Guard::Tries) {
                        spare(&mut rows, phase);
                    }
                    Event::NeverStarted {
                        phase,
                        generation,
                        attempt,
                    }
                }
            }
            RowEvent::Expire { phase } => {
                now = LATE;
                if self.lacks(Guard::ExpireWanted) {
                    want(&mut rows, phase);
                }
                if self.lacks(Guard::Tries) {
                    spare(&mut rows, phase);
                }
                if let (Some(job), Phase::Apply) = (rows.apply.as_mut(), phase)
                    && self.lacks(Guard::GrantedNeverQueued)
                {
                    job.start_granted = false;
                }
                Event::Expire { phase }
            }
            RowEvent::CutOff { phase } => Event::CutOff { phase },
            RowEvent::Override => Event::ForceUnlock {
                acknowledge: rows.apply.as_ref().and_then(|job| job.attempt.clone()),
            },
        };
        (rows, event, now)
    }

    /// What a guard that was taken out changes of the answer.
    pub(super) fn afterwards(&self, before: &Rows, after: &mut Rows, event: &Event) {
        let quarantined = |after: &Rows| match &after.workspace.lock {
            Lock::Lost { .. } => true,
            Lock::Free | Lock::User(_) | Lock::Run(_) => false,
        };
        let unquarantined = self.lacks(Guard::LostLock)
            || (self.lacks(Guard::ForceCancelQuarantine) && *event == Event::ForceCancel);
        if unquarantined && quarantined(after) {
            after.workspace.lock = Lock::Free;
        }
        if self.lacks(Guard::ScheduledLockFree) || self.lacks(Guard::SavedLockFree) {
            // The function was shown a free lock; what it did not take stays as it was.
            if after.workspace.lock == Lock::Free && after.workspace.lock_epoch == before.workspace.lock_epoch
            {
                let scheduled = matches!(event, Event::Schedule | Event::Confirm { .. });
                if scheduled {
                    after.workspace.lock = before.workspace.lock.clone();
                }
            }
        }
        if self.lacks(Guard::Tries) {
            spare(after, Phase::Plan);
            spare(after, Phase::Apply);
        }
    }
}

fn want(rows: &mut Rows, phase: Phase) {
    if let Some(job) = job_mut(rows, phase) {
        job.desired = Desired::Run;
    }
}

fn spare(rows: &mut Rows, phase: Phase) {
    if let Some(job) = job_mut(rows, phase) {
        job.tries = 0;
    }
}

fn job_mut(rows: &mut Rows, phase: Phase) -> Option<&mut Job> {
    match phase {
        Phase::Plan => rows.plan.as_mut(),
        Phase::Apply => rows.apply.as_mut(),
    }
}
