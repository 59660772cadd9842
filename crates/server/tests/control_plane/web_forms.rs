//! What forms of the web UI do, sent as a browser without scripts sends them.

use serde_json::{Value, json};
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_protocol::agent::{Finished, StateFate};
use terrapool_protocol::job::{ArtifactName, Outcome};
use terrapool_protocol::secret::Secret;
use terrapool_server::http;
use terrapool_testkit::agent::SimulatedAgent;
use terrapool_testkit::forms::{FormBrowser, hidden};

use crate::common::browser::{PASSWORD, account, look_at};
use crate::common::{self, Plane, id};

async fn signed_in(plane: &Plane) -> FormBrowser {
    account(plane, "ada", true).await;
    let mut browser = look_at(plane);
    browser.sign_in("ada", PASSWORD).await;
    browser
}

/// A pool of `acme`: its id and a token of its agents.
async fn pool(plane: &Plane, attributes: Value) -> (String, Secret) {
    let mut attributes = attributes;
    attributes["name"] = json!("own");
    let body = json!({"data": {"type": "agent-pools", "attributes": attributes}});
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &body)
        .await
        .expect(201));
    let body = json!({"data": {"type": "authentication-tokens", "attributes": {"description": "by hand"}}});
    let path = format!("agent-pools/{pool}/authentication-tokens");
    let token = plane.post(&path, &body).await.expect(201);
    let secret = token["data"]["attributes"]["token"].as_str().unwrap();
    (pool, Secret::new(secret))
}

#[tokio::test]
async fn a_sentence_about_what_was_done_is_shown_once() {
    const SAID: &str = "The workspace is locked by you.";
    let plane = Plane::start().await;
    plane.workspace("network").await;
    let mut browser = signed_in(&plane).await;
    let page = "/app/acme/workspaces/network";
    let token = browser.token(page).await;
    let locked = browser.post(&format!("{page}/lock"), &[("token", &token)]).await;
    assert_eq!((locked.status, locked.location.as_str()), (303, page));
    // What shows no sentence does not use it up.
    assert_eq!(browser.get("/app/acme").await.status, 303);
    assert_eq!(browser.get("/app/acme/nothing").await.status, 404);
    assert!(browser.get(page).await.text.contains(SAID));
    assert!(!browser.get(page).await.text.contains(SAID));
}

#[tokio::test]
async fn a_form_that_is_sent_twice_starts_one_run() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("network").await;
    plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let mut browser = signed_in(&plane).await;
    let page = "/app/acme/workspaces/network";
    let runs = format!("{page}/runs");
    let seen = browser.get(page).await.text;
    let (token, once) = (hidden(&seen, "token"), hidden(&seen, "once"));
    let form = [
        ("token", token.as_str()),
        ("once", once.as_str()),
        ("message", "one"),
        ("kind", "plan"),
    ];
    let first = browser.post(&runs, &form).await;
    assert_eq!(first.status, 303, "{}", first.text);
    let second = browser.post(&runs, &form).await;
    assert_eq!(
        (second.status, &second.location),
        (303, &first.location),
        "{}",
        second.text
    );
    let number = async || {
        let listed = plane
            .get(&format!("workspaces/{workspace}/runs"))
            .await
            .expect(200);
        listed["data"].as_array().unwrap().len()
    };
    assert_eq!(number().await, 1);
    // The page of another look makes another one.
    let once = hidden(&browser.get(page).await.text, "once");
    let form = [
        ("token", token.as_str()),
        ("once", once.as_str()),
        ("kind", "plan"),
    ];
    let other = browser.post(&runs, &form).await;
    assert_ne!(other.location, first.location);
    assert_eq!(number().await, 2);
    // Clients of the API name what they make by a header.
    let send = async |key: &str| {
        let body = json!({"data": {"type": "runs", "attributes": {"plan-only": true}, "relationships": {
            "workspace": {"data": {"type": "workspaces", "id": workspace}}}}});
        let request = plane.request("POST", "runs").header("idempotency-key", key);
        plane.send(request.json(&body)).await
    };
    let made = id(&send("release 7").await.expect(201));
    assert_eq!(id(&send("release 7").await.expect(201)), made);
    assert_eq!(number().await, 3);
    assert_eq!(send(&"k".repeat(129)).await.status, 400);
}

