//! Provider schemas, kept by lock file and engine: asking the engine for them anew costs every plan its share.

use std::path::PathBuf;

/// Schemas kept at most; the oldest go first.
const KEPT: usize = 64;

/// The schemas of earlier plans, on disk.
#[derive(Debug, Clone)]
pub struct SchemaCache {
    folder: PathBuf,
}

fn is_key(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl SchemaCache {
    /// Uses this folder, which is made when it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The keys there are.
    pub fn keys(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_key(name))
            .collect()
    }

    /// The schemas of a key, if they are there.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        if is_key(key) {
            std::fs::read(self.folder.join(key)).ok()
        } else {
            None
        }
    }

    /// Keeps schemas. A failure costs time later, nothing else.
    pub fn put(&self, key: &str, schemas: &[u8]) {
        if !is_key(key) {
            return;
        }
        let temporary = self.folder.join(format!(".{key}.{}", std::process::id()));
        let kept = std::fs::write(&temporary, schemas)
            .and_then(|()| std::fs::rename(&temporary, self.folder.join(key)));
        if let Err(error) = kept {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "provider schemas could not be kept"
            );
        }
        self.trim();
    }

    fn trim(&self) {
        let mut files: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(KEPT);
        for (_, path) in files.into_iter().take(surplus) {
            let _ = std::fs::remove_file(path);
        }
    }
}
