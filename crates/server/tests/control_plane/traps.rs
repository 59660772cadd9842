//! The traps of the stock clients: each of these, when wrong, breaks or silences `terraform` without an error message.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use terrapool_server::config::Login;

use crate::common::{Plane, id, run_body};

#[tokio::test]
async fn t1_ping_tells_an_api_version_that_the_cloud_block_accepts() {
    let plane = Plane::start().await;
    let answer = plane.get("ping").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("tfp-api-version"), "2.6");
}

#[tokio::test]
async fn t2_t3_every_answer_names_the_product_and_a_version_of_the_form_that_clients_parse() {
    let plane = Plane::start().await;
    for path in ["ping", "organizations/acme/entitlement-set", "nothing/here"] {
        let answer = plane.get(path).await;
        assert_eq!(answer.header("tfp-appname"), "Terraform Enterprise", "{path}");
        let version = answer.header("x-tfe-version");
        let number: u32 = version[1..].split('-').next().unwrap().parse().unwrap();
        assert!(number >= 202_302, "{version}");
        assert_eq!(
            answer.header("content-type"),
            "application/vnd.api+json",
            "{path}"
        );
        assert!(!answer.header("x-request-id").is_empty());
    }
}

#[tokio::test]
async fn t4_t5_t23_a_run_has_plan_apply_actions_and_permissions_from_its_creation() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let created = plane.run(&workspace, &configuration).await;
    let run = id(&created);
    assert!(run.starts_with("run-"));
    let read = plane.get(&format!("runs/{run}")).await.expect(200);
    for answer in [&created, &read] {
        let data = &answer["data"];
        assert!(data["attributes"]["actions"]["is-cancelable"].is_boolean());
        assert!(data["attributes"]["permissions"]["can-apply"].is_boolean());
        assert_eq!(data["relationships"]["plan"]["data"]["type"], "plans");
        assert_eq!(data["relationships"]["apply"]["data"]["type"], "applies");
        assert_eq!(data["attributes"]["variables"], Value::Null);
        assert!(data["attributes"]["status-timestamps"]["plan-queueable-at"].is_string());
    }
    // The plan is not finished as long as the run is not planned.
    let plan = read["data"]["relationships"]["plan"]["data"]["id"]
        .as_str()
        .unwrap();
    let plan = plane.get(&format!("plans/{plan}")).await.expect(200);
    assert_ne!(plan["data"]["attributes"]["status"], "finished");
    assert_eq!(plan["data"]["attributes"]["has-changes"], false);
    let workspace = plane.get(&format!("workspaces/{workspace}")).await.expect(200);
    assert_eq!(
        workspace["data"]["attributes"]["permissions"]["can-queue-run"],
        true
    );
    assert_eq!(
        workspace["data"]["attributes"]["permissions"]["can-force-delete"],
        true
    );
}

#[tokio::test]
async fn t6_t7_workspace_and_plan_are_included_when_asked_for_and_the_run_itself_never_is() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane.configuration(&workspace, json!({})).await;
    let run = id(&plane.run(&workspace, &configuration).await);
    for include in [
        "workspace%2Cplan",
        "plan,workspace",
        "workspace,plan,apply,configuration_version,created_by",
    ] {
        let answer = plane
            .get(&format!("runs/{run}?include={include}"))
            .await
            .expect(200);
        let included = answer["included"].as_array().unwrap();
        let has = |kind: &str| included.iter().any(|resource| resource["type"] == kind);
        assert!(has("workspaces") && has("plans"), "{include}");
        assert!(!has("runs"), "{include}");
        let workspace = included
            .iter()
            .find(|resource| resource["type"] == "workspaces")
            .unwrap();
        assert_eq!(workspace["attributes"]["structured-run-output-enabled"], true);
    }
    // Includes that there is nothing for are ignored.
    let answer = plane
        .get(&format!("runs/{run}?include=task_stages"))
        .await
        .expect(200);
    assert_eq!(answer["included"], Value::Null);
    let answer = plane
        .get(&format!("workspaces/{workspace}?include=current_run"))
        .await
        .expect(200);
    let included = answer["included"].as_array().cloned().unwrap_or_default();
    assert!(included.iter().all(|resource| resource["type"] != "workspaces"));
}

