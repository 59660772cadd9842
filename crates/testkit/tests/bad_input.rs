//! Bad input: a clear sentence, a non-zero exit, and nothing lost.

use std::time::Duration;

use serde_json::json;
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::{Installation, bin_dir};
use terrapool_testkit::wait::until;

fn configuration(installation: &Installation, workspace: &str, body: &str) -> String {
    format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"{workspace}\" }}\n  }}\n}}\n{body}",
        installation.host()
    )
}

const GOOD: &str = "resource \"terraform_data\" \"a\" { input = \"kept\" }\n";

/// A workspace that has applied [`GOOD`] once.
async fn applied(installation: &Installation, workspace: &str) -> Cli {
    let cli = installation.cli(&configuration(installation, workspace, GOOD));
    cli.run(&["init"]).await.succeeded();
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    cli
}

/// The state is what it was, and the workspace can be used.
async fn nothing_is_lost(installation: &Installation, workspace: &str, cli: &Cli) {
    cli.write("main.tf", &configuration(installation, workspace, GOOD));
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(plan.contains("No changes."), "{plan}");
    let record = installation
        .get(&format!("/organizations/acme/workspaces/{workspace}"))
        .await;
    assert_eq!(record["data"]["attributes"]["locked"], json!(false));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_planned_fails_with_the_engines_own_words() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = applied(&installation, "broken").await;

    // Only the sandbox sees these files: the command line reads nothing but the backend from them.
    for (body, words) in [
        ("module \"a\" { source = \"./m\" }\n", "Unsupported argument"),
        (
            "variable \"needed\" {}\noutput \"o\" { value = var.needed }\n",
            "No value for required variable",
        ),
        (
            "resource \"terraform_data\" \"a\" {\n  lifecycle {\n    precondition {\n      condition = terraform.workspace == \"other\"\n      error_message = \"This is the wrong workspace.\"\n    }\n  }\n}\n",
            "This is the wrong workspace.",
        ),
    ] {
        cli.write(
            "m/main.tf",
            "resource \"terraform_data\" \"b\" { nonsense = 1 }\n",
        );
        cli.write("main.tf", &configuration(&installation, "broken", body));
        cli.run(&["init"]).await;
        let failed = cli.run(&["plan"]).await.failed();
        assert!(failed.contains(words), "{words}: {failed}");
    }
    nothing_is_lost(&installation, "broken", &cli).await;
}

#[tokio::test]
async fn syntax_errors_of_files_that_only_the_sandbox_reads_are_shown() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = applied(&installation, "syntax").await;
    cli.write(
        "main.tf",
        &configuration(
            &installation,
            "syntax",
            "resource \"terraform_data\" \"a\" { input = }\n",
        ),
    );
    let failed = cli.run(&["plan"]).await.failed();
    assert!(failed.contains("Invalid expression"), "{failed}");
    nothing_is_lost(&installation, "syntax", &cli).await;
}

#[tokio::test]
async fn an_engine_that_nobody_has_ends_the_run_and_names_what_there_is() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = applied(&installation, "versions").await;
    let workspace = installation.get("/organizations/acme/workspaces/versions").await;
    let id = workspace["data"]["id"].as_str().unwrap().to_owned();
    let version =
        |version: &str| json!({"data": {"type": "workspaces", "attributes": {"terraform-version": version}}});
    installation
        .patch(&format!("/workspaces/{id}"), &version("1.99.0"))
        .await;
    // The command line would refuse a version that differs so much from its own, so the run is made by API.
    let run = json!({"data": {"type": "runs", "attributes": {"plan-only": true},
        "relationships": {"workspace": {"data": {"type": "workspaces", "id": id}}}}});
    let run = installation.post("/runs", &run).await;
    let plan = run["data"]["relationships"]["plan"]["data"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let ended = until(Duration::from_secs(60), async || {
        let plan = installation.get(&format!("/plans/{plan}")).await;
        (plan["data"]["attributes"]["status"] == json!("errored")).then_some(plan)
    });
    let log = installation.read_log(&ended.await.expect("the plan ends")).await;
    assert!(log.contains("terraform 1.99.0 is not on this agent"), "{log}");
    assert!(log.contains("it has terraform 1."), "{log}");

    let path = format!("/workspaces/{id}");
    let (status, answer) = installation
        .call("PATCH", &path, Some(&version("newest please")))
        .await;
    assert_eq!(status, 422, "{answer}");
    installation.patch(&path, &version("latest")).await;
    nothing_is_lost(&installation, "versions", &cli).await;
}

#[tokio::test]
async fn a_provider_that_cannot_be_installed_ends_the_run_with_the_engines_own_words() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = applied(&installation, "provider").await;
    // In a module, so that the command line's own init does not look for it.
    let body = "terraform {\n  required_providers {\n    nothing = { source = \"localhost/acme/nothing\" }\n  }\n}\nresource \"nothing_at_all\" \"a\" {}\n";
    cli.write("main.tf", &configuration(&installation, "provider", body));
    let failed = cli.run(&["plan"]).await.failed();
    assert!(failed.contains("localhost/acme/nothing"), "{failed}");
    nothing_is_lost(&installation, "provider", &cli).await;
}

