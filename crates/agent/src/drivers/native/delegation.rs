//! The control group that was delegated to an agent that is not root (systemd's "Control Group APIs and Delegation").
//!
//! The agent moves into a leaf of it, because only groups without processes hand controllers on; sandboxes get groups
//! beside that leaf. A systemd that starts the agent in the leaf itself (`DelegateSubgroup=`) is recognized.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::control_groups::{Hierarchy, make};
use crate::drivers::DriverError;

/// The leaf that the agent is in.
const LEAF: &str = "agent";

/// What limits are made with.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

fn refused(reason: impl Into<String>) -> DriverError {
    DriverError::NotNative(reason.into())
}

/// Finds the group that was delegated to this process, and moves the process into a leaf of it. Its controllers are not
/// handed on yet.
///
/// # Errors
/// [`DriverError::NotNative`] where limits could not be kept.
pub(super) fn take(hierarchies: &[Hierarchy], unified: Option<&Path>) -> Result<PathBuf, DriverError> {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own_group(hierarchies, unified, &memberships)?;
    let is_in_leaf = own.file_name().is_some_and(|name| name == LEAF);
    let group = match own.parent().filter(|parent| is_in_leaf && is_delegated(parent)) {
        Some(parent) => parent.to_owned(),
        None if is_delegated(&own) => own.clone(),
        None => {
            return Err(refused(format!(
                "its control group {} is not delegated to it, so it could not limit sandboxes: Delegate=yes in the \
                 [Service] of its unit, or start it by systemd-run --user --scope -p Delegate=yes; or run the agent as \
                 root",
                own.display()
            )));
        }
    };
    let has = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let missing = missing(&has);
    if !missing.is_empty() {
        return Err(refused(format!(
            "of the control group {} that is delegated to it, these controllers are missing: {}. Where a user's own \
             systemd delegates, put Delegate=cpu memory pids into the [Service] of a drop-in of user@.service and sign in \
             again; in a unit of the system, Delegate=yes is enough; or run the agent as root",
            group.display(),
            missing.join(", ")
        )));
    }
    if group == own {
        let leaf = group.join(LEAF);
        make(&leaf)
            .and_then(|()| fs::write(leaf.join("cgroup.procs"), std::process::id().to_string()))
            .map_err(|error| {
                refused(format!(
                    "it cannot move itself to {}: {error} (is that group delegated to its user?)",
                    leaf.display()
                ))
            })?;
    }
    Ok(group)
}

/// What kept a delegated group from handing its controllers on.
pub(super) fn explain(group: &Path, error: &io::Error) -> DriverError {
    let why = if error.kind() == io::ErrorKind::ResourceBusy {
        "other processes are in this group: the agent needs one of its own (a unit with Delegate=yes, or systemd-run --user \
         --scope -p Delegate=yes)"
            .to_owned()
    } else {
        error.to_string()
    };
    refused(format!(
        "limits for memory, processors and processes cannot be set below {}: {why}",
        group.display()
    ))
}

/// Where the group of this process is.
fn own_group(
    hierarchies: &[Hierarchy],
    unified: Option<&Path>,
    memberships: &str,
) -> Result<PathBuf, DriverError> {
    let is_first_version = hierarchies.iter().any(|(_, controllers)| {
        controllers
            .iter()
            .any(|name| CONTROLLERS.contains(&name.as_str()))
    });
    if is_first_version {
        return Err(refused(
            "an agent that is not root could not limit sandboxes: this host has control groups of version 1, which cannot \
             be delegated (boot it with systemd.unified_cgroup_hierarchy=1, run the agent as root, or use the docker \
             driver)",
        ));
    }
    let own = memberships.lines().find_map(|line| line.strip_prefix("0::"));
    match (unified, own) {
        (Some(root), Some(own)) => Ok(root.join(own.trim_start_matches('/'))),
        _ => Err(refused(
            "it has no control groups (mount cgroup2 at /sys/fs/cgroup)",
        )),
    }
}

/// Whether groups can be made below, and processes moved between them.
fn is_delegated(group: &Path) -> bool {
    [".", "cgroup.procs", "cgroup.subtree_control"]
        .iter()
        .all(|file| rustix::fs::access(group.join(file), Access::WRITE_OK).is_ok())
}

fn missing(controllers: &str) -> Vec<&'static str> {
    let has: Vec<&str> = controllers.split_whitespace().collect();
    CONTROLLERS
        .into_iter()
        .filter(|controller| !has.contains(controller))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(controller: &str) -> Vec<Hierarchy> {
        vec![("/sys/fs/cgroup/x".into(), vec![controller.to_owned()])]
    }

    #[test]
    fn version_1_is_refused_whatever_else_is_mounted() {
        let unified = Some(Path::new("/sys/fs/cgroup/unified"));
        for controller in ["memory", "cpu", "pids"] {
            let refused = own_group(&hierarchy(controller), unified, "4:memory:/\n0::/\n");
            let refused = refused.expect_err("limits could not be kept").to_string();
            assert!(refused.contains("version 1"), "{refused}");
        }
        // systemd's own hierarchy has no limits.
        assert!(own_group(&hierarchy("name=systemd"), unified, "1:name=systemd:/\n0::/\n").is_ok());
    }

    #[test]
    fn the_own_group_is_found_where_version_2_is_mounted() {
        let root = Some(Path::new("/sys/fs/cgroup"));
        let found = own_group(&[], root, "0::/user.slice/user-1000.slice/run-1.scope\n");
        assert_eq!(
            found.ok(),
            Some("/sys/fs/cgroup/user.slice/user-1000.slice/run-1.scope".into())
        );
        assert!(own_group(&[], None, "0::/\n").is_err());
        assert!(own_group(&[], root, "").is_err());
    }

    #[test]
    fn controllers_that_are_not_delegated_are_named() {
        assert!(missing("cpuset cpu io memory pids\n").is_empty());
        assert_eq!(missing("memory pids"), ["cpu"]);
        assert_eq!(missing(""), CONTROLLERS);
    }

    #[test]
    fn a_group_with_other_processes_says_what_to_do() {
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        let text = explain(Path::new("/sys/fs/cgroup/a"), &busy).to_string();
        assert!(
            text.contains("/sys/fs/cgroup/a") && text.contains("Delegate=yes"),
            "{text}"
        );
    }
}