#[tokio::test]
async fn t9_only_a_cloud_block_gets_json_logs() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane.configuration(&workspace, json!({})).await;
    let mut formats = Vec::new();
    for cloud in [true, false] {
        let mut request = plane
            .request("POST", "runs")
            .header("Terraform-Version", "1.11.4");
        if cloud {
            request = request.header("X-Terraform-Integration", "cloud");
        }
        let body = run_body(&workspace, &configuration).to_string();
        let run = plane.send(request.body(body)).await.expect(201);
        let mut connection = plane.running.app.db.read().await.unwrap();
        let record = terrapool_store::runs::get(&mut connection, &id(&run).parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        formats.push((record.output_format, record.source));
    }
    use terrapool_protocol::job::OutputFormat;
    assert_eq!(formats[0], (OutputFormat::Json, "terraform+cloud".to_owned()));
    assert_eq!(formats[1], (OutputFormat::Plain, "terraform".to_owned()));
}

#[tokio::test]
async fn t10_a_rate_limit_is_off_by_default_and_never_announced_below_four() {
    let plane = Plane::start().await;
    assert_eq!(plane.get("account/details").await.header("x-ratelimit-limit"), "");
    let plane = Plane::start_with(|config| config.rate_limit = Some(2)).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        let answer = plane.get("account/details").await;
        assert_eq!(answer.header("x-ratelimit-limit"), "4");
        if answer.status == 429 {
            let reset: f64 = answer.header("x-ratelimit-reset").parse().unwrap();
            assert!((0.0..=1.0).contains(&reset));
        }
        statuses.push(answer.status);
    }
    assert!(statuses.contains(&429) && statuses.contains(&200), "{statuses:?}");
}

#[tokio::test]
async fn t11_times_end_in_z_or_are_null() {
    fn check(value: &Value, name: &str) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, value)| check(value, name)),
            Value::Array(list) => list.iter().for_each(|value| check(value, name)),
            Value::String(text) if name.ends_with("-at") => assert!(text.ends_with('Z'), "{name}: {text}"),
            _ => {}
        }
    }
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane.configuration(&workspace, json!({})).await;
    let run = id(&plane.run(&workspace, &configuration).await);
    for path in [
        "organizations/acme".to_owned(),
        "organizations/acme/projects".to_owned(),
        format!("workspaces/{workspace}"),
        format!("configuration-versions/{configuration}"),
        format!("runs/{run}"),
        format!("runs/{run}/run-events"),
    ] {
        check(&plane.get(&path).await.expect(200), "");
    }
}

/// The type that go-tfe expects of each relationship; with another one a client fails to read the whole answer.
const RELATIONSHIPS: [(&str, &[&str]); 33] = [
    ("actor", &["users"]),
    ("agent-pool", &["agent-pools"]),
    ("agents", &["agents"]),
    ("allowed-projects", &["projects"]),
    ("allowed-workspaces", &["workspaces"]),
    ("excluded-workspaces", &["workspaces"]),
    ("apply", &["applies"]),
    ("comment", &["comments"]),
    ("comments", &["comments"]),
    ("configurable", &["workspaces"]),
    ("configuration-version", &["configuration-versions"]),
    ("confirmed-by", &["users"]),
    ("created-by", &["users"]),
    ("current-configuration-version", &["configuration-versions"]),
    ("current-run", &["runs"]),
    ("current-state-version", &["state-versions"]),
    ("default-agent-pool", &["agent-pools"]),
    ("default-project", &["projects"]),
    ("effective-tag-bindings", &["effective-tag-bindings"]),
    ("entitlement-set", &["entitlement-sets"]),
    ("locked-by", &["runs", "teams", "users"]),
    ("organization", &["organizations"]),
    ("organization-memberships", &["organization-memberships"]),
    ("outputs", &["state-version-outputs"]),
    ("plan", &["plans"]),
    ("policy-checks", &["policy-checks"]),
    ("project", &["projects"]),
    ("run", &["runs"]),
    ("run-events", &["run-events"]),
    ("team", &["teams"]),
    ("user", &["users"]),
    ("users", &["users"]),
    ("workspace", &["workspaces"]),
];

