//! Pages of lists.

/// Which page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub number: u32,
    /// Items on a page.
    pub size: u32,
}

impl Page {
    /// Items after a page that are counted, in lists that are longer than anybody reads.
    pub const COUNTED: u64 = 1000;

    /// The first page with this many items.
    pub fn first(size: u32) -> Self {
        Self { number: 1, size }
    }

    /// `LIMIT`.
    pub fn limit(&self) -> i64 {
        i64::from(self.size)
    }

    /// `OFFSET`.
    pub fn offset(&self) -> i64 {
        i64::from(self.size) * i64::from(self.number.saturating_sub(1))
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::first(20)
    }
}

/// A page of a list, and how many items the whole list has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The page's items.
    pub items: Vec<T>,
    /// Items on all pages.
    pub total: u64,
}

impl<T> Listed<T> {
    /// The same page with other items.
    pub fn map<U>(self, convert: impl FnMut(T) -> U) -> Listed<U> {
        Listed {
            items: self.items.into_iter().map(convert).collect(),
            total: self.total,
        }
    }
}
