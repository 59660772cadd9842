//! Registrations of agents that were refused, in memory: they are shown to whoever looks why a pool has no agents, and
//! nothing depends on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use terrapool_model::id::{AgentPoolId, TokenId};
use terrapool_model::time::Timestamp;
use terrapool_store::agent_tokens::AgentTokenRecord;

/// Refused registrations with one token from one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The token's description.
    pub token: String,
    /// The token was revoked; else it has expired.
    pub revoked: bool,
    /// Where they came from.
    pub address: String,
    /// How many there were.
    pub tries: Tries,
}

/// How often something was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Times.
    pub number: u64,
    /// The last time.
    pub last: Timestamp,
}

/// Anybody who has a token that was once valid can make entries: more than this many are not remembered.
const MOST: usize = 1000;

/// What was refused since the server was started.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<(TokenId, String), (AgentPoolId, Refusal)>,
    unknown: Option<Tries>,
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a refusal; `token` is what the control plane knows of the token, if it does.
    pub fn note(&self, token: Option<&AgentTokenRecord>, address: &str, now: Timestamp) {
        let again = |before: Option<Tries>| Tries {
            number: before.map_or(0, |before| before.number) + 1,
            last: now,
        };
        let mut state = self.lock();
        let Some(token) = token else {
            state.unknown = Some(again(state.unknown));
            return;
        };
        let key = (token.id.clone(), address.to_owned());
        if state.known.len() >= MOST && !state.known.contains_key(&key) {
            let oldest = state
                .known
                .iter()
                .min_by_key(|(_, (_, refusal))| refusal.tries.last)
                .map(|(key, _)| key.clone());
            oldest.and_then(|key| state.known.remove(&key));
        }
        let refusal = Refusal {
            token: token.description.clone(),
            revoked: token.revoked_at.is_some(),
            address: address.to_owned(),
            tries: again(state.known.get(&key).map(|(_, refusal)| refusal.tries)),
        };
        state.known.insert(key, (token.pool_id.clone(), refusal));
    }

    /// Those with tokens of a pool, the newest first.
    pub fn of(&self, pool: &AgentPoolId) -> Vec<Refusal> {
        let mut found: Vec<Refusal> = self
            .lock()
            .known
            .values()
            .filter(|(of, _)| of == pool)
            .map(|(_, refusal)| refusal.clone())
            .collect();
        found.sort_by_key(|refusal| std::cmp::Reverse(refusal.tries.last));
        found
    }

    /// Those with tokens that nobody knows. Whose pool they were meant for is not known either.
    pub fn unknown(&self) -> Option<Tries> {
        self.lock().unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(pool: u8, id: u8) -> AgentTokenRecord {
        AgentTokenRecord {
            id: TokenId::from_random([id; 16]),
            pool_id: AgentPoolId::from_random([pool; 16]),
            description: "t".to_owned(),
            created_by: None,
            created_at: Timestamp(0),
            last_used_at: None,
            expires_at: None,
            revoked_at: Some(Timestamp(1)),
        }
    }

    #[test]
    fn refusals_are_counted_by_token_and_address_and_shown_to_their_pool() {
        let refusals = Refusals::default();
        let (one, other) = (token(1, 1), token(2, 2));
        refusals.note(Some(&one), "10.0.0.1", Timestamp(5));
        refusals.note(Some(&one), "10.0.0.1", Timestamp(6));
        refusals.note(Some(&one), "10.0.0.2", Timestamp(7));
        refusals.note(Some(&other), "10.0.0.3", Timestamp(8));
        refusals.note(None, "10.0.0.4", Timestamp(9));
        let seen: Vec<(String, u64)> = refusals
            .of(&one.pool_id)
            .into_iter()
            .map(|refusal| (refusal.address, refusal.tries.number))
            .collect();
        assert_eq!(seen, [("10.0.0.2".to_owned(), 1), ("10.0.0.1".to_owned(), 2)]);
        assert_eq!(
            refusals.unknown(),
            Some(Tries {
                number: 1,
                last: Timestamp(9)
            })
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        let one = token(1, 1);
        for number in 0..=MOST {
            let at = Timestamp(i64::try_from(number).unwrap());
            refusals.note(Some(&one), &format!("address {number}"), at);
        }
        let found = refusals.of(&one.pool_id);
        assert_eq!(found.len(), MOST);
        assert!(found.iter().all(|refusal| refusal.address != "address 0"));
    }
}
