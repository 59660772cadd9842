//! What kernel and container engine can: control groups, swap, user namespaces, SELinux, disks.

use std::path::Path;

use bollard::models::SystemInfo;

use super::Finding;
use crate::config::SandboxUser;
use crate::drivers::docker::{promises, rootless};

/// Less free disk than this, in MiB, and soon something fails.
const LITTLE_MB: u64 = 2048;
/// Less than this, and everything fails.
const NOTHING_MB: u64 = 200;

/// Whether the limits of sandboxes hold.
pub(super) fn cgroups(info: &SystemInfo) -> Finding {
    let said = |value: Option<String>| value.unwrap_or_else(|| "?".to_owned());
    let text = format!(
        "version {}, driver {}",
        said(info.cgroup_version.map(|version| version.to_string())),
        said(info.cgroup_driver.map(|driver| driver.to_string()))
    );
    if let Some(reason) = rootless::unlimited(info) {
        return Finding::broken(format!("{text}, and the engine is rootless"), reason);
    }
    let missing = rootless::missing_limits(info);
    if missing.is_empty() {
        let is_managed = Path::new("/run/systemd/system").exists();
        return driver_of(&text, is_managed);
    }
    Finding::broken(
        format!("{text}: no limits of {}", missing.join(", ")),
        promises::CURE_OF_LIMITS,
    )
}

/// Whether system calls of sandboxes are filtered.
pub(super) fn seccomp(info: &SystemInfo) -> Finding {
    match promises::unfiltered(info) {
        Some(reason) => Finding::broken(reason, promises::CURE_OF_SECCOMP),
        None => Finding::fine("system calls of sandboxes are filtered"),
    }
}

/// Whether two programs think that the tree of control groups is theirs (systemd's "The New Control Group Interfaces").
fn driver_of(text: &str, is_managed: bool) -> Finding {
    if is_managed && text == "version 2, driver cgroupfs" {
        Finding::warning(
            format!("{text}, on a host whose control groups are systemd's: limits of sandboxes may be lost"),
            "set \"exec-opts\": [\"native.cgroupdriver=systemd\"] in the engine's daemon.json and restart it while no job runs",
        )
    } else {
        Finding::fine(text)
    }
}

/// Whether other software uses the engine: `others` containers are of no agent.
pub(super) fn shared_engine(others: usize) -> Finding {
    if others == 0 {
        return Finding::fine("agents only");
    }
    Finding::warning(
        format!(
            "{others} containers are of no agent: this engine is shared. Whoever may use it can read every run on this \
             host, and what runs there competes with jobs"
        ),
        "give agents an engine of their own: terrapool-docker of the agent's package, or a host without other containers",
    )
}

/// Whether this process is in a container of Docker or Podman.
pub(super) fn is_in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|path| Path::new(path).exists())
}

/// As [`swap`], where there is no engine to ask.
pub(super) fn swap_without_engine() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let groups = Path::new("/sys/fs/cgroup");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let of_own = format!("{}/memory.swap.max", own.unwrap_or_default());
    let is_limited = [
        "memory/memory.memsw.limit_in_bytes",
        "terrapool/memory.swap.max",
        // Where it is delegated.
        of_own.as_str(),
    ]
    .iter()
    .any(|file| groups.join(file.trim_start_matches('/')).exists());
    swap_of(crate::host::swap_mb(&text), Some(is_limited))
}

/// Whether a job could use more memory than its limit by swapping.
pub(super) fn swap(info: &SystemInfo) -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    swap_of(crate::host::swap_mb(&text), info.swap_limit)
}

fn swap_of(swap_mb: u64, is_limited: Option<bool>) -> Finding {
    match (swap_mb, is_limited) {
        (0, _) => Finding::fine("none"),
        (_, Some(false)) => Finding::warning(
            format!(
                "{swap_mb} MB, and the kernel does not count it: a job may swap as much again as its memory limit"
            ),
            "boot with swapaccount=1, or switch swap off (swapoff -a, and its line in /etc/fstab)",
        ),
        _ => Finding::fine(format!("{swap_mb} MB; jobs get none of it")),
    }
}

/// Whether root in a sandbox is root on the host.
pub(super) fn user_namespaces(info: &SystemInfo, user: SandboxUser) -> Finding {
    let options = info.security_options.clone().unwrap_or_default();
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").ok();
    namespaces_of(&options, most.as_deref().map(str::trim), user)
}

