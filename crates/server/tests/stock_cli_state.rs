//! The stock `terraform` command line against a control plane without agents: everything that needs no remote run.
#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

use serde_json::{Value, json};
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::Installation;

fn cloud(host: &str, workspaces: &str) -> String {
    format!(
        r#"
terraform {{
  cloud {{
    hostname     = "{host}"
    organization = "acme"
    workspaces {{
      {workspaces}
    }}
  }}
}}
resource "terraform_data" "a" {{ input = "x" }}
output "o" {{ value = terraform_data.a.output }}
output "s" {{
  value     = "hunter2"
  sensitive = true
}}
"#
    )
}

fn remote(host: &str) -> String {
    format!(
        r#"
terraform {{
  backend "remote" {{
    hostname     = "{host}"
    organization = "acme"
    workspaces {{ name = "rem" }}
  }}
}}
resource "terraform_data" "a" {{ input = "x" }}
output "o" {{ value = terraform_data.a.output }}
"#
    )
}

async fn set_local(plane: &Installation, name: &str) -> String {
    let found = plane.get(&format!("/organizations/acme/workspaces/{name}")).await;
    let id = found["data"]["id"].as_str().unwrap().to_owned();
    let body = json!({"data": {"type": "workspaces", "attributes": {"execution-mode": "local"}}});
    plane.patch(&format!("/workspaces/{id}"), &body).await;
    id
}

#[tokio::test]
async fn a_workspace_with_local_execution_is_applied_read_moved_and_pushed() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), r#"name = "one""#));
    cli.run(&["init", "-input=false"]).await.succeeded();
    cli.run(&["init", "-input=false"]).await.succeeded();
    let empty = cli.run(&["output"]).await.succeeded();
    assert!(empty.contains("No outputs found"), "{empty}");
    let id = set_local(&plane, "one").await;
    let applied = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(applied.contains("1 added"), "{applied}");
    let outputs = cli.run(&["output"]).await.succeeded();
    assert!(outputs.contains("s = <sensitive>"), "{outputs}");
    assert!(
        cli.run(&["output", "-raw", "s"])
            .await
            .succeeded()
            .contains("hunter2")
    );
    cli.run(&["state", "mv", "terraform_data.a", "terraform_data.b"])
        .await
        .succeeded();
    assert!(
        cli.run(&["state", "list"])
            .await
            .succeeded()
            .contains("terraform_data.b")
    );
    let pulled: Value = serde_json::from_str(&cli.run(&["state", "pull"]).await.succeeded()).unwrap();
    assert_eq!(pulled["serial"], 2);
    let workspace = plane.get(&format!("/workspaces/{id}")).await;
    assert_eq!(workspace["data"]["attributes"]["terraform-version"], "1.11.4");
    assert_eq!(workspace["data"]["attributes"]["resource-count"], 1);
    assert_eq!(workspace["data"]["attributes"]["locked"], false);
    // The CLI sends no force for `state push -force`: an older serial is accepted all the same.
    let mut old = pulled;
    old["serial"] = json!(1);
    old["outputs"]["o"]["value"] = json!("pushed");
    cli.write("old.tfstate", &old.to_string());
    cli.run(&["state", "push", "old.tfstate"]).await.failed();
    cli.run(&["state", "push", "-force", "old.tfstate"])
        .await
        .succeeded();
    assert!(
        cli.run(&["output", "-raw", "o"])
            .await
            .succeeded()
            .contains("pushed")
    );
    old["lineage"] = json!("another");
    old["serial"] = json!(7);
    cli.write("other.tfstate", &old.to_string());
    cli.run(&["state", "push", "other.tfstate"]).await.failed();
    cli.run(&["state", "push", "-force", "other.tfstate"])
        .await
        .succeeded();
    let unlocked = plane.get(&format!("/workspaces/{id}")).await;
    assert_eq!(unlocked["data"]["attributes"]["locked"], false);
}

