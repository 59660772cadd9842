//! Objects in a folder of the local disk.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::ObjectError;
use crate::keyring::Keyring;
use crate::sealed::{HEADER_LENGTH, Opener, PLAIN_CHUNK, SEALED_CHUNK, Sealer};

/// The name of an object: plain names joined by `/`. Never used twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Checks a key.
    ///
    /// # Errors
    /// [`ObjectError::InvalidKey`] unless it is made of letters, digits, `-`, `_`, `.` and single slashes.
    pub fn new(key: impl Into<String>) -> Result<Self, ObjectError> {
        let key = key.into();
        let name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if key.len() <= 300 && key.split('/').all(name) {
            Ok(Self(key))
        } else {
            Err(ObjectError::InvalidKey(key))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What was stored, counted before encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// The object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    root: Arc<Path>,
    keyring: Arc<Keyring>,
}

impl Objects {
    /// Opens (and makes, where it is missing) the folder.
    ///
    /// # Errors
    /// [`ObjectError::Io`] when it cannot be made.
    pub fn open(root: &Path, keyring: Arc<Keyring>) -> Result<Self, ObjectError> {
        let staging = root.join(STAGING);
        std::fs::create_dir_all(&staging).map_err(ObjectError::io("creating", &staging))?;
        Ok(Self {
            root: Arc::from(root),
            keyring,
        })
    }

    /// The key ring, for small secrets that live in rows.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Begins an object. It exists once [`ObjectWriter::finish`] has returned.
    ///
    /// # Errors
    /// [`ObjectError`] when the file cannot be made.
    pub async fn writer(&self, key: &ObjectKey, context: &str) -> Result<ObjectWriter, ObjectError> {
        let sealer = Sealer::new(&self.keyring, context)?;
        let temporary = self.root.join(STAGING).join(key.as_str().replace('/', "+"));
        let mut file = File::create(&temporary)
            .await
            .map_err(ObjectError::io("creating", &temporary))?;
        file.write_all(sealer.header())
            .await
            .map_err(ObjectError::io("writing", &temporary))?;
        Ok(ObjectWriter {
            target: self.root.join(key.as_str()),
            temporary: Some(temporary),
            file,
            sealer,
            pending: Vec::new(),
            size: 0,
            digest: Context::new(&SHA256),
        })
    }

    /// Stores an object whole.
    ///
    /// # Errors
    /// [`ObjectError`] when it cannot be written; then it does not exist.
    pub async fn put(&self, key: &ObjectKey, context: &str, bytes: &[u8]) -> Result<Stored, ObjectError> {
        let mut writer = self.writer(key, context).await?;
        writer.write(bytes).await?;
        writer.finish().await
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::MissingKey`], [`ObjectError::Damaged`].
    pub async fn reader(&self, key: &ObjectKey, context: &str) -> Result<ObjectReader, ObjectError> {
        let path = self.root.join(key.as_str());
        let mut file = File::open(&path).await.map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                ObjectError::NotFound(key.to_string())
            } else {
                ObjectError::io("opening", &path)(error)
            }
        })?;
        let length = file
            .metadata()
            .await
            .map_err(ObjectError::io("reading", &path))?
            .len();
        let mut header = [0; HEADER_LENGTH];
        file.read_exact(&mut header)
            .await
            .map_err(|_| ObjectError::Damaged)?;
        let opener = Opener::new(&self.keyring, context, &header)?;
        let left = length - HEADER_LENGTH as u64;
        Ok(ObjectReader {
            path,
            file,
            opener,
            left,
            ended: false,
        })
    }

    /// Reads an object whole.
    ///
    /// # Errors
    /// [`ObjectError`] as [`Objects::reader`].
    pub async fn get(&self, key: &ObjectKey, context: &str) -> Result<Vec<u8>, ObjectError> {
        let mut reader = self.reader(key, context).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Removes an object; one that does not exist is fine.
    ///
    /// # Errors
    /// [`ObjectError::Io`] when it cannot be removed.
    pub async fn delete(&self, key: &ObjectKey) -> Result<(), ObjectError> {
        let path = self.root.join(key.as_str());
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ObjectError::io("removing", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

const STAGING: &str = ".staging";

/// An object being written. Dropping it leaves no object behind.
pub struct ObjectWriter {
    target: PathBuf,
    temporary: Option<PathBuf>,
    file: File,
    sealer: Sealer,
    pending: Vec<u8>,
    size: u64,
    digest: Context,
}

impl fmt::Debug for ObjectWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ObjectWriter({})", self.target.display())
    }
}

impl ObjectWriter {
    fn staging(&self) -> PathBuf {
        self.temporary.clone().unwrap_or_default()
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`ObjectError`] when the disk refuses.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.size += bytes.len() as u64;
        self.digest.update(bytes);
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        // The last full chunk stays: the end of the object has to be marked.
        while self.pending.len() - done > PLAIN_CHUNK {
            let sealed = self.sealer.full_chunk(&self.pending[done..done + PLAIN_CHUNK])?;
            self.file
                .write_all(&sealed)
                .await
                .map_err(ObjectError::io("writing", &self.staging()))?;
            done += PLAIN_CHUNK;
        }
        self.pending.drain(..done);
        Ok(())
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the object durable and visible.
    ///
    /// # Errors
    /// [`ObjectError`] when the disk refuses; then it does not exist.
    pub async fn finish(mut self) -> Result<Stored, ObjectError> {
        let sealed = self.sealer.finish(&self.pending)?;
        let staging = self.staging();
        self.file
            .write_all(&sealed)
            .await
            .map_err(ObjectError::io("writing", &staging))?;
        self.file
            .flush()
            .await
            .map_err(ObjectError::io("writing", &staging))?;
        self.file
            .sync_all()
            .await
            .map_err(ObjectError::io("syncing", &staging))?;
        let target = self.target.clone();
        let publish = move || -> std::io::Result<()> {
            let folder = target.parent().unwrap_or_else(|| Path::new("."));
            std::fs::create_dir_all(folder)?;
            std::fs::rename(&staging, &target)?;
            std::fs::File::open(folder)?.sync_all()
        };
        tokio::task::spawn_blocking(publish)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::other("the task ended early")))
            .map_err(ObjectError::io("publishing", &self.target))?;
        self.temporary = None;
        let sha256 = hex(self.digest.clone().finish().as_ref());
        Ok(Stored {
            size: self.size,
            sha256,
        })
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An object being read.
pub struct ObjectReader {
    path: PathBuf,
    file: File,
    opener: Opener,
    left: u64,
    ended: bool,
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ObjectReader({})", self.path.display())
    }
}

impl ObjectReader {
    /// The next piece, at most 64 KiB; `None` at the end.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`] when the object is not what was written.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        if self.ended {
            return Ok(None);
        }
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(SEALED_CHUNK);
        let mut sealed = vec![0; length];
        self.file
            .read_exact(&mut sealed)
            .await
            .map_err(ObjectError::io("reading", &self.path))?;
        self.left -= length as u64;
        self.ended = self.left == 0;
        let plain = self.opener.open(&sealed, self.ended)?;
        Ok(Some(Bytes::from(plain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(folder: &Path) -> Objects {
        let keyring = Keyring::open_or_create(&folder.join("keyring")).unwrap();
        Objects::open(&folder.join("objects"), Arc::new(keyring)).unwrap()
    }

    #[tokio::test]
    async fn an_object_of_any_size_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let objects = objects(folder.path());
        for size in [
            0,
            1,
            PLAIN_CHUNK - 1,
            PLAIN_CHUNK,
            PLAIN_CHUNK + 1,
            3 * PLAIN_CHUNK,
        ] {
            let bytes: Vec<u8> = (0..size)
                .map(|index| u8::try_from(index % 251).unwrap())
                .collect();
            let key = ObjectKey::new(format!("states/sv-{size}")).unwrap();
            let stored = objects.put(&key, "sv-1", &bytes).await.unwrap();
            assert_eq!(stored.size, size as u64);
            assert_eq!(objects.get(&key, "sv-1").await.unwrap(), bytes);
        }
    }

    #[tokio::test]
    async fn an_object_in_anothers_place_or_cut_short_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let objects = objects(folder.path());
        let key = ObjectKey::new("states/sv-1").unwrap();
        objects
            .put(&key, "sv-1", &vec![7; 2 * PLAIN_CHUNK])
            .await
            .unwrap();
        assert!(matches!(
            objects.get(&key, "sv-2").await,
            Err(ObjectError::Damaged)
        ));
        let path = folder.path().join("objects/states/sv-1");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..HEADER_LENGTH + SEALED_CHUNK]).unwrap();
        assert!(matches!(
            objects.get(&key, "sv-1").await,
            Err(ObjectError::Damaged)
        ));
    }

    #[tokio::test]
    async fn a_dropped_writer_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let objects = objects(folder.path());
        let key = ObjectKey::new("states/sv-1").unwrap();
        let mut writer = objects.writer(&key, "sv-1").await.unwrap();
        writer.write(b"half").await.unwrap();
        drop(writer);
        assert!(matches!(
            objects.get(&key, "sv-1").await,
            Err(ObjectError::NotFound(_))
        ));
        assert_eq!(
            std::fs::read_dir(folder.path().join("objects").join(STAGING))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_own_context_and_with_its_own_ring() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::open_or_create(&folder.path().join("one")).unwrap();
        let sealed = ring.seal("var-1", b"hunter2").unwrap();
        assert_eq!(ring.open_sealed("var-1", &sealed).unwrap(), b"hunter2");
        assert!(matches!(
            ring.open_sealed("var-2", &sealed),
            Err(ObjectError::Damaged)
        ));
        let other = Keyring::open_or_create(&folder.path().join("two")).unwrap();
        assert!(matches!(
            other.open_sealed("var-1", &sealed),
            Err(ObjectError::MissingKey(_))
        ));
        let again = Keyring::open_or_create(&folder.path().join("one")).unwrap();
        assert_eq!(again.open_sealed("var-1", &sealed).unwrap(), b"hunter2");
    }

    #[test]
    fn keys_that_leave_the_folder_are_refused() {
        for key in ["", "/etc/passwd", "../x", "a/../b", "a//b", ".staging/x", "a\0b"] {
            assert!(ObjectKey::new(key).is_err(), "{key:?}");
        }
    }
}
