//! States that attempts upload.

use terrapool_model::job::Phase;
use terrapool_model::run::RunStatus;
use terrapool_model::state_copy::Fate;
use terrapool_store::jobs::{Ended, FinishError};
use terrapool_store::state_copies;

use crate::on_both;
use crate::support::{Held, World, mark, succeeded};

async fn copies_replace_each_other_and_the_last_one_becomes_current(world: &World) {
    let agent = world.agent("one").await;
    let (_, apply) = world.applying(&agent).await;
    assert_eq!(world.upload(&apply, 1, "one").await, Fate::Intermediate);
    assert_eq!(world.upload(&apply, 1, "one").await, Fate::AlreadyStored);
    assert_eq!(world.upload(&apply, 2, "two").await, Fate::Intermediate);
    assert_eq!(world.current_serial().await, None);
    let discarded = state_copies::discarded_objects(&mut world.read().await)
        .await
        .unwrap();
    assert_eq!(discarded.len(), 1);
    world.finish(&apply, succeeded(false)).await.unwrap();
    assert_eq!(world.current_serial().await, Some(2));
}

async fn a_copy_that_does_not_follow_the_current_state_is_kept_apart(world: &World) {
    let agent = world.agent("one").await;
    let (_, apply) = world.applying(&agent).await;
    world.upload(&apply, 5, "five").await;
    world.finish(&apply, succeeded(false)).await.unwrap();
    let (_, apply) = world.applying(&agent).await;
    assert_eq!(world.upload(&apply, 5, "another five").await, Fate::KeptApart);
    assert_eq!(world.upload(&apply, 6, "six").await, Fate::Intermediate);
}

async fn a_superseded_attempts_state_is_kept_apart_and_a_plans_is_refused(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let other = Held {
        attempt: world.attempt(),
        ..apply.clone()
    };
    for number in 0..6 {
        let digest = format!("state {number}");
        assert_eq!(world.upload(&other, 10 + number, &digest).await, Fate::KeptApart);
    }
    let discarded = state_copies::discarded_objects(&mut world.read().await)
        .await
        .unwrap();
    assert_eq!(discarded.len(), 3, "the first and the newest two are kept");
    let plan = world.job(&run.id, Phase::Plan).await;
    let of_plan = Held {
        job: plan.id,
        ..apply
    };
    assert_eq!(world.upload(&of_plan, 50, "of a plan").await, Fate::Forbidden);
}

async fn a_superseded_attempt_ends_once_its_state_is_here(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let other = Held {
        attempt: world.attempt(),
        ..apply.clone()
    };
    let end = || world.finish_with(&other, succeeded(false), Some(mark(10, "of the other")));
    assert!(matches!(
        end().await,
        Err(FinishError::Incomplete {
            state_missing: true,
            ..
        })
    ));
    assert_eq!(world.upload(&other, 10, "of the other").await, Fate::KeptApart);
    assert_eq!(end().await.unwrap(), Ended::Superseded);
    assert_eq!(world.run(&run.id).await.status, RunStatus::Applying);
}

on_both!(
    a_superseded_attempt_ends_once_its_state_is_here,
    copies_replace_each_other_and_the_last_one_becomes_current,
    a_copy_that_does_not_follow_the_current_state_is_kept_apart,
    a_superseded_attempts_state_is_kept_apart_and_a_plans_is_refused,
);
