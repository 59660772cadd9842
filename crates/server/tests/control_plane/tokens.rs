//! Tokens: which are accepted where, and what strangers see.

use serde_json::{Value, json};

use crate::common::{Plane, id};

#[tokio::test]
async fn missing_unknown_and_other_tokens_are_unauthorized() {
    let plane = Plane::start().await;
    assert_eq!(
        plane.send(plane.anonymous("GET", "account/details")).await.status,
        401
    );
    let pool = json!({"data": {"attributes": {"name": "p"}}});
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &pool)
        .await
        .expect(201));
    let body = json!({"data": {"attributes": {"description": "d"}}});
    let path = format!("agent-pools/{pool}/authentication-tokens");
    let made = plane.post(&path, &body).await.expect(201);
    let agent = made["data"]["attributes"]["token"].as_str().unwrap().to_owned();
    for token in ["nonsense", "tpu_nonsense", "tps_nonsense", "tpj_nonsense", &agent] {
        let answer = plane
            .send(plane.request_as(token, "GET", "account/details"))
            .await;
        assert_eq!(answer.status, 401, "{token}");
        assert!(answer.error().starts_with("unauthorized"));
    }
    // The secret is shown once.
    let shown = plane
        .get(&format!("authentication-tokens/{}", id(&made)))
        .await
        .expect(200);
    assert_eq!(shown["data"]["attributes"]["token"], Value::Null);
    assert_eq!(
        plane
            .post(&path, &json!({"data": {"attributes": {}}}))
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn a_revoked_token_is_refused_from_the_next_request_on() {
    let plane = Plane::start().await;
    let me = id(&plane.get("account/details").await.expect(200));
    let path = format!("users/{me}/authentication-tokens");
    let made = plane
        .post(&path, &json!({"data": {"attributes": {"description": "x"}}}))
        .await
        .expect(201);
    let token = made["data"]["attributes"]["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("tpu_"));
    assert_eq!(
        plane
            .send(plane.request_as(&token, "GET", "account/details"))
            .await
            .status,
        200
    );
    let listed = plane.get(&path).await.expect(200);
    assert_eq!(listed["meta"]["pagination"]["total-count"], 2);
    assert_eq!(
        plane
            .delete(&format!("authentication-tokens/{}", id(&made)))
            .await
            .status,
        204
    );
    assert_eq!(
        plane
            .send(plane.request_as(&token, "GET", "account/details"))
            .await
            .status,
        401
    );
    let expired = json!({"data": {"attributes": {"expired-at": "2001-01-01T00:00:00Z"}}});
    let made = plane.post(&path, &expired).await.expect(201);
    let token = made["data"]["attributes"]["token"].as_str().unwrap().to_owned();
    assert_eq!(
        plane
            .send(plane.request_as(&token, "GET", "account/details"))
            .await
            .status,
        401
    );
}

#[tokio::test]
async fn strangers_are_told_that_there_is_nothing() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane.configuration(&workspace, json!({})).await;
    let run = plane.run(&workspace, &configuration).await;
    let plan = run["data"]["relationships"]["plan"]["data"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let run = id(&run);
    let bob = plane.stranger("bob").await;
    for path in [
        "organizations/acme".to_owned(),
        "organizations/acme/entitlement-set".to_owned(),
        "organizations/acme/workspaces/one".to_owned(),
        "organizations/acme/projects".to_owned(),
        "organizations/acme/agent-pools".to_owned(),
        "organizations/acme/authentication-token".to_owned(),
        format!("workspaces/{workspace}"),
        format!("workspaces/{workspace}/vars"),
        format!("workspaces/{workspace}/current-state-version"),
        format!("configuration-versions/{configuration}/download"),
        format!("runs/{run}"),
        format!("plans/{plan}"),
        format!("plans/{plan}/json-output"),
    ] {
        assert_eq!(
            plane.send(plane.request_as(&bob, "GET", &path)).await.status,
            404,
            "{path}"
        );
    }
    for path in [
        format!("workspaces/{workspace}/actions/lock"),
        format!("workspaces/{workspace}/state-versions"),
        format!("workspaces/{workspace}/configuration-versions"),
        format!("runs/{run}/actions/cancel"),
    ] {
        let request = plane
            .request_as(&bob, "POST", &path)
            .body(r#"{"data":{"attributes":{"serial":1,"md5":"x"}}}"#);
        assert_eq!(plane.send(request).await.status, 404, "{path}");
    }
    let listed = plane
        .send(plane.request_as(&bob, "GET", "organizations"))
        .await
        .expect(200);
    assert_eq!(listed["data"], json!([]));
    // Any user may make an organization, and owns it.
    let body = json!({"data": {"attributes": {"name": "bobs", "email": "bob@example.com"}}}).to_string();
    plane
        .send(plane.request_as(&bob, "POST", "organizations").body(body))
        .await
        .expect(201);
    assert_eq!(
        plane
            .send(plane.request_as(&bob, "GET", "organizations/bobs/projects"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn an_organizations_token_manages_its_own_organization_only() {
    let plane = Plane::start().await;
    let made = plane
        .post("organizations/acme/authentication-token", &json!({}))
        .await
        .expect(201);
    let token = made["data"]["attributes"]["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("tpo_"));
    let workspace = json!({"data": {"attributes": {"name": "by-token"}}}).to_string();
    let request = plane
        .request_as(&token, "POST", "organizations/acme/workspaces")
        .body(workspace);
    let workspace = id(&plane.send(request).await.expect(201));
    let lock = plane.request_as(&token, "POST", &format!("workspaces/{workspace}/actions/lock"));
    assert_eq!(plane.send(lock).await.status, 404);
    let body = json!({"data": {"attributes": {"name": "other", "email": "o@example.com"}}});
    plane.post("organizations", &body).await.expect(201);
    assert_eq!(
        plane
            .send(plane.request_as(&token, "GET", "organizations/other"))
            .await
            .status,
        404
    );
    assert_eq!(
        plane
            .send(plane.request_as(&token, "GET", "account/details"))
            .await
            .status,
        200
    );
    // Making another one replaces it.
    plane
        .post("organizations/acme/authentication-token", &json!({}))
        .await
        .expect(201);
    assert_eq!(
        plane
            .send(plane.request_as(&token, "GET", "organizations/acme"))
            .await
            .status,
        401
    );
    assert_eq!(
        plane
            .delete("organizations/acme/authentication-token")
            .await
            .status,
        204
    );
    assert_eq!(
        plane.get("organizations/acme/authentication-token").await.status,
        404
    );
    let organization = plane.get("organizations/acme").await.json();
    let organization = organization["data"]["attributes"]["external-id"]
        .as_str()
        .unwrap();
    let mut connection = plane.running.app.db.read().await.unwrap();
    let entries = terrapool_store::audit::newest(&mut connection, &organization.parse().unwrap(), 50)
        .await
        .unwrap();
    assert!(
        entries.iter().any(|entry| entry.action == "token.delete"),
        "{entries:?}"
    );
}
