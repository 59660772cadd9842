//! Agents that are killed, restarted, cut off and drained while they work.

use std::time::Duration;

use serde_json::{Value, json};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::runs::Workspace;
use terrapool_testkit::wait::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// An apply of three steps, each of which writes the state; the second waits until a file is there.
const STEPS: &str = r#"
resource "terraform_data" "first" {}
resource "terraform_data" "second" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "echo second waits; while [ ! -e /terrapool/work/go ]; do sleep 0.1; done; echo second goes"
  }
}
resource "terraform_data" "third" {
  depends_on = [terraform_data.second]
}
"#;

struct Site {
    installation: Installation,
    pool: String,
    token: String,
}

impl Site {
    async fn start() -> Self {
        Self::of(Installation::start().await).await
    }

    async fn of(installation: Installation) -> Self {
        let (pool, token) = installation.create_pool("private").await;
        Self {
            installation,
            pool,
            token,
        }
    }

    async fn agent(&self) -> AgentProcess {
        self.installation.start_agent("private", &self.token, &[]).await
    }

    async fn workspace(&self, configuration: &str) -> Workspace {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        self.installation
            .workspace("network", &attributes, configuration)
            .await
    }

    /// Starts an apply and waits until it is in the middle of its work.
    async fn applying(&self, workspace: &Workspace) -> String {
        let run = self
            .installation
            .run(workspace, &json!({"auto-apply": true}))
            .await;
        self.installation.log_shows(&run, "apply", "second waits").await;
        run
    }

    async fn ended_whole(&self, workspace: &Workspace, run: &str) {
        self.installation.run_reaches(run, "applied").await;
        // The end mark follows the end of the run.
        self.installation.log_shows(run, "apply", "\u{3}").await;
        let log = self.installation.phase_log(run, "apply").await;
        assert!(log.contains("second goes"), "{log}");
        assert!(log.ends_with('\u{3}'), "{log}");
        let expected = ["first", "second", "third"].map(|name| format!("terraform_data.{name}"));
        assert_eq!(self.installation.resources(workspace).await, expected);
    }
}

/// Runs the Docker client against the engine that the agents use.
async fn docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker")
        .args(arguments)
        .output()
        .await
        .expect("the docker client is there");
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The container of a run's phase; its name says whose it is.
async fn sandbox_of(run: &str, phase: &str) -> String {
    let filter = format!("name=terrapool-{run}-{phase}");
    until(Duration::from_secs(60), async || {
        let id = docker(&["ps", "-q", "--filter", &filter]).await;
        (!id.is_empty()).then_some(id)
    })
    .await
    .expect("a running job has a sandbox")
}

/// Lets what waits in a sandbox go on.
async fn go(sandbox: &str) {
    docker(&["exec", sandbox, "touch", "/terrapool/work/go"]).await;
}

#[tokio::test]
async fn an_apply_goes_on_while_its_agent_is_dead_and_the_next_process_delivers_all_of_it() {
    let site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    let sandbox = sandbox_of(&run, "apply").await;
    agent.kill().await;
    go(&sandbox).await;
    let agent = site.agent().await;
    agent.logs("found the sandbox of a job again").await;
    site.ended_whole(&workspace, &run).await;
}

#[tokio::test]
async fn an_idle_agent_registers_anew_with_a_control_plane_that_was_restored_and_works() {
    let mut site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace("resource \"terraform_data\" \"a\" {}\n").await;
    site.installation.stop_server().await;
    site.installation.admin(&["restored"]).await;
    site.installation.start_server().await;
    agent
        .logs("the control plane does not know this session; registering again")
        .await;
    let run = site
        .installation
        .run(&workspace, &json!({"auto-apply": true}))
        .await;
    // After a restore a person looks at each workspace's first plan.
    site.installation.run_reaches(&run, "planned").await;
    assert!(agent.is_running());
}

