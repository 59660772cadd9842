//! The format of a sealed object. See the crate's documentation for the layout.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

use crate::error::ObjectError;
use crate::keyring::{KeyId, Keyring};

const MAGIC: &[u8; 4] = b"TPO1";
const TAG: usize = 16;
const WRAPPED: usize = 32 + TAG;

pub(crate) const HEADER_LENGTH: usize = 4 + 8 + NONCE_LEN + WRAPPED;
pub(crate) const PLAIN_CHUNK: usize = 64 << 10;
pub(crate) const SEALED_CHUNK: usize = PLAIN_CHUNK + TAG;

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, ObjectError> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| ObjectError::Cryptography)?;
    Ok(LessSafeKey::new(key))
}

/// A data key encrypts one object only, so counting is enough; the last chunk is marked against truncation.
fn chunk_nonce(counter: u64, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[0] = u8::from(last);
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

pub(crate) fn key_id(sealed: &[u8]) -> Option<KeyId> {
    let rest = sealed.strip_prefix(MAGIC)?;
    rest.first_chunk::<8>().copied()
}

/// Encrypts one object, chunk by chunk.
pub(crate) struct Sealer {
    header: [u8; HEADER_LENGTH],
    cipher: LessSafeKey,
    context: Vec<u8>,
    counter: u64,
}

impl Sealer {
    pub(crate) fn new(keyring: &Keyring, context: &str) -> Result<Self, ObjectError> {
        let random = SystemRandom::new();
        let mut data_key = [0; 32];
        let mut nonce = [0; NONCE_LEN];
        random
            .fill(&mut data_key)
            .map_err(|_| ObjectError::Cryptography)?;
        random.fill(&mut nonce).map_err(|_| ObjectError::Cryptography)?;
        let (id, wrapping_key) = keyring.newest();
        let mut wrapped = data_key.to_vec();
        cipher(wrapping_key)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.as_bytes()),
                &mut wrapped,
            )
            .map_err(|_| ObjectError::Cryptography)?;
        let mut header = [0; HEADER_LENGTH];
        header[..4].copy_from_slice(MAGIC);
        header[4..12].copy_from_slice(&id);
        header[12..12 + NONCE_LEN].copy_from_slice(&nonce);
        header[12 + NONCE_LEN..].copy_from_slice(&wrapped);
        Ok(Self {
            header,
            cipher: cipher(&data_key)?,
            context: context.as_bytes().to_vec(),
            counter: 0,
        })
    }

    pub(crate) fn header(&self) -> &[u8; HEADER_LENGTH] {
        &self.header
    }

    fn chunk(&mut self, plain: &[u8], last: bool) -> Result<Vec<u8>, ObjectError> {
        let mut chunk = plain.to_vec();
        self.cipher
            .seal_in_place_append_tag(
                chunk_nonce(self.counter, last),
                Aad::from(&self.context),
                &mut chunk,
            )
            .map_err(|_| ObjectError::Cryptography)?;
        self.counter += 1;
        Ok(chunk)
    }

    /// Seals a chunk of exactly [`PLAIN_CHUNK`] bytes that is not the last one.
    pub(crate) fn full_chunk(&mut self, plain: &[u8]) -> Result<Vec<u8>, ObjectError> {
        self.chunk(plain, false)
    }

    /// Seals the rest, of any length, as the end of the object.
    pub(crate) fn finish(&mut self, rest: &[u8]) -> Result<Vec<u8>, ObjectError> {
        let mut sealed = Vec::with_capacity(rest.len() + TAG);
        let mut rest = rest;
        while rest.len() > PLAIN_CHUNK {
            let (full, behind) = rest.split_at(PLAIN_CHUNK);
            sealed.extend(self.chunk(full, false)?);
            rest = behind;
        }
        sealed.extend(self.chunk(rest, true)?);
        Ok(sealed)
    }
}

/// Decrypts one object, chunk by chunk.
pub(crate) struct Opener {
    cipher: LessSafeKey,
    context: Vec<u8>,
    counter: u64,
}

impl Opener {
    /// Reads the header at the front of `sealed`.
    pub(crate) fn new(keyring: &Keyring, context: &str, sealed: &[u8]) -> Result<Self, ObjectError> {
        let header = sealed
            .first_chunk::<HEADER_LENGTH>()
            .ok_or(ObjectError::Damaged)?;
        let id = key_id(header).ok_or(ObjectError::Damaged)?;
        let nonce: [u8; NONCE_LEN] = header[12..12 + NONCE_LEN]
            .try_into()
            .map_err(|_| ObjectError::Damaged)?;
        let mut wrapped = header[12 + NONCE_LEN..].to_vec();
        let data_key = cipher(keyring.get(&id)?)?
            .open_in_place(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.as_bytes()),
                &mut wrapped,
            )
            .map_err(|_| ObjectError::Damaged)?;
        let data_key: &[u8; 32] = (&*data_key).try_into().map_err(|_| ObjectError::Damaged)?;
        Ok(Self {
            cipher: cipher(data_key)?,
            context: context.as_bytes().to_vec(),
            counter: 0,
        })
    }

    /// Opens the next chunk.
    pub(crate) fn open(&mut self, sealed: &[u8], last: bool) -> Result<Vec<u8>, ObjectError> {
        let mut chunk = sealed.to_vec();
        let length = self
            .cipher
            .open_in_place(
                chunk_nonce(self.counter, last),
                Aad::from(&self.context),
                &mut chunk,
            )
            .map_err(|_| ObjectError::Damaged)?
            .len();
        chunk.truncate(length);
        self.counter += 1;
        Ok(chunk)
    }
}
