//! What agents under test leave on the container engine. They keep volumes on purpose; a machine that runs all tests
//! would fill its disk with them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// Kinds of things an agent makes, in an order in which they can be removed: how to list them, and how to remove them.
const KINDS: [(&[&str], &[&str]); 2] = [
    (&["ps", "-aq"], &["rm", "-fv"]),
    (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
];

/// Removes the containers and volumes of the agent that had this data folder, and ends sandboxes of its native driver.
/// What cannot be removed stays.
pub(crate) fn remove(agent_folder: &Path) {
    end_native_sandboxes(&agent_folder.join("native/sandboxes"));
    let Ok(key) = std::fs::read_to_string(agent_folder.join("instance.key")) else {
        return;
    };
    // As the agent names itself on its engine.
    let digest = Sha256::digest(key.trim().as_bytes());
    let identity: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    // The engine may still be at work on what the agent last asked for.
    for _ in 0..50 {
        let mut is_empty = true;
        for (list, removal) in KINDS {
            let filter = format!("name=terrapool-{identity}");
            let found = docker(&[list, &["--filter", &filter]].concat());
            let names: Vec<&str> = found.split_whitespace().collect();
            if !names.is_empty() {
                is_empty = false;
                docker(&[removal, &names].concat());
            }
        }
        if is_empty {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// They go with their first process, and their links with them.
fn end_native_sandboxes(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let note = std::fs::read(entry.path().join("sandbox.json")).unwrap_or_default();
        let note: serde_json::Value = serde_json::from_slice(&note).unwrap_or_default();
        for (role, program) in [("process", "terrapool-runner"), ("outlet", "slirp4netns")] {
            let is_ours = |process: &u64| {
                std::fs::read_to_string(format!("/proc/{process}/cmdline"))
                    .is_ok_and(|command| command.contains(program))
            };
            if let Some(process) = note[role]["number"].as_u64().filter(is_ours) {
                let _ = Command::new("kill")
                    .args(["-KILL", &process.to_string()])
                    .output();
            }
        }
        if let Some(link) = note["link"]["number"].as_u64() {
            let _ = std::fs::remove_file(format!("/run/terrapool-native/{link}"));
        }
    }
}

fn docker(arguments: &[&str]) -> String {
    let mut docker = Command::new("docker");
    docker.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    docker.output().map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}
