//! The stock terraform with a `cloud` block, against a real control plane, agent and container engine.

use serde_json::json;
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::Installation;
use terrapool_testkit::wait::until;

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

#[tokio::test]
async fn a_saved_plan_is_shown_and_applied() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "saved", BODY).await;

    cli.run(&["plan", "-out", "p.bin"]).await.succeeded();
    let shown = cli.run(&["show", "p.bin"]).await.succeeded();
    assert!(shown.contains("# terraform_data.a will be created"), "{shown}");
    let json = cli.run(&["show", "-json", "p.bin"]).await.succeeded();
    assert!(json.contains("\"resource_changes\""), "{json}");
    let applied = cli.run(&["apply", "p.bin"]).await.succeeded();
    assert!(
        applied.contains("Apply complete! Resources: 1 added"),
        "{applied}"
    );
    let again = cli.run(&["apply", "p.bin"]).await.failed();
    assert!(again.contains("Saved plan is already applied"), "{again}");
}

#[tokio::test]
async fn destroy_refresh_only_target_and_replace_do_what_they_say() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let two = "resource \"terraform_data\" \"a\" { input = \"a\" }\nresource \"terraform_data\" \"b\" { input = \"b\" }\n";
    let cli = ready(&installation, "modes", two).await;

    let target = cli
        .run(&["apply", "-auto-approve", "-target", "terraform_data.a"])
        .await
        .succeeded();
    assert!(target.contains("Apply complete! Resources: 1 added"), "{target}");
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    let replace = cli
        .run(&["apply", "-auto-approve", "-replace", "terraform_data.b"])
        .await
        .succeeded();
    assert!(
        replace.contains("Apply complete! Resources: 1 added, 0 changed, 1 destroyed."),
        "{replace}"
    );
    let refresh = cli.run(&["plan", "-refresh-only"]).await.succeeded();
    assert!(refresh.contains("No changes."), "{refresh}");
    cli.run(&["apply", "-refresh-only", "-auto-approve"])
        .await
        .succeeded();
    // A resource that the state has lost is taken back in.
    cli.run(&["state", "rm", "terraform_data.b"]).await.succeeded();
    cli.run(&["import", "terraform_data.b", "known-id"])
        .await
        .succeeded();
    let shown = cli.run(&["state", "show", "terraform_data.b"]).await.succeeded();
    assert!(shown.contains("\"known-id\""), "{shown}");
    let destroy = cli.run(&["destroy", "-auto-approve"]).await.succeeded();
    assert!(
        destroy.contains("Apply complete! Resources: 0 added, 0 changed, 2 destroyed."),
        "{destroy}"
    );
    assert_eq!(cli.run(&["state", "list"]).await.succeeded(), "");
}

#[tokio::test]
async fn log_lines_arrive_while_the_engine_runs() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let slow = r#"
resource "terraform_data" "slow" {
  provisioner "local-exec" {
    command = "echo early-line; while [ ! -e /terrapool/work/go ]; do sleep 0.1; n=$((n + 1)); [ $n -gt 100 ] && break; done; echo late-line"
  }
}
"#;
    let cli = ready(&installation, "slow", slow).await;
    let mut apply = cli.start(&["apply", "-auto-approve"]);
    apply.wait_for("(local-exec): early-line").await;
    assert!(
        !apply.output().contains("(local-exec): late-line"),
        "{}",
        apply.output()
    );
    apply.end().await.succeeded();
}

const STOPPABLE: &str = r#"
resource "terraform_data" "first" {}
resource "terraform_data" "slow" {
  depends_on = [terraform_data.first]
  provisioner "local-exec" {
    command = "echo waiting; sleep 60"
  }
}
"#;

#[tokio::test]
async fn interrupting_an_apply_cancels_it_and_keeps_the_state_that_was_written() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "stopped", STOPPABLE).await;

    let mut apply = cli.start(&["apply", "-auto-approve"]);
    apply.wait_for("(local-exec): waiting").await;
    apply.interrupt().await;
    apply.wait_for("Interrupt received").await;
    apply.end().await;

    let status = last_run_ends(&installation, "stopped").await;
    assert_eq!(status, "canceled");
    let states = cli.run(&["state", "list"]).await.succeeded();
    assert!(states.contains("terraform_data.first"), "{states}");
    assert_eq!(lock(&installation, "stopped").await, json!(false));
}

