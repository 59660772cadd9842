//! Hostile configurations in real sandboxes, for the default profile and for the root profile. Each case has a probe that
//! shows that it sees what it looks for.

use std::time::Duration;

use serde_json::json;
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::wait::{patience, until};

const SECRET: &str = "other-workspaces-secret-4711";

struct Site {
    // Ended first: it would make sandboxes while what it left is cleared away.
    _agent: AgentProcess,
    installation: Installation,
    pool: String,
    token: String,
}

impl Site {
    async fn start(driver: &str, profile: &str) -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        let times = json!({"data": {"type": "agent-pools", "attributes": {"lease-times": {"apply-grace": 2, "plan-grace": 2}}}});
        installation.patch(&format!("/agent-pools/{pool}"), &times).await;
        let environment = [
            ("TERRAPOOL_AGENT_DRIVER", driver),
            ("TERRAPOOL_AGENT_USER", profile),
        ];
        let agent = installation.start_agent("private", &token, &environment).await;
        Self {
            installation,
            pool,
            token,
            _agent: agent,
        }
    }

    /// Applies a configuration whose only resource runs a script, and returns the run.
    async fn begin(&self, name: &str, script: &str) -> String {
        let configuration = format!(
            "resource \"terraform_data\" \"probe\" {{\n  provisioner \"local-exec\" {{\n    interpreter = [\"bash\", \"-c\"]\n    command = <<-EOT\n{script}\n    EOT\n  }}\n}}\n"
        );
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true});
        let workspace = self
            .installation
            .workspace(name, &attributes, &configuration)
            .await;
        let variable = |key: &str, value: &str| json!({"data": {"type": "vars", "attributes": {"key": key, "value": value, "category": "env"}}});
        let path = format!("/workspaces/{}/vars", workspace.id);
        self.installation
            .post(&path, &variable("PROBE", "own-variable-is-seen"))
            .await;
        self.installation
            .run(&workspace, &json!({"auto-apply": true}))
            .await
    }

    async fn applied(&self, name: &str, script: &str) -> String {
        let run = self.begin(name, script).await;
        self.installation.run_reaches(&run, "applied").await;
        self.installation.phase_log(&run, "apply").await
    }

    async fn errored(&self, name: &str, script: &str) -> (String, String) {
        let run = self.begin(name, script).await;
        self.installation.run_reaches(&run, "errored").await;
        let answer = self.installation.get(&format!("/runs/{run}")).await;
        let message = answer["data"]["attributes"]["error-message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        (message, self.installation.phase_log(&run, "apply").await)
    }
}

async fn nothing_foreign_is_seen(site: &Site) {
    let attributes = json!({"execution-mode": "agent", "agent-pool-id": site.pool});
    let other = site.installation.workspace("other", &attributes, "").await;
    let secret = json!({"data": {"type": "vars", "attributes": {"key": "SECRET", "value": SECRET, "category": "env", "sensitive": true}}});
    site.installation
        .post(&format!("/workspaces/{}/vars", other.id), &secret)
        .await;
    let log = site
        .applied(
            "looks-around",
            r#"env
for process in /proc/[0-9]*; do
  echo "== $process"
  tr '\0' '\n' < $process/environ
  tr '\0' ' ' < $process/cmdline
  ls -l $process/fd
done 2>&1
ls -la /proc/1/root/ /run /var/run /dev /root /home 2>&1
find / /terrapool/job -xdev -type s 2>/dev/null
find / /terrapool/job -xdev -name '*.sock' 2>/dev/null
true"#,
        )
        .await;
    assert!(log.contains("PROBE=own-variable-is-seen"), "{log}");
    assert!(log.contains("/terrapool/job/runner.sock"), "{log}");
    for foreign in [
        SECRET,
        &site.token,
        &site.installation.token,
        "docker.sock",
        "containerd.sock",
        "agent.sock",
        "serviceaccount",
    ] {
        assert!(!log.contains(foreign), "`{foreign}` is seen in a sandbox:\n{log}");
    }
}

/// What processes of one user may do with each other is refused on the runner, and on what joins it to the agent.
async fn memory_of_the_runner_is_closed(site: &Site, driver: &str, profile: &str) {
    let log = site
        .applied(
            "looks-into-processes",
            r#"look_into() {
  grep -q = /proc/$2/environ && echo "$1: environ is open" || echo "$1: environ is closed"
  { true < /proc/$2/mem; } && echo "$1: mem is open" || echo "$1: mem is closed"
  readlink /proc/$2/fd/0 && echo "$1: fd is open" || echo "$1: fd is closed"
  ls /proc/$2/fd | grep -q 0 && echo "$1: list is open" || echo "$1: list is closed"
}
sleep 600 > /dev/null 2>&1 &
look_into own $!
look_into runner 1
for process in $(ls /proc | grep '^[0-9]'); do
  tr '\0' ' ' < /proc/$process/cmdline | grep -q '^/terrapool/bin/[^ ]* connect ' && look_into connect $process
done
true"#,
        )
        .await;
    let is = |of: &str, what: &str, state: &str| {
        assert!(log.contains(&format!("): {of}: {what} is {state}")), "{log}");
    };
    for what in ["environ", "mem", "fd", "list"] {
        is("own", what, "open");
    }
    // The native driver speaks with the runner from outside.
    let closed: &[&str] = if driver == "native" {
        &["runner"]
    } else {
        &["runner", "connect"]
    };
    for of in closed {
        for what in ["environ", "mem", "fd"] {
            is(of, what, "closed");
        }
        // Root of the sandbox may count what they have open, and nothing more.
        if profile == "default" {
            is(of, "list", "closed");
        }
    }
}

