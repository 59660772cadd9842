//! Where the lines of logs are: a page shows a few hundred of them, and need not read the others.
//!
//! An index grows with its log and is kept in memory; what is missing is read when the log is looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use super::progress::{Step, Steps};
use super::{CHUNK, text};
use crate::logs::{ETX, LogError, LogStore, STX};

/// Bytes of a log that are read at once. A longer line is shown as several.
const BLOCK: usize = 1 << 20;
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
struct LineIndex {
    /// About every five-hundredth line.
    marks: Vec<Mark>,
    /// Where lines were cut because they are longer than a block.
    cuts: Vec<u64>,
    /// Lines before `offset`.
    lines: usize,
    /// Bytes of the file that were read: whole lines.
    offset: u64,
    steps: Steps,
    refreshed: usize,
    last_error: Option<usize>,
}

impl LineIndex {
    /// Takes the file's next bytes, and says how many of them were whole lines. A block that is full and has no end of
    /// a line counts as one.
    fn feed(&mut self, bytes: &[u8], full: bool) -> usize {
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
                if text::is_error(line) {
                    self.last_error = Some(self.lines);
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
    fn part(&self, from: usize, to: usize) -> Part {
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
struct Part {
    /// Lines before it.
    before: usize,
    /// Its first byte.
    start: u64,
    /// Where lines were cut in it, and the byte behind it.
    ends: Vec<u64>,
}

impl Part {
    fn length(&self) -> usize {
        let end = self.ends.last().copied().unwrap_or(self.start);
        usize::try_from(end - self.start).unwrap_or(usize::MAX)
    }

    /// The lines that its bytes are shown as.
    fn lines(&self, bytes: &[u8]) -> Vec<String> {
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
fn each_line<'b>(bytes: &'b [u8], offset: u64, mut take: impl FnMut(u64, &'b [u8])) {
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
    fn of(&self, id: &str) -> Arc<AsyncMutex<LineIndex>> {
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

/// A log as it is written now, in lines that are numbered from 1.
#[derive(Debug, Clone)]
pub struct LogView {
    store: LogStore,
    id: String,
    index: Arc<AsyncMutex<LineIndex>>,
    whole: usize,
    /// What follows the last end of a line in a log that has ended.
    rest: Vec<String>,
    steps: Vec<Step>,
    refreshed: usize,
    last_error: Option<usize>,
}

impl LogView {
    /// Looks at a log. One that has not begun has no lines.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn open(store: &LogStore, lines: &LogLines, id: &str) -> Result<Self, LogError> {
        let index = lines.of(id);
        let mut now = index.lock().await;
        let rest = loop {
            let bytes = store.read(id, now.offset, BLOCK).await?;
            if bytes.is_empty() {
                break bytes;
            }
            // Reading lines takes a moment, and the executor has others to serve.
            let mut grown = std::mem::take(&mut *now);
            let fed = tokio::task::spawn_blocking(move || {
                let taken = grown.feed(&bytes, bytes.len() == BLOCK);
                (grown, taken, bytes)
            });
            let Ok((grown, taken, mut bytes)) = fed.await else {
                break Vec::new();
            };
            *now = grown;
            if taken == 0 {
                break bytes;
            }
            if bytes.len() < BLOCK {
                break bytes.split_off(taken);
            }
        };
        // A line that is being written is shown when it is whole.
        let mut shown = Vec::new();
        if let Some(rest) = rest
            .strip_suffix(&[ETX])
            .filter(|rest| !rest.is_empty() && *rest != [STX])
        {
            each_line(rest, now.offset, |_, line| text::expand(line, &mut shown));
        }
        Ok(Self {
            store: store.clone(),
            id: id.to_owned(),
            whole: now.lines,
            rest: shown,
            steps: now.steps.list().to_vec(),
            refreshed: now.refreshed,
            last_error: now.last_error,
            index: Arc::clone(&index),
        })
    }

    /// How many lines it has.
    pub fn len(&self) -> usize {
        self.whole + self.rest.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The resources that an apply has begun with, as the log tells.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Resources that a plan has refreshed or read.
    pub fn refreshed(&self) -> usize {
        self.refreshed
    }

    /// The number of the last line that begins an error.
    pub fn last_error(&self) -> Option<usize> {
        self.last_error
    }

    /// Lines by their numbers, both included. Those that there are not are left out.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn range(&self, from: usize, to: usize) -> Result<Vec<String>, LogError> {
        let (from, to) = (from.max(1), to.min(self.len()));
        if from > to {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        if from <= self.whole {
            let part = self.index.lock().await.part(from, to);
            let (before, length) = (part.before, part.length());
            let bytes = self.store.read(&self.id, part.start, length).await?;
            let found = tokio::task::spawn_blocking(move || part.lines(&bytes));
            let found = found.await.unwrap_or_default();
            let wanted = to.min(self.whole) + 1 - from;
            lines.extend(found.into_iter().skip(from - 1 - before).take(wanted));
        }
        let (first, last) = (from.max(self.whole + 1), to);
        if first <= last {
            let rest = self.rest.iter().skip(first - 1 - self.whole);
            lines.extend(rest.take(last + 1 - first).cloned());
        }
        Ok(lines)
    }

    /// The numbers of the lines that hold a text, whatever its case.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn find(&self, wanted: &str) -> Result<Vec<usize>, LogError> {
        /// Lines that are looked through at once.
        const STEP: usize = 20 * CHUNK;
        let wanted = wanted.to_lowercase();
        let mut found = Vec::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        for from in (1..=self.len()).step_by(STEP) {
            let lines = self.range(from, from + STEP - 1).await?;
            let hits = (from..)
                .zip(&lines)
                .filter(|(_, line)| line.to_lowercase().contains(&wanted));
            found.extend(hits.map(|(number, _)| number));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use terrapool_model::id::AttemptId;

    use super::*;
    use crate::logs::Writer;

    const ID: &str = "plan-1";

    fn writer() -> Writer {
        Writer {
            generation: 1,
            attempt: AttemptId::from_random([1; 16]),
            holds_job: true,
        }
    }

    async fn view(store: &LogStore, lines: &LogLines) -> LogView {
        LogView::open(store, lines, ID).await.unwrap()
    }

    #[tokio::test]
    async fn lines_are_found_by_their_numbers_while_a_log_grows_and_when_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (store, lines) = (LogStore::open(folder.path()).unwrap(), LogLines::default());
        assert!(view(&store, &lines).await.is_empty());
        let mut log = String::new();
        for number in 0..1303 {
            log.push_str(&format!("line {number}\n"));
            if number % 7 == 0 {
                log.push_str("{\"@level\":\"info\",\"@message\":\"one\\ntwo\",\"type\":\"log\"}\n");
            }
        }
        log.push_str("Error: broken\nunfinished");
        let mut offset = 0;
        let mut pieces = log.as_bytes().chunks(1001).peekable();
        while let Some(piece) = pieces.next() {
            store.append(ID, &writer(), offset, piece).unwrap();
            offset += piece.len() as u64;
            if pieces.peek().is_some() {
                view(&store, &lines).await;
            }
        }
        let expected: Vec<String> = (0..1303)
            .flat_map(|number| {
                let more = if number % 7 == 0 {
                    vec!["one", "two"]
                } else {
                    Vec::new()
                };
                std::iter::once(format!("line {number}")).chain(more.into_iter().map(str::to_owned))
            })
            .chain(["Error: broken".to_owned()])
            .collect();
        let seen = view(&store, &lines).await;
        assert_eq!(
            seen.len(),
            expected.len(),
            "a line that is being written is not shown"
        );
        assert_eq!(seen.last_error(), Some(expected.len()));
        assert_eq!(seen.range(1, usize::MAX).await.unwrap(), expected);
        for (from, to) in [
            (1, 1),
            (499, 502),
            (500, 500),
            (501, 1000),
            (1200, 1600),
            (1670, 1676),
        ] {
            assert_eq!(
                seen.range(from, to).await.unwrap(),
                expected[from - 1..to.min(expected.len())],
                "{from} to {to}"
            );
        }
        store.seal(ID).await.unwrap();
        let seen = view(&store, &lines).await;
        assert_eq!(seen.len(), expected.len() + 1);
        assert_eq!(
            seen.range(expected.len(), expected.len() + 9).await.unwrap(),
            ["Error: broken", "unfinished"]
        );
        // And by an index that begins with the whole log.
        let anew = view(&store, &LogLines::default()).await;
        assert_eq!(anew.len(), seen.len());
        let at = expected.iter().position(|line| line == "line 1302").unwrap() + 1;
        assert_eq!(seen.find("LINE 1302").await.unwrap(), [at]);
        assert_eq!(seen.find("two").await.unwrap().len(), 187);
        assert!(seen.find("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_shown_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let (store, lines) = (LogStore::open(folder.path()).unwrap(), LogLines::default());
        let long = vec![b'x'; 2 * BLOCK + 5];
        store.append(ID, &writer(), 0, &long).unwrap();
        store.seal(ID).await.unwrap();
        let seen = view(&store, &lines).await;
        let pieces = seen.range(1, 9).await.unwrap();
        let length: usize = pieces.iter().map(String::len).sum();
        assert_eq!((seen.len(), pieces.len(), length), (3, 3, long.len()));
        assert_eq!(seen.range(2, 2).await.unwrap(), [pieces[1].clone()]);
    }

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
