//! An organization with people at every level, and something of every kind in it.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_protocol::secret::Secret;
use terrapool_server::admin::{self, UserRequest};
use terrapool_server::http;
use terrapool_server::http::routes::Route;
use terrapool_store::error::StoreError;
use terrapool_store::{agent_tokens, jobs, pools};
use terrapool_testkit::agent::{Attempt, SimulatedAgent};

use super::policy::Level;
use crate::common::{Plane, archive, id, md5, state};

pub(super) const PASSWORD: &str = "correct horse battery";

/// What was answered, without its body: some never end.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) location: String,
}

impl Answered {
    fn of(answer: &reqwest::Response) -> Self {
        Self {
            status: answer.status().as_u16(),
            location: answer
                .headers()
                .get("location")
                .map_or(String::new(), |value| value.to_str().unwrap().to_owned()),
        }
    }
}

/// How somebody comes.
pub(super) struct Person {
    pub(super) token: String,
    pub(super) cookies: String,
    pub(super) form_token: String,
}

pub(crate) struct World {
    pub(crate) plane: Plane,
    /// A token of a pool of another organization.
    pub(crate) foreign_agent_token: String,
    /// An agent of that pool, and the job of that organization that it holds.
    pub(crate) foreign: Option<(SimulatedAgent, Attempt)>,
    client: reqwest::Client,
    pub(super) people: BTreeMap<&'static str, Person>,
    pub(super) teams: BTreeMap<&'static str, String>,
    /// What stands for a parameter, by the kind of thing.
    pub(super) things: BTreeMap<&'static str, String>,
    pub(super) made: u32,
}

