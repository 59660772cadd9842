//! What an engine has to keep for every sandbox, and says of itself: a filter of system calls, and limits.

use bollard::Docker;
use bollard::models::SystemInfo;

use super::{DriverError, rootless};

/// What helps where kernel or engine cannot limit sandboxes.
pub(crate) const CURE_OF_LIMITS: &str = "boot the kernel with these controllers (cgroup_enable=memory on some); in a container, mount \
     /sys/fs/cgroup";

/// What helps where the engine filters no system calls.
pub(crate) const CURE_OF_SECCOMP: &str = "take seccomp-profile out of the engine's daemon.json (and --seccomp-profile out of its arguments) and restart it; a \
     kernel without CONFIG_SECCOMP_FILTER has to be replaced";

/// Why sandboxes would have no filter of system calls. `None` for an engine that says nothing about its security.
pub(crate) fn unfiltered(info: &SystemInfo) -> Option<&'static str> {
    let options = info.security_options.as_deref()?;
    if !rootless::says(options, "seccomp") {
        return Some("its sandboxes would have no seccomp profile: kernel or engine does not know it");
    }
    let is_unconfined = options.iter().any(|option| {
        let mut parts = option.split(',');
        parts.next() == Some("name=seccomp") && parts.any(|part| part == "profile=unconfined")
    });
    is_unconfined.then_some(
        "its sandboxes would have no seccomp profile: it is told to use \"unconfined\" where nothing else is asked for",
    )
}

/// What a warning about a container that was made or changed says that it has lost of its limits. Engines leave out what
/// their kernel cannot do. Without a limit of swap there is one of memory.
pub(super) fn lost_limit(warnings: &[String]) -> Option<&str> {
    let lost = |warning: &&String| warning.to_ascii_lowercase().contains("discarded");
    warnings.iter().find(lost).map(String::as_str)
}

/// The same, as an error.
///
/// # Errors
/// [`DriverError::Unprotected`] with the warning.
pub(super) fn refuse_lost_limits(warnings: &[String]) -> Result<(), DriverError> {
    lost_limit(warnings).map_or(Ok(()), |warning| {
        Err(DriverError::Unprotected(format!(
            "a sandbox would not have all its limits ({warning}): {CURE_OF_LIMITS}"
        )))
    })
}

/// Refuses an engine that would let sandboxes make any system call, or take what they like.
///
/// # Errors
/// [`DriverError::Unlimited`] and [`DriverError::Unprotected`] say what to do.
pub(super) async fn refuse_unprotected(docker: &Docker) -> Result<(), DriverError> {
    // One that says nothing is taken for what engines are, and fails where it cannot set a limit.
    let Ok(info) = docker.info().await else {
        return Ok(());
    };
    refuse(&info)
}

fn refuse(info: &SystemInfo) -> Result<(), DriverError> {
    if let Some(reason) = rootless::unlimited(info) {
        return Err(DriverError::Unlimited(reason));
    }
    let missing = rootless::missing_limits(info);
    if !missing.is_empty() {
        return Err(DriverError::Unprotected(format!(
            "it can set no limits of {}: {CURE_OF_LIMITS}",
            missing.join(" and ")
        )));
    }
    match unfiltered(info) {
        Some(reason) => Err(DriverError::Unprotected(format!("{reason}: {CURE_OF_SECCOMP}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(options: &[&str]) -> SystemInfo {
        SystemInfo {
            security_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            memory_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(true),
            ..Default::default()
        }
    }

    fn refusal(info: &SystemInfo) -> String {
        refuse(info)
            .err()
            .map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn engines_without_a_filter_of_system_calls_are_refused_with_a_cure() {
        for options in [
            &["name=apparmor", "name=seccomp,profile=unconfined"][..],
            &["name=apparmor", "name=cgroupns"],
            &[],
        ] {
            let said = refusal(&info(options));
            assert!(
                said.contains("no seccomp profile") && said.contains("daemon.json"),
                "{said}"
            );
        }
        for option in [
            "name=seccomp,profile=default",
            "name=seccomp,profile=builtin",
            "name=seccomp,profile=/etc/docker/seccomp.json",
        ] {
            assert_eq!(refusal(&info(&[option, "name=cgroupns"])), "");
        }
        // Some say nothing at all.
        assert_eq!(refusal(&SystemInfo::default()), "");
    }

    #[test]
    fn engines_that_cannot_limit_are_refused_with_what_they_cannot() {
        let partial = SystemInfo {
            memory_limit: Some(false),
            pids_limit: Some(false),
            ..info(&["name=seccomp,profile=builtin"])
        };
        let said = refusal(&partial);
        assert!(
            said.contains("no limits of memory and pids: boot the kernel"),
            "{said}"
        );
    }

    #[test]
    fn a_limit_that_is_left_out_is_told_from_other_warnings() {
        let kernel =
            |what: &str| format!("Your kernel does not support {what} or the cgroup is not mounted.");
        let harmless = [
            format!(
                "{} Memory limited without swap.",
                kernel("swap limit capabilities")
            ),
            "IPv4 forwarding is disabled. Networking will not work.".to_owned(),
        ];
        assert_eq!(lost_limit(&harmless), None);
        for lost in [
            format!("{} Limitation discarded.", kernel("memory limit capabilities")),
            format!("{} PIDs limit discarded.", kernel("PIDs limit capabilities")),
        ] {
            let warnings = [harmless[0].clone(), lost.clone()];
            assert_eq!(lost_limit(&warnings), Some(lost.as_str()));
            let said = refuse_lost_limits(&warnings).err().map(|error| error.to_string());
            assert!(said.is_some_and(|said| said.contains(&lost)));
        }
    }
}
