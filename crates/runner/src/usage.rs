//! What the control group of the sandbox tells about memory and CPU.

use std::fs;
use std::path::{Path, PathBuf};

/// Reads the counters of version 1 and 2 of the control group file system, whichever is there.
#[derive(Debug, Clone)]
pub struct ControlGroup {
    root: PathBuf,
}

impl ControlGroup {
    /// The control group that is mounted here.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Highest memory use in bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.number("memory.peak")
            .or_else(|| self.number("memory/memory.max_usage_in_bytes"))
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

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let group = ControlGroup::new(folder.path());
        assert_eq!(
            (group.peak_memory(), group.cpu_ms(), group.out_of_memory_kills()),
            (None, None, None)
        );
        fs::create_dir_all(folder.path().join("memory")).unwrap();
        fs::create_dir_all(folder.path().join("cpuacct")).unwrap();
        fs::write(folder.path().join("memory/memory.max_usage_in_bytes"), "5000\n").unwrap();
        fs::write(
            folder.path().join("memory/memory.oom_control"),
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        )
        .unwrap();
        fs::write(folder.path().join("cpuacct/cpuacct.usage"), "7000000\n").unwrap();
        assert_eq!(group.peak_memory(), Some(5000));
        assert_eq!(group.cpu_ms(), Some(7));
        assert_eq!(group.out_of_memory_kills(), Some(2));
        fs::write(folder.path().join("memory.peak"), "6000\n").unwrap();
        fs::write(folder.path().join("cpu.stat"), "usage_usec 9000\nuser_usec 1\n").unwrap();
        fs::write(folder.path().join("memory.events"), "oom 4\noom_kill 3\n").unwrap();
        assert_eq!(group.peak_memory(), Some(6000));
        assert_eq!(group.cpu_ms(), Some(9));
        assert_eq!(group.out_of_memory_kills(), Some(3));
    }
}
