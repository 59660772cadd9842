//! What an agent pool did, minute by minute: made from the times of its jobs, kept for some days, and merged into longer
//! pieces for people.

use std::collections::BTreeMap;

use crate::time::{Millis, Timestamp};

/// Milliseconds of a minute. Minutes are counted from 1970.
pub const MINUTE: i64 = 60_000;

/// For how many minutes they are kept: a day longer than the longest period that is shown.
pub const KEPT: i64 = 8 * 24 * 60;

/// The minute that a moment lies in.
pub const fn minute_of(at: Timestamp) -> i64 {
    at.0.div_euclid(MINUTE)
}

/// Waits below this have a bucket for each millisecond.
const EXACT: u64 = 16;
/// Buckets between a power of two and the next.
const BUCKETS: u64 = 8;

/// How many jobs waited how long, in buckets that are an eighth of a power of two wide. Merged histograms give the
/// percentiles of all their jobs, each within a sixteenth of the truth.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WaitHistogram {
    jobs: BTreeMap<u64, u64>,
}

impl WaitHistogram {
    /// The bucket that a wait falls into.
    fn bucket(wait: Millis) -> u64 {
        if wait.0 < EXACT {
            return wait.0;
        }
        let power = u64::from(wait.0.ilog2());
        EXACT + (power - 4) * BUCKETS + (wait.0 >> (power - 3)) % BUCKETS
    }

    /// The middle of a bucket.
    fn middle(bucket: u64) -> Millis {
        let Some(above) = bucket.checked_sub(EXACT) else {
            return Millis(bucket);
        };
        let power = (above / BUCKETS + 4).min(63);
        let width = 1 << (power - 3);
        Millis((BUCKETS + above % BUCKETS) * width + width / 2)
    }

    /// Counts a job.
    pub fn add(&mut self, wait: Millis) {
        self.add_bucket(Self::bucket(wait), 1);
    }

    /// Counts the jobs of a bucket, as [`buckets`](Self::buckets) gave it.
    pub fn add_bucket(&mut self, bucket: u64, jobs: u64) {
        *self.jobs.entry(bucket).or_default() += jobs;
    }

    /// The buckets with jobs in them: their numbers, and how many.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.jobs.iter().map(|(bucket, jobs)| (*bucket, *jobs))
    }

    /// Counts also what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, jobs) in other.buckets() {
            self.add_bucket(bucket, jobs);
        }
    }

    /// All jobs.
    pub fn count(&self) -> u64 {
        self.jobs.values().sum()
    }

    /// So many of a hundred jobs waited no longer; `None` when there is no job.
    pub fn percentile(&self, hundredth: u64) -> Option<Millis> {
        let rank = (self.count() * hundredth).div_ceil(100).max(1);
        let mut seen = 0;
        self.buckets()
            .find(|(_, jobs)| {
                seen += jobs;
                seen >= rank
            })
            .map(|(bucket, _)| Self::middle(bucket))
    }
}

/// What a pool did in a minute, or in several together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Activity {
    /// The waits of the jobs that agents took.
    pub waits: WaitHistogram,
    /// The longest of these waits.
    pub longest_wait: Millis,
    /// Jobs that ended by a fault of the platform.
    pub failures: u64,
    /// Slots that were in use at once.
    pub most_used: u64,
    /// Jobs that waited at once.
    pub most_waiting: u64,
}

impl Activity {
    /// Takes in what the same pool did in another span of time.
    pub fn merge(&mut self, other: &Self) {
        self.waits.merge(&other.waits);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.failures += other.failures;
        self.most_used = self.most_used.max(other.most_used);
        self.most_waiting = self.most_waiting.max(other.most_waiting);
    }

    /// Takes in what another pool did in the same span of time. Slots and jobs are added up, so that the sum may be more
    /// than there were at any one moment.
    pub fn merge_pool(&mut self, other: &Self) {
        let (used, waiting) = (self.most_used, self.most_waiting);
        self.merge(other);
        self.most_used = used + other.most_used;
        self.most_waiting = waiting + other.most_waiting;
    }

