//! What each pool did, minute by minute. Minutes are written once, when they are over; what is younger is made from the
//! jobs themselves.

use terrapool_model::id::AgentPoolId;
use terrapool_model::pool_minutes::{self, Activity, JobTimes, KEPT, MINUTE, minute_of};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::job::{FailureReason, Outcome};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::jobs::RecordedEnd;
use crate::values;

/// Minutes that are written in one turn at most, so that the first turn over a database that has many jobs holds up
/// nobody.
const MOST_AT_ONCE: i64 = 12 * 60;

/// The first minute that is not written yet, as it stands in the database.
async fn mark(connection: &mut Connection, lock: &str) -> Result<i64, StoreError> {
    let row = connection
        .fetch_optional(
            &format!("SELECT pool_minutes_until FROM installation{lock}"),
            values![],
        )
        .await?;
    row.map_or(Ok(0), |row| row.int("pool_minutes_until"))
}

/// The first minute that is not written, as seen in the minute `now`.
fn first_unwritten(mark: i64, now: i64) -> i64 {
    // The mark lies in the future when the clock was set back.
    mark.clamp(now - KEPT, now)
}

fn job_times(row: &Row) -> Result<JobTimes, StoreError> {
    let recorded: Option<RecordedEnd> = row.opt_json("outcome")?;
    let queued_at = row.time("queued_at")?;
    let state = row.text("state")?;
    let ended_at = match state.as_str() {
        "done" | "lost" => row.opt_time("finished_at")?,
        _ => None,
    };
    Ok(JobTimes {
        queued_at,
        // One that waits anew keeps the time when it was taken before.
        started_at: row
            .opt_time("started_at")?
            .filter(|at| *at >= queued_at && state != "queued"),
        ended_at,
        platform_failure: is_platform_failure(state == "lost", recorded.map(|end| end.outcome).as_ref()),
    })
}

/// Whether a job that has ended, and may have been given up, failed by a fault of the platform: not by its
/// configuration's, and not because somebody wanted it.
pub(crate) fn is_platform_failure(given_up: bool, outcome: Option<&Outcome>) -> bool {
    match outcome {
        Some(Outcome::EngineLost { .. }) => true,
        Some(Outcome::Failed { reason, .. }) => match reason {
            FailureReason::OutOfMemory
            | FailureReason::Limit
            | FailureReason::LostContact
            | FailureReason::Internal
            | FailureReason::Engine => true,
            FailureReason::Configuration
            | FailureReason::Init
            | FailureReason::Exit
            | FailureReason::PlanMismatch => false,
        },
        Some(Outcome::Succeeded { .. } | Outcome::Canceled | Outcome::NeverStarted { .. }) => false,
        None => given_up,
    }
}

/// The times of all jobs of a pool that waited or ran at a moment since `since`.
async fn jobs_since(
    connection: &mut Connection,
    pool: &AgentPoolId,
    since: i64,
) -> Result<Vec<JobTimes>, StoreError> {
    const COLUMNS: &str =
        "SELECT queued_at, started_at, finished_at, state, outcome FROM jobs WHERE pool_id = $1";
    let sql = format!(
        "{COLUMNS} AND state IN ('queued', 'leased', 'running') UNION ALL \
         {COLUMNS} AND state IN ('done', 'lost') AND finished_at IS NOT NULL AND finished_at >= $2"
    );
    let rows = connection
        .fetch_all(&sql, values![pool, since.saturating_mul(MINUTE)])
        .await?;
    rows.iter().map(job_times).collect()
}

/// Minutes that are over, made and not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    mark: i64,
    from: i64,
    until: i64,
    minutes: Vec<(AgentPoolId, i64, Activity)>,
}

/// The next minutes that are over and not written; `None` when all are.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn unwritten(connection: &mut Connection, now: Timestamp) -> Result<Option<Unwritten>, StoreError> {
    let now = minute_of(now);
    let mark = mark(connection, "").await?;
    let from = first_unwritten(mark, now);
    let until = now.min(from + MOST_AT_ONCE);
    // A mark that the clock was set back behind is moved, without a minute to write.
    if until == mark {
        return Ok(None);
    }
    let mut minutes = Vec::new();
    for row in connection
        .fetch_all("SELECT id FROM agent_pools", values![])
        .await?
    {
        let pool: AgentPoolId = row.parse("id")?;
        let jobs = jobs_since(connection, &pool, from).await?;
        minutes.extend(
            pool_minutes::minutes(&jobs, from, until)
                .into_iter()
                .map(|(minute, activity)| (pool.clone(), minute, activity)),
        );
    }
    Ok(Some(Unwritten {
        mark,
        from,
        until,
        minutes,
    }))
}

