//! What the page of a run says, and what is done on it, with agents whose every step is chosen.
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

mod logs;

use serde_json::{Value, json};
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{AttemptStage, Finished, Progress, StateFate};
use terrapool_protocol::job::{ArtifactName, FailureReason, Outcome, Usage};
use terrapool_protocol::memory::{MemoryCurve, MemoryUse};
use terrapool_protocol::secret::Secret;
use terrapool_server::config::Config;
use terrapool_server::http;
use terrapool_testkit::agent::{Attempt, SimulatedAgent, state_mark};
use terrapool_testkit::forms::{FormBrowser, hidden};
use terrapool_testkit::wait::until;

use crate::common::browser::{PASSWORD, account, look_at};
use crate::common::{Plane, id};

/// A workspace of a pool with an agent, and somebody who looks at it.
struct Scene {
    plane: Plane,
    pool: String,
    workspace: String,
    configuration: String,
    agent: SimulatedAgent,
    browser: FormBrowser,
    attempts: u8,
}

const WORKSPACE: &str = "/app/acme/workspaces/network";

fn document(kind: &str, attributes: Value) -> Value {
    json!({"data": {"type": kind, "attributes": attributes}})
}

/// What `show -json` says of a plan that makes these resources.
fn plan(names: &[&str]) -> Vec<u8> {
    let change = |name: &&str| {
        json!({"address": format!("a.{name}"), "mode": "managed", "type": "a", "name": name,
            "provider_name": "example/a",
            "change": {"actions": ["create"], "before": null, "after": {}, "after_unknown": {},
                "before_sensitive": {}, "after_sensitive": {}}})
    };
    let changes: Vec<Value> = names.iter().map(change).collect();
    json!({"format_version": "1.2", "resource_changes": changes, "output_changes": {"size": {
        "actions": ["create"], "before": null, "after_unknown": true}}})
    .to_string()
    .into_bytes()
}

/// A state with these resources.
fn state(serial: u64, names: &[&str]) -> Vec<u8> {
    let resource = |name: &&str| {
        json!({"mode": "managed", "type": "a", "name": name, "provider": "provider[\"example/a\"]",
            "instances": [{"schema_version": 0, "attributes": {}}]})
    };
    json!({"version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": "line",
        "outputs": {"size": {"value": 4711, "type": "number"},
            "secret": {"value": "hunter2", "type": "string", "sensitive": true}},
        "resources": names.iter().map(resource).collect::<Vec<_>>()})
    .to_string()
    .into_bytes()
}

impl Scene {
    async fn new() -> Self {
        Self::on(|_| {}).await
    }

    async fn on(change: impl FnOnce(&mut Config)) -> Self {
        let plane = Plane::start_with(change).await;
        let pool = json!({"name": "own", "lease-times": {"cool-off": 0}});
        let pool = id(&plane
            .post("organizations/acme/agent-pools", &document("agent-pools", pool))
            .await
            .expect(201));
        let token = document("authentication-tokens", json!({"description": "by hand"}));
        let path = format!("agent-pools/{pool}/authentication-tokens");
        let token = plane.post(&path, &token).await.expect(201);
        let token = Secret::new(token["data"]["attributes"]["token"].as_str().unwrap());
        let settings = json!({"execution-mode": "agent", "agent-pool-id": pool});
        let workspace = plane.workspace_with("network", settings).await;
        let configuration = plane
            .configuration(&workspace, json!({"auto-queue-runs": false}))
            .await;
        let router = http::router(&plane.running.app);
        let agent = SimulatedAgent::register(&router, &token, "north-1", "1").await;
        account(&plane, "ada", true).await;
        let mut browser = look_at(&plane);
        browser.sign_in("ada", PASSWORD).await;
        Self {
            plane,
            pool,
            workspace,
            configuration,
            agent,
            browser,
            attempts: 0,
        }
    }

    /// A run: its id and the address of its page.
    async fn run(&self) -> (String, String) {
        let run = id(&self.plane.run(&self.workspace, &self.configuration).await);
        let page = format!("{WORKSPACE}/runs/{run}");
        (run, page)
    }

    async fn take(&mut self, phase: Phase) -> Attempt {
        self.attempts += 1;
        let attempt = AttemptId::from_random([self.attempts; 16]);
        let attempt = self.agent.take(phase, &attempt).await;
        if phase == Phase::Apply {
            assert_eq!(attempt.try_start().await.status, 200);
        }
        attempt
    }

