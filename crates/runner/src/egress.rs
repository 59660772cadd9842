//! Certificates that an engine and its providers trust when they go out as the agent does.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use terrapool_protocol::runner::Egress;

use crate::paths::Paths;

/// Where images have their certificates, as Go's TLS library knows it.
const SYSTEM: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Variables by which engines and providers (Go), git and curl are told which certificates to trust.
pub const CERTIFICATE_VARIABLES: [&str; 3] = ["SSL_CERT_FILE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"];

/// Writes the image's certificates and the agent's into one file; `None` when the agent has none to add.
///
/// # Errors
/// Of the job volume.
pub fn certificates(paths: &Paths, egress: &Egress) -> io::Result<Option<PathBuf>> {
    if egress.certificates.trim().is_empty() {
        return Ok(None);
    }
    let named = std::env::var_os("SSL_CERT_FILE");
    let text = bundle(named, &SYSTEM, &egress.certificates);
    let path = paths.certificates();
    std::fs::write(&path, text)?;
    Ok(Some(path))
}

/// The first file that is there, and what is to be added.
fn bundle(named: Option<OsString>, system: &[&str], added: &str) -> Vec<u8> {
    let files = named
        .map(PathBuf::from)
        .into_iter()
        .chain(system.iter().map(|path| Path::new(path).to_owned()));
    let mut text = files
        .into_iter()
        .find_map(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    text.push(b'\n');
    text.extend_from_slice(added.as_bytes());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_takes_nobodys_place() {
        let folder = tempfile::tempdir().unwrap();
        let (own, system) = (folder.path().join("own"), folder.path().join("system"));
        std::fs::write(&own, "OWN").unwrap();
        std::fs::write(&system, "SYSTEM").unwrap();
        let system = [system.to_str().unwrap()];
        assert_eq!(bundle(None, &system, "ADDED"), b"SYSTEM\nADDED");
        assert_eq!(bundle(Some(own.into()), &system, "ADDED"), b"OWN\nADDED");
        assert_eq!(bundle(None, &["/nowhere"], "ADDED"), b"\nADDED");
    }
}
