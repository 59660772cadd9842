//! Traps of the stock clients that only show with an agent at work (the others are in the server's tests).

use serde_json::{Value, json};
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::Installation;
use terrapool_testkit::wait::until;

const BODY: &str = "resource \"terraform_data\" \"a\" { input = \"a\" }\n";

async fn ready(installation: &Installation, workspace: &str, body: &str) -> Cli {
    let cli = installation.cli(&format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"{workspace}\" }}\n  }}\n}}\n{body}",
        installation.host()
    ));
    cli.run(&["init"]).await.succeeded();
    cli
}

async fn newest_run(installation: &Installation, workspace: &str) -> Value {
    let record = installation
        .get(&format!("/organizations/acme/workspaces/{workspace}"))
        .await;
    let id = record["data"]["id"].as_str().expect("a workspace has an id");
    installation.get(&format!("/workspaces/{id}/runs")).await["data"][0].clone()
}

#[tokio::test]
async fn t4_a_finished_plan_is_confirmable_at_once_so_apply_never_ends_without_applying() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "t4", BODY).await;
    let mut apply = cli.start(&["apply"]);
    // Looked at as often as the server can be asked: a finished plan with a run that is not confirmable must never show.
    let seen = until(std::time::Duration::from_secs(60), async || {
        let run = newest_run(&installation, "t4").await;
        let plan = run["relationships"]["plan"]["data"]["id"].as_str()?.to_owned();
        let plan = installation.get(&format!("/plans/{plan}")).await;
        if plan["data"]["attributes"]["status"] != json!("finished") {
            return None;
        }
        let id = run["id"].as_str()?.to_owned();
        Some(installation.get(&format!("/runs/{id}")).await)
    });
    let run = seen.await.expect("the plan finishes");
    assert_eq!(run["data"]["attributes"]["has-changes"], json!(true), "{run}");
    assert_eq!(
        run["data"]["attributes"]["actions"]["is-confirmable"],
        json!(true),
        "{run}"
    );
    apply.wait_for("Enter a value:").await;
    apply.write("yes\n").await;
    let apply = apply.end().await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
}

#[tokio::test]
async fn t8_and_t9_both_logs_begin_with_three_plain_lines_and_are_framed() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "t8", BODY).await;
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    let run = newest_run(&installation, "t8").await;
    for phase in ["plan", "apply"] {
        let id = run["relationships"][phase]["data"]["id"]
            .as_str()
            .expect("a run has both phases");
        let record = installation
            .get(&format!(
                "/{}/{id}",
                if phase == "plan" { "plans" } else { "applies" }
            ))
            .await;
        let text = installation.read_log(&record).await;
        assert!(
            text.starts_with('\u{2}') && text.ends_with('\u{3}'),
            "{phase}: {text:?}"
        );
        let lines: Vec<&str> = text[1..text.len() - 1].lines().collect();
        assert!(lines[0].starts_with("Terraform v"), "{phase}: {text}");
        assert_eq!(
            lines[1..3],
            ["on linux_amd64", "Initializing plugins and modules..."],
            "{phase}: {text}"
        );
        for line in &lines[3..] {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{phase}: {line}");
        }
    }
}

#[tokio::test]
async fn t16_the_redacted_plan_has_schemas_and_none_of_the_sensitive_values() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let body = "variable \"secret\" {\n  default   = \"hunter2\"\n  sensitive = true\n}\nresource \"terraform_data\" \"a\" { input = var.secret }\noutput \"o\" {\n  value     = var.secret\n  sensitive = true\n}\n";
    let cli = ready(&installation, "t16", body).await;
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(
        plan.contains("(sensitive value)") && !plan.contains("hunter2"),
        "{plan}"
    );
    let run = newest_run(&installation, "t16").await;
    let id = run["relationships"]["plan"]["data"]["id"]
        .as_str()
        .expect("a run has a plan");
    let redacted = installation
        .get(&format!("/plans/{id}/json-output-redacted"))
        .await;
    let provider = &redacted["provider_schemas"]["terraform.io/builtin/terraform"];
    assert!(
        provider["resource_schemas"]["terraform_data"].is_object(),
        "{redacted}"
    );
    assert!(!redacted.to_string().contains("hunter2"), "{redacted}");
}

#[tokio::test]
async fn case_14_a_secret_of_the_workspace_is_in_no_plan_also_where_its_configuration_does_not_call_it_sensitive()
 {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let body = "variable \"secret\" {}\nresource \"terraform_data\" \"a\" { input = \"as ${var.secret}\" }\noutput \"o\" { value = base64encode(var.secret) }\n";
    let cli = ready(&installation, "case14", body).await;
    let workspace = installation.get("/organizations/acme/workspaces/case14").await;
    let workspace = workspace["data"]["id"].as_str().expect("a workspace has an id");
    let variable = json!({"data": {"type": "vars", "attributes": {
        "key": "secret", "value": "correct-horse", "category": "terraform", "sensitive": true}}});
    installation
        .post(&format!("/workspaces/{workspace}/vars"), &variable)
        .await;
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(
        plan.contains("as (sensitive value)") && !plan.contains("correct-horse"),
        "{plan}"
    );
    let run = newest_run(&installation, "case14").await;
    let id = run["relationships"]["plan"]["data"]["id"]
        .as_str()
        .expect("a run has a plan");
    let redacted = installation
        .get(&format!("/plans/{id}/json-output-redacted"))
        .await
        .to_string();
    assert!(redacted.contains("as (sensitive value)"), "{redacted}");
    for form in ["correct-horse", "Y29ycmVjdC1ob3JzZQ"] {
        assert!(!redacted.contains(form), "{redacted}");
    }
}

#[tokio::test]
async fn t19_interrupting_a_plan_leaves_its_run_alone() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let body = "data \"terraform_remote_state\" \"none\" {\n  backend = \"local\"\n  config  = { path = \"/terrapool/work/none\" }\n  defaults = {}\n}\nresource \"terraform_data\" \"a\" {}\n";
    let cli = ready(&installation, "t19", body).await;
    let mut plan = cli.start(&["plan"]);
    plan.wait_for("Waiting for the plan to start").await;
    plan.interrupt().await;
    plan.end().await;
    let ended = until(std::time::Duration::from_secs(60), async || {
        let run = newest_run(&installation, "t19").await;
        let status = run["attributes"]["status"].as_str()?.to_owned();
        ["planned_and_finished", "errored", "canceled"]
            .contains(&status.as_str())
            .then_some(status)
    });
    let status = ended.await.expect("the run ends");
    assert_ne!(status, "canceled");
}
