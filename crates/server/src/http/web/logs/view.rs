//! A log in lines, as it is now: what was written until it was closed, and what its attempt delivered later.

use std::sync::Arc;

use terrapool_model::id::AttemptId;
use tokio::sync::Mutex as AsyncMutex;

use super::diagnostics::{Diagnostic, MOST_LINES};
use super::index::{BLOCK, LineIndex, LogLines, MOST_ERRORS, each_line};
use super::progress::{Step, Steps};
use super::{CHUNK, text};
use crate::logs::{ETX, LogError, LogStore, STX};

/// What an attempt may have delivered after its log had been closed.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The attempt's assignment.
    pub generation: u64,
    /// The attempt.
    pub attempt: AttemptId,
    /// Whether it has delivered everything.
    pub complete: bool,
    /// The line that stands before what came later.
    pub mark: &'static str,
}

/// Where the bytes of a view come from.
#[derive(Debug, Clone)]
struct Source {
    store: LogStore,
    id: String,
    /// What came later, by which attempt, behind the begin of a line that the log itself ends with.
    later: Option<(u64, AttemptId, Arc<[u8]>)>,
}

impl Source {
    async fn read(&self, offset: u64, limit: usize) -> Result<Vec<u8>, LogError> {
        let Some((generation, attempt, head)) = &self.later else {
            return self.store.read(&self.id, offset, limit).await;
        };
        let begun = usize::try_from(offset).unwrap_or(usize::MAX).min(head.len());
        let mut bytes = head[begun..].to_vec();
        bytes.truncate(limit);
        let behind = offset.saturating_sub(head.len() as u64);
        let (by, left) = ((*generation, attempt), limit - bytes.len());
        bytes.extend(self.store.read_later(&self.id, by, behind, left).await?);
        Ok(bytes)
    }
}

/// A log as it is written now, in lines that are numbered from 1.
#[derive(Debug, Clone)]
pub struct LogView {
    source: Source,
    index: Arc<AsyncMutex<LineIndex>>,
    whole: usize,
    /// What follows the last end of a line: bytes that are shown when their line is whole or the log has ended.
    unfinished: Vec<u8>,
    /// The lines of that, in a log that has ended.
    rest: Vec<String>,
    /// Whether nothing follows in its file any more.
    ended: bool,
    steps: Vec<Step>,
    refreshed: usize,
    last_error: Option<usize>,
    errors: Vec<usize>,
    attempts: Vec<usize>,
    later: Option<Later>,
}

/// What its attempt delivered after a log had been closed.
#[derive(Debug, Clone)]
struct Later {
    mark: &'static str,
    view: Box<LogView>,
}

