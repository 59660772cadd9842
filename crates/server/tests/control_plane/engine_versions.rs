//! The engine catalogue, as site administrators and others see it.

use serde_json::{Value, json};

use crate::common::Plane;

fn entry(kind: &str, attributes: &Value) -> Value {
    json!({"data": {"type": kind, "attributes": attributes}})
}

fn attributes(version: &str) -> Value {
    json!({"version": version, "url": "https://example.com/engine.zip", "sha": "AB".repeat(32)})
}

#[tokio::test]
async fn a_site_admin_keeps_the_catalogue() {
    let plane = Plane::start().await;
    for kind in ["terraform-versions", "opentofu-versions"] {
        let path = format!("admin/{kind}");
        let made = plane
            .post(&path, &entry(kind, &attributes("1.11.4")))
            .await
            .expect(201);
        let found = &made["data"]["attributes"];
        assert_eq!(made["data"]["type"], json!(kind));
        assert_eq!(found["sha"], json!("ab".repeat(32)));
        assert_eq!(
            (
                &found["enabled"],
                &found["beta"],
                &found["official"],
                &found["usage"]
            ),
            (&json!(true), &json!(false), &json!(false), &json!(0))
        );
        let one = format!("{path}/{}", made["data"]["id"].as_str().unwrap());
        let change = entry(kind, &json!({"enabled": false, "beta": true}));
        let changed = plane
            .send(plane.request("PATCH", &one).body(change.to_string()))
            .await
            .expect(200);
        assert_eq!(changed["data"]["attributes"]["enabled"], json!(false));
        assert_eq!(changed["data"]["attributes"]["version"], json!("1.11.4"));
        assert_eq!(
            plane.send(plane.request("GET", &one)).await.expect(200)["data"],
            changed["data"]
        );
        let search = format!("{path}?search[version]=1.11");
        let listed = plane.send(plane.request("GET", &search)).await.expect(200);
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        assert_eq!(listed["meta"]["pagination"]["total-count"], json!(1));
        let none = format!("{path}?filter[version]=1.11");
        let listed = plane.send(plane.request("GET", &none)).await.expect(200);
        assert_eq!(listed["data"], json!([]));
        plane.send(plane.request("DELETE", &one)).await.expect(204);
        plane.send(plane.request("GET", &one)).await.expect(404);
    }
}

#[tokio::test]
async fn an_entry_that_agents_could_not_use_is_refused() {
    let plane = Plane::start().await;
    let path = "admin/terraform-versions";
    for (name, value) in [
        ("version", "latest"),
        ("version", ""),
        ("url", "http://example.com/engine.zip"),
        ("url", "https://exa mple.com"),
        ("sha", "abc"),
    ] {
        let mut wrong = attributes("1.11.4");
        wrong[name] = json!(value);
        let answer = plane.post(path, &entry("terraform-versions", &wrong)).await;
        assert_eq!(answer.status, 422, "{name} {value}");
        let pointer = answer.json()["errors"][0]["source"]["pointer"].clone();
        assert_eq!(pointer, json!(format!("/data/attributes/{name}")));
    }
    let good = entry("terraform-versions", &attributes("1.11.4"));
    plane.post(path, &good).await.expect(201);
    let twice = plane.post(path, &good).await;
    assert_eq!(twice.status, 422);
    assert!(
        twice.error().contains("in the catalogue already"),
        "{}",
        twice.error()
    );
}

#[tokio::test]
async fn an_entry_that_a_workspace_names_is_not_deleted() {
    let plane = Plane::start().await;
    let workspace = json!({"data": {"type": "workspaces",
        "attributes": {"name": "one", "terraform-version": "1.11.4"}}});
    plane
        .post("organizations/acme/workspaces", &workspace)
        .await
        .expect(201);
    let entry = entry("terraform-versions", &attributes("1.11.4"));
    let made = plane.post("admin/terraform-versions", &entry).await.expect(201);
    assert_eq!(made["data"]["attributes"]["usage"], json!(1));
    let one = format!(
        "admin/terraform-versions/{}",
        made["data"]["id"].as_str().unwrap()
    );
    let refused = plane.send(plane.request("DELETE", &one)).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.error().contains("used by 1 workspace"),
        "{}",
        refused.error()
    );
}

#[tokio::test]
async fn others_are_told_that_there_is_no_catalogue() {
    let plane = Plane::start().await;
    let entry = entry("terraform-versions", &attributes("1.11.4"));
    let made = plane.post("admin/terraform-versions", &entry).await.expect(201);
    let one = format!(
        "admin/terraform-versions/{}",
        made["data"]["id"].as_str().unwrap()
    );
    let stranger = plane.stranger("mallory").await;
    for (method, path) in [
        ("GET", "admin/terraform-versions"),
        ("POST", "admin/terraform-versions"),
        ("GET", one.as_str()),
        ("PATCH", one.as_str()),
        ("DELETE", one.as_str()),
    ] {
        let request = plane.request_as(&stranger, method, path).body(entry.to_string());
        plane.send(request).await.expect(404);
    }
}
