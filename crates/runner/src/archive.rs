//! Unpacking of tar+gzip archives that nobody vouches for.
//!
//! Nothing is written outside the root: names are taken apart before use, every folder on the way is looked at without
//! following links, files are only made new (never opened where they exist), and symlinks are resolved once everything
//! is there. Limits are counted on what the archive announces, before it is written.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use tar::EntryType;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct ArchiveLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Folders inside one another.
    pub depth: usize,
    /// For plan archives, which hold what the engine itself made: entries replace whatever is in their way, and symlinks
    /// may point out of the root.
    pub overlay: bool,
}

impl ArchiveLimits {
    /// For uploaded configurations.
    pub const CONFIGURATION: Self = Self {
        bytes: 512 << 20,
        entries: 200_000,
        depth: 128,
        overlay: false,
    };
    /// For plan archives.
    pub const PLAN: Self = Self {
        bytes: 256 << 20,
        entries: 50_000,
        depth: 130,
        overlay: true,
    };
}

/// Longest path of an entry in bytes, as the kernel has it.
const LONGEST_PATH: u64 = 4096;

/// Longest extended header.
const LONGEST_HEADER: u64 = 64 << 10;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is no tar+gzip archive, or it is damaged.
    #[error("The archive cannot be read: {0}. It has to be a tar archive compressed with gzip.")]
    Unreadable(#[source] io::Error),
    /// An entry that would reach outside, or is nothing that a configuration holds.
    #[error("The archive is refused: its entry `{entry}` {problem}.")]
    Refused {
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A limit.
    #[error("The archive is too large: {0}.")]
    Limit(String),
    /// The volume does not take the files.
    #[error("Cannot unpack `{entry}`: {source}")]
    Write {
        /// The entry's name.
        entry: String,
        /// Why.
        source: io::Error,
    },
}

/// How a file looked when it was unpacked. What differs later was changed by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of a file's metadata.
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self {
            size: metadata.size(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What was unpacked, by path inside the root.
pub type Inventory = HashMap<PathBuf, Fingerprint>;

/// Unpacks an archive into `root`, which has to exist, and says what it unpacked.
///
/// # Errors
/// [`ArchiveError`]; what was unpacked until then stays.
pub fn unpack(archive: File, root: &Path, limits: ArchiveLimits) -> Result<Inventory, ArchiveError> {
    let mut unpacker = Unpacker {
        root,
        limits,
        bytes: 0,
        entries: 0,
        folders: HashSet::from([PathBuf::new()]),
        symlinks: Vec::new(),
        hard_links: false,
        inventory: Inventory::new(),
    };
    unpacker.unpack(archive)?;
    unpacker.check_symlinks()?;
    if unpacker.hard_links {
        unpacker.refresh();
    }
    Ok(unpacker.inventory)
}

struct Unpacker<'root> {
    root: &'root Path,
    limits: ArchiveLimits,
    bytes: u64,
    entries: u64,
    /// Folders below the root that are known to be real ones.
    folders: HashSet<PathBuf>,
    symlinks: Vec<PathBuf>,
    hard_links: bool,
    inventory: Inventory,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Unpacker<'_> {
    fn unpack(&mut self, archive: File) -> Result<(), ArchiveError> {
        // Reading stops where no archive within the limits can go on, whatever it announces.
        let most = self.limits.bytes + (self.limits.entries + 16) * 4 * 1024;
        let decoder = MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, archive));
        let mut archive = tar::Archive::new(decoder.take(most));
        let mut extended = Extended::default();
        let mut buffer = vec![0; 64 << 10];
        // Raw entries, because the crate reads extended headers of any size into memory.
        for entry in archive.entries().map_err(ArchiveError::Unreadable)?.raw(true) {
            let mut entry = entry.map_err(ArchiveError::Unreadable)?;
            let kind = entry.header().entry_type();
            match kind {
                EntryType::XGlobalHeader => {
                    let _ = read_header(&mut entry, LONGEST_HEADER)?;
                    continue;
                }
                EntryType::XHeader => {
                    let bytes = read_header(&mut entry, LONGEST_HEADER)?;
                    read_pax(&bytes, &mut extended)?;
                    continue;
                }
                EntryType::GNULongName => {
                    extended.path = Some(trim_zero(read_header(&mut entry, LONGEST_PATH)?));
                    continue;
                }
                EntryType::GNULongLink => {
                    extended.link = Some(trim_zero(read_header(&mut entry, LONGEST_PATH)?));
                    continue;
                }
                _ => {}
            }
            let extended = std::mem::take(&mut extended);
            let name = extended.path.unwrap_or_else(|| entry.path_bytes().into_owned());
            let shown = show(&name);
            self.count(1)?;
            let path = self.inside(&name, &shown)?;
            let link = extended
                .link
                .or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
            let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
            match kind {
                EntryType::Directory => self.folder(&path, &shown)?,
                // An old convention: a file whose name ends in a slash is a folder.
                EntryType::Regular | EntryType::Continuous if name.ends_with(b"/") => {
                    self.folder(&path, &shown)?;
                }
                EntryType::Regular | EntryType::Continuous => {
                    let size = entry.size();
                    self.file(&path, &shown, mode, size, &mut entry, &mut buffer)?;
                }
                EntryType::Symlink => self.symlink(&path, &shown, &link.unwrap_or_default())?,
                EntryType::Link => self.hard_link(&path, &shown, &link.unwrap_or_default())?,
                EntryType::GNUSparse => {
                    return Err(refused(&shown, "is a sparse file; pack it as a plain file"));
                }
                EntryType::Char | EntryType::Block | EntryType::Fifo => {
                    return Err(refused(
                        &shown,
                        "is a device or a FIFO; only files, folders and links are allowed",
                    ));
                }
                other => {
                    let kind = char::from(other.as_byte()).escape_default();
                    return Err(refused(&shown, &format!("is of the unknown kind `{kind}`")));
                }
            }
        }
        Ok(())
    }

    /// Takes a name apart. What comes out has only plain components.
    fn inside(&self, name: &[u8], shown: &str) -> Result<PathBuf, ArchiveError> {
        if name.len() as u64 > LONGEST_PATH {
            return Err(ArchiveError::Limit(format!(
                "the path `{shown}` is longer than {LONGEST_PATH} bytes"
            )));
        }
        let mut path = PathBuf::new();
        let mut depth = 0;
        for component in Path::new(OsStr::from_bytes(name)).components() {
            match component {
                Component::Normal(part) => {
                    path.push(part);
                    depth += 1;
                }
                Component::CurDir => {}
                Component::ParentDir => return Err(refused(shown, "has `..` in its path")),
                Component::RootDir | Component::Prefix(_) => {
                    return Err(refused(shown, "has an absolute path"));
                }
            }
        }
        if depth > self.limits.depth {
            return Err(ArchiveError::Limit(format!(
                "the path `{shown}` has more than {} levels",
                self.limits.depth
            )));
        }
        Ok(path)
    }

    fn count(&mut self, entries: u64) -> Result<(), ArchiveError> {
        self.entries += entries;
        if self.entries > self.limits.entries {
            return Err(ArchiveError::Limit(format!(
                "it has more than {} files and folders",
                self.limits.entries
            )));
        }
        Ok(())
    }

    fn count_bytes(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.bytes {
            return Err(ArchiveError::Limit(format!(
                "its files have more than {} MiB together",
                self.limits.bytes >> 20
            )));
        }
        Ok(())
    }

    /// Makes a folder and those above it, and refuses to go through a link.
    fn folder(&mut self, path: &Path, shown: &str) -> Result<(), ArchiveError> {
        if self.folders.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.folder(parent, shown)?;
        }
        let full = self.root.join(path);
        match fs::DirBuilder::new().mode(0o755).create(&full) {
            Ok(()) => self.count(1)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let metadata = fs::symlink_metadata(&full).map_err(|source| write_error(shown, source))?;
                if self.limits.overlay && !metadata.is_dir() {
                    fs::remove_file(&full).map_err(|source| write_error(shown, source))?;
                    self.inventory.remove(path);
                    fs::create_dir(&full).map_err(|source| write_error(shown, source))?;
                } else if metadata.is_symlink() {
                    let link = path.display();
                    return Err(refused(
                        shown,
                        &format!("would be written through the symlink `{link}`"),
                    ));
                } else if !metadata.is_dir() {
                    let file = path.display();
                    return Err(refused(
                        shown,
                        &format!("needs a folder where `{file}` is a file"),
                    ));
                }
            }
            Err(source) => return Err(write_error(shown, source)),
        }
        self.folders.insert(path.to_owned());
        Ok(())
    }

    /// Makes room at a path for something that is no folder.
    fn clear(&mut self, path: &Path, shown: &str) -> Result<(), ArchiveError> {
        if path.as_os_str().is_empty() {
            return Err(refused(shown, "has no name"));
        }
        self.inventory.remove(path);
        let full = self.root.join(path);
        match fs::symlink_metadata(&full) {
            Err(_) => Ok(()),
            Ok(metadata) if metadata.is_dir() && self.limits.overlay => {
                self.folders.retain(|folder| !folder.starts_with(path));
                fs::remove_dir_all(&full).map_err(|source| write_error(shown, source))
            }
            Ok(metadata) if metadata.is_dir() => Err(refused(shown, "would replace a folder")),
            Ok(_) => fs::remove_file(&full).map_err(|source| write_error(shown, source)),
        }
    }

    fn parent(&mut self, path: &Path, shown: &str) -> Result<(), ArchiveError> {
        match path.parent() {
            Some(parent) => self.folder(parent, shown),
            None => Err(refused(shown, "has no name")),
        }
    }

    fn file(
        &mut self,
        path: &Path,
        shown: &str,
        mode: u32,
        size: u64,
        content: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<(), ArchiveError> {
        self.count_bytes(size)?;
        self.parent(path, shown)?;
        let full = self.root.join(path);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode | 0o600);
        let mut file = match options.open(&full) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(path, shown)?;
                options.open(&full)
            }
            other => other,
        }
        .map_err(|source| write_error(shown, source))?;
        let mut rest = size;
        while rest > 0 {
            let most = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            let count = content
                .read(&mut buffer[..most])
                .map_err(ArchiveError::Unreadable)?;
            if count == 0 {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a file");
                return Err(ArchiveError::Unreadable(cut));
            }
            file.write_all(&buffer[..count])
                .map_err(|source| write_error(shown, source))?;
            rest -= count as u64;
        }
        let metadata = file.metadata().map_err(|source| write_error(shown, source))?;
        self.inventory.insert(path.to_owned(), Fingerprint::of(&metadata));
        Ok(())
    }

    fn symlink(&mut self, path: &Path, shown: &str, target: &[u8]) -> Result<(), ArchiveError> {
        let target = Path::new(OsStr::from_bytes(target));
        if target.as_os_str().is_empty() {
            return Err(refused(shown, "is a symlink to nothing"));
        }
        if !self.limits.overlay && target.is_absolute() {
            return Err(refused(shown, "is a symlink with an absolute target"));
        }
        self.parent(path, shown)?;
        self.clear(path, shown)?;
        let full = self.root.join(path);
        symlink(target, &full).map_err(|source| write_error(shown, source))?;
        if let Ok(metadata) = fs::symlink_metadata(&full) {
            self.inventory.insert(path.to_owned(), Fingerprint::of(&metadata));
        }
        self.symlinks.push(path.to_owned());
        Ok(())
    }

    fn hard_link(&mut self, path: &Path, shown: &str, target: &[u8]) -> Result<(), ArchiveError> {
        let target_shown = show(target);
        let outside = |_| {
            let problem = format!("is a hard link to `{target_shown}`, which is outside the archive");
            refused(shown, &problem)
        };
        let target = self.inside(target, &target_shown).map_err(outside)?;
        self.parent(path, shown)?;
        let known = target
            .parent()
            .is_some_and(|parent| self.folders.contains(parent));
        let full_target = self.root.join(&target);
        let is_file = known && fs::symlink_metadata(&full_target).is_ok_and(|metadata| metadata.is_file());
        if !is_file {
            let problem = format!("is a hard link to `{target_shown}`, which is no file of the archive");
            return Err(refused(shown, &problem));
        }
        if target == path {
            return Ok(());
        }
        self.clear(path, shown)?;
        let full = self.root.join(path);
        fs::hard_link(&full_target, &full).map_err(|source| write_error(shown, source))?;
        if let Ok(metadata) = fs::symlink_metadata(&full) {
            self.inventory.insert(path.to_owned(), Fingerprint::of(&metadata));
        }
        self.hard_links = true;
        Ok(())
    }

    /// A chain of links can leave the root though each of them looks harmless, so they are resolved at the end.
    fn check_symlinks(&self) -> Result<(), ArchiveError> {
        if self.limits.overlay {
            return Ok(());
        }
        for link in &self.symlinks {
            if resolve(self.root, link).is_none() {
                return Err(refused(
                    &link.display().to_string(),
                    "is a symlink that leaves the archive's root",
                ));
            }
        }
        Ok(())
    }

    /// A hard link changes its target's change time.
    fn refresh(&mut self) {
        for (path, fingerprint) in &mut self.inventory {
            if let Ok(metadata) = fs::symlink_metadata(self.root.join(path)) {
                *fingerprint = Fingerprint::of(&metadata);
            }
        }
    }
}

