//! The shared pool, as site administrators set it and others do not see it.

use serde_json::{Value, json};
use terrapool_model::time::Millis;
use terrapool_server::{http, shared_agent};
use terrapool_store::audit::{self, AuditFilter};
use terrapool_testkit::agent::SimulatedAgent;

use crate::common::Plane;
use crate::common::browser::{PASSWORD, account, look_at};

fn pool(attributes: &Value) -> Value {
    json!({"data": {"type": "agent-pools", "attributes": attributes}})
}

/// An agent of the shared pool.
async fn agent(plane: &Plane) -> SimulatedAgent {
    let app = &plane.running.app;
    let token = shared_agent::create_token(app, "by hand").await.unwrap();
    SimulatedAgent::register(&http::router(app), &token, "helper", "1").await
}

/// What the installation's own audit log says was done to a thing, newest first.
async fn done_to(plane: &Plane, subject: &str) -> Vec<String> {
    let mut connection = plane.running.app.db.read().await.unwrap();
    audit::list(&mut connection, None, &AuditFilter::default(), 100)
        .await
        .unwrap()
        .into_iter()
        .filter(|entry| entry.subject == subject)
        .map(|entry| entry.action)
        .collect()
}

#[tokio::test]
async fn site_administrators_set_pause_and_drain_the_shared_pool_by_the_api() {
    let plane = Plane::start().await;
    assert_eq!(
        plane.get("agent-pools/shared").await.status,
        404,
        "there is none yet"
    );
    let agent = agent(&plane).await;
    let shown = plane.get("agent-pools/shared").await.expect(200);
    let id = shown["data"]["id"].as_str().unwrap().to_owned();
    assert_eq!(plane.get(&format!("agent-pools/{id}")).await.expect(200), shown);
    assert!(shown["data"]["relationships"]["organization"].is_null());

    let change = json!({"paused": true, "sandbox": {"memory-mb": 768}});
    let changed = plane
        .patch("agent-pools/shared", &pool(&change))
        .await
        .expect(200);
    let attributes = &changed["data"]["attributes"];
    assert_eq!(
        (&attributes["paused"], &attributes["sandbox"]["memory-mb"]),
        (&json!(true), &json!(768))
    );
    for wrong in [json!({"name": "other"}), json!({"organization-scoped": false})] {
        let refused = plane.patch("agent-pools/shared", &pool(&wrong)).await;
        assert_eq!(refused.status, 422, "{wrong}");
        assert!(
            refused.error().contains("every organization"),
            "{}",
            refused.error()
        );
    }
    let mut lists = pool(&json!({}));
    lists["data"]["relationships"] = json!({"allowed-projects": {"data": []}});
    assert_eq!(plane.patch("agent-pools/shared", &lists).await.status, 422);
    assert_eq!(plane.delete("agent-pools/shared").await.status, 409);

    let listed = plane.get("agent-pools/shared/agents").await.expect(200);
    let name = listed["data"][0]["id"].as_str().unwrap().to_owned();
    let drain = format!("agents/{name}/actions/drain");
    plane.post(&drain, &json!({})).await.expect(200);
    assert!(agent.sync(Millis::ZERO).await.drain);
    assert_eq!(done_to(&plane, &id).await, ["agent-pool.update"]);
    assert_eq!(done_to(&plane, &name).await, ["agent.drain"]);

    // Somebody who owns an organization is told nothing of it.
    let token = plane.stranger("bob").await;
    for (method, path) in [
        ("GET", "agent-pools/shared"),
        ("PATCH", "agent-pools/shared"),
        ("DELETE", "agent-pools/shared"),
        ("GET", "agent-pools/shared/agents"),
        ("GET", "agent-pools/shared/authentication-tokens"),
        ("POST", "agent-pools/shared/authentication-tokens"),
        ("POST", &drain),
    ] {
        let body = pool(&json!({"description": "d"})).to_string();
        let request = plane.request_as(&token, method, path).body(body);
        assert_eq!(plane.send(request).await.status, 404, "{method} {path}");
    }
}

#[tokio::test]
async fn site_administrators_set_pause_and_drain_the_shared_pool_by_its_pages() {
    let plane = Plane::start().await;
    let agent = agent(&plane).await;
    account(&plane, "ada", true).await;
    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    let page = "/app/admin/shared-pool";
    let seen = browser.get(page).await;
    assert!(seen.text.contains(r#"value="512" min="128""#), "{}", seen.text);
    assert!(!seen.text.contains(r#"name="name""#), "it keeps its name");
    let token = browser.token(page).await;

    let saved = browser.post(page, &[("token", &token), ("memory", "640")]).await;
    assert_eq!(
        (saved.status, saved.location.as_str()),
        (303, page),
        "{}",
        saved.text
    );
    assert!(browser.get(page).await.text.contains(r#"value="640""#));
    let refused = browser.post(page, &[("token", &token), ("memory", "1")]).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("128"), "{}", refused.text);

    let pause = format!("{page}/pause");
    browser
        .post(&pause, &[("token", &token), ("paused", "yes")])
        .await;
    assert!(
        browser
            .get("/app/admin")
            .await
            .text
            .contains("Give out runs again")
    );
    browser.post(&pause, &[("token", &token), ("paused", "no")]).await;
    assert!(
        !browser
            .get("/app/admin")
            .await
            .text
            .contains("Give out runs again")
    );

    let id = agent.registered.agent.as_str();
    for (action, drained) in [("drain", true), ("resume", false)] {
        let path = format!("{page}/agents/{id}/{action}");
        let answer = browser.post(&path, &[("token", &token)]).await;
        assert_eq!(answer.status, 303, "{}", answer.text);
        assert_eq!(agent.sync(Millis::ZERO).await.drain, drained);
    }
    assert_eq!(done_to(&plane, id).await, ["agent.resume", "agent.drain"]);

    account(&plane, "bob", false).await;
    let mut browser = look_at(&plane);
    browser.sign_in("bob", PASSWORD).await;
    assert_eq!(browser.get(page).await.status, 404);
    let token = browser.token("/app/settings/profile").await;
    let drain = format!("{page}/agents/{id}/drain");
    for path in [page, &pause, &drain] {
        let answer = browser.post(path, &[("token", &token), ("paused", "yes")]).await;
        assert_eq!(answer.status, 404, "{path}");
    }
}
