//! Which pools workspaces run in: chosen, inherited, allowed.

use super::workspaces::attributes;
use crate::common::{Plane, id};
use serde_json::{Value, json};

#[tokio::test]
async fn execution_mode_and_pool_are_inherited_from_project_and_organization() {
    let plane = Plane::start().await;
    let pool = plane
        .post(
            "organizations/acme/agent-pools",
            &attributes(json!({"name": "p"})),
        )
        .await
        .expect(201);
    let pool = id(&pool);
    let inherit = plane.workspace("inherit").await;
    let explicit = plane
        .workspace_with("explicit", json!({"execution-mode": "remote"}))
        .await;
    let body = json!({"data": {"attributes": {"default-execution-mode": "agent"}, "relationships": {
        "default-agent-pool": {"data": {"type": "agent-pools", "id": pool}}}}});
    plane.patch("organizations/acme", &body).await.expect(200);
    let mode = async |workspace: &str| {
        let read = plane.get(&format!("workspaces/{workspace}")).await.expect(200)["data"].clone();
        (
            read["attributes"]["execution-mode"].clone(),
            read["relationships"]["agent-pool"]["data"]["id"].clone(),
        )
    };
    assert_eq!(mode(&inherit).await, (json!("agent"), json!(pool)));
    assert_eq!(mode(&explicit).await, (json!("remote"), Value::Null));
    let path = format!("workspaces/{explicit}");
    let back = json!({"setting-overwrites": {"execution-mode": false, "agent-pool": false}});
    plane.patch(&path, &attributes(back)).await.expect(200);
    assert_eq!(mode(&explicit).await.0, "agent");
    plane
        .patch(
            "organizations/acme",
            &attributes(json!({"default-execution-mode": "local"})),
        )
        .await
        .expect(200);
    assert_eq!(mode(&inherit).await, (json!("local"), Value::Null));
    let configuration = plane.configuration(&inherit, json!({})).await;
    let run = plane
        .post("runs", &crate::common::run_body(&inherit, &configuration))
        .await;
    assert_eq!(run.status, 409);
    assert!(run.error().contains("execution mode local"), "{}", run.error());
}

#[tokio::test]
async fn a_pools_access_rule_decides_which_workspaces_may_use_it() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let body = attributes(json!({"name": "p", "organization-scoped": false}));
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &body)
        .await
        .expect(201));
    let path = format!("workspaces/{workspace}");
    let use_it = attributes(json!({"execution-mode": "agent", "agent-pool-id": pool}));
    let refused = plane.patch(&path, &use_it).await;
    assert_eq!(refused.status, 422);
    let text = "Agent pool workspace does not have access to use this agent pool";
    assert!(refused.error().contains(text), "{}", refused.error());
    let allow = json!({"data": {"relationships": {"allowed-workspaces": {
        "data": [{"type": "workspaces", "id": workspace}]}}}});
    let shown = plane
        .patch(&format!("agent-pools/{pool}"), &allow)
        .await
        .expect(200);
    assert_eq!(
        shown["data"]["relationships"]["allowed-workspaces"]["data"][0]["id"],
        workspace
    );
    plane.patch(&path, &use_it).await.expect(200);
    let configuration = plane.configuration(&workspace, json!({})).await;
    let run = id(&plane.run(&workspace, &configuration).await);
    let mut connection = plane.running.app.db.read().await.unwrap();
    let record = terrapool_store::runs::get(&mut connection, &run.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.pool_id.as_str(), pool);
    drop(connection);
    let deleted = plane.delete(&format!("agent-pools/{pool}")).await;
    assert_eq!(deleted.status, 409);
    assert!(deleted.error().contains("one"), "{}", deleted.error());
}

#[tokio::test]
async fn pools_are_listed_with_counts_and_filters() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    for (name, scoped) in [("open", true), ("closed", false), ("named", false)] {
        let mut body = attributes(json!({"name": name, "organization-scoped": scoped}));
        if name == "named" {
            body["data"]["relationships"] =
                json!({"allowed-workspaces": {"data": [{"type": "workspaces", "id": workspace}]}});
        }
        let made = plane
            .post("organizations/acme/agent-pools", &body)
            .await
            .expect(201);
        let read = plane.get(&format!("agent-pools/{}", id(&made))).await.expect(200);
        assert_eq!(made["data"], read["data"]);
        assert_eq!(
            made["data"]["relationships"]["organization"]["data"]["id"],
            "acme"
        );
    }
    for filter in [
        "filter[allowed_workspaces][name]=one",
        "filter[allowed-workspaces][name]=one",
    ] {
        let listed = plane
            .get(&format!("organizations/acme/agent-pools?{filter}"))
            .await
            .expect(200);
        assert_eq!(listed["meta"]["pagination"]["total-count"], 2, "{filter}");
        assert_eq!(
            listed["meta"]["status-counts"],
            json!({"total": 3, "matching": 2})
        );
    }
    let found = plane
        .get("organizations/acme/agent-pools?q=clo")
        .await
        .expect(200);
    assert_eq!(found["data"][0]["attributes"]["name"], "closed");
    let taken = plane
        .post(
            "organizations/acme/agent-pools",
            &attributes(json!({"name": "open"})),
        )
        .await;
    assert_eq!(taken.status, 422);
    assert_eq!(
        plane
            .delete(&format!(
                "agent-pools/{}",
                found["data"][0]["id"].as_str().unwrap()
            ))
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn a_run_of_a_workspace_that_may_not_use_its_pool_any_more_is_made_and_waits() {
    let plane = Plane::start().await;
    let body = attributes(json!({"name": "own"}));
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &body)
        .await
        .expect(201));
    let execution = json!({"execution-mode": "agent", "agent-pool-id": pool});
    let workspace = plane.workspace_with("network", execution).await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let excluded = json!({"data": {"attributes": {}, "relationships": {
        "excluded-workspaces": {"data": [{"type": "workspaces", "id": workspace}]}}}});
    plane
        .patch(&format!("agent-pools/{pool}"), &excluded)
        .await
        .expect(200);
    let run = id(&plane.run(&workspace, &configuration).await);
    let reason = async || {
        let read = plane.get(&format!("runs/{run}")).await.expect(200);
        read["data"]["attributes"]["wait-reason"]["reason"].clone()
    };
    assert_eq!(reason().await, "not-allowed");
    let allowed = json!({"data": {"attributes": {}, "relationships": {"excluded-workspaces": {"data": []}}}});
    plane
        .patch(&format!("agent-pools/{pool}"), &allowed)
        .await
        .expect(200);
    assert_eq!(reason().await, "no-agent");
}

