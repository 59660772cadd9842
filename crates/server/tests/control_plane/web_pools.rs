//! What pages about pools say, and what their forms do.

use serde_json::{Value, json};
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_protocol::agent::Finished;
use terrapool_protocol::job::{FailureReason, Outcome};
use terrapool_protocol::secret::Secret;
use terrapool_server::{http, reconcile};
use terrapool_testkit::agent::SimulatedAgent;
use terrapool_testkit::forms::FormBrowser;

use crate::common::browser::{PASSWORD, account, look_at};
use crate::common::{Plane, id, run_body};

async fn signed_in(plane: &Plane) -> FormBrowser {
    account(plane, "ada", true).await;
    let mut browser = look_at(plane);
    browser.sign_in("ada", PASSWORD).await;
    browser
}

async fn pool(plane: &Plane, name: &str, attributes: Value) -> String {
    let mut attributes = attributes;
    attributes["name"] = json!(name);
    let body = json!({"data": {"type": "agent-pools", "attributes": attributes}});
    id(&plane
        .post("organizations/acme/agent-pools", &body)
        .await
        .expect(201))
}

async fn agent(plane: &Plane, pool: &str) -> SimulatedAgent {
    let body = json!({"data": {"type": "authentication-tokens", "attributes": {"description": "by hand"}}});
    let path = format!("agent-pools/{pool}/authentication-tokens");
    let token = plane.post(&path, &body).await.expect(201);
    let secret = Secret::new(token["data"]["attributes"]["token"].as_str().unwrap());
    SimulatedAgent::register(&http::router(&plane.running.app), &secret, "played", "1").await
}

#[tokio::test]
async fn the_fleet_tells_failures_of_the_platform_with_their_next_step() {
    let plane = Plane::start().await;
    let pool = pool(&plane, "own", json!({})).await;
    let mut agent = agent(&plane, &pool).await;
    let execution = json!({"execution-mode": "agent", "agent-pool-id": pool});
    let workspace = plane.workspace_with("network", execution).await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    for (number, reason) in [(1, FailureReason::OutOfMemory), (2, FailureReason::Exit)] {
        plane.run(&workspace, &configuration).await;
        let plan = agent
            .take(Phase::Plan, &AttemptId::from_random([number; 16]))
            .await;
        let end = plan.end(Outcome::Failed {
            reason,
            message: "it failed".to_owned(),
        });
        plan.try_finish(&end).await.ok::<Finished>();
        agent.forget(&plan.key);
    }
    let mut browser = signed_in(&plane).await;
    let told = async |browser: &mut FormBrowser| {
        for period in ["1h", "24h", "7d"] {
            let fleet = browser
                .get(&format!("/app/acme/fleet?period={period}"))
                .await
                .text;
            for text in [
                "1 job was killed for memory in",
                "Raise the workspace’s memory",
                "goal: p95 under 10 s",
                "1 <small class=\"sub\">of 2 jobs</small>",
                "Jobs waiting at once over time, at most 1",
                "Slots in use in own over time, at most 1",
            ] {
                assert!(fleet.contains(text), "{period}: {text}: {fleet}");
            }
        }
        let own = browser.get(&format!("/app/acme/agent-pools/{pool}")).await.text;
        assert!(own.contains("Jobs taken over time, 2 in all"), "{own}");
    };
    told(&mut browser).await;
    // What is written down by the minute says the same.
    reconcile::write_pool_minutes(&plane.running.app).await.unwrap();
    told(&mut browser).await;
}

