//! Agents that fall silent.

use terrapool_model::job::{Desired, JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::refusal::Refusal;
use terrapool_model::run::{Aftermath, ErrorReason, RunStatus};
use terrapool_model::time::Millis;
use terrapool_store::error::StoreError;
use terrapool_store::jobs::{self, Contact, Ended};
use terrapool_store::locks;
use terrapool_store::runs::TransitionError;

use crate::on_both;
use crate::support::{World, command, succeeded};

async fn a_lease_that_has_not_ended_does_not_expire(world: &World) {
    let agent = world.agent("one").await;
    let run = world.create(world.new_run()).await;
    let plan = world.hold(&run.id, Phase::Plan, &agent).await;
    assert!(matches!(
        world.expire(&plan.job).await,
        Err(TransitionError::Refused(Refusal::NotDue))
    ));
}

async fn a_plan_whose_lease_ended_is_planned_again(world: &World) {
    world.end_leases_at_once().await;
    let agent = world.agent("one").await;
    let run = world.create(world.new_run()).await;
    let old = world.hold(&run.id, Phase::Plan, &agent).await;
    world.expire(&old.job).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::PlanQueued);
    let new = world.hold(&run.id, Phase::Plan, &agent).await;
    assert_eq!(new.generation, 2);
    assert!(matches!(
        world.finish(&old, succeeded(true)).await.unwrap(),
        Ended::Superseded
    ));
    assert_eq!(world.run(&run.id).await.status, RunStatus::Planning);
    world.finish(&new, succeeded(true)).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::Planned);
}

async fn an_apply_that_was_only_claimed_is_queued_again(world: &World) {
    world.end_leases_at_once().await;
    let agent = world.agent("one").await;
    let run = world.planned(&agent).await;
    world.confirm(&run.id).await.unwrap();
    let old = world.hold(&run.id, Phase::Apply, &agent).await;
    world.expire(&old.job).await.unwrap();
    assert_eq!(world.job(&run.id, Phase::Apply).await.row.state, JobState::Queued);
    assert!(
        matches!(world.start(&old).await, Err(TransitionError::Refused(_))),
        "a late start is refused"
    );
    let new = world.hold(&run.id, Phase::Apply, &agent).await;
    world.start(&new).await.unwrap();
}

async fn a_started_apply_is_never_queued_again(world: &World) {
    world.end_leases_at_once().await;
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    world.upload(&apply, 5, "five").await;
    world.expire(&apply.job).await.unwrap();
    let row = world.job(&run.id, Phase::Apply).await.row;
    assert_eq!(row.state, JobState::Lost);
    let errored = world.run(&run.id).await;
    assert_eq!(
        (errored.status, errored.error_reason),
        (RunStatus::Errored, Some(ErrorReason::AgentLost))
    );
    assert!(matches!(
        world.lock().await.lock,
        Lock::Lost { safe_at: Some(_), .. }
    ));
    assert_eq!(
        world.current_serial().await,
        Some(5),
        "the newest copy is current"
    );
    // What it writes later is current at once, and its end frees the workspace.
    world.upload(&apply, 6, "six").await;
    assert_eq!(world.current_serial().await, Some(6));
    let ended = world.finish(&apply, succeeded(false)).await.unwrap();
    assert!(matches!(ended, Ended::Recorded { accepted: false, .. }));
    let run = world.run(&run.id).await;
    assert_eq!(
        (run.status, run.aftermath),
        (RunStatus::Errored, Aftermath::Delivered)
    );
    assert_eq!(world.lock().await.lock, Lock::Free);
}

async fn a_quarantine_ends_by_itself_and_the_next_run_waits_for_a_person(world: &World) {
    world.end_leases_at_once().await;
    world
        .set_pool(|settings| {
            settings.times.contact_limit_apply = Some(Millis::ZERO);
            settings.times.grace_apply = Millis::ZERO;
            settings.times.kill_after = Millis::ZERO;
            settings.times.margin = Millis::ZERO;
        })
        .await;
    let agent = world.agent("one").await;
    let (lost, apply) = world.applying(&agent).await;
    let next = world
        .create(terrapool_store::runs::NewRun {
            auto_apply: true,
            ..world.new_run()
        })
        .await;
    world.expire(&apply.job).await.unwrap();
    assert_eq!(world.run(&next.id).await.status, RunStatus::Pending);
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    world.end_quarantine().await.unwrap();
    assert_eq!(world.lock().await.lost_run, Some(lost.id.clone()));
    assert_eq!(world.run(&next.id).await.status, RunStatus::PlanQueued);
    let plan = world.hold(&next.id, Phase::Plan, &agent).await;
    world.finish(&plan, succeeded(true)).await.unwrap();
    assert_eq!(
        world.run(&next.id).await.status,
        RunStatus::Planned,
        "auto-apply is off"
    );
    world.confirm(&next.id).await.unwrap();
    assert_eq!(world.lock().await.lost_run, None);
    // The old attempt's state is kept apart: somebody else has taken the lock since.
    assert_eq!(
        world.upload(&apply, 99, "late").await,
        terrapool_model::state_copy::Fate::KeptApart
    );
    assert_eq!(world.current_serial().await, None);
}

