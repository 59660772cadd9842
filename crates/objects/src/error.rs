//! What can go wrong with objects and keys.

use std::path::PathBuf;

/// An object or the key ring could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No object has this key.
    #[error("object {0} does not exist")]
    NotFound(String),
    /// The file system refused.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// An object is encrypted with a key that the ring does not hold.
    #[error(
        "key {0} is in use but missing from the key ring: restore the key ring that belongs to this data"
    )]
    MissingKey(String),
    /// The bytes are not what was sealed: damaged, cut, or put in another object's place.
    #[error("a sealed object is damaged or belongs to something else")]
    Damaged,
    /// The key-ring file cannot be read.
    #[error("key ring {path}, line {line}: {problem}")]
    Keyring {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A key that is no path of plain names.
    #[error("`{0}` is no object key")]
    InvalidKey(String),
    /// The random generator or cipher of the cryptography library failed.
    #[error("the cryptography library failed")]
    Cryptography,
}

impl ObjectError {
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the disk is full.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
    }
}
