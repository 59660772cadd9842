//! Logs as people read them: lines of text made of what an engine wrote, and HTML made of lines.

pub mod ansi;
pub mod diagnostics;
mod index;
pub mod progress;
pub mod text;
mod view;

use std::fmt;

use super::parts::html;
use super::parts::words::bytes;

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
    /// Whether it is shown with everything that it has, however long.
    pub whole: bool,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            phase,
            number,
            text,
            hit,
            whole,
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
            r##"<div class="{class}" id="{phase}-L{number}"><a href="#{phase}-L{number}" data-n="{number}" tabindex="-1" aria-label="Line {number}"></a><span>"##
        )?;
        let most = if *whole {
            ansi::LONGEST_WHOLE
        } else {
            ansi::LONGEST
        };
        if let Some(left) = (ansi::Html { line: text, most }).write(out)? {
            let (left, more) = (
                bytes(left as u64),
                if *whole { "; the raw log has it" } else { "" },
            );
            write!(out, r#"<em class="k"> … {left} more{more}</em>"#)?;
            if !*whole {
                write!(
                    out,
                    r##" <a href="?phase={phase}&amp;at={number}&amp;whole=1#{phase}-L{number}">show all</a>"##
                )?;
            }
        }
        out.write_str("</span></div>")
    }
}

html!(Line<'_>);