#[tokio::test]
async fn agents_with_tokens_that_are_wrong_revoked_or_of_another_kind_say_so_and_end() {
    let installation = Installation::start().await;
    let (pool, revoked) = installation.create_pool("private").await;
    let tokens = installation
        .get(&format!("/agent-pools/{pool}/authentication-tokens"))
        .await;
    let id = tokens["data"][0]["id"].as_str().unwrap();
    let (status, _) = installation
        .call("DELETE", &format!("/authentication-tokens/{id}"), None)
        .await;
    assert_eq!(status, 204);
    for (name, token) in [
        ("wrong", "tpa_wrong"),
        ("revoked", &revoked),
        ("user", &installation.token),
    ] {
        let mut agent = installation.spawn_agent(name, token, &[]);
        // A service manager knows by it that another start would only repeat this.
        assert_eq!(agent.wait().await, Some(78), "{}", agent.log());
        assert!(
            agent.log().contains("does not accept the agent token"),
            "{}",
            agent.log()
        );
        assert!(!agent.log().contains(token), "the token is in the log");
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_later_is_asked_about_for_the_grace_and_then_ends_the_agent() {
    let installation = Installation::start().await;
    let (pool, token) = installation.create_pool("private").await;
    let mut patient = installation.start_agent("patient", &token, &[]).await;
    let environment = [("TERRAPOOL_AGENT_TOKEN_GRACE", "1")];
    let mut hasty = installation.start_agent("hasty", &token, &environment).await;
    let tokens = installation
        .get(&format!("/agent-pools/{pool}/authentication-tokens"))
        .await;
    let id = tokens["data"][0]["id"].as_str().unwrap();
    let path = format!("/authentication-tokens/{id}");
    assert_eq!(installation.call("DELETE", &path, None).await.0, 204);
    assert_eq!(hasty.wait().await, Some(78), "{}", hasty.log());
    assert!(
        hasty
            .log()
            .contains("does not accept the agent token: it is wrong, revoked")
    );
    patient
        .logs("does not accept the agent token any more: it was revoked")
        .await;
    let status = installation.ask_agent("patient", &["status"]).await;
    assert!(
        status.contains("(revoked or expired); the agent ends in 10 min unless"),
        "{status}"
    );
    assert!(patient.is_running());
}

#[tokio::test]
async fn an_agent_with_an_address_where_no_control_plane_is_names_it_and_keeps_asking() {
    let installation = Installation::start().await;
    let (_, token) = installation.create_pool("private").await;
    let elsewhere = format!("{}/elsewhere", installation.url());
    let mut agent = installation.spawn_agent("lost", &token, &[("TERRAPOOL_URL", &elsewhere)]);
    let words = format!("there is no control plane at {elsewhere}; check the address");
    agent.logs(&words).await;
    let status = installation.ask_agent("lost", &["status"]).await;
    assert!(status.contains(&words), "{status}");
    assert!(agent.is_running(), "{}", agent.log());
}

#[tokio::test]
async fn an_agent_waits_for_a_server_that_is_away_and_says_so() {
    let mut installation = Installation::start().await;
    let token = installation.admin(&["create-agent-token", "--shared"]).await;
    installation.kill_server().await;
    let agent = installation.spawn_agent("early", &token, &[]);
    let said = until(Duration::from_secs(60), async || {
        agent
            .log()
            .contains("cannot be reached yet; trying again")
            .then_some(())
    });
    assert!(said.await.is_some(), "{}", agent.log());
    installation.start_server().await;
    let registered = until(Duration::from_secs(60), async || {
        agent.log().contains("registered;").then_some(())
    })
    .await;
    assert!(registered.is_some(), "{}", agent.log());
}

#[tokio::test]
async fn without_a_container_engine_agent_and_doctor_name_it() {
    let installation = Installation::start().await;
    let token = installation.admin(&["create-agent-token", "--shared"]).await;
    let missing = format!("unix://{}/no.sock", installation.scratch("none").display());
    let mut agent = installation.spawn_agent("lonely", &token, &[("DOCKER_HOST", &missing)]);
    assert_eq!(agent.wait().await, Some(1), "{}", agent.log());
    assert!(
        agent.log().contains("no container engine answers at"),
        "{}",
        agent.log()
    );

    let doctor = tokio::process::Command::new(bin_dir().join("terrapool-agent"))
        .arg("doctor")
        .env("DOCKER_HOST", &missing)
        .env("TERRAPOOL_URL", installation.url())
        .env("TERRAPOOL_TOKEN", &token)
        .env("TERRAPOOL_CA_FILE", installation.ca())
        .env("TERRAPOOL_AGENT_DATA_DIR", installation.scratch("doctor"))
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(doctor.stdout).unwrap();
    assert_eq!(doctor.status.code(), Some(1), "{text}");
    assert!(
        text.contains("BROKEN  container engine: no container engine answers"),
        "{text}"
    );
    assert!(text.contains("ok      control plane"), "{text}");
}

#[tokio::test]
async fn the_command_line_with_a_wrong_token_is_told_so() {
    let installation = Installation::start().await;
    let cli = installation.cli(&configuration(&installation, "any", GOOD));
    let credentials = format!(
        "credentials \"{}\" {{\n  token = \"tpu_wrong\"\n}}\n",
        installation.host()
    );
    std::fs::write(cli.home().join("cli.tfrc"), credentials).unwrap();
    let failed = cli.run(&["init"]).await.failed();
    assert!(
        failed.contains("unauthorized") || failed.contains("Unauthorized"),
        "{failed}"
    );
}
