//! Images of sandboxes, named so that nobody can put another one in their place.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An image that is named by its content: `registry.example.com/team/image@sha256:…`, or `sha256:…` for one that the
/// container engine has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PinnedImage(String);

/// A text that does not name an image by its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` does not name an image by its content: write `registry.example.com/team/image@sha256:` and the digest, \
     or `sha256:` and the id of an image that the agents' container engines have"
)]
pub struct NotPinned {
    /// What was found.
    pub found: String,
}

/// Longest name in bytes.
const LONGEST: usize = 512;

impl FromStr for PinnedImage {
    type Err = NotPinned;

    fn from_str(text: &str) -> Result<Self, NotPinned> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (Some(name), digest),
            None => (None, text),
        };
        let is_digest = digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
        let is_name = name.is_none_or(|name| {
            !name.is_empty()
                && name.bytes().all(plain)
                && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        });
        if text.len() <= LONGEST && is_digest && is_name {
            return Ok(Self(text.to_owned()));
        }
        Err(NotPinned {
            found: text.chars().take(100).collect(),
        })
    }
}

impl TryFrom<String> for PinnedImage {
    type Error = NotPinned;
    fn try_from(text: String) -> Result<Self, NotPinned> {
        text.parse()
    }
}

impl From<PinnedImage> for String {
    fn from(image: PinnedImage) -> Self {
        image.0
    }
}

impl PinnedImage {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::PinnedImage;

    #[test]
    fn only_names_with_a_digest_are_taken() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for text in [
            digest.clone(),
            format!("debian@{digest}"),
            format!("registry.example.com:5000/team/image:1.2@{digest}"),
        ] {
            assert!(text.parse::<PinnedImage>().is_ok(), "{text}");
        }
        for text in [
            String::new(),
            "debian".to_owned(),
            "debian:12".to_owned(),
            "debian@sha256:1234".to_owned(),
            format!("@{digest}"),
            format!("-v@{digest}"),
            format!("a b@{digest}"),
            format!("debian@{}", digest.to_uppercase()),
        ] {
            assert!(text.parse::<PinnedImage>().is_err(), "{text}");
        }
    }
}