    async fn planned(&mut self, names: &[&str]) {
        let attempt = self.take(Phase::Plan).await;
        let mut end = attempt.end(Outcome::Succeeded { changes: true });
        end.artifacts = vec![
            attempt.artifact(ArtifactName::PlanArchive, b"archive").await,
            attempt.artifact(ArtifactName::PlanRedacted, &plan(names)).await,
        ];
        assert!(attempt.try_finish(&end).await.ok::<Finished>().accepted);
        self.agent.forget(&attempt.key);
    }

    /// A run of which an apply has begun.
    async fn applying(&mut self, names: &[&str]) -> (String, String, Attempt) {
        let (run, page) = self.run().await;
        self.planned(names).await;
        let path = format!("runs/{run}/actions/apply");
        self.plane.post(&path, &json!({})).await.expect(202);
        let apply = self.take(Phase::Apply).await;
        (run, page, apply)
    }

    /// A plan that ends badly.
    async fn failed(&mut self, log: &str, reason: FailureReason, message: &str, peak: u64) -> String {
        let (_, page) = self.run().await;
        let mut attempt = self.take(Phase::Plan).await;
        attempt.write_log(log.as_bytes()).await;
        let message = message.to_owned();
        let mut end = attempt.end(Outcome::Failed { reason, message });
        end.usage.peak_memory_bytes = Some(peak);
        end.memory = Some(growing(peak >> 20));
        assert!(attempt.try_finish(&end).await.ok::<Finished>().accepted);
        self.agent.forget(&attempt.key);
        page
    }

    async fn page(&mut self, address: &str) -> String {
        let answer = self.browser.get(address).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.text
    }

    /// Somebody who may see and plan in the workspace, and no more.
    async fn planner(&self) -> FormBrowser {
        let plane = &self.plane;
        account(plane, "lin", false).await;
        let member = document("organization-memberships", json!({"username": "lin"}));
        let members = "organizations/acme/organization-memberships";
        plane.post(members, &member).await.expect(201);
        let team = document("teams", json!({"name": "planners"}));
        let team = id(&plane.post("organizations/acme/teams", &team).await.expect(201));
        let users = json!({"data": [{"type": "users", "id": "lin"}]});
        let path = format!("teams/{team}/relationships/users");
        plane.post(&path, &users).await.expect(204);
        let role = json!({"data": {"type": "team-workspaces", "attributes": {"access": "plan"},
            "relationships": {"team": {"data": {"type": "teams", "id": team}},
                "workspace": {"data": {"type": "workspaces", "id": self.workspace}}}}});
        plane.post("team-workspaces", &role).await.expect(201);
        let mut browser = look_at(plane);
        browser.sign_in("lin", PASSWORD).await;
        browser
    }

    /// The leases of the pool end at once.
    async fn leases_end(&self) {
        self.plane.leases_end(&self.pool).await;
    }
}

/// Memory that grows to this many mebibytes in a minute.
fn growing(peak_mb: u64) -> MemoryCurve {
    let mut curve = MemoryCurve::default();
    for second in 0..60 {
        let total_mb = peak_mb * (second + 1) / 60;
        let used = MemoryUse {
            total_mb,
            anonymous_mb: total_mb / 2,
        };
        curve.note(Millis::from_seconds(second), used);
    }
    curve
}

/// That a page has these, in this order.
fn has(page: &str, texts: &[&str]) {
    let mut rest = page;
    for text in texts {
        match rest.split_once(text) {
            Some((_, behind)) => rest = behind,
            None => panic!("`{text}` is missing, or not behind what comes before it: {page}"),
        }
    }
}

