//! The state that an engine prints when it can save it nowhere.
//!
//! Both engines then print the whole state as a last resort: as an indented document between other text, or in one line
//! of the machine-readable UI. It must not reach the log, and it may be the only record of what was made.

use serde::Deserialize;
use serde_json::value::RawValue;

/// What stands in the log in its place.
const NOTE: &[u8] =
    b"[The engine printed the state here. It was left out of the log and is kept with the run.]\n";

const PLAIN: &[u8] = b"{\n  \"version\": 4,\n  \"terraform_version\": \"";
const JSON: &[u8] = b"{\"@level\":\"info\",\"@message\":\"Emergency state dump\"";

/// Most bytes of a dump that are kept.
const KEPT: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    LineStart,
    Line,
    PlainDump,
    JsonDump,
}

/// Takes a state dump out of engine output that arrives in pieces.
#[derive(Debug)]
pub struct DumpFilter {
    mode: Mode,
    held: Vec<u8>,
    dump: Vec<u8>,
    too_long: bool,
    found: Option<Vec<u8>>,
}

impl Default for DumpFilter {
    fn default() -> Self {
        Self {
            mode: Mode::LineStart,
            held: Vec::new(),
            dump: Vec::new(),
            too_long: false,
            found: None,
        }
    }
}

impl DumpFilter {
    /// Takes output and appends to `out` what is no dump.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let line_end = rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            match self.mode {
                Mode::LineStart => {
                    self.held.push(rest[0]);
                    rest = &rest[1..];
                    self.decide(out);
                }
                Mode::Line => {
                    let length = line_end.unwrap_or(rest.len());
                    out.extend_from_slice(&rest[..length]);
                    rest = &rest[length..];
                    if line_end.is_some() {
                        self.mode = Mode::LineStart;
                    }
                }
                Mode::PlainDump | Mode::JsonDump => {
                    let length = line_end.unwrap_or(rest.len());
                    self.keep(&rest[..length]);
                    rest = &rest[length..];
                    let ends = match self.mode {
                        Mode::PlainDump => self.held.ends_with(b"\n}\n"),
                        _ => line_end.is_some(),
                    };
                    if ends {
                        self.end(out);
                    }
                }
            }
        }
    }

    /// The output ends: gives out what was held, and the state that was found.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Option<Vec<u8>> {
        match self.mode {
            Mode::LineStart | Mode::Line => out.extend_from_slice(&self.held),
            Mode::PlainDump | Mode::JsonDump => self.end(out),
        }
        self.found
    }

    fn decide(&mut self, out: &mut Vec<u8>) {
        let full = [(PLAIN, Mode::PlainDump), (JSON, Mode::JsonDump)]
            .into_iter()
            .find(|(pattern, _)| self.held == *pattern);
        if let Some((_, mode)) = full {
            self.mode = mode;
            self.dump = std::mem::take(&mut self.held);
            self.too_long = false;
        } else if !PLAIN.starts_with(&self.held) && !JSON.starts_with(&self.held) {
            let ended = self.held.ends_with(b"\n");
            out.append(&mut self.held);
            self.mode = if ended { Mode::LineStart } else { Mode::Line };
        }
    }

    /// Keeps a piece of a dump; the last bytes of it stay in `held` to recognise the end.
    fn keep(&mut self, piece: &[u8]) {
        if self.dump.len() + piece.len() > KEPT {
            self.too_long = true;
        } else {
            self.dump.extend_from_slice(piece);
        }
        self.held
            .extend_from_slice(&piece[piece.len().saturating_sub(3)..]);
        let surplus = self.held.len().saturating_sub(3);
        self.held.drain(..surplus);
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let dump = std::mem::take(&mut self.dump);
        self.held.clear();
        out.extend_from_slice(NOTE);
        if !self.too_long {
            self.found = match self.mode {
                Mode::JsonDump => state_of_line(&dump),
                _ => Some(dump),
            };
        }
        self.mode = Mode::LineStart;
    }
}

fn state_of_line(line: &[u8]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Line<'line> {
        #[serde(borrow)]
        state: &'line RawValue,
    }
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(line.state.get().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::{DumpFilter, NOTE};

    fn filtered(text: &str, size: usize) -> (String, Option<Vec<u8>>) {
        let mut filter = DumpFilter::default();
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            filter.push(piece, &mut out);
        }
        let found = filter.finish(&mut out);
        (String::from_utf8(out).unwrap(), found)
    }

    #[test]
    fn a_state_between_other_text_is_left_out_and_kept() {
        let state = "{\n  \"version\": 4,\n  \"terraform_version\": \"1.11.4\",\n  \"serial\": 3,\n  \"outputs\": {\n  }\n}\n";
        let note = String::from_utf8_lossy(NOTE);
        for size in [1, 7, 4096] {
            let (log, found) = filtered(&format!("before\n{{\n  \"a\": 1\n}}\n{state}Error: x\n"), size);
            assert_eq!(log, format!("before\n{{\n  \"a\": 1\n}}\n{note}Error: x\n"));
            assert_eq!(found.unwrap(), state.as_bytes());
        }
    }

    #[test]
    fn a_state_in_a_line_of_json_is_left_out_and_kept() {
        let line = "{\"@level\":\"info\",\"@message\":\"Emergency state dump\",\"state\":{\"serial\":3},\"type\":\"log\"}\n";
        let other = "{\"@level\":\"info\",\"@message\":\"Plan\"}\n";
        for size in [1, 5, 4096] {
            let (log, found) = filtered(&format!("{other}{line}{other}"), size);
            assert_eq!(log, format!("{other}{}{other}", String::from_utf8_lossy(NOTE)));
            assert_eq!(found.unwrap(), b"{\"serial\":3}");
        }
    }
}