#[tokio::test]
async fn case_18_an_apply_whose_agent_is_killed_and_stays_away_is_lost_and_never_run_again() {
    let site = Site::start().await;
    let soon = json!({"data": {"type": "agent-pools", "attributes": {"lease-times": {"apply-lease": 60}}}});
    site.installation
        .patch(&format!("/agent-pools/{}", site.pool), &soon)
        .await;
    let mut agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    let sandbox = sandbox_of(&run, "apply").await;
    agent.kill().await;
    // Another agent of the pool is there, and takes what there is to take.
    let other = site.installation.start_agent("other", &site.token, &[]).await;
    site.installation.run_reaches(&run, "errored").await;
    let path = format!("/workspaces/{}", workspace.id);
    let shown = site.installation.get(&path).await;
    assert_eq!(shown["data"]["attributes"]["locked"], json!(true), "{shown}");
    let kept = site.installation.resources(&workspace).await;
    assert_eq!(kept, ["terraform_data.first"]);
    let told = site.installation.get(&format!("/runs/{run}/whereabouts")).await;
    assert!(told.to_string().contains("safe"), "{told}");
    assert!(!other.log().contains(&run), "{}", other.log());

    // What arrives later is taken, and ends the quarantine; the run stays what it is.
    go(&sandbox).await;
    let _agent = site.agent().await;
    let freed = until(Duration::from_secs(120), async || {
        let shown = site.installation.get(&path).await;
        (shown["data"]["attributes"]["locked"] == json!(false)).then_some(())
    })
    .await;
    assert!(freed.is_some(), "the lock is never freed");
    assert_eq!(site.installation.resources(&workspace).await.len(), 3);
    assert_eq!(
        site.installation.run_status(&run).await.as_deref(),
        Some("errored")
    );
}

#[tokio::test]
async fn a_plan_whose_agent_is_restarted_while_it_is_prepared_runs_to_its_end() {
    let site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace("resource \"terraform_data\" \"a\" {}\n").await;
    let run = site
        .installation
        .run(&workspace, &json!({"auto-apply": true}))
        .await;
    site.installation.run_reaches(&run, "planning").await;
    agent.kill().await;
    let _agent = site.agent().await;
    site.installation.run_reaches(&run, "applied").await;
}

/// What git is told to reach the host with never ends; no network is asked.
async fn never_initialized(site: &Site) -> (Workspace, String) {
    let slow = "module \"far\" {\n  source = \"git::ssh://git@far.example/none.git\"\n}\n";
    let workspace = site.workspace(slow).await;
    let variable = json!({"data": {"type": "vars", "attributes": {
        "key": "GIT_SSH_COMMAND", "value": "sleep 600 #", "category": "env"}}});
    let path = format!("/workspaces/{}/vars", workspace.id);
    site.installation.post(&path, &variable).await;
    let run = site.installation.run(&workspace, &json!({})).await;
    site.installation.run_reaches(&run, "planning").await;
    site.installation.log_shows(&run, "plan", "Initializing").await;
    (workspace, run)
}

#[tokio::test]
async fn a_claim_whose_answer_the_journal_does_not_know_is_made_again_by_the_same_attempt() {
    let mut site = Site::start().await;
    let mut agent = site.agent().await;
    let (_workspace, run) = never_initialized(&site).await;
    let who = async |site: &Site| {
        let told = site.installation.get(&format!("/runs/{run}/whereabouts")).await;
        let attributes = &told["data"]["attributes"];
        (attributes["attempt"].clone(), attributes["generation"].clone())
    };
    let before = who(&site).await;
    agent.kill().await;
    let journal = site.installation.agent_folder("private").join("journal");
    let lines = std::fs::read_to_string(&journal).expect("the journal is there");
    let claiming = lines.lines().filter(|line| line.contains("\"claiming\""));
    std::fs::write(
        &journal,
        claiming.map(|line| format!("{line}\n")).collect::<String>(),
    )
    .expect("the journal can be written");
    site.installation.kill_server().await;
    let agent = site.installation.spawn_agent("private", &site.token, &[]);
    agent.logs("the control plane cannot be reached yet").await;
    site.installation.start_server().await;
    agent.logs("claimed a job").await;
    assert_eq!(who(&site).await, before);
    site.installation
        .post(&format!("/runs/{run}/actions/cancel"), &json!({}))
        .await;
    assert_eq!(site.installation.run_ends(&run).await, "canceled");
}

