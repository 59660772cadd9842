//! Limits by control groups, version 1 or 2 (cgroups(7)): one group for each sandbox, below a group of ours.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use terrapool_protocol::job::Limits;

use super::delegation;
use super::privilege::Privilege;
use crate::drivers::DriverError;

/// Our group, and what it is called in messages.
const OURS: &str = "terrapool";
/// Microseconds over which CPU time is counted.
const PERIOD: u64 = 100_000;
/// A group empties a moment after its last process was killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// Where the groups of sandboxes are made.
#[derive(Debug)]
pub(super) enum ControlGroups {
    /// One hierarchy for each controller.
    V1 {
        memory: PathBuf,
        cpu: PathBuf,
        pids: PathBuf,
        accounting: PathBuf,
        /// Without controllers: where systemd looks for the processes of its services.
        services: Option<PathBuf>,
    },
    /// One hierarchy.
    V2(PathBuf),
}

impl ControlGroups {
    /// Finds what this host has, and what of it this agent may use.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] where limits could not be kept.
    pub(super) fn find(privilege: Privilege) -> Result<Self, DriverError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (hierarchies, unified) = parse_mounts(&mounts);
        if privilege == Privilege::User {
            let delegated = delegation::take(&hierarchies, unified.as_deref())?;
            let ours = delegated.join(OURS);
            prepare(&delegated, &ours).map_err(|error| delegation::explain(&delegated, &error))?;
            return Ok(Self::V2(ours));
        }
        let of = |controller: &str| {
            hierarchies
                .iter()
                .find(|(_, controllers)| controllers.iter().any(|name| name == controller))
                .map(|(path, _)| path.join(OURS))
        };
        if let (Some(memory), Some(cpu), Some(pids), Some(accounting)) =
            (of("memory"), of("cpu"), of("pids"), of("cpuacct"))
        {
            return Ok(Self::V1 {
                memory,
                cpu,
                pids,
                accounting,
                services: of("name=systemd"),
            });
        }
        let Some(root) = unified else {
            return Err(DriverError::NotNative(
                "it has no control groups (mount cgroup2 at /sys/fs/cgroup)".to_owned(),
            ));
        };
        let ours = root.join(OURS);
        prepare(&root, &ours).map_err(|error| {
            DriverError::NotNative(format!(
                "limits for memory, processors and processes cannot be set below {}: {error}",
                root.display()
            ))
        })?;
        Ok(Self::V2(ours))
    }

    /// Makes the group of a sandbox.
    pub(super) fn create(&self, name: &str, limits: Limits) -> Result<(), DriverError> {
        for group in self.groups(name) {
            make(&group).map_err(file_error(&group))?;
        }
        self.set(name, limits)
    }

    /// Sets the limits of a sandbox, which may run.
    pub(super) fn set(&self, name: &str, limits: Limits) -> Result<(), DriverError> {
        let memory = (limits.memory_mb << 20).to_string();
        let quota = (limits.cpu_millis * PERIOD / 1000).max(1000).to_string();
        let put = |path: PathBuf, value: &str| fs::write(&path, value).map_err(file_error(&path));
        match self {
            Self::V1 {
                memory: hierarchy,
                cpu,
                pids,
                ..
            } => {
                let group = hierarchy.join(name);
                let (plain, with_swap) = (
                    group.join("memory.limit_in_bytes"),
                    group.join("memory.memsw.limit_in_bytes"),
                );
                // Neither may pass the other on the way: up, the second has to be first.
                let first = fs::write(&plain, &memory);
                if with_swap.exists() {
                    put(with_swap, &memory)?;
                }
                if first.is_err() {
                    put(plain, &memory)?;
                }
                put(cpu.join(name).join("cpu.cfs_period_us"), &PERIOD.to_string())?;
                put(cpu.join(name).join("cpu.cfs_quota_us"), &quota)?;
                put(pids.join(name).join("pids.max"), &limits.pids.to_string())
            }
            Self::V2(hierarchy) => {
                let group = hierarchy.join(name);
                put(group.join("memory.max"), &memory)?;
                if group.join("memory.swap.max").exists() {
                    put(group.join("memory.swap.max"), "0")?;
                }
                put(group.join("cpu.max"), &format!("{quota} {PERIOD}"))?;
                put(group.join("pids.max"), &limits.pids.to_string())
            }
        }
    }

    /// Puts a process into the group of a sandbox; what it starts is in it as well.
    pub(super) fn enter(&self, name: &str, process: u32) -> Result<(), DriverError> {
        for group in self.groups(name) {
            let list = group.join("cgroup.procs");
            fs::write(&list, process.to_string()).map_err(file_error(&list))?;
        }
        Ok(())
    }

    /// What a sandbox sees of its own group: a name below `/sys/fs/cgroup`, or that folder itself, and where it is.
    pub(super) fn views(&self, name: &str) -> Vec<(String, PathBuf)> {
        match self {
            Self::V1 {
                memory,
                cpu,
                pids,
                accounting,
                ..
            } => [
                ("memory", memory),
                ("cpu", cpu),
                ("pids", pids),
                ("cpuacct", accounting),
            ]
            .into_iter()
            .map(|(controller, hierarchy)| (controller.to_owned(), hierarchy.join(name)))
            .collect(),
            Self::V2(hierarchy) => vec![(String::new(), hierarchy.join(name))],
        }
    }

    /// Kills what is left in the group of a sandbox and removes it.
    pub(super) async fn remove(&self, name: &str) {
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            let left: Vec<PathBuf> = self
                .groups(name)
                .into_iter()
                .filter(|group| group.exists() && fs::remove_dir(group).is_err())
                .collect();
            if left.is_empty() {
                return;
            }
            for process in left.iter().flat_map(|group| processes(group)) {
                super::process::kill(process);
            }
            if Instant::now() >= deadline {
                tracing::warn!(sandbox = name, "a sandbox's control group could not be removed");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn groups(&self, name: &str) -> Vec<PathBuf> {
        let mut groups: Vec<PathBuf> = self.views(name).into_iter().map(|(_, path)| path).collect();
        // Controllers may share a hierarchy.
        groups.dedup();
        if let Self::V1 {
            services: Some(services),
            ..
        } = self
        {
            groups.push(services.join(name));
        }
        groups
    }
}

/// The processes in a group.
fn processes(group: &Path) -> Vec<u32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |source| DriverError::File { path, source }
}

