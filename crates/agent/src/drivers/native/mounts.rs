//! Mounts of a host that this process has no power over: what it may bind, and what it has to keep of them
//! (mount_namespaces(7), "Restrictions on mount namespaces").

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::MountFlags;

/// The flags of a mount that may not be taken away again.
pub(super) fn locked_flags(place: &Path) -> io::Result<MountFlags> {
    let has = rustix::fs::statvfs(place)?.f_flag;
    let flags = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let locked = flags.into_iter().filter(|(flag, _)| has.contains(*flag));
    Ok(locked.fold(MountFlags::empty(), |all, (_, flag)| all | flag))
}

/// The topmost mounts below a folder.
pub(super) fn below(place: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(topmost(&fs::read_to_string("/proc/self/mountinfo")?, place))
}

fn topmost(mounts: &str, place: &Path) -> Vec<PathBuf> {
    let points = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(plain);
    let mut points: Vec<PathBuf> = points
        .filter(|point| point != place && point.starts_with(place))
        .collect();
    points.sort();
    let mut found: Vec<PathBuf> = Vec::new();
    for point in points {
        if !found.last().is_some_and(|last| point.starts_with(last)) {
            found.push(point);
        }
    }
    found
}

/// A path as it is: spaces and the like are written in octal (proc_pid_mountinfo(5)).
fn plain(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let octal = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mounts_below_a_folder_are_found_whatever_their_names() {
        let mounts = "\
            1 0 8:1 / / rw - ext4 /dev/vda rw\n\
            2 1 8:2 / /s/usr ro - ext4 /dev/vda rw\n\
            3 2 8:3 / /s/usr/local rw - ext4 /dev/vdb rw\n\
            4 3 8:4 / /s/usr/local/deep rw - tmpfs tmpfs rw\n\
            5 2 8:5 / /s/usr/my\\040share rw - tmpfs tmpfs rw\n\
            6 1 8:6 / /s/usr2 rw - tmpfs tmpfs rw\n";
        let expected = ["/s/usr/local", "/s/usr/my share"].map(PathBuf::from);
        assert_eq!(topmost(mounts, Path::new("/s/usr")), expected);
        assert!(topmost(mounts, Path::new("/s/usr2")).is_empty());
    }
}