/// A document with attributes and relationships.
pub(super) fn document(attributes: Value, relationships: &[(&str, &str)]) -> Value {
    let related: serde_json::Map<String, Value> = relationships
        .iter()
        .map(|(name, id)| ((*name).to_owned(), json!({"data": {"id": id}})))
        .collect();
    json!({"data": {"attributes": attributes, "relationships": related}})
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::Anonymous => "",
        Level::Outsider => "stranger",
        Level::Member => "member",
        Level::Read => "read",
        Level::Plan => "plan",
        Level::Write => "write",
        Level::Admin => "admin",
        Level::Owner => "owner",
        Level::SiteAdmin => "site",
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let plane = Plane::start().await;
        let mut world = Self {
            plane,
            foreign_agent_token: String::new(),
            foreign: None,
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            people: BTreeMap::new(),
            teams: BTreeMap::new(),
            things: BTreeMap::new(),
            made: 0,
        };
        for name in [
            "stranger", "member", "read", "plan", "write", "admin", "owner", "site",
        ] {
            let person = world.person(name).await;
            world.people.insert(name, person);
        }
        let owners = world.plane.get("organizations/acme/teams").await.expect(200)["data"][0]["id"]
            .as_str()
            .unwrap()
            .to_owned();
        for name in ["member", "read", "plan", "write", "admin", "owner"] {
            world
                .post(
                    "organizations/acme/organization-memberships",
                    &document(json!({"username": name}), &[]),
                )
                .await;
        }
        for name in ["read", "plan", "write", "admin"] {
            let team = world
                .post("organizations/acme/teams", &document(json!({"name": name}), &[]))
                .await;
            world.join(&team, name).await;
            world.teams.insert(name, team);
        }
        world.join(&owners, "owner").await;
        let stranger = world.people["stranger"].token.clone();
        let organization = document(json!({"name": "bobs", "email": "b@example.com"}), &[]);
        world.post_as(&stranger, "organizations", &organization).await;
        let pool = document(json!({"name": "theirs"}), &[]);
        let pool = id(&world
            .post_as(&stranger, "organizations/bobs/agent-pools", &pool)
            .await);
        let path = format!("agent-pools/{pool}/authentication-tokens");
        let token = document(json!({"description": "d"}), &[]);
        let made = world.post_as(&stranger, &path, &token).await;
        world.foreign_agent_token = made["data"]["attributes"]["token"].as_str().unwrap().to_owned();
        world.foreign = Some(world.hold_a_job(&stranger, &pool).await);
        world.renew().await;
        world
    }

    /// An agent of the other organization's pool with a job of that organization.
    async fn hold_a_job(&self, stranger: &str, pool: &str) -> (SimulatedAgent, Attempt) {
        let attributes = json!({"name": "theirs", "execution-mode": "agent", "agent-pool-id": pool});
        let path = "organizations/bobs/workspaces";
        let workspace = id(&self.post_as(stranger, path, &document(attributes, &[])).await);
        let configuration = self
            .plane
            .configuration(&workspace, json!({"auto-queue-runs": false}))
            .await;
        self.plane.run(&workspace, &configuration).await;
        let token = Secret::new(self.foreign_agent_token.as_str());
        let router = http::router(&self.plane.running.app);
        let mut agent = SimulatedAgent::register(&router, &token, "theirs", "1").await;
        let plan = agent.take(Phase::Plan, &AttemptId::from_random([9; 16])).await;
        (agent, plan)
    }

    /// The credentials of the other organization's agent: its session's, and its job's.
    pub(crate) fn foreign_credentials(&self) -> [&str; 2] {
        let (agent, attempt) = self.foreign.as_ref().unwrap();
        [
            agent.registered.session_token.expose(),
            attempt.credential.expose(),
        ]
    }

    pub(crate) fn routes(&self) -> Vec<Route> {
        http::routes(&self.plane.running.app).list()
    }

    async fn post_as(&self, token: &str, path: &str, body: &Value) -> Value {
        let request = self.plane.request_as(token, "POST", path);
        self.plane.send(request.body(body.to_string())).await.expect(201)
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> String {
        id(&self.plane.post(path, body).await.expect(201))
    }

    async fn join(&self, team: &str, name: &str) {
        let body = json!({"data": [{"type": "users", "id": name}]});
        self.plane
            .post(&format!("teams/{team}/relationships/users"), &body)
            .await
            .expect(204);
    }

    /// Somebody with an account, a token and a session.
    pub(super) async fn person(&self, name: &str) -> Person {
        let request = UserRequest {
            username: name.to_owned(),
            email: format!("{name}@example.com"),
            site_admin: name == "site",
            password: Some(Secret::new(PASSWORD)),
        };
        let token = admin::create_user(&self.plane.running.app, request)
            .await
            .unwrap()
            .expose()
            .to_owned();
        self.signed_in(name, token).await
    }

    /// Another session of somebody.
    pub(super) async fn signed_in(&self, name: &str, token: String) -> Person {
        let page = self
            .client
            .get(format!("{}/sign-in", self.plane.base()))
            .send()
            .await
            .unwrap();
        let before = cookies(&page);
        let token_field = form_token(&page.text().await.unwrap());
        let fields = [
            ("token", token_field.as_str()),
            ("login", name),
            ("password", PASSWORD),
            ("to", "/app"),
        ];
        let answer = self
            .client
            .post(format!("{}/sign-in", self.plane.base()))
            .header("cookie", before)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form(&fields))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 303, "{name} can't sign in");
        let cookies = cookies(&answer);
        let page = self.page(&cookies, "/app/settings/profile").await;
        Person {
            token,
            cookies,
            form_token: form_token(&page),
        }
    }

    /// A page as it is shown in a session.
    pub(super) async fn page(&self, cookies: &str, path: &str) -> String {
        let page = self
            .client
            .get(format!("{}{path}", self.plane.base()))
            .header("cookie", cookies)
            .send()
            .await
            .unwrap();
        page.text().await.unwrap()
    }

    /// Makes everything anew, since something may have been changed.
    pub(crate) async fn renew(&mut self) {
        self.made += 1;
        let number = self.made;
        let project = self
            .post(
                "organizations/acme/projects",
                &document(json!({"name": format!("p{number}")}), &[]),
            )
            .await;
        let mut role_in_project = String::new();
        for (name, team) in &self.teams {
            let body = document(json!({"access": name}), &[("team", team), ("project", &project)]);
            role_in_project = self.post("team-projects", &body).await;
        }
        let name = format!("w{number}");
        let body = document(
            json!({"name": name, "auto-apply": false}),
            &[("project", &project)],
        );
        let workspace = self.post("organizations/acme/workspaces", &body).await;
        let team = self
            .post(
                "organizations/acme/teams",
                &document(json!({"name": format!("t{number}")}), &[]),
            )
            .await;
        let body = document(
            json!({"access": "read"}),
            &[("team", &team), ("workspace", &workspace)],
        );
        let role_in_workspace = self.post("team-workspaces", &body).await;
        let body = document(json!({"key": "k", "value": "v", "category": "env"}), &[]);
        let variable = self.post(&format!("workspaces/{workspace}/vars"), &body).await;
        self.plane.lock(&workspace).await;
        let raw = state(1, "lineage");
        let body = document(
            json!({
                "serial": 1, "lineage": "lineage", "md5": md5(&raw),
                "state": base64::engine::general_purpose::STANDARD.encode(&raw),
            }),
            &[],
        );
        let version = self
            .post(&format!("workspaces/{workspace}/state-versions"), &body)
            .await;
        let outputs = self
            .plane
            .get(&format!("state-versions/{version}/outputs"))
            .await
            .expect(200);
        let output = outputs["data"][0]["id"].as_str().unwrap().to_owned();
        self.plane
            .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
            .await
            .expect(200);
        let configuration = self.plane.configuration(&workspace, json!({})).await;
        let run = self.plane.run(&workspace, &configuration).await;
        let related = |name: &str| {
            run["data"]["relationships"][name]["data"]["id"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let body = document(json!({"name": format!("pool{number}")}), &[]);
        let pool = self.post("organizations/acme/agent-pools", &body).await;
        let path = format!("agent-pools/{pool}/authentication-tokens");
        let token = self
            .plane
            .post(&path, &document(json!({"description": "d"}), &[]))
            .await;
        let token = token.expect(201);
        let agent_token = token["data"]["attributes"]["token"].as_str().unwrap().to_owned();
        let agent = self.register(&agent_token).await;
        let guest = format!("guest{number}");
        self.plane.stranger(&guest).await;
        let membership = self
            .post(
                "organizations/acme/organization-memberships",
                &document(json!({"username": guest}), &[]),
            )
            .await;
        self.join(&team, &guest).await;
        self.post("organizations/acme/authentication-token", &json!({}))
            .await;
        let me = id(&self.plane.get("account/details").await.expect(200));
        self.things = BTreeMap::from([
            ("project", project),
            ("team-project", role_in_project),
            ("team-workspace", role_in_workspace),
            ("workspace", workspace),
            ("workspace-name", name),
            ("team", team),
            ("variable", variable),
            ("state", version),
            ("output", output),
            ("configuration", configuration),
            ("job", self.job_of(&id(&run)).await),
            ("run", id(&run)),
            ("plan", related("plan")),
            ("apply", related("apply")),
            ("pool", pool),
            ("kept-apart", "sv-111111111111abcd".to_owned()),
            ("engine-version", "none-1111111111abcd".to_owned()),
            ("own-token", String::new()),
            ("other-session", String::new()),
            ("newcomer", "nobody".to_owned()),
            ("serial", "1".to_owned()),
            ("pool-name", format!("pool{number}")),
            ("token", id(&token)),
            ("shared-token", self.shared_token().await),
            ("agent-token", agent_token),
            ("agent", agent),
            ("membership", membership),
            ("guest", guest),
            ("user", me),
        ]);
    }

    /// The job that plans a run.
    async fn job_of(&self, run: &str) -> String {
        let mut connection = self.plane.running.app.db.read().await.unwrap();
        let run = run.parse().unwrap();
        let job = jobs::of_run(&mut connection, &run, Phase::Plan).await.unwrap();
        job.unwrap().id.to_string()
    }

    async fn register(&self, token: &str) -> String {
        let body = json!({
            "instance_key": format!("{:032x}", self.made), "process_nonce": format!("{:032x}", self.made + 1),
            "name": "a", "version": "1", "hostname": "h", "kernel": "k", "driver": "docker",
            "capacity": {"slots": 1, "free_slots": 1, "memory_mb": 1024, "free_memory_mb": 1024, "reserve_mb": 256},
            "engines": [],
        });
        let url = format!("{}/agent/v1/register", self.plane.base());
        let request = self.client.post(url).bearer_auth(token).json(&body);
        let answer = self.plane.send(request).await.expect(200);
        answer["agent"].as_str().unwrap().to_owned()
    }

    pub(super) fn thing(&self, kind: &str) -> &str {
        self.things
            .get(kind)
            .unwrap_or_else(|| panic!("nothing stands for {kind}"))
    }

    /// A token of the shared pool, which nobody uses.
    async fn shared_token(&self) -> String {
        let made = self.plane.running.app.db.write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                let pool = pools::shared(tx).await?;
                let hash: Vec<u8> = tx.draw().to_vec();
                agent_tokens::create(tx, &pool.id, &hash, "of the operators", None, None).await
            })
        });
        made.await.unwrap().id.to_string()
    }

    /// A path with something of ours for each parameter.
    fn filled(&self, path: &str) -> String {
        let mut before = "";
        let mut out = String::new();
        for part in path.split('/').skip(1) {
            let value = match (before, part) {
                (_, "{org}") => "acme",
                ("projects", "{id}") => self.thing("project"),
                ("teams", "{id}") => self.thing("team"),
                ("organization-memberships", "{id}") => self.thing("membership"),
                ("team-workspaces", "{id}") => self.thing("team-workspace"),
                ("team-projects", "{id}") => self.thing("team-project"),
                ("workspaces", "{id}") => self.thing("workspace"),
                ("workspaces", "{name}") => self.thing("workspace-name"),
                (_, "{variable}") => self.thing("variable"),
                ("configuration-versions", "{id}") => self.thing("configuration"),
                ("state-versions" | "states", "{id}") => self.thing("state"),
                ("state-version-outputs", "{id}") => self.thing("output"),
                ("runs", "{id}" | "{run}") => self.thing("run"),
                ("plans", "{id}") => self.thing("plan"),
                ("applies", "{id}") => self.thing("apply"),
                ("agent-pools", "{id}" | "{pool}") => self.thing("pool"),
                ("agents", "{id}" | "{agent}") => self.thing("agent"),
                ("authentication-tokens", "{id}") => self.thing("token"),
                ("users", "{id}") => self.thing("user"),
                ("kept-apart-states", "{id}") => self.thing("kept-apart"),
                ("jobs", "{job}") => self.thing("job"),
                (_, "{action}") => "roll-back",
                ("terraform-versions" | "opentofu-versions", "{id}") => self.thing("engine-version"),
                (_, parameter) if parameter.starts_with('{') => "none-1111111111abcd",
                (_, word) => word,
            };
            out.push('/');
            out.push_str(value);
            before = part;
        }
        let query = match path {
            "/api/v2/vars" | "/api/v2/state-versions" => format!(
                "?filter[organization][name]=acme&filter[workspace][name]={}",
                self.thing("workspace-name")
            ),
            "/api/v2/team-workspaces" => format!("?filter[workspace][id]={}", self.thing("workspace")),
            "/api/v2/team-projects" => format!("?filter[project][id]={}", self.thing("project")),
            "/app/{org}/events" => format!("?run={}", self.thing("run")),
            "/app/{org}/search" => "?q=x".to_owned(),
            "/app/{org}/workspaces/{name}/runs/{run}/lines" => "?phase=plan&from=0".to_owned(),
            _ => String::new(),
        };
        out + &query
    }

    /// Asks a route as somebody.
    pub(crate) async fn ask(&self, level: Level, method: &str, path: &str) -> Answered {
        let person = self.people.get(name_of(level));
        let url = format!("{}{}", self.plane.base(), self.filled(path));
        let mut request = self.client.request(method.parse().unwrap(), url);
        if path == "/" || path.starts_with("/app") || path.starts_with("/sign-") {
            if let Some(person) = person {
                request = request.header("cookie", &person.cookies);
            }
            if method == "POST" {
                let form_token = person.map_or("", |person| person.form_token.as_str());
                request = request
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(self.fields(path, form_token));
            }
        } else {
            if let Some(person) = person {
                request = request.bearer_auth(&person.token);
            }
            if method != "GET" {
                request = request
                    .header("content-type", "application/vnd.api+json")
                    .body(self.body(method, path).to_string());
            }
        }
        Answered::of(&request.send().await.unwrap())
    }

    /// Asks for a page by its address.
    pub(super) async fn ask_address(&self, level: Level, address: &str) -> Answered {
        let url = format!("{}{address}", self.plane.base());
        let cookies = &self.people[name_of(level)].cookies;
        let answer = self.client.get(url).header("cookie", cookies).send();
        Answered::of(&answer.await.unwrap())
    }

    /// What the API tells somebody.
    pub(super) async fn read(&self, level: Level, path: &str) -> Value {
        let token = &self.people[name_of(level)].token;
        let request = self.plane.request_as(token, "GET", path);
        self.plane.send(request).await.expect(200)
    }

    /// Asks a route with any token.
    pub(crate) async fn ask_with(&self, token: &str, method: &str, path: &str) -> u16 {
        let url = format!("{}{}", self.plane.base(), self.filled(path));
        let mut request = self
            .client
            .request(method.parse().unwrap(), url)
            .bearer_auth(token);
        if method != "GET" {
            request = request
                .header("content-type", "application/json")
                .body(archive_or(self, method, path));
        }
        request.send().await.unwrap().status().as_u16()
    }
}

/// A body: an archive where one is uploaded.
fn archive_or(world: &World, method: &str, path: &str) -> Vec<u8> {
    if method == "PUT" {
        archive()
    } else {
        world.body(method, path).to_string().into_bytes()
    }
}

fn cookies(answer: &reqwest::Response) -> String {
    let pairs: Vec<&str> = answer
        .headers()
        .get_all("set-cookie")
        .iter()
        .map(|value| value.to_str().unwrap().split(';').next().unwrap())
        .collect();
    pairs.join("; ")
}

fn form_token(html: &str) -> String {
    let (_, rest) = html
        .split_once("name=\"token\" value=\"")
        .expect("the page has a form");
    rest.split('"').next().unwrap().to_owned()
}

pub(super) fn form(fields: &[(&str, &str)]) -> String {
    fields
        .iter()
        .map(|(name, value)| {
            let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!("{name}={value}")
        })
        .collect::<Vec<_>>()
        .join("&")
}
