//! Engines that run without root's rights (rootless), and what they cannot promise.

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};

/// Whether an engine says this of its security, as in `name=rootless`.
pub(crate) fn says(options: &[String], name: &str) -> bool {
    options.iter().any(|option| {
        option == name
            || option
                .strip_prefix("name=")
                .and_then(|option| option.split(',').next())
                == Some(name)
    })
}

/// Whether an engine runs without root's rights.
pub(crate) fn is_rootless(info: &SystemInfo) -> bool {
    let options = info.security_options.as_deref().unwrap_or_default();
    says(options, "rootless")
}

/// The limits that the kernel does not let an engine set, as far as it says so.
pub(crate) fn missing_limits(info: &SystemInfo) -> Vec<&'static str> {
    [
        ("memory", info.memory_limit),
        ("cpu", info.cpu_cfs_quota),
        ("pids", info.pids_limit),
    ]
    .into_iter()
    .filter(|(_, has)| *has == Some(false))
    .map(|(name, _)| name)
    .collect()
}

/// Why a rootless engine cannot limit sandboxes, and what helps. On control groups of version 1 Podman ignores limits
/// without failing.
pub(crate) fn unlimited(info: &SystemInfo) -> Option<String> {
    if !is_rootless(info) {
        return None;
    }
    if info.cgroup_version == Some(SystemInfoCgroupVersionEnum::_1) {
        return Some(
            "on control groups of version 1 only root may limit: boot the host with systemd.unified_cgroup_hierarchy=1, or \
             give the agent an engine that runs as root"
                .to_owned(),
        );
    }
    let missing = missing_limits(info);
    (!missing.is_empty()).then(|| {
        format!(
            "its user may not limit {}: let systemd delegate that (Delegate=cpu cpuset io memory pids in a drop-in of \
             user@.service, then log in anew), or give the agent an engine that runs as root",
            missing.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(options: &[&str], version: SystemInfoCgroupVersionEnum, pids_limit: bool) -> SystemInfo {
        SystemInfo {
            security_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            cgroup_version: Some(version),
            memory_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(pids_limit),
            ..Default::default()
        }
    }

    #[test]
    fn rootless_engines_that_cannot_limit_are_refused_with_what_helps() {
        use SystemInfoCgroupVersionEnum::{_1, _2};
        let rootless = ["name=seccomp,profile=default", "name=rootless"];
        let said = |info: &SystemInfo| unlimited(info).unwrap_or_default();
        assert!(said(&info(&rootless, _1, true)).contains("unified_cgroup_hierarchy"));
        assert!(said(&info(&rootless, _2, false)).contains("may not limit pids: let systemd delegate"));
        assert_eq!(unlimited(&info(&rootless, _2, true)), None);
        assert_eq!(unlimited(&info(&rootless[..1], _1, true)), None);
    }
}
