//! The engine's environment, built from empty.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use terrapool_protocol::job::{JobSpec, VariableCategory};
use terrapool_protocol::relay::{PLACEHOLDER, PREFIX};
use terrapool_protocol::runner::Egress;

use crate::paths::Paths;
use crate::{egress, hcl};

/// Names that are handed through from the runner's own environment, where the agent put them.
const INHERITED: [&str; 9] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Where programs are looked for when the image says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names by which a variable could take a run out of its workspace, its state or its folders.
const RESERVED: [&str; 5] = [
    "TF_WORKSPACE",
    "TF_DATA_DIR",
    "TF_CLI_CONFIG_FILE",
    "TERRAFORM_CONFIG",
    "TF_INPUT",
];

/// Commands for which extra arguments may be set; all others are ours alone.
const OPEN_COMMANDS: [&str; 3] = ["init", "plan", "apply"];

/// Options that would move the state, or the engine, somewhere else.
const CLOSED_OPTIONS: [&str; 5] = ["-state", "-backup", "-chdir", "-out", "-lockfile"];

/// The environment of the engine, and what has to be said about variables that are not in it.
#[derive(Debug, Default)]
pub struct Environment {
    /// Names and values.
    pub variables: BTreeMap<OsString, OsString>,
    /// Lines for the log.
    pub notes: Vec<String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }
}

/// Builds the environment for a job.
pub fn build(paths: &Paths, temporary: &PathBuf, spec: &JobSpec, way_out: &Egress) -> Environment {
    let mut environment = Environment::default();
    environment.set("PATH", DEFAULT_PATH);
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            environment.set(name, value);
        }
    }
    for (name, value) in &way_out.proxy {
        environment.set(name, value.expose());
    }
    match egress::certificates(paths, way_out) {
        Ok(Some(bundle)) => {
            for name in egress::CERTIFICATE_VARIABLES {
                environment.set(name, &bundle);
            }
        }
        Ok(None) => {}
        Err(error) => {
            let note = format!("The agent's certificates cannot be used in this run: {error}.");
            environment.notes.push(note);
        }
    }
    environment.set("HOME", paths.home());
    environment.set("TMPDIR", temporary);
    environment.set("TF_IN_AUTOMATION", "1");
    environment.set("TF_INPUT", "0");
    environment.set("CHECKPOINT_DISABLE", "1");
    environment.set("TF_WORKSPACE", &spec.workspace_name);
    environment.set("TF_CLI_CONFIG_FILE", paths.cli_config());
    let about_the_run = [
        ("TFC_RUN_ID", spec.run.as_str().to_owned()),
        ("TFC_WORKSPACE_NAME", spec.workspace_name.clone()),
        (
            "TFC_WORKSPACE_SLUG",
            format!("{}/{}", spec.organization, spec.workspace_name),
        ),
        ("TFC_PROJECT_NAME", spec.project.clone()),
        (
            "TFC_CONFIGURATION_VERSION_ID",
            spec.configuration_version.as_str().to_owned(),
        ),
    ];
    for (name, value) in about_the_run {
        environment.set(&format!("TF_VAR_{name}"), &value);
        environment.set(name, value);
    }
    for variable in &spec.variables {
        if variable.category != VariableCategory::Env {
            continue;
        }
        match refusal(&variable.key, variable.value.expose()) {
            None => environment.set(&variable.key, variable.value.expose()),
            Some(why) => {
                let name: String = variable.key.escape_debug().take(100).collect();
                let note = format!("The environment variable {name} of the workspace is ignored: {why}.");
                environment.notes.push(note);
            }
        }
    }
    environment
}

