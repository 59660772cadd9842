//! The pieces that pages are made of: each piece of markup once. All of them write HTML, and escape what they are given.

use std::fmt;

pub mod chart;
pub mod status;
pub mod time;
pub mod words;

use super::assets;

/// Marks types whose `Display` is HTML already.
macro_rules! html {
    ($($name:ty),* $(,)?) => {$(
        impl askama::filters::HtmlSafe for $name {}
    )*};
}
pub(crate) use html;

/// A text with what is special in HTML replaced, for content and for quoted attributes.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
            out.write_str(&rest[..at])?;
            out.write_str(match rest.as_bytes()[at] {
                b'&' => "&amp;",
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'"' => "&quot;",
                _ => "&#39;",
            })?;
            rest = &rest[at + 1..];
        }
        out.write_str(rest)
    }
}

/// A picture from the sprite; the word beside it says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icon(pub &'static str);

impl fmt::Display for Icon {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_icon(out, self.0, "i")
    }
}

fn write_icon(out: &mut fmt::Formatter<'_>, name: &str, class: &str) -> fmt::Result {
    let sprite = assets::icons();
    write!(
        out,
        r##"<svg class="{class}" aria-hidden="true"><use href="{sprite}#{name}"/></svg>"##
    )
}

/// A picture that stands alone, with the word for readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedIcon(pub &'static str, pub &'static str);

impl fmt::Display for NamedIcon {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sprite, Self(name, label)) = (assets::icons(), self);
        write!(
            out,
            r##"<svg class="i" role="img" aria-label="{label}"><use href="{sprite}#{name}"/></svg>"##
        )
    }
}

/// What a colour means. The colour is never the only sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// Done, well.
    Good,
    /// In progress.
    Live,
    /// A person decides.
    Ask,
    /// Care.
    Warn,
    /// Broken.
    Bad,
    /// Over, or of no importance now.
    Mute,
}

impl Tone {
    /// The class.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Live => "live",
            Self::Ask => "ask",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Mute => "mute",
        }
    }
}

impl fmt::Display for Tone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// An address that breaks where a reader would: behind `.` and `_`, and before `[`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaking<'a>(pub &'a str);

impl fmt::Display for Breaking<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.0.split_inclusive(['.', '_']) {
            match piece.split_once('[') {
                Some((before, behind)) => {
                    write!(out, "{}<wbr>[{}", Escaped(before), Escaped(behind))?;
                }
                None => write!(out, "{}", Escaped(piece))?,
            }
            if piece.ends_with(['.', '_']) {
                out.write_str("<wbr>")?;
            }
        }
        Ok(())
    }
}

/// A block that is meant to be copied whole. `marked` is what stands out in it, for example a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Unique on the page.
    pub id: &'static str,
    /// The text.
    pub text: String,
    /// What stands out.
    pub marked: String,
}

impl Code {
    /// A block in which nothing stands out.
    pub fn new(id: &'static str, text: impl Into<String>) -> Self {
        Self {
            id,
            text: text.into(),
            marked: String::new(),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            r#"<div class="code"><pre tabindex="0"><code id="{}">"#,
            self.id
        )?;
        match self
            .text
            .split_once(&self.marked)
            .filter(|_| !self.marked.is_empty())
        {
            Some((before, behind)) => write!(
                out,
                "{}<mark>{}</mark>{}",
                Escaped(before),
                Escaped(&self.marked),
                Escaped(behind)
            )?,
            None => write!(out, "{}", Escaped(&self.text))?,
        }
        write!(
            out,
            r#"</code></pre><button class="btn sm" type="button" data-copy="{}">{}<span>Copy</span></button></div>"#,
            self.id,
            Icon("copy")
        )
    }
}

html!(Icon, NamedIcon, Tone, Breaking<'_>, Code);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_special_in_html_is_inert() {
        assert_eq!(
            Escaped("<script>\"'&").to_string(),
            "&lt;script&gt;&quot;&#39;&amp;"
        );
        let code = Code {
            id: "c",
            text: "a <b> tok".to_owned(),
            marked: "tok".to_owned(),
        };
        assert!(code.to_string().contains("a &lt;b&gt; <mark>tok</mark>"));
    }

    #[test]
    fn addresses_break_where_a_reader_would() {
        assert_eq!(
            Breaking("a_b.c[\"x\"]").to_string(),
            "a_<wbr>b.<wbr>c<wbr>[&quot;x&quot;]"
        );
    }
}
