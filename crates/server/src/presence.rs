//! Agents' contacts and reservations, in memory. Contacts are written down in batches; reservations live five seconds.
//!
//! Times are those of a clock that is never set ([`terrapool_store::db::Clock::monotonic`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use terrapool_model::id::{AgentId, AgentPoolId, JobId};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{AttemptKey, Capacity, Progress, Verdict};
use terrapool_protocol::health::Health;
use terrapool_protocol::memory::MemoryCurve;
use terrapool_store::jobs::Ready;
use tokio::sync::watch;

/// How long an offered job is kept for the agent it was offered to.
pub const RESERVATION: Millis = Millis::from_seconds(5);

/// What a job has used is shown for this long after it was told: an agent tells every few seconds.
const PROGRESS_HOLDS: Millis = Millis::from_seconds(60);

/// A verdict is told again after this long, in case the answer was lost.
const TELL_AGAIN: Millis = Millis::from_seconds(1);

/// What is known of connected agents. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    state: Arc<Mutex<State>>,
    stopping: Arc<watch::Sender<bool>>,
}

/// Something that was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard<T> {
    /// What.
    pub what: T,
    /// When.
    pub at: Millis,
}

/// What an agent tells of itself in a sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfReport {
    /// The agent.
    pub agent: AgentId,
    /// The session that was heard.
    pub session: u64,
    /// What it can take.
    pub capacity: Capacity,
    /// It takes no new jobs.
    pub draining: bool,
    /// What it finds when it looks at itself.
    pub health: Option<Health>,
}

/// What was heard and is not written down yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unwritten {
    /// Of attempts.
    pub contacts: Vec<Heard<AttemptKey>>,
    /// Of agents.
    pub reports: Vec<Heard<SelfReport>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when contacts are heard without interruption; `None`: nobody listens yet.
    listening_since: Option<Millis>,
    contacts: HashMap<JobId, Heard<AttemptKey>>,
    reports: HashMap<AgentId, Heard<SelfReport>>,
    reserved: HashMap<JobId, Reservation>,
    waiting: HashMap<AgentPoolId, u32>,
    told: HashMap<AttemptKey, (Verdict, Millis)>,
    progress: HashMap<JobId, Heard<(u64, Progress)>>,
    /// When progress that nobody goes on with was looked for last.
    swept: Millis,
}

#[derive(Debug)]
struct Reservation {
    agent: AgentId,
    until: Millis,
}