#[tokio::test]
async fn a_form_that_is_sent_again_is_answered_as_before_and_does_nothing_more() {
    let plane = Plane::start().await;
    let (pool, _) = pool(&plane, json!({})).await;
    let mut browser = signed_in(&plane).await;
    let page = format!("/app/acme/agent-pools/{pool}/tokens");
    let named = async |browser: &mut FormBrowser, text: &str| {
        let tokens = browser.get(&page).await.text;
        // The row and the words of its form.
        tokens.matches(&format!("Revoke “{text}”")).count()
    };

    // Both at once: one does the work, the other is answered the same when that is done.
    let seen = browser.get("/app/acme/workspaces").await.text;
    let (token, once) = (hidden(&seen, "token"), hidden(&seen, "once"));
    let form = [
        ("token", token.as_str()),
        ("once", once.as_str()),
        ("name", "own"),
        ("engine", "terraform"),
        ("engine-version", "latest"),
    ];
    let mut other = browser.clone();
    let (one, two) = tokio::join!(
        browser.post("/app/acme/workspaces", &form),
        other.post("/app/acme/workspaces", &form)
    );
    assert_eq!(one.status, 303, "{}", one.text);
    assert_eq!((two.status, &two.location), (303, &one.location), "{}", two.text);

    // A secret is shown once.
    let form = [
        ("token", token.as_str()),
        ("once", once.as_str()),
        ("description", "shown"),
    ];
    let first = browser.post(&page, &form).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert!(first.text.contains("tpa_"));
    let again = browser.post(&page, &form).await;
    assert_eq!(again.status, 409, "{}", again.text);
    assert!(again.text.contains("sent already"), "{}", again.text);
    assert!(!again.text.contains("tpa_"), "{}", again.text);
    assert_eq!(named(&mut browser, "shown").await, 1);

    // What was filled in otherwise is another form, also of the same page.
    let form = [
        ("token", token.as_str()),
        ("once", once.as_str()),
        ("description", "another"),
    ];
    assert_eq!(browser.post(&page, &form).await.status, 200);
    assert_eq!(named(&mut browser, "another").await, 1);

    // What was refused may be sent again.
    let form = [
        ("token", token.as_str()),
        ("once", once.as_str()),
        ("description", "late"),
        ("expires", "2001-02-03"),
    ];
    for _ in 0..2 {
        assert_eq!(browser.post(&page, &form).await.status, 422);
    }

    // Somebody else's form is none of this: with another session's token it is refused.
    account(&plane, "bob", true).await;
    let mut bob = look_at(&plane);
    bob.sign_in("bob", PASSWORD).await;
    assert_eq!(bob.post(&page, &form).await.status, 403);
}