/// Relationships that clients read as a list of the type of the same name, or not at all.
const SAME_NAME: [&str; 9] = [
    "authentication-tokens",
    "exports",
    "state-versions",
    "tag-bindings",
    "tags",
    "task-stages",
    "teams",
    "vars",
    "workspaces",
];

fn of_expected_types(resource: &Value, path: &str) {
    for (name, relationship) in resource["relationships"].as_object().into_iter().flatten() {
        let data = &relationship["data"];
        let list = std::slice::from_ref(data);
        let references = data.as_array().map_or(list, Vec::as_slice);
        for kind in references
            .iter()
            .filter(|reference| !reference.is_null())
            .map(|reference| reference["type"].as_str().unwrap())
        {
            let known = RELATIONSHIPS.iter().find(|(known, _)| known == name);
            let right = match known {
                Some((_, kinds)) => kinds.contains(&kind),
                None => SAME_NAME.contains(&name.as_str()) && kind == name,
            };
            assert!(right, "{path}: the relationship `{name}` is of type `{kind}`");
        }
    }
}

#[tokio::test]
async fn t12_resources_and_relationships_have_exactly_the_types_that_clients_expect() {
    let plane = Plane::start().await;
    let pool = json!({"data": {"type": "agent-pools", "attributes": {"name": "p"}}});
    let pool = plane.post("organizations/acme/agent-pools", &pool).await;
    let pool = id(&pool.expect(201));
    let in_pool = json!({"execution-mode": "agent", "agent-pool-id": pool});
    let workspace = plane.workspace_with("one", in_pool).await;
    let variable =
        json!({"data": {"type": "vars", "attributes": {"key": "k", "value": "v", "category": "env"}}});
    plane
        .post(&format!("workspaces/{workspace}/vars"), &variable)
        .await
        .expect(201);
    let team = json!({"data": {"type": "teams", "attributes": {"name": "t"}}});
    let team = id(&plane.post("organizations/acme/teams", &team).await.expect(201));
    let bytes = crate::common::state(1, "l");
    let attributes = json!({"serial": 1, "lineage": "l", "md5": crate::common::md5(&bytes),
        "state": STANDARD.encode(&bytes)});
    let state = json!({"data": {"type": "state-versions", "attributes": attributes}});
    plane.lock(&workspace).await;
    let states = format!("workspaces/{workspace}/state-versions");
    let state = id(&plane.post(&states, &state).await.expect(201));
    let locked = plane.get(&format!("workspaces/{workspace}")).await.expect(200);
    of_expected_types(&locked["data"], "a locked workspace");
    plane
        .send(plane.request("POST", &format!("workspaces/{workspace}/actions/unlock")))
        .await
        .expect(200);
    let configuration = plane.configuration(&workspace, json!({})).await;
    let run = plane.run(&workspace, &configuration).await;
    let phase = |name: &str| run["data"]["relationships"][name]["data"]["id"].as_str().unwrap();
    let (plan, apply, run) = (phase("plan"), phase("apply"), id(&run));
    for (path, kind) in [
        ("account/details".to_owned(), "users"),
        ("organizations".to_owned(), "organizations"),
        ("organizations/acme".to_owned(), "organizations"),
        (
            "organizations/acme/entitlement-set".to_owned(),
            "entitlement-sets",
        ),
        ("organizations/acme/projects".to_owned(), "projects"),
        ("organizations/acme/teams".to_owned(), "teams"),
        (
            "organizations/acme/organization-memberships".to_owned(),
            "organization-memberships",
        ),
        (format!("teams/{team}"), "teams"),
        ("organizations/acme/agent-pools".to_owned(), "agent-pools"),
        (format!("agent-pools/{pool}"), "agent-pools"),
        ("organizations/acme/runs/queue".to_owned(), "runs"),
        ("organizations/acme/workspaces".to_owned(), "workspaces"),
        ("organizations/acme/workspaces/one".to_owned(), "workspaces"),
        (
            format!("workspaces/{workspace}?include=current_run,organization"),
            "workspaces",
        ),
        (format!("workspaces/{workspace}/runs"), "runs"),
        (format!("workspaces/{workspace}/vars"), "vars"),
        (
            format!("workspaces/{workspace}/current-state-version?include=outputs"),
            "state-versions",
        ),
        (
            format!("workspaces/{workspace}/current-state-version-outputs"),
            "state-version-outputs",
        ),
        (format!("state-versions/{state}"), "state-versions"),
        (format!("state-versions/{state}/outputs"), "state-version-outputs"),
        (
            format!("configuration-versions/{configuration}"),
            "configuration-versions",
        ),
        (
            format!("runs/{run}?include=plan,workspace,configuration_version"),
            "runs",
        ),
        (format!("runs/{run}/run-events"), "run-events"),
        (format!("plans/{plan}"), "plans"),
        (format!("applies/{apply}"), "applies"),
    ] {
        let answer = plane.get(&path).await.expect(200);
        let one = std::slice::from_ref(&answer["data"]);
        let found = answer["data"].as_array().map_or(one, Vec::as_slice);
        assert!(
            !found.is_empty() || path.ends_with("run-events"),
            "{path} lists nothing"
        );
        for resource in found {
            assert_eq!(resource["type"], kind, "{path}");
            of_expected_types(resource, &path);
        }
        for included in answer["included"].as_array().into_iter().flatten() {
            of_expected_types(included, &path);
        }
    }
}

