//! What the control group of the sandbox tells about memory and CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads the counters of version 1 and 2 of the control group file system, whichever is there.
#[derive(Debug, Clone)]
pub struct ControlGroup {
    root: PathBuf,
    /// The highest use that [`Self::look`] has seen, in bytes.
    seen: Arc<AtomicU64>,
}

impl ControlGroup {
    /// The control group that is mounted here.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            seen: Arc::default(),
        }
    }

    /// Remembers how much memory is in use now: of version 2, kernels before 5.19 keep no peak.
    pub fn look(&self) {
        if let Some(used) = self.number("memory.current") {
            self.seen.fetch_max(used, Ordering::Relaxed);
        }
    }

    /// Highest memory use in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.number("memory.peak")
            .or_else(|| self.number("memory/memory.max_usage_in_bytes"))
            .or_else(|| Some(self.seen.load(Ordering::Relaxed)).filter(|seen| *seen > 0))
    }

    /// Memory in use that is no page cache, in bytes.
    pub fn anonymous_memory(&self) -> Option<u64> {
        self.entry("memory.stat", "anon")
            // With swap accounted, of which sandboxes have none; children included.
            .or_else(|| self.entry("memory/memory.stat", "total_rss"))
    }

    /// How often a process or thread could not be made because there were too many.
    pub fn refused_processes(&self) -> Option<u64> {
        self.entry("pids.events", "max")
            .or_else(|| self.entry("pids/pids.events", "max"))
    }

    /// CPU time in milliseconds.
    pub fn cpu_ms(&self) -> Option<u64> {
        if let Some(microseconds) = self.entry("cpu.stat", "usage_usec") {
            return Some(microseconds / 1000);
        }
        ["cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage"]
            .iter()
            .find_map(|file| self.number(file))
            .map(|nanoseconds| nanoseconds / 1_000_000)
    }

    /// How many processes the kernel has killed for memory.
    pub fn out_of_memory_kills(&self) -> Option<u64> {
        self.entry("memory.events", "oom_kill")
            .or_else(|| self.entry("memory/memory.oom_control", "oom_kill"))
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.root.join(file)).ok()?.trim().parse().ok()
    }

    fn entry(&self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(self.root.join(file)).ok()?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            if name == key {
                value.trim().parse().ok()
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::ControlGroup;
    use std::fs;

    fn write(root: &std::path::Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    fn read(group: &ControlGroup) -> [Option<u64>; 5] {
        [
            group.peak_memory(),
            group.anonymous_memory(),
            group.cpu_ms(),
            group.out_of_memory_kills(),
            group.refused_processes(),
        ]
    }

    /// As a kernel 6.18 with version 1 shows a container's group.
    #[test]
    fn version_1_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let group = ControlGroup::new(folder.path());
        assert_eq!(read(&group), [None; 5]);
        let files = [
            ("memory/memory.max_usage_in_bytes", "536870912\n"),
            (
                "memory/memory.stat",
                "cache 4096\nrss 1000\nrss_huge 0\nshmem 0\nhierarchical_memory_limit 536870912\ntotal_cache 8192\n\
                 total_rss 415236096\ntotal_shmem 0\n",
            ),
            (
                "memory/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            ("cpuacct/cpuacct.usage", "7000000\n"),
            ("pids/pids.events", "max 5\n"),
        ];
        write(folder.path(), &files);
        assert_eq!(
            read(&group),
            [Some(536_870_912), Some(415_236_096), Some(7), Some(2), Some(5)]
        );
    }

    /// As a kernel 5.15 with version 2 shows a container's group.
    #[test]
    fn a_peak_that_the_kernel_does_not_keep_is_the_highest_that_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let group = ControlGroup::new(folder.path());
        for used in ["4096\n", "8192\n", "5000\n"] {
            write(folder.path(), &[("memory.current", used)]);
            group.clone().look();
        }
        assert_eq!(group.peak_memory(), Some(8192));
        write(folder.path(), &[("memory.peak", "9000\n")]);
        assert_eq!(group.peak_memory(), Some(9000));
    }

    /// As a kernel 6.1 with version 2 shows a container's group.
    #[test]
    fn version_2_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let group = ControlGroup::new(folder.path());
        let files = [
            ("memory.peak", "536870912\n"),
            (
                "memory.stat",
                "anon 415236096\nfile 12288\nkernel 1998848\nkernel_stack 81920\nshmem 0\n",
            ),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 31\noom 4\noom_kill 3\noom_group_kill 0\n",
            ),
            (
                "cpu.stat",
                "usage_usec 9000\nuser_usec 6000\nsystem_usec 3000\nnr_periods 0\n",
            ),
            ("pids.events", "max 6\n"),
        ];
        write(folder.path(), &files);
        assert_eq!(
            read(&group),
            [Some(536_870_912), Some(415_236_096), Some(9), Some(3), Some(6)]
        );
    }
}
