//! Archives that must not be unpacked, and those that must.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};
use terrapool_runner::archive::{ArchiveError, ArchiveLimits, Fingerprint, Inventory, resolve, unpack};

struct Archive(Vec<u8>);

impl Archive {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// An entry with a name exactly as given, which the crate's builder would refuse.
    fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }

    fn unpack_with(&self, root: &Path, limits: ArchiveLimits) -> Result<Inventory, ArchiveError> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 1024, 0);
        unpack_bytes(&gzip(&bytes), root, limits)
    }

    fn refusal(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(folder.path().join("victim"), "safe").unwrap();
        let error = self.unpack_with(&root, ArchiveLimits::CONFIGURATION).unwrap_err();
        assert_eq!(fs::read_to_string(folder.path().join("victim")).unwrap(), "safe");
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["root", "victim"]);
        error.to_string()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unpack_bytes(bytes: &[u8], root: &Path, limits: ArchiveLimits) -> Result<Inventory, ArchiveError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    unpack(file, root, limits)
}

#[test]
fn case_1_entries_that_reach_outside_are_refused() {
    let link = |target| Archive::new().entry(EntryType::Symlink, "link", target, b"");
    for (archive, text) in [
        (Archive::new().file("../victim", "x"), "has `..` in its path"),
        (Archive::new().file("a/../../victim", "x"), "has `..` in its path"),
        (Archive::new().file("/tmp/victim", "x"), "has an absolute path"),
        (link("/etc"), "is a symlink with an absolute target"),
        (link("../victim"), "is a symlink that leaves the archive's root"),
        (link(".."), "is a symlink that leaves the archive's root"),
        (link("").file("x", ""), "is a symlink to nothing"),
        (
            Archive::new().entry(EntryType::Link, "link", "../victim", b""),
            "is a hard link to `../victim`",
        ),
        (
            Archive::new().entry(EntryType::Link, "link", "/etc/passwd", b""),
            "is a hard link to `/etc/passwd`",
        ),
        (
            Archive::new().entry(EntryType::Link, "link", "missing", b""),
            "which is no file of the archive",
        ),
        (
            link("..").file("link/victim", "x"),
            "would be written through the symlink `link`",
        ),
        (
            link("sub").file("sub/a", "x").file("link/b", "x"),
            "would be written through the symlink `link`",
        ),
        (
            link("../victim").entry(EntryType::Link, "hard", "link", b""),
            "which is no file of the archive",
        ),
        (
            Archive::new().entry(EntryType::Fifo, "pipe", "", b""),
            "is a device or a FIFO",
        ),
        (
            Archive::new().entry(EntryType::Char, "null", "", b""),
            "is a device or a FIFO",
        ),
        (
            Archive::new().entry(EntryType::Block, "disk", "", b""),
            "is a device or a FIFO",
        ),
        (
            Archive::new().file("a", "x").file("a/b", "x"),
            "needs a folder where `a` is a file",
        ),
        (
            Archive::new().file("a/b", "x").file("a", "x"),
            "would replace a folder",
        ),
        (
            Archive::new()
                .entry(EntryType::Directory, "d1/d2/", "", b"")
                .entry(EntryType::Symlink, "d1/d2/up", "../..", b"")
                .entry(EntryType::Symlink, "chain", "d1/d2/up/..", b""),
            "is a symlink that leaves the archive's root",
        ),
    ] {
        let refusal = archive.refusal();
        assert!(refusal.contains(text), "{text}: {refusal}");
    }
}

