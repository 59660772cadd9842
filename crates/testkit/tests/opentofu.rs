//! The stock OpenTofu, on the command line and in the sandbox, beside a terraform that is not disturbed by it.

use std::path::PathBuf;

use serde_json::{Value, json};
use terrapool_testkit::cli::Cli;
use terrapool_testkit::installation::{AgentProcess, Installation, engines_dir};

const VERSION: &str = "1.11.14";

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

fn tofu() -> PathBuf {
    engines_dir().join(format!("tofu_{VERSION}/tofu"))
}

fn block(kind: &str, installation: &Installation, workspaces: &str, body: &str) -> String {
    format!(
        "terraform {{\n  {kind} {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ {workspaces} }}\n  }}\n}}\n{body}",
        installation.host()
    )
}

fn cloud(installation: &Installation, workspaces: &str, body: &str) -> Cli {
    installation
        .cli(&block("cloud", installation, workspaces, body))
        .program(tofu())
}

async fn installation() -> (Installation, AgentProcess) {
    let installation = Installation::start().await;
    let token = installation.admin(&["create-agent-token", "--shared"]).await;
    let folder = engines_dir();
    let folder = folder.to_str().expect("the engines folder is text");
    let agent = installation
        .start_agent("tofu", &token, &[("TERRAPOOL_AGENT_ENGINES", folder)])
        .await;
    (installation, agent)
}

async fn workspace(installation: &Installation, name: &str) -> Value {
    let found = installation
        .get(&format!("/organizations/acme/workspaces/{name}"))
        .await;
    found["data"].clone()
}

/// The newest run of a workspace, and the log of its plan.
async fn newest_run(installation: &Installation, name: &str) -> (Value, String) {
    let workspace = workspace(installation, name).await;
    let id = workspace["id"].as_str().expect("a workspace has an id");
    let runs = installation.get(&format!("/workspaces/{id}/runs")).await;
    let run = runs["data"][0].clone();
    let plan = run["relationships"]["plan"]["data"]["id"]
        .as_str()
        .expect("a run has a plan");
    let plan = installation.get(&format!("/plans/{plan}")).await;
    let url = plan["data"]["attributes"]["log-read-url"]
        .as_str()
        .expect("a plan has a log");
    let log = installation
        .http()
        .get(url)
        .send()
        .await
        .expect("the log answers");
    (run, log.text().await.expect("a log is text"))
}

