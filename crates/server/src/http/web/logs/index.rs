//! Where the lines of logs are: a page shows a few hundred of them, and need not read the others.
//!
//! An index grows with its log and is kept in memory; what is missing is read when the log is looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::progress::Steps;
use super::{CHUNK, text};
use crate::logs::{ANEW, STX};

/// Bytes of a log that are read at once. A longer line is shown as several.
pub(super) const BLOCK: usize = 1 << 20;
/// Errors whose places are kept, the first ones.
pub(super) const MOST_ERRORS: usize = 5;
/// Attempts whose places are kept, the first ones.
const MOST_ATTEMPTS: usize = 10;
/// Logs whose index is kept.
const MOST: usize = 256;

/// A line whose place is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    /// Lines before it.
    before: usize,
    /// Where it begins in the file.
    offset: u64,
}

/// Where the lines of one log are, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct LineIndex {
    /// About every five-hundredth line.
    marks: Vec<Mark>,
    /// Where lines were cut because they are longer than a block.
    cuts: Vec<u64>,
    /// Lines before `offset`.
    pub(super) lines: usize,
    /// Bytes of the file that were read: whole lines.
    pub(super) offset: u64,
    pub(super) steps: Steps,
    pub(super) refreshed: usize,
    pub(super) last_error: Option<usize>,
    /// The first lines that begin errors.
    pub(super) errors: Vec<usize>,
    /// The lines with which attempts begin that are not the first one, the first ones.
    pub(super) attempts: Vec<usize>,
}

impl LineIndex {
    /// Takes the file's next bytes, and says how many of them were whole lines. A block that is full and has no end of
    /// a line counts as one.
    pub(super) fn feed(&mut self, bytes: &[u8], full: bool) -> usize {
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if full => bytes.len(),
            None => return 0,
        };
        let mut shown = Vec::new();
        each_line(&bytes[..whole], self.offset, |offset, line| {
            if self
                .marks
                .last()
                .is_none_or(|mark| self.lines - mark.before >= CHUNK)
            {
                self.marks.push(Mark {
                    before: self.lines,
                    offset,
                });
            }
            shown.clear();
            text::expand(line, &mut shown);
            for line in &shown {
                self.lines += 1;
                self.steps.read(line);
                if line.contains(": Refreshing state") || line.contains(": Read complete") {
                    self.refreshed += 1;
                }
                if line == ANEW && self.attempts.len() < MOST_ATTEMPTS {
                    self.attempts.push(self.lines + 1);
                }
                if text::is_error(line) {
                    self.last_error = Some(self.lines);
                    if self.errors.len() < MOST_ERRORS {
                        self.errors.push(self.lines);
                    }
                }
            }
        });
        self.offset += whole as u64;
        if !bytes[..whole].ends_with(b"\n") {
            self.cuts.push(self.offset);
        }
        whole
    }

    /// The part of the file that has a range of lines.
    pub(super) fn part(&self, from: usize, to: usize) -> Part {
        let first = self.marks.partition_point(|mark| mark.before < from);
        let first = self.marks.get(first.saturating_sub(1));
        let end = self
            .marks
            .get(self.marks.partition_point(|mark| mark.before < to));
        let start = first.map_or(0, |mark| mark.offset);
        let end = end.map_or(self.offset, |mark| mark.offset);
        let cuts = self.cuts.iter().copied().filter(|cut| (start..end).contains(cut));
        Part {
            before: first.map_or(0, |mark| mark.before),
            ends: cuts.chain([end]).collect(),
            start,
        }
    }
}

/// A part of a log's file that has whole lines.
pub(super) struct Part {
    /// Lines before it.
    pub(super) before: usize,
    /// Its first byte.
    pub(super) start: u64,
    /// Where lines were cut in it, and the byte behind it.
    ends: Vec<u64>,
}

impl Part {
    pub(super) fn length(&self) -> usize {
        let end = self.ends.last().copied().unwrap_or(self.start);
        usize::try_from(end - self.start).unwrap_or(usize::MAX)
    }

    /// The lines that its bytes are shown as.
    pub(super) fn lines(&self, bytes: &[u8]) -> Vec<String> {
        let (mut lines, mut at) = (Vec::new(), self.start);
        for end in &self.ends {
            let place = |offset: u64| {
                usize::try_from(offset - self.start)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len())
            };
            let piece = &bytes[place(at)..place(*end)];
            each_line(piece, at, |_, line| text::expand(line, &mut lines));
            at = *end;
        }
        lines
    }
}

/// Calls for each line of bytes that begin at an offset of a log's file, without its end.
pub(super) fn each_line<'b>(bytes: &'b [u8], offset: u64, mut take: impl FnMut(u64, &'b [u8])) {
    let mut at = offset;
    for whole in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        // The mark at the file's begin is ours.
        let line = if at == 0 {
            line.strip_prefix(&[STX]).unwrap_or(line)
        } else {
            line
        };
        take(at, line);
        at += whole.len() as u64;
    }
}

/// The indexes of logs that were looked at lately. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogLines {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    logs: BTreeMap<String, (u64, Arc<AsyncMutex<LineIndex>>)>,
    looks: u64,
}

impl LogLines {
    /// The index of a log; the one that was not looked at for longest makes place for a new one.
    pub(super) fn of(&self, id: &str) -> Arc<AsyncMutex<LineIndex>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.looks += 1;
        let look = kept.looks;
        if let Some((looked, index)) = kept.logs.get_mut(id) {
            *looked = look;
            return Arc::clone(index);
        }
        if kept.logs.len() >= MOST {
            let oldest = kept.logs.iter().min_by_key(|(_, (looked, _))| *looked);
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                kept.logs.remove(&oldest);
            }
        }
        let index = Arc::default();
        kept.logs.insert(id.to_owned(), (look, Arc::clone(&index)));
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_of_logs_that_nobody_looks_at_make_place() {
        let lines = LogLines::default();
        let first = lines.of("first");
        for number in 0..MOST {
            lines.of("second");
            lines.of(&format!("log-{number}"));
        }
        assert!(!Arc::ptr_eq(&first, &lines.of("first")));
        assert!(lines.kept.lock().unwrap().logs.contains_key("second"));
    }
}
