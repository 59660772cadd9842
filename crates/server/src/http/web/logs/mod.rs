//! Logs as people read them: lines of text made of what an engine wrote, and HTML made of lines.

pub mod ansi;
pub mod diagnostics;
mod index;
pub mod progress;
pub mod text;
mod view;

use std::fmt;

use super::parts::html;

pub use index::LogLines;
pub use view::{Delivery, LogView};

/// Lines of a chunk, which has a fixed height.
pub const CHUNK: usize = 500;

/// A line at its number.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Begin of its anchor: `plan` or `apply`.
    pub phase: &'a str,
    /// Its number, from 1.
    pub number: usize,
    /// Its text.
    pub text: &'a str,
    /// Whether it was searched for.
    pub hit: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            phase,
            number,
            text,
            hit,
        } = self;
        let class = if text::is_error(text) {
            "ln e"
        } else if *hit {
            "ln hit"
        } else {
            "ln"
        };
        write!(
            out,
            r##"<div class="{class}" id="{phase}-L{number}"><a href="#{phase}-L{number}" data-n="{number}" tabindex="-1" aria-label="Line {number}"></a><span>{}</span></div>"##,
            ansi::Html(text)
        )
    }
}

html!(Line<'_>);
