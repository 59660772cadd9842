//! Which of many engines are kept: those that are used, and of the others as many as there is room for.

use std::time::Duration;

/// How long, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// One that was not used for so long is removed.
    pub(crate) kept: Duration,
    /// One that was used in this time may still be needed, and stays in any case.
    pub(crate) in_use: Duration,
    /// All together, in bytes; above it those are removed that were not used for the longest time.
    pub(crate) most: u64,
}

/// For engines that sandboxes are given. A run may go on, and start its engine again, for days after its job began.
pub(crate) const OF_SANDBOXES: Retention = Retention {
    kept: Duration::from_secs(30 * 24 * 3600),
    in_use: Duration::from_secs(8 * 24 * 3600),
    most: 5 << 30,
};

/// An engine that is kept until now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept<N> {
    pub(crate) name: N,
    /// In bytes.
    pub(crate) size: u64,
    /// How long ago it was used.
    pub(crate) unused: Duration,
}

impl Retention {
    /// Which ones go: first what is old, then, while there is too much, what was not used for the longest time.
    pub(crate) fn surplus<N>(&self, mut kept: Vec<Kept<N>>) -> Vec<N> {
        kept.sort_by_key(|engine| engine.unused);
        let mut total = 0;
        let mut gone = Vec::new();
        for engine in kept {
            let fits = total + engine.size <= self.most && engine.unused <= self.kept;
            if fits || engine.unused <= self.in_use {
                total += engine.size;
            } else {
                gone.push(engine.name);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_engines_go_and_the_least_used_when_there_are_too_many() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let kept = |name, size, unused| Kept {
            name,
            size,
            unused: hours(unused),
        };
        let gone = |most| {
            let retention = Retention {
                kept: hours(30 * 24),
                in_use: hours(1),
                most,
            };
            retention.surplus(vec![
                kept("old", 1, 31 * 24),
                kept("week", 40, 7 * 24),
                kept("day", 40, 24),
                kept("now", 40, 0),
            ])
        };
        assert_eq!(gone(1000), ["old"]);
        assert_eq!(gone(100), ["week", "old"]);
        // What may be about to be started stays in any case.
        assert_eq!(gone(10), ["day", "week", "old"]);
    }
}