/// Follows a path below `root` through all symlinks; what does not exist counts as a plain name. `None` when it leaves
/// the root or goes round in circles.
pub fn resolve(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut resolved = PathBuf::new();
    let mut todo: Vec<PathBuf> = Vec::new();
    let push = |todo: &mut Vec<PathBuf>, path: &Path| {
        let mut parts: Vec<PathBuf> = path.components().map(|part| part.as_os_str().into()).collect();
        parts.reverse();
        todo.append(&mut parts);
    };
    push(&mut todo, path);
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.components().next()? {
            Component::CurDir => {}
            Component::ParentDir => {
                if !resolved.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
            Component::Normal(name) => {
                let next = resolved.join(name);
                match fs::read_link(root.join(&next)) {
                    Ok(target) => {
                        links += 1;
                        if links > 40 {
                            return None;
                        }
                        push(&mut todo, &target);
                    }
                    Err(_) => resolved = next,
                }
            }
        }
    }
    Some(resolved)
}

fn read_header(entry: &mut impl Read, longest: u64) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    entry
        .take(longest + 1)
        .read_to_end(&mut bytes)
        .map_err(ArchiveError::Unreadable)?;
    if bytes.len() as u64 > longest {
        return Err(ArchiveError::Limit(format!(
            "an extended header has more than {longest} bytes"
        )));
    }
    Ok(bytes)
}

