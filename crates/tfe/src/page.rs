//! Pages of lists.

use serde_json::{Map, Value, json};

/// The page that a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// From 1.
    pub number: u32,
    /// Items on a page, 1 to 100.
    pub size: u32,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { number: 1, size: 20 }
    }
}

impl PageRequest {
    /// Reads `page[number]` and `page[size]`. What is no number, or out of range, falls back or is cut.
    pub fn new(number: Option<&str>, size: Option<&str>) -> Self {
        let read = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u32>().ok());
        Self {
            number: read(number).unwrap_or(1).max(1),
            size: read(size).unwrap_or(20).clamp(1, 100),
        }
    }

    /// Items before the page.
    pub fn offset(self) -> u64 {
        u64::from(self.number - 1) * u64::from(self.size)
    }

    /// The page's items out of a whole list.
    pub fn cut<T>(self, items: Vec<T>) -> Vec<T> {
        let offset = usize::try_from(self.offset()).unwrap_or(usize::MAX);
        items.into_iter().skip(offset).take(self.size as usize).collect()
    }
}

/// A page with the number of all items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pagination {
    /// The page.
    pub page: PageRequest,
    /// Items on all pages.
    pub total: u64,
}

impl Pagination {
    fn pages(&self) -> u64 {
        self.total.div_ceil(u64::from(self.page.size)).max(1)
    }

    fn previous(&self) -> Option<u64> {
        let number = u64::from(self.page.number);
        (number > 1).then(|| (number - 1).min(self.pages()))
    }

    fn next(&self) -> Option<u64> {
        let number = u64::from(self.page.number);
        (number < self.pages()).then_some(number + 1)
    }

    /// `meta.pagination`.
    pub fn meta(&self) -> Value {
        json!({
            "current-page": self.page.number,
            "page-size": self.page.size,
            "prev-page": self.previous(),
            "next-page": self.next(),
            "total-pages": self.pages(),
            "total-count": self.total,
        })
    }

    /// Links to this page and its neighbours.
    pub fn links(&self, path: &str) -> Map<String, Value> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let size = self.page.size;
        let link = |number: u64| {
            Value::String(format!(
                "{path}{separator}page%5Bnumber%5D={number}&page%5Bsize%5D={size}"
            ))
        };
        let maybe = |number: Option<u64>| number.map_or(Value::Null, link);
        let mut links = Map::new();
        links.insert("self".to_owned(), link(u64::from(self.page.number)));
        links.insert("first".to_owned(), link(1));
        links.insert("prev".to_owned(), maybe(self.previous()));
        links.insert("next".to_owned(), maybe(self.next()));
        links.insert("last".to_owned(), link(self.pages()));
        links
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_beyond_the_last_one_keeps_its_number_and_the_true_total() {
        let pagination = Pagination {
            page: PageRequest::new(Some("999"), Some("100")),
            total: 3,
        };
        let meta = pagination.meta();
        assert_eq!(meta["current-page"], 999);
        assert_eq!(meta["total-count"], 3);
        assert_eq!(meta["next-page"], Value::Null);
        assert_eq!(meta["prev-page"], 1);
    }

    #[test]
    fn nonsense_in_page_parameters_falls_back() {
        assert_eq!(
            PageRequest::new(Some("x"), Some("100000")),
            PageRequest { number: 1, size: 100 }
        );
        assert_eq!(PageRequest::new(Some("0"), None), PageRequest::default());
        assert_eq!(PageRequest { number: 2, size: 2 }.cut(vec![1, 2, 3]), vec![3]);
    }
}
