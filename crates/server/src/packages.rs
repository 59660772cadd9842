//! The packages that this server offers to agents' hosts, and who has fetched one.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use terrapool_model::id::AgentPoolId;
use terrapool_model::time::Timestamp;

/// A kind of processor that packages are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Of Intel and AMD, 64 bits.
    Amd64,
    /// Of ARM, 64 bits.
    Arm64,
}

impl Architecture {
    /// The one that this server runs on comes first.
    const ALL: [Self; 2] = if cfg!(target_arch = "aarch64") {
        [Self::Arm64, Self::Amd64]
    } else {
        [Self::Amd64, Self::Arm64]
    };

    /// As Debian and container images call it.
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As rpm and `uname -m` call it.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }
}

/// File names in the packages folder, the newest of each kind for an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// For hosts with this one.
    pub architecture: Architecture,
    /// For Debian and Ubuntu.
    pub deb: Option<String>,
    /// For RHEL, CentOS, Fedora and Amazon Linux.
    pub rpm: Option<String>,
    /// A container image, in the format of `docker save`.
    pub image: Option<String>,
    /// The program and what it needs beside it, for hosts without a package manager of ours.
    pub tarball: Option<String>,
}

/// How the names of the agent's images begin.
const IMAGE_BEGIN: &str = "terrapool-agent-";

/// How they end.
fn image_end(architecture: Architecture) -> String {
    format!("-linux-{}.image.tar", architecture.name())
}

impl Offered {
    /// What a folder has, for each architecture that it has anything for; nothing where there is no folder.
    pub fn find(folder: Option<&Path>) -> Vec<Self> {
        let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
        let names = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        Self::among(&names.collect::<Vec<_>>())
    }

    /// Nothing, for hosts like the server's own.
    pub fn nothing() -> Self {
        Self {
            architecture: Architecture::ALL[0],
            deb: None,
            rpm: None,
            image: None,
            tarball: None,
        }
    }

    fn among(names: &[String]) -> Vec<Self> {
        let found = Architecture::ALL.map(|architecture| {
            let (name, machine) = (architecture.name(), architecture.machine());
            Self {
                architecture,
                deb: newest(names, "terrapool-agent_", &format!("_{name}.deb")),
                rpm: newest(names, "terrapool-agent-", &format!(".{machine}.rpm")),
                image: newest(names, IMAGE_BEGIN, &image_end(architecture)),
                tarball: newest(names, "terrapool-agent-", &format!("-linux-{name}.tar.gz")),
            }
        });
        found.into_iter().filter(|offered| !offered.is_empty()).collect()
    }

    fn is_empty(&self) -> bool {
        let kinds = [&self.deb, &self.rpm, &self.image, &self.tarball];
        kinds.into_iter().all(Option::is_none)
    }

    /// The tag that the image has once it is loaded.
    pub fn image_tag(&self) -> Option<String> {
        let version = self
            .image
            .as_deref()?
            .strip_prefix(IMAGE_BEGIN)?
            .strip_suffix(&image_end(self.architecture))?;
        Some(format!("terrapool/terrapool-agent:{version}"))
    }
}

/// The name with the newest version between this beginning and this end.
fn newest(names: &[String], begin: &str, end: &str) -> Option<String> {
    let version = |name: &String| Some(name.strip_prefix(begin)?.strip_suffix(end)?.to_owned());
    let found = names.iter().filter_map(|name| Some((version(name)?, name)));
    let newest = found.max_by(|(one, _), (other, _)| by_version(one, other));
    newest.map(|(_, name)| name.clone())
}

/// Compares versions as package managers do: numbers by their value, and what `~` begins comes before what it follows.
fn by_version(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    while !one.is_empty() || !other.is_empty() {
        let (words, numbers);
        (words, one, other) = each(one, other, |letter| !letter.is_ascii_digit());
        let order = words
            .0
            .bytes()
            .map(rank)
            .chain([END])
            .cmp(words.1.bytes().map(rank).chain([END]));
        (numbers, one, other) = each(one, other, |letter| letter.is_ascii_digit());
        let (left, right) = (
            numbers.0.trim_start_matches('0'),
            numbers.1.trim_start_matches('0'),
        );
        let order = order.then(left.len().cmp(&right.len())).then(left.cmp(right));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Where a word ends.
const END: u16 = 1;

/// `~` comes before the end, letters after it, and everything else after them.
fn rank(byte: u8) -> u16 {
    match byte {
        b'~' => 0,
        letter if letter.is_ascii_alphabetic() => u16::from(letter),
        other => 0x100 + u16::from(other),
    }
}

/// Splits both texts after the letters of a kind that they begin with: those, and both rests.
fn each<'a>(
    one: &'a str,
    other: &'a str,
    kind: impl Fn(char) -> bool,
) -> ((&'a str, &'a str), &'a str, &'a str) {
    let split = |text: &'a str| text.split_at(text.find(|letter| !kind(letter)).unwrap_or(text.len()));
    let ((begin, rest), (other_begin, other_rest)) = (split(one), split(other));
    ((begin, other_begin), rest, other_rest)
}

/// A package that was fetched with a pool's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Which.
    pub file: String,
    /// When.
    pub at: Timestamp,
}

