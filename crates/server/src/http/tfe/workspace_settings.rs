//! The settings of a workspace, as requests set them.

use axum::http::HeaderMap;
use serde_json::{Map, Value, json};
use terrapool_model::engine::{EngineKind, EngineVersion};
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, ProjectId};
use terrapool_model::image::{NotPinned, PinnedImage};
use terrapool_protocol::job::Limit;
use terrapool_store::pools::IMAGE_SETTING;
use terrapool_store::workspaces::WorkspaceSettings;
use terrapool_tfe::errors::Problem;
use terrapool_tfe::request::{Field, Item};

use super::execution::{self, Own};
use super::organizations::is_plain_name;

/// The settings as the audit log tells of their changes.
pub(super) fn told(settings: &WorkspaceSettings, project: &ProjectId) -> Value {
    let mut told = settings.further.clone();
    let own = json!({
        "name": settings.name, "project": project.as_str(), "description": settings.description,
        "execution-mode": settings.execution_mode.map(ExecutionMode::as_str),
        "agent-pool": settings.agent_pool_id.as_ref().map(AgentPoolId::as_str),
        "engine": settings.engine.to_string(), "engine-version": settings.engine_version,
        "working-directory": settings.working_directory, "auto-apply": settings.auto_apply,
        "global-remote-state": settings.global_remote_state,
        "structured-run-output": settings.structured_run_output,
    });
    if let Value::Object(own) = own {
        told.extend(own);
    }
    Value::Object(told)
}

