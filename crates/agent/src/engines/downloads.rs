//! Downloaded engines: what each has to be, when it was used last, and which are removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use terrapool_model::engine::Engine;

use super::retention::{Kept, Retention};

/// Name of the file beside a binary with its digest.
const PIN: &str = "sha256";
/// Name of the file beside a binary whose time says when it was used last.
const USED: &str = "used";

/// How long downloads are kept. One that was used in the last hour may be about to be copied to the sandboxes.
const RETENTION: Retention = Retention {
    kept: Duration::from_secs(30 * 24 * 3600),
    in_use: Duration::from_secs(3600),
    most: 5 << 30,
};

fn beside(binary: &Path, name: &str) -> PathBuf {
    binary.with_file_name(name)
}

/// Keeps what a binary has to be.
pub(super) fn write_pin(binary: &Path, sha256: &str) -> std::io::Result<()> {
    std::fs::write(beside(binary, PIN), sha256)
}

/// Keeps that a binary is used now. Where that does not work it counts as older, which is harmless.
pub(super) fn note_use(binary: &Path) {
    let _ = std::fs::write(beside(binary, USED), "");
}

/// The downloads whose digest is known, with it.
pub(super) fn usable(
    downloads: &Path,
    found: BTreeMap<Engine, PathBuf>,
) -> BTreeMap<Engine, (PathBuf, String)> {
    let with_pin = |(engine, path): (Engine, PathBuf)| {
        let pin = std::fs::read_to_string(beside(&path, PIN)).ok()?;
        (path.starts_with(downloads) && pin.len() == 64).then_some((engine, (path, pin)))
    };
    found.into_iter().filter_map(with_pin).collect()
}

/// Removes downloads that are not used, and answers their folders.
pub(super) fn sweep(downloads: &Path) -> Vec<PathBuf> {
    let now = SystemTime::now();
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(downloads).into_iter().flatten().flatten() {
        let folder = entry.path();
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let metadata: Vec<_> = files.filter_map(|file| file.metadata().ok()).collect();
        let used = std::fs::metadata(folder.join(USED)).or_else(|_| std::fs::metadata(&folder));
        let Ok(used) = used.and_then(|metadata| metadata.modified()) else {
            continue;
        };
        kept.push(Kept {
            size: metadata.iter().map(std::fs::Metadata::len).sum(),
            unused: now.duration_since(used).unwrap_or_default(),
            name: folder,
        });
    }
    let gone = RETENTION.surplus(kept);
    gone.into_iter()
        .filter(|folder| std::fs::remove_dir_all(folder).is_ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_removes_folders_of_engines_that_nobody_used() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("terraform_1.0.0/terraform");
        std::fs::create_dir_all(binary.parent().unwrap()).unwrap();
        std::fs::write(&binary, "x").unwrap();
        note_use(&binary);
        assert_eq!(sweep(folder.path()), Vec::<PathBuf>::new());
        let long_ago = SystemTime::now() - 2 * RETENTION.kept;
        let used = std::fs::File::options()
            .write(true)
            .open(beside(&binary, USED))
            .unwrap();
        used.set_modified(long_ago).unwrap();
        assert_eq!(sweep(folder.path()), [folder.path().join("terraform_1.0.0")]);
        assert!(!binary.exists());
    }
}
