//! Agents: one row for each installed agent; its session grows with each new process.

use terrapool_model::agent_status::AgentStatus;
use terrapool_model::engine::Engine;
use terrapool_model::id::{AgentId, AgentPoolId, TokenId};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_model::times::Times;
use terrapool_protocol::agent::Capacity;
use terrapool_protocol::health::Health;

use crate::db::{CommandError, Connection, Hint, Row, Tx};
use crate::error::StoreError;
use crate::page::{Listed, Page};
use crate::runs::opt_count;
use crate::{host_memory, jobs, values};

/// An agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRecord {
    /// Id.
    pub id: AgentId,
    /// Its pool.
    pub pool_id: AgentPoolId,
    /// The token its newest process registered with.
    pub token_id: Option<TokenId>,
    /// Name for people.
    pub name: String,
    /// Version of the agent.
    pub version: String,
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// How it isolates jobs.
    pub driver: String,
    /// Address it was last seen at.
    pub ip_address: String,
    /// Session of its newest process.
    pub session: u64,
    /// Name of its newest process.
    pub process_nonce: String,
    /// What it can take.
    pub capacity: Capacity,
    /// Engines that need no download.
    pub engines: Vec<Engine>,
    /// Its sandboxes run as root.
    pub root_sandboxes: bool,
    /// It takes no new jobs.
    pub draining: bool,
    /// A person wants it drained.
    pub drain_wanted: bool,
    /// It ended by itself.
    pub exited: bool,
    /// What it found when it last looked at itself; older agents do not say.
    pub health: Option<Health>,
    /// When it was last heard.
    pub last_ping_at: Timestamp,
    /// The process that its newest one superseded, when it was heard since.
    pub superseded: Option<Superseded>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Jobs it holds.
    pub jobs: u64,
}

impl AgentRecord {
    /// Another live process with the same key: a cloned machine, or an older process that is still finishing.
    pub fn duplicate(&self, now: Timestamp, times: &Times) -> Option<&Superseded> {
        self.superseded
            .as_ref()
            .filter(|other| now - other.last_ping_at < times.agent_unknown)
    }

    /// What people are shown.
    pub fn status(&self, now: Timestamp, times: &Times) -> AgentStatus {
        AgentStatus::of(self.last_ping_at, self.exited, self.jobs, now, times)
    }
}

/// A process that a newer one of the same agent has superseded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// Its session.
    pub session: u64,
    /// Address it was last seen at.
    pub ip_address: String,
    /// When it was last heard.
    pub last_ping_at: Timestamp,
}

/// A process that makes itself known.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The pool of its token.
    pub pool_id: AgentPoolId,
    /// Its token.
    pub token_id: TokenId,
    /// SHA-256 of its instance key.
    pub instance_key_hash: Vec<u8>,
    /// Name of the process.
    pub process_nonce: String,
    /// Name for people.
    pub name: String,
    /// Version of the agent.
    pub version: String,
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// How it isolates jobs.
    pub driver: String,
    /// Address it is seen at.
    pub ip_address: String,
    /// What it can take.
    pub capacity: Capacity,
    /// Engines that need no download.
    pub engines: Vec<Engine>,
    /// Its sandboxes run as root.
    pub root_sandboxes: bool,
}

const COLUMNS: &str = "a.id, a.pool_id, a.token_id, a.name, a.version, a.hostname, a.kernel, a.driver, a.ip_address, \
     a.session, a.process_nonce, a.capacity, a.engines, a.root_sandboxes, \
     a.draining, a.drain_wanted, a.exited, a.last_ping_at, a.created_at, \
     a.health, a.superseded_session, a.superseded_ip_address, a.superseded_ping_at, \
     (SELECT COUNT(*) FROM jobs j WHERE j.agent_id = a.id AND j.state IN ('leased', 'running')) AS jobs";

fn superseded(row: &Row) -> Result<Option<Superseded>, StoreError> {
    let parts = (
        opt_count(row, "superseded_session")?,
        row.opt_text("superseded_ip_address")?,
        row.opt_time("superseded_ping_at")?,
    );
    Ok(match parts {
        (Some(session), Some(ip_address), Some(last_ping_at)) => Some(Superseded {
            session,
            ip_address,
            last_ping_at,
        }),
        _ => None,
    })
}