async fn appetite_hurts_only_its_own_run(site: &Site) {
    let (message, log) = site
        .errored(
            "eats-memory",
            "x=$(head -c 900000000 /dev/zero | tr '\\0' a); echo \"$${#x}\"; exit 1",
        )
        .await;
    assert!(message.contains("512 MiB"), "{message}\n{log}");
    // Whether the engine itself survives that is its own affair.
    // The first ones have to live until the last ones are started.
    let seconds = 30 * patience();
    let script = format!("for i in $(seq 1500); do sleep {seconds} & done 2>&1 | tail -n 2\necho alive\n");
    let run = site.begin("forks", &script).await;
    let status = site.installation.run_ends(&run).await;
    assert!(matches!(status.as_str(), "applied" | "errored"), "{status}");
    let answer = site.installation.get(&format!("/runs/{run}")).await;
    let message = answer["data"]["attributes"]["error-message"].as_str();
    let log = site.installation.phase_log(&run, "apply").await;
    let limited = [
        "Resource temporarily unavailable",
        "failed to create new OS thread",
    ];
    assert!(limited.iter().any(|text| log.contains(text)), "{log}");
    let named = |text: &str| text.contains("were refused: it may have 512 at once. Raise `processes`");
    assert!(named(&log), "{log}");
    assert!(status == "applied" || message.is_some_and(named), "{message:?}");
    let log = site.applied("neighbour", "echo untouched").await;
    assert!(log.contains("untouched"), "{log}");
}

async fn nothing_outlives_its_run(site: &Site) {
    site.applied(
        "daemon",
        "setsid nohup sh -c 'sleep 98765431' >/dev/null 2>&1 < /dev/null &\nsleep 0.2\npgrep -f 'sleep 98765431' || ps | grep 98765431\n",
    )
    .await;
    let gone = until(Duration::from_secs(60), async || {
        let found = tokio::process::Command::new("pgrep")
            .args(["-f", "^sleep 98765431"])
            .output()
            .await
            .ok()?;
        found.stdout.is_empty().then_some(())
    })
    .await;
    assert!(gone.is_some(), "a process outlives its run");
}

async fn who_is_deaf_is_killed(site: &Site) {
    let run = site
        .begin(
            "deaf",
            "trap '' INT TERM HUP\necho deaf-now\nwhile :; do sleep 1; done",
        )
        .await;
    site.installation.log_shows(&run, "apply", "deaf-now").await;
    let cancel = format!("/runs/{run}/actions/cancel");
    site.installation.post(&cancel, &json!({})).await;
    // Asked again, it is the same request.
    let (again, _) = site.installation.call("POST", &cancel, Some(&json!({}))).await;
    assert!(matches!(again, 200..300 | 409), "{again}");
    assert_eq!(site.installation.run_ends(&run).await, "canceled");
}

async fn output_is_whole_in_order_and_masked(site: &Site) {
    let log = site
        .applied(
            "hostile-log",
            r#"seq 1 20000
printf '\033]8;;http://example.com\033\\link\033[2J\r\000\377<script>alert(1)</script>\n'
head -c 2000000 /dev/zero | tr '\0' x; echo
echo last-line"#,
        )
        .await;
    // A line that takes its time is told in two pieces, by terraform.
    let digits: String = log
        .lines()
        .filter_map(|line| Some(line.rsplit_once("(local-exec): ")?.1))
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    let whole: String = (1..=20000).map(|number: u32| number.to_string()).collect();
    assert!(digits == whole, "{} digits of {}", digits.len(), whole.len());
    assert!(log.contains("last-line"));

    let attributes = json!({"execution-mode": "agent", "agent-pool-id": site.pool, "auto-apply": true});
    let script = r#"echo plain $MASKED
printf %s $MASKED | base64
printf %s $MASKED | head -c 9; sleep 0.3; printf %s $MASKED | tail -c +10; echo
echo seen $UNMASKED"#;
    let configuration = format!(
        "resource \"terraform_data\" \"probe\" {{\n  provisioner \"local-exec\" {{\n    command = <<-EOT\n{script}\n    EOT\n  }}\n}}\n"
    );
    let workspace = site
        .installation
        .workspace("masks", &attributes, &configuration)
        .await;
    let path = format!("/workspaces/{}/vars", workspace.id);
    for (key, value, sensitive) in [
        ("MASKED", SECRET, true),
        ("UNMASKED", "not-sensitive-4711", false),
    ] {
        let body = json!({"data": {"type": "vars", "attributes":
            {"key": key, "value": value, "category": "env", "sensitive": sensitive}}});
        site.installation.post(&path, &body).await;
    }
    let run = site
        .installation
        .run(&workspace, &json!({"auto-apply": true}))
        .await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("seen not-sensitive-4711"), "{log}");
    for secret in [SECRET, "b3RoZXItd29ya3NwYWNlcy1zZWNyZXQtNDcxMQ"] {
        assert!(!log.contains(secret), "{log}");
    }
}

async fn cases(driver: &str, profile: &str) {
    let site = Site::start(driver, profile).await;
    nothing_foreign_is_seen(&site).await;
    memory_of_the_runner_is_closed(&site, driver, profile).await;
    appetite_hurts_only_its_own_run(&site).await;
    output_is_whole_in_order_and_masked(&site).await;
    nothing_outlives_its_run(&site).await;
    who_is_deaf_is_killed(&site).await;
}

async fn cases_04_05_06_13_14_15_16_17_hold_for_the_default_profile(driver: &str) {
    cases(driver, "default").await;
}

async fn cases_04_05_06_13_14_15_16_17_hold_for_the_root_profile(driver: &str) {
    cases(driver, "root").await;
}

terrapool_testkit::on_both_drivers!(
    cases_04_05_06_13_14_15_16_17_hold_for_the_default_profile,
    cases_04_05_06_13_14_15_16_17_hold_for_the_root_profile,
);
