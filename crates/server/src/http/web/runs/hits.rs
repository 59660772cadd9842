//! What a search of a log found: how much, where one stands in it, and where its neighbours are.

use crate::http::web::parts::words::{self, Number};

/// What was found, for the head of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hits {
    /// "3 of 18,286 lines".
    pub(super) words: String,
    /// The line found before the one that is looked at, and the one behind it.
    pub(super) previous: Option<String>,
    pub(super) next: Option<String>,
    /// The last line found before those on the page, and the first one behind them: where the keys go from its ends.
    pub(super) before: Option<String>,
    pub(super) after: Option<String>,
}

impl Hits {
    /// The numbers of the lines that were found, in order; the one that is looked at; the first and last line on the
    /// page; the address of a line.
    pub(super) fn of(
        found: &[usize],
        at: Option<usize>,
        (from, to): (usize, usize),
        address: impl Fn(usize) -> String,
    ) -> Self {
        let line = |index: Option<usize>| index.and_then(|index| found.get(index)).copied().map(&address);
        let position = at.and_then(|at| found.binary_search(&at).ok());
        // Without a line that is looked at, the first one on the page is the next.
        let begin = found.partition_point(|line| *line < at.unwrap_or(from));
        let all = words::count(found.len() as u64, "line", "lines");
        Self {
            words: match position {
                _ if found.is_empty() => "Not found".to_owned(),
                Some(position) => format!("{} of {all}", Number(position as u64 + 1)),
                None => format!("{all} found"),
            },
            previous: line(begin.checked_sub(1)),
            next: line(Some(position.map_or(begin, |position| position + 1))),
            before: line(found.partition_point(|line| *line < from).checked_sub(1)),
            after: line(Some(found.partition_point(|line| *line <= to))),
        }
    }
}

/// What is typed to go to a line: a colon and its number.
pub(super) fn line_number(query: &str) -> Option<usize> {
    query.strip_prefix(':')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_has_neighbours_beside_the_line_and_beyond_the_page() {
        let found = [3, 700, 900, 2500];
        let of = |at, page| Hits::of(&found, at, page, |line| line.to_string());
        let some = |line: &str| Some(line.to_owned());
        let hits = of(Some(700), (200, 1199));
        assert_eq!(hits.words, "2 of 4 lines");
        assert_eq!((hits.previous, hits.next), (some("3"), some("900")));
        assert_eq!((hits.before, hits.after), (some("3"), some("2500")));
        let hits = of(None, (1, 1000));
        assert_eq!(hits.words, "4 lines found");
        assert_eq!((hits.previous, hits.next), (None, some("3")));
        assert_eq!((hits.before, hits.after), (None, some("2500")));
        let last = of(Some(2500), (2000, 2999));
        assert_eq!((last.previous, last.next, last.after), (some("900"), None, None));
        let none = Hits::of(&[], None, (1, 1000), |line| line.to_string());
        assert_eq!((none.words.as_str(), none.next), ("Not found", None));
    }

    #[test]
    fn a_colon_and_a_number_go_to_a_line() {
        assert_eq!(line_number(":120"), Some(120));
        assert_eq!(line_number(": 7"), Some(7));
        assert_eq!(line_number(":x"), None);
        assert_eq!(line_number("120"), None);
    }
}
