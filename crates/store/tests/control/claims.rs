//! Claims, grants and ends.

use futures_util::future::join_all;
use terrapool_model::id::{RunId, WorkspaceId};
use terrapool_model::job::{JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::refusal::Refusal;
use terrapool_model::run::RunStatus;
use terrapool_store::jobs::{self, Ended, FinishError};
use terrapool_store::overview;
use terrapool_store::runs::{NewRun, TransitionError};

use crate::on_both;
use crate::support::{Held, World, failed, mark, never_started, succeeded};

async fn a_new_run_is_scheduled_and_its_job_is_ready_at_once(world: &World) {
    let run = world.create(world.new_run()).await;
    assert_eq!(run.status, RunStatus::PlanQueued);
    assert!(run.status_timestamps.contains_key("plan-queueable-at"));
    assert!(run.status_timestamps.contains_key("plan-queued-at"));
    assert_eq!(world.lock().await.lock, Lock::Run(run.id.clone()));
    let ready = jobs::ready(&mut world.read().await, &world.pool).await.unwrap();
    assert_eq!(ready.len(), 1);
    assert_eq!(
        (&ready[0].run, ready[0].phase, ready[0].generation),
        (&run.id, Phase::Plan, 0)
    );
}

async fn many_claims_at_once_make_one_lease(world: &World) {
    let run = world.create(world.new_run()).await;
    let job = world.job(&run.id, Phase::Plan).await.id;
    let agent = world.agent("one").await;
    let attempts: Vec<_> = (0..64).map(|_| world.attempt()).collect();
    let claims = attempts
        .iter()
        .map(|attempt| world.claim_seen(&job, &agent, attempt, 0));
    let results = join_all(claims).await;
    let won: Vec<_> = results.iter().filter(|result| result.is_ok()).collect();
    assert_eq!(won.len(), 1);
    for result in &results {
        if let Err(error) = result {
            assert!(
                matches!(error, TransitionError::Refused(Refusal::OtherAttempt)),
                "{error:?}"
            );
        }
    }
    let row = world.job(&run.id, Phase::Plan).await.row;
    assert_eq!((row.state, row.generation), (JobState::Running, 1));
}

async fn a_repeated_claim_gives_the_same_assignment(world: &World) {
    let run = world.create(world.new_run()).await;
    let job = world.job(&run.id, Phase::Plan).await.id;
    let (agent, attempt) = (world.agent("one").await, world.attempt());
    let first = world.claim_seen(&job, &agent, &attempt, 0).await.unwrap();
    let second = world.claim_seen(&job, &agent, &attempt, 0).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(world.run(&run.id).await.status, RunStatus::Planning);
}

async fn a_claim_is_refused_to_agents_that_may_not_have_the_job(world: &World) {
    let run = world.create(world.new_run()).await;
    let job = world.job(&run.id, Phase::Plan).await.id;
    let unknown = terrapool_model::id::AgentId::from_random([9; 16]);
    let refused = world.claim(&job, &unknown, &world.attempt()).await;
    assert!(
        matches!(refused, Err(TransitionError::Refused(Refusal::NotAllowed(_)))),
        "{refused:?}"
    );
    let agent = world.agent("one").await;
    // A newer process registers between offer and claim.
    world.register("one", "nonce-2").await;
    let refused = world.claim(&job, &agent, &world.attempt()).await;
    assert!(
        matches!(refused, Err(TransitionError::Refused(Refusal::NotAllowed(_)))),
        "{refused:?}"
    );
    assert_eq!(world.job(&run.id, Phase::Plan).await.row.state, JobState::Queued);
}

async fn a_claim_is_refused_once_the_pool_may_not_be_used_any_more(world: &World) {
    let run = world.create(world.new_run()).await;
    let job = world.job(&run.id, Phase::Plan).await.id;
    let agent = world.agent("one").await;
    let ready = async || jobs::ready(&mut world.read().await, &world.pool).await.unwrap();
    assert_eq!(ready().await.len(), 1);
    let change = terrapool_store::pools::PoolChange {
        excluded_workspaces: Some([world.workspace.clone()].into()),
        ..Default::default()
    };
    crate::support::command!(
        world,
        terrapool_store::pools::PoolError,
        [pool = world.pool.clone(), change = change],
        |tx| terrapool_store::pools::update(tx, &pool, &change).await
    )
    .unwrap();
    let refused = world.claim(&job, &agent, &world.attempt()).await;
    assert!(
        matches!(refused, Err(TransitionError::Refused(Refusal::NotAllowed(_)))),
        "{refused:?}"
    );
    // It is offered to nobody, so that it takes no slot of what may be claimed.
    assert!(ready().await.is_empty());
    let waits = overview::queue(&mut world.read().await, &world.pool)
        .await
        .unwrap();
    assert_eq!(waits[0].job.id, job);
}

async fn the_start_of_an_apply_is_granted_to_one_attempt_once(world: &World) {
    let agent = world.agent("one").await;
    let run = world.planned(&agent).await;
    assert_eq!(run.status, RunStatus::Planned);
    assert_eq!(run.has_changes, Some(true));
    world.confirm(&run.id).await.unwrap();
    let apply = world.hold(&run.id, Phase::Apply, &agent).await;
    assert_eq!(world.job(&run.id, Phase::Apply).await.row.state, JobState::Leased);
    let other = Held {
        attempt: world.attempt(),
        ..apply.clone()
    };
    assert!(matches!(
        world.start(&other).await,
        Err(TransitionError::Refused(Refusal::OtherAttempt))
    ));
    let starts = join_all((0..16).map(|_| world.start(&apply))).await;
    assert!(
        starts.iter().all(Result::is_ok),
        "the same attempt gets the same answer"
    );
    let row = world.job(&run.id, Phase::Apply).await.row;
    assert_eq!((row.state, row.start_granted), (JobState::Running, true));
    assert_eq!(world.run(&run.id).await.status, RunStatus::Applying);
}

async fn a_start_is_refused_once_the_lock_has_moved_on(world: &World) {
    let agent = world.agent("one").await;
    let run = world.planned(&agent).await;
    world.confirm(&run.id).await.unwrap();
    let apply = world.hold(&run.id, Phase::Apply, &agent).await;
    world.set_epoch(77).await;
    assert!(matches!(
        world.start(&apply).await,
        Err(TransitionError::Refused(Refusal::LockMoved))
    ));
    assert_eq!(world.job(&run.id, Phase::Apply).await.row.state, JobState::Leased);
}

async fn a_whole_run_goes_through_and_frees_the_workspace(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let ended = world.finish(&apply, succeeded(false)).await.unwrap();
    assert!(matches!(ended, Ended::Recorded { accepted: true, .. }));
    let run = world.run(&run.id).await;
    assert_eq!(run.status, RunStatus::Applied);
    for moment in [
        "planned-at",
        "confirmed-at",
        "apply-queued-at",
        "applying-at",
        "applied-at",
    ] {
        assert!(run.status_timestamps.contains_key(moment), "{moment}");
    }
    assert_eq!(world.lock().await.lock, Lock::Free);
    let again = world.finish(&apply, succeeded(false)).await.unwrap();
    assert_eq!(again, ended, "a repeated finish gives the same answer");
}

async fn an_automatic_run_is_applied_without_anybody(world: &World) {
    let agent = world.agent("one").await;
    let run = world
        .create(terrapool_store::runs::NewRun {
            auto_apply: true,
            ..world.new_run()
        })
        .await;
    let plan = world.hold(&run.id, Phase::Plan, &agent).await;
    world.finish(&plan, succeeded(true)).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::ApplyQueued);
    let ready = jobs::ready(&mut world.read().await, &world.pool).await.unwrap();
    assert_eq!(
        ready.iter().map(|job| job.phase).collect::<Vec<_>>(),
        [Phase::Apply]
    );
}

