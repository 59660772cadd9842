//! Messages that are lost, late, repeated or race each other (the protocol's table of interleavings, by number).

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use axum::http::StatusCode;
use terrapool_model::job::JobState;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Finished, Incomplete, Started};
use terrapool_protocol::job::{ArtifactName, Outcome, Phase};
use terrapool_store::error::StoreError;
use terrapool_store::pools::{self, PoolChange, PoolError};
use terrapool_store::{agent_tokens, agents, jobs, values};
use terrapool_testkit::agent::{Answer, SimulatedAgent, reason};
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::{Action, HOLD, Plane, plane};

async fn interleaving_01_a_claim_whose_answer_was_lost_is_repeated_and_gives_one_lease(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let agent = plane.agent("one").await;
    plane.seed.create(plane.seed.new_run()).await;
    let offer = agent.sync(HOLD).await.offers.remove(0);
    let attempt = plane.attempt();
    let lost = agent.try_claim(&offer.job, offer.generation, &attempt).await;
    let repeated = agent
        .via(&plane.replica().await.router)
        .try_claim(&offer.job, offer.generation, &attempt)
        .await;
    assert_eq!((repeated.status, &repeated.body), (StatusCode::OK, &lost.body));
    let row = plane.job_row(&offer.job).await;
    assert_eq!((row.generation, row.attempt), (1, Some(attempt)));
}

async fn interleaving_02_two_agents_claim_at_once_on_two_replicas_and_one_gets_it(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let replica = plane.replica().await;
    for _ in 0..5 {
        let (one, two) = (plane.agent("one").await, plane.agent("two").await);
        let run = plane
            .seed
            .create(terrapool_store::runs::NewRun {
                plan_only: true,
                ..plane.seed.new_run()
            })
            .await;
        let job = plane.job_of(&run.id, Phase::Plan).await.id;
        let two = two.via(&replica.router);
        let (first, second) = (plane.attempt(), plane.attempt());
        let (left, right) = tokio::join!(one.try_claim(&job, 0, &first), two.try_claim(&job, 0, &second));
        let mut statuses = [left.status, right.status];
        statuses.sort();
        assert_eq!(statuses, [StatusCode::OK, StatusCode::CONFLICT]);
        assert_eq!(plane.job_row(&job).await.generation, 1);
    }
}

async fn interleaving_06_a_start_whose_answer_was_lost_is_repeated_and_grants_once(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (_, apply) = plane.claimed_apply(&mut agent).await;
    let lost: Started = apply.try_start().await.ok();
    let again: Started = apply.via(&plane.replica().await.router).try_start().await.ok();
    assert_eq!(lost, again);
    let row = plane.job_row(&apply.key.job).await;
    assert!(row.start_granted && row.generation == apply.key.generation);
}

async fn interleaving_07_a_grant_that_came_too_late_is_given_back_and_the_apply_runs_once(
    kind: DatabaseKind,
) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, late) = plane.claimed_apply(&mut agent).await;
    assert_eq!(late.try_start().await.status, StatusCode::OK);
    let returned = late.end(Outcome::NeverStarted {
        message: "the grant came too late".to_owned(),
    });
    let finished: Finished = late.try_finish(&returned).await.ok();
    assert!(finished.accepted);
    agent.forget(&late.key);
    assert_eq!(plane.run(&run).await.status, RunStatus::ApplyQueued);
    assert_eq!(
        late.try_start().await.status,
        StatusCode::CONFLICT,
        "what was given back stays given back"
    );
    let again = agent.take(Phase::Apply, &plane.attempt()).await;
    assert_eq!(again.key.generation, late.key.generation + 1);
    assert_eq!(again.try_start().await.status, StatusCode::OK);
    assert_eq!(late.try_start().await.status, StatusCode::CONFLICT);
    assert_eq!(plane.run(&run).await.status, RunStatus::Applying);
}

async fn interleaving_09_of_two_cloned_machines_one_attempt_wins_and_both_are_shown(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut first = plane.agent("clone").await;
    let (run, plan) = plane.planning(&mut first, plane.seed.new_run()).await;
    let second = SimulatedAgent::register(&plane.router, &plane.token, "clone", "2").await;
    let stolen = second
        .try_claim(&plan.key.job, plan.key.generation, &plane.attempt())
        .await;
    assert_eq!(stolen.status, StatusCode::CONFLICT);
    // Registering does not take the job away from a process that is heard.
    first.sync(Millis::ZERO).await;
    second.sync(Millis::ZERO).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Planning);
    let agent = agents::get(&mut plane.read().await, &second.registered.agent)
        .await
        .unwrap()
        .unwrap();
    let other = agent
        .duplicate(plane.app.now(), &Default::default())
        .expect("the older process is alive");
    assert_eq!(
        (agent.session, other.session),
        (second.registered.session, first.registered.session)
    );
    plane.end_plan(&mut first, &plan).await;
    assert_eq!(plane.run(&run).await.status, RunStatus::Planned);
}

