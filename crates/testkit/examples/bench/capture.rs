//! What is kept of an apply that loses something in its middle: the engine, the runner, the agent or the container engine
//! are killed, and what the engine said it had finished is compared with what the control plane has in the end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use terrapool_testkit::container_engine::{ContainerEngine, engine_of, output};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::recorder::{Recorder, Told, steps_in, tell};
use terrapool_testkit::runs::{Workspace, has_ended};
use terrapool_testkit::wait::until;

/// How long an apply works when nothing happens to it.
const LASTS: Duration = Duration::from_secs(60);

/// When something is killed, from the first step's end.
const MOMENTS: [Duration; 3] = [
    Duration::from_secs(8),
    Duration::from_secs(26),
    Duration::from_secs(44),
];

/// Who was killed is away for so long.
const AWAY: Duration = Duration::from_secs(2);

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// Steps that the engine works on at once, which is its default.
const PARALLEL: u64 = 10;

/// How large the state is while it is applied.
struct Size {
    name: &'static str,
    steps: u64,
    ballast: &'static str,
    /// Finished steps that may be missing.
    may_lose: usize,
}

const SIZES: [Size; 2] = [
    Size {
        name: "small",
        steps: 300,
        ballast: "\"\"",
        may_lose: 0,
    },
    Size {
        name: "8 MB",
        steps: 120,
        // 4 MiB, which the state holds twice: as what was asked for and as what came of it.
        ballast: r#"sensitive(join("", [for n in range(1024) : join("", [for m in range(32) : sha512("${n}-${m}")])]))"#,
        may_lose: 1,
    },
];

#[derive(Debug, Clone, Copy)]
enum Victim {
    Engine,
    Runner,
    Agent,
    ContainerEngine,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Self::Engine => "terraform",
            Self::Runner => "runner",
            Self::Agent => "agent",
            Self::ContainerEngine => "dockerd",
        }
    }
}

struct Site {
    installation: Installation,
    engine: ContainerEngine,
    recorder: Recorder,
    pool: String,
    token: String,
    agent: AgentProcess,
}

struct Apply {
    workspace: Workspace,
    run: String,
    began: Instant,
}

/// Prints the table. Whether nothing was lost that has to be kept.
pub(crate) async fn measure() -> bool {
    let mut site = Site::start().await;
    println!(
        "\nApplies of about {} s that are killed in their middle",
        LASTS.as_secs()
    );
    println!(
        "  {:<6} {:<10} {:<14} {:<8} {:>5} {:>9} {:>5} {:>5} {:>5}",
        "state", "killed", "after", "run", "told", "finished", "kept", "apart", "lost"
    );
    let mut clean = true;
    for size in &SIZES {
        for victim in [Victim::Engine, Victim::Runner] {
            let applies = MOMENTS.map(|moment| site.kill_in_sandbox(victim, size, moment));
            let applies = futures_util::future::join_all(applies).await;
            for (apply, moment) in applies.iter().zip(MOMENTS) {
                let after = format!("{} s", moment.as_secs());
                clean &= site.report(size, victim, &after, apply).await;
            }
        }
        for victim in [Victim::Agent, Victim::ContainerEngine] {
            let apply = site.begin(size).await;
            for moment in MOMENTS {
                tokio::time::sleep_until((apply.began + moment).into()).await;
                site.kill_on_host(victim).await;
            }
            let moments = MOMENTS.map(|moment| moment.as_secs().to_string()).join(", ");
            clean &= site.report(size, victim, &format!("{moments} s"), &apply).await;
        }
    }
    println!(
        "  told: steps that said so themselves; finished: the engine said so; apart: in a state that was kept apart"
    );
    clean
}

impl Site {
    async fn start() -> Self {
        let engine = ContainerEngine::start().await;
        let recorder = Recorder::listen(&engine.outside()).await;
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("capture").await;
        let agent = spawn_agent(&installation, &token, &engine);
        Self {
            installation,
            engine,
            recorder,
            pool,
            token,
            agent,
        }
    }

    fn configuration(&self, size: &Size) -> String {
        let wait = LASTS.as_secs_f64() * PARALLEL as f64 / size.steps as f64;
        let told = tell(&self.recorder.address, "MADE $TFC_RUN_ID ${count.index}");
        let (steps, ballast) = (size.steps, size.ballast);
        format!(
            r#"
resource "terraform_data" "ballast" {{
  input = {ballast}
}}
resource "terraform_data" "step" {{
  count      = {steps}
  depends_on = [terraform_data.ballast]
  provisioner "local-exec" {{
    interpreter = ["bash", "-c"]
    command     = "sleep {wait}; {told}"
  }}
}}
"#
        )
    }