#[tokio::test]
async fn an_apply_whose_state_the_server_never_takes_ends_and_says_where_the_state_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("server.toml");
    std::fs::write(&config, "[limits]\nstate_bytes = 20000\n").expect("a file can be written");
    let config = config.to_string_lossy().into_owned();
    let installation = Installation::start_with(&[("TERRAPOOL_CONFIG", config.as_str())]).await;
    let site = Site::of(installation).await;
    let _agent = site.agent().await;
    let large = "\nresource \"terraform_data\" \"large\" {\n  depends_on = [terraform_data.third]\n  \
                 input = join(\"\", [for n in range(500) : sha512(n)])\n}\n";
    let workspace = site.workspace(&format!("{STEPS}{large}")).await;
    let run = site.applying(&workspace).await;
    let sandbox = sandbox_of(&run, "apply").await;
    let image = docker(&["inspect", "-f", "{{.Config.Image}}", &sandbox]).await;
    // Only the newest state is sent: what is to be kept has to be there before the one that is too large.
    let copied = until(Duration::from_secs(60), async || {
        let first = site.installation.has_copied(&workspace, "terraform_data.first");
        first.await.then_some(())
    });
    assert!(copied.await.is_some(), "the first resource is in no copy");
    go(&sandbox).await;
    assert_eq!(site.installation.run_ends(&run).await, "errored");

    // What could be taken was, and people are told about the rest.
    let kept = site.installation.resources(&workspace).await;
    assert!(kept.contains(&"terraform_data.first".to_owned()), "{kept:?}");
    assert!(!kept.contains(&"terraform_data.large".to_owned()), "{kept:?}");
    let path = format!("/workspaces/{}", workspace.id);
    let shown = site.installation.get(&path).await;
    assert_eq!(shown["data"]["attributes"]["locked"], json!(false), "{shown}");
    let shown = site.installation.get(&format!("/runs/{run}")).await;
    let message = shown["data"]["attributes"]["error-message"]
        .as_str()
        .expect("an errored run says why");
    assert!(
        message.contains("did not take the newest state") && message.contains("20000 bytes"),
        "{message}"
    );
    let volume = message
        .split_once("in the volume ")
        .and_then(|(_, rest)| rest.split_once(':'))
        .map_or_else(|| panic!("no volume is named: {message}"), |(volume, _)| volume);

    // There it is, and the agent does not take it away.
    let bind = format!("{volume}:/state:ro");
    let file = format!("/state/d/{}/terraform.tfstate", workspace.name);
    let state = docker(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &bind,
        "--entrypoint",
        "cat",
        &image,
        &file,
    ])
    .await;
    let state: Value = serde_json::from_str(&state).expect("a state is JSON");
    assert!(state.to_string().contains("\"large\""));
    for suffix in ["work", "state", "job"] {
        let name = volume.replace("-state", &format!("-{suffix}"));
        // The container may be on its way out.
        let gone = until(Duration::from_secs(60), async || {
            let removed = tokio::process::Command::new("docker")
                .args(["volume", "rm", &name])
                .output()
                .await;
            removed.is_ok_and(|output| output.status.success()).then_some(())
        })
        .await;
        assert!(gone.is_some(), "{name} cannot be removed");
    }
}

#[tokio::test]
async fn an_engine_whose_sandbox_is_killed_leaves_its_last_state_and_its_log() {
    let site = Site::start().await;
    let _agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    docker(&["kill", &sandbox_of(&run, "apply").await]).await;
    site.installation.run_reaches(&run, "errored").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("second waits"), "{log}");
    let kept = site.installation.resources(&workspace).await;
    assert!(kept.contains(&"terraform_data.first".to_owned()), "{kept:?}");
    let run = site
        .installation
        .get(&format!("/workspaces/{}", workspace.id))
        .await;
    assert_eq!(run["data"]["attributes"]["locked"], json!(false), "{run}");
}