fn from_row(row: &Row) -> Result<AgentRecord, StoreError> {
    Ok(AgentRecord {
        id: row.parse("id")?,
        pool_id: row.parse("pool_id")?,
        token_id: row.opt_parse("token_id")?,
        name: row.text("name")?,
        version: row.text("version")?,
        hostname: row.text("hostname")?,
        kernel: row.text("kernel")?,
        driver: row.text("driver")?,
        ip_address: row.text("ip_address")?,
        session: row.count("session")?,
        process_nonce: row.text("process_nonce")?,
        capacity: row.json("capacity")?,
        engines: row.json("engines")?,
        root_sandboxes: row.bool("root_sandboxes")?,
        draining: row.bool("draining")?,
        drain_wanted: row.bool("drain_wanted")?,
        superseded: superseded(row)?,
        exited: row.bool("exited")?,
        health: row.opt_json("health")?,
        last_ping_at: row.time("last_ping_at")?,
        created_at: row.time("created_at")?,
        jobs: row.count("jobs")?,
    })
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Makes a process known. The same nonce gives the same session; another one gets the next session and supersedes
/// the older process.
///
/// # Errors
/// [`StoreError::Reference`] when the pool is gone.
pub async fn register(tx: &mut Tx, new: &Registration) -> Result<AgentRecord, StoreError> {
    let now = tx.now();
    let sql = format!(
        "SELECT id, session, process_nonce FROM agents WHERE pool_id = $1 AND instance_key_hash = $2{}",
        tx.for_update()
    );
    let found = tx
        .fetch_optional(&sql, values![&new.pool_id, &new.instance_key_hash])
        .await?;
    let id = match found {
        Some(row) => {
            let id: AgentId = row.parse("id")?;
            let same = row.text("process_nonce")? == new.process_nonce;
            let session = row.count("session")? + u64::from(!same);
            tx.execute(
                "UPDATE agents SET token_id = $2, name = $3, version = $4, hostname = $5, kernel = $6, driver = $7, \
                 ip_address = $8, session = $9, process_nonce = $10, capacity = $11, engines = $12, \
                 exited = $13, last_ping_at = $14, draining = $15, root_sandboxes = $16 WHERE id = $1",
                values![
                    &id,
                    &new.token_id,
                    &new.name,
                    &new.version,
                    &new.hostname,
                    &new.kernel,
                    &new.driver,
                    &new.ip_address,
                    session,
                    &new.process_nonce,
                    json(&new.capacity),
                    json(&new.engines),
                    false,
                    now,
                    false,
                    new.root_sandboxes,
                ],
            )
            .await?;
            id
        }
        None => {
            let id = AgentId::from_random(tx.draw());
            tx.execute(
                "INSERT INTO agents (id, pool_id, token_id, instance_key_hash, name, version, hostname, kernel, \
                 driver, ip_address, session, process_nonce, capacity, engines, draining, exited, last_ping_at, \
                 created_at, root_sandboxes) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $11, $12, $13, $14, \
                 $15, $16, $17, $18)",
                values![
                    &id,
                    &new.pool_id,
                    &new.token_id,
                    &new.instance_key_hash,
                    &new.name,
                    &new.version,
                    &new.hostname,
                    &new.kernel,
                    &new.driver,
                    &new.ip_address,
                    &new.process_nonce,
                    json(&new.capacity),
                    json(&new.engines),
                    false,
                    false,
                    now,
                    now,
                    new.root_sandboxes,
                ],
            )
            .await?;
            id
        }
    };
    get(tx, &id).await?.ok_or(StoreError::Reference)
}

/// An agent.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, id: &AgentId) -> Result<Option<AgentRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM agents a WHERE a.id = $1");
    connection
        .fetch_optional(&sql, values![id])
        .await?
        .as_ref()
        .map(from_row)
        .transpose()
}

/// A pool's agents, oldest first (newest first when `newest_first`); those heard since `since`, when it is given.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn list(
    connection: &mut Connection,
    pool: &AgentPoolId,
    since: Option<Timestamp>,
    newest_first: bool,
    page: &Page,
) -> Result<Listed<AgentRecord>, StoreError> {
    const FROM: &str = "FROM agents a WHERE a.pool_id = $1 AND a.last_ping_at >= $2";
    let since = since.unwrap_or(Timestamp(0));
    let total = connection
        .fetch_one(&format!("SELECT COUNT(*) AS total {FROM}"), values![pool, since])
        .await?
        .count("total")?;
    let direction = if newest_first { "DESC" } else { "ASC" };
    let sql = format!(
        "SELECT {COLUMNS} {FROM} ORDER BY a.created_at {direction}, a.id {direction} LIMIT $3 OFFSET $4"
    );
    let rows = connection
        .fetch_all(&sql, values![pool, since, page.limit(), page.offset()])
        .await?;
    Ok(Listed {
        items: rows.iter().map(from_row).collect::<Result<_, _>>()?,
        total,
    })
}

/// How many agents a pool has: idle, busy and unknown ones.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn count(
    connection: &mut Connection,
    pool: &AgentPoolId,
    now: Timestamp,
    times: &Times,
) -> Result<u64, StoreError> {
    let since = Timestamp(now.0 - i64::try_from(times.agent_errored.0).unwrap_or(i64::MAX));
    connection
        .fetch_one(
            "SELECT COUNT(*) AS agents FROM agents WHERE pool_id = $1 AND exited = $2 AND last_ping_at > $3",
            values![pool, false, since],
        )
        .await?
        .count("agents")
}

