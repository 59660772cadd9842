//! The clock that the agent measures with: it counts a suspended machine's sleep.

use terrapool_agent_core::attempt::Boottime;

/// Now.
pub fn boottime() -> Boottime {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    Boottime(seconds * 1000 + nanoseconds / 1_000_000)
}

/// By so many seconds a clock may differ from the control plane's before it is worth a word.
const TOLERATED: i64 = 60;

/// Words about this host's clock when it is `ahead` seconds (negative: behind) of the control plane's and that is much.
/// Nothing of the agent's depends on the time of day; certificates, and the credentials that runs use elsewhere, do.
pub fn disagreement(ahead: i64) -> Option<String> {
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    (ahead.abs() > TOLERATED).then(|| {
        format!(
            "this host's clock is {} s {direction} the control plane's: runs go on, but certificates may seem invalid and \
             clouds refuse signatures; start chronyd or systemd-timesyncd",
            ahead.abs()
        )
    })
}

/// Seconds since 1970, as this host's clock has it.
pub fn wall_seconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The time of an HTTP `Date` header (`Sun, 06 Nov 1994 08:49:37 GMT`, RFC 9110) in seconds since 1970.
pub fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = 1 + i64::try_from(MONTHS.iter().position(|month| *month == name)?).ok()?;
    let year: i64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(str::parse::<i64>);
    let (hours, minutes, seconds) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    // Days of the proleptic Gregorian calendar, in years that begin in March.
    let shifted = if month > 2 { year } else { year - 1 };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        shifted * 365 + shifted.div_euclid(4) - shifted.div_euclid(100) + shifted.div_euclid(400) + of_year
            - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

/// A random number for jitter and ids.
pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // Without random numbers attempts could collide; going on would be worse than ending.
        std::process::abort();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_answers_are_read_to_the_second() {
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(http_date("Fri, 01 Mar 2024 00:00:00 GMT"), Some(1_709_251_200));
        assert_eq!(http_date("yesterday"), None);
        assert_eq!(http_date("Sun, 06 Nov 1994"), None);
    }

    #[test]
    fn a_clock_that_is_an_hour_off_is_worth_a_word_and_one_of_seconds_is_not() {
        assert_eq!(disagreement(0), None);
        assert_eq!(disagreement(-60), None);
        assert!(disagreement(3600).unwrap().contains("3600 s ahead of"));
        assert!(disagreement(-3600).unwrap().contains("3600 s behind"));
    }
}
