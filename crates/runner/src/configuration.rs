//! What the runner adds to an unpacked configuration, and what it checks of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use terrapool_model::engine::EngineKind;
use terrapool_protocol::job::{FailureReason, JobSpec, VariableCategory};

use crate::archive;
use crate::error::Failure;
use crate::hcl;
use crate::paths::Paths;

/// The override files, one per engine. OpenTofu reads both; only its own is written for it.
const OVERRIDES: [&str; 2] = ["zz_terrapool_override.tf.json", "zz_terrapool_override.tofu.json"];

/// The values of input variables. Named to be read late.
const VARIABLES: &str = "zz_terrapool.auto.tfvars";

/// The lock file.
pub const LOCK_FILE: &str = ".terraform.lock.hcl";

/// Whether a file of the root module is one of ours.
pub fn is_ours(name: &std::ffi::OsStr) -> bool {
    OVERRIDES.iter().any(|ours| name == *ours) || name == VARIABLES
}

/// Finds the folder in which the engine runs.
///
/// # Errors
/// [`FailureReason::Configuration`] when it is not inside the configuration.
pub fn root_module(configuration: &Path, working_directory: &str) -> Result<PathBuf, Failure> {
    let refused = |why: &str| {
        let shown: String = working_directory.escape_debug().take(200).collect();
        let message = format!("The workspace's working directory `{shown}` {why}.");
        Failure::new(FailureReason::Configuration, message)
    };
    let relative = Path::new(working_directory);
    if working_directory.contains('\0') {
        return Err(refused("has a NUL byte"));
    }
    let mut plain = PathBuf::new();
    for component in relative.components() {
        match component {
            std::path::Component::Normal(part) => plain.push(part),
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => return Err(refused("must not contain `..`")),
            std::path::Component::RootDir | std::path::Component::Prefix(_) => {
                return Err(refused("must be relative to the configuration's root"));
            }
        }
    }
    if archive::resolve(configuration, &plain).is_none() {
        return Err(refused("is reached by a symlink that leaves the configuration"));
    }
    let folder = configuration.join(&plain);
    if !folder.is_dir() {
        return Err(refused("does not exist in the configuration"));
    }
    Ok(folder)
}

/// Replaces whatever backend or cloud block the configuration has by the local backend.
///
/// # Errors
/// [`FailureReason::Configuration`] when the configuration brings a file of that name.
pub fn write_override(paths: &Paths, root: &Path, engine: EngineKind) -> Result<(), Failure> {
    for name in OVERRIDES {
        if fs::symlink_metadata(root.join(name)).is_ok() {
            let message =
                format!("The configuration must not have a file named `{name}`: the run writes it.");
            return Err(Failure::new(FailureReason::Configuration, message));
        }
    }
    let name = match engine {
        EngineKind::Terraform => OVERRIDES[0],
        EngineKind::Tofu => OVERRIDES[1],
    };
    let document = serde_json::json!({"terraform": {"backend": {"local": {
        "path": template_free(&paths.backend_path()),
        "workspace_dir": template_free(&paths.backend_workspaces()),
    }}}});
    let path = root.join(name);
    write_new(&path, document.to_string().as_bytes())
}

/// Strings in JSON configuration are templates.
fn template_free(path: &Path) -> String {
    path.to_string_lossy().replace("${", "$${").replace("%{", "%%{")
}

/// Files that the configuration may bring as symlinks are never written through.
fn write_new(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::io("write", path, &error);
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = fs::File::create_new(path).map_err(failed)?;
    io::Write::write_all(&mut file, content).map_err(failed)
}

/// Writes the values of input variables, those of the run over those of the workspace. Answers lines for the log.
///
/// # Errors
/// A [`Failure`] when the work volume does not take the file.
pub fn write_variables(root: &Path, spec: &JobSpec) -> Result<Vec<String>, Failure> {
    let mut values = BTreeMap::new();
    for variable in &spec.variables {
        if variable.category == VariableCategory::Terraform {
            let value = variable.value.expose();
            let text = if variable.hcl {
                value.to_owned()
            } else {
                hcl::quote(value)
            };
            values.insert(variable.key.as_str(), text);
        }
    }
    for variable in &spec.run_variables {
        values.insert(variable.key.as_str(), variable.value.expose().to_owned());
    }
    let mut notes = Vec::new();
    let mut text = String::new();
    for (name, value) in values {
        if hcl::is_identifier(name) {
            text.push_str(&format!("{name} = {value}\n"));
        } else {
            let shown: String = name.escape_debug().take(100).collect();
            notes.push(format!(
                "The variable `{shown}` is ignored: this cannot be the name of an input variable."
            ));
        }
    }
    let path = root.join(VARIABLES);
    if fs::symlink_metadata(&path).is_ok() {
        let message =
            format!("The configuration must not have a file named `{VARIABLES}`: the run writes it.");
        return Err(Failure::new(FailureReason::Configuration, message));
    }
    if !text.is_empty() {
        write_new(&path, text.as_bytes())?;
    }
    Ok(notes)
}

/// After `init`: refuses unless the backend is the one that the override names. An override file of the configuration
/// that sorts later would have replaced it.
///
/// # Errors
/// [`FailureReason::Configuration`] when it is another one.
pub fn check_backend(paths: &Paths, root: &Path) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Document {
        backend: Option<Backend>,
    }
    #[derive(Deserialize)]
    struct Backend {
        #[serde(rename = "type")]
        kind: String,
        config: Option<Config>,
    }
    #[derive(Deserialize)]
    struct Config {
        path: Option<String>,
        workspace_dir: Option<String>,
    }
    let path = root.join(".terraform/terraform.tfstate");
    let backend = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Document>(&bytes).ok())
        .and_then(|document| document.backend);
    let kind = backend
        .as_ref()
        .map_or("none", |backend| backend.kind.as_str())
        .to_owned();
    let ours = backend.is_some_and(|backend| {
        backend.kind == "local"
            && backend.config.is_some_and(|config| {
                config.path.as_deref().map(Path::new) == Some(paths.backend_path().as_path())
                    && config.workspace_dir.as_deref().map(Path::new)
                        == Some(paths.backend_workspaces().as_path())
            })
    });
    if ours {
        return Ok(());
    }
    let message = format!(
        "The configuration replaces the state storage of this run (backend `{kind}`). Remove the override file, or the \
         argument, that sets another backend."
    );
    Err(Failure::new(FailureReason::Configuration, message))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::root_module;

    #[test]
    fn case_3_a_working_directory_outside_the_configuration_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("config");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(folder.path().join("outside")).unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink("a/b", root.join("in")).unwrap();
        for good in ["", ".", "a/b", "a/b/", "./a", "in"] {
            assert!(root_module(&root, good).is_ok(), "{good}");
        }
        for bad in ["../..", "/etc", "a/../..", "out", "etc", "missing", "..", "a\0b"] {
            let failure = root_module(&root, bad).unwrap_err();
            assert!(
                failure.message.starts_with("The workspace's working directory"),
                "{bad}"
            );
        }
    }
}
