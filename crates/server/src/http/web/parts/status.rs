//! Statuses in words: one map from what the model knows to tone, picture and word, without a wildcard, so that a new
//! status cannot be shown as nothing.

use std::borrow::Cow;
use std::fmt;

use terrapool_model::agent_status::AgentStatus;
use terrapool_model::run::{Aftermath, ErrorReason, RunStatus};
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::{FailureReason, Outcome};
use terrapool_store::agents::AgentRecord;
use terrapool_store::runs::RunRecord;

use super::{Escaped, Tone, html, write_icon};

/// A status: tone, picture, word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What its colour means.
    pub tone: Tone,
    /// Its picture.
    pub icon: &'static str,
    /// Its word.
    pub word: Cow<'static, str>,
    /// The API's name for it, shown when the pointer rests on it.
    pub title: Cow<'static, str>,
}

impl Status {
    /// A status that the API has no name for.
    pub fn new(tone: Tone, icon: &'static str, word: impl Into<Cow<'static, str>>) -> Self {
        Self {
            tone,
            icon,
            word: word.into(),
            title: Cow::Borrowed(""),
        }
    }

    /// With a tinted ground.
    pub fn pill(&self) -> Pill<'_> {
        Pill(self)
    }

    fn class(&self) -> &'static str {
        // Something that moves is in progress.
        if self.icon == "run" { "i spin" } else { "i" }
    }

    /// The picture alone.
    pub fn picture(&self) -> Picture<'_> {
        Picture(self)
    }

    fn write(&self, out: &mut fmt::Formatter<'_>, pill: &str) -> fmt::Result {
        write!(out, r#"<span class="st {}{pill}""#, self.tone)?;
        if !self.title.is_empty() {
            write!(out, r#" title="{}""#, Escaped(&self.title))?;
        }
        out.write_str(">")?;
        write_icon(out, self.icon, self.class())?;
        write!(out, "{}</span>", Escaped(&self.word))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(out, "")
    }
}

/// A status with a tinted ground.
#[derive(Debug, Clone, Copy)]
pub struct Pill<'a>(&'a Status);

impl fmt::Display for Pill<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(out, " pill")
    }
}

/// A status' picture alone.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a>(&'a Status);

impl fmt::Display for Picture<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_icon(out, self.0.icon, self.0.class())
    }
}

/// Why something waits, in a word.
pub fn of_wait(reason: &terrapool_model::wait::WaitReason) -> Status {
    use terrapool_model::wait::WaitReason;
    let (tone, icon, word) = match reason {
        WaitReason::Paused => (Tone::Warn, "stop", "Paused"),
        WaitReason::NoAgent { .. }
        | WaitReason::RootRefused { .. }
        | WaitReason::TooLarge { .. }
        | WaitReason::NotAllowed => (Tone::Bad, "warn", "Stalled"),
        WaitReason::Draining { .. } | WaitReason::NoMemory { .. } | WaitReason::NoSlot { .. } => {
            (Tone::Warn, "clock", "Waiting for capacity")
        }
        WaitReason::Ahead { .. } | WaitReason::Next => (Tone::Mute, "clock", "Queued"),
        WaitReason::BehindRun { .. } | WaitReason::Scheduling => (Tone::Mute, "pend", "Pending"),
        WaitReason::LockedByUser { .. } | WaitReason::Quarantined { .. } => (Tone::Warn, "lock", "Locked"),
    };
    Status::new(tone, icon, word)
}

html!(Status, Pill<'_>, Picture<'_>);

const OUT_OF_MEMORY: &str = "Out of memory";

/// Words in the runner's messages that tell why a sandbox ended: a run keeps the message only.
fn cause_of_failure(message: &str) -> Option<(&'static str, &'static str)> {
    let message = message.to_lowercase();
    let has = |text: &str| message.contains(text);
    if has("mib of memory") {
        Some(("mem", OUT_OF_MEMORY))
    } else if has("no contact with the control plane") {
        Some(("lost", "Lost contact"))
    } else if has("mib of disk") || has("no space left") {
        Some(("bad", "Disk full"))
    } else if has("it took longer than") || has("it printed nothing for") {
        Some(("clock", "Timed out"))
    } else {
        None
    }
}

fn errored(run: &RunRecord) -> (Tone, &'static str, &'static str) {
    let message = run.error_message.as_deref().unwrap_or_default();
    match run.error_reason {
        Some(ErrorReason::AgentLost) => (Tone::Bad, "lost", "Agent lost"),
        Some(ErrorReason::EngineLost) => (Tone::Bad, "lost", "Engine vanished"),
        Some(ErrorReason::NotStarted) => (Tone::Bad, "bad", "Never started"),
        Some(ErrorReason::Restored) => (Tone::Bad, "undo", "Restored from backup"),
        Some(ErrorReason::Failed) | None => match cause_of_failure(message) {
            Some((icon, word)) => (Tone::Bad, icon, word),
            None => (Tone::Bad, "bad", "Errored"),
        },
    }
}

/// Whether a run is errored because its memory was not enough.
pub fn is_out_of_memory(run: &RunRecord) -> bool {
    run.status == RunStatus::Errored && cause(run) == OUT_OF_MEMORY
}

/// What was learnt of a run after its end.
fn after(aftermath: Aftermath) -> Option<(Tone, &'static str, &'static str)> {
    match aftermath {
        Aftermath::None => None,
        Aftermath::Delivered => Some((Tone::Warn, "down", "Delivered later")),
        Aftermath::Overridden => Some((Tone::Warn, "warn", "Overridden")),
    }
}

/// Why a run is errored, in a word; what was learnt afterwards does not change it.
pub fn cause(run: &RunRecord) -> &'static str {
    errored(run).2
}

