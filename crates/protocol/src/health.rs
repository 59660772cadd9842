//! What an agent finds when it looks at itself and its host.

use serde::{Deserialize, Serialize};

/// A report, sent with every sync. Nothing is decided by it: what an agent can take is its
/// [`Capacity`](crate::agent::Capacity).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Health {
    /// The container engine, or what the native driver needs of the kernel, answers.
    pub driver_answers: bool,
    /// The file system of the agent's data folder; `None`: it cannot be looked at.
    pub disk: Option<Room>,
    /// Memory of the host: what programs could get now, and all there is.
    pub memory: Option<Room>,
    /// Seconds by which the host's clock is ahead of the control plane's; `None`: not known yet.
    pub clock_ahead_seconds: Option<i64>,
    /// Calls to the control plane that were not answered as they should be, since the process started.
    pub failed_calls: u64,
    /// What the last of them met with, as a sentence for people.
    pub last_failure: Option<String>,
    /// What came of the first sandbox with the pool's present settings; `None`: none was made yet.
    pub self_test: Option<SelfTest>,
}

/// What came of a sandbox that was made as the pool wants them, before any job needs one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct SelfTest {
    /// Milliseconds until its runner answered, an image that had to be pulled included.
    pub took_ms: u64,
    /// Why there is none, as a sentence for people. Then what follows says nothing.
    pub failure: Option<String>,
    /// Memory in MiB that it was to be limited to.
    pub wanted_memory_mb: u64,
    /// The limit in MiB that its runner found; `None`: it cannot see one, and `u64::MAX`: there is none.
    pub memory_mb: Option<u64>,
    /// It is connected with the network that the pool wants, or with none where the pool wants none.
    pub connected: bool,
}

/// How much of something is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Room {
    /// Left, in MiB.
    pub free_mb: u64,
    /// In all, in MiB.
    pub total_mb: u64,
}

impl Health {
    /// Longest sentence that is kept, in characters.
    const LONGEST: usize = 300;

    /// The report with no sentence that is longer than anybody reads.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let cut = |text: String| text.chars().take(Self::LONGEST).collect();
        self.last_failure = self.last_failure.map(cut);
        if let Some(test) = &mut self.self_test {
            test.failure = test.failure.take().map(cut);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_older_and_newer_agents_are_read() {
        let read = |text: &str| serde_json::from_str::<Health>(text).unwrap();
        assert_eq!(read("{}"), Health::default());
        let newer = read(r#"{"driver-answers": true, "fans": 3, "disk": {"free-mb": 1, "total-mb": 2}}"#);
        assert!(newer.driver_answers);
        assert_eq!(
            newer.disk,
            Some(Room {
                free_mb: 1,
                total_mb: 2
            })
        );
    }

    #[test]
    fn a_sentence_that_never_ends_is_cut() {
        let endless = Health {
            last_failure: Some("é".repeat(10_000)),
            self_test: Some(SelfTest {
                failure: Some("é".repeat(10_000)),
                ..SelfTest::default()
            }),
            ..Health::default()
        };
        let cut = endless.bounded();
        assert_eq!(cut.last_failure.unwrap().chars().count(), 300);
        assert_eq!(cut.self_test.unwrap().failure.unwrap().chars().count(), 300);
    }
}
