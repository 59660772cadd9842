//! The memory of a run's sandbox over time, as a chart.

use std::fmt;

use terrapool_model::job::Phase;
use terrapool_model::time::Millis;
use terrapool_protocol::memory::MemoryUse;

use super::load;
use crate::http::web::parts::time::Took;
use crate::http::web::parts::words::megabytes;
use crate::http::web::parts::{Escaped, html};

/// Points that are drawn at most: more cannot be told apart.
const MOST_DRAWN: usize = 96;

/// The share of its memory at which an engine is asked to stop, percent.
const SOFT_PERCENT: u64 = 80;

/// The chart with what stands over it.
pub(super) struct Memory {
    pub(super) heading: &'static str,
    /// What the lines and the ground mean.
    pub(super) legend: String,
    pub(super) chart: Chart,
}

/// How much room a chart has: lengths in pixels as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Room {
    class: &'static str,
    width: u64,
    height: u64,
    /// Where the ground begins: the figures stand left of it.
    left: u64,
}

const BIG: Room = Room {
    class: "ch big",
    width: 820,
    height: 150,
    left: 48,
};
const SMALL: Room = Room {
    class: "ch",
    width: 272,
    height: 120,
    left: 40,
};

/// Above and below the ground.
const TOP: u64 = 18;
const BELOW: u64 = 20;

/// Memory over time below its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chart {
    points: Vec<MemoryUse>,
    length: Millis,
    limit_mb: u64,
    is_killed: bool,
    room: Room,
    sentence: String,
}

/// At most so many points as are drawn, the most of each group.
fn drawn(points: &[MemoryUse]) -> Vec<MemoryUse> {
    let group = points.len().div_ceil(MOST_DRAWN).max(1);
    let mut drawn: Vec<MemoryUse> = points
        .chunks(group)
        .map(|group| MemoryUse {
            total_mb: group.iter().map(|used| used.total_mb).max().unwrap_or(0),
            anonymous_mb: group.iter().map(|used| used.anonymous_mb).max().unwrap_or(0),
        })
        .collect();
    // A line has two ends.
    if let [only] = drawn.as_slice() {
        drawn.push(*only);
    }
    drawn
}

/// The memory of a phase. `is_killed`: it ended for its memory, so the chart is the first thing on the page.
pub(super) fn of(memory: &load::Memory, is_killed: bool) -> Memory {
    let (curve, limit_mb) = (&memory.curve, memory.limit_mb);
    let now = curve.points().last().filter(|_| memory.is_live);
    let points = drawn(curve.points());
    let most = |of: fn(&MemoryUse) -> u64| points.iter().map(of).max().unwrap_or(0);
    let (total, anonymous) = (most(|used| used.total_mb), most(|used| used.anonymous_mb));
    let soft = soft(limit_mb);
    let (phase, heading) = match memory.phase {
        Phase::Plan => ("plan", "Memory of the plan"),
        Phase::Apply => ("apply", "Memory of the apply"),
    };
    let sentence = format!(
        "Memory of the {phase} over {}: {}at most {} of {}, {} of it without page cache; at {} without page cache the \
         engine is asked to stop.",
        Took(curve.length()),
        now.map_or_else(String::new, |now| format!("{} now, ", megabytes(now.total_mb))),
        megabytes(total),
        megabytes(limit_mb),
        megabytes(anonymous),
        megabytes(soft)
    );
    Memory {
        heading,
        legend: format!(
            "{}Dashed: asked to stop at {}, killed at {}. Ground: with page cache.",
            now.map_or_else(String::new, |now| format!("{} now. ", megabytes(now.total_mb))),
            megabytes(soft),
            megabytes(limit_mb)
        ),
        chart: Chart {
            points,
            length: curve.length(),
            limit_mb,
            is_killed,
            room: if is_killed { BIG } else { SMALL },
            sentence,
        },
    }
}

fn soft(limit_mb: u64) -> u64 {
    (limit_mb.saturating_mul(SOFT_PERCENT) + 50) / 100
}

/// Tenths of a pixel as SVG writes them.
struct Tenths(u64);

impl fmt::Display for Tenths {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

impl Chart {
    /// The height of a figure, in tenths from the top.
    fn height_of(&self, megabytes: u64) -> Tenths {
        let limit = self.limit_mb.max(1);
        let ground = (self.room.height - TOP - BELOW) * 10;
        let up = megabytes.min(limit).saturating_mul(ground) / limit;
        Tenths((self.room.height - BELOW) * 10 - up)
    }

