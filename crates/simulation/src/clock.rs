//! Time and randomness of a simulation.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::db::{Clock, Entropy};
use tokio::sync::Notify;

/// When simulated time begins, by the wall clock.
const BEGIN: i64 = 1_800_000_000_000;

/// A clock that only the simulation moves. It can also end a request in its middle: the store's writer looks at it
/// when a transaction begins.
#[derive(Debug, Default)]
pub(crate) struct VirtualClock {
    elapsed: AtomicU64,
    set: AtomicI64,
    transactions_left: AtomicU32,
    cut: AtomicBool,
    cut_now: Notify,
}

impl VirtualClock {
    /// Moves time on to so many milliseconds after the beginning.
    pub(crate) fn advance_to(&self, elapsed: u64) {
        self.elapsed.fetch_max(elapsed, Ordering::SeqCst);
    }

    /// Milliseconds since the beginning, by a clock that is never set.
    pub(crate) fn elapsed(&self) -> u64 {
        self.elapsed.load(Ordering::SeqCst)
    }

    /// Sets the wall clock by so many milliseconds.
    pub(crate) fn set_by(&self, milliseconds: i64) {
        self.set.fetch_add(milliseconds, Ordering::SeqCst);
    }

    /// The wall clock.
    pub(crate) fn wall(&self) -> Timestamp {
        let elapsed = i64::try_from(self.elapsed()).unwrap_or(i64::MAX);
        Timestamp(BEGIN + elapsed + self.set.load(Ordering::SeqCst))
    }

    /// The request that is handled next is cut off when its transaction of this number (from 1) has begun. The
    /// transaction itself is still committed.
    pub(crate) fn cut_at_transaction(&self, number: u32) {
        // The writer looks twice for each: before and after it begins.
        self.transactions_left
            .store((2 * number).saturating_sub(1), Ordering::SeqCst);
        self.cut.store(false, Ordering::SeqCst);
    }

    /// No request is cut off any more.
    pub(crate) fn never_cut(&self) {
        self.transactions_left.store(0, Ordering::SeqCst);
        self.cut.store(false, Ordering::SeqCst);
    }

    /// Returns when the request has to be cut off.
    pub(crate) async fn cut(&self) {
        loop {
            let notified = self.cut_now.notified();
            if self.cut.load(Ordering::SeqCst) {
                return;
            }
            notified.await;
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        // Handlers look at the clock too, but they are not tasks of their own here: only transactions are counted.
        if tokio::task::try_id().is_some() && self.transactions_left.load(Ordering::SeqCst) > 0 {
            let left = self.transactions_left.fetch_sub(1, Ordering::SeqCst);
            if left == 1 {
                self.cut.store(true, Ordering::SeqCst);
                self.cut_now.notify_waiters();
                self.cut_now.notify_one();
            }
        }
        self.wall()
    }

    fn monotonic(&self) -> Millis {
        Millis(self.elapsed())
    }
}

/// Random bytes that a seed decides.
#[derive(Debug)]
pub(crate) struct SeededEntropy(Mutex<fastrand::Rng>);

impl SeededEntropy {
    /// Bytes of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(fastrand::Rng::with_seed(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn draw(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill(&mut bytes);
        bytes
    }
}