#[tokio::test]
async fn local_state_moves_into_a_new_workspace_and_a_lock_can_be_forced() {
    let plane = Installation::start().await;
    let local = "resource \"terraform_data\" \"a\" {\n  input = \"x\"\n}\n";
    let cli = plane.cli(local);
    cli.run(&["init"]).await.succeeded();
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    cli.write("main.tf", &cloud(&plane.host(), r#"name = "moved""#));
    let moved = cli.run_with_input(&["init"], "yes\n").await.succeeded();
    assert!(moved.contains("successfully"), "{moved}");
    assert!(
        cli.run(&["state", "list"])
            .await
            .succeeded()
            .contains("terraform_data.a")
    );
    let id = set_local(&plane, "moved").await;
    plane
        .post(&format!("/workspaces/{id}/actions/lock"), &json!({}))
        .await;
    let refused = cli.run(&["apply", "-auto-approve"]).await.failed();
    assert!(refused.contains("locked"), "{refused}");
    cli.run(&["force-unlock", "-force", "acme/moved"])
        .await
        .succeeded();
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
}

#[tokio::test]
async fn workspaces_by_tags_are_made_listed_selected_and_deleted() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), "tags = [\"app\"]\n project = \"Team\""));
    let made = cli.run_with_input(&["init"], "first\n").await.succeeded();
    assert!(made.contains("successfully"), "{made}");
    let first = plane.get("/organizations/acme/workspaces/first").await;
    assert_eq!(first["data"]["attributes"]["tag-names"], json!(["app"]));
    set_local(&plane, "first").await;
    cli.run(&["workspace", "new", "second"]).await.succeeded();
    let list = cli.run(&["workspace", "list"]).await.succeeded();
    assert!(list.contains("first") && list.contains("* second"), "{list}");
    cli.run(&["workspace", "select", "first"]).await.succeeded();
    assert!(
        cli.run(&["workspace", "show"])
            .await
            .succeeded()
            .contains("first")
    );
    cli.run(&["workspace", "delete", "second"]).await.succeeded();
    assert_eq!(
        plane
            .call("GET", "/organizations/acme/workspaces/second", None)
            .await
            .0,
        404
    );
    // A workspace that manages something goes with force only.
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    cli.run(&["workspace", "new", "third"]).await.succeeded();
    cli.run(&["workspace", "delete", "first"]).await.failed();
    cli.run(&["workspace", "delete", "-force", "first"])
        .await
        .succeeded();
}

#[tokio::test]
async fn key_value_tags_find_their_workspaces() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), r#"tags = { env = "prod" }"#));
    cli.run_with_input(&["init"], "kv\n").await.succeeded();
    let id = plane.get("/organizations/acme/workspaces/kv").await["data"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let bindings = plane.get(&format!("/workspaces/{id}/tag-bindings")).await;
    assert_eq!(
        bindings["data"][0]["attributes"],
        json!({"key": "env", "value": "prod"})
    );
    assert!(cli.run(&["workspace", "list"]).await.succeeded().contains("kv"));
}

#[tokio::test]
async fn backend_remote_keeps_its_state_here() {
    let plane = Installation::start().await;
    let cli = plane.cli(&remote(&plane.host()));
    cli.run(&["init", "-input=false"]).await.succeeded();
    set_local(&plane, "rem").await;
    cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(cli.run(&["output", "-raw", "o"]).await.succeeded().contains('x'));
    cli.run(&["state", "mv", "terraform_data.a", "terraform_data.b"])
        .await
        .succeeded();
    let mut old: Value = serde_json::from_str(&cli.run(&["state", "pull"]).await.succeeded()).unwrap();
    old["serial"] = json!(1);
    cli.write("old.tfstate", &old.to_string());
    cli.run(&["state", "push", "-force", "old.tfstate"])
        .await
        .succeeded();
}

#[tokio::test]
async fn login_takes_a_pasted_token() {
    let plane = Installation::start().await;
    let cli = plane.cli("");
    std::fs::write(cli.home().join("cli.tfrc"), "").unwrap();
    let (code, answer) = login(&cli, &plane.host(), &plane.token).await;
    assert_eq!(code, Some(0), "{answer}");
    let (code, answer) = login(&cli, &plane.host(), "tpu_wrong").await;
    assert_ne!(code, Some(0), "{answer}");
    assert!(answer.contains("Token is invalid"), "{answer}");
}

/// Answers one question after the other: each prompt reads what is there, and drops what it does not need.
async fn login(cli: &Cli, host: &str, token: &str) -> (Option<i32>, String) {
    let mut running = cli.start(&["login", host]);
    running.wait_for("Only 'yes' will be accepted").await;
    running.write("yes\n").await;
    running.wait_for("Token for").await;
    running.write(&format!("{token}\n")).await;
    let ended = running.end().await;
    (ended.code, ended.output)
}

#[tokio::test]
async fn an_unknown_organization_and_a_wrong_token_are_told_apart() {
    let plane = Installation::start().await;
    let cli = plane.cli(&cloud(&plane.host(), r#"name = "x""#).replace("acme", "nobody"));
    let missing = cli.run(&["init", "-input=false"]).await.failed();
    assert!(
        missing.contains("nobody") && missing.contains("not found"),
        "{missing}"
    );
    let cli = plane.cli(&cloud(&plane.host(), r#"name = "x""#));
    let credentials = format!(
        "credentials \"{}\" {{\n  token = \"tpu_wrong\"\n}}\n",
        plane.host()
    );
    std::fs::write(cli.home().join("cli.tfrc"), credentials).unwrap();
    let wrong = cli.run(&["init", "-input=false"]).await.failed();
    assert!(
        wrong.to_lowercase().contains("unauthorized") || wrong.contains("token"),
        "{wrong}"
    );
}