/// Writes minutes, and removes those that are older than [`KEPT`]. Nothing happens when another process was quicker.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn write(tx: &mut Tx, unwritten: &Unwritten) -> Result<(), StoreError> {
    let lock = tx.for_update();
    if mark(tx, lock).await? != unwritten.mark {
        return Ok(());
    }
    for table in ["pool_minutes", "pool_waits"] {
        let of_pools = format!("DELETE FROM {table} WHERE pool_id IN (SELECT id FROM agent_pools)");
        tx.execute(
            &format!("{of_pools} AND minute < $1"),
            values![unwritten.until - KEPT],
        )
        .await?;
        // What was written before the clock was set back.
        tx.execute(&format!("{of_pools} AND minute >= $1"), values![unwritten.from])
            .await?;
    }
    for (pool, minute, activity) in &unwritten.minutes {
        tx.execute(
            "INSERT INTO pool_minutes (pool_id, minute, longest_wait, failures, most_used, most_waiting) \
             SELECT id, $2, $3, $4, $5, $6 FROM agent_pools WHERE id = $1",
            values![
                pool,
                *minute,
                activity.longest_wait.0,
                activity.failures,
                activity.most_used,
                activity.most_waiting,
            ],
        )
        .await?;
        for (bucket, jobs) in activity.waits.buckets() {
            tx.execute(
                "INSERT INTO pool_waits (pool_id, minute, bucket, jobs) \
                 SELECT id, $2, $3, $4 FROM agent_pools WHERE id = $1",
                values![pool, *minute, bucket, jobs],
            )
            .await?;
        }
    }
    tx.execute(
        "UPDATE installation SET pool_minutes_until = $1",
        values![unwritten.until],
    )
    .await?;
    Ok(())
}

/// What a pool did in `pieces` pieces of `length` minutes, oldest first; the last one ends with the minute of `now`.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn pieces(
    connection: &mut Connection,
    pool: &AgentPoolId,
    (pieces, length): (usize, i64),
    now: Timestamp,
) -> Result<Vec<Activity>, StoreError> {
    let now = minute_of(now);
    let first = now + 1 - length * i64::try_from(pieces).unwrap_or(i64::MAX);
    let mut found = vec![Activity::default(); pieces];
    let at = |piece: u64| usize::try_from(piece).ok().filter(|piece| *piece < pieces);
    let written = first_unwritten(mark(connection, "").await?, now);
    let rows = connection
        .fetch_all(
            "SELECT (minute - $2) / $3 AS piece, MAX(longest_wait) AS longest_wait, \
             CAST(SUM(failures) AS BIGINT) AS failures, MAX(most_used) AS most_used, \
             MAX(most_waiting) AS most_waiting FROM pool_minutes \
             WHERE pool_id = $1 AND minute >= $2 AND minute < $4 GROUP BY (minute - $2) / $3",
            values![pool, first, length, written],
        )
        .await?;
    for row in &rows {
        if let Some(piece) = at(row.count("piece")?) {
            found[piece] = Activity {
                longest_wait: Millis(row.count("longest_wait")?),
                failures: row.count("failures")?,
                most_used: row.count("most_used")?,
                most_waiting: row.count("most_waiting")?,
                ..Activity::default()
            };
        }
    }
    let rows = connection
        .fetch_all(
            "SELECT (minute - $2) / $3 AS piece, bucket, CAST(SUM(jobs) AS BIGINT) AS jobs FROM pool_waits \
             WHERE pool_id = $1 AND minute >= $2 AND minute < $4 GROUP BY (minute - $2) / $3, bucket",
            values![pool, first, length, written],
        )
        .await?;
    for row in &rows {
        if let Some(piece) = at(row.count("piece")?) {
            found[piece]
                .waits
                .add_bucket(row.count("bucket")?, row.count("jobs")?);
        }
    }
    let young = written.max(first);
    let jobs = jobs_since(connection, pool, young).await?;
    for (minute, activity) in pool_minutes::minutes(&jobs, young, now + 1) {
        if let Some(piece) = u64::try_from((minute - first) / length).ok().and_then(at) {
            found[piece].merge(&activity);
        }
    }
    Ok(found)
}
