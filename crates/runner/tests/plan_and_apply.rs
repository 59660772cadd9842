//! Jobs with the real engine.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Job, Sandbox, planned};
use terrapool_protocol::job::{
    ArtifactName, FailureReason, Outcome, OutputFormat, PartName, PlanMode, VariableCategory,
};
use terrapool_protocol::runner::{RunnerStage, ToRunner};

const TWO: &str = r#"
resource "terraform_data" "one" { input = terraform.workspace }
resource "terraform_data" "two" { input = terraform_data.one.id }
output "workspace" { value = terraform.workspace }
"#;

fn failure(outcome: &Outcome) -> (FailureReason, &str) {
    match outcome {
        Outcome::Failed { reason, message } => (*reason, message),
        other => panic!("{other:?}"),
    }
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn a_plan_leaves_its_artifacts_and_its_apply_leaves_a_state() {
    let mut sandbox = Sandbox::new();
    let job = Job::plan(&[("main.tf", TWO)]);
    let mut agent = sandbox.begin(&job);
    let ended = agent.finish();
    assert_eq!(agent.stage, Some(RunnerStage::Waiting));
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    assert!(agent.prepared && agent.started && ended.state.is_none());
    assert!(
        agent
            .text()
            .starts_with("Terraform v1.11.4\non linux_amd64\nInitializing plugins and modules...\n"),
        "{}",
        agent.text()
    );
    assert!(agent.text().contains("Plan: 2 to add"), "{}", agent.text());
    let shown = json(&agent.fetch(&ended, ArtifactName::PlanJson));
    assert_eq!(shown["resource_changes"].as_array().unwrap().len(), 2);
    let schemas = json(&agent.fetch(&ended, ArtifactName::ProviderSchemas));
    assert!(schemas["format_version"].is_string());
    assert!(ended.schemas_key.is_some());
    let plan = agent.fetch(&ended, ArtifactName::PlanArchive);
    agent.send(&ToRunner::Release);

    sandbox.renew();
    let mut agent = sandbox.begin(&job.apply(&plan, None));
    assert!(agent.until(|agent| agent.prepared));
    assert!(!agent.started && !common::exists(&sandbox.paths.marker()));
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    assert!(
        agent.text().contains("Apply complete! Resources: 2 added"),
        "{}",
        agent.text()
    );
    let (mark, document) = agent.states.last().unwrap();
    assert_eq!(ended.state.as_ref(), Some(mark));
    assert_eq!(json(document)["outputs"]["workspace"]["value"], "net-prod");

    // The state is where the next run starts from, and there is nothing left to do.
    let state = document.clone();
    agent.send(&ToRunner::Release);
    sandbox.renew();
    let mut next = job;
    next.part(PartName::State, &state);
    let mut agent = sandbox.begin(&next);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: false },
        "{}",
        agent.text()
    );
}

#[test]
fn provider_schemas_that_the_agent_has_are_not_made_again() {
    let mut sandbox = Sandbox::new();
    let job = Job::plan(&[("main.tf", TWO)]);
    let ended = sandbox.begin(&job).finish();
    sandbox.renew();
    let mut work = sandbox.work(&job.spec);
    if let ToRunner::Work { known_schemas, .. } = &mut work {
        known_schemas.extend(ended.schemas_key.clone());
    }
    let mut agent = sandbox.connect(0);
    agent.send(&work);
    agent.send_body(&ToRunner::Part, &job.bundle);
    let again = agent.finish();
    assert_eq!(again.schemas_key, ended.schemas_key);
    assert!(
        again
            .artifacts
            .iter()
            .all(|artifact| artifact.name != ArtifactName::ProviderSchemas)
    );
}

#[test]
fn output_for_machines_is_json_behind_the_plain_preamble() {
    let mut sandbox = Sandbox::new();
    let mut job = Job::plan(&[("main.tf", TWO)]);
    job.spec.output = OutputFormat::Json;
    let (mut agent, _) = planned(&mut sandbox, &job, None);
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    let text = agent.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[2], "Initializing plugins and modules...");
    for line in &lines[3..] {
        assert!(json(line.as_bytes())["@message"].is_string(), "{line}");
    }
}