/// Why a variable is not handed to the engine.
fn refusal(name: &str, value: &str) -> Option<&'static str> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Some("this cannot be the name of an environment variable");
    }
    if value.contains('\0') {
        return Some("its value has a NUL byte");
    }
    if RESERVED.contains(&name) {
        return Some("it is set by the run itself");
    }
    if name == "TF_CLI_ARGS" {
        return Some("it would change every command; use TF_CLI_ARGS_plan or TF_CLI_ARGS_apply");
    }
    if let Some(command) = name.strip_prefix("TF_CLI_ARGS_") {
        if !OPEN_COMMANDS.contains(&command) {
            return Some("the run itself gives the arguments of this command");
        }
        let moves = value.split_whitespace().any(|word| {
            let word = word.trim_matches(['"', '\'']);
            // Options are taken with one dash and with two.
            let word = word
                .strip_prefix('-')
                .filter(|rest| rest.starts_with('-'))
                .unwrap_or(word);
            CLOSED_OPTIONS.iter().any(|option| word.starts_with(option))
        });
        if moves {
            return Some("it would move the state, the plan or the working folder");
        }
    }
    None
}

/// What clients look for on a host of the API (service discovery).
const SERVICES: [&str; 4] = ["tfe.v2", "tfe.v2.1", "tfe.v2.2", "state.v2"];

/// Whether the engine takes this as a host's name; one that it does not take would end every command.
fn is_host(name: &str) -> bool {
    let (host, port) = name.rsplit_once(':').unwrap_or((name, "443"));
    let labels = host.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    });
    labels && port.parse::<u16>().is_ok()
}

/// Writes the engine's CLI configuration: the relay at `port` as the control plane's `hosts`, and the provider mirror,
/// where there is one.
///
/// # Errors
/// Of the job volume.
pub fn write_cli_config(paths: &Paths, hosts: &[String], port: Option<u16>) -> io::Result<()> {
    let mut text = String::from("disable_checkpoint = true\n");
    for host in hosts.iter().filter(|host| is_host(host)) {
        let Some(port) = port else { break };
        let host = hcl::quote(host);
        text.push_str(&format!("host {host} {{\n  services = {{\n"));
        for service in SERVICES {
            text.push_str(&format!(
                "    \"{service}\" = \"http://127.0.0.1:{port}{PREFIX}\"\n"
            ));
        }
        text.push_str(&format!(
            "  }}\n}}\ncredentials {host} {{\n  token = \"{PLACEHOLDER}\"\n}}\n"
        ));
    }
    let mirror = paths.mirror();
    if mirror.is_dir() {
        let mirror = hcl::quote(&mirror.to_string_lossy());
        text.push_str(&format!(
            "provider_installation {{\n  filesystem_mirror {{\n    path = {mirror}\n  }}\n  direct {{}}\n}}\n"
        ));
    }
    std::fs::write(paths.cli_config(), text)
}

#[cfg(test)]
mod tests {
    use super::{is_host, refusal};

    #[test]
    fn only_names_that_the_engine_takes_become_hosts() {
        for name in ["localhost:8443", "tp.example.com", "10.0.0.1:8443", "a-b.c:1"] {
            assert!(is_host(name), "{name}");
        }
        for name in ["", "[::1]:8443", "a b", "-x.y", "x..y", "x:99999", "x/y", "\"x"] {
            assert!(!is_host(name), "{name}");
        }
    }

    #[test]
    fn case_23_variables_that_would_leave_the_run_are_refused() {
        for (name, value) in [
            ("TF_WORKSPACE", "other"),
            ("TF_DATA_DIR", "/tmp"),
            ("TF_CLI_CONFIG_FILE", "/tmp/x"),
            ("TF_INPUT", "1"),
            ("TF_CLI_ARGS", "-no-color"),
            ("TF_CLI_ARGS_show", "-x"),
            ("TF_CLI_ARGS_apply", "-parallelism=2 -state-out=/tmp/x"),
            ("TF_CLI_ARGS_plan", "--state=/tmp/x"),
            ("TF_CLI_ARGS_plan", "'-state=/tmp/x'"),
            ("A=B", "c"),
            ("A\0", "c"),
            ("", "c"),
        ] {
            assert!(refusal(name, value).is_some(), "{name}={value}");
        }
        for (name, value) in [
            ("AWS_REGION", "eu"),
            ("TF_CLI_ARGS_plan", "-parallelism=20"),
            ("TF_LOG", "debug"),
            ("LD_PRELOAD", "x"),
        ] {
            assert!(refusal(name, value).is_none(), "{name}={value}");
        }
    }
}
