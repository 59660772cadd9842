//! How long to wait before the next try.

use terrapool_model::time::Millis;

/// The wait before try number `failures + 1`: doubled for each failure, up to `longest`, then spread evenly over its
/// upper half so that many agents do not return in step. `random` is any random number.
pub fn wait(shortest: Millis, longest: Millis, failures: u32, random: u64) -> Millis {
    let doubled = shortest
        .0
        .saturating_mul(1_u64.checked_shl(failures.min(32)).unwrap_or(u64::MAX));
    let window = doubled.min(longest.0).max(1);
    let half = window / 2;
    Millis(half + random % (window - half + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_never_beyond() {
        let (shortest, longest) = (Millis(500), Millis(30_000));
        for failures in 0..100 {
            for random in [0, 1, 17, u64::MAX] {
                let wait = wait(shortest, longest, failures, random);
                assert!(wait.0 >= 250 && wait <= longest, "{failures} {random}: {wait:?}");
            }
        }
        assert!(wait(shortest, longest, 10, 0).0 >= 15_000);
    }
}
