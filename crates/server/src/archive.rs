//! Whether an uploaded configuration is an archive that can be unpacked.
//!
//! The agent unpacks safely whatever comes; this check exists so that a damaged upload is refused where it happens,
//! with a sentence, and not minutes later on a machine far away.

use std::io::Read;
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;

/// Unpacked bytes that an archive may have: a limit against archives made to fill disks.
const UNPACKED_LIMIT: u64 = 4 << 30;
/// Entries that an archive may have.
const ENTRY_LIMIT: u64 = 200_000;

/// An archive that can't be a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is something else.
    #[error("The upload is no gzip archive: configurations are uploaded as .tar.gz")]
    NotGzip,
    /// It is cut or damaged.
    #[error("The archive is damaged or was cut short ({0}): upload it again")]
    Damaged(String),
    /// It has no entries at all.
    #[error("The archive is empty: upload the folder with the configuration")]
    Empty,
    /// An entry would be written outside of the folder.
    #[error("The archive's entry `{0}` leads out of the configuration's folder: remove it and upload again")]
    Outside(String),
    /// An entry is a device, socket or the like.
    #[error("The archive's entry `{0}` is neither a file, a folder nor a link: remove it and upload again")]
    Special(String),
    /// It is too large.
    #[error("The archive unpacks to more than {UNPACKED_LIMIT} bytes or {ENTRY_LIMIT} entries")]
    TooLarge,
}

/// Reads an archive to its end.
///
/// # Errors
/// [`ArchiveError`] with a sentence for whoever uploaded it.
pub fn check(reader: impl Read) -> Result<(), ArchiveError> {
    let mut reader = reader;
    let mut magic = [0; 2];
    reader.read_exact(&mut magic).map_err(|_| ArchiveError::NotGzip)?;
    if magic != [0x1f, 0x8b] {
        return Err(ArchiveError::NotGzip);
    }
    let damaged = |error: std::io::Error| ArchiveError::Damaged(error.to_string());
    let unpacked = MultiGzDecoder::new(magic.as_slice().chain(reader)).take(UNPACKED_LIMIT);
    let mut archive = tar::Archive::new(unpacked);
    let mut entries = 0;
    for entry in archive.entries().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        entries += 1;
        if entries > ENTRY_LIMIT {
            return Err(ArchiveError::TooLarge);
        }
        let kind = entry.header().entry_type();
        let path = entry.path().map_err(damaged)?.into_owned();
        if kind.is_pax_global_extensions() || kind.is_pax_local_extensions() {
            continue;
        }
        if !stays_inside(&path) {
            return Err(ArchiveError::Outside(shown(&path)));
        }
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry
                .link_name()
                .map_err(damaged)?
                .unwrap_or_default()
                .into_owned();
            let from = if kind.is_symlink() {
                path.parent().unwrap_or(Path::new(""))
            } else {
                Path::new("")
            };
            if target.is_absolute() || !stays_inside(&from.join(&target)) {
                return Err(ArchiveError::Outside(shown(&path)));
            }
        } else if !(kind.is_file() || kind.is_dir() || kind.is_contiguous() || kind.is_gnu_sparse()) {
            return Err(ArchiveError::Special(shown(&path)));
        }
    }
    if entries == 0 {
        return Err(ArchiveError::Empty);
    }
    // The end of the compressed stream holds a checksum of everything before.
    let mut rest = archive.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(damaged)?;
    if rest.limit() == 0 {
        return Err(ArchiveError::TooLarge);
    }
    Ok(())
}

fn stays_inside(path: &Path) -> bool {
    let mut depth = 0_i32;
    for component in path.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        gzip(&builder.into_inner().unwrap())
    }

    /// A header whose name is written as it is, which the library's own setters refuse.
    fn raw_name(name: &str) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        header
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes).unwrap();
    }

    #[test]
    fn a_configuration_with_folders_and_links_is_accepted() {
        let bytes = archive(|builder| {
            file(builder, "main.tf", b"terraform {}");
            file(builder, "modules/a/main.tf", b"");
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, "modules/b", "a").unwrap();
        });
        check(bytes.as_slice()).unwrap();
    }

    #[test]
    fn what_is_no_archive_is_refused_with_a_sentence() {
        assert!(matches!(check(b"hello".as_slice()), Err(ArchiveError::NotGzip)));
        assert!(matches!(check(b"".as_slice()), Err(ArchiveError::NotGzip)));
        assert!(matches!(
            check(gzip(b"no tar").as_slice()),
            Err(ArchiveError::Damaged(_))
        ));
        assert!(matches!(
            check(archive(|_| {}).as_slice()),
            Err(ArchiveError::Empty)
        ));
    }

    #[test]
    fn an_archive_that_was_cut_anywhere_is_refused() {
        let noise: Vec<u8> = (0..100_000_u32)
            .flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let whole = archive(|builder| file(builder, "main.tf", &noise));
        for end in [whole.len() - 1, whole.len() - 9, whole.len() / 2, 20] {
            assert!(check(&whole[..end]).is_err(), "{end}");
        }
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        assert!(check(damaged.as_slice()).is_err());
        check(whole.as_slice()).unwrap();
    }

    #[test]
    fn entries_that_lead_out_of_the_folder_are_refused() {
        for name in ["../evil.tf", "/etc/passwd", "a/../../evil.tf"] {
            let bytes = archive(|builder| builder.append(&raw_name(name), std::io::empty()).unwrap());
            assert!(
                matches!(check(bytes.as_slice()), Err(ArchiveError::Outside(_))),
                "{name}"
            );
        }
        let bytes = archive(|builder| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder
                .append_link(&mut header, "a/link", "../../outside")
                .unwrap();
        });
        assert!(matches!(check(bytes.as_slice()), Err(ArchiveError::Outside(_))));
    }
}
