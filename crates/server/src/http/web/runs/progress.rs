//! How far an apply has come with each of its changes, and why we say so.

use std::collections::BTreeMap;

use terrapool_model::job::Phase;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;

use super::load::Loaded;
use super::lost;
use crate::http::web::changes::Action;
use crate::http::web::logs::LogView;
use crate::http::web::logs::progress::{Stage, Step, seconds};
use crate::http::web::parts::Tone;
use crate::http::web::parts::chart::Lane;
use crate::http::web::parts::status::Status;
use crate::http::web::parts::time::Took;

/// Where a change of an apply stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Done,
    Failed,
    Working,
    /// It was begun, and nobody knows how it ended.
    Unknown,
    NotStarted,
}

impl Standing {
    fn status(self) -> Status {
        match self {
            Self::Done => Status::new(Tone::Good, "ok", "Done"),
            Self::Failed => Status::new(Tone::Bad, "bad", "Failed"),
            Self::Working => Status::new(Tone::Live, "run", "Working"),
            Self::Unknown => Status::new(Tone::Bad, "warn", "Unknown"),
            Self::NotStarted => Status::new(Tone::Mute, "pend", "Not started"),
        }
    }
}

/// A resource of an apply.
pub(super) struct Progress {
    pub(super) action: Option<Action>,
    pub(super) address: String,
    pub(super) took: String,
    pub(super) lane: Option<Lane>,
    pub(super) standing: Standing,
    pub(super) status: Status,
    /// Why we say so, of an apply that was lost.
    pub(super) why: Option<String>,
}

/// How many changes stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) all: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    pub(super) working: u64,
    pub(super) unknown: u64,
    pub(super) not_started: u64,
}

impl Tally {
    pub(super) fn of(rows: &[Progress]) -> Self {
        let mut tally = Self::default();
        for row in rows {
            tally.all += 1;
            *match row.standing {
                Standing::Done => &mut tally.done,
                Standing::Failed => &mut tally.failed,
                Standing::Working => &mut tally.working,
                Standing::Unknown => &mut tally.unknown,
                Standing::NotStarted => &mut tally.not_started,
            } += 1;
        }
        tally
    }

    /// "6 done, 3 working, 2 to come"
    pub(super) fn words(&self, active: bool) -> String {
        let to_come = if active { "to come" } else { "not started" };
        [
            (self.done, "done"),
            (self.failed, "failed"),
            (self.working, "working"),
            (self.unknown, "unknown"),
            (self.not_started, to_come),
        ]
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect::<Vec<_>>()
        .join(", ")
    }
}

/// Seconds as the engine counts them: "4 s", "1 min 10 s".
fn whole_seconds(seconds: u64) -> String {
    if seconds < 60 {
        format!("{seconds} s")
    } else {
        Took(Millis::from_seconds(seconds)).to_string()
    }
}

/// How far the apply has come with each change.
pub(super) fn rows(loaded: &Loaded) -> Vec<Progress> {
    let run = &loaded.listed.run;
    let Some(apply) = &loaded.apply_job else {
        return Vec::new();
    };
    if apply.started_at.is_none() {
        return Vec::new();
    }
    let planned: BTreeMap<String, Action> = loaded
        .plan
        .iter()
        .flat_map(|plan| &plan.resources)
        .filter(|change| !matches!(change.action, Action::Move | Action::Import | Action::Forget))
        .map(|change| (change.address(), change.action))
        .collect();
    let steps = loaded.log(Phase::Apply).map_or(&[][..], LogView::steps);
    let is_lost = lost::is_lost(run, Some(apply));
    let standing = |stage: Stage| match stage {
        Stage::Done => Standing::Done,
        Stage::Failed => Standing::Failed,
        Stage::Working if run.status == RunStatus::Applied => Standing::Done,
        Stage::Working if run.status.is_terminal() => Standing::Unknown,
        Stage::Working => Standing::Working,
    };
    let longest = steps.iter().filter_map(|step| seconds(&step.took)).max();
    let row = |step: &Step| {
        let (standing, action) = (standing(step.stage), planned.get(&step.address).copied());
        let status = standing.status();
        let took = seconds(&step.took);
        let why = || {
            let in_state = loaded
                .document
                .as_ref()
                .map(|(serial, document)| (*serial, document.has(&step.address)));
            why(standing, action, took, in_state)
        };
        Progress {
            action,
            address: step.address.clone(),
            took: took.map_or_else(|| "—".to_owned(), whole_seconds),
            lane: longest.filter(|_| !is_lost).map(|longest| Lane {
                part: took.unwrap_or(0),
                whole: longest,
                tone: status.tone,
            }),
            standing,
            status,
            why: is_lost.then(why),
        }
    };
    let mut rows: Vec<Progress> = steps.iter().map(row).collect();
    for (address, action) in &planned {
        let begun = steps.iter().any(|step| step.address == *address);
        if !begun && !matches!(action, Action::Read) {
            rows.push(Progress {
                action: Some(*action),
                address: address.clone(),
                took: "—".to_owned(),
                lane: None,
                standing: Standing::NotStarted,
                status: Standing::NotStarted.status(),
                why: is_lost.then(String::new),
            });
        }
    }
    rows
}

