//! The volume with engines, as the agent has it looked after: what is in it, and what goes.
//!
//! Sandboxes have the volume read-only; a helper container of the agent, without network, has it to write.

use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use terrapool_protocol::runner::{ENGINE_USED, EngineFolder};

use crate::error::RunnerError;

/// The engines' folders below `bin`.
pub fn list(bin: &Path) -> Vec<EngineFolder> {
    let entries = std::fs::read_dir(bin).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<EngineFolder> = folders
        .filter_map(|entry| {
            let files = std::fs::read_dir(entry.path()).ok()?.flatten();
            let used = std::fs::metadata(entry.path().join(ENGINE_USED))
                .or_else(|_| entry.metadata())
                .and_then(|metadata| metadata.modified())
                .ok()?;
            Some(EngineFolder {
                name: entry.file_name().into_string().ok()?,
                size: files
                    .filter_map(|file| file.metadata().ok())
                    .map(|metadata| metadata.len())
                    .sum(),
                used: used.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            })
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Removes engines' folders by their names. One that is gone already is no error.
///
/// # Errors
/// [`RunnerError::Folder`] for a name that leads elsewhere, before anything is removed, and when removing fails.
pub fn remove(bin: &Path, names: &[&str]) -> Result<(), RunnerError> {
    let failed = |name: &str, source: io::Error| RunnerError::Folder {
        path: bin.join(name),
        source,
    };
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        let source = io::Error::new(
            io::ErrorKind::InvalidInput,
            "this is no name of an engine's folder",
        );
        return Err(failed(name, source));
    }
    for name in names {
        match std::fs::remove_dir_all(bin.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(name, error)),
            _ => {}
        }
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn folders_are_listed_with_size_and_last_use_and_removed_by_name_only() {
        let bin = tempfile::tempdir().unwrap();
        let inside = |path: &str| bin.path().join(path);
        std::fs::write(inside("terrapool-runner-1"), "no folder").unwrap();
        for name in ["terraform_1.0.0-a", "tofu_1.9.0-b"] {
            std::fs::create_dir(inside(name)).unwrap();
            std::fs::write(inside(name).join("engine"), "12345").unwrap();
        }
        let mark = std::fs::File::create(inside("tofu_1.9.0-b").join(ENGINE_USED)).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        mark.set_modified(long_ago).unwrap();
        let found = list(bin.path());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].size), ("terraform_1.0.0-a", 5));
        assert!(found[0].used > 1_000_000_000);
        assert_eq!(found[1].used, 1_000_000);

        for wrong in ["..", "../x", "", "a/b"] {
            assert!(remove(bin.path(), &["tofu_1.9.0-b", wrong]).is_err(), "{wrong}");
        }
        assert_eq!(list(bin.path()).len(), 2);
        remove(bin.path(), &["tofu_1.9.0-b", "gone_1.0.0-c"]).unwrap();
        let left: Vec<String> = list(bin.path()).into_iter().map(|engine| engine.name).collect();
        assert_eq!(left, ["terraform_1.0.0-a"]);
        assert!(inside("terrapool-runner-1").exists());
    }
}