#[tokio::test]
async fn a_tokens_revoker_chooses_what_becomes_of_what_runs() {
    let plane = Plane::start().await;
    let (pool, secret) = pool(&plane, json!({})).await;
    let mut browser = signed_in(&plane).await;
    let page = format!("/app/acme/agent-pools/{pool}/tokens");
    let token = browser.token(&page).await;

    // The last day of a new one has to come yet.
    let past = [
        ("token", token.as_str()),
        ("description", "old"),
        ("expires", "2001-02-03"),
    ];
    let refused = browser.post(&page, &past).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("2001-02-03 has passed"), "{}", refused.text);
    let future = [
        ("token", token.as_str()),
        ("description", "new"),
        ("expires", "2999-02-03"),
    ];
    let made = browser.post(&page, &future).await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert!(
        made.text.contains("tpa_") && made.text.contains("2999"),
        "{}",
        made.text
    );

    SimulatedAgent::register(&http::router(&plane.running.app), &secret, "one", "1").await;
    let listed = plane
        .get(&format!("agent-pools/{pool}/authentication-tokens"))
        .await
        .expect(200);
    let used = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["attributes"]["description"] == "by hand")
        .unwrap();
    assert!(used["attributes"]["last-used-at"].is_string(), "{used}");
    let used = used["id"].as_str().unwrap();
    let seen = browser.get(&page).await.text;
    for choice in ["1 agent is", "Finish what runs", "Cut off now"] {
        assert!(seen.contains(choice), "{choice}: {seen}");
    }
    let revoke = format!("{page}/revoke");
    let form = |name: &'static str| {
        [
            ("token", token.clone()),
            ("id", used.to_owned()),
            ("name", name.to_owned()),
            ("running", "cut-off".to_owned()),
        ]
    };
    let send = async |browser: &mut FormBrowser, name: &'static str| {
        let form = form(name);
        let fields: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        browser.post(&revoke, &fields).await
    };
    let refused = send(&mut browser, "by foot").await;
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("Nothing was done"), "{}", refused.text);
    assert_eq!(send(&mut browser, "by hand").await.status, 303);
    let seen = browser.get(&page).await.text;
    assert!(seen.contains("what its agents run is stopped now"), "{seen}");
    assert!(seen.contains("revoked"), "{seen}");
    let audit = plane.get("organizations/acme/audit-trail").await;
    if audit.status == 200 {
        assert!(audit.json().to_string().contains("cut-off"));
    }
    let again = SimulatedAgent::registration("one", "2");
    let answer = SimulatedAgent::try_register(&http::router(&plane.running.app), &secret, &again).await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn a_pool_without_agents_says_what_the_server_sees_and_what_helps() {
    let plane = Plane::start().await;
    let (pool, secret) = pool(&plane, json!({})).await;
    let mut browser = signed_in(&plane).await;
    let page = format!("/app/acme/agent-pools/{pool}");
    let seen = browser.get(&page).await.text;
    for words in [
        "What the server sees",
        "none ever was",
        "“by hand” was never used",
    ] {
        assert!(seen.contains(words), "{words}: {seen}");
    }

    let listed = plane
        .get(&format!("agent-pools/{pool}/authentication-tokens"))
        .await
        .expect(200);
    let token = listed["data"][0]["id"].as_str().unwrap();
    plane
        .delete(&format!("authentication-tokens/{token}"))
        .await
        .expect(204);
    let router = http::router(&plane.running.app);
    let asks = SimulatedAgent::registration("one", "1");
    for _ in 0..2 {
        let answer = SimulatedAgent::try_register(&router, &secret, &asks).await;
        assert_eq!(answer.status, 401);
    }
    let seen = browser.get(&page).await.text;
    for words in [
        "Token “by hand” was revoked",
        "2 refused registrations",
        "No token is valid",
        "configure --token-stdin",
    ] {
        assert!(seen.contains(words), "{words}: {seen}");
    }
    assert!(!seen.contains("does not know"), "{seen}");

    let cut = Secret::new(&secret.expose()[..secret.expose().len() - 3]);
    assert_eq!(
        SimulatedAgent::try_register(&router, &cut, &asks).await.status,
        401
    );
    let seen = browser.get(&page).await.text;
    assert!(seen.contains("Tokens that this server does not know"), "{seen}");
    let seen = browser.get(&format!("{page}/connect")).await.text;
    assert!(seen.contains("it was cut when it was pasted"), "{seen}");
}

#[tokio::test]
async fn a_state_that_is_kept_apart_becomes_current_when_its_serial_is_typed() {
    let plane = Plane::start().await;
    let (pool, secret) = pool(&plane, json!({"lease-times": {"cool-off": 0}})).await;
    let workspace = plane
        .workspace_with(
            "network",
            json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": true}),
        )
        .await;
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let run = id(&plane.run(&workspace, &configuration).await);
    let mut agent = SimulatedAgent::register(&http::router(&plane.running.app), &secret, "one", "1").await;
    let attempt = |byte: u8| AttemptId::from_random([byte; 16]);
    let plan = agent.take(Phase::Plan, &attempt(1)).await;
    let archive = plan.artifact(ArtifactName::PlanArchive, b"archive").await;
    let mut end = plan.end(Outcome::Succeeded { changes: true });
    end.artifacts = vec![archive];
    assert!(plan.try_finish(&end).await.ok::<Finished>().accepted);
    agent.forget(&plan.key);
    let apply = agent.take(Phase::Apply, &attempt(2)).await;
    assert_eq!(apply.try_start().await.status, 200);

    // Given up while its engine may run, and overridden by somebody who has seen the host.
    for action in ["cancel", "force-cancel"] {
        let path = format!("runs/{run}/actions/{action}");
        plane.post(&path, &json!({})).await.expect(202);
    }
    let mut browser = signed_in(&plane).await;
    let page = "/app/acme/workspaces/network";
    let seen = browser.get(page).await.text;
    let token = hidden(&seen, "token");
    let fields = [
        ("token", token.as_str()),
        ("attempt", apply.key.attempt.as_str()),
        ("name", "network"),
    ];
    let unlock = format!("{page}/force-unlock");
    assert_eq!(browser.post(&unlock, &fields).await.status, 400, "not confirmed");
    let fields: Vec<(&str, &str)> = fields.into_iter().chain([("seen", "on")]).collect();
    let unlocked = browser.post(&unlock, &fields).await;
    assert_eq!(unlocked.status, 303, "{}", unlocked.text);
    plane.lock(&workspace).await;
    plane
        .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
        .await
        .expect(200);
    let late = common::state(5, "line");
    assert_eq!(apply.state(5, "line", &late).await.fate, StateFate::KeptApart);

    let states = format!("{page}/states");
    let overview = browser.get(page).await.text;
    assert!(overview.contains("1 state is kept apart"), "{overview}");
    let seen = browser.get(&states).await.text;
    assert!(seen.contains("kept apart"), "{seen}");
    let version = seen
        .split("?to=")
        .nth(1)
        .and_then(|rest| rest.split(['"', '&']).next())
        .unwrap_or_else(|| panic!("no state: {seen}"))
        .to_owned();
    let chosen = browser.get(&format!("{states}?to={version}")).await.text;
    assert!(chosen.contains("Make it current"), "{chosen}");
    let promote = format!("{states}/{version}/promote");
    let current = format!("workspaces/{workspace}/current-state-version");
    for (typed, expected) in [("4", 422), ("5", 303)] {
        let answer = browser
            .post(&promote, &[("token", &token), ("name", typed)])
            .await;
        assert_eq!(answer.status, expected, "{}", answer.text);
        let found = plane.get(&current).await;
        assert_eq!(found.status, if expected == 303 { 200 } else { 404 });
    }
    let found = plane.get(&current).await.expect(200);
    assert_eq!(found["data"]["attributes"]["serial"], 5);
}