#[tokio::test]
async fn a_line_that_is_longer_than_a_page_is_counted_and_explained_to_its_end() {
    let plane = Plane::start().await;
    let mut browser = signed_in(&plane).await;
    let pool = pool(&plane, "own", json!({})).await;
    let execution = json!({"execution-mode": "agent", "agent-pool-id": pool});
    let workspace = plane.workspace_with("network", execution).await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let mut body = run_body(&workspace, &configuration);
    body["data"]["attributes"]["plan-only"] = json!(true);
    let mut last = String::new();
    for _ in 0..501 {
        last = id(&plane.post("runs", &body).await.expect(201));
    }
    let read = plane.get(&format!("runs/{last}")).await.expect(200);
    let reason = &read["data"]["attributes"]["wait-reason"];
    assert_eq!(reason["reason"], "no-agent", "{read}");

    let page = browser.get(&format!("/app/acme/agent-pools/{pool}")).await;
    assert_eq!(page.status, 200);
    for words in [
        "No agents, 501 runs waiting",
        "501 cannot start",
        "1 more run waits behind these",
    ] {
        assert!(page.text.contains(words), "{words}: {}", page.text);
    }
    let fleet = browser.get("/app/acme/fleet").await;
    for words in ["501 cannot start", "<b>501</b>", "489 more runs wait"] {
        assert!(fleet.text.contains(words), "{words}: {}", fleet.text);
    }
    // With an agent that takes them one by one, places count: the last one has the last place.
    agent(&plane, &pool).await;
    let read = plane.get(&format!("runs/{last}")).await.expect(200);
    let reason = &read["data"]["attributes"]["wait-reason"];
    assert_eq!(reason["reason"], "ahead", "{read}");
    // Runs of one millisecond stand by their ids.
    assert!(reason["ahead"].as_u64() >= Some(499), "{read}");
}