#[tokio::test]
async fn what_an_agent_delivers_after_its_apply_was_lost_is_on_the_page() {
    let mut scene = Scene::new().await;
    let (run, page, mut apply) = scene.applying(&["one", "two", "three"]).await;
    let first = "a.one: Creating...\na.one: Creation complete after 3s\na.two: Creating...\n\
        a.two: Still creating... [10s elapsed]\na.two: Creation comp";
    apply.write_log(first.as_bytes()).await;
    let intermediate = apply.state(1, "line", &state(1, &["one"])).await;
    assert_eq!(intermediate.fate, StateFate::Intermediate);
    scene.leases_end().await;
    let lost = until(std::time::Duration::from_secs(120), async || {
        let found = scene.plane.get(&format!("runs/{run}")).await.expect(200);
        (found["data"]["attributes"]["status"] == "errored").then_some(())
    })
    .await;
    assert!(lost.is_some(), "the run is not given up");
    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "Errored: the agent was lost during the apply",
            "1 of 3 changes are confirmed, 1 unknown, 1 not started",
            "What is known of the 3 changes",
            "Why we say so",
            "in the state, serial 1",
            "Unknown",
            "was being created for 10 s",
            "Contact was lost here, in mid-apply",
        ],
    );
    let log = |text: &str| text.as_bytes().to_vec();
    let raw = format!("{page}/apply.log");
    assert_eq!(scene.browser.get(&raw).await.text, first);

    scene.agent.stage(&apply.key, AttemptStage::Running);
    scene.agent.sync(Millis::ZERO).await;
    let rest = "lete after 12s\na.three: Creating...\na.three: Creation complete after 1s\n";
    apply.write_log(rest.as_bytes()).await;
    let whole = state(2, &["one", "two", "three"]);
    assert_eq!(apply.state(2, "line", &whole).await.fate, StateFate::Current);
    let mut end = apply.end(Outcome::Succeeded { changes: true });
    end.state = Some(state_mark(2, "line", &whole));
    assert!(!apply.try_finish(&end).await.ok::<Finished>().accepted);

    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "<title>Delivered later: ",
            "came back",
            "3 of 3 changes are confirmed, 0 unknown, 0 not started",
            "delivered the rest at ",
            "id=\"apply-L4\"",
            "id=\"apply-L5\"",
            "What follows was delivered later",
            "id=\"apply-L6\"",
            "a.two: Creation complete after 12s",
            "id=\"apply-L8\"",
        ],
    );
    assert!(!seen.contains("Unknown"), "{seen}");
    assert_eq!(scene.browser.get(&raw).await.text, format!("{first}{rest}"));
    let lines = format!("{page}/lines?phase=apply&from=5&to=6");
    let lines = scene.browser.get(&lines).await.text;
    assert!(
        lines.contains("apply-L6") && lines.contains("after 12s"),
        "{lines}"
    );
    // Who follows the log by the API sees that it has ended where contact was lost.
    let found = scene.plane.get(&format!("runs/{run}")).await.expect(200);
    let apply = found["data"]["relationships"]["apply"]["data"]["id"]
        .as_str()
        .unwrap();
    let sealed = scene
        .plane
        .running
        .app
        .logs
        .read(apply, 0, 1 << 20)
        .await
        .unwrap();
    assert_eq!(sealed, [log("\u{2}"), log(first), log("\u{3}")].concat());
}

#[tokio::test]
async fn what_happened_at_once_is_told_in_the_order_in_which_it_came_about() {
    let mut scene = Scene::new().await;
    let (_, page, _apply) = scene.applying(&["one"]).await;
    let mut moments = vec!["Timeline"];
    moments.extend([
        "Apply started",
        "Taken by",
        "Apply queued",
        "Confirmed",
        "Planned",
    ]);
    moments.extend(["Plan started", "Taken by", "Plan queued", "Created by"]);
    has(&scene.page(&page).await, &moments);
}

#[tokio::test]
async fn what_a_phase_has_used_so_far_is_on_its_page_until_its_end_tells() {
    let mut scene = Scene::new().await;
    let (_, page) = scene.run().await;
    let plan = scene.take(Phase::Plan).await;
    assert!(!scene.page(&page).await.contains("Memory of the plan"));
    let mut progress = Progress {
        usage: Usage {
            sandbox_ms: Some(400),
            ..Usage::default()
        },
        memory: Some(growing(256)),
    };
    assert_eq!(plan.try_progress(&progress).await.status, 204);
    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "<b>Sandbox</b>",
            "<b>Init</b>",
            "Memory of the plan",
            "over 1 min 00 s: 256 MB now, at most 256 MB of 512 MB",
        ],
    );
    assert!(!seen.contains("<b>Plan</b>"), "{seen}");
    progress.usage.init_ms = Some(1);
    progress.memory = Some(growing(300));
    assert_eq!(plan.try_progress(&progress).await.status, 204);
    has(
        &scene.page(&page).await,
        &["<b>Init</b>", "<b>Plan</b>", "300 MB now"],
    );

    let mut end = plan.end(Outcome::Succeeded { changes: false });
    end.memory = Some(growing(310));
    assert!(plan.try_finish(&end).await.ok::<Finished>().accepted);
    let seen = scene.page(&page).await;
    has(&seen, &["over 1 min 00 s: at most 310 MB of 512 MB"]);
    assert!(!seen.contains("MB now"), "{seen}");
    // What is told of a job that has ended is of no interest.
    assert_eq!(plan.try_progress(&progress).await.status, 204);
    assert!(!scene.page(&page).await.contains("MB now"));
}

