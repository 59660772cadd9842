//! What the credential of a job opens of other jobs, workspaces and states.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use terrapool_protocol::job::Outcome;
use terrapool_protocol::relay::PLACEHOLDER;
use terrapool_protocol::secret::Secret;
use terrapool_store::runs::NewRun;
use terrapool_testkit::agent::{Attempt, api};
use terrapool_testkit::database::DatabaseKind;

use super::on_both;
use super::support::plane;

async fn status(attempt: &Attempt, path: &str) -> StatusCode {
    attempt.relay(Method::GET, path).await.status
}

async fn case_08_a_job_reads_what_is_shared_with_its_workspace_while_it_is_held(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let (other, _) = plane.seed.workspace("other").await;
    let mut agent = plane.agent("one").await;
    let (_, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;
    let own = plane.seed.workspace.to_string();
    for path in [
        "ping".to_owned(),
        "organizations/acme/entitlement-set".to_owned(),
        "organizations/acme/workspaces/app".to_owned(),
        format!("workspaces/{own}"),
        format!("workspaces/{own}/current-state-version-outputs"),
    ] {
        assert!(status(&plan, &path).await.is_success(), "{path}");
    }
    for path in [
        "organizations/acme/workspaces/other".to_owned(),
        format!("workspaces/{other}"),
        format!("workspaces/{other}/current-state-version"),
        format!("workspaces/{other}/current-state-version-outputs"),
        // Not on the list, for the run's own workspace neither.
        format!("workspaces/{own}/vars"),
        format!("workspaces/{own}/state-versions"),
        "organizations/acme/agent-pools".to_owned(),
        "organizations/acme/workspaces".to_owned(),
        "account/details".to_owned(),
        "organizations/none/workspaces/app".to_owned(),
    ] {
        assert_eq!(status(&plan, &path).await, StatusCode::NOT_FOUND, "{path}");
    }
    let list = json!({"data": [{"type": "workspaces", "id": own}]});
    let consumers = format!("workspaces/{other}/relationships/remote-state-consumers");
    let shared = plane.api("POST", &consumers, Some(list.clone())).await;
    assert_eq!(shared.status, StatusCode::NO_CONTENT);
    let answer = plan
        .relay(Method::GET, "organizations/acme/workspaces/other")
        .await;
    let read: Value = answer.ok();
    assert_eq!(read["data"]["id"], json!(other.as_str()));
    let taken_back = plane.api("DELETE", &consumers, Some(list)).await;
    assert_eq!(taken_back.status, StatusCode::NO_CONTENT);
    assert_eq!(
        status(&plan, &format!("workspaces/{other}")).await,
        StatusCode::NOT_FOUND
    );

    // After its end a job opens nothing.
    plane.end_plan(&mut agent, &plan).await;
    for path in ["ping", "organizations/acme/workspaces/app"] {
        assert_eq!(status(&plan, path).await, StatusCode::UNAUTHORIZED, "{path}");
    }
}

async fn case_08_a_credential_opens_only_its_own_job_and_its_own_phase(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let of_plan = || NewRun {
        plan_only: true,
        ..plane.seed.new_run()
    };
    let (_, one) = plane.planning(&mut agent, of_plan()).await;
    let (_, other) = plane.planning(&mut agent, of_plan()).await;
    assert!(status(&one, "ping").await.is_success());
    for wrong in [
        other.credential.clone(),
        agent.registered.session_token.clone(),
        plane.token.clone(),
        plane.user_token.clone(),
        Secret::new(PLACEHOLDER),
        Secret::new("tpj_nonsense"),
    ] {
        let stolen = one.with_credential(&wrong);
        let end = one.end(Outcome::Succeeded { changes: false });
        for answer in [
            stolen.relay(Method::GET, "ping").await,
            stolen.bundle().await,
            stolen.try_log(0, b"x").await,
            stolen.try_state(1, "line", b"{}").await,
            stolen.try_finish(&end).await,
        ] {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        }
    }
    // Its own, but of a plan: it starts nothing and writes no state.
    assert!(one.try_start().await.status.is_client_error());
    assert_eq!(
        one.try_state(1, "line", b"{}").await.status,
        StatusCode::FORBIDDEN
    );
}

async fn case_09_a_plan_only_run_changes_nothing_through_the_relay(kind: DatabaseKind) {
    let plane = plane(kind).await;
    let mut agent = plane.agent("one").await;
    let new = NewRun {
        plan_only: true,
        ..plane.seed.new_run()
    };
    let (_, plan) = plane.planning(&mut agent, new).await;
    let own = plane.seed.workspace.to_string();
    let shown = format!("workspaces/{own}");
    assert!(status(&plan, &shown).await.is_success());
    for path in [
        format!("workspaces/{own}/state-versions"),
        format!("workspaces/{own}/actions/lock"),
        format!("workspaces/{own}/vars"),
        format!("workspaces/{own}/relationships/tags"),
        shown.clone(),
    ] {
        for method in [Method::POST, Method::PATCH, Method::PUT, Method::DELETE] {
            let answer = plan.relay(method.clone(), &path).await;
            assert!(
                answer.status.is_client_error(),
                "{method} {path}: {}",
                answer.status
            );
        }
        // The same with the credential of the job as if it were a user's.
        let body = json!({"data": {}});
        let as_user = api(&plane.router, &plan.credential, Method::POST, &path, Some(&body)).await;
        // Where there is nothing to post to, there is nothing to be asked.
        let expected = [StatusCode::UNAUTHORIZED, StatusCode::NOT_FOUND];
        assert!(expected.contains(&as_user.status), "{path}: {}", as_user.status);
    }
    assert_eq!(plane.current_state().await, None);
    assert_eq!(plane.lock().await, terrapool_model::lock::Lock::Free);
}

on_both!(
    case_08_a_job_reads_what_is_shared_with_its_workspace_while_it_is_held,
    case_08_a_credential_opens_only_its_own_job_and_its_own_phase,
    case_09_a_plan_only_run_changes_nothing_through_the_relay,
);
