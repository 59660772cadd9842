//! Memory in use on the hosts of agents over the last hour that was heard of them.

use terrapool_model::id::AgentId;
use terrapool_model::time::Timestamp;
use terrapool_protocol::health::Room;

use crate::db::{Connection, Tx};
use crate::error::StoreError;
use crate::values;

/// How many minutes are kept before the newest one of an agent.
pub const MINUTES: i64 = 60;

const MINUTE: i64 = 60_000;

/// Notes what a host reported; of each minute the most is kept. Nothing happens when there is no such agent any more.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn note(tx: &mut Tx, agent: &AgentId, memory: Room, at: Timestamp) -> Result<(), StoreError> {
    let used = memory.total_mb.saturating_sub(memory.free_mb);
    tx.execute(
        "INSERT INTO host_memory (agent_id, minute, used_mb) SELECT id, $2, $3 FROM agents WHERE id = $1 \
         ON CONFLICT (agent_id, minute) DO UPDATE SET used_mb = excluded.used_mb \
         WHERE host_memory.used_mb < excluded.used_mb",
        values![agent, at.0 / MINUTE, used],
    )
    .await?;
    Ok(())
}

/// The memory in use on an agent's host, in MiB, in each minute up to `last`, oldest first: at most an hour. A minute
/// that nothing was heard in has the figure of the one before.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn until(
    connection: &mut Connection,
    agent: &AgentId,
    last: Timestamp,
) -> Result<Vec<u64>, StoreError> {
    let last = last.0 / MINUTE;
    let rows = connection
        .fetch_all(
            "SELECT minute, used_mb FROM host_memory WHERE agent_id = $1 AND minute > $2 AND minute <= $3 \
             ORDER BY minute",
            values![agent, last - MINUTES, last],
        )
        .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.push((
            row.int("minute")?,
            u64::try_from(row.int("used_mb")?).unwrap_or(0),
        ));
    }
    Ok(filled(&found, last))
}

/// Minutes without a figure have the one before.
fn filled(found: &[(i64, u64)], last: i64) -> Vec<u64> {
    let Some(&(first, _)) = found.first() else {
        return Vec::new();
    };
    let mut rest = found.iter().peekable();
    let mut figure = 0;
    (first..=last)
        .map(|minute| {
            while let Some(&&(at, used)) = rest.peek()
                && at <= minute
            {
                figure = used;
                rest.next();
            }
            figure
        })
        .collect()
}

/// Removes what is older than the last hour that was heard of each agent.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn forget(tx: &mut Tx) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM host_memory WHERE minute <= \
         (SELECT a.last_ping_at / $1 - $2 FROM agents a WHERE a.id = host_memory.agent_id)",
        values![MINUTE, MINUTES],
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::filled;

    #[test]
    fn a_silent_minute_has_the_figure_of_the_one_before() {
        assert_eq!(filled(&[], 9), Vec::<u64>::new());
        assert_eq!(filled(&[(5, 10), (7, 30)], 9), [10, 10, 30, 30, 30]);
        assert_eq!(filled(&[(9, 4)], 9), [4]);
    }
}