async fn a_failed_plan_frees_the_workspace_for_the_next_run_in_the_same_moment(world: &World) {
    let agent = world.agent("one").await;
    let first = world.create(world.new_run()).await;
    let second = world.create(world.new_run()).await;
    assert_eq!(second.status, RunStatus::Pending);
    let position = terrapool_store::runs::queue_position(&mut world.read().await, &second)
        .await
        .unwrap();
    assert_eq!(position, 1);
    let plan = world.hold(&first.id, Phase::Plan, &agent).await;
    world.finish(&plan, failed()).await.unwrap();
    let first = world.run(&first.id).await;
    assert_eq!(first.status, RunStatus::Errored);
    assert_eq!(first.error_message.as_deref(), Some("the engine failed"));
    assert_eq!(world.run(&second.id).await.status, RunStatus::PlanQueued);
    assert_eq!(world.lock().await.lock, Lock::Run(second.id));
}

async fn an_end_is_recorded_only_when_state_and_artifacts_have_arrived(world: &World) {
    let agent = world.agent("one").await;
    let (run, apply) = world.applying(&agent).await;
    let early = world
        .finish_with(&apply, succeeded(false), Some(mark(1, "digest")))
        .await;
    assert!(
        matches!(
            early,
            Err(FinishError::Incomplete {
                state_missing: true,
                ..
            })
        ),
        "the state has not arrived"
    );
    assert_eq!(world.run(&run.id).await.status, RunStatus::Applying);
    world.upload(&apply, 1, "digest").await;
    world
        .finish_with(&apply, succeeded(false), Some(mark(1, "digest")))
        .await
        .unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::Applied);
    assert_eq!(world.current_serial().await, Some(1));
}

