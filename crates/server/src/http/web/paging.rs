//! Pages of lists, and the filters above them.

use terrapool_store::page::Page;

use super::encoded;
use super::parts::words::Number;
use crate::http::answer::Params;

/// Rows of a page.
pub const ROWS: u32 = 50;

/// Which page of a list is shown, and the addresses of its neighbours.
#[derive(Debug, Clone)]
pub struct Paging {
    /// The page.
    pub page: Page,
    /// Rows of the whole list; of a long one at most one more than [`Page::COUNTED`] behind the page.
    pub total: u64,
    /// What is counted at most.
    counted: Option<u64>,
    /// The order in words.
    pub order: &'static str,
    address: String,
}

impl Paging {
    /// The page that a request asks for, of a list at `path` with these filters.
    pub fn new(params: &Params, path: &str, filters: &[(&str, &str)], order: &'static str) -> Self {
        let number = params.get("page").and_then(|number| number.parse().ok());
        Self::numbered(number.unwrap_or(1), ROWS, path, filters, order)
    }

    /// A page of so many rows by its number, from 1.
    pub fn numbered(
        number: u32,
        size: u32,
        path: &str,
        filters: &[(&str, &str)],
        order: &'static str,
    ) -> Self {
        let number = number.clamp(1, 1_000_000);
        Self {
            page: Page { number, size },
            total: 0,
            counted: None,
            order,
            address: with_query(path, filters),
        }
    }

    /// With the length of the list.
    #[must_use]
    pub fn of(self, total: u64) -> Self {
        Self { total, ..self }
    }

    /// With the length of a list whose rows behind the page are counted up to [`Page::COUNTED`].
    #[must_use]
    pub fn counted(self, total: u64) -> Self {
        let end = u64::from(self.page.number) * u64::from(self.page.size);
        Self {
            total,
            counted: Some(end + Page::COUNTED),
            ..self
        }
    }

    /// "51–100 of 214, newest first"; "1–50 of more than 1,050" where the rest was not counted.
    pub fn words(&self) -> String {
        let first = u64::try_from(self.page.offset()).unwrap_or(0) + 1;
        let last = (first + u64::from(self.page.size) - 1).min(self.total);
        if first > self.total {
            return "Nothing here".to_owned();
        }
        let (more, total) = match self.counted {
            Some(counted) if self.total > counted => ("more than ", counted),
            Some(_) | None => ("", self.total),
        };
        format!(
            "{}–{} of {more}{}, {}",
            Number(first),
            Number(last),
            Number(total),
            self.order
        )
    }

    /// Whether there is another page.
    pub fn has_more_pages(&self) -> bool {
        self.page.number > 1 || self.after().is_some()
    }

    fn at(&self, number: u32) -> String {
        let sign = if self.address.contains('?') { '&' } else { '?' };
        format!("{}{sign}page={number}", self.address)
    }

    /// The address of the page before.
    pub fn before(&self) -> Option<String> {
        (self.page.number > 1).then(|| self.at(self.page.number - 1))
    }

    /// The address of the page after.
    pub fn after(&self) -> Option<String> {
        let shown = u64::from(self.page.number) * u64::from(self.page.size);
        (shown < self.total).then(|| self.at(self.page.number + 1))
    }
}

/// A path with the parameters that have a value.
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let query: Vec<String> = parameters
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

/// A filter above a list.
#[derive(Debug, Clone)]
pub struct Chip {
    /// Its word.
    pub word: &'static str,
    /// Its picture; none for everything.
    pub icon: Option<&'static str>,
    /// How many it lets through, where it is known.
    pub count: Option<u64>,
    /// The list with it.
    pub address: String,
    /// Whether it is the one that holds.
    pub current: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_linked_with_their_filters() {
        let paging = Paging {
            page: Page { number: 2, size: 50 },
            total: 214,
            counted: None,
            order: "newest first",
            address: with_query("/app/acme/runs", &[("status", "ask"), ("q", "a b"), ("who", "")]),
        };
        assert_eq!(paging.words(), "51–100 of 214, newest first");
        assert_eq!(
            paging.after().as_deref(),
            Some("/app/acme/runs?status=ask&q=a%20b&page=3")
        );
        assert!(paging.before().is_some());
        let last = Paging {
            page: Page { number: 5, size: 50 },
            ..paging.clone()
        };
        assert_eq!(last.after(), None);
        let (long, whole) = (paging.clone().counted(1101), paging.counted(1100));
        assert_eq!(long.words(), "51–100 of more than 1,100, newest first");
        assert_eq!(whole.words(), "51–100 of 1,100, newest first");
    }
}
