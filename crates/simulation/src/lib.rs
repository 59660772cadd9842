#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use terrapool_model::time::Millis;
use terrapool_model::times::Times;
pub use terrapool_testkit::database::DatabaseKind;

mod calls;
mod checks;
mod clock;
mod control_plane;
mod engine;
mod faults;
mod host;
mod incoming;
mod outgoing;
mod people;
mod process;
mod sandbox;
mod world;

pub use world::Counts;

/// A fault that is built into every agent, which the checks have to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// A process that was started says of every attempt that its engine was not.
    MarkerIgnored,
    /// Nothing of an attempt reaches the disk before it is over.
    ForgottenJournal,
    /// Runners tell nothing of the states that engines write.
    UntoldState,
}

/// One simulation.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Where rows are kept.
    pub database: DatabaseKind,
    /// Agents.
    pub hosts: usize,
    /// Jobs that an agent works on at once.
    pub slots: u32,
    /// Workspaces.
    pub workspaces: usize,
    /// Runs.
    pub runs: usize,
    /// Kills, cuts and the like.
    pub faults: usize,
    /// How long things break.
    pub window: Millis,
    /// Of a hundred requests, and of a hundred answers, so many are lost, and so many come twice.
    pub loss: u32,
    /// A request that is late is so late at most.
    pub late: Millis,
    /// The pool's times.
    pub times: Times,
    /// A fault of the agent.
    pub sabotage: Option<Sabotage>,
    /// Whether what happened is written down.
    pub trace: bool,
}

/// Times as short as leaves their order intact: a simulated hour costs real seconds.
fn short_times() -> Times {
    Times {
        hold: Millis::from_seconds(4),
        flush: Millis::from_seconds(2),
        lease_plan: Millis::from_seconds(24),
        lease_apply: Millis::from_seconds(36),
        contact_limit_plan: Some(Millis::from_seconds(15)),
        contact_limit_apply: Some(Millis::from_seconds(70)),
        grace_plan: Millis::from_seconds(5),
        grace_apply: Millis::from_seconds(10),
        kill_after: Millis::from_seconds(2),
        start_window: Millis::from_seconds(8),
        margin: Millis::from_seconds(5),
        cool_off: Millis::from_seconds(8),
        ..Times::default()
    }
}

impl Settings {
    /// A few agents and runs, of which thousands are simulated in minutes.
    pub fn small(seed: u64, database: DatabaseKind) -> Self {
        Self {
            seed,
            database,
            hosts: 3,
            slots: 2,
            workspaces: 2,
            runs: 6,
            faults: 9,
            window: Millis::from_seconds(150),
            loss: 4,
            late: Millis::from_seconds(100),
            times: short_times(),
            sabotage: None,
            trace: true,
        }
    }

    /// Fifty agents and a thousand jobs.
    pub fn large(seed: u64, database: DatabaseKind) -> Self {
        Self {
            hosts: 50,
            slots: 3,
            workspaces: 120,
            runs: 680,
            faults: 150,
            window: Millis::from_seconds(600),
            ..Self::small(seed, database)
        }
    }
}

/// How a simulation ended.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was counted.
    pub counts: Counts,
    /// Promises that were broken.
    pub violations: Vec<String>,
    /// The last that happened, oldest first.
    pub trace: Vec<String>,
}

/// Simulates.
///
/// # Errors
/// When the control plane under test cannot be set up, or a part of it fails in a way that no client would see.
pub async fn simulate(settings: Settings) -> anyhow::Result<Report> {
    let mut world = world::World::new(settings).await?;
    world.run().await?;
    Ok(Report {
        counts: world.counts,
        violations: world.violations.clone(),
        trace: world.trace(),
    })
}
