//! Tokens: random, prefixed by kind, hashed at rest.

use sha2::{Digest as _, Sha256};
use terrapool_protocol::secret::Secret;
use terrapool_store::db::Entropy;

/// What a token is for. The prefix lets people and secret scanners tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Of a user.
    User,
    /// Of an organization.
    Organization,
    /// Of an agent pool: registers agents.
    Agent,
    /// Of a registered agent process.
    Session,
    /// Of one attempt at one job.
    Job,
    /// Of a browser that is signed in: the cookie.
    Browser,
}

impl TokenKind {
    /// What every token of this kind starts with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::User => "tpu_",
            Self::Organization => "tpo_",
            Self::Agent => "tpa_",
            Self::Session => "tps_",
            Self::Job => "tpj_",
            Self::Browser => "tpb_",
        }
    }

    /// The kind that a text claims to be.
    pub fn of(text: &str) -> Option<Self> {
        [
            Self::User,
            Self::Organization,
            Self::Agent,
            Self::Session,
            Self::Job,
            Self::Browser,
        ]
        .into_iter()
        .find(|kind| text.starts_with(kind.prefix()))
    }
}

/// A new token (256 random bits). Only its hash is stored.
pub fn new_token(kind: TokenKind, entropy: &dyn Entropy) -> Secret {
    const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let characters = (0..3).flat_map(|_| entropy.draw()).take(44);
    // Six of 8 bits are worth 5.95: 44 characters carry more than 256 bits.
    let text: String = characters
        .map(|byte| char::from(ALPHABET[usize::from(byte) % 62]))
        .collect();
    Secret::new(format!("{}{text}", kind.prefix()))
}

/// What is stored of a token.
pub fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