#[tokio::test]
async fn t13_t14_bodies_with_wrong_types_bare_objects_and_nothing_are_accepted() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let path = format!("workspaces/{workspace}/actions");
    let lock = json!({"data": {"type": "", "attributes": {"reason": "Locked by Terraform"}}});
    plane.post(&format!("{path}/lock"), &lock).await.expect(200);
    plane
        .send(plane.request("POST", &format!("{path}/unlock")))
        .await
        .expect(200);
    let configuration = plane.configuration(&workspace, json!({})).await;
    let run = id(&plane.run(&workspace, &configuration).await);
    let answer = plane
        .post(&format!("runs/{run}/actions/cancel"), &json!({"comment": "no"}))
        .await;
    assert_eq!(answer.status, 202);
    let answer = plane.post(&format!("runs/{run}/actions/apply"), &json!({})).await;
    assert_eq!(answer.status, 409);
    // Agent tokens are asked for under another type name.
    let pool = json!({"data": {"type": "agent-pools", "attributes": {"name": "p"}}});
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &pool)
        .await
        .expect(201));
    let token = json!({"data": {"type": "agent-tokens", "attributes": {"description": "d"}}});
    plane
        .post(&format!("agent-pools/{pool}/authentication-tokens"), &token)
        .await
        .expect(201);
    let safe_delete = plane.request("POST", "organizations/acme/workspaces/two/actions/safe-delete");
    assert_eq!(plane.send(safe_delete).await.status, 404);
}