/// Settings that are stored and returned, and change nothing here, with their defaults.
pub(super) fn defaults() -> Map<String, Value> {
    let defaults = json!({
        "allow-destroy-plan": true,
        "assessments-enabled": false,
        "auto-apply-run-trigger": false,
        "auto-destroy-activity-duration": null,
        "auto-destroy-at": null,
        "can-queue-destroy-plan": true,
        "file-triggers-enabled": true,
        "inherits-project-auto-destroy": true,
        "migration-environment": null,
        "project-remote-state": false,
        "queue-all-runs": false,
        "source-name": null,
        "source-url": null,
        "speculative-enabled": true,
        "trigger-patterns": [],
        "trigger-prefixes": [],
    });
    match defaults {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The settings of a workspace that a request with nothing but a name makes.
pub(super) fn fresh(headers: &HeaderMap) -> WorkspaceSettings {
    WorkspaceSettings {
        name: String::new(),
        description: None,
        execution_mode: None,
        agent_pool_id: None,
        // The versions of the two programs overlap, so only the client's own name tells them apart.
        engine: if super::is_tofu(headers) {
            EngineKind::Tofu
        } else {
            EngineKind::Terraform
        },
        engine_version: "latest".to_owned(),
        working_directory: String::new(),
        auto_apply: false,
        global_remote_state: false,
        structured_run_output: true,
        further: Map::new(),
    }
}

/// The name that stands in the address of a page where those of workspaces do.
const RESERVED: &str = "new";

/// Takes over what a request sets. `effective` is what holds now with inheritance.
pub(super) fn apply(item: &Item, settings: &mut WorkspaceSettings, effective: &Own) -> Result<(), Problem> {
    if let Some(name) = item.text("name")? {
        if !is_plain_name(&name, 90) {
            return Err(Problem::attribute(
                "name",
                "Name is invalid: it can only include letters, numbers, - and _, and has at most 90 characters",
            ));
        }
        // One that has its name already keeps it.
        if name == RESERVED && settings.name != name {
            return Err(Problem::attribute(
                "name",
                format!(
                    "Name is reserved: the page that makes workspaces has `{RESERVED}` in its address; choose another one"
                ),
            ));
        }
        settings.name = name;
    }
    match item.attribute::<String>("description")? {
        Field::Absent => {}
        Field::Null => settings.description = None,
        Field::Value(text) => settings.description = Some(text),
    }
    if let Some(text) = item.text("terraform-version")? {
        settings.engine_version = parse_version(&text)?;
    }
    if let Some(engine) = item.text("engine")? {
        settings.engine = match engine.as_str() {
            "terraform" => EngineKind::Terraform,
            "tofu" | "opentofu" => EngineKind::Tofu,
            _ => return Err(Problem::attribute("engine", "Engine has to be terraform or tofu")),
        };
    }
    match item.attribute::<String>("working-directory")? {
        Field::Absent => {}
        Field::Null => settings.working_directory.clear(),
        Field::Value(text) => settings.working_directory = parse_directory(&text)?,
    }
    set(&mut settings.auto_apply, item.flag("auto-apply")?);
    set(
        &mut settings.global_remote_state,
        item.flag("global-remote-state")?,
    );
    set(
        &mut settings.structured_run_output,
        item.flag("structured-run-output-enabled")?,
    );
    apply_further(item, &mut settings.further)?;
    let own = Own {
        mode: settings.execution_mode,
        pool: settings.agent_pool_id.clone(),
    };
    let own = execution::resolve(item, execution::WORKSPACE, &own, effective)?;
    settings.execution_mode = own.mode;
    settings.agent_pool_id = own.pool;
    Ok(())
}

fn set(setting: &mut bool, value: Option<bool>) {
    if let Some(value) = value {
        *setting = value;
    }
}

fn apply_further(item: &Item, further: &mut Map<String, Value>) -> Result<(), Problem> {
    let known = defaults();
    for (name, value) in &item.attributes {
        let Some(default) = known.get(name) else {
            continue;
        };
        let fits = match default {
            Value::Bool(_) => value.is_boolean() || value.is_null(),
            Value::Array(_) => value.is_array() || value.is_null(),
            _ => value.is_string() || value.is_null(),
        };
        if !fits {
            return Err(Problem::attribute(name, format!("{name} has the wrong type")));
        }
        if value.is_null() {
            further.remove(name);
        } else {
            further.insert(name.clone(), value.clone());
        }
    }
    let patterns = item.attributes.get("trigger-patterns").and_then(Value::as_array);
    if patterns.is_some_and(|patterns| !patterns.is_empty()) {
        further.remove("trigger-prefixes");
    }
    // Image and limits of the sandbox are settings of this product.
    match item.attribute::<String>(IMAGE_SETTING)? {
        Field::Absent => {}
        Field::Null => {
            further.remove(IMAGE_SETTING);
        }
        Field::Value(text) => {
            let image: PinnedImage = text.parse().map_err(|error: NotPinned| {
                Problem::attribute(IMAGE_SETTING, format!("Sandbox image: {error}"))
            })?;
            further.insert(IMAGE_SETTING.to_owned(), image.as_str().into());
        }
    }
    for limit in Limit::ALL {
        let name = limit.setting();
        let (least, most) = limit.range();
        match item.attributes.get(name) {
            None => {}
            Some(Value::Null) => {
                further.remove(name);
            }
            Some(value)
                if value
                    .as_u64()
                    .is_some_and(|number| (least..=most).contains(&number)) =>
            {
                further.insert(name.to_owned(), value.clone());
            }
            Some(_) => {
                return Err(Problem::attribute(
                    name,
                    format!("{name} has to be a whole number from {least} to {most}"),
                ));
            }
        }
    }
    Ok(())
}

/// A version or `latest`. Versions that nobody has heard of are fine; what is no version at all is not.
pub(super) fn parse_version(text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text == "latest" {
        return Ok("latest".to_owned());
    }
    match text.parse::<EngineVersion>() {
        Ok(version) => Ok(version.to_string()),
        Err(error) => Err(Problem::attribute(
            "terraform-version",
            format!("Terraform version is invalid: {error}"),
        )),
    }
}

/// A path inside the configuration.
fn parse_directory(text: &str) -> Result<String, Problem> {
    let trimmed = text.trim().trim_matches('/');
    let safe = trimmed.split('/').all(|part| part != "..") && !trimmed.contains(['\0', '\\']);
    if safe {
        Ok(trimmed.to_owned())
    } else {
        Err(Problem::attribute(
            "working-directory",
            "Working directory has to be a path inside the configuration",
        ))
    }
}