#[test]
fn backends_and_cloud_blocks_are_replaced_without_a_question() {
    for block in [
        r#"backend "s3" { key = "x" }"#,
        "cloud {\n workspaces {\n tags = [\"a\"]\n }\n }",
        "backend \"remote\" {\n organization = \"o\"\n workspaces {\n prefix = \"net-\"\n }\n }",
        r#"backend "gcs" {}"#,
    ] {
        let mut sandbox = Sandbox::new();
        let main = format!("terraform {{\n {block}\n }}\n{TWO}");
        let (mut agent, _) = planned(&mut sandbox, &Job::plan(&[("main.tf", &main)]), None);
        agent.send(&ToRunner::Go);
        let ended = agent.finish();
        assert_eq!(
            ended.outcome,
            Outcome::Succeeded { changes: true },
            "{block}: {}",
            agent.text()
        );
        let state = json(&agent.states.last().unwrap().1);
        assert_eq!(state["outputs"]["workspace"]["value"], "net-prod", "{block}");
    }
}

#[test]
fn a_workspace_named_default_keeps_its_state() {
    let mut sandbox = Sandbox::new();
    let mut job = Job::plan(&[("main.tf", TWO)]);
    job.spec.workspace_name = "default".to_owned();
    let (mut agent, _) = planned(&mut sandbox, &job, None);
    agent.send(&ToRunner::Go);
    agent.finish();
    let state = agent.states.last().unwrap().1.clone();
    assert_eq!(json(&state)["outputs"]["workspace"]["value"], "default");
    agent.send(&ToRunner::Release);
    sandbox.renew();
    job.part(PartName::State, &state);
    let mut agent = sandbox.begin(&job);
    assert_eq!(
        agent.finish().outcome,
        Outcome::Succeeded { changes: false },
        "{}",
        agent.text()
    );
}

#[test]
fn a_working_directory_with_its_modules_is_planned_and_applied() {
    let mut sandbox = Sandbox::new();
    let module = r#"resource "terraform_data" "made" { input = "x" }"#;
    let main = r#"module "m" { source = "../../modules/m" }"#;
    let mut job = Job::plan(&[("env/prod/main.tf", main), ("modules/m/main.tf", module)]);
    job.spec.working_directory = "env/prod".to_owned();
    let (mut agent, _) = planned(&mut sandbox, &job, None);
    agent.send(&ToRunner::Go);
    assert_eq!(
        agent.finish().outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
}

#[test]
fn files_made_while_planning_are_there_while_applying() {
    // Files at plan time are made by providers, which are not to be had here: the engine is a script that does it.
    let script = r#"#!/bin/sh
case "$1" in
init) mkdir -p .terraform/providers .terraform/modules; echo p > .terraform/providers/p; echo m > .terraform/modules/m
  cat > .terraform/terraform.tfstate <<END
{"backend":{"type":"local","config":{"path":"$STATE/terraform.tfstate","workspace_dir":"$STATE/d"}}}
END
  ;;
plan) echo made > made.txt; echo changed >> old.txt; ln -s made.txt link; for a in "$@"; do case $a in -out=*) echo plan > "${a#-out=}";; esac; done; exit 2;;
show|providers) echo '{}';;
apply) cat made.txt old.txt link .terraform/modules/m kept.txt "$4"; ls .terraform/providers; echo '{"serial":1,"lineage":"a"}' > $STATE/d/net-prod/terraform.tfstate ;;
esac
"#;
    let mut sandbox = Sandbox::with_engine(script);
    let state = sandbox.paths.state.display().to_string();
    let job = Job::plan(&[("old.txt", "old\n"), ("kept.txt", "kept\n")]).variable(
        "STATE",
        &state,
        VariableCategory::Env,
        false,
        false,
    );
    let (mut agent, _) = planned(&mut sandbox, &job, None);
    agent.send(&ToRunner::Go);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    assert!(
        agent
            .text()
            .ends_with("made\nold\nchanged\nmade\nm\nkept\nplan\np\n"),
        "{}",
        agent.text()
    );
    assert_eq!(ended.state.unwrap().serial, Some(1));
}