#[test]
fn case_2_bombs_hit_a_limit_that_is_named() {
    let mut header = Header::new_gnu();
    header.set_path("big").unwrap();
    header.set_size(10 << 30);
    header.set_cksum();
    let big = Archive(header.as_bytes().to_vec());
    assert!(big.refusal().contains("more than 512 MiB"), "{}", big.refusal());

    let deep = "d/".repeat(2000);
    let mut name = Archive::new().entry(EntryType::GNULongName, "././@LongLink", "", deep.as_bytes());
    name = name.file("x", "");
    assert!(
        name.refusal().contains("more than 128 levels"),
        "{}",
        name.refusal()
    );

    let long = "n".repeat(5000);
    let name = Archive::new().entry(EntryType::GNULongName, "././@LongLink", "", long.as_bytes());
    assert!(
        name.refusal().contains("more than 4096 bytes"),
        "{}",
        name.refusal()
    );

    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(1 << 20, b'a');
    assert!(Archive(bytes).refusal().contains("more than 4096 bytes"));

    let sparse = Archive::new().entry(EntryType::GNUSparse, "sparse", "", b"");
    assert!(sparse.refusal().contains("is a sparse file"));
    let record = b"30 GNU.sparse.realsize=100000\n";
    let sparse = Archive::new()
        .entry(EntryType::XHeader, "pax", "", record)
        .file("s", "");
    assert!(sparse.refusal().contains("is a sparse file"));

    let folder = tempfile::tempdir().unwrap();
    let limits = ArchiveLimits {
        entries: 100,
        ..ArchiveLimits::CONFIGURATION
    };
    let mut many = Archive::new();
    for number in 0..101 {
        many = many.file(&format!("f{number}"), "");
    }
    let error = many.unpack_with(folder.path(), limits).unwrap_err();
    assert!(
        error.to_string().contains("more than 100 files and folders"),
        "{error}"
    );
    // Folders that are only part of names count too.
    let folder = tempfile::tempdir().unwrap();
    let mut many = Archive::new();
    for number in 0..30 {
        many = many.file(&format!("f{number}/a/b/c"), "");
    }
    assert!(many.unpack_with(folder.path(), limits).is_err());
}

#[test]
fn damaged_archives_are_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let whole = gzip(&Archive::new().file("a", &"x".repeat(5000)).0);
    for bytes in [&b""[..], b"plain", &whole[..whole.len() / 2]] {
        let error = unpack_bytes(bytes, folder.path(), ArchiveLimits::CONFIGURATION).unwrap_err();
        assert!(error.to_string().contains("cannot be read"), "{error}");
    }
}

#[test]
fn ordinary_archives_are_unpacked_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/{}", "folder".repeat(20), "name".repeat(40));
    let mut header = Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"long"[..]).unwrap();
    let bytes = builder.into_inner().unwrap();
    let record = "24 path=from/pax/header\n";
    assert_eq!(record.len(), 24);
    let archive = Archive::new()
        .entry(EntryType::XGlobalHeader, "pax_global_header", "", b"")
        .entry(EntryType::Directory, "./", "", b"")
        .file("./run.sh", "#!/bin/sh")
        .entry(EntryType::Symlink, "in/tree", "../run.sh", b"")
        .entry(EntryType::Symlink, "dangling", "later/on", b"")
        .entry(EntryType::Link, "hard", "run.sh", b"")
        .entry(EntryType::XHeader, "pax", "", record.as_bytes())
        .file("ignored", "pax")
        .file("twice", "one")
        .file("twice", "two");
    let mut all = Archive(archive.0);
    all.0.extend_from_slice(&bytes[..bytes.len() - 1024]);
    let inventory = all
        .unpack_with(folder.path(), ArchiveLimits::CONFIGURATION)
        .unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read(&long), "long");
    assert_eq!(read("from/pax/header"), "pax");
    assert_eq!(read("in/tree"), "#!/bin/sh");
    assert_eq!(read("hard"), "#!/bin/sh");
    assert_eq!(read("twice"), "two");
    assert_eq!(
        fs::read_link(folder.path().join("in/tree")).unwrap(),
        Path::new("../run.sh")
    );
    let mode = fs::metadata(folder.path().join("run.sh"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o7111,
        0o111,
        "setuid is dropped, the executable bits stay"
    );
    for (path, fingerprint) in &inventory {
        let metadata = fs::symlink_metadata(folder.path().join(path)).unwrap();
        assert_eq!(*fingerprint, Fingerprint::of(&metadata), "{}", path.display());
    }
    assert_eq!(inventory.len(), 7);
}

#[test]
fn an_overlay_replaces_what_is_in_its_way_without_following_links() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("folder/inside")).unwrap();
    fs::create_dir_all(folder.path().join("outside")).unwrap();
    std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
    Archive::new()
        .file("folder", "now a file")
        .file("link/file", "x")
        .entry(EntryType::Symlink, "away", "/etc", b"")
        .file("away/file", "y")
        .unpack_with(&root, ArchiveLimits::PLAN)
        .unwrap();
    assert_eq!(fs::read_to_string(root.join("folder")).unwrap(), "now a file");
    assert_eq!(fs::read_to_string(root.join("link/file")).unwrap(), "x");
    assert_eq!(fs::read_to_string(root.join("away/file")).unwrap(), "y");
    assert!(
        fs::read_dir(folder.path().join("outside"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn links_in_circles_lead_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("b", folder.path().join("a")).unwrap();
    std::os::unix::fs::symlink("a", folder.path().join("b")).unwrap();
    assert_eq!(resolve(folder.path(), Path::new("a/x")), None);
    let _ = File::open(folder.path());
}