impl LogView {
    /// Looks at a log. One that has not begun has no lines.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn open(store: &LogStore, lines: &LogLines, id: &str) -> Result<Self, LogError> {
        let source = Source {
            store: store.clone(),
            id: id.to_owned(),
            later: None,
        };
        Self::of(source, lines.of(id), &[]).await
    }

    /// With what the attempt of a closed log delivered afterwards: its lines follow behind a line that says so. The
    /// line that the closing cut in two is whole among them.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn with_delivery(mut self, lines: &LogLines, delivery: &Delivery) -> Result<Self, LogError> {
        if !self.ended {
            return Ok(self);
        }
        let Delivery {
            generation,
            attempt,
            complete,
            mark,
        } = delivery;
        let (store, id) = (self.source.store.clone(), self.source.id.clone());
        if store
            .read_later(&id, (*generation, attempt), 0, 1)
            .await?
            .is_empty()
        {
            return Ok(self);
        }
        let index = lines.of(&format!("{id}.{generation}.{attempt}"));
        let head = std::mem::take(&mut self.unfinished);
        let source = Source {
            store,
            id,
            later: Some((*generation, attempt.clone(), head.into())),
        };
        let mut view = Self::of(source, index, &self.steps).await?;
        if *complete {
            view.end();
        }
        self.rest.clear();
        let view = Box::new(view);
        self.later = Some(Later { mark, view });
        Ok(self)
    }

    /// Reads what is new; `before` are the steps that came before its first line.
    async fn of(
        source: Source,
        index: Arc<AsyncMutex<LineIndex>>,
        before: &[Step],
    ) -> Result<Self, LogError> {
        let mut now = index.lock().await;
        if now.offset == 0 {
            now.steps = Steps::after(before);
        }
        let rest = loop {
            let bytes = source.read(now.offset, BLOCK).await?;
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
        let mut view = Self {
            source,
            whole: now.lines,
            unfinished: rest,
            rest: Vec::new(),
            ended: false,
            steps: now.steps.list().to_vec(),
            refreshed: now.refreshed,
            last_error: now.last_error,
            errors: now.errors.clone(),
            attempts: now.attempts.clone(),
            later: None,
            index: Arc::clone(&index),
        };
        if view.source.later.is_none() && view.unfinished.pop_if(|last| *last == ETX).is_some() {
            if now.offset == 0 && view.unfinished.first() == Some(&STX) {
                view.unfinished.remove(0);
            }
            view.end();
        }
        Ok(view)
    }

    /// The log has ended: a line that is being written is shown although it is not whole.
    fn end(&mut self) {
        self.ended = true;
        if !self.unfinished.is_empty() {
            let shown = &mut self.rest;
            // The mark at the file's begin is taken away.
            each_line(&self.unfinished, 1, |_, line| text::expand(line, shown));
        }
    }

    /// Lines of the log's own file.
    fn own(&self) -> usize {
        self.whole + self.rest.len()
    }

    /// How many lines it has.
    pub fn len(&self) -> usize {
        self.own() + self.later.as_ref().map_or(0, |later| 1 + later.view.own())
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its attempt delivered lines after it had been closed.
    pub fn has_delivery(&self) -> bool {
        self.later.is_some()
    }

    /// The resources that an apply has begun with, as the log tells.
    pub fn steps(&self) -> &[Step] {
        self.later.as_ref().map_or(&self.steps, |later| &later.view.steps)
    }

    /// The lines with which attempts begin that are not the first one: a plan whose agent was lost is made again.
    pub fn attempts(&self) -> &[usize] {
        &self.attempts
    }

    /// Resources that a plan has refreshed or read.
    pub fn refreshed(&self) -> usize {
        self.refreshed
    }

    /// The number of the last line that begins an error.
    pub fn last_error(&self) -> Option<usize> {
        let later = self.later.as_ref().and_then(|later| later.view.last_error);
        later.map(|line| self.own() + 1 + line).or(self.last_error)
    }

    /// The first errors that the engine told, each with the number of its line.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn diagnostics(&self) -> Result<Vec<(usize, Diagnostic)>, LogError> {
        let later = self.later.iter().flat_map(|later| &later.view.errors);
        let later = later.map(|line| self.own() + 1 + line);
        let mut found = Vec::new();
        for line in self.errors.iter().copied().chain(later).take(MOST_ERRORS) {
            let lines = self.range(line, line + MOST_LINES).await?;
            found.extend(Diagnostic::read(&lines).map(|diagnostic| (line, diagnostic)));
        }
        Ok(found)
    }

    /// Lines by their numbers, both included. Those that there are not are left out.
    ///
    /// # Errors
    /// [`LogError`] when the disk refuses.
    pub async fn range(&self, from: usize, to: usize) -> Result<Vec<String>, LogError> {
        let mut lines = self.own_range(from, to).await?;
        if let Some(later) = &self.later {
            let mark = self.own() + 1;
            if (from.max(1)..=to).contains(&mark) {
                lines.push(later.mark.to_owned());
            }
            if to > mark {
                let from = from.saturating_sub(mark);
                lines.extend(later.view.own_range(from, to - mark).await?);
            }
        }
        Ok(lines)
    }

    async fn own_range(&self, from: usize, to: usize) -> Result<Vec<String>, LogError> {
        let (from, to) = (from.max(1), to.min(self.own()));
        if from > to {
            return Ok(Vec::new());
        }
        let mut lines = Vec::new();
        if from <= self.whole {
            let part = self.index.lock().await.part(from, to);
            let (before, length) = (part.before, part.length());
            let bytes = self.source.read(part.start, length).await?;
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
#[path = "view_tests.rs"]
mod tests;
