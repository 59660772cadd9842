//! Removing what a sandbox has left.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Removes a folder whose processes have ended. Who is not root may be kept out by folders that a run has closed; as their
/// owner it opens them.
pub(super) fn folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            open(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// Lets its owner into a folder and into all below it.
fn open(path: &Path) -> io::Result<()> {
    let mut todo = vec![path.to_owned()];
    while let Some(folder) = todo.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // Links are not followed.
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_closed_are_opened_and_removed() {
        let above = tempfile::tempdir().unwrap();
        let folder = above.path().join("sandbox");
        let below = folder.join("work/module");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("file"), "").unwrap();
        let outside = above.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o500)).unwrap();
        std::os::unix::fs::symlink(&outside, below.join("link")).unwrap();
        for (path, mode) in [(&below, 0o000), (&folder.join("work"), 0o500)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        open(&folder).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&below), mode(&outside)), (0o700, 0o500));
        super::folder(&folder).unwrap();
        assert!(!folder.exists() && outside.exists());
    }
}
