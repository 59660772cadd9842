//! Random histories with real times: more runs and attempts than the search can hold, a clock that is set, and a database
//! that is replaced by its backup.
//!
//! A seed determines a history to its last step. After the last random step everybody does what they should, and every
//! run has to end.

mod agent;
mod counts;
mod play;
mod random;
mod server;

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

pub use counts::{Counts, Rare};
use play::History;

use crate::invariant::Invariant;

/// What became of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// What rare things it saw.
    pub counts: Counts,
    /// Steps until the first that broke an invariant, or all of them.
    pub steps: usize,
    /// The invariant that broke.
    pub broken: Option<Invariant>,
    /// Names the way that the history went: equal for the same seed.
    pub digest: u64,
}

/// Something that is wrong on purpose, so that the histories have to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weakness {
    /// Nothing.
    None,
    /// Agents let an engine go on without contact for twice as long as the control plane counts on.
    LongContactLimit,
}

/// Plays the history of a seed.
pub fn play(seed: u64, weakness: Weakness) -> Played {
    History::new(seed, weakness).play(None)
}

/// Plays it, and tells each step.
pub fn tell(seed: u64) -> (Played, Vec<String>) {
    let mut told = Vec::new();
    let played = History::new(seed, Weakness::None).play(Some(&mut told));
    (played, told)
}

/// What many histories came to.
#[derive(Debug, Clone, Default)]
pub struct Many {
    /// What rare things they saw.
    pub counts: Counts,
    /// Steps in all.
    pub steps: usize,
    /// Seeds whose history broke an invariant.
    pub broken: Vec<(u64, Invariant)>,
}

/// Plays the histories of many seeds, on every processor.
pub fn play_many(seeds: Range<u64>, weakness: Weakness) -> Many {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = |worker: usize| {
        let mut many = Many::default();
        for seed in seeds.clone().skip(worker).step_by(workers) {
            let played = play(seed, weakness);
            many.counts.add(&played.counts);
            many.steps += played.steps;
            many.broken.extend(played.broken.map(|broken| (seed, broken)));
        }
        many
    };
    let share = &share;
    let shares: Vec<Many> = thread::scope(|scope| {
        let working: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(move || share(worker)))
            .collect();
        working
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    let mut all = Many::default();
    for share in shares {
        all.counts.add(&share.counts);
        all.steps += share.steps;
        all.broken.extend(share.broken);
    }
    all.broken.sort_unstable();
    all
}
