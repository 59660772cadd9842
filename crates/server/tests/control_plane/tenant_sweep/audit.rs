//! Whatever changes something leaves an entry in the audit log.

use serde_json::json;
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Finished, StateFate};
use terrapool_protocol::job::{ArtifactName, Outcome};
use terrapool_protocol::secret::Secret;
use terrapool_server::{http, shared_agent};
use terrapool_store::audit::{self, AuditFilter};
use terrapool_store::organizations;
use terrapool_testkit::agent::SimulatedAgent;

use super::DESTROYS_THE_TEST;
use super::policy::{Level, Rule, table};
use super::world::{World, document};
use crate::common::{id, state};

/// What leaves no entry, and why.
const WITHOUT: [(&str, &str, &str); 7] = [
    (
        "PUT",
        "/_uploads/configuration-versions/{id}",
        "the content of what `POST configuration-versions` has written down",
    ),
    (
        "PUT",
        "/_uploads/state-versions/{id}/state",
        "the content of what `POST state-versions` has written down",
    ),
    (
        "PUT",
        "/_uploads/state-versions/{id}/json-state",
        "the content of what `POST state-versions` has written down",
    ),
    (
        "POST",
        "/app/oauth/authorize",
        "answers a code, and keeps nothing; the token that it is traded for is written down",
    ),
    (
        "POST",
        "/oauth/token",
        "trades in a code, which this test has none of: the test of the sign-in looks for its entry",
    ),
    ("POST", "/app/settings/theme", "a cookie of the browser that asks"),
    ("POST", "/app/settings/keys", "a cookie of the browser that asks"),
];

#[tokio::test]
async fn every_change_leaves_an_entry_in_the_audit_log() {
    let mut world = World::new().await;
    let mut wrong = Vec::new();
    for (method, path, rule) in table() {
        let is_without = WITHOUT
            .iter()
            .any(|(verb, of, _)| (*verb, *of) == (&method, &path));
        if method == "GET" || is_without {
            continue;
        }
        let level = match rule {
            // What agents and jobs do is in the events of runs.
            Rule::Agents => continue,
            Rule::From(least) => least,
            Rule::Absent if path.contains("/admin/") => Level::SiteAdmin,
            Rule::Absent => Level::Owner,
            Rule::Open | Rule::Own => Level::Outsider,
            Rule::Signed => panic!("{method} {path} is known by no person"),
        };
        world.prepare(level, &method, &path).await;
        let before = world.entries().await;
        if path == "/sign-in" {
            world.newcomer().await;
        } else {
            let answered = world.ask(level, &method, &path).await;
            if answered.status >= 400 {
                wrong.push(format!("{level:?} {method} {path}: {answered:?}"));
            }
        }
        if world.entries().await == before {
            wrong.push(format!("{level:?} {method} {path}: no entry"));
        }
        if DESTROYS_THE_TEST.contains(&(method.as_str(), path.as_str())) {
            world = World::new().await;
        } else {
            world.renew().await;
        }
    }
    assert!(wrong.is_empty(), "{} changes:\n{}", wrong.len(), wrong.join("\n"));
}

impl World {
    /// Another one stands outside.
    async fn newcomer(&mut self) {
        let person = self.person(&format!("stranger{}", self.made)).await;
        self.people.insert("stranger", person);
    }