    /// Starts an apply and waits for its first step.
    async fn begin(&self, size: &Size) -> Apply {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true,
            "structured-run-output-enabled": false});
        let name = format!("capture-{}", fastrand::u64(..));
        let workspace = self
            .installation
            .workspace(&name, &attributes, &self.configuration(size))
            .await;
        let run = self
            .installation
            .run(&workspace, &json!({"auto-apply": true}))
            .await;
        let began = until(PATIENCE, async || {
            (!self.told_by(&run).is_empty()).then(Instant::now)
        })
        .await;
        let began = began.unwrap_or_else(|| panic!("no step of {run} ends:\n{}", self.agent.log()));
        Apply {
            workspace,
            run,
            began,
        }
    }

    fn told_by(&self, run: &str) -> BTreeSet<u64> {
        let told = self.recorder.told();
        told.iter()
            .filter_map(|told| match told {
                Told::Made { run: of, index } if of == run => Some(*index),
                Told::Made { .. } | Told::Start { .. } => None,
            })
            .collect()
    }

    /// Starts an apply, and kills something of it after a while.
    async fn kill_in_sandbox(&self, victim: Victim, size: &Size, moment: Duration) -> Apply {
        let apply = self.begin(size).await;
        tokio::time::sleep_until((apply.began + moment).into()).await;
        let runner = self.engine.runner_of(&apply.run, "apply").await;
        let pid = match victim {
            Victim::Engine => runner.and_then(engine_of),
            Victim::Runner | Victim::Agent | Victim::ContainerEngine => runner,
        };
        let pid = pid.unwrap_or_else(|| panic!("{} has ended too early", apply.run));
        output("kill", &["-9", &pid.to_string()]).await;
        apply
    }

    async fn kill_on_host(&mut self, victim: Victim) {
        match victim {
            Victim::ContainerEngine => self.engine.kill_and_restart(AWAY).await,
            Victim::Engine | Victim::Runner | Victim::Agent => self.agent.kill().await,
        }
        tokio::time::sleep(AWAY).await;
        if !self.agent.is_running() {
            self.agent = spawn_agent(&self.installation, &self.token, &self.engine);
        }
    }

    /// Waits for a run's end and prints what is kept of it.
    async fn report(&self, size: &Size, victim: Victim, after: &str, apply: &Apply) -> bool {
        let ended = until(PATIENCE, async || {
            self.installation
                .run_status(&apply.run)
                .await
                .filter(|status| has_ended(status))
        })
        .await;
        let status = ended.unwrap_or_else(|| panic!("{} does not end:\n{}", apply.run, self.agent.log()));
        let run = self.installation.get(&format!("/runs/{}", apply.run)).await;
        let id = run["data"]["relationships"]["apply"]["data"]["id"]
            .as_str()
            .unwrap_or_default();
        let phase = self.installation.get(&format!("/applies/{id}")).await;
        let finished = finished(&self.installation.whole_log(&phase).await);
        let current = self.installation.current_state(&apply.workspace).await;
        let mut kept = steps_in(&current.unwrap_or_default());
        let apart = self.kept_apart(&apply.workspace).await;
        let only_apart = apart.difference(&kept).count();
        kept.extend(apart);
        let lost = finished.difference(&kept).count();
        println!(
            "  {:<6} {:<10} {after:<14} {status:<8} {:>5} {:>9} {:>5} {only_apart:>5} {lost:>5}",
            size.name,
            victim.name(),
            self.told_by(&apply.run).len(),
            finished.len(),
            kept.len(),
        );
        lost <= size.may_lose
    }

    async fn kept_apart(&self, workspace: &Workspace) -> BTreeSet<u64> {
        let path = format!("/workspaces/{}/kept-apart-states", workspace.id);
        let list = self.installation.get(&path).await;
        let mut steps = BTreeSet::new();
        for state in list["data"].as_array().into_iter().flatten() {
            let Some(url) = state["attributes"]["hosted-state-download-url"].as_str() else {
                continue;
            };
            let http = self.installation.http();
            let answer = http.get(url).bearer_auth(&self.installation.token).send().await;
            let document: Value = answer
                .expect("the server answers")
                .json()
                .await
                .expect("a state is JSON");
            steps.extend(steps_in(&document));
        }
        steps
    }
}

fn spawn_agent(installation: &Installation, token: &str, engine: &ContainerEngine) -> AgentProcess {
    let host = engine.host();
    let environment = [
        ("DOCKER_HOST", host.as_str()),
        ("TERRAPOOL_AGENT_CONCURRENCY", "3"),
        ("TERRAPOOL_LOG", "info"),
    ];
    installation.spawn_agent("capture", token, &environment)
}

/// Steps of which the engine said that they are complete.
fn finished(log: &str) -> BTreeSet<u64> {
    log.lines()
        .filter(|line| line.contains(": Creation complete"))
        .filter_map(|line| {
            let (_, rest) = line.split_once("terraform_data.step[")?;
            rest.split_once(']')?.0.parse().ok()
        })
        .collect()
}