#[tokio::test]
async fn a_confirmed_interrupt_and_a_second_one_behave_as_users_know_them() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = ready(&installation, "asked", STOPPABLE).await;

    let mut apply = cli.start(&["apply"]);
    apply.wait_for("Enter a value:").await;
    apply.write("yes\n").await;
    apply.wait_for("(local-exec): waiting").await;
    apply.interrupt().await;
    apply
        .wait_for("Do you want to cancel the remote operation?")
        .await;
    apply.write("yes\n").await;
    apply.end().await;
    assert_eq!(last_run_ends(&installation, "asked").await, "canceled");

    let mut apply = cli.start(&["apply"]);
    apply.wait_for("Enter a value:").await;
    apply.write("yes\n").await;
    apply.wait_for("(local-exec): waiting").await;
    apply.interrupt().await;
    apply
        .wait_for("Do you want to cancel the remote operation?")
        .await;
    apply.interrupt().await;
    apply.end().await.failed();
    let id = workspace_id(&installation, "asked").await;
    let run = &installation.get(&format!("/workspaces/{id}/runs")).await["data"][0];
    assert_eq!(
        run["attributes"]["status"],
        json!("applying"),
        "the run goes on without its client"
    );
    let run = run["id"].as_str().unwrap();
    installation
        .post(&format!("/runs/{run}/actions/cancel"), &json!({}))
        .await;
    assert_eq!(last_run_ends(&installation, "asked").await, "canceled");
}

#[tokio::test]
async fn a_local_state_is_migrated_and_workspaces_are_chosen_by_tags_and_project() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = installation.cli("resource \"terraform_data\" \"a\" { input = terraform.workspace }\n");
    cli.run(&["init"]).await.succeeded();
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    let local = cli.run(&["state", "pull"]).await.succeeded();
    cli.write("cloud.tf", configuration(&installation, "migrated", "").as_str());
    let migrated = cli.run_with_input(&["init"], "yes\n").await.succeeded();
    assert!(
        migrated.contains("has been successfully initialized"),
        "{migrated}"
    );
    // The client gives the migrated state a lineage of its own; what is in it stays.
    let resources =
        |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["resources"].clone();
    assert_eq!(
        resources(&cli.run(&["state", "pull"]).await.succeeded()),
        resources(&local)
    );
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(
        plan.contains("terraform_data.a will be updated in-place"),
        "{plan}"
    );

    let tagged = format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{\n      tags = [\"app\"]\n      project = \"web\"\n    }}\n  }}\n}}\nresource \"terraform_data\" \"a\" {{ input = terraform.workspace }}\n",
        installation.host()
    );
    let cli = installation.cli(&tagged);
    cli.run_with_input(&["init"], "prod\n").await.succeeded();
    cli.run(&["workspace", "new", "dev"]).await.succeeded();
    let list = cli.run(&["workspace", "list"]).await.succeeded();
    assert!(list.contains("* dev") && list.contains("prod"), "{list}");
    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
    let state = cli.run(&["state", "pull"]).await.succeeded();
    assert!(state.contains("\"value\": \"dev\""), "{state}");
    cli.run(&["workspace", "select", "prod"]).await.succeeded();
    let refused = cli.run(&["workspace", "delete", "dev"]).await.failed();
    assert!(refused.contains("dev"), "{refused}");
    cli.run(&["workspace", "delete", "-force", "dev"])
        .await
        .succeeded();
    let project = installation
        .get("/organizations/acme/projects?filter[names]=web")
        .await;
    assert_eq!(project["data"][0]["attributes"]["name"], json!("web"));
}

async fn workspace_id(installation: &Installation, name: &str) -> String {
    let workspace = installation
        .get(&format!("/organizations/acme/workspaces/{name}"))
        .await;
    workspace["data"]["id"]
        .as_str()
        .expect("a workspace has an id")
        .to_owned()
}

async fn lock(installation: &Installation, name: &str) -> serde_json::Value {
    installation
        .get(&format!("/organizations/acme/workspaces/{name}"))
        .await["data"]["attributes"]["locked"]
        .clone()
}

/// Waits until a workspace's newest run has ended and returns its status.
async fn last_run_ends(installation: &Installation, workspace: &str) -> String {
    const ENDED: [&str; 5] = [
        "applied",
        "canceled",
        "errored",
        "discarded",
        "planned_and_finished",
    ];
    let id = workspace_id(installation, workspace).await;
    let ended = until(std::time::Duration::from_secs(90), async || {
        let runs = installation.get(&format!("/workspaces/{id}/runs")).await;
        let status = runs["data"][0]["attributes"]["status"].as_str()?.to_owned();
        ENDED.contains(&status.as_str()).then_some(status)
    });
    ended.await.expect("the run does not end")
}
