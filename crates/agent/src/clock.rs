//! The clock that the agent measures with: it counts a suspended machine's sleep.

use terrapool_agent_core::attempt::Boottime;

/// Now.
pub fn boottime() -> Boottime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Boottime(seconds * 1000 + nanoseconds / 1_000_000)
}

/// A random number for jitter and ids.
pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without random numbers attempts could collide; going on would be worse than ending.
        std::process::abort();
    }
    bytes
}