#[test]
fn variables_reach_the_engine_exactly() {
    let value = "a \"b\" \\ ${c} $${d} %{e} %%{f} $ % \n\tü";
    let main = r#"
variable "text" { type = string }
variable "list" { type = list(string) }
variable "over" { type = string }
output "text" { value = var.text }
output "list" { value = var.list }
output "over" { value = var.over }
variable "TFC_WORKSPACE_SLUG" { type = string }
output "slug" { value = var.TFC_WORKSPACE_SLUG }
variable "from_env" { type = string }
output "env" { value = var.from_env }
"#;
    let sandbox = Sandbox::new();
    let job = Job::plan(&[("main.tf", main)])
        .variable("text", value, VariableCategory::Terraform, false, false)
        .variable("list", "[\"x\", \"y\"]", VariableCategory::Terraform, true, false)
        .variable("over", "workspace", VariableCategory::Terraform, false, false)
        .variable("not a name", "x", VariableCategory::Terraform, false, false)
        .variable("TF_VAR_from_env", "env", VariableCategory::Env, false, false)
        .variable("TF_WORKSPACE", "other", VariableCategory::Env, false, false)
        .run_variable("over", "\"run\"");
    let mut agent = sandbox.begin(&job);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    let shown = json(&agent.fetch(&ended, ArtifactName::PlanJson));
    let outputs = &shown["planned_values"]["outputs"];
    assert_eq!(outputs["text"]["value"], value);
    assert_eq!(outputs["list"]["value"][1], "y");
    assert_eq!(outputs["over"]["value"], "run");
    assert_eq!(outputs["slug"]["value"], "acme/net-prod");
    assert_eq!(outputs["env"]["value"], "env");
    assert!(
        agent
            .text()
            .contains("The environment variable TF_WORKSPACE of the workspace is ignored")
    );
    assert!(agent.text().contains("The variable `not a name` is ignored"));
}

#[test]
fn case_14_sensitive_values_are_masked_in_the_log() {
    let main = "variable \"password\" {}\noutput \"shown\" { value = \"<${var.password}> ${base64encode(\"x${var.password}y\")}\" }\n";
    let sandbox = Sandbox::new();
    let job = Job::plan(&[("main.tf", main)]).variable(
        "password",
        "hunter2-\"quoted\"",
        VariableCategory::Terraform,
        false,
        true,
    );
    let mut agent = sandbox.begin(&job);
    let ended = agent.finish();
    assert_eq!(
        ended.outcome,
        Outcome::Succeeded { changes: true },
        "{}",
        agent.text()
    );
    assert!(
        !agent.text().contains("hunter2") && agent.text().contains("<(sensitive value)>"),
        "{}",
        agent.text()
    );
    assert!(!agent.text().contains("aHVudGVyMi"), "{}", agent.text());
}

#[test]
fn modes_and_addresses_reach_the_engine() {
    let mut sandbox = Sandbox::new();
    let mut job = Job::plan(&[("main.tf", TWO)]);
    let (mut agent, _) = planned(&mut sandbox, &job, None);
    agent.send(&ToRunner::Go);
    agent.finish();
    let state = agent.states.last().unwrap().1.clone();
    agent.send(&ToRunner::Release);
    let base = job.clone();
    for (mode, replace, text) in [
        (
            PlanMode::Destroy,
            None,
            "Plan: 0 to add, 0 to change, 2 to destroy",
        ),
        (
            PlanMode::Normal,
            Some("terraform_data.one"),
            "Plan: 1 to add, 1 to change, 1 to destroy",
        ),
        (PlanMode::RefreshOnly, None, "No changes"),
    ] {
        sandbox.renew();
        job = base.clone();
        job.spec.mode = mode;
        job.spec.replace.extend(replace.map(str::to_owned));
        job.part(PartName::State, &state);
        let mut agent = sandbox.begin(&job);
        agent.finish();
        assert!(agent.text().contains(text), "{mode:?}: {}", agent.text());
        agent.send(&ToRunner::Release);
    }
    sandbox.renew();
    job = base;
    job.spec.targets.push("terraform_data.one".to_owned());
    let mut agent = sandbox.begin(&job);
    agent.finish();
    assert!(agent.text().contains("Plan: 1 to add"), "{}", agent.text());
}

