//! The clock is set: deadlines follow it, once, whoever sees it first.

use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::deadlines;
use terrapool_store::error::StoreError;
use terrapool_store::jobs::{self, Contact};

use crate::on_both;
use crate::support::{World, command};

const HOUR: i64 = 3_600_000;

async fn moved(world: &World) -> i64 {
    deadlines::moved(&mut world.read().await).await.unwrap()
}

async fn follow(world: &World, set: i64, since: i64) -> i64 {
    command!(world, StoreError, [], |tx| deadlines::follow_clock(
        tx, set, since
    )
    .await)
    .unwrap()
}

async fn contacts_and_quarantines_follow_the_clock(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let contact = async || world.job(&run.id, Phase::Apply).await.row.last_contact.unwrap().0;
    let before = contact().await;
    let start = moved(world).await;
    assert_eq!(follow(world, HOUR, start).await, start + HOUR);
    assert_eq!(contact().await, before + HOUR);
    assert_eq!(follow(world, -2 * HOUR, start + HOUR).await, start - HOUR);
    assert_eq!(contact().await, before - HOUR);
    follow(world, HOUR, start - HOUR).await;
    world.end_leases_at_once().await;
    world.expire(&apply.job).await.unwrap();
    let safe_at = async || match world.lock().await.lock {
        Lock::Lost {
            safe_at: Some(Timestamp(at)),
            ..
        } => at,
        other => panic!("{other:?}"),
    };
    let first = safe_at().await;
    follow(world, HOUR, moved(world).await).await;
    assert_eq!(safe_at().await, first + HOUR);
}

async fn two_processes_that_see_the_same_step_move_deadlines_once(world: &World) {
    let agent = world.agent("one").await;
    let (run, _) = world.applying(&agent).await;
    let before = world.job(&run.id, Phase::Apply).await.row.last_contact.unwrap();
    let start = moved(world).await;
    // Each measures with its own clock, so not exactly the same.
    follow(world, HOUR, start).await;
    assert_eq!(follow(world, HOUR + 800, start).await, start + HOUR);
    let after = world.job(&run.id, Phase::Apply).await.row.last_contact.unwrap();
    assert_eq!(after, Timestamp(before.0 + HOUR));
}

async fn a_contact_of_the_future_becomes_one_of_now(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let now = world.job(&run.id, Phase::Apply).await.row.last_contact.unwrap();
    let ahead = Contact {
        job: apply.job.clone(),
        generation: apply.generation,
        attempt: apply.attempt.clone(),
        at: now + Millis(10_000_000),
    };
    command!(world, StoreError, [contacts = vec![ahead]], |tx| {
        jobs::flush_contacts(tx, &contacts).await?;
        deadlines::contacts_are_past(tx).await
    })
    .unwrap();
    let after = world.job(&run.id, Phase::Apply).await.row.last_contact.unwrap();
    assert!(after >= now && after < now + Millis(10_000_000));
}

on_both!(
    contacts_and_quarantines_follow_the_clock,
    two_processes_that_see_the_same_step_move_deadlines_once,
    a_contact_of_the_future_becomes_one_of_now,
);
