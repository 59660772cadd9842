//! What pools did, minute by minute.

use terrapool_model::id::JobId;
use terrapool_model::job::Phase;
use terrapool_model::pool_minutes::{Activity, KEPT, MINUTE};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::job::{FailureReason, Outcome};
use terrapool_store::error::StoreError;
use terrapool_store::{overview, pool_minutes, values};

use crate::on_both;
use crate::support::{World, command, failed, succeeded};

/// Far from what the database's own clock says, and the start of a minute.
const START: i64 = 1_600_000_020_000;

fn at(second: i64) -> Timestamp {
    Timestamp(START + second * 1000)
}

async fn set_times(world: &World, job: &JobId, queued: i64, started: i64, ended: Option<i64>) {
    command!(world, StoreError, [job = job.clone()], |tx| {
        tx.execute(
            "UPDATE jobs SET queued_at = $2, started_at = $3, finished_at = $4 WHERE id = $1",
            values![&job, at(queued), at(started), ended.map(at)],
        )
        .await
    })
    .unwrap();
}

/// Writes all that is over at a second.
async fn write(world: &World, second: i64) -> usize {
    let mut turns = 0;
    while let Some(unwritten) = pool_minutes::unwritten(&mut world.read().await, at(second))
        .await
        .unwrap()
    {
        command!(world, StoreError, [unwritten = unwritten], |tx| {
            pool_minutes::write(tx, &unwritten).await
        })
        .unwrap();
        turns += 1;
    }
    turns
}

async fn rows(world: &World) -> u64 {
    let mut connection = world.read().await;
    let sql = "SELECT COUNT(*) AS found FROM pool_minutes";
    let row = connection.fetch_one(sql, values![]).await.unwrap();
    row.count("found").unwrap()
}

/// The pool's last ten minutes, in pieces of two.
async fn seen(world: &World, second: i64) -> Vec<Activity> {
    pool_minutes::pieces(&mut world.read().await, &world.pool, (5, 2), at(second))
        .await
        .unwrap()
}

/// One that succeeded, one that ran out of memory, and one whose engine failed: all three were taken in the second minute.
async fn three_jobs(world: &World) {
    let agent = world.agent("one").await;
    let out_of_memory = Outcome::Failed {
        reason: FailureReason::OutOfMemory,
        message: "killed".to_owned(),
    };
    for (outcome, queued, started, ended) in [
        (succeeded(false), 70, 72, 100),
        (out_of_memory, 60, 80, 190),
        (failed(), 90, 95, 130),
    ] {
        let run = world.create(world.new_run()).await;
        let held = world.hold(&run.id, Phase::Plan, &agent).await;
        world.finish(&held, outcome).await.unwrap();
        set_times(world, &held.job, queued, started, Some(ended)).await;
    }
}

async fn figures_are_the_same_before_and_after_minutes_are_written(world: &World) {
    three_jobs(world).await;
    let young = seen(world, 599).await;
    let jobs: Vec<u64> = young.iter().map(|piece| piece.waits.count()).collect();
    assert_eq!(jobs, [3, 0, 0, 0, 0]);
    assert_eq!(young[0].longest_wait, Millis(20_000));
    assert_eq!(young[0].waits.percentile(50), Some(Millis(4864)));
    assert_eq!((young[0].most_used, young[0].most_waiting), (3, 2));
    // Of the two that failed, one was not the platform's fault.
    let failures: Vec<u64> = young.iter().map(|piece| piece.failures).collect();
    assert_eq!(failures, [0, 1, 0, 0, 0]);

    // Half of it is written, then all.
    write(world, 125).await;
    assert_eq!(seen(world, 599).await, young);
    write(world, 599).await;
    assert_eq!(seen(world, 599).await, young);
    assert_eq!(rows(world).await, 3);
    assert_eq!(write(world, 599).await, 0);
    // Whatever becomes of the jobs.
    command!(world, StoreError, [], |tx| {
        tx.execute("DELETE FROM jobs", values![]).await
    })
    .unwrap();
    assert_eq!(seen(world, 599).await, young);
}

async fn a_job_that_waits_and_one_that_runs_are_in_every_minute_until_now(world: &World) {
    let agent = world.agent("one").await;
    let held = world.create(world.new_run()).await;
    let job = world.hold(&held.id, Phase::Plan, &agent).await.job;
    set_times(world, &job, 0, 130, None).await;
    write(world, 400).await;
    let found = seen(world, 599).await;
    let peaks: Vec<(u64, u64)> = found
        .iter()
        .map(|piece| (piece.most_used, piece.most_waiting))
        .collect();
    assert_eq!(peaks, [(0, 1), (1, 1), (1, 0), (1, 0), (1, 0)]);
}

async fn minutes_are_written_once_also_by_two_servers(world: &World) {
    three_jobs(world).await;
    write(world, 0).await;
    let same = pool_minutes::unwritten(&mut world.read().await, at(599))
        .await
        .unwrap()
        .unwrap();
    write(world, 599).await;
    let before = seen(world, 599).await;
    command!(world, StoreError, [same = same], |tx| pool_minutes::write(
        tx, &same
    )
    .await)
    .unwrap();
    assert_eq!(seen(world, 599).await, before);
}

async fn old_minutes_are_forgotten_and_those_of_a_wrong_clock_too(world: &World) {
    three_jobs(world).await;
    write(world, 599).await;
    assert_eq!(rows(world).await, 3);
    // The clock was ahead: the minutes that lie in the future now are made again when they come.
    write(world, 100).await;
    write(world, 125).await;
    assert_eq!(rows(world).await, 1);
    write(world, 599).await;
    assert_eq!(rows(world).await, 3);
    write(world, KEPT * MINUTE / 1000 + 130).await;
    assert_eq!(rows(world).await, 2);
    write(world, KEPT * MINUTE / 1000 + 300).await;
    assert_eq!(rows(world).await, 0);
}

async fn only_failures_of_the_platform_are_told_as_such(world: &World) {
    three_jobs(world).await;
    let organization = world.organization.clone();
    let found = async |since: i64| {
        overview::platform_failures(&mut world.read().await, &organization, &world.pool, at(since))
            .await
            .unwrap()
            .len()
    };
    assert_eq!((found(0).await, found(200).await), (1, 0));
}

on_both!(
    figures_are_the_same_before_and_after_minutes_are_written,
    a_job_that_waits_and_one_that_runs_are_in_every_minute_until_now,
    minutes_are_written_once_also_by_two_servers,
    old_minutes_are_forgotten_and_those_of_a_wrong_clock_too,
    only_failures_of_the_platform_are_told_as_such,
);