fn namespaces_of(options: &[String], most: Option<&str>, user: SandboxUser) -> Finding {
    if rootless::says(options, "userns") || rootless::says(options, "rootless") {
        return Finding::fine("root in a sandbox is nobody on the host");
    }
    let cure = match most {
        None | Some("0") => {
            "sysctl -w user.max_user_namespaces=15000 (and a file in /etc/sysctl.d), then systemctl restart terrapool-docker"
        }
        Some(_) => {
            "use the agent's own engine (terrapool-docker), or userns-remap in the engine's configuration"
        }
    };
    match user {
        SandboxUser::Unprivileged => {
            Finding::fine("the engine does not remap users; sandboxes run as uid 1000 without capabilities")
        }
        SandboxUser::Root => Finding::warning(
            "user = \"root\", and the engine does not remap users: root in a sandbox is root on the host, without its \
             capabilities",
            cure,
        ),
    }
}

/// SELinux, as the kernel says.
pub(super) fn selinux() -> Finding {
    let enforce = std::fs::read_to_string("/sys/fs/selinux/enforce").ok();
    let policy = [
        "/usr/share/selinux/packages/container.pp.bz2",
        "/usr/share/selinux/packages/container.pp",
    ];
    selinux_of(
        enforce.as_deref().map(str::trim),
        policy.iter().any(|path| Path::new(path).exists()),
    )
}

fn selinux_of(enforce: Option<&str>, has_policy: bool) -> Finding {
    match (enforce, has_policy) {
        (None, _) => Finding::fine("off"),
        (Some("0"), _) => Finding::fine("permissive"),
        (Some(_), true) => Finding::fine("enforcing, with the policy for containers"),
        (Some(_), false) => Finding::warning(
            "enforcing, and the policy for containers is not where it usually is",
            "yum install container-selinux; ausearch -m avc -ts recent shows what is refused",
        ),
    }
}

/// Whether sandboxes of an engine have SELinux labels, on a host where SELinux enforces; `None` elsewhere.
pub(super) fn selinux_labels(info: &SystemInfo) -> Option<Finding> {
    let enforce = std::fs::read_to_string("/sys/fs/selinux/enforce").ok();
    let options = info.security_options.as_deref().unwrap_or_default();
    labels_of(enforce.as_deref().map(str::trim), options)
}

fn labels_of(enforce: Option<&str>, options: &[String]) -> Option<Finding> {
    if matches!(enforce, None | Some("0")) {
        return None;
    }
    Some(if rootless::says(options, "selinux") {
        Finding::fine("sandboxes have labels of their own")
    } else {
        Finding::warning(
            "enforcing, but the engine gives sandboxes no labels: SELinux does not keep them from the host",
            "with container-selinux, label the engine's data as Docker's (semanage fcontext -a -e /var/lib/docker FOLDER, \
             restorecon -R FOLDER), set \"selinux-enabled\": true in its daemon.json, and restart it while no job runs",
        )
    })
}

/// Room in the file system of a folder, or of the nearest folder above that exists.
pub(super) fn disk(what: &str, folder: &Path) -> Finding {
    let there = folder.ancestors().find(|folder| folder.exists());
    let room = there.and_then(|folder| rustix::fs::statvfs(folder).ok());
    match room {
        Some(room) => {
            let free_mb = room.f_bavail.saturating_mul(room.f_frsize) >> 20;
            disk_of(what, folder, free_mb, room.f_favail, room.f_files)
        }
        None => Finding::warning(
            format!("{} cannot be looked at", folder.display()),
            "call doctor with sudo",
        ),
    }
}

