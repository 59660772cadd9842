//! Times and durations in words.

use std::fmt;

use chrono::{DateTime, Datelike as _, Utc};
use terrapool_model::time::{Millis, Timestamp};

use super::{Tone, html};

fn utc(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(at.0).unwrap_or_default()
}

fn write_time(out: &mut fmt::Formatter<'_>, at: Timestamp, more: &str, words: &str) -> fmt::Result {
    let time = utc(at);
    write!(
        out,
        r#"<time datetime="{}" title="{} UTC"{more}>{words}</time>"#,
        time.format("%Y-%m-%dT%H:%M:%SZ"),
        time.format("%Y-%m-%d %H:%M:%S")
    )
}

/// How long ago something was, as it is read now; the day when that is longer ago than a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ago {
    /// When it was.
    pub at: Timestamp,
    /// Now.
    pub now: Timestamp,
}

impl Ago {
    /// Something that was at a time.
    pub fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { at, now }
    }

    /// The words alone, for a second place on the page: they do not go on with the clock.
    pub fn words(&self) -> String {
        let seconds = (self.now - self.at).0 / 1000;
        match seconds {
            0..60 => format!("{seconds} s ago"),
            60..3600 => format!("{} min ago", seconds / 60),
            3600..86400 => format!("{} h ago", seconds / 3600),
            _ => day(self.at, self.now),
        }
    }
}

impl fmt::Display for Ago {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ticks = (self.now - self.at).0 < 24 * 3_600_000;
        let more = if ticks { " data-ago" } else { "" };
        write_time(out, self.at, more, &self.words())
    }
}

/// "23 Nov, 16:20"; with the year when it is another one.
fn day(at: Timestamp, now: Timestamp) -> String {
    let time = utc(at);
    if time.year() == utc(now).year() {
        time.format("%-d %b, %H:%M").to_string()
    } else {
        time.format("%-d %b %Y").to_string()
    }
}

/// A moment as evidence: the clock, in UTC, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock(pub Timestamp);

impl Clock {
    /// The words alone, within a sentence: "14:20:11 UTC".
    pub fn words(&self) -> String {
        utc(self.0).format("%H:%M:%S UTC").to_string()
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_time(out, self.0, "", &utc(self.0).format("%H:%M:%S").to_string())
    }
}

/// A moment with its day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// When.
    pub at: Timestamp,
    /// Now: says whether the year is written.
    pub now: Timestamp,
}

impl Day {
    /// A moment with its day.
    pub fn new(at: Timestamp, now: Timestamp) -> Self {
        Self { at, now }
    }

    /// The words alone, within a sentence: "23 Nov, 16:20 UTC".
    pub fn words(&self) -> String {
        format!("{} UTC", day(self.at, self.now))
    }
}

impl fmt::Display for Day {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_time(out, self.at, "", &day(self.at, self.now))
    }
}

/// A day as fields of forms want it, in UTC: "2026-11-24".
pub fn date(at: Timestamp) -> String {
    utc(at).format("%Y-%m-%d").to_string()
}

/// From when on a token is not valid any more, in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    at: Option<Timestamp>,
    now: Timestamp,
}

impl Expiry {
    /// So long before its end a token is marked: two weeks.
    const SOON: Millis = Millis::from_seconds(14 * 24 * 3600);

    /// The end of a token; `None` is never.
    pub fn new(at: Option<Timestamp>, now: Timestamp) -> Self {
        Self { at, now }
    }

    /// What marks one that has ended or ends soon: its colour and its word.
    pub fn mark(&self) -> Option<(Tone, String)> {
        let at = self.at?;
        if at <= self.now {
            Some((Tone::Bad, "expired".to_owned()))
        } else if at - self.now < Self::SOON {
            Some((Tone::Warn, format!("expires in {}", between(self.now, at))))
        } else {
            None
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(at) => Day::new(at, self.now).fmt(out),
            None => out.write_str("never"),
        }
    }
}

/// A duration: "0.8 s", "42 s", "3 min 12 s", "1 h 04 min", "12 d 5 h".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Took(pub Millis);

impl fmt::Display for Took {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.0 / 1000;
        match seconds {
            0..10 => write!(out, "{}.{} s", seconds, self.0.0 % 1000 / 100),
            10..60 => write!(out, "{seconds} s"),
            60..3600 => write!(out, "{} min {:02} s", seconds / 60, seconds % 60),
            3600..86400 => write!(out, "{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
            _ => write!(out, "{} d {} h", seconds / 86400, seconds % 86400 / 3600),
        }
    }
}

/// The time from one moment to another.
pub fn between(from: Timestamp, to: Timestamp) -> Took {
    Took(to - from)
}

html!(Ago, Clock, Day, Expiry, Took);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_precise_as_they_are_short() {
        let took = |millis| Took(Millis(millis)).to_string();
        assert_eq!(took(840), "0.8 s");
        assert_eq!(took(42_900), "42 s");
        assert_eq!(took(192_000), "3 min 12 s");
        assert_eq!(took(3_840_000), "1 h 04 min");
        assert_eq!(took(1_054_800_000), "12 d 5 h");
    }

    #[test]
    fn a_token_is_marked_two_weeks_before_its_end_and_after_it() {
        let now = Timestamp(1_796_000_000_000);
        let mark = |days: i64| Expiry::new(Some(Timestamp(now.0 + days * 86_400_000)), now).mark();
        assert_eq!(mark(15), None);
        assert_eq!(mark(3), Some((Tone::Warn, "expires in 3 d 0 h".to_owned())));
        assert_eq!(mark(0), Some((Tone::Bad, "expired".to_owned())));
        assert_eq!(Expiry::new(None, now).mark(), None);
        assert_eq!(Expiry::new(None, now).to_string(), "never");
    }

    #[test]
    fn what_was_today_is_counted_and_what_was_before_is_dated() {
        let now = Timestamp(1_796_000_000_000);
        let ago = |millis| Ago::new(Timestamp(now.0 - millis), now).to_string();
        assert!(ago(240_000).contains("data-ago>4 min ago<"));
        assert!(ago(172_800_000).contains(", "), "{}", ago(172_800_000));
    }
}