/// Counts an agent that waits for work; it is not counted any more once this is dropped.
#[derive(Debug)]
pub struct Waiting {
    presence: Presence,
    pool: AgentPoolId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.presence.lock();
        if let Some(count) = state.waiting.get_mut(&self.pool) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Presence {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no answer is held: agents find out at once that they have to connect again.
    pub fn stop_holding(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether answers are still held.
    pub fn holds(&self) -> bool {
        !*self.stopping.borrow()
    }

    /// Returns once answers are not held any more.
    pub async fn stopped_holding(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender lives as long as this value.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Notes that an attempt was heard.
    pub fn contact(&self, key: AttemptKey, at: Millis) {
        let heard = Heard { what: key, at };
        self.lock().contacts.insert(heard.what.job.clone(), heard);
    }

    /// Notes that an agent was heard.
    pub fn report(&self, report: SelfReport, at: Millis) {
        let heard = Heard { what: report, at };
        self.lock().reports.insert(heard.what.agent.clone(), heard);
    }

    /// Begins to listen anew: after a start, an outage of the database, or a step of the clock nobody's silence counts
    /// from before.
    pub fn listen_anew(&self, now: Millis) {
        self.lock().listening_since = Some(now);
    }

    /// Whether this process has listened long enough to say that somebody was silent for so long.
    pub fn may_expire(&self, silence: Millis, now: Millis) -> bool {
        self.lock()
            .listening_since
            .is_some_and(|since| now.0.saturating_sub(since.0) >= silence.0)
    }

    /// Takes what has to be written down.
    pub fn take(&self) -> Unwritten {
        let mut state = self.lock();
        Unwritten {
            contacts: state.contacts.drain().map(|(_, heard)| heard).collect(),
            reports: state.reports.drain().map(|(_, heard)| heard).collect(),
        }
    }

    /// Gives back what could not be written down; newer contacts win.
    pub fn give_back(&self, unwritten: Unwritten) {
        let mut state = self.lock();
        for heard in unwritten.contacts {
            state.contacts.entry(heard.what.job.clone()).or_insert(heard);
        }
        for heard in unwritten.reports {
            state.reports.entry(heard.what.agent.clone()).or_insert(heard);
        }
    }

    /// Counts an agent as waiting for work of a pool.
    pub fn waiting(&self, pool: &AgentPoolId) -> Waiting {
        *self.lock().waiting.entry(pool.clone()).or_insert(0) += 1;
        Waiting {
            presence: self.clone(),
            pool: pool.clone(),
        }
    }

    /// Chooses from jobs in offering order what an agent is offered, and keeps it for the agent for a moment. When
    /// several agents wait, each gets its share.
    pub fn reserve(
        &self,
        pool: &AgentPoolId,
        agent: &AgentId,
        capacity: &Capacity,
        ready: Vec<Ready>,
        now: Millis,
    ) -> Vec<Ready> {
        let mut state = self.lock();
        state.reserved.retain(|_, reservation| reservation.until > now);
        let open: Vec<Ready> = ready
            .into_iter()
            .filter(|job| {
                state
                    .reserved
                    .get(&job.job)
                    .is_none_or(|held| held.agent == *agent)
            })
            .collect();
        let waiting = state.waiting.get(pool).copied().unwrap_or(1).max(1);
        let share = open.len().div_ceil(usize::try_from(waiting).unwrap_or(1));
        let slots = usize::try_from(capacity.free_slots).unwrap_or(usize::MAX);
        let mut memory = capacity.free_memory_mb;
        let mut offered = Vec::new();
        for job in open {
            if offered.len() == slots.min(share) {
                break;
            }
            if job.limits.memory_mb > memory {
                continue;
            }
            memory -= job.limits.memory_mb;
            let reservation = Reservation {
                agent: agent.clone(),
                until: now + RESERVATION,
            };
            state.reserved.insert(job.job.clone(), reservation);
            offered.push(job);
        }
        offered
    }

    /// Ends a job's reservation: it was claimed, or the claim was refused.
    pub fn release(&self, job: &JobId) {
        self.lock().reserved.remove(job);
    }

    /// Whether a verdict that asks for something is news to its agent, and notes that it is told now.
    pub fn is_news(&self, key: &AttemptKey, verdict: Verdict, now: Millis) -> bool {
        let state = self.lock();
        state
            .told
            .get(key)
            .is_none_or(|(told, at)| *told != verdict || now.0.saturating_sub(at.0) >= TELL_AGAIN.0)
    }

    /// Whether an attempt was told this before.
    pub fn was_told(&self, key: &AttemptKey, verdict: Verdict) -> bool {
        self.lock()
            .told
            .get(key)
            .is_some_and(|(told, _)| *told == verdict)
    }

    /// Notes what a job has used so far, as the attempt of a generation tells.
    pub fn note_progress(&self, job: JobId, generation: u64, progress: Progress, now: Millis) {
        let progress = Progress {
            memory: progress.memory.map(MemoryCurve::bounded),
            ..progress
        };
        let mut state = self.lock();
        if now.0.saturating_sub(state.swept.0) >= PROGRESS_HOLDS.0 {
            state.swept = now;
            state
                .progress
                .retain(|_, heard| now.0.saturating_sub(heard.at.0) < PROGRESS_HOLDS.0);
        }
        let heard = Heard {
            what: (generation, progress),
            at: now,
        };
        state.progress.insert(job, heard);
    }

    /// What a job's attempt has used so far, if it told so lately.
    pub fn progress(&self, job: &JobId, generation: u64, now: Millis) -> Option<Progress> {
        let state = self.lock();
        let heard = state.progress.get(job)?;
        let (of, progress) = &heard.what;
        let holds = *of == generation && now.0.saturating_sub(heard.at.0) < PROGRESS_HOLDS.0;
        holds.then(|| progress.clone())
    }

    /// A job has ended: what it used is told by its end.
    pub fn forget_progress(&self, job: &JobId) {
        self.lock().progress.remove(job);
    }

    /// Notes what attempts are told.
    pub fn tell(&self, answers: impl IntoIterator<Item = (AttemptKey, Verdict)>, now: Millis) {
        let mut state = self.lock();
        for (key, verdict) in answers {
            match verdict {
                // After this the attempt is not reported any more.
                Verdict::Forget => {
                    state.told.remove(&key);
                }
                Verdict::Keep
                | Verdict::Cancel
                | Verdict::Kill
                | Verdict::Deliver
                | Verdict::Surrender { .. } => {
                    state.told.insert(key, (verdict, now));
                }
            }
        }
        let horizon = Millis::from_seconds(3600);
        if state.told.len() > 4096 {
            state
                .told
                .retain(|_, (_, at)| now.0.saturating_sub(at.0) < horizon.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use terrapool_model::id::RunId;
    use terrapool_model::job::Phase;
    use terrapool_protocol::job::{Limits, Usage};

    use super::*;

    fn ready(byte: u8) -> Ready {
        Ready {
            job: JobId::from_random([byte; 16]),
            generation: 0,
            run: RunId::from_random([byte; 16]),
            phase: Phase::Plan,
            limits: Limits::default(),
            image: None,
        }
    }

    fn capacity(free_slots: u32, free_memory_mb: u64) -> Capacity {
        Capacity {
            slots: 4,
            free_slots,
            memory_mb: 4096,
            free_memory_mb,
            reserve_mb: 0,
        }
    }

    #[test]
    fn a_job_is_offered_to_one_agent_at_a_time() {
        let presence = Presence::default();
        let pool = AgentPoolId::from_random([1; 16]);
        let (one, two) = (AgentId::from_random([1; 16]), AgentId::from_random([2; 16]));
        let offer = |agent: &AgentId, now| {
            presence
                .reserve(&pool, agent, &capacity(4, 4096), vec![ready(1)], Millis(now))
                .len()
        };
        assert_eq!(offer(&one, 0), 1);
        assert_eq!(offer(&two, 4999), 0);
        assert_eq!(offer(&one, 4999), 1);
        assert_eq!(offer(&two, 10_000), 1);
    }

    #[test]
    fn no_more_is_offered_than_slots_and_memory_allow() {
        let presence = Presence::default();
        let pool = AgentPoolId::from_random([1; 16]);
        let agent = AgentId::from_random([1; 16]);
        let jobs = || (1..=8).map(ready).collect::<Vec<_>>();
        assert_eq!(
            presence
                .reserve(&pool, &agent, &capacity(3, 4096), jobs(), Millis(0))
                .len(),
            3
        );
        assert_eq!(
            presence
                .reserve(&pool, &agent, &capacity(3, 1100), jobs(), Millis(0))
                .len(),
            2
        );
        assert_eq!(
            presence
                .reserve(&pool, &agent, &capacity(0, 4096), jobs(), Millis(0))
                .len(),
            0
        );
    }

    #[test]
    fn what_a_job_used_is_of_its_newest_attempt_and_of_the_last_minute() {
        let presence = Presence::default();
        let (job, other) = (JobId::from_random([1; 16]), JobId::from_random([2; 16]));
        let progress = Progress {
            usage: Usage::default(),
            memory: None,
        };
        presence.note_progress(job.clone(), 2, progress.clone(), Millis(100_000));
        assert_eq!(
            presence.progress(&job, 2, Millis(159_999)),
            Some(progress.clone())
        );
        assert_eq!(presence.progress(&job, 3, Millis(100_000)), None);
        assert_eq!(presence.progress(&job, 2, Millis(160_000)), None);
        // Who is silent is forgotten when others tell.
        presence.note_progress(other.clone(), 1, progress, Millis(200_000));
        assert_eq!(presence.lock().progress.len(), 1);
        presence.forget_progress(&other);
        assert_eq!(presence.progress(&other, 1, Millis(200_000)), None);
    }

    #[test]
    fn waiting_agents_share_what_is_ready() {
        let presence = Presence::default();
        let pool = AgentPoolId::from_random([1; 16]);
        let (one, two) = (AgentId::from_random([1; 16]), AgentId::from_random([2; 16]));
        let _waiting = (presence.waiting(&pool), presence.waiting(&pool));
        let jobs = || vec![ready(1), ready(2), ready(3)];
        assert_eq!(
            presence
                .reserve(&pool, &one, &capacity(4, 4096), jobs(), Millis(0))
                .len(),
            2
        );
        assert_eq!(
            presence
                .reserve(&pool, &two, &capacity(4, 4096), jobs(), Millis(0))
                .len(),
            1
        );
    }
}