/// Polls a request so many times, and drops it then, as a connection that breaks does.
async fn broken_off(request: impl Future<Output = Answer>, polls: usize) {
    let mut request = pin!(request);
    for _ in 0..polls {
        let mut context = Context::from_waker(Waker::noop());
        if request.as_mut().poll(&mut context).is_ready() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

async fn interleaving_16_a_handler_that_is_broken_off_anywhere_answers_the_same_when_repeated(
    kind: DatabaseKind,
) {
    let plane = plane(kind).await;
    let replica = plane.replica().await;
    for polls in [0, 1, 2, 3, 5, 8, 13, 40] {
        let mut agent = plane.agent("one").await;
        let registration = SimulatedAgent::registration("other", &format!("process {polls}"));
        let register = |router| SimulatedAgent::try_register(router, &plane.token, &registration);
        broken_off(register(&plane.router), polls).await;
        let once = register(&replica.router).await;
        let twice = register(&plane.router).await;
        assert_eq!((once.status, &once.body), (StatusCode::OK, &twice.body));

        let run = plane.seed.create(plane.seed.new_run()).await;
        let job = plane.job_of(&run.id, Phase::Plan).await.id;
        let attempt = plane.attempt();
        broken_off(agent.try_claim(&job, 0, &attempt), polls).await;
        let repeated = agent.via(&replica.router).try_claim(&job, 0, &attempt).await;
        assert_eq!(repeated.status, StatusCode::OK, "{}", reason(&repeated));
        let plan = agent.holding(&job, Phase::Plan, &attempt, &repeated);
        broken_off(plan.try_log(0, b"planning\n"), polls).await;
        let mut plan = plan.via(&replica.router);
        assert_eq!(plane.log_through(&plan, b"planning\n").await, 9);
        plan.log = b"planning\n".to_vec();
        broken_off(plan.try_artifact(ArtifactName::PlanArchive, b"archive"), polls).await;
        let mut end = plan.end(Outcome::Succeeded { changes: true });
        end.artifacts = vec![plan.artifact(ArtifactName::PlanArchive, b"archive").await];
        // The replica's log store is another one; the finish goes to where the log was written.
        let plan = plan.via(&plane.router);
        plane.log_through(&plan, b"planning\n").await;
        broken_off(plan.try_finish(&end), polls).await;
        let finished: Finished = plan.try_finish(&end).await.ok();
        assert!(finished.accepted);
        agent.forget(&plan.key);
        assert_eq!(plane.run(&run).await.status, RunStatus::Planned);

        plane.by_person(&run, Action::Confirm).await;
        let apply = agent.take(Phase::Apply, &plane.attempt()).await;
        broken_off(apply.try_start(), polls).await;
        assert_eq!(
            apply.via(&replica.router).try_start().await.status,
            StatusCode::OK
        );
        let serial = u64::try_from(polls).unwrap() + 1;
        let bytes = format!("state {polls}").into_bytes();
        broken_off(apply.try_state(serial, "line", &bytes), polls).await;
        assert!(apply.try_state(serial, "line", &bytes).await.status.is_success());
        let mut end = apply.end(Outcome::Succeeded { changes: false });
        end.state = Some(terrapool_testkit::agent::state_mark(serial, "line", &bytes));
        broken_off(apply.try_finish(&end), polls).await;
        let finished: Finished = apply.via(&replica.router).try_finish(&end).await.ok();
        assert!(finished.accepted);
        agent.forget(&apply.key);
        assert_eq!(plane.run(&run).await.status, RunStatus::Applied);
        assert_eq!(plane.current_serial().await, Some(serial));
    }
}

async fn interleaving_17_a_granted_apply_is_never_offered_again(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (_, apply) = plane.claimed_apply(&mut agent).await;
    assert_eq!(apply.try_start().await.status, StatusCode::OK);
    // What another replica reads after the answer knows the grant.
    let replica = plane.replica().await;
    let mut connection = replica.app.db.read().await.unwrap();
    assert!(
        jobs::ready(&mut connection, &plane.seed.pool)
            .await
            .unwrap()
            .is_empty()
    );
    let row = jobs::get(&mut connection, &apply.key.job)
        .await
        .unwrap()
        .unwrap()
        .row;
    assert!(row.start_granted);
    let other = plane.agent("two").await.via(&replica.router);
    assert!(other.sync(Millis::ZERO).await.offers.is_empty());
}

async fn interleaving_21_a_cancel_that_races_a_finish_ends_the_run_in_both_orders(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    for cancel_first in [true, false] {
        let (run, apply) = plane.claimed_apply(&mut agent).await;
        assert_eq!(apply.try_start().await.status, StatusCode::OK);
        let end = apply.end(Outcome::Succeeded { changes: false });
        if cancel_first {
            plane.by_person(&run, Action::Cancel).await;
        }
        let finished: Finished = apply.try_finish(&end).await.ok();
        assert!(finished.accepted);
        agent.forget(&apply.key);
        if !cancel_first {
            plane.refused_by(&run, Action::Cancel).await;
        }
        assert_eq!(plane.run(&run).await.status, RunStatus::Applied);
        assert_eq!(plane.job_row(&apply.key.job).await.state, JobState::Done);
    }
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    plane.by_person(&run, Action::Cancel).await;
    let finished: Finished = plan
        .try_finish(&plan.end(Outcome::Succeeded { changes: false }))
        .await
        .ok();
    assert!(finished.accepted);
    assert_eq!(plane.run(&run).await.status, RunStatus::Canceled);
}

/// An offer, what a person changes then, and the claim's answer.
async fn claimed_after(plane: &Plane, change: impl AsyncFnOnce()) -> Answer {
    let agent = plane.agent("one").await;
    plane
        .seed
        .create(terrapool_store::runs::NewRun {
            plan_only: true,
            ..plane.seed.new_run()
        })
        .await;
    let offer = agent.sync(HOLD).await.offers.remove(0);
    change().await;
    agent
        .try_claim(&offer.job, offer.generation, &plane.attempt())
        .await
}

async fn interleaving_23_a_claim_is_refused_when_pool_or_token_changed_since_the_offer(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let closed = claimed_after(&plane, async || {
        let change = PoolChange {
            organization_scoped: Some(false),
            ..PoolChange::default()
        };
        let pool = plane.seed.pool.clone();
        let written = plane
            .app
            .db
            .write::<_, PoolError, _>(move |tx| {
                let (pool, change) = (pool.clone(), change.clone());
                Box::pin(async move { pools::update(tx, &pool, &change).await })
            })
            .await;
        written.unwrap();
    })
    .await;
    assert_eq!(closed.status, StatusCode::CONFLICT);
    assert!(reason(&closed).contains("may not use"), "{}", reason(&closed));
    let plane = super::support::plane(kind).await;
    let moved = claimed_after(&plane, async || {
        let other = plane.other_pool().await;
        let workspace = plane.seed.workspace.clone();
        let written = plane
            .app
            .db
            .write::<_, StoreError, _>(move |tx| {
                let (workspace, other) = (workspace.clone(), other.clone());
                Box::pin(async move {
                    tx.execute(
                        "UPDATE workspaces SET agent_pool_id = $2 WHERE id = $1",
                        values![&workspace, &other],
                    )
                    .await
                })
            })
            .await;
        written.unwrap();
    })
    .await;
    assert_eq!(moved.status, StatusCode::CONFLICT);
    let plane = super::support::plane(kind).await;
    let revoked = claimed_after(&plane, async || plane.revoke(false).await).await;
    assert_eq!(revoked.status, StatusCode::UNAUTHORIZED);
}

async fn interleaving_23_an_agent_that_is_cut_off_is_told_to_stop_what_it_holds(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (_, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    agent.stage(&plan.key, terrapool_protocol::agent::AttemptStage::Running);
    plane.revoke(true).await;
    let synced = agent.sync(HOLD).await;
    assert_eq!(
        synced.answers[0].verdict,
        terrapool_protocol::agent::Verdict::Kill
    );
    let hash = terrapool_server::secrets::hash(plane.token.expose());
    let token = agent_tokens::by_hash(&mut plane.read().await, &hash)
        .await
        .unwrap();
    assert!(token.is_some_and(|token| token.revoked_at.is_some()));
}

async fn interleaving_26_a_finish_before_the_log_is_there_is_told_what_is_missing(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    let mut written = plan.clone();
    written.log = b"all of it\n".to_vec();
    let end = written.end(Outcome::Succeeded { changes: false });
    let early = plan.try_finish(&end).await;
    assert_eq!(early.status, StatusCode::CONFLICT);
    let missing: Incomplete = early.json();
    assert_eq!((missing.log.received, missing.log.durable), (0, 0));
    assert_eq!(plane.run(&run).await.status, RunStatus::Planning);
    assert_eq!(plane.log_through(&plan, b"all of it\n").await, 10);
    let finished: Finished = plan.try_finish(&end).await.ok();
    assert!(finished.accepted);
}

on_both!(
    interleaving_01_a_claim_whose_answer_was_lost_is_repeated_and_gives_one_lease,
    interleaving_02_two_agents_claim_at_once_on_two_replicas_and_one_gets_it,
    interleaving_06_a_start_whose_answer_was_lost_is_repeated_and_grants_once,
    interleaving_07_a_grant_that_came_too_late_is_given_back_and_the_apply_runs_once,
    interleaving_09_of_two_cloned_machines_one_attempt_wins_and_both_are_shown,
    interleaving_16_a_handler_that_is_broken_off_anywhere_answers_the_same_when_repeated,
    interleaving_17_a_granted_apply_is_never_offered_again,
    interleaving_21_a_cancel_that_races_a_finish_ends_the_run_in_both_orders,
    interleaving_23_a_claim_is_refused_when_pool_or_token_changed_since_the_offer,
    interleaving_23_an_agent_that_is_cut_off_is_told_to_stop_what_it_holds,
    interleaving_26_a_finish_before_the_log_is_there_is_told_what_is_missing,
);