fn trim_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}

/// Reads the records `length key=value\n` of an extended header.
fn read_pax(bytes: &[u8], extended: &mut Extended) -> Result<(), ArchiveError> {
    let malformed = || {
        let error = io::Error::new(io::ErrorKind::InvalidData, "an extended header is malformed");
        ArchiveError::Unreadable(error)
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(malformed)?;
        let record = rest
            .get(space + 1..length)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or_else(malformed)?;
        rest = &rest[length..];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            // Files of 8 GiB are the only ones that need it.
            b"size" => {
                let size = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok());
                if size.is_none_or(|size| size > 8 << 30) {
                    return Err(ArchiveError::Limit("a file has more than 8 GiB".to_owned()));
                }
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                let name = extended.path.as_deref().map_or_else(|| "?".to_owned(), show);
                return Err(refused(&name, "is a sparse file; pack it as a plain file"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn show(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text
        .chars()
        .take(200)
        .map(|character| if character.is_control() { '?' } else { character })
        .collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

fn refused(entry: &str, problem: &str) -> ArchiveError {
    ArchiveError::Refused {
        entry: entry.to_owned(),
        problem: problem.to_owned(),
    }
}

fn write_error(entry: &str, source: io::Error) -> ArchiveError {
    ArchiveError::Write {
        entry: entry.to_owned(),
        source,
    }
}
