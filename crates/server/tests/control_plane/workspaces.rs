//! Organizations, projects, workspaces, tags, variables and pools, as clients set and read them.
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

use serde_json::{Value, json};

use crate::common::{Plane, id};

pub(super) fn attributes(value: Value) -> Value {
    json!({"data": {"attributes": value}})
}

#[tokio::test]
async fn what_create_answers_is_what_read_and_list_answer() {
    let plane = Plane::start().await;
    let sent = json!({
        "name": "one", "description": "d", "auto-apply": true, "working-directory": "/infra/", "terraform-version": "0.11.1",
        "allow-destroy-plan": false, "queue-all-runs": true, "trigger-prefixes": ["/a"], "source-name": "s",
    });
    let body = json!({"data": {"attributes": sent, "relationships": {
        "tags": {"data": [{"type": "tags", "attributes": {"name": "b"}}, {"type": "tags", "attributes": {"name": "a"}}]},
        "tag-bindings": {"data": [{"type": "tag-bindings", "attributes": {"key": "env", "value": "prod"}}]}}}});
    let created = plane
        .post("organizations/acme/workspaces", &body)
        .await
        .expect(201);
    let read = plane
        .get(&format!("workspaces/{}", id(&created)))
        .await
        .expect(200);
    let named = plane.get("organizations/acme/workspaces/one").await.expect(200);
    let listed = plane.get("organizations/acme/workspaces").await.expect(200);
    assert_eq!(created["data"], read["data"]);
    assert_eq!(created["data"], named["data"]);
    assert_eq!(created["data"], listed["data"][0]);
    let found = &created["data"]["attributes"];
    assert_eq!(found["tag-names"], json!(["b", "a"]));
    assert_eq!(found["working-directory"], "infra");
    assert_eq!(found["source"], "tfe-api");
    assert_eq!(
        found["setting-overwrites"],
        json!({"execution-mode": false, "agent-pool": false})
    );
    for name in [
        "auto-apply",
        "terraform-version",
        "allow-destroy-plan",
        "queue-all-runs",
        "source-name",
    ] {
        assert_eq!(found[name], sent[name], "{name}");
    }
    assert_eq!(created["data"]["links"]["self-html"], "/app/acme/workspaces/one");
}

#[tokio::test]
async fn names_that_pages_have_in_their_addresses_are_given_to_nothing() {
    let plane = Plane::start().await;
    for name in ["settings", "admin", "new", "organizations", "oauth"] {
        let body = attributes(json!({"name": name, "email": "a@example.com"}));
        let made = plane.post("organizations", &body).await;
        let renamed = plane.patch("organizations/acme", &body).await;
        for refused in [made, renamed] {
            let text = String::from_utf8_lossy(&refused.bytes).into_owned();
            assert_eq!(refused.status, 422, "{name}: {text}");
            assert!(text.contains("Name is reserved") && text.contains("/data/attributes/name"));
        }
    }
    // A request that names the organization as it is called changes the rest.
    let body = attributes(json!({"name": "acme", "email": "other@example.com"}));
    let changed = plane.patch("organizations/acme", &body).await.expect(200);
    assert_eq!(changed["data"]["attributes"]["email"], "other@example.com");

    let one = plane.workspace("newer").await;
    let body = attributes(json!({"name": "new"}));
    let made = plane.post("organizations/acme/workspaces", &body).await;
    let renamed = plane.patch(&format!("workspaces/{one}"), &body).await;
    for refused in [made, renamed] {
        let text = String::from_utf8_lossy(&refused.bytes).into_owned();
        assert_eq!(refused.status, 422, "{text}");
        assert!(text.contains("Name is reserved"), "{text}");
    }
}

#[tokio::test]
async fn names_and_versions_that_are_none_are_refused_and_unknown_versions_are_kept() {
    let plane = Plane::start().await;
    let path = "organizations/acme/workspaces";
    for (name, version, status) in [
        ("ok", "1.99.0", 201),
        ("ok2", "latest", 201),
        ("ok3", "1.12.6-dev", 201),
        ("no", "nonexisting", 422),
        ("has blank", "1.11.4", 422),
        ("ok", "1.11.4", 422),
    ] {
        let answer = plane
            .post(
                path,
                &attributes(json!({"name": name, "terraform-version": version})),
            )
            .await;
        assert_eq!(answer.status, status, "{name} {version}: {}", answer.error());
    }
    let workspace = plane.workspace("x").await;
    let answer = plane
        .patch(
            &format!("workspaces/{workspace}"),
            &attributes(json!({"terraform-version": "no"})),
        )
        .await;
    assert_eq!(answer.status, 422);
    assert!(answer.error().contains("invalid attribute"));
}

