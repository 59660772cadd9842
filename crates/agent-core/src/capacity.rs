//! How many sandboxes a host can hold. Free memory is the main factor.

/// Memory in MiB that a sandbox costs the host beyond its own limit (runner, shim, page tables).
pub const OVERHEAD_MB: u64 = 16;

/// Memory in MiB kept for the operating system: the larger of 256 and a tenth.
pub fn reserve(total_mb: u64) -> u64 {
    (total_mb / 10).max(256)
}

/// What the host has and what its owner allows, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Physical memory, or the limit of the agent's own container.
    pub total_mb: u64,
    /// Memory that could be handed out now without swapping, jobs that already run not counted as free.
    pub available_mb: u64,
    /// What the owner lets the agent hand out in all; `None` is everything above the reserve.
    pub allowed_mb: Option<u64>,
    /// CPU that the owner lets the agent hand out in all, in thousandths of a processor; `None` is any amount.
    pub allowed_cpu_millis: Option<u64>,
    /// Jobs at once at most.
    pub concurrency: u32,
}

/// What is handed out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Jobs that run or are prepared.
    pub jobs: u32,
    /// The sum of their memory limits in MiB, overhead included.
    pub memory_mb: u64,
    /// What these jobs really use of the host's memory now, in MiB: it is missing from `available_mb` already.
    pub resident_mb: u64,
    /// The sum of their CPU limits, in thousandths of a processor.
    pub cpu_millis: u64,
}

/// What one job takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Memory in MiB, without the overhead.
    pub memory_mb: u64,
    /// CPU in thousandths of a processor.
    pub cpu_millis: u64,
}

/// Memory in MiB that can be promised to further jobs.
pub fn free_memory(host: Host, held: Held) -> u64 {
    // Promised but not yet used memory is still "available" to the kernel.
    let promised = held.memory_mb.saturating_sub(held.resident_mb);
    let by_host = host
        .available_mb
        .saturating_sub(reserve(host.total_mb))
        .saturating_sub(promised);
    match host.allowed_mb {
        Some(allowed) => by_host.min(allowed.saturating_sub(held.memory_mb)),
        None => by_host,
    }
}

/// Further jobs of this size that fit now.
pub fn free_slots(host: Host, held: Held, job: Size) -> u32 {
    let by_memory = free_memory(host, held) / (job.memory_mb + OVERHEAD_MB);
    let by_cpu = match host.allowed_cpu_millis {
        // A job that wants more than the whole allowance runs alone: it is slower, and nothing waits for ever.
        Some(allowed) => allowed.saturating_sub(held.cpu_millis) / job.cpu_millis.clamp(1, allowed.max(1)),
        None => u64::MAX,
    };
    let by_count = host.concurrency.saturating_sub(held.jobs);
    u32::try_from(by_memory.min(by_cpu))
        .unwrap_or(u32::MAX)
        .min(by_count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        total_mb: 4096,
        available_mb: 3500,
        allowed_mb: None,
        allowed_cpu_millis: None,
        concurrency: 10,
    };

    const JOB: Size = Size {
        memory_mb: 512,
        cpu_millis: 1000,
    };

    #[test]
    fn processors_limit_the_slots_where_the_owner_says_how_many() {
        let host = Host {
            allowed_cpu_millis: Some(3000),
            ..HOST
        };
        assert_eq!(free_slots(host, Held::default(), JOB), 3);
        let held = Held {
            jobs: 1,
            memory_mb: 528,
            resident_mb: 0,
            cpu_millis: 2500,
        };
        assert_eq!(free_slots(host, held, JOB), 0);
        let large = Size {
            cpu_millis: 8000,
            ..JOB
        };
        assert_eq!(free_slots(host, Held::default(), large), 1);
        assert_eq!(free_slots(host, held, large), 0);
    }

    #[test]
    fn memory_limits_the_slots_before_concurrency_does() {
        // 3500 - 409 reserve = 3091; 528 each.
        assert_eq!(free_slots(HOST, Held::default(), JOB), 5);
        assert_eq!(
            free_slots(
                Host {
                    concurrency: 2,
                    ..HOST
                },
                Held::default(),
                JOB
            ),
            2
        );
    }

    #[test]
    fn memory_that_was_promised_but_is_not_used_yet_is_not_promised_twice() {
        let held = Held {
            jobs: 2,
            memory_mb: 1056,
            resident_mb: 0,
            cpu_millis: 2000,
        };
        assert_eq!(free_slots(HOST, held, JOB), 3);
    }

    #[test]
    fn the_owners_allowance_holds_even_when_the_host_has_more() {
        let host = Host {
            allowed_mb: Some(1100),
            ..HOST
        };
        assert_eq!(free_slots(host, Held::default(), JOB), 2);
        let held = Held {
            jobs: 1,
            memory_mb: 528,
            resident_mb: 528,
            cpu_millis: 1000,
        };
        assert_eq!(free_slots(host, held, JOB), 1);
    }

    #[test]
    fn a_host_below_its_reserve_takes_nothing() {
        let host = Host {
            total_mb: 512,
            available_mb: 200,
            ..HOST
        };
        assert_eq!(free_slots(host, Held::default(), JOB), 0);
    }
}