#[tokio::test]
async fn a_pool_becomes_the_default_only_of_those_that_may_use_it() {
    let plane = Plane::start().await;
    let body = attributes(json!({"name": "closed", "organization-scoped": false}));
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &body)
        .await
        .expect(201));
    let project = id(&plane
        .post(
            "organizations/acme/projects",
            &attributes(json!({"name": "core"})),
        )
        .await
        .expect(201));
    let path = format!("projects/{project}");
    let default = |name: &str| {
        attributes(json!({"name": name, "default-execution-mode": "agent", "default-agent-pool-id": pool}))
    };
    for refused in [
        plane.patch("organizations/acme", &default("acme")).await,
        plane.patch(&path, &default("core")).await,
        plane.post("organizations/acme/projects", &default("other")).await,
    ] {
        assert_eq!(refused.status, 422, "{}", refused.error());
        assert!(
            refused.error().contains("Agent pool closed is not for"),
            "{}",
            refused.error()
        );
    }
    let access = |projects: Value| json!({"data": {"attributes": {}, "relationships": {"allowed-projects": {"data": projects}}}});
    let pool_path = format!("agent-pools/{pool}");
    let allowed = access(json!([{"type": "projects", "id": project}]));
    plane.patch(&pool_path, &allowed).await.expect(200);
    plane.patch(&path, &default("core")).await.expect(200);
    // A project that loses the pool later keeps its other settings changeable.
    plane.patch(&pool_path, &access(json!([]))).await.expect(200);
    plane.patch(&path, &default("nucleus")).await.expect(200);
}

#[tokio::test]
async fn a_projects_default_pool_goes_before_the_organizations_and_keeps_its_pool() {
    let plane = Plane::start().await;
    let make = async |name: &str| {
        let body = attributes(json!({"name": name}));
        id(&plane
            .post("organizations/acme/agent-pools", &body)
            .await
            .expect(201))
    };
    let (of_organization, of_project) = (make("everywhere").await, make("network").await);
    let project = id(&plane
        .post(
            "organizations/acme/projects",
            &attributes(json!({"name": "core"})),
        )
        .await
        .expect(201));
    let body = json!({"data": {"attributes": {"name": "inside"}, "relationships": {
        "project": {"data": {"type": "projects", "id": project}}}}});
    let inside = id(&plane
        .post("organizations/acme/workspaces", &body)
        .await
        .expect(201));
    let outside = plane.workspace("outside").await;
    let default =
        |pool: &str| attributes(json!({"default-execution-mode": "agent", "default-agent-pool-id": pool}));
    plane
        .patch("organizations/acme", &default(&of_organization))
        .await
        .expect(200);
    let project_path = format!("projects/{project}");
    plane
        .patch(&project_path, &default(&of_project))
        .await
        .expect(200);
    let pool = async |workspace: &str| {
        let read = plane.get(&format!("workspaces/{workspace}")).await.expect(200);
        read["data"]["relationships"]["agent-pool"]["data"]["id"].clone()
    };
    assert_eq!(pool(&inside).await, json!(of_project));
    assert_eq!(pool(&outside).await, json!(of_organization));
    // A run goes where its workspace inherits to.
    let configuration = plane
        .configuration(&inside, json!({"auto-queue-runs": false}))
        .await;
    let run = id(&plane.run(&inside, &configuration).await);
    let run = terrapool_store::runs::get(
        &mut plane.running.app.db.read().await.unwrap(),
        &run.parse().unwrap(),
    )
    .await
    .unwrap()
    .unwrap();
    assert_eq!(run.pool_id.as_str(), of_project);
    // Neither pool can be deleted while it is somebody's default, and the refusal says whose.
    for (pool, names) in [(&of_project, "core"), (&of_organization, "organization")] {
        let refused = plane.delete(&format!("agent-pools/{pool}")).await;
        assert_eq!(refused.status, 409);
        assert!(refused.error().contains(names), "{}", refused.error());
    }
    let back = attributes(
        json!({"setting-overwrites": {"default-execution-mode": false, "default-agent-pool": false}}),
    );
    plane.patch(&project_path, &back).await.expect(200);
    assert_eq!(pool(&inside).await, json!(of_organization));
}
