//! What the control group of the sandbox tells about memory and CPU.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use terrapool_model::time::Millis;
use terrapool_protocol::memory::{MemoryCurve, MemoryUse};

/// Reads the counters of version 1 and 2 of the control group file system, whichever is there.
#[derive(Debug, Clone)]
pub struct ControlGroup {
    root: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

/// What [`ControlGroup::look`] has seen of memory.
#[derive(Debug, Default)]
struct Seen {
    /// The highest use in bytes.
    peak: u64,
    curve: MemoryCurve,
}

impl ControlGroup {
    /// The control group that is mounted here.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            seen: Arc::default(),
        }
    }

    /// Remembers how much memory is in use now, so long after the job's start. It is also the peak where the kernel
    /// keeps none: of version 2, kernels before 5.19.
    pub fn look(&self, at: Millis) {
        let Some(total) = self.total_memory() else { return };
        let used = MemoryUse {
            total_mb: total >> 20,
            anonymous_mb: self.anonymous_memory().unwrap_or(0) >> 20,
        };
        let mut seen = self.seen();
        seen.peak = seen.peak.max(total);
        seen.curve.note(at, used);
    }

    /// The kernel has killed for memory just now: what it calls the peak was in use.
    pub fn killed(&self) {
        if let Some(peak) = self.peak_memory() {
            self.seen().curve.reached(peak >> 20);
        }
    }

    /// What was seen of memory; `None` where the kernel tells nothing.
    pub fn curve(&self) -> Option<MemoryCurve> {
        Some(self.seen().curve.clone()).filter(|curve| !curve.is_empty())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Highest memory use in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.number("memory.peak")
            .or_else(|| self.number("memory/memory.max_usage_in_bytes"))
            .or_else(|| Some(self.seen().peak).filter(|seen| *seen > 0))
    }

    /// Memory in use with page cache, in bytes.
    fn total_memory(&self) -> Option<u64> {
        self.number("memory.current")
            .or_else(|| self.number("memory/memory.usage_in_bytes"))
    }

    /// The most memory that the kernel lets it use, in bytes; `u64::MAX` when there is no limit.
    pub fn memory_limit(&self) -> Option<u64> {
        match fs::read_to_string(self.root.join("memory.max")) {
            Ok(text) if text.trim() == "max" => Some(u64::MAX),
            Ok(text) => text.trim().parse().ok(),
            Err(_) => self.number("memory/memory.limit_in_bytes"),
        }
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
    use super::{ControlGroup, Millis};
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

    #[test]
    fn the_limit_is_read_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let group = ControlGroup::new(folder.path());
        assert_eq!(group.memory_limit(), None);
        write(folder.path(), &[("memory/memory.limit_in_bytes", "536870912\n")]);
        assert_eq!(group.memory_limit(), Some(512 << 20));
        write(folder.path(), &[("memory.max", "268435456\n")]);
        assert_eq!(group.memory_limit(), Some(256 << 20));
        write(folder.path(), &[("memory.max", "max\n")]);
        assert_eq!(group.memory_limit(), Some(u64::MAX));
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
            group.clone().look(Millis::ZERO);
        }
        assert_eq!(group.peak_memory(), Some(8192));
        write(folder.path(), &[("memory.peak", "9000\n")]);
        assert_eq!(group.peak_memory(), Some(9000));
    }

    #[test]
    fn what_is_seen_of_memory_becomes_a_curve_of_either_version() {
        let both = [
            ("memory.current", "anon", "memory.stat", "memory.peak"),
            (
                "memory/memory.usage_in_bytes",
                "total_rss",
                "memory/memory.stat",
                "memory/memory.max_usage_in_bytes",
            ),
        ];
        for (total, anonymous, statistics, peak) in both {
            let folder = tempfile::tempdir().unwrap();
            let group = ControlGroup::new(folder.path());
            group.look(Millis::ZERO);
            assert_eq!(group.curve(), None);
            for (second, used) in [(0, 100_u64), (1, 300), (2, 200)] {
                let all = (used << 20).to_string();
                let mine = format!("{anonymous} {}\n", (used - 50) << 20);
                write(folder.path(), &[(total, &all), (statistics, &mine)]);
                group.look(Millis(second * 1000));
            }
            write(folder.path(), &[(peak, "536870912\n")]);
            group.killed();
            let curve = group.curve().unwrap();
            let points: Vec<(u64, u64)> = curve.points().iter().map(|used| (*used).into()).collect();
            assert_eq!(points, [(100, 50), (300, 250), (512, 150)]);
        }
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
