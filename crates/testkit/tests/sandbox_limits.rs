//! Limits of sandboxes: who reaches one is told which, and keeps the state; settings hold for sandboxes that wait, too.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::runs::Workspace;
use terrapool_testkit::wait::until;

struct Site {
    installation: Installation,
    pool: String,
    _agent: AgentProcess,
}

impl Site {
    async fn start(driver: &str, profile: &str) -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        let environment = [
            ("TERRAPOOL_AGENT_DRIVER", driver),
            ("TERRAPOOL_AGENT_USER", profile),
        ];
        let soon =
            json!({"data": {"type": "agent-pools", "attributes": {"lease-times": {"apply-grace": 5}}}});
        installation.patch(&format!("/agent-pools/{pool}"), &soon).await;
        let agent = installation.start_agent("private", &token, &environment).await;
        Self {
            installation,
            pool,
            _agent: agent,
        }
    }

    async fn set_pool(&self, sandbox: Value) -> (u16, Value) {
        let body = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": sandbox}}});
        let path = format!("/agent-pools/{}", self.pool);
        self.installation.call("PATCH", &path, Some(&body)).await
    }

    /// A workspace with limits of its own, whose apply makes one resource and then runs a script.
    async fn workspace(&self, name: &str, limits: Value, script: &str) -> Workspace {
        let mut attributes = limits;
        attributes["execution-mode"] = json!("agent");
        attributes["agent-pool-id"] = json!(self.pool);
        let configuration = format!(
            "resource \"terraform_data\" \"first\" {{}}\nresource \"terraform_data\" \"second\" {{\n  depends_on = [terraform_data.first]\n  provisioner \"local-exec\" {{\n    interpreter = [\"bash\", \"-c\"]\n    command = <<-EOT\n{script}\n    EOT\n  }}\n}}\n"
        );
        self.installation
            .workspace(name, &attributes, &configuration)
            .await
    }

    /// Applies, and answers the run, its error message and the log of its apply.
    async fn errored(&self, workspace: &Workspace) -> (Value, String, String) {
        let run = self
            .installation
            .run(workspace, &json!({"auto-apply": true}))
            .await;
        self.installation.run_reaches(&run, "errored").await;
        let answer = self.installation.get(&format!("/runs/{run}")).await;
        let message = answer["data"]["attributes"]["error-message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (answer, message, self.installation.phase_log(&run, "apply").await)
    }

    async fn first_is_kept(&self, workspace: &Workspace) {
        let kept = self.installation.resources(workspace).await;
        assert!(kept.contains(&"terraform_data.first".to_owned()), "{kept:?}");
    }
}

