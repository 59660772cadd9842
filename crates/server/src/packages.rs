//! The packages that this server offers to agents' hosts, and who has fetched one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use terrapool_model::id::AgentPoolId;
use terrapool_model::time::Timestamp;

/// File names in the packages folder, the newest of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offered {
    /// For Debian and Ubuntu.
    pub deb: Option<String>,
    /// For RHEL, CentOS, Fedora and Amazon Linux.
    pub rpm: Option<String>,
    /// A container image, in the format of `docker save`.
    pub image: Option<String>,
    /// The program and what it needs beside it, for hosts without a package manager of ours.
    pub tarball: Option<String>,
}

/// How the names of the agent's images end.
const IMAGE_END: &str = "-linux-amd64.image.tar";
const IMAGE_BEGIN: &str = "terrapool-agent-";

impl Offered {
    /// What a folder has; nothing where there is none.
    pub fn find(folder: Option<&Path>) -> Self {
        let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
        let names = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        Self::among(&names.collect::<Vec<_>>())
    }

    fn among(names: &[String]) -> Self {
        let newest = |begin: &str, end: &str| {
            let fits = |name: &&String| name.starts_with(begin) && name.ends_with(end);
            names.iter().filter(fits).max().cloned()
        };
        Self {
            deb: newest("terrapool-agent_", "_amd64.deb"),
            rpm: newest("terrapool-agent-", ".x86_64.rpm"),
            image: newest(IMAGE_BEGIN, IMAGE_END),
            tarball: newest("terrapool-agent-", "-linux-amd64.tar.gz"),
        }
    }

    /// Whether there is anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The tag that the image has once it is loaded.
    pub fn image_tag(&self) -> Option<String> {
        let version = self
            .image
            .as_deref()?
            .strip_prefix(IMAGE_BEGIN)?
            .strip_suffix(IMAGE_END)?;
        Some(format!("terrapool/terrapool-agent:{version}"))
    }
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
    fn the_newest_package_of_each_kind_is_offered() {
        let names = [
            "SHA256SUMS",
            "terrapool-agent_0.1.0-1_amd64.deb",
            "terrapool-agent_0.2.0-1_amd64.deb",
            "terrapool-agent_0.3.0-1_arm64.deb",
            "terrapool_0.9.0-1_amd64.deb",
            "terrapool-agent-0.2.0-1.x86_64.rpm",
            "terrapool-agent-0.2.0-linux-amd64.image.tar",
        ];
        let offered = Offered::among(&names.map(str::to_owned));
        assert_eq!(offered.deb.as_deref(), Some("terrapool-agent_0.2.0-1_amd64.deb"));
        assert_eq!(offered.rpm.as_deref(), Some("terrapool-agent-0.2.0-1.x86_64.rpm"));
        assert_eq!(
            offered.image_tag().as_deref(),
            Some("terrapool/terrapool-agent:0.2.0")
        );
        assert!(Offered::find(None).is_empty());
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
