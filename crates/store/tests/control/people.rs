//! What people do: lock, unlock, discard, cancel, force-cancel.

use terrapool_model::id::UserId;
use terrapool_model::job::{Desired, JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::refusal::Refusal;
use terrapool_model::run::RunStatus;
use terrapool_store::error::StoreError;
use terrapool_store::locks;
use terrapool_store::runs::{self, NewRun, TransitionError};
use terrapool_store::sight::Sight;
use terrapool_store::{logs, values};

use crate::on_both;
use crate::support::{Done, World, command, succeeded};

async fn lock(world: &World, user: &UserId) -> Done<()> {
    command!(
        world,
        TransitionError,
        [id = world.workspace.clone(), user = user.clone()],
        |tx| locks::lock_by_user(tx, &id, &user, Some("maintenance")).await
    )
}

async fn unlock(world: &World, user: &UserId) -> Done<()> {
    command!(
        world,
        TransitionError,
        [id = world.workspace.clone(), user = user.clone()],
        |tx| locks::unlock_by_user(tx, &id, Some(&user)).await
    )
}

async fn force_unlock(world: &World) -> Done<()> {
    command!(world, TransitionError, [id = world.workspace.clone()], |tx| {
        locks::force_unlock(tx, &id, None, None).await
    })
}

async fn a_users_lock_holds_runs_back_until_it_is_released(world: &World) {
    lock(world, &world.user).await.unwrap();
    let again = lock(world, &world.other_user).await.unwrap_err();
    assert!(again.to_string().contains("is locked by User"), "{again}");
    let run = world.create(world.new_run()).await;
    assert_eq!(run.status, RunStatus::Pending);
    let speculative = world
        .create(NewRun {
            plan_only: true,
            ..world.new_run()
        })
        .await;
    assert_eq!(
        speculative.status,
        RunStatus::PlanQueued,
        "a speculative plan needs no lock"
    );
    let others = unlock(world, &world.other_user).await.unwrap_err();
    assert!(others.to_string().contains("is locked by User"), "{others}");
    unlock(world, &world.user).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::PlanQueued);
    let by_run = unlock(world, &world.user).await.unwrap_err();
    assert!(by_run.to_string().contains("is locked by Run"), "{by_run}");
    let forced = force_unlock(world).await.unwrap_err();
    assert!(forced.to_string().contains("is locked by Run"), "{forced}");
}

async fn a_free_workspace_cannot_be_unlocked(world: &World) {
    let refused = unlock(world, &world.user).await.unwrap_err();
    assert!(refused.to_string().contains("already unlocked"), "{refused}");
    let forced = force_unlock(world).await.unwrap_err();
    assert!(forced.to_string().contains("already unlocked"), "{forced}");
}

async fn a_pending_state_upload_keeps_the_workspace_locked(world: &World) {
    lock(world, &world.user).await.unwrap();
    command!(world, StoreError, [id = world.workspace.clone()], |tx| {
        let version = terrapool_model::id::StateVersionId::from_random(tx.draw());
        tx.execute(
            "INSERT INTO state_versions (id, workspace_id, status, created_at) VALUES ($1, $2, 'pending', 1)",
            values![&version, &id],
        )
        .await
    })
    .unwrap();
    let refused = unlock(world, &world.user).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("latest state version is still pending"),
        "{refused}"
    );
    assert!(matches!(refused, TransitionError::Refused(Refusal::StatePending)));
    force_unlock(world).await.unwrap();
    assert_eq!(world.lock().await.lock, Lock::Free);
}

async fn discarding_a_run_lets_the_next_one_go(world: &World) {
    let agent = world.agent("one").await;
    let first = world.planned(&agent).await;
    let second = world.create(world.new_run()).await;
    let canceled = world.cancel(&first.id).await.unwrap_err();
    assert!(matches!(
        canceled,
        TransitionError::Refused(Refusal::DiscardInstead(RunStatus::Planned))
    ));
    assert_eq!(
        world.discard(&first.id).await.unwrap().status,
        RunStatus::Discarded
    );
    assert_eq!(world.run(&second.id).await.status, RunStatus::PlanQueued);
    assert!(matches!(
        world.confirm(&first.id).await,
        Err(TransitionError::Refused(_))
    ));
    let ended = logs::of_run(&mut world.read().await, &first.id).await.unwrap();
    assert!(
        ended.iter().all(|log| log.ended && log.size.is_none()),
        "{ended:?}"
    );
    assert_eq!(logs::unsealed(&mut world.read().await).await.unwrap().len(), 2);
}

