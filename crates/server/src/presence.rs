//! Agents' contacts and reservations, in memory. Contacts are written down in batches; reservations live five seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use terrapool_model::id::{AgentId, AgentPoolId, JobId};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::agent::{AttemptKey, Capacity, Verdict};
use terrapool_store::agents::Ping;
use terrapool_store::jobs::{Contact, Ready};
use tokio::sync::watch;

/// How long an offered job is kept for the agent it was offered to.
pub const RESERVATION: Millis = Millis::from_seconds(5);

/// A verdict is told again after this long, in case the answer was lost.
const TELL_AGAIN: Millis = Millis::from_seconds(1);

/// What is known of connected agents. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Presence {
    state: Arc<Mutex<State>>,
    stopping: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct State {
    /// Since when contacts are heard without interruption.
    listening_since: Instant,
    contacts: HashMap<JobId, Contact>,
    pings: HashMap<AgentId, Ping>,
    reserved: HashMap<JobId, Reservation>,
    waiting: HashMap<AgentPoolId, u32>,
    told: HashMap<AttemptKey, (Verdict, Timestamp)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            listening_since: Instant::now(),
            contacts: HashMap::new(),
            pings: HashMap::new(),
            reserved: HashMap::new(),
            waiting: HashMap::new(),
            told: HashMap::new(),
        }
    }
}

#[derive(Debug)]
struct Reservation {
    agent: AgentId,
    until: Timestamp,
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
    pub fn contact(&self, contact: Contact) {
        self.lock().contacts.insert(contact.job.clone(), contact);
    }

    /// Notes that an agent was heard.
    pub fn ping(&self, ping: Ping) {
        self.lock().pings.insert(ping.agent.clone(), ping);
    }

    /// Begins to listen anew: after a start, an outage of the database, or a step of the clock nobody's silence counts
    /// from before.
    pub fn listen_anew(&self) {
        self.lock().listening_since = Instant::now();
    }

    /// Whether this process has listened long enough to say that somebody was silent for so long.
    pub fn may_expire(&self, silence: Millis) -> bool {
        self.lock().listening_since.elapsed() >= silence.to_std()
    }

    /// Takes what has to be written down.
    pub fn take(&self) -> (Vec<Contact>, Vec<Ping>) {
        let mut state = self.lock();
        let contacts = state.contacts.drain().map(|(_, contact)| contact).collect();
        let pings = state.pings.drain().map(|(_, ping)| ping).collect();
        (contacts, pings)
    }

    /// Gives back what could not be written down; newer contacts win.
    pub fn give_back(&self, contacts: Vec<Contact>, pings: Vec<Ping>) {
        let mut state = self.lock();
        for contact in contacts {
            state.contacts.entry(contact.job.clone()).or_insert(contact);
        }
        for ping in pings {
            state.pings.entry(ping.agent.clone()).or_insert(ping);
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
        now: Timestamp,
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
    pub fn is_news(&self, key: &AttemptKey, verdict: Verdict, now: Timestamp) -> bool {
        let state = self.lock();
        state
            .told
            .get(key)
            .is_none_or(|(told, at)| *told != verdict || (now - *at) >= TELL_AGAIN)
    }

    /// Whether an attempt was told this before.
    pub fn was_told(&self, key: &AttemptKey, verdict: Verdict) -> bool {
        self.lock()
            .told
            .get(key)
            .is_some_and(|(told, _)| *told == verdict)
    }

    /// Notes what attempts are told.
    pub fn tell(&self, answers: impl IntoIterator<Item = (AttemptKey, Verdict)>, now: Timestamp) {
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
            state.told.retain(|_, (_, at)| now - *at < horizon);
        }
    }
}

#[cfg(test)]
mod tests {
    use terrapool_model::id::RunId;
    use terrapool_model::job::Phase;
    use terrapool_protocol::job::Limits;

    use super::*;

    fn ready(byte: u8) -> Ready {
        Ready {
            job: JobId::from_random([byte; 16]),
            generation: 0,
            run: RunId::from_random([byte; 16]),
            phase: Phase::Plan,
            limits: Limits::default(),
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
                .reserve(&pool, agent, &capacity(4, 4096), vec![ready(1)], Timestamp(now))
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
                .reserve(&pool, &agent, &capacity(3, 4096), jobs(), Timestamp(0))
                .len(),
            3
        );
        assert_eq!(
            presence
                .reserve(&pool, &agent, &capacity(3, 1100), jobs(), Timestamp(0))
                .len(),
            2
        );
        assert_eq!(
            presence
                .reserve(&pool, &agent, &capacity(0, 4096), jobs(), Timestamp(0))
                .len(),
            0
        );
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
                .reserve(&pool, &one, &capacity(4, 4096), jobs(), Timestamp(0))
                .len(),
            2
        );
        assert_eq!(
            presence
                .reserve(&pool, &two, &capacity(4, 4096), jobs(), Timestamp(0))
                .len(),
            1
        );
    }
}
