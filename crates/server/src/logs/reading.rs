//! Bytes of logs as they are on disk now.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use terrapool_model::id::AttemptId;

use super::{LogError, LogStore, apart_path, io};

impl LogStore {
    /// Bytes of a log's file from an offset on, both marks included. A log that has not begun is empty.
    ///
    /// # Errors
    /// [`LogError`] when the id is none or the disk refuses.
    pub async fn read(&self, id: &str, offset: u64, limit: usize) -> Result<Vec<u8>, LogError> {
        read_file(self.path(id)?, offset, limit).await
    }

    /// The same of what an attempt delivered after its log was sealed or another attempt took over; its first byte
    /// follows the last one that the attempt has in the log. Nothing when it delivered nothing then.
    ///
    /// # Errors
    /// [`LogError`] when the id is none or the disk refuses.
    pub async fn read_later(
        &self,
        id: &str,
        (generation, attempt): (u64, &AttemptId),
        offset: u64,
        limit: usize,
    ) -> Result<Vec<u8>, LogError> {
        read_file(apart_path(&self.path(id)?, generation, attempt), offset, limit).await
    }
}

async fn read_file(path: PathBuf, offset: u64, limit: usize) -> Result<Vec<u8>, LogError> {
    let read = move || {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("opening", &path)(error)),
        };
        let length = file.metadata().map_err(io("reading", &path))?.len();
        let available = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; available.min(limit)];
        let mut filled = 0;
        while filled < bytes.len() {
            let count = file
                .read_at(&mut bytes[filled..], offset + filled as u64)
                .map_err(io("reading", &path))?;
            if count == 0 {
                break;
            }
            filled += count;
        }
        bytes.truncate(filled);
        Ok(bytes)
    };
    tokio::task::spawn_blocking(read)
        .await
        .unwrap_or_else(|_| Ok(Vec::new()))
}