#[tokio::test]
async fn the_access_page_says_who_set_a_rule_and_makes_the_smallest_change() {
    let plane = Plane::start().await;
    let pool = pool(&plane, "own", json!({"organization-scoped": false})).await;
    plane.workspace("network").await;
    let mut browser = signed_in(&plane).await;
    let page = "/app/acme/access?workspace=network&pool=own";
    let seen = browser.get(page).await.text;
    assert!(seen.contains("may not run there."), "{seen}");
    assert!(seen.contains("It may use: the shared pool."), "{seen}");
    let token = browser.token(page).await;
    let change = async |browser: &mut FormBrowser, change: &str| {
        let form = [
            ("token", token.as_str()),
            ("pool", pool.as_str()),
            ("subject", "network"),
            ("change", change),
        ];
        let made = browser.post("/app/acme/access", &form).await;
        assert_eq!(made.status, 303, "{}", made.text);
        browser.get(page).await.text
    };
    assert!(
        seen.contains(r#"value="allow-workspace">Allow network"#),
        "{seen}"
    );
    assert!(
        seen.contains(r#"value="allow-project">Allow all of Default Project"#),
        "{seen}"
    );
    let seen = change(&mut browser, "allow-workspace").await;
    for text in [
        "may run there.",
        "The workspace itself is allowed",
        "by ada</small>",
        "It may use: own, the shared pool.",
        r#"value="forbid-workspace">"#,
    ] {
        assert!(seen.contains(text), "{text}: {seen}");
    }
    let seen = change(&mut browser, "allow-project").await;
    assert_eq!(seen.matches("by ada</small>").count(), 2, "{seen}");
    // Its project may: only its own exclusion keeps it out.
    assert!(
        seen.contains(r#"value="exclude-workspace">Exclude network"#),
        "{seen}"
    );
    let seen = change(&mut browser, "exclude-workspace").await;
    assert!(
        seen.contains("The workspace is excluded, whatever else is said"),
        "{seen}"
    );
    assert!(seen.contains("may not run there."), "{seen}");
    let seen = change(&mut browser, "allow-workspace").await;
    assert!(seen.contains("may run there."), "{seen}");

    let stored = plane.get(&format!("agent-pools/{pool}")).await.expect(200);
    let lists = &stored["data"]["relationships"];
    assert_eq!(lists["excluded-workspaces"]["data"], json!([]));
    assert_eq!(lists["allowed-projects"]["data"].as_array().unwrap().len(), 1);
    let wrong = [
        ("token", token.as_str()),
        ("pool", pool.as_str()),
        ("subject", "nothing"),
        ("change", "allow-workspace"),
    ];
    assert_eq!(browser.post("/app/acme/access", &wrong).await.status, 404);
}

#[tokio::test]
async fn a_workspace_says_where_its_values_come_from_and_what_its_pools_have_to_offer() {
    let plane = Plane::start().await;
    let own = pool(&plane, "own", json!({"sandbox": {"memory-mb": 640}})).await;
    pool(&plane, "closed", json!({"organization-scoped": false})).await;
    agent(&plane, &own).await;
    let workspace = plane.workspace("network").await;
    let mut browser = signed_in(&plane).await;
    let page = "/app/acme/workspaces/network";
    let seen = browser.get(page).await.text;
    assert!(seen.contains("shared pool, set by organization acme"), "{seen}");
    assert!(seen.contains("512 MB, from the shared pool"), "{seen}");

    let projects = plane.get("organizations/acme/projects").await.expect(200);
    let project = projects["data"][0]["id"].as_str().unwrap();
    let defaults = json!({"data": {"type": "projects", "attributes": {
        "default-execution-mode": "agent", "default-agent-pool-id": own}}});
    plane
        .patch(&format!("projects/{project}"), &defaults)
        .await
        .expect(200);
    let seen = browser.get(page).await.text;
    assert!(seen.contains("own, set by project Default Project"), "{seen}");
    assert!(seen.contains("640 MB, from pool own"), "{seen}");

    let settings = browser.get(&format!("{page}/settings")).await.text;
    for text in [
        "own: healthy, 1 agent, ",
        "closed is not listed",
        "As the project says: pool own",
        "set by project Default Project; changes there",
    ] {
        assert!(settings.contains(text), "{text}: {settings}");
    }
    assert!(!settings.contains("closed: "), "{settings}");

    let change = json!({"data": {"type": "workspaces", "attributes": {
        "execution-mode": "agent", "agent-pool-id": own, "memory-mb": 512}}});
    plane
        .patch(&format!("workspaces/{workspace}"), &change)
        .await
        .expect(200);
    let seen = browser.get(page).await.text;
    assert!(seen.contains("own, set here"), "{seen}");
    assert!(seen.contains("512 MB, set here"), "{seen}");
}

#[tokio::test]
async fn the_connect_page_waits_for_the_agent_of_the_newest_token_and_tells_namesakes() {
    let plane = Plane::start().await;
    let pool = pool(&plane, "own", json!({})).await;
    let page = format!("/app/acme/agent-pools/{pool}/connect");
    let mut browser = signed_in(&plane).await;
    let seen = browser.get(&page).await.text;
    assert!(seen.contains("Waiting for the first agent"), "{seen}");
    let _first = agent(&plane, &pool).await;
    let seen = browser.get(&page).await.text;
    assert!(seen.contains("played is connected"), "{seen}");

    let body = json!({"data": {"type": "authentication-tokens", "attributes": {"description": "next host"}}});
    let path = format!("agent-pools/{pool}/authentication-tokens");
    let token = plane.post(&path, &body).await.expect(201);
    let seen = browser.get(&page).await.text;
    assert!(seen.contains("Waiting for the next agent"), "{seen}");
    assert!(!seen.contains("is connected"), "{seen}");

    let secret = Secret::new(token["data"]["attributes"]["token"].as_str().unwrap());
    let router = http::router(&plane.running.app);
    let mut second = SimulatedAgent::registration("played", "2");
    second.instance_key = Secret::new("0123456789abcdef0123456789abcdef");
    let registered = SimulatedAgent::try_register(&router, &secret, &second).await;
    assert_eq!(registered.status, 200);
    let seen = browser.get(&page).await.text;
    assert!(seen.contains("played is connected"), "{seen}");
    assert!(seen.contains("Another agent of this pool is called"), "{seen}");
}

#[tokio::test]
async fn a_pool_whose_agents_are_too_small_is_not_said_to_have_none() {
    let plane = Plane::start().await;
    let pool = pool(&plane, "own", json!({})).await;
    let _agent = agent(&plane, &pool).await;
    let execution = json!({"execution-mode": "agent", "agent-pool-id": pool, "memory-mb": 900_000});
    let workspace = plane.workspace_with("large", execution).await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    plane.run(&workspace, &configuration).await;
    let mut browser = signed_in(&plane).await;
    let seen = browser.get("/app/acme/agent-pools").await.text;
    assert!(seen.contains("own cannot run anything"), "{seen}");
    assert!(seen.contains("large"), "{seen}");
    assert!(seen.contains("largest agent has 8192 MB"), "{seen}");
    assert!(!seen.contains("It has no connected agent"), "{seen}");
}