/// The last fetch for each pool, in memory: it is shown while an agent is being connected, and nothing depends on it.
#[derive(Debug, Clone, Default)]
pub struct Fetches {
    last: Arc<Mutex<HashMap<AgentPoolId, Fetch>>>,
}

/// Anybody can name pools when fetching: more than this many are not remembered.
const MOST: usize = 1000;

impl Fetches {
    /// Remembers a fetch.
    pub fn note(&self, pool: AgentPoolId, fetch: Fetch) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MOST && !last.contains_key(&pool) {
            let oldest = last
                .iter()
                .min_by_key(|(_, fetch)| fetch.at)
                .map(|(pool, _)| pool.clone());
            oldest.and_then(|pool| last.remove(&pool));
        }
        last.insert(pool, fetch);
    }

    /// The last one for a pool.
    pub fn last(&self, pool: &AgentPoolId) -> Option<Fetch> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(pool).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_each_kind_is_offered_for_each_architecture_that_has_any() {
        let names = [
            "SHA256SUMS",
            "terrapool-agent_0.9.0-1_amd64.deb",
            "terrapool-agent_0.10.0-1_amd64.deb",
            "terrapool-agent_0.10.0~rc2-1_amd64.deb",
            "terrapool-agent_0.11.0-1_arm64.deb",
            "terrapool_0.12.0-1_amd64.deb",
            "terrapool-agent-0.9.0-1.x86_64.rpm",
            "terrapool-agent-0.10.0-1.x86_64.rpm",
            "terrapool-agent-0.11.0-1.aarch64.rpm",
            "terrapool-agent-0.2.0-linux-amd64.image.tar",
            "terrapool-agent-0.11.0-linux-arm64.image.tar",
            "terrapool-agent-0.11.0-linux-arm64.tar.gz",
        ]
        .map(str::to_owned);
        let of = |architecture: Architecture| {
            let offered = Offered::among(&names);
            let mut fitting = offered.into_iter().filter(|of| of.architecture == architecture);
            fitting.next().unwrap()
        };
        let amd64 = of(Architecture::Amd64);
        assert_eq!(amd64.deb.as_deref(), Some("terrapool-agent_0.10.0-1_amd64.deb"));
        assert_eq!(amd64.rpm.as_deref(), Some("terrapool-agent-0.10.0-1.x86_64.rpm"));
        assert_eq!(
            amd64.image_tag().as_deref(),
            Some("terrapool/terrapool-agent:0.2.0")
        );
        assert_eq!(amd64.tarball, None);
        let arm64 = of(Architecture::Arm64);
        assert_eq!(arm64.deb.as_deref(), Some("terrapool-agent_0.11.0-1_arm64.deb"));
        assert_eq!(arm64.rpm.as_deref(), Some("terrapool-agent-0.11.0-1.aarch64.rpm"));
        assert_eq!(
            arm64.image_tag().as_deref(),
            Some("terrapool/terrapool-agent:0.11.0")
        );
        assert_eq!(
            arm64.tarball.as_deref(),
            Some("terrapool-agent-0.11.0-linux-arm64.tar.gz")
        );

        let only: Vec<String> = names
            .iter()
            .filter(|name| name.contains("arm64"))
            .cloned()
            .collect();
        assert_eq!(Offered::among(&only).len(), 1);
        assert!(Offered::find(None).is_empty());
    }

    #[test]
    fn versions_are_in_the_order_that_package_managers_have_them_in() {
        let ordered = [
            "0.9.0~rc1-1",
            "0.9.0-1",
            "0.9.0-2",
            "0.9.0-10",
            "0.9.1-1",
            "0.10.0~beta-1",
            "0.10.0-1",
            "1.0-1",
            "1.0.1-1",
            "18446744073709551616.0-1",
        ];
        for (place, one) in ordered.iter().enumerate() {
            for (other_place, other) in ordered.iter().enumerate() {
                assert_eq!(
                    by_version(one, other),
                    place.cmp(&other_place),
                    "{one} and {other}"
                );
            }
        }
        assert_eq!(by_version("0.09", "0.9"), Ordering::Equal);
    }

    #[test]
    fn what_is_remembered_does_not_grow_for_ever() {
        let fetches = Fetches::default();
        let pool = |number: usize| -> AgentPoolId { format!("apool-{number:016}").parse().unwrap() };
        for number in 0..=MOST {
            let at = Timestamp(i64::try_from(number).unwrap());
            fetches.note(
                pool(number),
                Fetch {
                    file: "f".to_owned(),
                    at,
                },
            );
        }
        assert_eq!(fetches.last(&pool(0)), None);
        assert!(fetches.last(&pool(MOST)).is_some());
    }
}
