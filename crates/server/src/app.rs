//! What every handler and reconciler holds.

use std::sync::Arc;

use terrapool_model::time::{Millis, Timestamp};
use terrapool_objects::Objects;
use terrapool_store::db::Db;

use crate::auth::attempts::Attempts;
use crate::config::Config;
use crate::http::rate_limit::RateLimiter;
use crate::http::web::logs::LogLines;
use crate::logs::LogStore;
use crate::packages::Fetches;
use crate::presence::Presence;
use crate::refusals::Refusals;

/// The parts of a running control plane. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// The database.
    pub db: Db,
    /// Configurations, states, plan archives.
    pub objects: Objects,
    /// Log bytes.
    pub logs: LogStore,
    /// Where the lines of logs are, in memory.
    pub log_lines: LogLines,
    /// Agents' last contacts and reservations, in memory.
    pub presence: Presence,
    /// Requests of each token.
    pub rate_limiter: RateLimiter,
    /// Wrong passwords lately.
    pub sign_in_attempts: Attempts,
    /// Packages that were fetched lately.
    pub fetches: Fetches,
    /// Registrations of agents that were refused.
    pub refusals: Refusals,
    /// The configuration.
    pub config: Arc<Config>,
}

impl App {
    /// The current time, by the clock that transactions use.
    pub fn now(&self) -> Timestamp {
        self.db.clock().now()
    }

    /// Time by a clock that is never set; ages and silences are measured with it.
    pub fn monotonic(&self) -> Millis {
        self.db.clock().monotonic()
    }
}