fn disk_of(what: &str, folder: &Path, free_mb: u64, free_files: u64, files: u64) -> Finding {
    let text = format!("{free_mb} MB free for {what} ({})", folder.display());
    let cure = "make room, or put the folder on a larger file system; a run may write up to its disk limit (10 GB unless \
                its pool says otherwise)";
    // File systems that make them as they are needed say that they have none.
    let few_files = files > 0 && free_files < files / 50;
    if free_mb < NOTHING_MB || (files > 0 && free_files == 0) {
        Finding::broken(text, cure)
    } else if few_files {
        Finding::warning(format!("{text}, but only {free_files} of {files} inodes"), cure)
    } else if free_mb < LITTLE_MB {
        Finding::warning(text, cure)
    } else {
        Finding::fine(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fine(finding: &Finding) -> bool {
        matches!(finding, Finding::Fine(_))
    }

    fn warns(finding: &Finding, cure: &str) -> bool {
        matches!(finding, Finding::Warning { cure: said, .. } if said.contains(cure))
    }

    #[test]
    fn limits_that_the_kernel_does_not_have_are_named() {
        let whole = SystemInfo {
            memory_limit: Some(true),
            cpu_cfs_quota: Some(true),
            pids_limit: Some(true),
            ..Default::default()
        };
        assert!(is_fine(&cgroups(&whole)));
        // Older engines do not say.
        assert!(is_fine(&cgroups(&SystemInfo::default())));
        let partial = SystemInfo {
            memory_limit: Some(false),
            ..whole
        };
        let Finding::Broken { found, .. } = cgroups(&partial) else {
            panic!("no memory limit is broken");
        };
        assert!(found.contains("no limits of memory"), "{found}");
    }

    #[test]
    fn swap_that_is_not_counted_is_worth_a_word() {
        assert!(is_fine(&swap_of(0, Some(false))));
        assert!(is_fine(&swap_of(1024, Some(true))));
        assert!(warns(&swap_of(1024, Some(false)), "swapaccount=1"));
    }

    #[test]
    fn two_owners_of_control_groups_are_worth_a_word() {
        assert!(is_fine(&driver_of("version 2, driver systemd", true)));
        assert!(is_fine(&driver_of("version 2, driver cgroupfs", false)));
        assert!(is_fine(&driver_of("version 1, driver cgroupfs", true)));
        assert!(warns(
            &driver_of("version 2, driver cgroupfs", true),
            "native.cgroupdriver=systemd"
        ));
    }

    #[test]
    fn an_engine_with_other_users_is_worth_a_word() {
        assert!(is_fine(&shared_engine(0)));
        assert!(warns(&shared_engine(3), "terrapool-docker"));
    }

    #[test]
    fn root_in_sandboxes_without_remapping_is_worth_a_word() {
        let options = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let remapped = options(&["name=seccomp,profile=default", "name=userns"]);
        let plain = options(&["name=seccomp,profile=default"]);
        assert!(is_fine(&namespaces_of(&remapped, Some("100"), SandboxUser::Root)));
        assert!(is_fine(&namespaces_of(
            &plain,
            Some("0"),
            SandboxUser::Unprivileged
        )));
        assert!(warns(
            &namespaces_of(&plain, Some("0"), SandboxUser::Root),
            "sysctl"
        ));
        assert!(warns(
            &namespaces_of(&plain, Some("100"), SandboxUser::Root),
            "terrapool-docker"
        ));
    }

    #[test]
    fn selinux_that_enforces_wants_the_policy_for_containers() {
        assert!(is_fine(&selinux_of(None, false)));
        assert!(is_fine(&selinux_of(Some("0"), false)));
        assert!(is_fine(&selinux_of(Some("1"), true)));
        assert!(warns(&selinux_of(Some("1"), false), "container-selinux"));
    }

    #[test]
    fn an_engine_without_labels_is_worth_a_word_where_selinux_enforces() {
        let labelled = [
            "name=seccomp,profile=builtin".to_owned(),
            "name=selinux".to_owned(),
        ];
        assert!(labels_of(None, &[]).is_none());
        assert!(labels_of(Some("0"), &[]).is_none());
        assert!(labels_of(Some("1"), &labelled).is_some_and(|finding| is_fine(&finding)));
        assert!(
            labels_of(Some("1"), &labelled[..1]).is_some_and(|finding| warns(&finding, "selinux-enabled"))
        );
    }

    #[test]
    fn an_engine_that_filters_no_system_calls_is_broken() {
        let says = |option: &str| SystemInfo {
            security_options: Some(vec![option.to_owned()]),
            ..Default::default()
        };
        assert!(is_fine(&seccomp(&says("name=seccomp,profile=builtin"))));
        let unconfined = seccomp(&says("name=seccomp,profile=unconfined"));
        assert!(matches!(unconfined, Finding::Broken { cure, .. } if cure.contains("seccomp-profile")));
    }

    #[test]
    fn disks_are_judged_by_room_and_by_inodes() {
        let judged =
            |free_mb, free_files, files| disk_of("data", Path::new("/data"), free_mb, free_files, files);
        assert!(is_fine(&judged(50_000, 90, 100)));
        assert!(is_fine(&judged(50_000, 0, 0)));
        assert!(warns(&judged(1000, 90, 100), "make room"));
        assert!(warns(&judged(50_000, 1, 100), "make room"));
        assert!(matches!(judged(100, 90, 100), Finding::Broken { .. }));
        assert!(matches!(judged(50_000, 0, 100), Finding::Broken { .. }));
    }
}