    /// So many of a hundred jobs waited no longer.
    pub fn percentile(&self, hundredth: u64) -> Option<Millis> {
        let found = self.waits.percentile(hundredth)?;
        Some(found.min(self.longest_wait))
    }
}

/// When a job waited, ran and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTimes {
    /// Since when it waits, or waited.
    pub queued_at: Timestamp,
    /// When an agent took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// It ended by a fault of the platform.
    pub platform_failure: bool,
}

/// What a pool did in each of the minutes `from..until`; those without anything are left out. `jobs` are all that waited
/// or ran in them, or more.
pub fn minutes(jobs: &[JobTimes], from: i64, until: i64) -> BTreeMap<i64, Activity> {
    let mut minutes: BTreeMap<i64, Activity> = BTreeMap::new();
    let inside = |at: Timestamp| Some(minute_of(at)).filter(|minute| (from..until).contains(minute));
    let (mut used, mut waiting) = (Vec::new(), Vec::new());
    let end = Timestamp(until.saturating_mul(MINUTE));
    for job in jobs {
        if let Some(started) = job.started_at
            && let Some(minute) = inside(started)
        {
            let wait = started - job.queued_at;
            let activity = minutes.entry(minute).or_default();
            activity.waits.add(wait);
            activity.longest_wait = activity.longest_wait.max(wait);
        }
        if let Some(ended) = job.ended_at
            && job.platform_failure
            && let Some(minute) = inside(ended)
        {
            minutes.entry(minute).or_default().failures += 1;
        }
        let ended = job.ended_at.unwrap_or(end);
        waiting.push((job.queued_at, job.started_at.unwrap_or(ended)));
        if let Some(started) = job.started_at {
            used.push((started, ended));
        }
    }
    for (minute, most) in peaks(&used, from, until) {
        minutes.entry(minute).or_default().most_used = most;
    }
    for (minute, most) in peaks(&waiting, from, until) {
        minutes.entry(minute).or_default().most_waiting = most;
    }
    minutes
}