fn refused(job: &Job) -> (Agent, FailureReason, String) {
    let sandbox = Sandbox::new();
    let mut agent = sandbox.begin(job);
    let ended = agent.finish();
    let (reason, message) = failure(&ended.outcome);
    assert!(ended.artifacts.is_empty());
    let message = message.to_owned();
    (agent, reason, message)
}

#[test]
fn an_invalid_configuration_fails_with_the_engines_words_in_the_log() {
    let (agent, reason, message) = refused(&Job::plan(&[("main.tf", "resource \"x\" {")]));
    assert_eq!(reason, FailureReason::Init);
    assert!(message.contains("`terraform init` failed: Error: "), "{message}");
    assert!(agent.text().contains("main.tf line 1"), "{}", agent.text());
    assert!(!agent.started);
}

/// Whether somebody wants to connect, which a registry that is asked for a provider sees first.
fn is_asked(registry: &std::net::TcpListener) -> bool {
    registry.set_nonblocking(true).unwrap();
    registry.accept().is_ok()
}

#[test]
fn case_11_a_provider_that_only_the_state_names_is_not_installed() {
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("{}/rogue/rogue", registry.local_addr().unwrap());
    let state = serde_json::json!({"version": 4, "terraform_version": "1.11.4", "serial": 3,
        "lineage": "2f8ab0a5-6d6c-6b8e-1111-111111111111", "outputs": {}, "check_results": null,
        "resources": [{"mode": "managed", "type": "rogue_thing", "name": "a",
            "provider": format!("provider[\"{source}\"]"),
            "instances": [{"schema_version": 0, "attributes": {"id": "a"}, "sensitive_attributes": []}]}]});
    let planned_with = |configuration: &str| {
        let mut job = Job::plan(&[("main.tf", configuration)]);
        job.part(PartName::State, state.to_string().as_bytes());
        refused(&job)
    };
    let (agent, reason, message) = planned_with("resource \"terraform_data\" \"a\" {}\n");
    assert_eq!(reason, FailureReason::Init);
    assert!(
        message.contains(&format!("`{source}`")) && message.contains("required_providers"),
        "{message}"
    );
    assert!(agent.text().contains(&message), "{}", agent.text());
    assert!(!agent.started && !is_asked(&registry));

    // The control: with the consent of the configuration, the registry is asked for it.
    let consent =
        format!("terraform {{\n  required_providers {{\n    rogue = {{ source = \"{source}\" }}\n  }}\n}}\n");
    let (tell, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // It hangs up on the first and is gone; clients try again and give up.
        registry.set_nonblocking(false).unwrap();
        tell.send(registry.accept().is_ok())
    });
    let (_, reason, message) = planned_with(&consent);
    assert_eq!(reason, FailureReason::Init);
    assert!(message.contains("`terraform init` failed"), "{message}");
    assert_eq!(asked.try_recv(), Ok(true));
}

#[test]
fn a_missing_variable_fails_the_plan() {
    let (agent, reason, message) = refused(&Job::plan(&[("main.tf", "variable \"needed\" {}")]));
    assert_eq!(reason, FailureReason::Exit);
    assert_eq!(
        message,
        "`terraform plan` failed: Error: No value for required variable"
    );
    assert!(agent.text().contains("No value for required variable"));
    assert!(agent.prepared && agent.started);
}