async fn ask_docker(arguments: &[&str]) -> String {
    let output = tokio::process::Command::new("docker")
        .args(arguments)
        .output()
        .await
        .expect("the docker client is there");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn case_15_who_reaches_a_limit_is_told_which_and_keeps_the_state(driver: &str, profile: &str) {
    let site = Site::start(driver, profile).await;
    // A buffer above 80 % of the memory and below all of it, which nobody empties.
    let grows = "dd if=/dev/zero bs=650000000 count=1 | sleep 600";
    let workspace = site.workspace("memory", json!({"memory-mb": 768}), grows).await;
    let (answer, message, log) = site.errored(&workspace).await;
    assert!(
        message.contains("768 MiB") && message.contains("memory-mb"),
        "{message}\n{log}"
    );
    assert!(log.contains(&message), "{log}");
    site.first_is_kept(&workspace).await;
    let run = answer["data"]["id"].as_str().unwrap_or_default();
    let apply = site.installation.get(&format!("/runs/{run}/apply")).await;
    let memory = &apply["data"]["attributes"]["memory"];
    assert_eq!(memory["limit-mb"], json!(768), "{apply}");
    let points = memory["points"].as_array().expect("the apply's memory is told");
    let most = points
        .iter()
        .filter_map(|point| point["anonymous-mb"].as_u64())
        .max();
    assert!((614..=768).contains(&most.unwrap_or(0)), "{memory}");

    // Where it might not be looked for: in a folder that is closed, or where root has changed what the image or the host
    // gave it.
    let folder = if profile == "root" {
        "/usr/fills"
    } else {
        "/terrapool/work/closed"
    };
    let fills = format!(
        "mkdir {folder}; exec 9> {folder}/fill; chmod 0 {folder}\nfor i in $(seq 1 100); do head -c 8000000 /dev/urandom >&9; sleep 0.1; done; sleep 600"
    );
    let workspace = site.workspace("disk", json!({"disk-mb": 256}), &fills).await;
    let (_, message, log) = site.errored(&workspace).await;
    assert!(
        message.contains("of the 256 MiB that are allowed") && message.contains("disk-mb"),
        "{message}\n{log}"
    );
    assert!(log.contains(&message), "{log}");
    site.first_is_kept(&workspace).await;

    let workspace = site
        .workspace("time", json!({"apply-seconds": 20}), "echo waits; sleep 600")
        .await;
    let (_, message, log) = site.errored(&workspace).await;
    assert!(
        message.contains("longer than the 20 s") && message.contains("apply-seconds"),
        "{message}\n{log}"
    );

    let workspace = site
        .workspace("files", json!({"open-files": 300}), "ulimit -n; ulimit -Hn")
        .await;
    let run = site
        .installation
        .run(&workspace, &json!({"auto-apply": true}))
        .await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert_eq!(
        log.lines().filter(|line| line.ends_with(" 300")).count(),
        2,
        "{log}"
    );

    let shouts = "head -c 3000000 /dev/zero | tr '\\0' x | fold -w 100; echo last-line";
    let workspace = site.workspace("log", json!({"log-mb": 1}), shouts).await;
    let run = site
        .installation
        .run(&workspace, &json!({"auto-apply": true}))
        .await;
    site.installation.run_reaches(&run, "applied").await;
    let apply = site.installation.get(&format!("/runs/{run}/apply")).await;
    let log = site.installation.whole_log(&apply).await;
    assert!(log.len() < 2 << 20, "{} bytes", log.len());
    assert!(
        log.contains("larger than the 1 MiB that are allowed") && log.contains("log-mb"),
        "the log does not say that it was cut"
    );
    assert!(log.contains("last-line"), "the end of the log is missing");
}

async fn case_15_limits_hold_for_the_default_profile(driver: &str) {
    case_15_who_reaches_a_limit_is_told_which_and_keeps_the_state(driver, "default").await;
}

async fn case_15_limits_hold_for_the_root_profile(driver: &str) {
    case_15_who_reaches_a_limit_is_told_which_and_keeps_the_state(driver, "root").await;
}

terrapool_testkit::on_both_drivers!(
    case_15_limits_hold_for_the_default_profile,
    case_15_limits_hold_for_the_root_profile,
);

#[tokio::test]
async fn what_a_pool_sets_holds_for_workspaces_and_for_sandboxes_that_wait() {
    let site = Site::start("docker", "default").await;
    let key = std::fs::read_to_string(site.installation.agent_folder("private").join("instance.key"));
    let key = key.expect("an agent has a key");
    let digest: String = Sha256::digest(key.trim())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let agent = format!("label=io.terrapool.agent={}", &digest[..12]);
    // Every sandbox of this agent that waits: its id, network and memory.
    let waiting = async || {
        let filters = [
            "ps",
            "-q",
            "--filter",
            &agent,
            "--filter",
            "label=io.terrapool.role=sandbox",
        ];
        let mut found = Vec::new();
        for id in ask_docker(&filters).await.lines() {
            let format = "{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}";
            found.push((id.to_owned(), ask_docker(&["inspect", "-f", format, id]).await));
        }
        found
    };
    let patience = Duration::from_secs(120);
    let before = until(patience, async || {
        let found = waiting().await;
        (found.len() == 2 && found.iter().all(|(_, made)| made.starts_with("terrapool"))).then_some(found)
    })
    .await;
    let before = before.expect("two sandboxes wait");

    let (status, answer) = site
        .set_pool(
            json!({"network": "none", "memory-mb": 640, "maximum-memory-mb": 700, "maximum-disk-mb": 20000}),
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    let after = until(patience, async || {
        let found = waiting().await;
        let wanted = format!("none {}", 640 << 20);
        (found.len() == 2 && found.iter().all(|(_, made)| *made == wanted)).then_some(found)
    })
    .await;
    let after = after.unwrap_or_else(|| panic!("sandboxes of the old settings still wait: {before:?}"));
    assert!(
        after
            .iter()
            .all(|(id, _)| before.iter().all(|(old, _)| id != old))
    );

    // A workspace gets what it asks for, up to the pool's maximum.
    let workspace = site
        .workspace(
            "greedy",
            json!({"memory-mb": 4096}),
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
        )
        .await;
    let run = site
        .installation
        .run(&workspace, &json!({"auto-apply": true}))
        .await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains(&(700_u64 << 20).to_string()), "{log}");
}
