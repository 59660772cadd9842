//! The stock terraform with a `cloud` block, against a real control plane, agent and container engine.

use serde_json::json;
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::Installation;

fn configuration(installation: &Installation, workspace: &str, body: &str) -> String {
    format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"{workspace}\" }}\n  }}\n}}\n{body}",
        installation.host()
    )
}

const BODY: &str = r#"
variable "x" {
  type    = string
  default = "a"
}
resource "terraform_data" "a" { input = var.x }
output "o" { value = terraform_data.a.output }
output "s" {
  value     = "hunter2"
  sensitive = true
}
"#;

async fn ready(installation: &Installation, workspace: &str, body: &str) -> Cli {
    let cli = installation.cli(&configuration(installation, workspace, body));
    cli.run(&["init"]).await.succeeded();
    cli
}

#[tokio::test]
async fn plan_and_apply_with_auto_approve_run_on_the_shared_pool_and_keep_the_state() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "first", BODY).await;

    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(plan.contains("# terraform_data.a will be created"), "{plan}");
    assert!(
        plan.contains("Plan: 1 to add, 0 to change, 0 to destroy."),
        "{plan}"
    );
    assert!(!plan.contains("hunter2"), "{plan}");

    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("terraform_data.a: Creating..."), "{apply}");
    assert!(apply.contains("terraform_data.a: Creation complete"), "{apply}");
    assert!(
        apply.contains("Apply complete! Resources: 1 added, 0 changed, 0 destroyed."),
        "{apply}"
    );

    let outputs = cli.run(&["output"]).await.succeeded();
    assert!(
        outputs.contains("o = \"a\"") && outputs.contains("s = <sensitive>"),
        "{outputs}"
    );
    assert_eq!(cli.run(&["output", "-raw", "s"]).await.succeeded(), "hunter2");

    let again = cli.run(&["plan", "-detailed-exitcode"]).await;
    assert_eq!(again.code, Some(0), "{}", again.output);
    assert!(again.output.contains("No changes."), "{}", again.output);
}

#[tokio::test]
async fn an_apply_waits_for_its_confirmation() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "confirmed", BODY).await;

    let mut apply = cli.start(&["apply", "-var", "x=b"]);
    apply.wait_for("Enter a value:").await;
    apply.write("yes\n").await;
    let apply = apply.end().await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
    assert!(apply.contains("o = \"b\""), "{apply}");

    let mut apply = cli.start(&["apply", "-var", "x=c"]);
    apply.wait_for("Enter a value:").await;
    apply.write("no\n").await;
    apply.end().await.failed();
    assert_eq!(cli.run(&["output", "-raw", "o"]).await.succeeded(), "b");

    let runs = installation.get("/organizations/acme/workspaces/confirmed").await;
    let id = runs["data"]["id"].as_str().unwrap().to_owned();
    let runs = installation.get(&format!("/workspaces/{id}/runs")).await;
    assert_eq!(runs["data"][0]["attributes"]["status"], json!("discarded"));
    assert_eq!(runs["data"][1]["attributes"]["status"], json!("applied"));
}