#[test]
fn a_configuration_that_takes_the_state_elsewhere_is_refused() {
    let later = r#"{"terraform":{"backend":{"local":{"path":"elsewhere.tfstate"}}}}"#;
    let (_, reason, message) = refused(&Job::plan(&[("main.tf", TWO), ("zzz_override.tf.json", later)]));
    assert_eq!(reason, FailureReason::Configuration);
    assert!(message.contains("replaces the state storage"), "{message}");
    let ours = Job::plan(&[("main.tf", TWO), ("zz_terrapool_override.tf.json", later)]);
    let (_, reason, message) = refused(&ours);
    assert_eq!(reason, FailureReason::Configuration);
    assert!(message.contains("zz_terrapool_override.tf.json"), "{message}");
}

#[test]
fn a_working_directory_that_does_not_exist_is_refused() {
    let mut job = Job::plan(&[("main.tf", TWO)]);
    job.spec.working_directory = "../..".to_owned();
    let (agent, reason, _) = refused(&job);
    assert_eq!(reason, FailureReason::Configuration);
    assert!(
        agent.text().contains("Error: The workspace's working directory"),
        "{}",
        agent.text()
    );
}

#[test]
fn a_plan_is_not_applied_with_another_configuration_or_engine() {
    let mut sandbox = Sandbox::new();
    let job = Job::plan(&[("main.tf", TWO)]);
    let mut agent = sandbox.begin(&job);
    let ended = agent.finish();
    let plan = agent.fetch(&ended, ArtifactName::PlanArchive);
    agent.send(&ToRunner::Release);
    sandbox.renew();
    let other = Job::plan(&[("main.tf", TWO), ("more.tf", "")]).apply(&plan, None);
    let mut agent = sandbox.begin(&other);
    let ended = agent.finish();
    let (reason, message) = failure(&ended.outcome);
    assert_eq!(reason, FailureReason::PlanMismatch);
    assert!(message.contains("another configuration"), "{message}");
    agent.send(&ToRunner::Release);
    sandbox.renew();
    let mut other = job.apply(&plan, None);
    other.spec.engine_sha256 = Some("0".repeat(64));
    let ended = sandbox.begin(&other).finish();
    assert_eq!(failure(&ended.outcome).0, FailureReason::PlanMismatch);
}

#[test]
fn a_damaged_bundle_or_engine_is_told() {
    let mut job = Job::plan(&[("main.tf", TWO)]);
    job.bundle[20] ^= 1;
    let (_, reason, message) = refused(&job);
    assert_eq!(reason, FailureReason::Internal);
    assert!(message.contains("damaged on its way"), "{message}");

    let sandbox = Sandbox::new();
    let job = Job::plan(&[("main.tf", TWO)]);
    let mut work = sandbox.work(&job.spec);
    if let ToRunner::Work { engine_sha256, .. } = &mut work {
        *engine_sha256 = "0".repeat(64);
    }
    let mut agent = sandbox.connect(0);
    agent.send(&work);
    agent.send_body(&ToRunner::Part, &job.bundle);
    let ended = agent.finish();
    assert_eq!(failure(&ended.outcome).0, FailureReason::Engine);
    assert!(!agent.prepared);
}

#[test]
fn case_1_a_hostile_archive_fails_the_run_and_nothing_is_written_outside() {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "out", "../../outside").unwrap();
    let bytes = builder.into_inner().unwrap().finish().unwrap();
    let (agent, reason, message) = refused(&Job::with_archive(&bytes));
    assert_eq!(reason, FailureReason::Configuration);
    assert!(
        message.contains("`out` is a symlink that leaves the archive's root"),
        "{message}"
    );
    assert!(agent.text().contains(&message));
    let (_, reason, message) = refused(&Job::with_archive(b"not an archive at all"));
    assert_eq!(reason, FailureReason::Configuration);
    assert!(message.contains("has to be a tar archive"), "{message}");
}
