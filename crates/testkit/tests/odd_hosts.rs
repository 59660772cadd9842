//! Hosts that are not as they should be: no IPv4, a clock that is an hour off, cloned.

use std::path::PathBuf;

use serde_json::json;
use terrapool_testkit::installation::{AgentProcess, Installation, bin_dir};

const HELLO: &str = r#"
resource "terraform_data" "hello" {
  provisioner "local-exec" {
    command = "echo hello"
  }
}
"#;

/// Applies something by the only agent of a pool.
async fn applies(installation: &Installation, pool: &str, name: &str) {
    let attributes = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": true});
    let workspace = installation.workspace(name, &attributes, HELLO).await;
    let run = installation.run(&workspace, &json!({"auto-apply": true})).await;
    installation.run_reaches(&run, "applied").await;
    let log = installation.phase_log(&run, "apply").await;
    assert!(log.contains("hello"), "{log}");
}

#[tokio::test]
async fn agents_work_where_the_control_plane_has_an_ipv6_address_only() {
    let installation = Installation::start_on_ipv6().await;
    assert!(
        tokio::net::TcpStream::connect(("127.0.0.1", installation.port()))
            .await
            .is_err()
    );
    let (pool, token) = installation.create_pool("private").await;
    let agent = installation
        .start_agent("six", &token, &[("TERRAPOOL_AGENT_LISTEN", "[::1]:0")])
        .await;
    applies(&installation, &pool, "six").await;
    // What watches the agent finds it there, too.
    let log = agent.log();
    let port = log
        .split_once("[::1]:")
        .and_then(|(_, rest)| rest.split(|letter: char| !letter.is_ascii_digit()).next())
        .expect("the agent says where it listens");
    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://[::1]:{port}/{path}")).await;
        let answer = answer.expect("the agent answers");
        (answer.status().as_u16(), answer.text().await.unwrap_or_default())
    };
    assert_eq!(get("healthz").await, (200, "ok\n".to_owned()));
    let (_, metrics) = get("metrics").await;
    for line in [
        "terrapool_agent_healthy 1",
        "terrapool_agent_container_engine_up 1",
        "terrapool_agent_jobs{phase=\"apply\"} ",
        "terrapool_agent_offers_total ",
        "pool=\"private\"",
    ] {
        assert!(metrics.contains(line), "{line}:\n{metrics}");
    }
}

#[tokio::test]
async fn of_two_machines_that_were_cloned_with_an_agent_the_older_one_ends_for_good_and_says_why() {
    let installation = Installation::start().await;
    let (pool, token) = installation.create_pool("private").await;
    let mut older = installation.start_agent("older", &token, &[]).await;
    let clone = installation.agent_folder("newer");
    std::fs::create_dir_all(&clone).expect("a folder can be made");
    let key = "instance.key";
    std::fs::copy(installation.agent_folder("older").join(key), clone.join(key)).expect("agents have a key");
    let _newer = installation.start_agent("newer", &token, &[]).await;
    assert_eq!(older.wait().await, Some(78), "{}", older.log());
    assert!(older.log().contains("this machine was cloned"), "{}", older.log());
    applies(&installation, &pool, "cloned").await;
}

/// Makes a process see another time of day. What is measured is left alone.
fn faketime() -> PathBuf {
    let library = format!(
        "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1",
        std::env::consts::ARCH
    );
    let library = PathBuf::from(library);
    assert!(
        library.exists(),
        "{} is missing: `cargo xtask test` installs it",
        library.display()
    );
    library
}

async fn works_and_says_so(shift: &str, words: &str) {
    let installation = Installation::start().await;
    let (pool, token) = installation.create_pool("private").await;
    let library = faketime().display().to_string();
    let clock = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", shift),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let agent: AgentProcess = installation.start_agent("late", &token, &clock).await;
    agent.logs(words).await;
    applies(&installation, &pool, "late").await;
    let status = installation.ask_agent("late", &["status"]).await;
    assert!(
        status.contains("clock      this host's clock is 3") && status.contains(words),
        "{status}"
    );
    let doctor = tokio::process::Command::new(bin_dir().join("terrapool-agent"))
        .arg("doctor")
        .envs(clock)
        .env("TERRAPOOL_URL", installation.url())
        .env("TERRAPOOL_TOKEN", &token)
        .env("TERRAPOOL_CA_FILE", installation.ca())
        .env("TERRAPOOL_AGENT_DATA_DIR", installation.agent_folder("late"))
        .output()
        .await
        .expect("the doctor starts");
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    for line in [
        "warn    clock: this host's clock is 3",
        "timedatectl",
        "ok      names: localhost is",
        "ok      connection: localhost:",
        "ok      certificates: the system's, and 1 of",
        "ok      control plane: https://localhost:",
        "ok      version: ",
        "ok      container engine: ",
        "ok      cgroups: version ",
        "user namespaces: ",
        "swap: ",
        "SELinux: ",
        "disk: ",
        "memory: ",
        "ok      running agent: connected, in pool private, ",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}

#[tokio::test]
async fn an_agent_whose_clock_is_an_hour_ahead_works_and_says_so() {
    works_and_says_so("+3600s", "s ahead of the control plane's").await;
}

#[tokio::test]
async fn an_agent_whose_clock_is_an_hour_behind_works_and_says_so() {
    works_and_says_so("-3600s", "s behind the control plane's").await;
}
