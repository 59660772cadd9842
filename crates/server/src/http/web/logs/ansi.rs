//! Terminal colours as classes. Everything else that a terminal would do is dropped.

use std::fmt;

use crate::http::web::parts::Escaped;

/// Bytes of a line that are shown at first.
pub const LONGEST: usize = 4096;
/// Bytes of a line of which everything is asked for.
pub const LONGEST_WHOLE: usize = 256 << 10;

/// A line's text as HTML.
#[derive(Debug, Clone, Copy)]
pub struct Html<'a> {
    /// The line.
    pub line: &'a str,
    /// So many bytes of its text are shown.
    pub most: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Pen {
    colour: Option<&'static str>,
    bold: bool,
    underlined: bool,
}

impl Pen {
    fn class(self) -> String {
        let mut names: Vec<&str> = self.colour.into_iter().collect();
        if self.bold {
            names.push("bo");
        }
        if self.underlined {
            names.push("ul");
        }
        names.join(" ")
    }

    fn set(&mut self, codes: &str) {
        let mut numbers = codes
            .split([';', ':'])
            .map(|code| code.parse::<u16>().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                4 => self.underlined = true,
                22 => self.bold = false,
                24 => self.underlined = false,
                39 => self.colour = None,
                30 | 90 => self.colour = Some("k"),
                31 | 91 => self.colour = Some("r"),
                32 | 92 => self.colour = Some("g"),
                33 | 93 => self.colour = Some("y"),
                34 | 94 => self.colour = Some("bl"),
                35 | 95 => self.colour = Some("m"),
                36 | 96 => self.colour = Some("cy"),
                37 | 97 => self.colour = None,
                // Colours of larger palettes: their numbers must not be taken for others.
                38 | 48 => match numbers.next() {
                    Some(5) => {
                        numbers.next();
                    }
                    Some(2) => {
                        numbers.nth(2);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

/// A piece of a line.
enum Piece<'a> {
    Text(&'a str),
    /// The numbers of a change of colour.
    Colour(&'a str),
}

/// Splits a line at its escape sequences. Sequences that are no colours, and control characters, are left out.
fn pieces(line: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(at) = rest.find(|character: char| character.is_control() && character != '\t') {
        if at > 0 {
            found.push(Piece::Text(&rest[..at]));
        }
        rest = &rest[at..];
        if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
            let end = sequence.find(|character: char| ('\u{40}'..='\u{7e}').contains(&character));
            match end {
                Some(end) => {
                    if sequence.as_bytes()[end] == b'm' {
                        found.push(Piece::Colour(&sequence[..end]));
                    }
                    rest = &sequence[end + 1..];
                }
                None => rest = "",
            }
        } else if let Some(command) = rest.strip_prefix("\u{1b}]") {
            // Titles and links end with BEL or ESC \.
            rest = match command.find(['\u{7}', '\u{1b}']) {
                Some(end) => command[end..]
                    .strip_prefix('\u{7}')
                    .or_else(|| command[end..].strip_prefix("\u{1b}\\"))
                    .unwrap_or(""),
                None => "",
            };
        } else {
            let mut characters = rest.chars();
            let control = characters.next();
            if control == Some('\u{1b}') {
                // A sequence of two characters.
                characters.next();
            }
            rest = characters.as_str();
        }
    }
    if !rest.is_empty() {
        found.push(Piece::Text(rest));
    }
    found
}

impl Html<'_> {
    /// Writes it. Returns how many bytes of the line were left out, when it is longer than what is shown.
    pub fn write(self, out: &mut fmt::Formatter<'_>) -> Result<Option<usize>, fmt::Error> {
        let mut pen = Pen::default();
        let (mut left, mut cut) = (self.most, 0);
        for piece in pieces(self.line) {
            match piece {
                Piece::Colour(codes) => pen.set(codes),
                Piece::Text(text) => {
                    let end = text.floor_char_boundary(left);
                    cut += text.len() - end;
                    if end == 0 {
                        continue;
                    }
                    let shown = Escaped(&text[..end]);
                    let class = pen.class();
                    if class.is_empty() {
                        write!(out, "{shown}")?;
                    } else {
                        write!(out, r#"<span class="{class}">{shown}</span>"#)?;
                    }
                    // What follows a cut is left out, too.
                    left = if end < text.len() { 0 } else { left - end };
                }
            }
        }
        Ok((cut > 0).then_some(cut))
    }
}

/// A line without its escape sequences.
pub fn plain(line: &str) -> String {
    pieces(line)
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Colour(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown<'a>(&'a str);

    impl fmt::Display for Shown<'_> {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            let html = Html {
                line: self.0,
                most: LONGEST,
            };
            match html.write(out)? {
                Some(left) => write!(out, " and {left}"),
                None => Ok(()),
            }
        }
    }

    fn html(line: &str) -> String {
        Shown(line).to_string()
    }

    #[test]
    fn colours_become_classes_and_html_is_inert() {
        assert_eq!(
            html("\u{1b}[1m\u{1b}[31m<b>\u{1b}[0m ok"),
            r#"<span class="r bo">&lt;b&gt;</span> ok"#
        );
        assert_eq!(html("\u{1b}[38;5;31mx"), "x");
    }

    #[test]
    fn what_moves_the_cursor_or_sets_titles_is_dropped() {
        assert_eq!(html("a\u{1b}[2Kb\u{1b}[10;4Hc"), "abc");
        assert_eq!(html("\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\b"), "ab");
        assert_eq!(html("a\u{0}b\u{8}c\u{1b}"), "abc");
        assert_eq!(plain("\u{1b}[32mdone\u{1b}[0m"), "done");
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = "ä".repeat(4000);
        let cut = html(&line);
        assert_eq!(cut, format!("{} and {}", "ä".repeat(2048), 8000 - 4096));
        let coloured = format!("a{line}\u{1b}[31mred");
        assert_eq!(
            html(&coloured),
            format!("a{} and {}", "ä".repeat(2047), 8004 - 4095)
        );
    }

    #[test]
    fn an_unfinished_sequence_at_the_end_is_no_text() {
        assert_eq!(html("a\u{1b}[3"), "a");
        assert_eq!(html("a\u{1b}]0;x"), "a");
    }
}