/// A sandbox's own user reads its group, whatever the agent's mask is.
pub(super) fn make(group: &Path) -> io::Result<()> {
    fs::create_dir_all(group)?;
    fs::set_permissions(group, fs::Permissions::from_mode(0o755))
}

/// Hands the controllers on to the groups below.
fn enable(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.subtree_control"), "+memory +cpu +pids")
}

/// Makes the group below which sandboxes get theirs.
fn prepare(above: &Path, ours: &Path) -> io::Result<()> {
    enable(above)?;
    make(ours)?;
    enable(ours)
}

/// A mount point, and the controllers that its hierarchy has.
pub(super) type Hierarchy = (PathBuf, Vec<String>);

/// The hierarchies of version 1, and where version 2 is mounted (proc_pid_mountinfo(5)).
fn parse_mounts(mounts: &str) -> (Vec<Hierarchy>, Option<PathBuf>) {
    let (mut hierarchies, mut unified) = (Vec::new(), None);
    for line in mounts.lines() {
        let Some((place, kind)) = line.split_once(" - ") else {
            continue;
        };
        let Some(path) = place.split(' ').nth(4).map(PathBuf::from) else {
            continue;
        };
        let mut kind = kind.split(' ');
        match kind.next() {
            Some("cgroup") => {
                let options = kind.next_back().unwrap_or_default();
                hierarchies.push((path, options.split(',').map(str::to_owned).collect()));
            }
            Some("cgroup2") => unified = Some(path),
            _ => {}
        }
    }
    (hierarchies, unified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_where_they_are_mounted() {
        let mounts = "\
            29 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
            30 29 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n\
            33 29 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            34 29 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let (hierarchies, unified) = parse_mounts(mounts);
        assert_eq!(unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(hierarchies.len(), 2);
        assert_eq!(hierarchies[0].0, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(hierarchies[0].1.iter().any(|name| name == "cpuacct"));
        assert!(hierarchies[1].1.iter().any(|name| name == "memory"));
    }
}
