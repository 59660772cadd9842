//! What the host has: memory and disk, as the kernel tells it.

use std::path::Path;

use terrapool_agent_core::capacity::Host;
use terrapool_protocol::health::Room;

use crate::config::Config;

/// A figure of `/proc/meminfo` in MiB.
fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024)
}

/// Swap in MiB, as `/proc/meminfo` tells it.
pub(crate) fn swap_mb(text: &str) -> u64 {
    meminfo(text, "SwapTotal").unwrap_or(0)
}

/// The host, as it is now. Kernels before 3.14 do not tell available memory; free and cached stand in for it.
pub fn read(config: &Config) -> Host {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let figure = |name| meminfo(&text, name).unwrap_or(0);
    let available = meminfo(&text, "MemAvailable").unwrap_or_else(|| figure("MemFree") + figure("Cached"));
    Host {
        total_mb: figure("MemTotal"),
        available_mb: available,
        allowed_mb: config.memory_mb,
        allowed_cpu_millis: config.cpu_millis,
        concurrency: config.concurrency,
    }
}

/// Room in the file system of a folder; `None` when it cannot be looked at.
pub fn disk(folder: &Path) -> Option<Room> {
    let found = rustix::fs::statvfs(folder).ok()?;
    let megabytes = |blocks: u64| blocks.saturating_mul(found.f_frsize) >> 20;
    Some(Room {
        free_mb: megabytes(found.f_bavail),
        total_mb: megabytes(found.f_blocks),
    })
}

#[cfg(test)]
mod tests {
    use super::meminfo;

    #[test]
    fn figures_are_read_in_mebibytes() {
        let text = "MemTotal:       16384000 kB\nMemFree:         1024 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(16_000));
        assert_eq!(meminfo(text, "Mem"), None);
        assert_eq!(meminfo(text, "MemAvailable"), None);
    }
}