    /// The id that the first form of a page has for what it ends.
    async fn first_id(&self, path: &str) -> String {
        let page = self.page(&self.people["stranger"].cookies, path).await;
        let (_, rest) = page
            .split_once("name=\"id\" value=\"")
            .unwrap_or_else(|| panic!("{path} has no form: {page}"));
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    /// How many entries there are, of the organization and of the installation.
    async fn entries(&self) -> usize {
        let mut connection = self.plane.running.app.db.read().await.unwrap();
        let mut logs = vec![None];
        for name in [
            "acme".to_owned(),
            format!("n{}", self.made),
            format!("form-{}", self.made),
        ] {
            let organization = organizations::by_name(&mut connection, &name).await.unwrap();
            logs.extend(organization.map(|organization| Some(organization.id)));
        }
        let mut found = 0;
        for organization in logs {
            let filter = AuditFilter::default();
            found += audit::list(&mut connection, organization.as_ref(), &filter, u32::MAX)
                .await
                .unwrap()
                .len();
        }
        found
    }

    /// Puts things into the state in which the change is allowed.
    async fn prepare(&mut self, level: Level, method: &str, path: &str) {
        let wants_lock = [
            "/lock",
            "/unlock",
            "/force-unlock",
            "/workspaces/{id}/state-versions",
            "/states/{id}/{action}",
        ];
        let deletes = [
            ("DELETE", "/api/v2/organizations/{org}/workspaces/{name}"),
            ("DELETE", "/api/v2/workspaces/{id}"),
            ("POST", "/app/{org}/workspaces/{name}/delete"),
        ];
        if deletes.contains(&(method, path)) || wants_lock.iter().any(|end| path.ends_with(end)) {
            self.cancel().await;
        }
        match (method, path) {
            ("POST", "/app/settings/tokens/revoke") => {
                self.newcomer().await;
                let token = self.first_id("/app/settings/tokens").await;
                self.things.insert("own-token", token);
            }
            ("POST", "/app/settings/sessions/end" | "/app/settings/sessions/end-others") => {
                self.newcomer().await;
                self.signed_in(&format!("stranger{}", self.made), String::new())
                    .await;
                let session = self.first_id("/app/settings/sessions").await;
                self.things.insert("other-session", session);
            }
            ("POST", "/app/settings/password" | "/app/settings/profile" | "/sign-out") => {
                self.newcomer().await
            }
            (_, "/api/v2/workspaces/{id}/actions/unlock" | "/app/{org}/workspaces/{name}/unlock")
            | ("POST" | "PATCH", "/api/v2/workspaces/{id}/state-versions") => {
                let lock = "/api/v2/workspaces/{id}/actions/lock";
                assert_eq!(self.ask(level, "POST", lock).await.status, 200);
            }
            (
                _,
                "/api/v2/workspaces/{id}/actions/force-unlock" | "/app/{org}/workspaces/{name}/force-unlock",
            ) => self.plane.lock(self.thing("workspace")).await,
            (
                _,
                "/api/v2/organizations/{org}/workspaces/{name}/actions/safe-delete"
                | "/api/v2/workspaces/{id}/actions/safe-delete",
            ) => {
                let name = format!("empty{}", self.made);
                let body = document(json!({"name": name}), &[("project", self.thing("project"))]);
                let empty = self.post("organizations/acme/workspaces", &body).await;
                self.things
                    .extend([("workspace", empty), ("workspace-name", name)]);
            }
            (
                _,
                "/api/v2/runs/{id}/actions/apply"
                | "/api/v2/runs/{id}/actions/discard"
                | "/app/{org}/workspaces/{name}/runs/{run}/confirm"
                | "/app/{org}/workspaces/{name}/runs/{run}/discard",
            ) => {
                self.planned(false).await;
            }
            (
                _,
                "/api/v2/runs/{id}/actions/force-cancel"
                | "/app/{org}/workspaces/{name}/runs/{run}/force-cancel",
            ) => {
                let mut agent = self.planned(true).await;
                agent.take(Phase::Apply, &AttemptId::from_random([2; 16])).await;
                self.cancel().await;
            }
            (_, "/app/{org}/workspaces/{name}/runs/{run}/retry") => self.cancel().await,
            (
                _,
                "/api/v2/kept-apart-states/{id}/actions/promote"
                | "/api/v2/kept-apart-states/{id}/actions/dismiss",
            ) => {
                self.keep_apart().await;
            }
            (_, "/app/{org}/workspaces/{name}/states/{id}/{action}") => {
                let workspace = self.thing("workspace").to_owned();
                self.plane.lock(&workspace).await;
                let body = self.body("POST", "/api/v2/workspaces/{id}/state-versions");
                self.post(&format!("workspaces/{workspace}/state-versions"), &body)
                    .await;
                self.plane
                    .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
                    .await
                    .expect(200);
            }
            (_, "/app/{org}/agent-pools/{pool}/agents/{agent}/delete")
            | ("DELETE", "/api/v2/agents/{id}") => self.end_agent().await,
            (
                _,
                "/app/admin/shared-pool/agents/{agent}/drain"
                | "/app/admin/shared-pool/agents/{agent}/resume",
            ) => self.shared_agent().await,
            (_, "/app/admin/users/enable") => {
                let disable = "/app/admin/users/disable";
                assert_eq!(self.ask(level, "POST", disable).await.status, 303);
            }
            ("POST", "/api/v2/team-workspaces") => {
                let body = document(json!({"name": format!("other{}", self.made)}), &[]);
                let team = self.post("organizations/acme/teams", &body).await;
                self.things.insert("team", team);
            }
            ("DELETE", "/api/v2/projects/{id}") | (_, "/app/{org}/projects/delete") => {
                let body = document(json!({"name": format!("empty{}", self.made)}), &[]);
                let project = self.post("organizations/acme/projects", &body).await;
                let related = [
                    ("team", self.teams["admin"].as_str()),
                    ("project", project.as_str()),
                ];
                let role = document(json!({"access": "admin"}), &related);
                self.post("team-projects", &role).await;
                self.things.insert("project", project);
            }
            (
                "POST",
                "/api/v2/teams/{id}/relationships/users"
                | "/api/v2/teams/{id}/relationships/organization-memberships"
                | "/app/{org}/people/teams/{id}/members",
            ) => {
                self.leave(self.thing("team"), self.thing("guest")).await;
            }
            (_, "/app/{org}/people" | "/api/v2/organizations/{org}/organization-memberships") => {
                let name = format!("newcomer{}", self.made);
                self.plane.stranger(&name).await;
                self.things.insert("newcomer", name);
            }
            (
                "PATCH" | "DELETE",
                "/api/v2/admin/terraform-versions/{id}" | "/api/v2/admin/opentofu-versions/{id}",
            ) => {
                let path = path
                    .trim_start_matches("/api/v2/")
                    .trim_end_matches("/{id}")
                    .to_owned();
                let body = self.body("POST", &path);
                let version = self.post(&path, &body).await;
                self.things.insert("engine-version", version);
            }
            _ => {}
        }
    }

    /// A new run in the pool, whose plan an agent has made.
    async fn planned(&mut self, auto_apply: bool) -> SimulatedAgent {
        let (pool, workspace) = (self.thing("pool").to_owned(), self.thing("workspace").to_owned());
        let now = document(json!({"lease-times": {"cool-off": 0}}), &[]);
        self.plane
            .patch(&format!("agent-pools/{pool}"), &now)
            .await
            .expect(200);
        let run = self.thing("run").to_owned();
        self.plane
            .post(&format!("runs/{run}/actions/cancel"), &json!({}))
            .await
            .expect(202);
        let settings = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": auto_apply});
        self.plane
            .patch(&format!("workspaces/{workspace}"), &document(settings, &[]))
            .await
            .expect(200);
        let run = self.plane.run(&workspace, self.thing("configuration")).await;
        self.things.insert("run", id(&run));
        let router = http::router(&self.plane.running.app);
        let token = Secret::new(self.thing("agent-token"));
        let mut agent = SimulatedAgent::register(&router, &token, "played", "1").await;
        let plan = agent.take(Phase::Plan, &AttemptId::from_random([1; 16])).await;
        let archive = plan.artifact(ArtifactName::PlanArchive, b"archive").await;
        let mut end = plan.end(Outcome::Succeeded { changes: true });
        end.artifacts = vec![archive];
        assert!(plan.try_finish(&end).await.ok::<Finished>().accepted);
        agent.forget(&plan.key);
        agent
    }

    async fn cancel(&self) {
        let path = format!("runs/{}/actions/cancel", self.thing("run"));
        self.plane.post(&path, &json!({})).await.expect(202);
    }

    /// A state that came after its attempt had lost the workspace.
    async fn keep_apart(&mut self) {
        let mut agent = self.planned(true).await;
        let apply = agent.take(Phase::Apply, &AttemptId::from_random([2; 16])).await;
        assert_eq!(apply.try_start().await.status, 200);
        self.cancel().await;
        let path = format!("runs/{}/actions/force-cancel", self.thing("run"));
        self.plane.post(&path, &json!({})).await.expect(202);
        let workspace = self.thing("workspace").to_owned();
        let attempt = document(json!({"acknowledge-running": apply.key.attempt.as_str()}), &[]);
        self.plane
            .post(&format!("workspaces/{workspace}/actions/force-unlock"), &attempt)
            .await
            .expect(200);
        self.plane.lock(&workspace).await;
        self.plane
            .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
            .await
            .expect(200);
        let late = state(5, "line");
        assert_eq!(apply.state(5, "line", &late).await.fate, StateFate::KeptApart);
        let listed = self
            .plane
            .get(&format!("workspaces/{workspace}/kept-apart-states"))
            .await
            .expect(200);
        let kept = listed["data"][0]["id"].as_str().unwrap().to_owned();
        self.things.insert("kept-apart", kept);
    }

    /// An agent that has said that it ends.
    async fn end_agent(&mut self) {
        let router = http::router(&self.plane.running.app);
        let token = Secret::new(self.thing("agent-token"));
        let mut agent = SimulatedAgent::register(&router, &token, "ended", "1").await;
        agent.draining = true;
        agent.sync(Millis::ZERO).await;
        self.things.insert("agent", agent.registered.agent.to_string());
    }

    /// An agent of the shared pool.
    async fn shared_agent(&mut self) {
        let app = &self.plane.running.app;
        let token = shared_agent::create_token(app, "played").await.unwrap();
        let agent = SimulatedAgent::register(&http::router(app), &token, "shared", "1").await;
        self.things.insert("agent", agent.registered.agent.to_string());
    }

    async fn leave(&self, team: &str, user: &str) {
        let path = format!("teams/{team}/relationships/users");
        let body = json!({"data": [{"type": "users", "id": user}]});
        self.plane
            .send(self.plane.request("DELETE", &path).body(body.to_string()))
            .await
            .expect(204);
    }
}