/// How many of the spans hold at once in each minute, where any does. A span holds from its start to just before its end.
fn peaks(spans: &[(Timestamp, Timestamp)], from: i64, until: i64) -> BTreeMap<i64, u64> {
    let (first, last) = (from.saturating_mul(MINUTE), until.saturating_mul(MINUTE));
    let mut changes: BTreeMap<i64, i64> = BTreeMap::new();
    for (start, end) in spans {
        let (start, end) = (start.0.max(first), end.0.min(last));
        if start < end {
            *changes.entry(start).or_default() += 1;
            *changes.entry(end).or_default() -= 1;
        }
    }
    let mut peaks: BTreeMap<i64, u64> = BTreeMap::new();
    let (mut count, mut since) = (0_i64, first);
    for (at, change) in changes {
        if let Ok(most) = u64::try_from(count)
            && most > 0
        {
            for minute in since.div_euclid(MINUTE)..=(at - 1).div_euclid(MINUTE) {
                let peak = peaks.entry(minute).or_default();
                *peak = (*peak).max(most);
            }
        }
        count += change;
        since = at;
    }
    peaks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(queued: i64, started: Option<i64>, ended: Option<i64>) -> JobTimes {
        JobTimes {
            queued_at: Timestamp(queued),
            started_at: started.map(Timestamp),
            ended_at: ended.map(Timestamp),
            platform_failure: false,
        }
    }

    #[test]
    fn a_bucket_is_at_most_a_sixteenth_away_from_its_waits() {
        let mut last = 0;
        for power in 0..40 {
            for step in 0..64 {
                let wait = Millis((1 << power) + (step << power) / 64);
                let bucket = WaitHistogram::bucket(wait);
                assert!(bucket >= last, "{wait:?}");
                last = bucket;
                let away = WaitHistogram::middle(bucket).0.abs_diff(wait.0);
                assert!(away * 16 <= wait.0, "{wait:?} is {away} ms from the middle");
            }
        }
        let most = WaitHistogram::bucket(Millis(u64::MAX));
        assert!(WaitHistogram::middle(most).0 > u64::MAX / 16 * 15);
    }

    #[test]
    fn merged_histograms_have_the_percentiles_of_all_jobs() {
        let waits: Vec<u64> = (0..1000).map(|index| index * index % 70_001 + index).collect();
        let mut pieces = vec![Activity::default(); 10];
        for (index, wait) in waits.iter().enumerate() {
            let piece = &mut pieces[index % 10];
            piece.waits.add(Millis(*wait));
            piece.longest_wait = piece.longest_wait.max(Millis(*wait));
        }
        let mut merged = Activity::default();
        for piece in &pieces {
            merged.merge(piece);
        }
        let mut sorted = waits;
        sorted.sort_unstable();
        assert_eq!(merged.waits.count(), 1000);
        for hundredth in [1, 50, 95, 99, 100] {
            let truth = sorted[hundredth * 10 - 1];
            let found = merged.percentile(hundredth as u64).unwrap().0;
            assert!(
                found.abs_diff(truth) * 16 <= truth,
                "{hundredth}: {found} for {truth}"
            );
        }
        assert_eq!(Activity::default().percentile(50), None);
        // No percentile is longer than the longest wait was.
        let mut one = Activity::default();
        one.waits.add(Millis(965));
        one.longest_wait = Millis(965);
        assert_eq!(one.waits.percentile(95), Some(Millis(992)));
        assert_eq!(one.percentile(95), Some(Millis(965)));
    }

    #[test]
    fn pieces_of_one_pool_have_the_greater_peak_and_two_pools_have_both() {
        let (mut one, other) = (
            Activity {
                most_used: 3,
                most_waiting: 1,
                failures: 1,
                ..Activity::default()
            },
            Activity {
                most_used: 2,
                most_waiting: 4,
                failures: 2,
                ..Activity::default()
            },
        );
        let mut both = one.clone();
        one.merge(&other);
        assert_eq!((one.most_used, one.most_waiting, one.failures), (3, 4, 3));
        both.merge_pool(&other);
        assert_eq!((both.most_used, both.most_waiting, both.failures), (5, 5, 3));
    }

    #[test]
    fn each_minute_has_what_began_ended_waited_and_ran_in_it() {
        let failed = JobTimes {
            platform_failure: true,
            ..job(61_000, Some(62_000), Some(185_000))
        };
        let jobs = [
            // Taken at once, ended before the next minute.
            job(60_000, Some(60_000), Some(119_000)),
            failed,
            // Still waits.
            job(130_000, None, None),
            // Was canceled while it waited.
            job(10_000, None, Some(70_000)),
        ];
        let found = minutes(&jobs, 1, 4);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let at = |minute: i64| {
            let found = &found[&minute];
            (
                found.waits.count(),
                found.failures,
                found.most_used,
                found.most_waiting,
            )
        };
        assert_eq!(at(1), (2, 0, 2, 2));
        assert_eq!(at(2), (0, 0, 1, 1));
        assert_eq!(at(3), (0, 1, 1, 1));
        assert_eq!(found[&1].longest_wait, Millis(1000));
        assert!(minutes(&jobs[..1], 2, 9).is_empty());
    }

    #[test]
    fn a_job_that_follows_another_at_once_needs_no_second_slot() {
        let jobs = [
            job(0, Some(1000), Some(60_000)),
            job(0, Some(60_000), Some(120_000)),
        ];
        let found = minutes(&jobs, 0, 3);
        assert_eq!(found.len(), 2);
        assert!(found.values().all(|minute| minute.most_used == 1), "{found:?}");
    }

    #[test]
    fn minutes_that_are_made_apart_are_those_that_are_made_together() {
        let jobs: Vec<JobTimes> = (0..200)
            .map(|index| {
                let queued = index * 7919 % 600_000;
                let started = queued + index * 31 % 9000;
                job(queued, Some(started), Some(started + index * 911 % 130_000))
            })
            .collect();
        let mut apart = minutes(&jobs, 0, 5);
        apart.extend(minutes(&jobs, 5, 20));
        assert_eq!(apart, minutes(&jobs, 0, 20));
    }
}