#[tokio::test]
async fn who_ran_out_of_memory_is_told_the_figures_and_gives_it_the_next_step() {
    let mut scene = Scene::new().await;
    let message = "The run needed more than its 512 MiB of memory (peak 512 MiB), and the kernel killed a process of it.";
    let log = "Refreshing state...\n";
    let page = scene
        .failed(log, FailureReason::OutOfMemory, message, 512 << 20)
        .await;
    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "Errored: out of memory in the plan",
            "Killed at 512 MB of 512 MB",
            "Nothing was changed; the state is as it was",
            "Raise to 768 MB…",
            "id=\"faults\"",
            "Memory of the plan",
            "over 1 min 00 s: at most 512 MB of 512 MB, 256 MB of it without page cache",
            "Dashed: asked to stop at 410 MB, killed at 512 MB",
            "What helps",
            "Raise the limit to 768 MB",
        ],
    );
    let mut planner = scene.planner().await;
    let others = planner.get(&page).await.text;
    has(
        &others,
        &[
            "disabled aria-describedby=\"helps\">Raise to 768 MB",
            "who manages the workspace sets it",
        ],
    );
    let memory = format!("{page}/memory");
    let token = planner.token(&page).await;
    let refused = planner
        .post(&memory, &[("token", &token), ("memory", "768")])
        .await;
    assert!([403, 404].contains(&refused.status), "{}", refused.text);

    let token = hidden(&seen, "token");
    let form = [("token", token.as_str()), ("memory", "768")];
    let raised = scene.browser.post(&memory, &form).await;
    assert_eq!((raised.status, raised.location.as_str()), (303, page.as_str()));
    let seen = scene.page(&page).await;
    has(
        &seen,
        &["Runs of network have 768 MB now.", "Runs have 768 MB now"],
    );
    assert!(!seen.contains("Raise to"), "{seen}");
    let form = [("token", token.as_str()), ("memory", "1024"), ("again", "on")];
    let again = scene.browser.post(&memory, &form).await;
    assert_eq!(again.status, 303, "{}", again.text);
    assert!(
        again.location.contains("/runs/run-") && again.location != page,
        "{}",
        again.location
    );
    let found = scene
        .plane
        .get(&format!("workspaces/{}", scene.workspace))
        .await
        .expect(200);
    assert_eq!(found["data"]["attributes"]["memory-mb"], 1024, "{found}");
}

#[tokio::test]
async fn an_error_of_the_engine_stands_above_its_log_with_a_link_to_its_line() {
    let mut scene = Scene::new().await;
    let mut log = "line\n".repeat(2500);
    log.push_str("╷\n│ Error: creating <b>bucket</b>\n│ \n│   with a.one,\n│   on main.tf line 3, in resource \"a\" \"one\":\n");
    log.push_str("│    3: resource \"a\" \"one\" {\n│ \n│ It exists already.\n╵\n");
    log.push_str(&"more\n".repeat(2500));
    log.push_str("Error: and another\n");
    let page = scene
        .failed(&log, FailureReason::Exit, "terraform exited with 1", 100 << 20)
        .await;
    let seen = scene.page(&page).await;
    let link = format!("href=\"{page}?phase=plan&#38;from=2002#plan-L2502\"");
    has(
        &seen,
        &[
            "creating &#60;b&#62;bucket&#60;/b&#62;, a.one.",
            &link,
            "Line 2,502 of the log",
            "What the engine says",
            "creating &#60;b&#62;bucket&#60;/b&#62;",
            "It exists already.",
            "main.tf line 3, in resource",
            "and another",
            "href=\"#plan-L5010\"",
        ],
    );
    assert!(!seen.contains("<b>bucket"), "{seen}");
    let lines = scene.page(&format!("{page}?phase=plan&from=2002")).await;
    assert!(lines.contains("id=\"plan-L2502\""));
}

