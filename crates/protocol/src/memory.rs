//! The memory of a sandbox over time, as its control group tells it.

use serde::{Deserialize, Serialize};
use terrapool_model::time::Millis;

/// So many points a curve has at most: when it is full, each two of them become one.
pub const MOST_POINTS: usize = 240;

/// Time from one point to the next in milliseconds, until a curve is full for the first time.
const FIRST_STEP: u64 = 1000;

/// Memory in use within one step: the most of each kind that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "(u64, u64)", into = "(u64, u64)")]
pub struct MemoryUse {
    /// With page cache, which the kernel takes back when it has to, MiB. The hard limit is for this.
    pub total_mb: u64,
    /// Without it, MiB. An engine that fills its limit with this is stopped while it can still write its state.
    pub anonymous_mb: u64,
}

impl From<(u64, u64)> for MemoryUse {
    fn from((total_mb, anonymous_mb): (u64, u64)) -> Self {
        Self {
            total_mb,
            anonymous_mb,
        }
    }
}

impl From<MemoryUse> for (u64, u64) {
    fn from(used: MemoryUse) -> Self {
        (used.total_mb, used.anonymous_mb)
    }
}

impl MemoryUse {
    fn or_more(self, other: Self) -> Self {
        Self {
            total_mb: self.total_mb.max(other.total_mb),
            anonymous_mb: self.anonymous_mb.max(other.anonymous_mb),
        }
    }
}

/// The memory of a sandbox from the start of its job on, in steps of equal length: at most [`MOST_POINTS`] of them,
/// however long it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryCurve {
    step_ms: u64,
    points: Vec<MemoryUse>,
}

impl Default for MemoryCurve {
    fn default() -> Self {
        Self {
            step_ms: FIRST_STEP,
            points: Vec::new(),
        }
    }
}

impl MemoryCurve {
    /// Time from one point to the next.
    pub fn step(&self) -> Millis {
        Millis(self.step_ms)
    }

    /// The points, oldest first.
    pub fn points(&self) -> &[MemoryUse] {
        &self.points
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// What the points are together.
    pub fn length(&self) -> Millis {
        Millis(self.step_ms.saturating_mul(self.points.len() as u64))
    }

    /// Notes what is in use at a time after the start. Steps in which nobody looked have the figure of the one before.
    pub fn note(&mut self, at: Millis, used: MemoryUse) {
        while at.0 / self.step_ms.max(1) >= MOST_POINTS as u64 {
            self.halve();
        }
        let index = usize::try_from(at.0 / self.step_ms.max(1)).unwrap_or(MOST_POINTS - 1);
        if index >= self.points.len() {
            let before = self.points.last().copied().unwrap_or(used);
            self.points.resize(index, before);
            self.points.push(used);
        }
        if let Some(point) = self.points.get_mut(index) {
            *point = point.or_more(used);
        }
    }

    /// Raises the newest point to what the kernel says was reached: it kills faster than anybody looks.
    pub fn reached(&mut self, total_mb: u64) {
        if let Some(last) = self.points.last_mut() {
            last.total_mb = last.total_mb.max(total_mb);
        }
    }

    /// The same within the bounds that an honest sender keeps.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.points.truncate(MOST_POINTS);
        self
    }

    fn halve(&mut self) {
        self.step_ms = self.step_ms.max(1).saturating_mul(2);
        self.points = self
            .points
            .chunks(2)
            .map(|two| two.iter().copied().fold(MemoryUse::default(), MemoryUse::or_more))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(total_mb: u64, anonymous_mb: u64) -> MemoryUse {
        MemoryUse {
            total_mb,
            anonymous_mb,
        }
    }

    #[test]
    fn the_most_of_each_step_is_kept() {
        let mut curve = MemoryCurve::default();
        for (at, total, anonymous) in [
            (0, 40, 30),
            (200, 90, 20),
            (999, 10, 10),
            (1000, 50, 45),
            (3100, 60, 50),
        ] {
            curve.note(Millis(at), used(total, anonymous));
        }
        assert_eq!(curve.step(), Millis(1000));
        assert_eq!(curve.length(), Millis(4000));
        // Nobody looked in the third second.
        assert_eq!(
            curve.points(),
            [used(90, 30), used(50, 45), used(50, 45), used(60, 50)]
        );
    }

    #[test]
    fn a_curve_has_a_bounded_number_of_points_and_keeps_its_peak() {
        let mut curve = MemoryCurve::default();
        for second in 0..86_400 {
            let peak = u64::from(second == 7_777) * 500;
            curve.note(Millis(second * 1000), used(100 + peak, 100));
        }
        assert!((MOST_POINTS / 2..=MOST_POINTS).contains(&curve.points().len()));
        let at = curve.points().iter().position(|point| point.total_mb == 600);
        assert_eq!(at.map(|at| at as u64), Some(7_777_000 / curve.step().0));
        // A clock that jumps by years costs no memory either.
        curve.note(Millis(u64::MAX), used(1, 1));
        assert!(curve.points().len() <= MOST_POINTS);
    }

    #[test]
    fn what_the_kernel_saw_when_it_killed_is_the_last_point() {
        let mut curve = MemoryCurve::default();
        curve.reached(512);
        assert!(curve.is_empty());
        curve.note(Millis(0), used(480, 470));
        curve.reached(512);
        assert_eq!(curve.points(), [used(512, 470)]);
    }

    #[test]
    fn points_travel_as_pairs() {
        let mut curve = MemoryCurve::default();
        curve.note(Millis(1500), used(3, 2));
        let text = serde_json::to_string(&curve).unwrap();
        assert_eq!(text, r#"{"step_ms":1000,"points":[[3,2],[3,2]]}"#);
        assert_eq!(serde_json::from_str::<MemoryCurve>(&text).unwrap(), curve);
        let many = format!(r#"{{"step_ms":0,"points":[{}[1,1]]}}"#, "[1,1],".repeat(5000));
        let curve: MemoryCurve = serde_json::from_str(&many).unwrap();
        assert_eq!(curve.bounded().points().len(), MOST_POINTS);
    }
}
