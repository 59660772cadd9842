//! All runs of an organization, by the API.

use serde_json::json;

use crate::common::{Plane, id};

#[tokio::test]
async fn runs_of_an_organization_are_listed_by_status_group_workspace_and_pool() {
    let plane = Plane::start().await;
    let pool = json!({"data": {"type": "agent-pools", "attributes": {"name": "own"}}});
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &pool)
        .await
        .expect(201));
    let mut runs = Vec::new();
    for (name, settings) in [
        ("one", json!({"execution-mode": "agent", "agent-pool-id": pool})),
        ("two", json!({})),
    ] {
        let workspace = plane.workspace_with(name, settings).await;
        let configuration = plane
            .configuration(&workspace, json!({"auto-queue-runs": false}))
            .await;
        runs.push(id(&plane.run(&workspace, &configuration).await));
    }
    let path = format!("runs/{}/actions/cancel", runs[1]);
    plane.post(&path, &json!({})).await.expect(202);

    for (query, expected) in [
        ("", vec![&runs[1], &runs[0]]),
        ("filter[status]=plan_queued", vec![&runs[0]]),
        ("filter[status]=plan_queued,canceled", vec![&runs[1], &runs[0]]),
        ("filter[status]=applied", vec![]),
        ("filter[status]=canceled&filter[status_group]=non_final", vec![]),
        ("filter[status_group]=final", vec![&runs[1]]),
        ("filter[workspace_names]=two", vec![&runs[1]]),
        ("filter[workspace_names]=one,two", vec![&runs[1], &runs[0]]),
        ("filter[agent_pool_names]=own", vec![&runs[0]]),
        ("page[size]=1&page[number]=2", vec![&runs[0]]),
    ] {
        let found = plane
            .get(&format!("organizations/acme/runs?{query}"))
            .await
            .expect(200);
        let ids: Vec<&str> = found["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }
    let stranger = plane.stranger("lin").await;
    let refused = plane
        .send(plane.request_as(&stranger, "GET", "organizations/acme/runs"))
        .await;
    assert_eq!(refused.status, 404);
}
