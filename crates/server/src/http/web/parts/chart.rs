//! Small charts, made as SVG with sizes as attributes: style attributes are forbidden by the pages' policy.

use std::fmt;

use super::{Escaped, Tone, html};

/// A bar that is filled in part. The sentence is for readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// How much of a hundred.
    pub percent: u64,
    /// Its colour.
    pub tone: Tone,
    /// The same in words.
    pub sentence: String,
}

impl Meter {
    /// A bar for a share of a whole, coloured by how full it is.
    pub fn of(part: u64, whole: u64, sentence: String) -> Self {
        let percent = (part.saturating_mul(100))
            .checked_div(whole)
            .unwrap_or(0)
            .min(100);
        let tone = match percent {
            0..75 => Tone::Live,
            75..95 => Tone::Warn,
            _ => Tone::Bad,
        };
        Self {
            percent,
            tone,
            sentence,
        }
    }

    /// The same in another colour.
    #[must_use]
    pub fn in_tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            r#"<svg class="ch meter" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{}"><rect class="fi {}" width="{}" height="6"/></svg>"#,
            Escaped(&self.sentence),
            self.tone,
            self.percent
        )
    }
}

/// How long something took of the longest, in a table beside the figure: readers need it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// How long it took.
    pub part: u64,
    /// How long the longest took.
    pub whole: u64,
    /// Its colour.
    pub tone: Tone,
}

impl fmt::Display for Lane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.part.saturating_mul(120) / self.whole.max(1);
        write!(
            out,
            r#"<svg class="ch" viewBox="0 0 120 12" preserveAspectRatio="none" aria-hidden="true"><path class="gr" d="M0 6H120"/><rect class="fi {}" y="2" width="{}" height="8" rx="1"/></svg>"#,
            self.tone,
            width.clamp(1, 120)
        )
    }
}

/// A line over time, with the ground under it tinted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spark {
    /// The values, oldest first.
    pub values: Vec<u64>,
    /// What the whole height means; 0: the largest value.
    pub whole: u64,
    /// Its colour.
    pub tone: Tone,
    /// The same in words.
    pub sentence: String,
}

impl fmt::Display for Spark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self
            .values
            .iter()
            .copied()
            .max()
            .unwrap_or(0)
            .max(self.whole)
            .max(1);
        let steps = self.values.len().saturating_sub(1).max(1);
        let points: Vec<String> = self
            .values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                // Tenths: 160 wide, 30 high, 2 from the top.
                let x = index * 1600 / steps;
                let y = 310 - value * 290 / most;
                format!("{}.{},{}.{}", x / 10, x % 10, y / 10, y % 10)
            })
            .collect();
        let line = points.join(" ");
        write!(
            out,
            r#"<svg class="ch spark {}" viewBox="0 0 160 32" preserveAspectRatio="none" role="img" aria-label="{}"><polygon class="ar" points="0,32 {line} 160,32"/><polyline class="l" points="{line}"/></svg>"#,
            self.tone,
            Escaped(&self.sentence)
        )
    }
}

/// Bars over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bars {
    /// The values, oldest first.
    pub values: Vec<u64>,
    /// Its colour.
    pub tone: Tone,
    /// The same in words.
    pub sentence: String,
}

impl fmt::Display for Bars {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.values.iter().copied().max().unwrap_or(0).max(1);
        let width = 1600 / self.values.len().max(1);
        write!(
            out,
            r#"<svg class="ch spark" viewBox="0 0 160 32" preserveAspectRatio="none" role="img" aria-label="{}">"#,
            Escaped(&self.sentence)
        )?;
        for (index, value) in self.values.iter().enumerate() {
            let x = index * width + 5;
            let height = (value * 320 / most).max(10);
            let bar = width.saturating_sub(15).max(5);
            write!(
                out,
                r#"<rect class="fi {}" x="{}.{}" y="{}.{}" width="{}.{}" height="{}.{}"/>"#,
                self.tone,
                x / 10,
                x % 10,
                (320 - height) / 10,
                (320 - height) % 10,
                bar / 10,
                bar % 10,
                height / 10,
                height % 10
            )?;
        }
        out.write_str("</svg>")
    }
}

/// Slots as squares: used, free, and those that cannot be offered now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pips {
    /// In use.
    pub used: u32,
    /// Free, and offered.
    pub free: u32,
    /// Not to be had now.
    pub gone: u32,
}

/// More squares than this are told in figures only.
const MOST_PIPS: u32 = 12;

impl fmt::Display for Pips {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.used + self.free + self.gone;
        if all > MOST_PIPS {
            return Ok(());
        }
        write!(
            out,
            r#"<span class="pips" role="img" aria-label="{} of {all} slots in use">"#,
            self.used
        )?;
        for (number, square) in [
            (self.used, r#"<i class="on"></i>"#),
            (self.free, "<i></i>"),
            (self.gone, r#"<i class="no"></i>"#),
        ] {
            for _ in 0..number {
                out.write_str(square)?;
            }
        }
        out.write_str("</span>")
    }
}

html!(Meter, Lane, Spark, Bars, Pips);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_need_no_style_attributes() {
        let meter = Meter::of(391, 512, "391 of 512 MB".to_owned());
        assert_eq!((meter.percent, meter.tone), (76, Tone::Warn));
        let spark = Spark {
            values: vec![0, 5, 10],
            whole: 0,
            tone: Tone::Live,
            sentence: "waits".to_owned(),
        };
        let bars = Bars {
            values: vec![1, 2],
            tone: Tone::Good,
            sentence: "runs".to_owned(),
        };
        let pips = Pips {
            used: 1,
            free: 1,
            gone: 1,
        };
        let all = format!("{meter}{spark}{bars}{pips}");
        assert!(!all.contains("style="), "{all}");
        assert!(all.contains("0.0,31.0 80.0,16.5 160.0,2.0"), "{all}");
        let calm = Spark { whole: 20, ..spark }.to_string();
        assert!(calm.contains("0.0,31.0 80.0,23.8 160.0,16.5"), "{calm}");
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let empty = Spark {
            values: Vec::new(),
            whole: 0,
            tone: Tone::Live,
            sentence: String::new(),
        };
        assert!(empty.to_string().contains("svg"));
        assert_eq!(Meter::of(1, 0, String::new()).percent, 0);
    }
}