#[tokio::test]
async fn the_engine_is_told_by_the_clients_name() {
    let plane = Plane::start().await;
    for (agent, engine) in [("OpenTofu/1.12.6", "tofu"), ("go-tfe", "terraform")] {
        let request = plane
            .request("POST", "organizations/acme/workspaces")
            .header("User-Agent", agent);
        let body = attributes(json!({"name": engine})).to_string();
        let made = plane.send(request.body(body)).await.expect(201);
        assert_eq!(made["data"]["attributes"]["engine"], engine);
        assert_eq!(made["data"]["attributes"]["terraform-version"], "latest");
    }
}

#[tokio::test]
async fn lists_are_paged_searched_and_filtered() {
    let plane = Plane::start().await;
    for (name, tag) in [("alpha-prod", "a"), ("beta-prod", "b"), ("gamma", "a")] {
        let workspace = plane.workspace(name).await;
        let body = json!({"data": [{"type": "tags", "attributes": {"name": tag}}]});
        assert_eq!(
            plane
                .post(&format!("workspaces/{workspace}/relationships/tags"), &body)
                .await
                .status,
            204
        );
    }
    let names = async |query: &str| -> (Vec<String>, u64) {
        let answer = plane
            .get(&format!("organizations/acme/workspaces?{query}"))
            .await
            .expect(200);
        let list = answer["data"].as_array().unwrap();
        let names = list
            .iter()
            .map(|one| one["attributes"]["name"].as_str().unwrap().to_owned())
            .collect();
        (
            names,
            answer["meta"]["pagination"]["total-count"].as_u64().unwrap(),
        )
    };
    assert_eq!(
        names("search%5Btags%5D=a&TagBindings=%7B+k+v%7D").await.0,
        ["alpha-prod", "gamma"]
    );
    assert_eq!(names("filter[tagged][0][key]=b").await.0, ["beta-prod"]);
    assert_eq!(names("search[exclude-tags]=a").await.0, ["beta-prod"]);
    assert_eq!(
        names("search[name]=PROD&sort=-name").await.0,
        ["beta-prod", "alpha-prod"]
    );
    assert_eq!(names("search[wildcard-name]=*-prod").await.1, 2);
    assert_eq!(names("search[name]=_").await.1, 0);
    assert_eq!(
        names("page[size]=2&page[number]=2").await,
        (vec!["gamma".to_owned()], 3)
    );
    let (none, total) = names("page[number]=999&page[size]=100").await;
    assert_eq!((none.len(), total), (0, 3));
    let tags = plane.get("organizations/acme/tags").await.expect(200);
    assert_eq!(tags["data"][0]["attributes"]["instance-count"], 2);
    let page = plane
        .get("organizations/acme/workspaces?search[name]=prod&page[size]=1")
        .await
        .expect(200);
    let next = page["links"]["next"].as_str().unwrap().to_owned();
    assert!(
        next.starts_with("/api/v2/organizations/acme/workspaces?search"),
        "{next}"
    );
    assert_eq!(
        plane.get(&next).await.expect(200)["data"][0]["attributes"]["name"],
        "beta-prod"
    );
}

#[tokio::test]
async fn sensitive_variables_are_sealed_and_never_returned() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let path = format!("workspaces/{workspace}/vars");
    let secret = json!({"key": "password", "value": "hunter2", "category": "env", "sensitive": true});
    let made = plane.post(&path, &attributes(secret.clone())).await.expect(201);
    assert_eq!(made["data"]["attributes"]["value"], Value::Null);
    let one = format!("{path}/{}", id(&made));
    for answer in [
        plane.get(&one).await,
        plane.patch(&one, &attributes(json!({}))).await,
        plane.get(&path).await,
    ] {
        assert!(!String::from_utf8_lossy(&answer.bytes).contains("hunter2"));
    }
    let again = plane.patch(&one, &attributes(json!({}))).await.expect(200);
    assert_ne!(
        again["data"]["attributes"]["version-id"],
        made["data"]["attributes"]["version-id"]
    );
    assert_eq!(
        plane
            .patch(&one, &attributes(json!({"sensitive": false})))
            .await
            .status,
        422
    );
    assert_eq!(plane.post(&path, &attributes(secret)).await.status, 422);
    let long = json!({"key": "x", "category": "env", "description": "d".repeat(539)});
    assert_eq!(plane.post(&path, &attributes(long)).await.status, 422);
    let plain = plane
        .post(&path, &attributes(json!({"key": "p", "category": "terraform"})))
        .await
        .expect(201);
    assert_eq!(plain["data"]["attributes"]["value"], "");
    let mut connection = plane.running.app.db.read().await.unwrap();
    let stored = terrapool_store::variables::get(&mut connection, &id(&made).parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(!stored.value.windows(7).any(|window| window == b"hunter2"));
    let opened = plane
        .running
        .app
        .objects
        .keyring()
        .open_sealed(&id(&made), &stored.value)
        .unwrap();
    assert_eq!(opened, b"hunter2");
    assert_eq!(plane.delete(&one).await.status, 204);
    assert_eq!(plane.get(&one).await.status, 404);
}

