//! How often somebody may try to sign in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use terrapool_model::time::{Millis, Timestamp};

/// Wrong passwords for one name before a pause.
const TRIES_OF_A_NAME: u32 = 5;
/// Wrong passwords from one address before a pause. Many people may share one behind a proxy.
const TRIES_OF_AN_ADDRESS: u32 = 50;
/// How long the pause is, and for how long a wrong password is remembered.
pub const PAUSE: Millis = Millis::from_seconds(15 * 60);
/// Names and addresses that are remembered at most.
const REMEMBERED: usize = 10_000;

/// Wrong passwords lately, by name and by address. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Attempts {
    failures: Arc<Mutex<HashMap<Key, Failures>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Name(String),
    Address(String),
}

impl Key {
    fn limit(&self) -> u32 {
        match self {
            Self::Name(_) => TRIES_OF_A_NAME,
            Self::Address(_) => TRIES_OF_AN_ADDRESS,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(name: &str, address: &str) -> [Key; 2] {
        [Key::Name(name.to_lowercase()), Key::Address(address.to_owned())]
    }

    /// Until when this name or address has to wait, if it has to.
    pub fn paused_until(&self, name: &str, address: &str, now: Timestamp) -> Option<Timestamp> {
        let failures = self.lock();
        Self::keys(name, address)
            .iter()
            .filter_map(|key| {
                let found = failures.get(key)?;
                (found.count >= key.limit()).then(|| found.last + PAUSE)
            })
            .filter(|until| now < *until)
            .max()
    }

    /// Counts a wrong password. Returns how many tries the name has left.
    pub fn failed(&self, name: &str, address: &str, now: Timestamp) -> u32 {
        let mut failures = self.lock();
        failures.retain(|_, found| now < found.last + PAUSE);
        if failures.len() >= REMEMBERED {
            failures.clear();
        }
        for key in Self::keys(name, address) {
            let found = failures.entry(key).or_insert(Failures { count: 0, last: now });
            found.count += 1;
            found.last = now;
        }
        let [name, _] = Self::keys(name, address);
        let used = failures.get(&name).map_or(0, |found| found.count);
        TRIES_OF_A_NAME.saturating_sub(used)
    }

    /// Forgets what was wrong with a name: it has signed in.
    pub fn succeeded(&self, name: &str) {
        self.lock().remove(&Key::Name(name.to_lowercase()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_wrong_password_begins_a_pause_that_ends() {
        let attempts = Attempts::default();
        let at = Timestamp(0);
        for left in [4, 3, 2, 1] {
            assert_eq!(attempts.failed("ana", "10.0.0.1", at), left);
            assert_eq!(attempts.paused_until("ana", "10.0.0.1", at), None);
        }
        assert_eq!(attempts.failed("Ana", "10.0.0.2", at), 0);
        assert_eq!(attempts.paused_until("ana", "10.0.0.9", at), Some(at + PAUSE));
        assert_eq!(attempts.paused_until("jonas", "10.0.0.1", at), None);
        assert_eq!(attempts.paused_until("ana", "10.0.0.9", at + PAUSE), None);
    }

    #[test]
    fn signing_in_forgets_the_wrong_passwords_before() {
        let attempts = Attempts::default();
        attempts.failed("ana", "10.0.0.1", Timestamp(0));
        attempts.succeeded("ANA");
        assert_eq!(attempts.failed("ana", "10.0.0.1", Timestamp(0)), 4);
    }

    #[test]
    fn an_address_that_tries_many_names_is_paused_too() {
        let attempts = Attempts::default();
        for number in 0..TRIES_OF_AN_ADDRESS {
            attempts.failed(&format!("user{number}"), "10.0.0.1", Timestamp(0));
        }
        assert!(attempts.paused_until("new", "10.0.0.1", Timestamp(0)).is_some());
    }
}
