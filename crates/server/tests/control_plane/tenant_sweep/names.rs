//! What leads to something, or lists it by id, tells of it only to those for whom it is there.

use serde_json::{Value, json};

use super::policy::Level;
use super::world::{World, document};

/// The ids of a relationship of a resource.
fn ids(resource: &Value, relationship: &str) -> Vec<String> {
    resource["relationships"][relationship]["data"]
        .as_array()
        .unwrap_or_else(|| panic!("no list {relationship}: {resource}"))
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn finding_an_id_leads_to_what_is_there_for_who_asks() {
    let world = World::new().await;
    let (workspace, run) = (world.thing("workspace"), world.thing("run"));
    let (name, project) = (world.thing("workspace-name"), world.thing("project"));
    for id in [workspace, run, project] {
        let path = format!("/app/acme/search?q={id}");
        let nothing = format!("/app/acme/workspaces?q={id}");
        let found = match id.split('-').next() {
            Some("ws") => format!("/app/acme/workspaces/{name}"),
            Some("run") => format!("/app/acme/workspaces/{name}/runs/{run}"),
            _ => format!("/app/acme/projects?edit={project}#edit"),
        };
        for (level, expected) in [
            (Level::Member, nothing),
            (Level::Read, found.clone()),
            (Level::Owner, found),
        ] {
            let answered = world.ask_address(level, &path).await;
            assert_eq!(
                (answered.status, answered.location),
                (303, expected),
                "{level:?} {path}"
            );
        }
    }
}

#[tokio::test]
async fn a_pool_names_the_workspaces_and_projects_that_are_there_for_who_asks() {
    let world = World::new().await;
    let (workspace, project) = (
        world.thing("workspace").to_owned(),
        world.thing("project").to_owned(),
    );
    let hidden = world
        .post(
            "organizations/acme/projects",
            &document(json!({"name": "hidden"}), &[]),
        )
        .await;
    let other = world
        .post(
            "organizations/acme/workspaces",
            &document(json!({"name": "hidden"}), &[("project", &hidden)]),
        )
        .await;
    let pool = world.thing("pool").to_owned();
    let list = |kind: &str, ids: [&String; 2]| -> Value {
        let items: Vec<Value> = ids.iter().map(|id| json!({"type": kind, "id": id})).collect();
        json!({"data": items})
    };
    let access = json!({"data": {"attributes": {"organization-scoped": false}, "relationships": {
        "allowed-workspaces": list("workspaces", [&workspace, &other]),
        "excluded-workspaces": list("workspaces", [&workspace, &other]),
        "allowed-projects": list("projects", [&project, &hidden]),
    }}});
    world
        .plane
        .patch(&format!("agent-pools/{pool}"), &access)
        .await
        .expect(200);
    for (level, sees_own, sees_hidden) in [
        (Level::Member, false, false),
        (Level::Read, true, false),
        (Level::Owner, true, true),
    ] {
        let one = world.read(level, &format!("agent-pools/{pool}")).await["data"].clone();
        let all = world.read(level, "organizations/acme/agent-pools").await;
        let listed = all["data"].as_array().unwrap();
        let listed = listed.iter().find(|listed| listed["id"] == pool.as_str());
        for resource in [&one, listed.unwrap()] {
            for (relationship, own, far) in [
                ("allowed-workspaces", &workspace, &other),
                ("excluded-workspaces", &workspace, &other),
                ("allowed-projects", &project, &hidden),
            ] {
                let ids = ids(resource, relationship);
                assert_eq!(ids.contains(own), sees_own, "{level:?} {relationship}: {ids:?}");
                assert_eq!(
                    ids.contains(far),
                    sees_hidden,
                    "{level:?} {relationship}: {ids:?}"
                );
            }
        }
    }
}