async fn canceling_what_nobody_works_on_ends_it_at_once(world: &World) {
    let first = world.create(world.new_run()).await;
    let second = world.create(world.new_run()).await;
    let pending = world.cancel(&second.id).await.unwrap();
    assert_eq!(pending.status, RunStatus::Canceled);
    assert!(pending.force_cancel_available_at.is_some());
    let queued = world.cancel(&first.id).await.unwrap();
    assert_eq!(queued.status, RunStatus::Canceled);
    assert_eq!(world.job(&first.id, Phase::Plan).await.row.state, JobState::Done);
    assert_eq!(world.lock().await.lock, Lock::Free);
}

async fn a_canceled_plan_never_applies_whatever_its_end(world: &World) {
    let agent = world.agent("one").await;
    let run = world
        .create(NewRun {
            auto_apply: true,
            ..world.new_run()
        })
        .await;
    let plan = world.hold(&run.id, Phase::Plan, &agent).await;
    assert_eq!(world.cancel(&run.id).await.unwrap().status, RunStatus::Planning);
    assert_eq!(world.job(&run.id, Phase::Plan).await.row.desired, Desired::Cancel);
    world.finish(&plan, succeeded(true)).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::Canceled);
}

async fn a_force_canceled_apply_keeps_its_workspace_until_the_attempt_confirms(world: &World) {
    world.end_leases_at_once().await;
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    assert!(matches!(
        world.force_cancel(&run.id).await,
        Err(TransitionError::Refused(Refusal::NotCanceledYet))
    ));
    world.cancel(&run.id).await.unwrap();
    assert_eq!(
        world.force_cancel(&run.id).await.unwrap().status,
        RunStatus::ForceCanceled
    );
    assert!(matches!(world.lock().await.lock, Lock::Lost { .. }));
    assert_eq!(world.job(&run.id, Phase::Apply).await.row.desired, Desired::Kill);
    world.finish(&apply, succeeded(false)).await.unwrap();
    assert_eq!(world.lock().await.lock, Lock::Free);
    assert_eq!(world.run(&run.id).await.status, RunStatus::ForceCanceled);
}

async fn a_saved_plan_is_applied_only_on_the_state_it_read(world: &World) {
    let agent = world.agent("one").await;
    let saved = world
        .create(NewRun {
            save_plan: true,
            ..world.new_run()
        })
        .await;
    let plan = world.hold(&saved.id, Phase::Plan, &agent).await;
    world.finish(&plan, succeeded(true)).await.unwrap();
    assert_eq!(world.run(&saved.id).await.status, RunStatus::PlannedAndSaved);
    assert_eq!(world.lock().await.lock, Lock::Free);
    let (other, apply) = world.applying(&agent).await;
    let refused = world.confirm(&saved.id).await.unwrap_err();
    assert!(refused.to_string().contains("is locked by Run"), "{refused}");
    world.upload(&apply, 1, "one").await;
    world.finish(&apply, succeeded(false)).await.unwrap();
    assert_eq!(world.run(&other.id).await.status, RunStatus::Applied);
    let stale = world.confirm(&saved.id).await.unwrap_err();
    assert!(
        matches!(stale, TransitionError::Refused(Refusal::StalePlan)),
        "{stale}"
    );
}

async fn lists_are_paged_and_count_everything(world: &World) {
    for _ in 0..3 {
        world
            .create(NewRun {
                plan_only: true,
                ..world.new_run()
            })
            .await;
    }
    let page = terrapool_store::page::Page { number: 2, size: 2 };
    let listed = runs::list_of_workspace(&mut world.read().await, &world.workspace, &page)
        .await
        .unwrap();
    assert_eq!(
        (listed.total, listed.items.len(), listed.items[0].number),
        (3, 1, 1)
    );
    let far = terrapool_store::page::Page {
        number: 999,
        size: 20,
    };
    let active =
        runs::active_of_organization(&mut world.read().await, &world.organization, &Sight::All, &far)
            .await
            .unwrap();
    assert_eq!((active.total, active.items.len()), (3, 0));
}

on_both!(
    a_users_lock_holds_runs_back_until_it_is_released,
    a_free_workspace_cannot_be_unlocked,
    a_pending_state_upload_keeps_the_workspace_locked,
    discarding_a_run_lets_the_next_one_go,
    canceling_what_nobody_works_on_ends_it_at_once,
    a_canceled_plan_never_applies_whatever_its_end,
    a_force_canceled_apply_keeps_its_workspace_until_the_attempt_confirms,
    a_saved_plan_is_applied_only_on_the_state_it_read,
    lists_are_paged_and_count_everything,
);