#[tokio::test]
async fn who_asked_an_apply_to_stop_is_named_and_what_stopping_leaves_is_counted() {
    let mut scene = Scene::new().await;
    let (_, page, mut apply) = scene.applying(&["one", "two", "three"]).await;
    let log = "a.one: Creating...\na.one: Creation complete after 3s\na.two: Creating...\n";
    apply.write_log(log.as_bytes()).await;
    apply.state(1, "line", &state(1, &["one"])).await;
    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "Applying: 1 of 3 done, 1 in progress",
            "Longest so far: a.one, 3 s.",
            "serial 1, ",
            "It has 10 minutes for that. 1 change in progress finishes, 1 stays made, 1 is not made.",
            "1 done, 1 working, 1 to come",
            "0 s to 3 s",
        ],
    );
    let token = hidden(&seen, "token");
    let cancel = scene
        .browser
        .post(&format!("{page}/cancel"), &[("token", &token)])
        .await;
    assert_eq!(cancel.status, 303, "{}", cancel.text);
    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "Canceling",
            "Asked to stop at ",
            " UTC by \u{2068}ada\u{2069}.",
            " left to do so in good order.",
            "Asked to stop by ada",
        ],
    );
}

#[tokio::test]
async fn the_outputs_of_an_apply_are_those_of_its_state() {
    let mut scene = Scene::new().await;
    let (_, page, mut apply) = scene.applying(&["one"]).await;
    apply
        .write_log(b"a.one: Creating...\na.one: Creation complete after 3s\n")
        .await;
    let bytes = state(1, &["one"]);
    apply.state(1, "line", &bytes).await;
    let mut end = apply.end(Outcome::Succeeded { changes: true });
    end.state = Some(state_mark(1, "line", &bytes));
    assert!(apply.try_finish(&end).await.ok::<Finished>().accepted);
    let seen = scene.page(&page).await;
    has(
        &seen,
        &[
            "1 output changed.",
            "What was done",
            "state serial 1",
            "secret",
            "sensitive, not shown",
            "size",
            "4711",
        ],
    );
    assert!(!seen.contains("hunter2"), "{seen}");
}

#[tokio::test]
async fn what_somebody_may_not_do_is_shown_with_what_it_takes() {
    let mut scene = Scene::new().await;
    let mut planner = scene.planner().await;
    let workspace = planner.get(WORKSPACE).await.text;
    has(
        &workspace,
        &[
            "disabled aria-describedby=\"may-not\">",
            "Lock…",
            "popovertarget=\"new\"",
            "To lock it takes the role write.",
        ],
    );
    let (_, page) = scene.run().await;
    scene.planned(&["one"]).await;
    let seen = planner.get(&page).await.text;
    has(
        &seen,
        &[
            "To confirm or discard it takes the role write, or more, in this workspace or its project.",
            "disabled aria-describedby=\"may-not\">Confirm and apply…",
            "disabled aria-describedby=\"may-not\">Discard…",
        ],
    );
    assert!(!seen.contains("id=\"ok\""), "{seen}");
    let own = scene.page(&page).await;
    assert!(!own.contains("may-not"), "{own}");
}

#[tokio::test]
async fn a_plan_of_more_than_two_thousand_changes_has_pages() {
    let mut scene = Scene::new().await;
    let (_, page) = scene.run().await;
    let names: Vec<String> = (1..=2001).map(|number| format!("r{number:04}")).collect();
    scene
        .planned(&names.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    let seen = scene.page(&page).await;
    // The chips count all of them.
    has(
        &seen,
        &[
            "Add <span class=\"n\">2,001</span>",
            "r0001",
            "r0200",
            "1–200 of 2,001",
            "page=2",
        ],
    );
    assert!(!seen.contains("r0201"));
    let last = scene.page(&format!("{page}?page=11")).await;
    has(&last, &["r2001", "2,001–2,001 of 2,001"]);
}
