//! The server's clock is set, and its database goes away, while agents work.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use axum::http::StatusCode;
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::agent::AttemptStage;
use terrapool_server::reconcile::Leases;
use terrapool_store::db::Clock;
use terrapool_testkit::database::sqlite_by;

use super::support::{Plane, plane_on};

/// A clock that stands still until it is told to go on.
#[derive(Debug)]
struct HandClock {
    wall: AtomicI64,
    monotonic: AtomicU64,
}

impl HandClock {
    fn pass(&self, seconds: u64) {
        self.monotonic.fetch_add(seconds * 1000, Ordering::SeqCst);
        self.set(i64::try_from(seconds).unwrap());
    }

    fn set(&self, seconds: i64) {
        self.wall.fetch_add(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Millis {
        Millis(self.monotonic.load(Ordering::SeqCst))
    }
}

const HOUR: i64 = 3600;

async fn by_hand() -> (Plane, Arc<HandClock>) {
    let clock = Arc::new(HandClock {
        wall: AtomicI64::new(1_700_000_000_000),
        monotonic: AtomicU64::new(0),
    });
    let mut plane = plane_on(sqlite_by(clock.clone()).await).await;
    // Turns are taken by hand too.
    plane.stop_reconcilers().await;
    (plane, clock)
}

/// Lets time pass in turns of a second, and a lease of plans in all.
async fn turns(plane: &Plane, clock: &HandClock, leases: &mut Leases, seconds: u64) {
    for _ in 0..seconds {
        clock.pass(1);
        leases.expire(&plane.app).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interleaving_19_a_clock_that_is_set_lets_no_lease_and_no_quarantine_end() {
    let (plane, clock) = by_hand().await;
    let mut agent = plane.agent("one").await;
    let (run, apply) = plane.claimed_apply(&mut agent).await;
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    agent.stage(&apply.key, AttemptStage::Running);
    let mut leases = Leases::new();
    turns(&plane, &clock, &mut leases, 100).await;
    agent.sync(Millis::ZERO).await;
    // Forward, twice in a row, and far back: the agent is silent for less than its lease all the time.
    for step in [HOUR, HOUR, -4 * HOUR, HOUR] {
        clock.set(step);
        turns(&plane, &clock, &mut leases, 30).await;
    }
    assert_eq!(plane.run(&run).await.status, RunStatus::Applying);
    agent.sync(Millis::ZERO).await;
    turns(&plane, &clock, &mut leases, 290).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Applying);
    // Real silence still ends it, however the clock stands.
    turns(&plane, &clock, &mut leases, 60).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Errored);
    clock.set(2 * HOUR);
    turns(&plane, &clock, &mut leases, 60).await;
    assert!(
        matches!(plane.lock().await, Lock::Lost { .. }),
        "an engine of it may still be alive"
    );
    turns(&plane, &clock, &mut leases, 45 * 60).await;
    assert_eq!(plane.lock().await, Lock::Free);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_lasts_no_longer_when_the_clock_was_set_back_while_no_server_ran() {
    let (plane, clock) = by_hand().await;
    let mut agent = plane.agent("one").await;
    let (run, apply) = plane.claimed_apply(&mut agent).await;
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    let mut leases = Leases::new();
    turns(&plane, &clock, &mut leases, 700).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Errored);
    assert!(matches!(plane.lock().await, Lock::Lost { .. }));
    // Another process begins to look after the clock was set.
    clock.set(-3 * HOUR);
    let mut leases = Leases::new();
    turns(&plane, &clock, &mut leases, 45 * 60).await;
    assert_eq!(plane.lock().await, Lock::Free);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_ends_before_the_server_has_listened_for_a_lease_after_it_stood_still() {
    let (plane, clock) = by_hand().await;
    let mut agent = plane.agent("one").await;
    let (run, _plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    let mut leases = Leases::new();
    turns(&plane, &clock, &mut leases, 60).await;
    // Suspended, stopped, or without its database for ten minutes, together with everybody's syncs.
    clock.pass(600);
    turns(&plane, &clock, &mut leases, 85).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Planning);
    agent.sync(Millis::ZERO).await;
    turns(&plane, &clock, &mut leases, 60).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Planning);
    turns(&plane, &clock, &mut leases, 60).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::PlanQueued);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_everybody_falls_silent_together_one_more_lease_is_waited() {
    let (plane, clock) = by_hand().await;
    let mut agent = plane.agent("one").await;
    agent.capacity.free_slots = 20;
    let mut runs = Vec::new();
    for _ in 0..8 {
        let new = terrapool_store::runs::NewRun {
            plan_only: true,
            ..plane.seed.new_run()
        };
        runs.push(plane.planning(&mut agent, new).await.0);
    }
    let mut leases = Leases::new();
    let planning = async || {
        let mut count = 0;
        for run in &runs {
            count += usize::from(plane.run(run).await.status == RunStatus::Planning);
        }
        count
    };
    turns(&plane, &clock, &mut leases, 130).await;
    assert_eq!(planning().await, 8, "held back");
    turns(&plane, &clock, &mut leases, 100).await;
    assert_eq!(planning().await, 0, "they were really gone");
}