async fn state(cli: &Cli) -> Value {
    let text = cli.run(&["state", "pull"]).await.succeeded();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_workspace_made_by_opentofu_runs_opentofu_and_one_beside_it_terraform() {
    let (installation, _agent) = installation().await;
    let cli = cloud(&installation, "name = \"one\"", BODY);
    cli.run(&["init"]).await.succeeded();
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(plan.contains("# terraform_data.a will be created"), "{plan}");
    assert!(
        plan.contains("Plan: 1 to add, 0 to change, 0 to destroy."),
        "{plan}"
    );
    let (_, log) = newest_run(&installation, "one").await;
    assert!(log.contains(&format!("OpenTofu {VERSION}")), "{log}");

    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
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
    assert_eq!(state(&cli).await["terraform_version"], json!(VERSION));
    let list = cli.run(&["workspace", "list"]).await;
    assert!(list.output.contains("one"), "{}", list.output);
    let again = cli.run(&["plan", "-detailed-exitcode"]).await;
    assert_eq!(again.code, Some(0), "{}", again.output);

    let (run, _) = newest_run(&installation, "one").await;
    assert_eq!(run["attributes"]["terraform-version"], json!(VERSION));
    let workspace = workspace(&installation, "one").await;
    assert_eq!(workspace["attributes"]["engine"], json!("tofu"));

    let other = installation.cli(&block("cloud", &installation, "name = \"two\"", BODY));
    other.run(&["init"]).await.succeeded();
    other.run(&["apply", "-auto-approve"]).await.succeeded();
    let (_, log) = newest_run(&installation, "two").await;
    assert!(log.contains("Terraform 1."), "{log}");
    assert!(!log.contains("OpenTofu"), "{log}");
}

#[tokio::test]
async fn an_apply_waits_for_its_confirmation_and_a_canceled_one_changes_nothing() {
    let (installation, _agent) = installation().await;
    let cli = cloud(&installation, "name = \"asked\"", BODY);
    cli.run(&["init"]).await.succeeded();
    let apply = cli
        .run_with_input(&["apply", "-var", "x=b"], "yes\n")
        .await
        .succeeded();
    assert!(apply.contains("o = \"b\""), "{apply}");
    cli.run_with_input(&["apply", "-var", "x=c"], "no\n")
        .await
        .failed();
    assert_eq!(cli.run(&["output", "-raw", "o"]).await.succeeded(), "b");
    let destroy = cli.run(&["destroy", "-auto-approve"]).await.succeeded();
    assert!(
        destroy.contains("Resources: 0 added, 0 changed, 1 destroyed."),
        "{destroy}"
    );
}

#[tokio::test]
async fn a_saved_plan_is_shown_and_applied() {
    let (installation, _agent) = installation().await;
    let cli = cloud(&installation, "name = \"saved\"", BODY);
    cli.run(&["init"]).await.succeeded();
    cli.run(&["plan", "-out", "p.bin"]).await.succeeded();
    let shown = cli.run(&["show", "p.bin"]).await.succeeded();
    assert!(shown.contains("# terraform_data.a will be created"), "{shown}");
    let applied = cli.run(&["apply", "p.bin"]).await.succeeded();
    assert!(
        applied.contains("Apply complete! Resources: 1 added"),
        "{applied}"
    );
}

#[tokio::test]
async fn workspaces_are_made_and_listed_by_tags() {
    let (installation, _agent) = installation().await;
    // Names are kept in lower case; OpenTofu misses the one it wrote otherwise and adds it again.
    let cli = cloud(&installation, "tags = [\"app\", \"Prod\"]", BODY);
    cli.run_with_input(&["init"], "first\n").await.succeeded();
    cli.run(&["workspace", "new", "second"]).await.succeeded();
    let list = cli.run(&["workspace", "list"]).await.succeeded();
    assert!(list.contains("first") && list.contains("* second"), "{list}");
    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
    let made = workspace(&installation, "second").await;
    let mut names: Vec<&str> = made["attributes"]["tag-names"]
        .as_array()
        .expect("tag names are a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["app", "prod"]);
}

#[tokio::test]
async fn backend_remote_prints_plain_text_and_writes_states_itself() {
    let (installation, _agent) = installation().await;
    let configuration = block("backend \"remote\"", &installation, "name = \"plain\"", BODY);
    let cli = installation.cli(&configuration).program(tofu());
    cli.run(&["init"]).await.succeeded();
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(
        plan.contains("# terraform_data.a will be created") && !plan.contains("\"@level\""),
        "{plan}"
    );
    let apply = cli.run_with_input(&["apply"], "yes\n").await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
    cli.run(&["state", "mv", "terraform_data.a", "terraform_data.b"])
        .await
        .succeeded();
    let mut state = state(&cli).await;
    state["serial"] = json!(state["serial"].as_u64().expect("a serial") + 1);
    cli.write("next.tfstate", &state.to_string());
    cli.run(&["state", "push", "next.tfstate"]).await.succeeded();
    assert_eq!(
        cli.run(&["state", "list"]).await.succeeded().trim(),
        "terraform_data.b"
    );
    let lock = workspace(&installation, "plain").await;
    assert_eq!(lock["attributes"]["locked"], json!(false), "{lock}");
}

const ENCRYPTION: &str = r#"
terraform {
  encryption {
    key_provider "pbkdf2" "key" { passphrase = "a passphrase of many words" }
    method "aes_gcm" "method" { keys = key_provider.pbkdf2.key }
    state {
      method   = method.aes_gcm.method
      enforced = true
    }
    plan {
      method   = method.aes_gcm.method
      enforced = true
    }
  }
}
"#;

#[tokio::test]
async fn states_and_plans_that_opentofu_encrypts_are_kept_as_they_are() {
    let (installation, _agent) = installation().await;
    let cli = cloud(&installation, "name = \"sealed\"", &format!("{BODY}{ENCRYPTION}"));
    cli.run(&["init"]).await.succeeded();
    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");

    let id = workspace(&installation, "sealed").await["id"].clone();
    let path = format!(
        "/workspaces/{}/current-state-version",
        id.as_str().expect("an id")
    );
    let current = installation.get(&path).await;
    let attributes = &current["data"]["attributes"];
    let url = attributes["hosted-state-download-url"]
        .as_str()
        .expect("a state can be read");
    let raw = installation
        .http()
        .get(url)
        .bearer_auth(&installation.token)
        .send()
        .await
        .expect("the state answers");
    let raw: Value = raw.json().await.expect("a state is JSON");
    assert!(raw["encrypted_data"].is_string(), "{raw}");
    assert_eq!(raw["serial"], attributes["serial"]);

    // What the command line reads, it decrypts.
    assert_eq!(cli.run(&["output", "-raw", "o"]).await.succeeded(), "a");
    let state = state(&cli).await;
    assert_eq!(state["resources"][0]["name"], json!("a"), "{state}");
    let again = cli.run(&["plan", "-detailed-exitcode"]).await;
    assert_eq!(again.code, Some(0), "{}", again.output);
}