    fn line(&self, of: fn(&MemoryUse) -> u64) -> String {
        let (left, right) = (self.room.left * 10, (self.room.width - 12) * 10);
        let steps = self.points.len().saturating_sub(1).max(1) as u64;
        let points: Vec<String> = (0..)
            .zip(&self.points)
            .map(|(at, used)| {
                let across = Tenths(left + at * (right - left) / steps);
                format!("{across},{}", self.height_of(of(used)))
            })
            .collect();
        points.join(" ")
    }
}

impl fmt::Display for Chart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Room {
            class,
            width,
            height,
            left,
        } = self.room;
        let (right, floor) = (width - 12, height - BELOW);
        let tone = if self.is_killed { " bad" } else { "" };
        write!(
            out,
            r#"<svg class="{class}{tone}" viewBox="0 0 {width} {height}" role="img" aria-label="{}">"#,
            Escaped(&self.sentence)
        )?;
        for (figure, tone) in [(self.limit_mb, "bad"), (soft(self.limit_mb), "warn")] {
            let at = self.height_of(figure);
            let below = Tenths(at.0 + 40);
            write!(
                out,
                r#"<path class="lim {tone}" d="M{left} {at}H{right}"/><text x="{}" y="{below}" text-anchor="end">{figure}</text>"#,
                left - 6
            )?;
        }
        write!(
            out,
            r#"<text x="{}" y="{}" text-anchor="end">0 MB</text><polygon class="ar" points="{left},{floor} {} {right},{floor}"/><polyline class="l" points="{}"/><path class="gr" d="M{left} {floor}H{right}"/><text x="{left}" y="{}">0 s</text><text x="{right}" y="{}" text-anchor="end">{}</text></svg>"#,
            left - 6,
            floor + 4,
            self.line(|used| used.total_mb),
            self.line(|used| used.anonymous_mb),
            height - 4,
            height - 4,
            Took(self.length)
        )
    }
}

html!(Chart);

#[cfg(test)]
mod tests {
    use terrapool_protocol::memory::MemoryCurve;

    use super::*;

    fn memory(phase: Phase, points: &[(u64, u64)]) -> load::Memory {
        let mut curve = MemoryCurve::default();
        for (second, used) in (0..).zip(points) {
            curve.note(Millis::from_seconds(second), MemoryUse::from(*used));
        }
        load::Memory {
            phase,
            curve,
            limit_mb: 512,
            is_live: false,
        }
    }

    #[test]
    fn what_goes_on_is_told_as_it_is_now() {
        let mut going_on = memory(Phase::Plan, &[(300, 200), (120, 80)]);
        going_on.is_live = true;
        let shown = of(&going_on, false);
        assert!(shown.legend.starts_with("120 MB now. Dashed"), "{}", shown.legend);
        let sentence = &shown.chart.sentence;
        assert!(
            sentence.contains("over 2.0 s: 120 MB now, at most 300 MB of 512 MB"),
            "{sentence}"
        );
    }

    #[test]
    fn a_curve_is_drawn_below_its_two_limits() {
        let memory = of(&memory(Phase::Plan, &[(0, 0), (256, 128), (512, 480)]), true);
        assert_eq!(memory.heading, "Memory of the plan");
        assert!(
            memory
                .legend
                .contains("asked to stop at 410 MB, killed at 512 MB")
        );
        let svg = memory.chart.to_string();
        assert!(!svg.contains("style="), "{svg}");
        for part in [
            r#"class="ch big bad""#,
            "over 3.0 s: at most 512 MB of 512 MB, 480 MB of it without page cache",
            r#"<path class="lim bad" d="M48 18.0H808"/>"#,
            r#"<path class="lim warn" d="M48 40.4H808"/>"#,
            r#"<polygon class="ar" points="48,130 48.0,130.0 428.0,74.0 808.0,18.0 808,130"/>"#,
            r#"<polyline class="l" points="48.0,130.0 428.0,102.0 808.0,25.0"/>"#,
            ">3.0 s<",
        ] {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
    }

    #[test]
    fn long_curves_are_drawn_with_fewer_points_and_keep_their_peak() {
        let mut points = vec![(100, 50); 239];
        points[17] = (300, 200);
        let long = of(&memory(Phase::Apply, &points), false);
        assert!(long.chart.points.len() <= MOST_DRAWN);
        assert!(long.chart.sentence.contains("at most 300 MB of 512 MB, 200 MB"));
        assert!(long.chart.to_string().len() < 4000);
        let one = of(&memory(Phase::Apply, &[(1, 1)]), false);
        assert_eq!(one.chart.points.len(), 2);
    }
}
