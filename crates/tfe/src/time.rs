//! Times as clients accept them.

use chrono::{DateTime, SecondsFormat};
use terrapool_model::time::Timestamp;

/// ISO 8601 in UTC with milliseconds and `Z`. The Go client refuses every other offset.
pub fn iso8601(time: Timestamp) -> String {
    DateTime::from_timestamp_millis(time.0)
        .unwrap_or_default()
        .to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads an RFC 3339 time with any offset. `None` when the text is none.
pub fn parse(text: &str) -> Option<Timestamp> {
    let time = DateTime::parse_from_rfc3339(text.trim()).ok()?;
    Some(Timestamp(time.timestamp_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_end_in_z_and_read_back() {
        let time = Timestamp(1_700_000_000_123);
        assert_eq!(iso8601(time), "2023-11-14T22:13:20.123Z");
        assert_eq!(parse(&iso8601(time)), Some(time));
        assert_eq!(parse("2023-11-14T23:13:20.123+01:00"), Some(time));
        assert_eq!(parse("yesterday"), None);
    }
}
