//! The keys that wrap the data keys.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::ObjectError;
use crate::sealed;

pub(crate) type KeyId = [u8; 8];

/// The keys of an installation. The newest wraps new objects; older ones open what they wrapped.
pub struct Keyring {
    keys: BTreeMap<KeyId, [u8; 32]>,
    newest: KeyId,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Keyring({} keys)", self.keys.len())
    }
}

const HEADER: &str = "\
# Key ring of a terrapool control plane: one key a line, the last one is used for new data.
# States, plans and secrets cannot be read without it. Keep it private, and back it up with the database.
";

impl Keyring {
    /// Reads the key ring.
    ///
    /// # Errors
    /// [`ObjectError`] when the file is missing or is no key ring.
    pub fn open(path: &Path) -> Result<Self, ObjectError> {
        let text = std::fs::read_to_string(path).map_err(ObjectError::io("reading key ring", path))?;
        let mut keys = BTreeMap::new();
        let mut newest = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |problem| ObjectError::Keyring {
                path: path.to_owned(),
                line: index + 1,
                problem,
            };
            let (id, key) = line
                .split_once(' ')
                .ok_or_else(|| fail("expected an id and a key"))?;
            let id: KeyId = id
                .as_bytes()
                .try_into()
                .map_err(|_| fail("an id has eight characters"))?;
            let key = STANDARD
                .decode(key.trim())
                .map_err(|_| fail("a key is written in base64"))?;
            let key: [u8; 32] = key.try_into().map_err(|_| fail("a key has 32 bytes"))?;
            keys.insert(id, key);
            newest = Some(id);
        }
        let newest = newest.ok_or(ObjectError::Keyring {
            path: path.to_owned(),
            line: text.lines().count(),
            problem: "there is no key in the file",
        })?;
        Ok(Self { keys, newest })
    }

    /// Reads the key ring, or makes one with one key when there is no file yet.
    ///
    /// # Errors
    /// [`ObjectError`] when the file cannot be read or written, or is no key ring.
    pub fn open_or_create(path: &Path) -> Result<Self, ObjectError> {
        let create = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        match create {
            Ok(mut file) => {
                let write = |file: &mut std::fs::File| -> std::io::Result<()> {
                    let (id, key) = new_key().map_err(|_| std::io::Error::other("no random numbers"))?;
                    let id = String::from_utf8_lossy(&id).into_owned();
                    writeln!(file, "{HEADER}{id} {}", STANDARD.encode(key))?;
                    file.sync_all()
                };
                write(&mut file).map_err(ObjectError::io("writing key ring", path))?;
                Self::open(path)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Self::open(path),
            Err(error) => Err(ObjectError::io("creating key ring", path)(error)),
        }
    }

    /// Encrypts a small value. `context` names what it belongs to and has to be repeated to open it.
    ///
    /// # Errors
    /// [`ObjectError::Cryptography`] when the library fails.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Result<Vec<u8>, ObjectError> {
        let mut sealer = sealed::Sealer::new(self, context)?;
        let mut sealed = sealer.header().to_vec();
        sealed.extend(sealer.finish(plain)?);
        Ok(sealed)
    }

    /// Decrypts what [`Keyring::seal`] made.
    ///
    /// # Errors
    /// [`ObjectError::MissingKey`] and [`ObjectError::Damaged`].
    pub fn open_sealed(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, ObjectError> {
        let mut opener = sealed::Opener::new(self, context, sealed)?;
        let mut plain = Vec::with_capacity(sealed.len());
        let mut rest = sealed.get(sealed::HEADER_LENGTH..).ok_or(ObjectError::Damaged)?;
        loop {
            let length = rest.len().min(sealed::SEALED_CHUNK);
            let (chunk, behind) = rest.split_at(length);
            plain.extend(opener.open(chunk, behind.is_empty())?);
            rest = behind;
            if rest.is_empty() {
                return Ok(plain);
            }
        }
    }

    /// Signs a message with the newest key, for URLs that authenticate themselves. `purpose` keeps uses apart.
    pub fn sign(&self, purpose: &str, message: &str) -> Vec<u8> {
        signature(self.newest().1, purpose, message)
    }

    /// Whether any key of the ring made this signature. Compares in constant time.
    pub fn verify(&self, purpose: &str, message: &str, found: &[u8]) -> bool {
        self.keys.values().any(|key| {
            let expected = signature(key, purpose, message);
            aws_lc_rs::constant_time::verify_slices_are_equal(&expected, found).is_ok()
        })
    }

    /// Whether the ring holds the key that sealed this value.
    pub fn holds_key_of(&self, sealed: &[u8]) -> bool {
        sealed::key_id(sealed).is_some_and(|id| self.keys.contains_key(&id))
    }

    pub(crate) fn newest(&self) -> (KeyId, &[u8; 32]) {
        (self.newest, &self.keys[&self.newest])
    }

    pub(crate) fn get(&self, id: &KeyId) -> Result<&[u8; 32], ObjectError> {
        self.keys
            .get(id)
            .ok_or_else(|| ObjectError::MissingKey(String::from_utf8_lossy(id).into_owned()))
    }
}

fn signature(key: &[u8; 32], purpose: &str, message: &str) -> Vec<u8> {
    // The wrapping key itself signs nothing that an outsider sees: a key for the purpose is derived from it.
    let root = hmac::Key::new(hmac::HMAC_SHA256, key);
    let derived = hmac::sign(&root, purpose.as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

fn new_key() -> Result<(KeyId, [u8; 32]), ObjectError> {
    let random = SystemRandom::new();
    let mut id = [0; 8];
    let mut key = [0; 32];
    random.fill(&mut id).map_err(|_| ObjectError::Cryptography)?;
    random.fill(&mut key).map_err(|_| ObjectError::Cryptography)?;
    let id = id.map(|byte| b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte % 32)]);
    Ok((id, key))
}