#[tokio::test]
async fn projects_and_organizations_are_made_changed_and_deleted() {
    let plane = Plane::start().await;
    let path = "organizations/acme/projects";
    let bad = plane.post(path, &attributes(json!({"name": "! / nope"}))).await;
    assert_eq!(bad.status, 422);
    assert!(bad.error().contains("Name may only contain"));
    let project = plane
        .post(path, &attributes(json!({"name": "Team A"})))
        .await
        .expect(201);
    assert_eq!(
        plane.get(&format!("projects/{}", id(&project))).await.expect(200)["data"],
        project["data"]
    );
    let found = plane
        .get(&format!("{path}?filter%5Bnames%5D=Team%20A"))
        .await
        .expect(200);
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
    let body = json!({"data": {"attributes": {"name": "in-a"}, "relationships": {
        "project": {"data": {"type": "projects", "id": id(&project)}}}}});
    plane
        .post("organizations/acme/workspaces", &body)
        .await
        .expect(201);
    assert_eq!(
        plane.delete(&format!("projects/{}", id(&project))).await.status,
        409
    );
    let default = plane.get(&format!("{path}?q=Default")).await.expect(200);
    let default = default["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(plane.delete(&format!("projects/{default}")).await.status, 409);
    let renamed = plane
        .patch(
            "organizations/acme",
            &attributes(json!({"name": "acme2", "session-timeout": 60})),
        )
        .await;
    let renamed = renamed.expect(200);
    assert_eq!(renamed["data"]["id"], "acme2");
    assert_eq!(renamed["data"]["attributes"]["session-timeout"], 60);
    let configuration = plane
        .configuration(&plane_workspace(&plane).await, json!({}))
        .await;
    assert!(!configuration.is_empty());
    assert_eq!(plane.delete("organizations/acme2").await.status, 204);
    assert_eq!(plane.get("organizations/acme2").await.status, 404);
}

async fn plane_workspace(plane: &Plane) -> String {
    id(&plane.get("organizations/acme2/workspaces/in-a").await.expect(200))
}

#[tokio::test]
async fn locks_tell_who_holds_them() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let path = format!("workspaces/{workspace}/actions");
    plane.lock(&workspace).await;
    let again = plane.post(&format!("{path}/lock"), &json!({})).await;
    assert_eq!(again.status, 409);
    let read = plane.get(&format!("workspaces/{workspace}")).await.expect(200);
    assert_eq!(read["data"]["attributes"]["locked"], true);
    assert_eq!(
        read["data"]["relationships"]["locked-by"]["data"]["type"],
        "users"
    );
    plane
        .post(&format!("{path}/unlock"), &json!({}))
        .await
        .expect(200);
    let unlocked = plane.post(&format!("{path}/unlock"), &json!({})).await;
    assert_eq!(unlocked.status, 409);
    assert!(
        unlocked.error().contains("already unlocked"),
        "{}",
        unlocked.error()
    );
    let configuration = plane.configuration(&workspace, json!({})).await;
    plane.run(&workspace, &configuration).await;
    let held = plane.post(&format!("{path}/unlock"), &json!({})).await;
    assert_eq!(held.status, 409);
    assert!(held.error().contains("is locked by Run"), "{}", held.error());
    let deleted = plane.delete(&format!("workspaces/{workspace}")).await;
    assert_eq!(deleted.status, 409);
}

#[tokio::test]
async fn who_changes_a_project_or_the_tags_of_a_workspace_is_in_the_audit_log() {
    let plane = Plane::start().await;
    let project = json!({"data": {"type": "projects", "attributes": {"name": "network"}}});
    let project = id(&plane
        .post("organizations/acme/projects", &project)
        .await
        .expect(201));
    let renamed = json!({"data": {"type": "projects", "attributes": {"name": "networks"}}});
    plane
        .patch(&format!("projects/{project}"), &renamed)
        .await
        .expect(200);
    let workspace = plane.workspace("app").await;
    let tags = json!({"data": [{"type": "tags", "attributes": {"name": "edge"}}]});
    let path = format!("workspaces/{workspace}/relationships/tags");
    plane.post(&path, &tags).await.expect(204);
    let request = plane.request("DELETE", &path).body(tags.to_string());
    plane.send(request).await.expect(204);

    let organization = plane.get("organizations/acme").await.expect(200);
    let organization = organization["data"]["attributes"]["external-id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let mut connection = plane.running.app.db.read().await.unwrap();
    let entries = terrapool_store::audit::newest(&mut connection, &organization, 50)
        .await
        .unwrap();
    for (action, subject) in [
        ("project.update", &project),
        ("workspace.add-tags", &workspace),
        ("workspace.remove-tags", &workspace),
    ] {
        let found = entries
            .iter()
            .any(|entry| entry.action == action && entry.subject == *subject);
        assert!(found, "{action} in {entries:?}");
    }
}