async fn a_contact_moves_lease_and_quarantine(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let before = world.job(&run.id, Phase::Apply).await.row.last_contact.unwrap();
    let contact = |at| Contact {
        job: apply.job.clone(),
        generation: apply.generation,
        attempt: apply.attempt.clone(),
        at,
    };
    let flush = async |contacts: Vec<Contact>| {
        command!(world, StoreError, [contacts = contacts], |tx| {
            jobs::flush_contacts(tx, &contacts).await
        })
        .unwrap();
    };
    flush(vec![contact(before + Millis(500))]).await;
    assert_eq!(
        world.job(&run.id, Phase::Apply).await.row.last_contact,
        Some(before + Millis(500))
    );
    flush(vec![contact(before)]).await;
    assert_eq!(
        world.job(&run.id, Phase::Apply).await.row.last_contact,
        Some(before + Millis(500))
    );
    world.end_leases_at_once().await;
    tokio::time::sleep(std::time::Duration::from_millis(520)).await;
    world.expire(&apply.job).await.unwrap();
    let Lock::Lost {
        safe_at: Some(first), ..
    } = world.lock().await.lock
    else {
        panic!("not lost")
    };
    flush(vec![contact(before + Millis(60_000))]).await;
    let Lock::Lost {
        safe_at: Some(second),
        ..
    } = world.lock().await.lock
    else {
        panic!("not lost")
    };
    assert_eq!(second, first + Millis(59_500));
    let other = Contact {
        attempt: world.attempt(),
        ..contact(before + Millis(90_000))
    };
    flush(vec![other]).await;
    assert!(matches!(world.lock().await.lock, Lock::Lost { safe_at: Some(at), .. } if at == second));
}

async fn a_job_that_a_newer_session_does_not_name_is_given_up_once_it_is_silent(world: &World) {
    let agent = world.agent("one").await;
    let run = world.create(world.new_run()).await;
    let plan = world.hold(&run.id, Phase::Plan, &agent).await;
    let give_up = async |session: u64| {
        command!(world, TransitionError, [job = plan.job.clone()], |tx| {
            jobs::not_reported(tx, &job, session).await
        })
    };
    assert!(
        matches!(give_up(2).await, Err(TransitionError::Refused(Refusal::NotDue))),
        "heard just now"
    );
    world.end_leases_at_once().await;
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    assert!(
        matches!(give_up(1).await, Err(TransitionError::Refused(Refusal::NotDue))),
        "same session"
    );
    give_up(2).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::PlanQueued);
}

async fn an_override_names_the_attempt_and_tells_it_to_stop(world: &World) {
    world.end_leases_at_once().await;
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    world.expire(&apply.job).await.unwrap();
    let unlock = async |acknowledge: Option<terrapool_model::id::AttemptId>| {
        command!(
            world,
            TransitionError,
            [
                id = world.workspace.clone(),
                user = world.user.clone(),
                acknowledge = acknowledge
            ],
            |tx| locks::force_unlock(tx, &id, Some(&user), acknowledge.as_ref()).await
        )
    };
    let plain = unlock(None).await.unwrap_err();
    assert!(plain.to_string().contains("is locked by Run"), "{plain}");
    assert!(matches!(
        &plain,
        TransitionError::Refused(Refusal::LockedByLostRun { attempt: Some(attempt), .. })
            if attempt == &apply.attempt
    ));
    unlock(Some(apply.attempt.clone())).await.unwrap();
    let row = world.job(&run.id, Phase::Apply).await.row;
    assert_eq!(row.desired, Desired::Kill);
    assert_eq!(world.run(&run.id).await.aftermath, Aftermath::Overridden);
    assert_eq!(world.lock().await.lost_run, Some(run.id));
}

on_both!(
    a_lease_that_has_not_ended_does_not_expire,
    a_plan_whose_lease_ended_is_planned_again,
    an_apply_that_was_only_claimed_is_queued_again,
    a_started_apply_is_never_queued_again,
    a_quarantine_ends_by_itself_and_the_next_run_waits_for_a_person,
    a_contact_moves_lease_and_quarantine,
    a_job_that_a_newer_session_does_not_name_is_given_up_once_it_is_silent,
    an_override_names_the_attempt_and_tells_it_to_stop,
);
