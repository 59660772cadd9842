//! What one sandbox may use.

use serde::{Deserialize, Serialize};

use crate::job::Phase;

/// What one sandbox may use. What is not in a stored document is as by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory in MiB; swap is off.
    pub memory_mb: u64,
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Files that each process may have open.
    pub open_files: u32,
    /// Disk in MiB: configuration, providers, plan, state and log together, and what a root profile's sandbox writes
    /// elsewhere.
    pub disk_mb: u64,
    /// Log of one phase in MiB; what comes above is left out.
    pub log_mb: u64,
    /// How long a plan may take, in seconds, with its preparation.
    pub plan_seconds: u64,
    /// How long an apply may take, in seconds, with its preparation.
    pub apply_seconds: u64,
    /// How long the engine may print nothing, in seconds; `None` is for ever.
    pub silence_seconds: Option<u64>,
}

impl Limits {
    /// Where neither workspace nor pool says anything.
    pub const DEFAULT: Self = Self {
        memory_mb: 512,
        cpu_millis: 1000,
        pids: 512,
        open_files: 8192,
        disk_mb: 10_240,
        log_mb: 64,
        plan_seconds: 2 * 3600,
        apply_seconds: 24 * 3600,
        silence_seconds: None,
    };

    /// What the container engine keeps: memory, CPU, processes. Everything else is the runner's.
    pub fn of_container(&self) -> (u64, u64, u32) {
        (self.memory_mb, self.cpu_millis, self.pids)
    }

    /// How long a phase may take, in seconds.
    pub fn seconds(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Plan => self.plan_seconds,
            Phase::Apply => self.apply_seconds,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// One of the [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Memory.
    Memory,
    /// CPU.
    Cpu,
    /// Processes and threads.
    Processes,
    /// Open files.
    OpenFiles,
    /// Disk.
    Disk,
    /// Log.
    Log,
    /// Time of a plan.
    PlanTime,
    /// Time of an apply.
    ApplyTime,
    /// Time without output.
    Silence,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Memory,
        Self::Cpu,
        Self::Processes,
        Self::OpenFiles,
        Self::Disk,
        Self::Log,
        Self::PlanTime,
        Self::ApplyTime,
        Self::Silence,
    ];

    /// The name of the setting, of workspaces and of pools.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Memory => "memory-mb",
            Self::Cpu => "cpu-millis",
            Self::Processes => "processes",
            Self::OpenFiles => "open-files",
            Self::Disk => "disk-mb",
            Self::Log => "log-mb",
            Self::PlanTime => "plan-seconds",
            Self::ApplyTime => "apply-seconds",
            Self::Silence => "silence-seconds",
        }
    }

    /// The setting with a name.
    pub fn of(setting: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.setting() == setting)
    }

    /// The name of the pool's setting that no workspace may exceed.
    pub fn maximum_setting(self) -> &'static str {
        match self {
            Self::Memory => "maximum-memory-mb",
            Self::Cpu => "maximum-cpu-millis",
            Self::Processes => "maximum-processes",
            Self::OpenFiles => "maximum-open-files",
            Self::Disk => "maximum-disk-mb",
            Self::Log => "maximum-log-mb",
            Self::PlanTime => "maximum-plan-seconds",
            Self::ApplyTime => "maximum-apply-seconds",
            Self::Silence => "maximum-silence-seconds",
        }
    }

    /// Smallest and largest value that can be set.
    pub fn range(self) -> (u64, u64) {
        match self {
            // Below it no engine starts.
            Self::Memory => (128, 1 << 20),
            Self::Cpu => (100, 256_000),
            Self::Processes => (64, 1 << 16),
            Self::OpenFiles => (256, 1 << 20),
            Self::Disk => (64, 1 << 24),
            Self::Log => (1, 1024),
            Self::PlanTime | Self::ApplyTime => (10, 30 * 24 * 3600),
            Self::Silence => (10, 24 * 3600),
        }
    }

    /// The value in these limits; `None` is unlimited.
    pub fn get(self, limits: &Limits) -> Option<u64> {
        Some(match self {
            Self::Memory => limits.memory_mb,
            Self::Cpu => limits.cpu_millis,
            Self::Processes => u64::from(limits.pids),
            Self::OpenFiles => u64::from(limits.open_files),
            Self::Disk => limits.disk_mb,
            Self::Log => limits.log_mb,
            Self::PlanTime => limits.plan_seconds,
            Self::ApplyTime => limits.apply_seconds,
            Self::Silence => return limits.silence_seconds,
        })
    }

    /// Sets the value.
    pub fn set(self, limits: &mut Limits, value: u64) {
        let small = u32::try_from(value).unwrap_or(u32::MAX);
        match self {
            Self::Memory => limits.memory_mb = value,
            Self::Cpu => limits.cpu_millis = value,
            Self::Processes => limits.pids = small,
            Self::OpenFiles => limits.open_files = small,
            Self::Disk => limits.disk_mb = value,
            Self::Log => limits.log_mb = value,
            Self::PlanTime => limits.plan_seconds = value,
            Self::ApplyTime => limits.apply_seconds = value,
            Self::Silence => limits.silence_seconds = Some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_read_and_written_by_its_name() {
        for limit in Limit::ALL {
            let mut limits = Limits::DEFAULT;
            let (least, most) = limit.range();
            assert!(
                limit
                    .get(&limits)
                    .is_none_or(|value| (least..=most).contains(&value))
            );
            limit.set(&mut limits, least + 1);
            assert_eq!(limit.get(&limits), Some(least + 1));
            assert_eq!(Limit::of(limit.setting()), Some(limit));
            assert_eq!(limit.maximum_setting(), format!("maximum-{}", limit.setting()));
        }
    }

    #[test]
    fn limits_that_were_stored_before_there_were_more_are_read() {
        let stored = r#"{"memory_mb": 1024, "cpu_millis": 500, "pids": 64}"#;
        let read: Limits = serde_json::from_str(stored).unwrap();
        assert_eq!(
            read,
            Limits {
                memory_mb: 1024,
                cpu_millis: 500,
                pids: 64,
                ..Limits::DEFAULT
            }
        );
    }
}
