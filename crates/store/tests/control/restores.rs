//! The database comes from a backup.

use terrapool_model::job::Phase;
use terrapool_model::lock::Lock;
use terrapool_model::run::{ErrorReason, RunStatus};
use terrapool_store::error::StoreError;
use terrapool_store::installation::{self, InstallationRecord};
use terrapool_store::jobs;
use terrapool_store::runs::{NewRun, TransitionError};

use crate::on_both;
use crate::support::{World, command, succeeded};

async fn restore(world: &World) -> InstallationRecord {
    command!(world, StoreError, [], |tx| {
        installation::mark_restored(tx).await?;
        installation::finish_restore(tx).await
    })
    .unwrap()
    .unwrap()
}

async fn after_a_restore_every_active_apply_ends_and_nothing_of_it_runs_again(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let restored = restore(world).await;
    assert_eq!(restored.incarnation, world.incarnation + 1);
    let errored = world.run(&run.id).await;
    assert_eq!(
        (errored.status, errored.error_reason),
        (RunStatus::Errored, Some(ErrorReason::Restored))
    );
    assert!(matches!(world.lock().await.lock, Lock::Lost { .. }));
    assert!(
        jobs::ready(&mut world.read().await, &world.pool)
            .await
            .unwrap()
            .is_empty()
    );
    let refused = world.claim(&apply.job, &agent, &world.attempt()).await;
    assert!(matches!(refused, Err(TransitionError::Refused(_))));
}

async fn after_a_restore_every_run_that_has_not_ended_ends_and_a_person_confirms_the_next(world: &World) {
    let agent = world.agent("one").await;
    let planned = world.planned(&agent).await;
    let pending = world.create(world.new_run()).await;
    let speculative = world
        .create(NewRun {
            plan_only: true,
            ..world.new_run()
        })
        .await;
    restore(world).await;
    for run in [&planned, &pending, &speculative] {
        let ended = world.run(&run.id).await;
        assert_eq!(
            (ended.status, ended.error_reason),
            (RunStatus::Errored, Some(ErrorReason::Restored))
        );
    }
    // The planned run may have been confirmed in the other history, and its apply be running.
    assert!(matches!(&world.lock().await.lock, Lock::Lost { run, .. } if *run == planned.id));
    let done = command!(world, StoreError, [], |tx| installation::finish_restore(tx).await).unwrap();
    assert_eq!(done, None, "it is done once");
}

async fn after_a_restore_auto_apply_waits_for_a_person(world: &World) {
    restore(world).await;
    let agent = world.agent("one").await;
    let run = world
        .create(NewRun {
            auto_apply: true,
            ..world.new_run()
        })
        .await;
    let job = world.job(&run.id, Phase::Plan).await.id;
    let new = jobs::NewClaim {
        job,
        generation_seen: 0,
        attempt: world.attempt(),
        agent: agent.clone(),
        session: 1,
        incarnation: world.incarnation + 1,
    };
    let claimed = command!(world, TransitionError, [new = new.clone()], |tx| jobs::claim(
        tx, &new
    )
    .await)
    .unwrap();
    let held = crate::support::Held {
        job: claimed.id,
        generation: claimed.row.generation,
        attempt: new.attempt,
    };
    world.finish(&held, succeeded(true)).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::Planned);
    world.confirm(&run.id).await.unwrap();
    assert_eq!(world.lock().await.lost_run, None);
}

on_both!(
    after_a_restore_every_active_apply_ends_and_nothing_of_it_runs_again,
    after_a_restore_every_run_that_has_not_ended_ends_and_a_person_confirms_the_next,
    after_a_restore_auto_apply_waits_for_a_person,
);