#[tokio::test]
async fn the_audit_log_is_exported_as_lines_of_json() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("network").await;
    let mut browser = signed_in(&plane).await;
    let lines = |text: &str| -> Vec<Value> {
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let exported = browser.get("/app/acme/audit/export?q=workspace.create").await;
    let entries = lines(&exported.text);
    assert_eq!(entries.len(), 1, "{}", exported.text);
    assert_eq!(entries[0]["subject"], workspace.as_str());
    assert_eq!(entries[0]["detail"]["name"], "network");
    let page = browser.get("/app/acme/audit?q=workspace.create").await;
    assert!(
        page.text.contains("/app/acme/audit/export?q=workspace.create"),
        "{}",
        page.text
    );
    let signed_in = lines(&browser.get("/app/admin/audit/export").await.text);
    assert!(signed_in.iter().any(|entry| entry["action"] == "sign-in"));
}

#[tokio::test]
async fn an_entry_of_the_audit_log_opens_to_its_request_and_to_what_it_changed() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("network").await;
    let settings = |attributes: Value| json!({"data": {"type": "workspaces", "attributes": attributes}});
    let path = format!("workspaces/{workspace}");
    let changed = settings(json!({"auto-apply": true, "working-directory": "live"}));
    let answer = plane.patch(&path, &changed).await;
    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    answer.expect(200);
    let variable = |value: &str| json!({"data": {"type": "vars", "attributes": {"key": "password", "value": value, "category": "env"}}});
    let made = plane
        .post(&format!("{path}/vars"), &variable("hunter2"))
        .await
        .expect(201);
    plane
        .patch(&format!("vars/{}", id(&made)), &variable("hunter3"))
        .await
        .expect(200);
    let tags = |names: &[&str]| json!({"data": names.iter().map(|name| json!({"type": "tags", "attributes": {"name": name}})).collect::<Vec<_>>()});
    let path_of_tags = format!("{path}/relationships/tags");
    plane
        .post(&path_of_tags, &tags(&["live", "eu"]))
        .await
        .expect(204);
    let removal = plane
        .request("DELETE", &path_of_tags)
        .body(tags(&["eu"]).to_string());
    plane.send(removal).await.expect(204);
    let reader = plane.workspace("reader").await;
    let consumers = json!({"data": [{"type": "workspaces", "id": reader}]});
    plane
        .post(
            &format!("{path}/relationships/remote-state-consumers"),
            &consumers,
        )
        .await
        .expect(204);
    let user = json!({"data": {"type": "users", "attributes": {"email": "new@example.com"}}});
    plane.patch("account/update", &user).await.expect(200);
    let engine =
        |attributes: Value| json!({"data": {"type": "terraform-versions", "attributes": attributes}});
    let catalogue = "admin/terraform-versions";
    let known = engine(json!({"version": "1.11.4", "sha": "a".repeat(64),
        "url": "https://mirror.example.com/terraform.zip"}));
    let known = plane.post(catalogue, &known).await.expect(201);
    plane
        .patch(
            &format!("{catalogue}/{}", id(&known)),
            &engine(json!({"enabled": false})),
        )
        .await
        .expect(200);

    let mut browser = signed_in(&plane).await;
    let exported = browser.get("/app/acme/audit/export").await.text;
    assert!(!exported.contains("hunter"), "{exported}");
    let entries: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |action: &str| entries.iter().find(|entry| entry["action"] == action).unwrap();
    let entry = of("workspace.update");
    assert_eq!(entry["request-id"], request.as_str());
    assert_eq!(entry["address"], "127.0.0.1");
    assert_eq!(
        (&entry["detail"]["before"], &entry["detail"]["after"]),
        (
            &json!({"auto-apply": false, "working-directory": ""}),
            &json!({"auto-apply": true, "working-directory": "live"})
        )
    );
    let values = &of("variable.update")["detail"];
    assert_eq!(values["after"], json!({"value": "another one"}), "{values}");
    let changed = |action: &str| {
        let detail = &of(action)["detail"];
        (detail["before"].clone(), detail["after"].clone())
    };
    let tags = |names: &[&str]| json!({"tags": names});
    assert_eq!(changed("workspace.add-tags"), (tags(&[]), tags(&["live", "eu"])));
    assert_eq!(
        changed("workspace.remove-tags"),
        (tags(&["live", "eu"]), tags(&["live"]))
    );
    let (before, after) = changed("workspace.share-state");
    assert_eq!(
        (before, after),
        (json!({"consumers": []}), json!({"consumers": [reader]}))
    );
    let installation = browser.get("/app/admin/audit/export").await.text;
    let entries: Vec<Value> = installation
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let after = |action: &str| {
        let entry = entries.iter().find(|entry| entry["action"] == action).unwrap();
        entry["detail"]["after"].clone()
    };
    assert_eq!(after("user.update"), json!({"email": "new@example.com"}));
    assert_eq!(after("engine-version.update"), json!({"enabled": false}));

    // A request's id finds its entry, and the entry's row opens to what is known of it.
    let found = browser.get(&format!("/app/acme/audit?q={request}")).await.text;
    let entry = entry["id"].as_str().unwrap();
    let link = format!("?q={request}&#38;open={entry}#{entry}");
    assert!(found.contains(&link), "{link} is not in {found}");
    let open = browser
        .get(&format!("/app/acme/audit?q={request}&open={entry}"))
        .await
        .text;
    for part in [
        "Request id",
        &request,
        "127.0.0.1",
        "Before and after",
        "working-directory",
        "<ins>live</ins>",
    ] {
        assert!(open.contains(part), "{part} is not in {open}");
    }
    assert!(!found.contains("Before and after"), "{found}");

    // A form's work is done in a task of its own, and for the request all the same.
    let own = browser.get("/app/settings/tokens").await.text;
    let form = [
        ("token", hidden(&own, "token")),
        ("description", "mine".to_owned()),
    ];
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
    browser.post("/app/settings/tokens", &form).await;
    let installation = browser.get("/app/admin/audit/export").await.text;
    let without = installation.lines().filter(|line| {
        let entry: Value = serde_json::from_str(line).unwrap();
        entry["actor"] != "system" && entry["request-id"].is_null()
    });
    let without: Vec<&str> = without.collect();
    assert!(without.is_empty(), "{without:?}");
}

#[tokio::test]
async fn a_page_of_many_rows_stays_small() {
    /// What a page may have, in bytes.
    const BUDGET: usize = 40 << 10;
    let plane = Plane::start().await;
    let mut workspaces = Vec::new();
    for number in 0..100 {
        workspaces.push(plane.workspace(&format!("network-core-firewall-{number}")).await);
    }
    let configuration = plane
        .configuration(&workspaces[0], json!({"auto-queue-runs": false}))
        .await;
    for _ in 0..100 {
        plane.run(&workspaces[0], &configuration).await;
    }
    let mut browser = signed_in(&plane).await;
    for page in [
        "/app/acme/workspaces",
        "/app/acme/runs",
        "/app/acme/workspaces/network-core-firewall-0/runs",
        "/app/acme/audit",
    ] {
        let text = browser.get(page).await.text;
        let rows = text.matches("<tr").count().max(1);
        assert!(rows > 50, "{page} has {rows} rows");
        assert!(
            text.len() <= BUDGET,
            "{page}: {} bytes for {rows} rows",
            text.len()
        );
    }
}
