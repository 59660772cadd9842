//! An organization in which something of everything has happened, played by an agent that is stepped by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Finished, Progress, StateFate};
use terrapool_protocol::health::{Health, Room, SelfTest};
use terrapool_protocol::job::{ArtifactName, ChangeCounts, FailureReason, Outcome, Usage};
use terrapool_protocol::memory::{MemoryCurve, MemoryUse};
use terrapool_protocol::secret::Secret;
use terrapool_server::{http, shared_agent};
use terrapool_testkit::agent::{Attempt, SimulatedAgent, state_mark};
use terrapool_testkit::installation::free_port;
use terrapool_testkit::wait::until;

use crate::common::browser::account;
use crate::common::{Plane, id};

/// What people and configurations may call things.
const HOSTILE: &str = "<script>document.title=1</script> \u{202e}<img src=x onerror=alert(1)>";

/// The organization, and where its pages are.
pub(super) struct World {
    pub(super) plane: Plane,
    /// Addresses of what there may be several of, by what is to be seen there.
    pub(super) places: BTreeMap<&'static str, String>,
    attempts: u8,
}

/// A state with so many resources.
pub(super) fn state(serial: u64, lineage: &str, zones: u64) -> Vec<u8> {
    let zone = |number: u64| {
        json!({"mode": "managed", "type": "network_zone", "name": format!("zone_{number}"),
            "provider": "provider[\"registry.terraform.io/example/network\"]",
            "instances": [{"schema_version": 0, "attributes": {
                "cidr": format!("10.{number}.0.0/16"), "size": serial, "tags": {"owner": HOSTILE}}}]})
    };
    json!({
        "version": 4, "terraform_version": "1.11.4", "serial": serial, "lineage": lineage,
        "outputs": {"zones": {"value": zones, "type": "number"},
            "secret": {"value": "hunter2", "type": "string", "sensitive": true}},
        "resources": (0..zones).map(zone).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

/// What `show -json` says of a plan with every kind of change.
fn plan() -> Vec<u8> {
    let change = |name: &str, actions: Value, before: Value, after: Value| {
        json!({"address": format!("module.network.network_zone.{name}"), "module_address": "module.network",
            "mode": "managed", "type": "network_zone", "name": name, "provider_name": "example/network",
            "change": {"actions": actions, "before": before, "after": after, "after_unknown": {},
                "before_sensitive": {}, "after_sensitive": {}, "replace_paths": [["cidr"]]}})
    };
    json!({
        "format_version": "1.2", "terraform_version": "1.11.4",
        "resource_changes": [
            change("north", json!(["create"]), Value::Null, json!({"cidr": "10.1.0.0/16", "owner": HOSTILE})),
            change("south", json!(["update"]), json!({"size": 1, "cidr": "10.2.0.0/16"}), json!({"size": 2, "cidr": "10.2.0.0/16"})),
            change("east", json!(["delete", "create"]), json!({"cidr": "10.3.0.0/16"}), json!({"cidr": "10.4.0.0/16"})),
            change("a_zone_with_a_very_long_name_that_has_to_be_broken_somewhere_on_a_phone", json!(["delete"]),
                json!({"cidr": "10.5.0.0/16"}), Value::Null),
        ],
        "output_changes": {"zones": {"actions": ["update"], "before": 1, "after": 2, "after_unknown": false,
            "before_sensitive": false, "after_sensitive": false}},
    })
    .to_string()
    .into_bytes()
}

const COUNTS: ChangeCounts = ChangeCounts {
    add: 2,
    change: 1,
    destroy: 2,
    import: 0,
};

impl World {
    pub(super) async fn new() -> Self {
        let port = free_port();
        let plane = Plane::start_with(|config| {
            config.listen = format!("127.0.0.1:{port}");
            config.public_url = format!("http://127.0.0.1:{port}");
        })
        .await;
        account(&plane, "grace", true).await;
        let mut world = Self {
            plane,
            places: BTreeMap::new(),
            attempts: 0,
        };
        let member = document("organization-memberships", json!({"username": "grace"}));
        world
            .made("organizations/acme/organization-memberships", &member)
            .await;
        let team = document("teams", json!({"name": "network-people"}));
        let team = world.made("organizations/acme/teams", &team).await;
        world.place("team", format!("/app/acme/people/teams/{team}"));
        let user = json!({"data": [{"type": "users", "id": "grace"}]});
        let users = format!("teams/{team}/relationships/users");
        world.plane.post(&users, &user).await.expect(204);
        let projects = world.plane.get("organizations/acme/projects").await.expect(200);
        let project = projects["data"][0]["id"].as_str().unwrap().to_owned();
        world.place("project", format!("/app/acme/projects/{project}"));

        world.network().await;
        world.others().await;
        world.operators_agent().await;
        world
    }

    /// An agent of the shared pool.
    async fn operators_agent(&self) {
        let app = &self.plane.running.app;
        let token = shared_agent::create_token(app, "of the operators").await.unwrap();
        SimulatedAgent::register(&http::router(app), &token, "operators-1", "1").await;
    }

    fn place(&mut self, name: &'static str, address: String) {
        self.places.insert(name, address);
    }

    async fn made(&self, path: &str, body: &Value) -> String {
        id(&self.plane.post(path, body).await.expect(201))
    }

    /// A pool: its id and a token of its agents.
    async fn pool(&self, name: &str) -> (String, Secret) {
        let pool = document(
            "agent-pools",
            json!({"name": name, "lease-times": {"cool-off": 0}}),
        );
        let pool = self.made("organizations/acme/agent-pools", &pool).await;
        let token = document(
            "authentication-tokens",
            json!({"description": "hosts in the north"}),
        );
        let path = format!("agent-pools/{pool}/authentication-tokens");
        let token = self.plane.post(&path, &token).await.expect(201);
        let secret = token["data"]["attributes"]["token"].as_str().unwrap();
        (pool, Secret::new(secret))
    }

    /// A workspace of a pool with a configuration: both ids.
    async fn workspace(&self, name: &str, pool: &str, auto_apply: bool) -> (String, String) {
        let settings = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": auto_apply});
        let workspace = self.plane.workspace_with(name, settings).await;
        let queued = json!({"auto-queue-runs": false});
        let configuration = self.plane.configuration(&workspace, queued).await;
        (workspace, configuration)
    }

    async fn run(
        &mut self,
        name: &'static str,
        of: &str,
        (workspace, configuration): &(String, String),
    ) -> String {
        let mut body = crate::common::run_body(workspace, configuration);
        body["data"]["attributes"] = json!({"message": HOSTILE});
        let run = self.made("runs", &body).await;
        self.place(name, format!("/app/acme/workspaces/{of}/runs/{run}"));
        run
    }

    async fn take(&mut self, agent: &mut SimulatedAgent, phase: Phase) -> Attempt {
        self.attempts += 1;
        let attempt = agent
            .take(phase, &AttemptId::from_random([self.attempts; 16]))
            .await;
        if phase == Phase::Apply {
            assert_eq!(attempt.try_start().await.status, 200);
        }
        attempt
    }

    /// A plan with every kind of change, and a log that would like to do things.
    async fn planned(&mut self, agent: &mut SimulatedAgent) {
        let mut plan = self.take(agent, Phase::Plan).await;
        let log = format!(
            "Initializing...\r\n\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}{HOSTILE}\n{}\n",
            "wide ".repeat(60)
        );
        plan.write_log(log.as_bytes()).await;
        let mut end = plan.end(Outcome::Succeeded { changes: true });
        end.artifacts = vec![
            plan.artifact(ArtifactName::PlanArchive, b"archive").await,
            plan.artifact(ArtifactName::PlanRedacted, &self::plan()).await,
        ];
        end.counts = Some(COUNTS);
        end.usage = Usage {
            peak_memory_bytes: Some(180 << 20),
            cpu_ms: Some(4200),
            engine_ms: Some(9300),
            sandbox_ms: Some(400),
            init_ms: Some(6200),
        };
        end.memory = Some(memory(180));
        self.end(agent, &plan, &end).await;
    }

    async fn end(
        &self,
        agent: &mut SimulatedAgent,
        attempt: &Attempt,
        end: &terrapool_protocol::agent::Finish,
    ) {
        assert!(attempt.try_finish(end).await.ok::<Finished>().accepted);
        agent.forget(&attempt.key);
    }

    async fn apply(&mut self, agent: &mut SimulatedAgent, serial: u64, zones: u64) {
        let mut apply = self.take(agent, Phase::Apply).await;
        apply.write_log(STEPS.as_bytes()).await;
        let bytes = state(serial, "line", zones);
        assert_eq!(
            apply.state(serial, "line", &bytes).await.fate,
            StateFate::Intermediate
        );
        let mut end = apply.end(Outcome::Succeeded { changes: true });
        end.state = Some(state_mark(serial, "line", &bytes));
        end.counts = Some(COUNTS);
        self.end(agent, &apply, &end).await;
    }

    /// The pool that works, and a workspace with two states and a plan that waits for somebody.
    async fn network(&mut self) {
        let (pool, token) = self.pool("data-centre").await;
        self.place("pool", format!("/app/acme/agent-pools/{pool}"));
        let router = http::router(&self.plane.running.app);
        let mut agent = SimulatedAgent::register(&router, &token, "north-1", "1").await;
        self.place(
            "agent",
            format!("/app/acme/agent-pools/{pool}/agents/{}", agent.registered.agent),
        );
        agent.health = Some(Health {
            driver_answers: true,
            disk: Some(Room {
                free_mb: 1500,
                total_mb: 120_000,
            }),
            memory: Some(Room {
                free_mb: 9000,
                total_mb: 16_000,
            }),
            clock_ahead_seconds: Some(-75),
            failed_calls: 2,
            last_failure: Some(HOSTILE.to_owned()),
            self_test: Some(SelfTest {
                took_ms: 7200,
                failure: None,
                wanted_memory_mb: 512,
                memory_mb: Some(512),
                connected: true,
            }),
        });
        let network = self.workspace("network", &pool, false).await;
        for (key, value, sensitive) in [
            ("zones", "3", false),
            ("secret", "hunter2", true),
            ("TF_LOG", "debug", false),
        ] {
            let category = if key == "TF_LOG" { "env" } else { "terraform" };
            let variable = json!({"key": key, "value": value, "category": category, "sensitive": sensitive});
            self.made(
                &format!("workspaces/{}/vars", network.0),
                &document("vars", variable),
            )
            .await;
        }
        let described = document(
            "workspaces",
            json!({"description": HOSTILE, "working-directory": "live"}),
        );
        let path = format!("workspaces/{}", network.0);
        self.plane.patch(&path, &described).await.expect(200);
        let plain = document("workspaces", json!({"working-directory": ""}));
        self.plane.patch(&path, &plain).await.expect(200);
        for (serial, zones) in [(1, 1), (2, 3)] {
            let run = self.run("run-applied", "network", &network).await;
            self.planned(&mut agent).await;
            let path = format!("runs/{run}/actions/apply");
            self.plane
                .post(&path, &json!({"comment": HOSTILE}))
                .await
                .expect(202);
            self.apply(&mut agent, serial, zones).await;
        }
        self.run("run-planned", "network", &network).await;
        self.planned(&mut agent).await;

        // What was killed for its memory.
        let billing = self.workspace("billing", &pool, false).await;
        self.run("run-oom", "billing", &billing).await;
        let mut plan = self.take(&mut agent, Phase::Plan).await;
        plan.write_log(b"Refreshing state...\n").await;
        let mut end = plan.end(Outcome::Failed {
            reason: FailureReason::OutOfMemory,
            message: "The run needed more than its 512 MiB of memory (peak 512 MiB), and the kernel killed a process of it.".to_owned(),
        });
        end.usage.peak_memory_bytes = Some(512 << 20);
        end.memory = Some(memory(512));
        self.end(&mut agent, &plan, &end).await;

        // What came after its attempt had lost the workspace.
        let firewall = self.workspace("firewall", &pool, true).await;
        let run = self.run("run-given-up", "firewall", &firewall).await;
        self.planned(&mut agent).await;
        let apply = self.take(&mut agent, Phase::Apply).await;
        for action in ["cancel", "force-cancel"] {
            let path = format!("runs/{run}/actions/{action}");
            self.plane.post(&path, &json!({})).await.expect(202);
        }
        let attempt = document("", json!({"acknowledge-running": apply.key.attempt.as_str()}));
        for (action, body) in [
            ("force-unlock", &attempt),
            ("lock", &json!({})),
            ("unlock", &json!({})),
        ] {
            let path = format!("workspaces/{}/actions/{action}", firewall.0);
            self.plane.post(&path, body).await.expect(200);
        }
        let late = state(5, "line", 2);
        assert_eq!(apply.state(5, "line", &late).await.fate, StateFate::KeptApart);
        agent.forget(&apply.key);

        // What is going on.
        let storage = self.workspace("storage", &pool, true).await;
        self.run("run-applying", "storage", &storage).await;
        self.planned(&mut agent).await;
        let mut apply = self.take(&mut agent, Phase::Apply).await;
        apply.write_log(STEPS.as_bytes()).await;
        apply.state(1, "line", &state(1, "line", 1)).await;
        let cache = self.workspace("cache", &pool, true).await;
        self.run("run-planning", "cache", &cache).await;
        let mut plan = self.take(&mut agent, Phase::Plan).await;
        plan.write_log(b"Refreshing state...\n").await;
        let progress = Progress {
            usage: Usage {
                peak_memory_bytes: Some(296 << 20),
                sandbox_ms: Some(100),
                init_ms: Some(100),
                ..Usage::default()
            },
            memory: Some(memory(296)),
        };
        assert_eq!(plan.try_progress(&progress).await.status, 204);
    }

    /// A pool without agents, one whose agent is lost in an apply, and one whose agent has ended.
    async fn others(&mut self) {
        let router = http::router(&self.plane.running.app);
        let (pool, _) = self.pool("nobody-there").await;
        self.place("pool-stalled", format!("/app/acme/agent-pools/{pool}"));
        let edge = self.workspace("edge", &pool, true).await;
        self.run("run-stalled", "edge", &edge).await;

        let (pool, token) = self.pool("cut-off").await;
        let mut agent = SimulatedAgent::register(&router, &token, "south-1", "1").await;
        let dns = self.workspace("dns", &pool, true).await;
        let run = self.run("run-lost", "dns", &dns).await;
        self.planned(&mut agent).await;
        let mut apply = self.take(&mut agent, Phase::Apply).await;
        apply.write_log(STEPS.as_bytes()).await;
        apply.state(1, "line", &state(1, "line", 1)).await;
        self.leases_end(&pool).await;
        let lost = until(std::time::Duration::from_secs(120), async || {
            let found = self.plane.get(&format!("runs/{run}")).await.expect(200);
            (found["data"]["attributes"]["status"] == "errored").then_some(())
        })
        .await;
        assert!(lost.is_some(), "the run is not given up");

        let (pool, token) = self.pool("put-away").await;
        let mut agent = SimulatedAgent::register(&router, &token, "old-1", "1").await;
        agent.draining = true;
        agent.sync(Millis::ZERO).await;
        self.place(
            "agent-stopped",
            format!("/app/acme/agent-pools/{pool}/agents/{}", agent.registered.agent),
        );
    }

    /// A pool's leases end at once.
    async fn leases_end(&self, pool: &str) {
        self.plane.leases_end(pool).await;
    }
}

/// Memory that grows to this many mebibytes in two minutes.
fn memory(peak_mb: u64) -> MemoryCurve {
    let mut curve = MemoryCurve::default();
    for second in 0..120 {
        let total_mb = peak_mb * (second + 30) / 149;
        let used = MemoryUse {
            total_mb,
            anonymous_mb: total_mb * 4 / 5,
        };
        curve.note(Millis::from_seconds(second), used);
    }
    curve
}

/// What an apply says while it works.
const STEPS: &str = "module.network.network_zone.north: Creating...\n\
    module.network.network_zone.east: Destroying... [id=1]\n\
    module.network.network_zone.east: Destruction complete after 1s\n\
    module.network.network_zone.north: Still creating... [10s elapsed]\n";

fn document(kind: &str, attributes: Value) -> Value {
    json!({"data": {"type": kind, "attributes": attributes}})
}