fn longest_step(loaded: &Loaded) -> Option<(u64, &Step)> {
    let steps = loaded.log(Phase::Apply).map_or(&[][..], LogView::steps);
    steps
        .iter()
        .filter_map(|step| Some((seconds(&step.took)?, step)))
        .max_by_key(|(seconds, _)| *seconds)
}

/// The change that took longest so far and its time, in words; `None` while the engine has named no time.
pub(super) fn longest(loaded: &Loaded) -> Option<String> {
    let (seconds, step) = longest_step(loaded)?;
    Some(format!("{}, {}", step.address, whole_seconds(seconds)))
}

/// The longest time of a change.
pub(super) fn longest_time(loaded: &Loaded) -> Option<String> {
    longest_step(loaded).map(|(seconds, _)| whole_seconds(seconds))
}

/// Why we say of a change of a lost apply what we say. `in_state` is the serial of the newest state of the apply, and
/// whether the resource is in it.
fn why(
    standing: Standing,
    action: Option<Action>,
    took: Option<u64>,
    in_state: Option<(Option<u64>, bool)>,
) -> String {
    let serial = |serial: Option<u64>| {
        serial.map_or_else(|| "the newest".to_owned(), |serial| format!("serial {serial}"))
    };
    let is_gone_when_done = action == Some(Action::Destroy);
    match (standing, in_state) {
        (Standing::Done, Some((number, true))) if !is_gone_when_done => {
            format!("in the state, {}", serial(number))
        }
        (Standing::Done, Some((number, false))) if is_gone_when_done => {
            format!("gone from the state, {}", serial(number))
        }
        (Standing::Done, _) => "the engine said so in the log".to_owned(),
        (Standing::Failed, _) => "the engine said so in the log, and why".to_owned(),
        (Standing::Unknown | Standing::Working, _) => {
            let what = match action {
                Some(Action::Destroy) => "destroyed",
                Some(Action::Replace { .. }) => "replaced",
                Some(Action::Create) => "created",
                Some(_) | None => "changed",
            };
            let time = took.map_or_else(String::new, |took| format!(" for {}", whole_seconds(took)));
            format!("was being {what}{time}, and no end was heard. The provider may have finished it")
        }
        (Standing::NotStarted, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_change_of_a_lost_apply_has_its_reason() {
        let state = |has| Some((Some(44), has));
        for (standing, action, took, in_state, expected) in [
            (
                Standing::Done,
                Action::Create,
                Some(3),
                state(true),
                "in the state, serial 44",
            ),
            (
                Standing::Done,
                Action::Create,
                Some(3),
                state(false),
                "the engine said so in the log",
            ),
            (
                Standing::Done,
                Action::Update,
                None,
                None,
                "the engine said so in the log",
            ),
            (
                Standing::Done,
                Action::Destroy,
                None,
                state(false),
                "gone from the state, serial 44",
            ),
            (
                Standing::Done,
                Action::Destroy,
                None,
                state(true),
                "the engine said so in the log",
            ),
            (
                Standing::Unknown,
                Action::Update,
                Some(119),
                state(true),
                "was being changed for 1 min 59 s, and no end was heard. The provider may have finished it",
            ),
            (
                Standing::Unknown,
                Action::Create,
                None,
                None,
                "was being created, and no end was heard. The provider may have finished it",
            ),
            (Standing::NotStarted, Action::Create, None, state(false), ""),
        ] {
            assert_eq!(why(standing, Some(action), took, in_state), expected);
        }
    }
}