#[tokio::test]
async fn interleaving_25_a_host_that_restarts_in_mid_apply_reports_the_lost_engine_with_its_last_state() {
    let site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    let sandbox = sandbox_of(&run, "apply").await;
    agent.kill().await;
    // After a reboot the container is there and does not run.
    docker(&["kill", &sandbox]).await;
    let _agent = site.agent().await;
    site.installation.run_reaches(&run, "errored").await;
    let kept = site.installation.resources(&workspace).await;
    assert!(kept.contains(&"terraform_data.first".to_owned()), "{kept:?}");
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("second waits"), "{log}");
}

#[tokio::test]
async fn a_sandbox_of_a_job_that_no_journal_knows_is_stopped_and_its_volumes_are_kept() {
    let site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    let sandbox = sandbox_of(&run, "apply").await;
    let label = docker(&[
        "inspect",
        "-f",
        "{{index .Config.Labels \"io.terrapool.sandbox\"}}",
        &sandbox,
    ])
    .await;
    agent.kill().await;
    std::fs::remove_file(site.installation.agent_folder("private").join("journal"))
        .expect("the journal is there");
    let agent = site.agent().await;
    agent.logs("its volumes are kept for seven days").await;
    let volumes = docker(&[
        "volume",
        "ls",
        "-q",
        "--filter",
        &format!("label=io.terrapool.sandbox={label}"),
    ])
    .await;
    assert_eq!(volumes.lines().count(), 3, "{volumes}");
    let containers = docker(&[
        "ps",
        "-aq",
        "--filter",
        &format!("label=io.terrapool.sandbox={label}"),
    ])
    .await;
    assert_eq!(containers, "");
    for volume in volumes.lines() {
        docker(&["volume", "rm", volume]).await;
    }
}

#[tokio::test]
async fn drained_an_agent_finishes_what_it_holds_and_takes_nothing_until_it_is_resumed() {
    let site = Site::start().await;
    let agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    let told = site.installation.ask_agent("private", &["drain"]).await;
    assert!(told.contains("drained"), "{told}");
    assert!(told.contains("apply running"), "{told}");
    let other = site
        .installation
        .workspace(
            "other",
            &json!({"execution-mode": "agent", "agent-pool-id": site.pool}),
            "resource \"terraform_data\" \"a\" {}\n",
        )
        .await;
    let waiting = site.installation.run(&other, &json!({})).await;
    go(&sandbox_of(&run, "apply").await).await;
    site.ended_whole(&workspace, &run).await;
    site.installation.ask_agent("private", &["drain", "--wait"]).await;
    assert_eq!(
        site.installation.run_status(&waiting).await.as_deref(),
        Some("plan_queued")
    );
    let agents = site
        .installation
        .get(&format!("/agent-pools/{}/agents", site.pool))
        .await;
    assert_eq!(agents["data"].as_array().map(Vec::len), Some(1), "{agents}");
    site.installation.ask_agent("private", &["drain", "--undo"]).await;
    site.installation.run_reaches(&waiting, "planned").await;
    let status: Value = serde_json::from_str(
        &site
            .installation
            .ask_agent("private", &["status", "--json"])
            .await,
    )
    .expect("JSON");
    assert_eq!(status["name"], json!("private"));
    drop(agent);
}

#[tokio::test]
async fn told_to_end_an_agent_finishes_its_apply_first() {
    let site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    agent.signal("TERM").await;
    agent.logs("told to end: taking no more jobs").await;
    go(&sandbox_of(&run, "apply").await).await;
    assert_eq!(agent.wait().await, Some(0), "{}", agent.log());
    site.ended_whole(&workspace, &run).await;
}

/// A door to the container engine that somebody can hold shut: what comes then waits, and the rest goes on.
struct Door {
    folder: tempfile::TempDir,
    shut: tokio::sync::watch::Sender<bool>,
}

impl Door {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine = std::env::var("DOCKER_HOST").unwrap_or_default();
        let engine = match engine.strip_prefix("unix://") {
            Some(path) => path.to_owned(),
            None => "/var/run/docker.sock".to_owned(),
        };
        let listener = UnixListener::bind(folder.path().join("engine.sock")).expect("a socket can be made");
        let (shut, is_shut) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let Ok(engine) = UnixStream::connect(&engine).await else {
                    continue;
                };
                let (caller_says, mut to_caller) = caller.into_split();
                let (mut engine_says, to_engine) = engine.into_split();
                tokio::spawn(pass(caller_says, to_engine, is_shut.clone()));
                tokio::spawn(async move { tokio::io::copy(&mut engine_says, &mut to_caller).await });
            }
        });
        Self { folder, shut }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.folder.path().join("engine.sock").display())
    }
}