#[tokio::test]
async fn t15_upload_and_log_urls_are_absolute_and_need_no_token_but_a_right_signature() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let body = json!({"data": {"attributes": {"auto-queue-runs": false}}});
    let made = plane
        .post(&format!("workspaces/{workspace}/configuration-versions"), &body)
        .await
        .expect(201);
    let url = made["data"]["attributes"]["upload-url"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(url.starts_with("http://localhost:"));
    for wrong in [
        format!("{}AAAAAAAAAA", &url[..url.len() - 10]),
        url.split('?').next().unwrap().to_owned(),
        url.replace("expires=1", "expires=2"),
    ] {
        let answer = plane
            .send(plane.anonymous("PUT", &wrong).body(crate::common::archive()))
            .await;
        assert_eq!(answer.status, 401, "{wrong}");
    }
    plane
        .send(plane.anonymous("PUT", &url).body(crate::common::archive()))
        .await
        .expect(200);
    let configuration = id(&made);
    let run = plane.run(&workspace, &configuration).await;
    let plan = run["data"]["relationships"]["plan"]["data"]["id"]
        .as_str()
        .unwrap();
    let plan = plane.get(&format!("plans/{plan}")).await.expect(200);
    let log = plan["data"]["attributes"]["log-read-url"].as_str().unwrap();
    assert!(log.starts_with("http://localhost:"));
    let separator = if log.contains('?') { '&' } else { '?' };
    let answer = plane
        .send(plane.anonymous("GET", &format!("{log}{separator}limit=65536&offset=0")))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn t17_run_events_and_the_queue_exist_for_a_pending_run() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane.configuration(&workspace, json!({})).await;
    let first = id(&plane.run(&workspace, &configuration).await);
    let second = plane.run(&workspace, &configuration).await;
    assert_eq!(second["data"]["attributes"]["status"], "pending");
    assert!(
        second["data"]["attributes"]["position-in-queue"]
            .as_u64()
            .unwrap()
            >= 1
    );
    let events = plane.get(&format!("runs/{first}/run-events")).await.expect(200);
    assert!(events["data"].is_array());
    let queue = plane.get("organizations/acme/runs/queue").await.expect(200);
    assert_eq!(queue["meta"]["pagination"]["total-count"], 2);
    let capacity = plane.get("organizations/acme/capacity").await.expect(200);
    assert_eq!(capacity["data"]["attributes"]["pending"], 1);
    let runs = plane
        .get(&format!("workspaces/{workspace}/runs"))
        .await
        .expect(200);
    assert_eq!(runs["data"][0]["id"], id(&second));
}

#[tokio::test]
async fn t18_outputs_of_a_workspace_without_state_are_an_empty_list() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let outputs = plane
        .get(&format!("workspaces/{workspace}/current-state-version-outputs"))
        .await
        .expect(200);
    assert_eq!(outputs["data"], json!([]));
    assert_eq!(
        plane
            .get(&format!("workspaces/{workspace}/current-state-version"))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn t21_a_run_that_is_refused_leaves_nothing_behind() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let body = json!({"data": {"attributes": {}, "relationships": {
        "workspace": {"data": {"type": "workspaces", "id": workspace}}}}});
    let answer = plane.post("runs", &body).await;
    assert_eq!(answer.status, 422);
    assert!(
        answer.error().contains("no uploaded configuration"),
        "{}",
        answer.error()
    );
    let runs = plane
        .get(&format!("workspaces/{workspace}/runs"))
        .await
        .expect(200);
    assert_eq!(runs["meta"]["pagination"]["total-count"], 0);
}

#[tokio::test]
async fn t22_errors_have_their_status_as_text() {
    let plane = Plane::start().await;
    for (answer, status) in [
        (plane.get("workspaces/ws-doesnotexist").await, "404"),
        (plane.get("no/such/path").await, "404"),
        (plane.send(plane.anonymous("GET", "account/details")).await, "401"),
        (
            plane
                .post(
                    "organizations/acme/workspaces",
                    &json!({"data": {"attributes": {}}}),
                )
                .await,
            "422",
        ),
        (
            plane.send(plane.request("POST", "organizations").body("{")).await,
            "400",
        ),
    ] {
        assert_eq!(answer.json()["errors"][0]["status"], status);
        assert_eq!(answer.status.to_string(), status);
    }
}

async fn services(login: Login) -> Value {
    let plane = Plane::start_with(|config| config.login = login).await;
    let answer = plane
        .send(plane.anonymous("GET", "/.well-known/terraform.json"))
        .await;
    assert!(answer.header("content-type").starts_with("application/json"));
    answer.expect(200)
}

#[tokio::test]
async fn discovery_names_exactly_the_services_that_there_are() {
    let pasted = services(Login::Token).await;
    let names: Vec<&String> = pasted.as_object().unwrap().keys().collect();
    assert_eq!(names, ["state.v2", "tfe.v2", "tfe.v2.1", "tfe.v2.2"]);
    let browser = services(Login::Browser).await;
    let names: Vec<&String> = browser.as_object().unwrap().keys().collect();
    assert_eq!(names, ["login.v1", "state.v2", "tfe.v2", "tfe.v2.1", "tfe.v2.2"]);
    assert_eq!(browser["login.v1"]["grant_types"], json!(["authz_code"]));
}
