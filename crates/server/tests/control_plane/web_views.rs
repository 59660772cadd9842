//! What pages show of states, runs and projects, as a browser without scripts sees it.
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use terrapool_testkit::forms::{FormBrowser, hidden};

use crate::common::browser::{PASSWORD, account, look_at};
use crate::common::{Plane, id, md5};

async fn signed_in(plane: &Plane) -> FormBrowser {
    account(plane, "ada", true).await;
    let mut browser = look_at(plane);
    browser.sign_in("ada", PASSWORD).await;
    browser
}

fn document(kind: &str, attributes: Value) -> Value {
    json!({"data": {"type": kind, "attributes": attributes}})
}

/// A state with a database of this size, whose password is a secret.
fn state(serial: u64, size: u64) -> Vec<u8> {
    json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": "line", "outputs": {},
        "resources": [{"mode": "managed", "type": "example_database", "name": "a", "provider": "p", "instances": [{
            "attributes": {"size": size, "password": format!("hunter{size}")},
            "sensitive_attributes": [[{"type": "get_attr", "value": "password"}]]}]}],
    })
    .to_string()
    .into_bytes()
}

async fn upload(plane: &Plane, workspace: &str, serial: u64, bytes: &[u8]) -> String {
    let attributes =
        json!({"serial": serial, "md5": md5(bytes), "lineage": "line", "state": STANDARD.encode(bytes)});
    let path = format!("workspaces/{workspace}/state-versions");
    id(&plane
        .post(&path, &document("state-versions", attributes))
        .await
        .expect(201))
}

fn has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "{part} is not in {page}");
    }
}

#[tokio::test]
async fn states_are_compared_line_by_line_and_a_rollback_is_marked() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("network").await;
    plane.lock(&workspace).await;
    let bytes = state(1, 20);
    let first = upload(&plane, &workspace, 1, &bytes).await;
    let second = upload(&plane, &workspace, 2, &state(2, 30)).await;
    plane
        .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
        .await
        .expect(200);
    let mut browser = signed_in(&plane).await;
    let states = "/app/acme/workspaces/network/states";
    let seen = browser.get(states).await.text;
    let raw = format!("{states}?to={second}&#38;from={first}&#38;view=raw");
    has(&seen, &["example_database.a", &raw, "Raw JSON"]);
    let raw = browser.get(&raw.replace("&#38;", "&")).await.text;
    has(
        &raw,
        &[
            "<del>&quot;size&quot;: 20</del>",
            "<ins>&quot;size&quot;: 30</ins>",
            "<del>&quot;serial&quot;: 1,</del>",
        ],
    );
    assert!(!raw.contains("hunter"), "{raw}");
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let of_first = browser.get(&format!("{states}?to={first}")).await.text;
    has(&of_first, &["SHA-256", &digest]);

    let token = hidden(&of_first, "token");
    let back = format!("{states}/{first}/roll-back");
    let done = browser.post(&back, &[("token", &token), ("name", "1")]).await;
    assert_eq!(done.status, 303, "{}", done.text);
    // The copy of a copy that is not the current one any more is marked, and who made it is named.
    plane.lock(&workspace).await;
    upload(&plane, &workspace, 9, &state(9, 40)).await;
    has(
        &browser.get(states).await.text,
        &[">rollback</span>", "rolled back by ada"],
    );
}

#[tokio::test]
async fn runs_are_listed_by_who_made_them() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("network").await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let run = id(&plane.run(&workspace, &configuration).await);
    let mut browser = signed_in(&plane).await;
    let of_ann = browser.get("/app/acme/runs?who=AN").await.text;
    has(&of_ann, &[&run, "value=\"AN\""]);
    let of_ada = browser.get("/app/acme/runs?who=ada").await.text;
    has(&of_ada, &["No run fits this filter."]);
}

#[tokio::test]
async fn a_project_has_a_page_of_its_own() {
    let plane = Plane::start().await;
    let pool = document("agent-pools", json!({"name": "own"}));
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &pool)
        .await
        .expect(201));
    let project = json!({"name": "core", "default-execution-mode": "agent", "default-agent-pool-id": pool});
    let project = id(&plane
        .post("organizations/acme/projects", &document("projects", project))
        .await
        .expect(201));
    let workspace = json!({"data": {"type": "workspaces", "attributes": {"name": "inside"}, "relationships": {
        "project": {"data": {"type": "projects", "id": project}}}}});
    plane
        .post("organizations/acme/workspaces", &workspace)
        .await
        .expect(201);
    plane.workspace("elsewhere").await;
    let team = id(&plane
        .post(
            "organizations/acme/teams",
            &document("teams", json!({"name": "builders"})),
        )
        .await
        .expect(201));
    let role = json!({"data": {"type": "team-projects", "attributes": {"access": "write"}, "relationships": {
        "team": {"data": {"type": "teams", "id": team}},
        "project": {"data": {"type": "projects", "id": project}}}}});
    plane.post("team-projects", &role).await.expect(201);
    let mut browser = signed_in(&plane).await;
    let list = browser.get("/app/acme/projects").await.text;
    let page = format!("/app/acme/projects/{project}");
    has(&list, &[&page]);
    let seen = browser.get(&page).await.text;
    has(
        &seen,
        &[
            "<h1>core</h1>",
            ">inside</a>",
            "in pool own, set here",
            "builders",
            "confirms runs, changes variables, locks, in this project",
            "owners",
            "in every project",
        ],
    );
    assert!(!seen.contains("elsewhere"), "{seen}");
    let default = list
        .split("/app/acme/projects/prj-")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    assert_eq!(
        browser
            .get(&format!("/app/acme/projects/prj-{default}"))
            .await
            .status,
        200
    );
    assert_eq!(browser.get("/app/acme/projects/prj-nothing").await.status, 404);
}
