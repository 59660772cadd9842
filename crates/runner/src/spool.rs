//! The log spool: masked output in a file on the job volume, from which the agent is served by offset.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use terrapool_protocol::job::Limit;

use crate::digest;
use crate::error::Failure;
use crate::guard;
use crate::shared::Shared;
use terrapool_protocol::mask::Masker;

/// Bytes that are kept of the end of a log that was cut.
const TAIL: usize = 16 << 10;

/// Longest line that is looked at for an error message.
const LINE: usize = 8 << 10;

/// Appends to the log. Output is never held up: what the disk does not take is left out and counted.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    masker: Masker,
    hasher: Sha256,
    size: u64,
    limit: u64,
    /// Bytes that were left out, and the newest of them.
    left_out: u64,
    tail: Vec<u8>,
    masked: Vec<u8>,
    errors: ErrorFinder,
    broken: bool,
}

impl Spool {
    /// Makes the spool file of this job.
    ///
    /// # Errors
    /// A [`Failure`] when the job volume does not take it.
    pub fn create(shared: &Arc<Shared>, masker: Masker, limit: u64) -> Result<Self, Failure> {
        let path = shared.paths.log();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|error| Failure::io("make the log", &path, &error))?;
        let reader = file
            .try_clone()
            .map_err(|error| Failure::io("open the log", &path, &error))?;
        let _ = shared.log.set(reader);
        Ok(Self {
            shared: Arc::clone(shared),
            inner: Mutex::new(Inner {
                file,
                masker,
                hasher: Sha256::new(),
                size: 0,
                limit,
                left_out: 0,
                tail: Vec::new(),
                masked: Vec::new(),
                errors: ErrorFinder::default(),
                broken: false,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends output.
    pub fn append(&self, bytes: &[u8]) {
        let mut inner = self.inner();
        let mut masked = std::mem::take(&mut inner.masked);
        masked.clear();
        inner.masker.push(bytes, &mut masked);
        inner.store(&masked);
        inner.masked = masked;
        let size = inner.size;
        drop(inner);
        self.shared.log_grew(size);
    }

    /// Begins with what was shown already: as it is.
    pub fn repeat(&self, text: &str) {
        let mut inner = self.inner();
        inner.store(text.as_bytes());
        let size = inner.size;
        drop(inner);
        self.shared.log_grew(size);
    }

    /// Appends a line of the runner's own.
    pub fn line(&self, text: &str) {
        self.append(format!("{text}\n").as_bytes());
    }

    /// Gives out what masking holds back: the process that wrote it has ended.
    pub fn flush(&self) {
        let mut inner = self.inner();
        let mut rest = Vec::new();
        inner.masker.finish(&mut rest);
        inner.store(&rest);
        let size = inner.size;
        drop(inner);
        self.shared.log_grew(size);
    }

    /// A text with all sensitive values masked.
    pub fn mask(&self, text: &str) -> String {
        self.inner().masker.mask(text)
    }

    /// The first error message in the log, without its details.
    pub fn first_error(&self) -> Option<String> {
        self.inner().errors.found.clone()
    }

    /// Closes the log: its size and SHA-256.
    pub fn finish(&self) -> (u64, String) {
        self.flush();
        let mut inner = self.inner();
        if inner.left_out > 0 {
            let mut end = std::mem::take(&mut inner.tail);
            // Begin with a whole line.
            if let Some(line_end) = end.iter().position(|byte| *byte == b'\n') {
                end.drain(..=line_end);
            }
            let gone = inner.left_out.saturating_sub(end.len() as u64);
            let text = format!(
                "\n[{gone} bytes of the log were left out here: it was larger than the {} MiB that are allowed. {}.]\n",
                inner.limit >> 20,
                guard::raise(Limit::Log)
            );
            let mut text = text.into_bytes();
            text.append(&mut end);
            inner.broken = false;
            inner.write(&text);
        }
        let size = inner.size;
        let sha256 = digest::hex(inner.hasher.clone());
        drop(inner);
        self.shared.log_grew(size);
        (size, sha256)
    }
}

impl Inner {
    fn store(&mut self, bytes: &[u8]) {
        self.errors.push(bytes);
        let room = usize::try_from(self.limit.saturating_sub(self.size)).unwrap_or(usize::MAX);
        let (now, rest) = if self.left_out > 0 || self.broken {
            (&bytes[..0], bytes)
        } else {
            bytes.split_at(room.min(bytes.len()))
        };
        let written = self.write(now);
        for rest in [&now[written..], rest] {
            self.left_out += rest.len() as u64;
            self.tail
                .extend_from_slice(&rest[rest.len().saturating_sub(TAIL)..]);
        }
        if self.tail.len() > 2 * TAIL {
            let surplus = self.tail.len() - TAIL;
            self.tail.drain(..surplus);
        }
    }

    /// Writes to the file and says how much of it was taken.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        written
    }
}

/// Finds the first error message in either output format.
#[derive(Debug, Default)]
struct ErrorFinder {
    line: Vec<u8>,
    found: Option<String>,
}

impl ErrorFinder {
    fn push(&mut self, bytes: &[u8]) {
        if self.found.is_some() {
            return;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.found = error_of(&self.line);
                self.line.clear();
                if self.found.is_some() {
                    return;
                }
            }
        }
    }
}

fn error_of(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Line<'line> {
        #[serde(rename = "@level")]
        level: &'line str,
        #[serde(rename = "@message")]
        message: String,
    }
    let text = std::str::from_utf8(line).ok()?.trim();
    if text.starts_with('{') {
        let line: Line<'_> = serde_json::from_str(text).ok()?;
        return (line.level == "error").then_some(line.message);
    }
    let text = text.trim_start_matches(['│', '╷', ' ']);
    text.starts_with("Error: ").then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Spool, error_of};
    use crate::digest;
    use crate::paths::Paths;
    use crate::shared::Shared;
    use terrapool_protocol::mask::Masker;

    #[test]
    fn case_13_a_log_above_its_limit_is_cut_with_a_marker_and_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths {
            job: folder.path().to_owned(),
            ..Paths::default()
        };
        let shared = Arc::new(Shared::new(paths.clone(), false));
        let spool = Spool::create(&shared, Masker::new([]), 1000).unwrap();
        for number in 0..100_000 {
            spool.line(&format!("line {number}"));
        }
        let (size, sha256) = spool.finish();
        let log = std::fs::read(paths.log()).unwrap();
        assert_eq!((log.len() as u64, digest::of(&log)), (size, sha256));
        assert!(log.len() < 40_000, "{}", log.len());
        let text = String::from_utf8(log).unwrap();
        assert!(text.starts_with("line 0\n") && text.ends_with("\nline 99999\n"));
        assert!(text.contains("bytes of the log were left out here"));
    }

    #[test]
    fn error_messages_are_found_in_both_formats() {
        assert_eq!(
            error_of("│ Error: No value\n".as_bytes()).unwrap(),
            "Error: No value"
        );
        let line = br#"{"@level":"error","@message":"Error: No value","type":"diagnostic"}"#;
        assert_eq!(error_of(line).unwrap(), "Error: No value");
        assert_eq!(error_of(b"Errors are fun\n"), None);
    }
}