/// What an agent told with its syncs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// The agent.
    pub agent: AgentId,
    /// Its session.
    pub session: u64,
    /// When.
    pub at: Timestamp,
    /// What it can take.
    pub capacity: Capacity,
    /// It takes no new jobs.
    pub draining: bool,
    /// What it found when it looked at itself.
    pub health: Option<Health>,
}

/// Writes pings down.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn flush_pings(tx: &mut Tx, pings: &[Ping]) -> Result<(), StoreError> {
    for ping in pings {
        tx.execute(
            "UPDATE agents SET last_ping_at = $3, capacity = $4, draining = $5, exited = $6, health = $7 \
             WHERE id = $1 AND session = $2 AND last_ping_at < $3",
            values![
                &ping.agent,
                ping.session,
                ping.at,
                json(&ping.capacity),
                ping.draining,
                false,
                ping.health.as_ref().map(json)
            ],
        )
        .await?;
        if let Some(memory) = ping.health.as_ref().and_then(|health| health.memory) {
            host_memory::note(tx, &ping.agent, memory, ping.at).await?;
        }
    }
    Ok(())
}

/// Notes that a superseded process was heard. Written down at most every ten seconds.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn superseded_heard(
    tx: &mut Tx,
    id: &AgentId,
    session: u64,
    ip_address: &str,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE agents SET superseded_session = $2, superseded_ip_address = $3, superseded_ping_at = $4 \
         WHERE id = $1 AND session > $2",
        values![id, session, ip_address, now],
    )
    .await?;
    Ok(())
}

/// A person wants an agent drained, or not any more. `false` when there is no such agent.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn want_drain(tx: &mut Tx, id: &AgentId, drain: bool) -> Result<bool, StoreError> {
    let Some(agent) = get(tx, id).await? else {
        return Ok(false);
    };
    tx.execute(
        "UPDATE agents SET drain_wanted = $2 WHERE id = $1",
        values![id, drain],
    )
    .await?;
    tx.hint(Hint::Pool(agent.pool_id));
    Ok(true)
}

/// Cuts off every agent that registered with a token: their attempts are told to stop now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn cut_off_token(tx: &mut Tx, token: &TokenId) -> Result<(), StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id FROM agents WHERE token_id = $1 ORDER BY id",
            values![token],
        )
        .await?;
    for row in rows {
        cut_off(tx, &row.parse("id")?).await?;
    }
    Ok(())
}

/// Notes that an agent ended by itself.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn exited(tx: &mut Tx, id: &AgentId, session: u64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE agents SET exited = $3 WHERE id = $1 AND session = $2",
        values![id, session, true],
    )
    .await?;
    Ok(())
}

/// Why an agent was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no such agent.
    #[error("the agent does not exist")]
    NotFound,
    /// It is alive.
    #[error("the agent is {0}: only agents that are unknown, errored or exited can be deleted")]
    Alive(AgentStatus),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CommandError for AgentError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::NotFound | Self::Alive(_) => None,
            Self::Store(error) => Some(error),
        }
    }
}

/// Deletes an agent that is not alive.
///
/// # Errors
/// [`AgentError::Alive`] for one that is idle or busy.
pub async fn delete(tx: &mut Tx, id: &AgentId, times: &Times) -> Result<(), AgentError> {
    let agent = get(tx, id).await?.ok_or(AgentError::NotFound)?;
    let status = agent.status(tx.now(), times);
    if !status.is_deletable() {
        return Err(AgentError::Alive(status));
    }
    tx.execute("DELETE FROM agents WHERE id = $1", values![id])
        .await?;
    Ok(())
}

/// Cuts an agent off: its attempts are told to stop now.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn cut_off(tx: &mut Tx, id: &AgentId) -> Result<(), StoreError> {
    if let Some(agent) = get(tx, id).await? {
        jobs::cut_off(tx, id).await?;
        tx.hint(Hint::Pool(agent.pool_id));
    }
    Ok(())
}

/// Removes agents that were silent for longer than `silence` and hold nothing; returns how many.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn remove_silent(tx: &mut Tx, silence: Millis) -> Result<u64, StoreError> {
    let before = Timestamp(tx.now().0 - i64::try_from(silence.0).unwrap_or(i64::MAX));
    tx.execute(
        "DELETE FROM agents WHERE last_ping_at < $1 AND NOT EXISTS (SELECT 1 FROM jobs j \
         WHERE j.agent_id = agents.id AND j.state IN ('leased', 'running'))",
        values![before],
    )
    .await
}
