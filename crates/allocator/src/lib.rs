#![doc = include_str!("../README.md")]

/// Has threads that are started from here on share the first thread's arena. They wait for each other when they allocate
/// at the same moment. To be called before there are threads.
pub fn share_one_arena() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: mallopt(3) takes two numbers, and for this parameter any positive value. It locks the allocator itself.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives pages that nothing is allocated in back to the system. Takes about a millisecond for some megabytes.
pub fn give_back_unused() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code, reason = "a call of the C library")]
    // SAFETY: malloc_trim(3) may be called at any time, by any thread, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident anonymous memory of this process, in kilobytes.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg_attr(not(target_env = "gnu"), ignore = "other C libraries keep what they keep")]
    fn what_was_freed_below_what_is_in_use_goes_back_to_the_system() {
        share_one_arena();
        // Small enough to come from the arena, and kept from its end by the last one.
        let mut pieces: Vec<Vec<u8>> = (0..1000).map(|_| vec![1; 32 << 10]).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        give_back_unused();
        let after = resident();
        drop(last);
        assert!(
            after + (16 << 10) < before,
            "{before} kB before, {after} kB after"
        );
    }
}
