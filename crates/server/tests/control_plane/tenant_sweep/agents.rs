//! What an agent of another organization's pool gets of jobs that are not its own, by requests that are well formed.

use axum::http::Method;
use serde_json::json;
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::Progress;
use terrapool_protocol::job::{ArtifactName, Outcome};
use terrapool_protocol::secret::Secret;
use terrapool_server::http;
use terrapool_testkit::agent::{Answer, SimulatedAgent};

use super::world::{World, document};
use crate::common::{id, state};

fn is_refused(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 401 | 403 | 404 | 409)
}

#[tokio::test]
async fn an_agent_of_another_organization_gets_nothing_of_a_job_and_changes_nothing() {
    let world = World::new().await;
    let (foreign, held) = world.foreign.clone().unwrap();
    // Its credentials are good where they belong.
    assert_eq!(held.bundle().await.status.as_u16(), 200);

    let (pool, workspace) = (world.thing("pool"), world.thing("workspace"));
    let settings = json!({"execution-mode": "agent", "agent-pool-id": pool});
    world
        .plane
        .patch(&format!("workspaces/{workspace}"), &document(settings, &[]))
        .await
        .expect(200);
    world
        .plane
        .post(&format!("runs/{}/actions/cancel", world.thing("run")), &json!({}))
        .await
        .expect(202);
    let run = id(&world.plane.run(workspace, world.thing("configuration")).await);
    let token = Secret::new(world.thing("agent-token"));
    let router = http::router(&world.plane.running.app);
    let mut agent = SimulatedAgent::register(&router, &token, "ours", "1").await;

    // A job that waits is offered to agents of its pool only, and given to none of another one's.
    let offers = agent.sync(Millis::ZERO).await.offers;
    let offer = offers
        .into_iter()
        .find(|offer| offer.phase == Phase::Plan)
        .unwrap();
    let theirs = foreign.sync(Millis::ZERO).await.offers;
    assert!(theirs.iter().all(|other| other.job != offer.job), "{theirs:?}");
    let attempt = AttemptId::from_random([8; 16]);
    let claimed = foreign.try_claim(&offer.job, offer.generation, &attempt).await;
    assert!(is_refused(&claimed), "{claimed:?}");

    // One that is held takes nothing by another job's credential, nor by the session of another pool.
    let plan = agent.claim(&offer, &AttemptId::from_random([7; 16])).await;
    for credential in [&held.credential, &foreign.registered.session_token] {
        let stolen = plan.with_credential(credential);
        let end = plan.end(Outcome::Succeeded { changes: true });
        let progress = Progress {
            usage: end.usage,
            memory: None,
        };
        let answers = [
            ("bundle", stolen.bundle().await),
            ("start", stolen.try_start().await),
            ("log", stolen.try_log(0, b"forged").await),
            ("state", stolen.try_state(5, "line", &state(5, "line")).await),
            (
                "artifact",
                stolen.try_artifact(ArtifactName::PlanArchive, b"forged").await,
            ),
            ("progress", stolen.try_progress(&progress).await),
            (
                "relay",
                stolen
                    .relay(Method::GET, &format!("workspaces/{workspace}"))
                    .await,
            ),
            ("finish", stolen.try_finish(&end).await),
        ];
        for (what, answer) in answers {
            assert!(is_refused(&answer), "{what}: {answer:?}");
        }
    }
    // Its own credential relays no workspace of another organization.
    let relayed = held
        .relay(
            Method::GET,
            &format!("workspaces/{workspace}/current-state-version"),
        )
        .await;
    assert!(is_refused(&relayed), "{relayed:?}");

    // Nothing of it has arrived: the holder goes on with an empty log.
    let read = world.plane.get(&format!("runs/{run}")).await.expect(200);
    assert_eq!(read["data"]["attributes"]["status"], "planning", "{read}");
    let written = plan.try_log(0, b"first").await;
    assert_eq!(written.status.as_u16(), 200, "{written:?}");
}
