//! Certificates: the operator's, or those of a local authority in the data folder.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Datelike as _, Days, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Config, Tls};

/// TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{path} holds no {what} in PEM form")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key don't fit, or are of a kind that is not supported.
    #[error("the certificate {cert} and the key {key} can't be used together")]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// A certificate can't be made.
    #[error("a certificate for `{name}` can't be made")]
    Make {
        /// For what.
        name: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
}

/// The file name of the local authority's certificate in the data folder.
pub const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key";
const CERT_FILE: &str = "tls.crt";
const KEY_FILE: &str = "tls.key";

/// Days that a certificate of the local authority is valid; a new one is made at each start.
const LEAF_DAYS: u64 = 820;
const CA_DAYS: u64 = 3650;

/// What the listener needs, or `None` when it speaks plain HTTP.
///
/// # Errors
/// [`TlsError`] when certificates can't be read or made.
pub fn server_config(config: &Config) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let (cert, key) = match &config.tls {
        Tls::Off => return Ok(None),
        Tls::Files { cert, key } => (cert.clone(), key.clone()),
        Tls::Local => local(&config.data_dir, config.public_host())?,
    };
    let chain = read(&cert)?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Pem {
            path: cert.clone(),
            what: "certificate",
        })?;
    if chain.is_empty() {
        return Err(TlsError::Pem {
            path: cert,
            what: "certificate",
        });
    }
    let private = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|_| TlsError::Pem {
        path: key.clone(),
        what: "private key",
    })?;
    let mut server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|source| TlsError::Pair { cert, key, source })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(server)))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Io {
        action: "reading",
        path: path.to_owned(),
        source,
    })
}

/// Writes by a temporary file, so that a reader never sees half of it.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let temporary = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| TlsError::Io {
        action: "writing",
        path: path.to_owned(),
        source,
    })
}

fn validity(params: &mut CertificateParams, days: u64) {
    let now = Utc::now();
    let date = |time: DateTime<Utc>| {
        let month = u8::try_from(time.month()).unwrap_or(1);
        let day = u8::try_from(time.day()).unwrap_or(1);
        rcgen::date_time_ymd(time.year(), month, day)
    };
    // From yesterday: clients' clocks may be behind.
    params.not_before = date(now.checked_sub_days(Days::new(1)).unwrap_or(now));
    params.not_after = date(now.checked_add_days(Days::new(days)).unwrap_or(now));
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "Terrapool local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    params
}

/// Makes, or finds, the local authority and makes a fresh certificate for `host`.
fn local(data_dir: &Path, host: &str) -> Result<(PathBuf, PathBuf), TlsError> {
    let fail = |name: &str| {
        let name = name.to_owned();
        move |source| TlsError::Make { name, source }
    };
    let (ca_path, ca_key_path) = (data_dir.join(CA_FILE), data_dir.join(CA_KEY_FILE));
    let ca_key = if ca_key_path.exists() && ca_path.exists() {
        let pem = read(&ca_key_path)?;
        KeyPair::from_pem(&String::from_utf8_lossy(&pem)).map_err(fail("the local authority"))?
    } else {
        let key = KeyPair::generate().map_err(fail("the local authority"))?;
        let certificate = authority_params()
            .self_signed(&key)
            .map_err(fail("the local authority"))?;
        write(&ca_key_path, &key.serialize_pem(), 0o600)?;
        write(&ca_path, &certificate.pem(), 0o644)?;
        key
    };
    // An issuer is known by its name and key; both are the same each time.
    let issuer = Issuer::new(authority_params(), ca_key);
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !host.is_empty() && !names.iter().any(|name| name == host) {
        names.push(host.to_owned());
    }
    let mut params = CertificateParams::new(names).map_err(fail(host))?;
    let common_name = if host.parse::<IpAddr>().is_ok() || host.is_empty() {
        "localhost"
    } else {
        host
    };
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS);
    let key = KeyPair::generate().map_err(fail(host))?;
    let certificate = params.signed_by(&key, &issuer).map_err(fail(host))?;
    let (cert_path, key_path) = (data_dir.join(CERT_FILE), data_dir.join(KEY_FILE));
    write(&key_path, &key.serialize_pem(), 0o600)?;
    write(&cert_path, &certificate.pem(), 0o644)?;
    Ok((cert_path, key_path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_authority_is_kept_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        local(folder.path(), "tp.example").unwrap();
        let before = fs::read(folder.path().join(CA_FILE)).unwrap();
        local(folder.path(), "tp.example").unwrap();
        assert_eq!(fs::read(folder.path().join(CA_FILE)).unwrap(), before);
        let mode = fs::metadata(folder.path().join(CA_KEY_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