/// A run's status as people read it.
pub fn of_run(run: &RunRecord) -> Status {
    let canceling = run.cancel_asked_at.is_some() && !run.status.is_terminal();
    let (tone, icon, word) = match run.status {
        _ if canceling => (Tone::Warn, "stop", "Canceling"),
        RunStatus::Pending => (Tone::Mute, "pend", "Pending"),
        RunStatus::PlanQueued | RunStatus::ApplyQueued => (Tone::Mute, "clock", "Queued"),
        RunStatus::Planning => (Tone::Live, "run", "Planning"),
        RunStatus::Applying => (Tone::Live, "run", "Applying"),
        RunStatus::Planned => (Tone::Ask, "ask", "Needs confirmation"),
        RunStatus::PlannedAndSaved => (Tone::Ask, "ask", "Saved plan"),
        RunStatus::PlannedAndFinished if run.plan_only && run.has_changes == Some(true) => {
            (Tone::Good, "read", "Planned (speculative)")
        }
        RunStatus::PlannedAndFinished => (Tone::Good, "ok", "No changes"),
        RunStatus::Applied => (Tone::Good, "ok", "Applied"),
        RunStatus::Discarded => (Tone::Mute, "discard", "Discarded"),
        RunStatus::Errored => after(run.aftermath).unwrap_or_else(|| errored(run)),
        RunStatus::Canceled => (Tone::Mute, "stop", "Canceled"),
        RunStatus::ForceCanceled => after(run.aftermath).unwrap_or((Tone::Warn, "stop", "Given up")),
        RunStatus::PolicySoftFailed => (Tone::Bad, "bad", "Refused by policy"),
    };
    Status {
        title: Cow::Borrowed(run.status.as_str()),
        ..Status::new(tone, icon, word)
    }
}

/// How a job ended, as people read it; `None` for one that was given up.
pub fn of_outcome(outcome: Option<&Outcome>, is_apply: bool) -> Status {
    match outcome {
        Some(Outcome::Succeeded { .. }) if is_apply => Status::new(Tone::Good, "ok", "Applied"),
        Some(Outcome::Succeeded { changes: true }) => Status::new(Tone::Good, "ok", "Planned"),
        Some(Outcome::Succeeded { changes: false }) => Status::new(Tone::Good, "ok", "No changes"),
        Some(Outcome::Failed { reason, message }) => {
            let (icon, word) = match reason {
                FailureReason::OutOfMemory => ("mem", OUT_OF_MEMORY),
                FailureReason::LostContact => ("lost", "Lost contact"),
                FailureReason::Limit
                | FailureReason::Configuration
                | FailureReason::Init
                | FailureReason::Engine
                | FailureReason::Exit
                | FailureReason::PlanMismatch
                | FailureReason::Internal => cause_of_failure(message).unwrap_or(("bad", "Errored")),
            };
            Status::new(Tone::Bad, icon, word)
        }
        Some(Outcome::Canceled) => Status::new(Tone::Mute, "stop", "Canceled"),
        Some(Outcome::NeverStarted { .. }) => Status::new(Tone::Mute, "undo", "Given back"),
        Some(Outcome::EngineLost { .. }) => Status::new(Tone::Bad, "lost", "Engine vanished"),
        None => Status::new(Tone::Bad, "lost", "Agent lost"),
    }
}

/// An agent's status as people read it. `needs_mb` is what a run of its pool needs.
pub fn of_agent(
    agent: &AgentRecord,
    now: Timestamp,
    needs_mb: u64,
    times: &terrapool_model::times::Times,
) -> Status {
    let status = agent.status(now, times);
    let (tone, icon, word) = match status {
        AgentStatus::Idle | AgentStatus::Busy if agent.draining || agent.drain_wanted => {
            (Tone::Warn, "drain", "Draining")
        }
        AgentStatus::Idle if agent.capacity.free_memory_mb < needs_mb => {
            (Tone::Warn, "mem", "No memory free")
        }
        AgentStatus::Idle => (Tone::Good, "idle", "Idle"),
        AgentStatus::Busy => (Tone::Live, "run", "Busy"),
        AgentStatus::Unknown => (Tone::Warn, "warn", "Not heard from"),
        AgentStatus::Errored => (Tone::Bad, "lost", "Lost"),
        AgentStatus::Exited => (Tone::Mute, "stop", "Stopped"),
    };
    Status {
        title: Cow::Borrowed(status.as_str()),
        ..Status::new(tone, icon, word)
    }
}

#[cfg(test)]
mod tests {
    use super::cause_of_failure;

    #[test]
    fn the_cause_of_a_failure_is_read_from_the_words_of_the_runner() {
        let cause = |message| cause_of_failure(message).map(|(_, word)| word);
        for (message, expected) in [
            (
                "The run needed more than its 512 MiB of memory (peak 512 MiB), and the kernel killed a process of it.",
                Some("Out of memory"),
            ),
            (
                "The apply was stopped so that its state could be written: it used 410 MiB, which is 80 % of its 512 MiB \
                 of memory.",
                Some("Out of memory"),
            ),
            (
                "The plan was stopped: it used 10240 MiB of disk, of the 10240 MiB that are allowed.",
                Some("Disk full"),
            ),
            (
                "The plan was stopped: it took longer than the 60 s that are allowed.",
                Some("Timed out"),
            ),
            (
                "The plan was stopped: it printed nothing for the 60 s that are allowed.",
                Some("Timed out"),
            ),
            (
                "The apply was stopped: the agent had no contact with the control plane for longer than allowed.",
                Some("Lost contact"),
            ),
            ("terraform exited with 1", None),
        ] {
            assert_eq!(cause(message), expected, "{message}");
        }
    }
}
