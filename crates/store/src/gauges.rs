//! Numbers for monitoring. Every query walks what is there now, not what has been.

use crate::db::Connection;
use crate::error::StoreError;

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauges {
    /// Workspaces.
    pub workspaces: u64,
    /// Workspaces whose lock is held.
    pub workspaces_locked: u64,
    /// Registered agents.
    pub agents: u64,
    /// Jobs that wait or run: state, phase, number.
    pub jobs: Vec<(String, String, u64)>,
}

/// Returns when the database answers.
///
/// # Errors
/// [`StoreError`] when it does not.
pub async fn ping(connection: &mut Connection) -> Result<(), StoreError> {
    connection.fetch_one("SELECT 1 AS one", Vec::new()).await?;
    Ok(())
}

/// Reads the numbers.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn read(connection: &mut Connection) -> Result<Gauges, StoreError> {
    let row = connection
        .fetch_one(
            "SELECT (SELECT COUNT(*) FROM workspaces) AS workspaces, \
             (SELECT COUNT(*) FROM workspaces WHERE lock_state <> 'free') AS locked, \
             (SELECT COUNT(*) FROM agents) AS agents",
            Vec::new(),
        )
        .await?;
    let jobs = connection
        .fetch_all(
            "SELECT state, phase, COUNT(*) AS total FROM jobs WHERE state IN ('queued', 'leased', 'running') \
             GROUP BY state, phase ORDER BY state, phase",
            Vec::new(),
        )
        .await?;
    Ok(Gauges {
        workspaces: row.count("workspaces")?,
        workspaces_locked: row.count("locked")?,
        agents: row.count("agents")?,
        jobs: jobs
            .iter()
            .map(|row| Ok((row.text("state")?, row.text("phase")?, row.count("total")?)))
            .collect::<Result<_, StoreError>>()?,
    })
}