async fn a_job_that_was_never_started_is_tried_three_times(world: &World) {
    let agent = world.agent("one").await;
    let run = world.create(world.new_run()).await;
    for _ in 0..2 {
        let plan = world.hold(&run.id, Phase::Plan, &agent).await;
        world.finish(&plan, never_started()).await.unwrap();
        assert_eq!(world.run(&run.id).await.status, RunStatus::PlanQueued);
    }
    let plan = world.hold(&run.id, Phase::Plan, &agent).await;
    world.finish(&plan, never_started()).await.unwrap();
    assert_eq!(world.run(&run.id).await.status, RunStatus::Errored);
    assert_eq!(world.lock().await.lock, Lock::Free);
    assert!(matches!(
        world.finish(&plan, never_started()).await.unwrap(),
        Ended::Superseded
    ));
}

async fn every_job_of_a_long_line_has_its_place_and_no_workspace_keeps_others_out(world: &World) {
    let plan_only = NewRun {
        plan_only: true,
        ..world.new_run()
    };
    let mut last = None;
    for _ in 0..501 {
        let id = RunId::from_random(world.db.entropy().draw());
        last = Some(
            world
                .create(NewRun {
                    id,
                    ..plan_only.clone()
                })
                .await,
        );
    }
    let (workspace_id, configuration_version_id) = world.workspace("other").await;
    let other = world
        .create(NewRun {
            id: RunId::from_random(world.db.entropy().draw()),
            workspace_id: workspace_id.clone(),
            configuration_version_id,
            ..plan_only
        })
        .await;
    let mut connection = world.read().await;
    let head = overview::queue(&mut connection, &world.pool).await.unwrap();
    assert_eq!(head.len(), 500);
    assert!(head.iter().zip(0..).all(|(view, place)| view.ahead == place));
    // One workspace's turn, then the other's, however many the first has.
    assert_eq!((&head[1].job.run_id, head[1].ahead), (&other.id, 1));
    let ready = jobs::ready(&mut connection, &world.pool).await.unwrap();
    let offered: Vec<&RunId> = ready.iter().map(|job| &job.run).collect();
    let listed: Vec<&RunId> = head.iter().map(|view| &view.job.run_id).collect();
    assert_eq!(offered, listed);

    let last = last.unwrap();
    let asked = [last.id.clone(), other.id];
    let found = overview::queued_runs(&mut connection, &world.pool, &asked)
        .await
        .unwrap();
    let places: Vec<(&RunId, u64)> = found.iter().map(|view| (&view.job.run_id, view.ahead)).collect();
    assert_eq!((places[0].0, places[0].1), (&asked[1], 1));
    assert_eq!(places[1].0, &asked[0]);
    assert!(places[1].1 >= 500, "{places:?}");

    let groups = overview::queued_groups(&mut connection, &world.pool)
        .await
        .unwrap();
    let counted: Vec<(&WorkspaceId, u64)> = groups
        .iter()
        .map(|group| (&group.workspace_id, group.jobs))
        .collect();
    assert_eq!(counted, [(&world.workspace, 501), (&workspace_id, 1)]);
    assert_eq!(groups[0].oldest, head[0].job.queued_at);
    assert_eq!(groups[0].needs_mb, head[0].job.limits.memory_mb);
}

on_both!(
    a_new_run_is_scheduled_and_its_job_is_ready_at_once,
    many_claims_at_once_make_one_lease,
    a_repeated_claim_gives_the_same_assignment,
    a_claim_is_refused_to_agents_that_may_not_have_the_job,
    a_claim_is_refused_once_the_pool_may_not_be_used_any_more,
    the_start_of_an_apply_is_granted_to_one_attempt_once,
    a_start_is_refused_once_the_lock_has_moved_on,
    a_whole_run_goes_through_and_frees_the_workspace,
    an_automatic_run_is_applied_without_anybody,
    a_failed_plan_frees_the_workspace_for_the_next_run_in_the_same_moment,
    an_end_is_recorded_only_when_state_and_artifacts_have_arrived,
    a_job_that_was_never_started_is_tried_three_times,
    every_job_of_a_long_line_has_its_place_and_no_workspace_keeps_others_out,
);