/// Passes on what the caller says while the door is open.
async fn pass(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    mut is_shut: tokio::sync::watch::Receiver<bool>,
) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if is_shut.wait_for(|shut| !shut).await.is_err() || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn told_to_end_while_its_container_engine_does_not_answer_an_agent_stays_in_contact() {
    let site = Site::start().await;
    let door = Door::new();
    let mut agent = site
        .installation
        .start_agent("private", &site.token, &[("DOCKER_HOST", &door.address())])
        .await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    // A warm sandbox waits beside that of the apply.
    let sandbox = sandbox_of(&run, "apply").await;
    let label = "io.terrapool.agent";
    let format = format!("{{{{index .Config.Labels {label:?}}}}}");
    let owner = docker(&["inspect", "--format", &format, &sandbox]).await;
    let own = format!("label={label}={owner}");
    let waits = until(Duration::from_secs(60), async || {
        let sandboxes = docker(&["ps", "-q", "--filter", &own]).await;
        (sandboxes.lines().count() == 2).then_some(())
    })
    .await;
    assert!(waits.is_some(), "no warm sandbox: {}", agent.log());

    door.shut.send_replace(true);
    agent.signal("TERM").await;
    agent.logs("told to end: taking no more jobs").await;
    let path = format!("/agent-pools/{}/agents", site.pool);
    let last_ping = async || {
        let agents = site.installation.get(&path).await;
        let ping = &agents["data"][0]["attributes"]["last-ping-at"];
        ping.as_str().expect("a time").to_owned()
    };
    // Twice, since one sync was under way.
    for _ in 0..2 {
        let before = last_ping().await;
        let heard = until(Duration::from_secs(90), async || {
            (last_ping().await != before).then_some(())
        })
        .await;
        assert!(heard.is_some(), "not heard since {before}: {}", agent.log());
    }
    door.shut.send_replace(false);
    go(&sandbox).await;
    assert_eq!(agent.wait().await, Some(0), "{}", agent.log());
    site.ended_whole(&workspace, &run).await;
}

#[tokio::test]
async fn told_twice_an_agent_stops_its_engines_gracefully_and_keeps_what_they_made() {
    let site = Site::start().await;
    let mut agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    agent.signal("TERM").await;
    agent.logs("told to end: taking no more jobs").await;
    agent.signal("TERM").await;
    assert_eq!(agent.wait().await, Some(0), "{}", agent.log());
    assert_eq!(site.installation.run_ends(&run).await, "errored");
    let kept = site.installation.resources(&workspace).await;
    assert!(kept.contains(&"terraform_data.first".to_owned()), "{kept:?}");
}

#[tokio::test]
async fn a_canceled_plan_that_was_being_prepared_delivers_what_it_printed() {
    let site = Site::start().await;
    let _agent = site.agent().await;
    let (_workspace, run) = never_initialized(&site).await;
    site.installation
        .post(&format!("/runs/{run}/actions/cancel"), &json!({}))
        .await;
    assert_eq!(site.installation.run_ends(&run).await, "canceled");
    let log = site.installation.phase_log(&run, "plan").await;
    assert!(log.contains("Initializing"), "{log}");
}

#[tokio::test]
async fn interleaving_20_an_apply_finishes_while_the_server_is_away_and_is_delivered_when_it_is_back() {
    let mut site = Site::start().await;
    let agent = site.agent().await;
    let workspace = site.workspace(STEPS).await;
    let run = site.applying(&workspace).await;
    let sandbox = sandbox_of(&run, "apply").await;
    site.installation.kill_server().await;
    go(&sandbox).await;
    agent.logs("a sync was not answered").await;
    site.installation.start_server().await;
    site.ended_whole(&workspace, &run).await;
}
