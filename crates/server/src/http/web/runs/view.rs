//! What the page of a run shows, decided from what was read.

use std::collections::BTreeMap;

use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;

use super::curve::{self, Memory};
use super::facts::{self, Fact};
use super::load::Loaded;
use super::log;
use super::lost::{self, Lost};
use super::memory::{self, Shortage};
use super::progress::{self, Progress, Tally};
use super::story::{self, Entry, Step, source_icon, source_words};
use super::verdict::{self, Verdict};
use crate::http::web::changes::{self, Action, Module};
use crate::http::web::logs::diagnostics::Diagnostic;
use crate::http::web::paging::Paging;
use crate::http::web::parts::chart::Meter;
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::{Ago, Took};
use crate::http::web::parts::words;
use crate::http::web::workspaces::{Output, outputs};

/// Changes up to which a plan is shown at once; of a longer one, [`PAGE`] at a time.
const MOST_SHOWN: usize = 2000;

/// Changes of a page of a long plan.
const PAGE: u32 = 200;

/// Addresses that the confirmation names; more are counted.
const MOST_NAMED: usize = 12;

/// The page of a run.
pub(super) struct RunView {
    pub(super) id: String,
    pub(super) base: String,
    pub(super) title: String,
    pub(super) workspace: String,
    pub(super) workspace_address: String,
    pub(super) icon: &'static str,
    pub(super) who: String,
    pub(super) from: &'static str,
    pub(super) created: Ago,
    pub(super) status: Status,
    pub(super) verdict: Verdict,
    pub(super) buttons: Buttons,
    pub(super) steps: Vec<Step>,
    pub(super) changes: Changes,
    pub(super) lost: Option<Lost>,
    pub(super) faults: Vec<Fault>,
    /// The outputs as the run's state has them, and its serial.
    pub(super) outputs: Option<(Vec<Output>, String)>,
    pub(super) shortage: Option<Shortage>,
    /// The pool's settings, where the visitor sees them.
    pub(super) pool_settings: Option<String>,
    pub(super) logs: Vec<log::Panel>,
    pub(super) facts: Vec<Fact>,
    pub(super) memory: Option<(String, Meter)>,
    /// The memory of the newest phase over time.
    pub(super) curve: Option<Memory>,
    /// It says why the run ended: the first thing on the page.
    pub(super) curve_first: bool,
    pub(super) behind: Vec<(String, String, Ago)>,
    pub(super) timeline: Vec<Entry>,
    pub(super) active: bool,
    /// The log says more than the changes now.
    pub(super) logs_first: bool,
}

/// An error that the engine told.
pub(super) struct Fault {
    pub(super) diagnostic: Diagnostic,
    /// The line of the log that begins it, and its address.
    pub(super) line: usize,
    pub(super) link: String,
}

/// What may be done now.
pub(super) struct Buttons {
    pub(super) confirm: Offer,
    pub(super) discard: Offer,
    pub(super) cancel: Offer,
    /// Why something is not for the visitor.
    pub(super) may_not: Option<String>,
    pub(super) force: bool,
    pub(super) retry: bool,
    /// What an apply destroys; the confirmation names it.
    pub(super) destroyed: Vec<String>,
    pub(super) destroyed_more: usize,
    pub(super) destroyed_count: u64,
    /// The name has to be typed.
    pub(super) is_destroy: bool,
    pub(super) in_apply: bool,
    /// How long the engine has to stop in good order.
    pub(super) grace: String,
    /// From how long after that on it can be given up.
    pub(super) cool_off: String,
    /// What stopping the apply leaves.
    pub(super) stopping: String,
}

/// Whether something can be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// It cannot.
    Absent,
    /// It can, and the visitor may.
    Open,
    /// It can, by somebody else.
    Closed,
}

impl Offer {
    fn of(can: bool, may: bool) -> Self {
        match (can, may) {
            (false, _) => Self::Absent,
            (true, true) => Self::Open,
            (true, false) => Self::Closed,
        }
    }

    pub(super) fn is_open(self) -> bool {
        self == Self::Open
    }

    pub(super) fn is_closed(self) -> bool {
        self == Self::Closed
    }
}

/// What changes: as it is planned, or as it happens.
pub(super) struct Changes {
    pub(super) heading: &'static str,
    pub(super) modules: Vec<Module>,
    pub(super) outputs: Vec<Module>,
    pub(super) progress: Vec<Progress>,
    pub(super) progress_heading: String,
    pub(super) progress_words: String,
    /// What the whole width of the bars means.
    pub(super) lane: Option<String>,
    pub(super) summary: String,
    pub(super) empty: Option<&'static str>,
    pub(super) chips: Vec<(String, &'static str, &'static str, u64, bool)>,
    /// Where in a plan of more than can be shown at once.
    pub(super) paging: Option<Paging>,
    pub(super) open: bool,
}

/// Which of the plan's changes are shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub(super) action: String,
    pub(super) text: String,
    /// The page of a long plan, from 1.
    pub(super) page: u32,
}

/// Decides what is shown.
pub(super) fn view(loaded: &Loaded, filter: &Filter, logs: Vec<log::Panel>) -> RunView {
    let (listed, now) = (&loaded.listed, loaded.now);
    let run = &listed.run;
    let status = loaded
        .reason
        .as_ref()
        .map_or_else(|| status::of_run(run), |(reason, _)| status::of_wait(reason));
    let progress = progress::rows(loaded);
    let tally = Tally::of(&progress);
    let shortage = memory::of(loaded);
    let curve = (loaded.memory.as_ref()).map(|memory| curve::of(memory, shortage.is_some()));
    RunView {
        id: run.id.to_string(),
        base: loaded.base.clone(),
        title: if run.message.trim().is_empty() {
            run.id.to_string()
        } else {
            run.message.clone()
        },
        workspace: listed.workspace.clone(),
        workspace_address: format!("/app/{}/workspaces/{}", loaded.organization, listed.workspace),
        icon: source_icon(&run.source),
        who: listed.who().to_owned(),
        from: source_words(&run.source),
        created: Ago::new(run.created_at, now),
        verdict: verdict::verdict(loaded, &status, &progress),
        status,
        buttons: buttons(loaded, tally),
        steps: story::steps(loaded),
        changes: changes_of(loaded, filter, progress),
        lost: lost::lost(loaded),
        outputs: outputs_of(loaded),
        curve_first: shortage.is_some() && curve.is_some(),
        curve,
        shortage,
        pool_settings: facts::pool_address(loaded).map(|address| format!("{address}/settings")),
        faults: loaded
            .diagnostics
            .iter()
            .map(|(phase, line, diagnostic)| Fault {
                diagnostic: diagnostic.clone(),
                line: *line,
                link: log::link(loaded, *phase, *line),
            })
            .collect(),
        logs,
        facts: facts::of(loaded),
        memory: facts::memory(loaded),
        behind: loaded
            .behind
            .iter()
            .map(|waiting| {
                let address = format!(
                    "/app/{}/workspaces/{}/runs/{}",
                    loaded.organization, waiting.workspace, waiting.run.id
                );
                (
                    address,
                    waiting.run.message.clone(),
                    Ago::new(waiting.run.created_at, now),
                )
            })
            .collect(),
        timeline: story::timeline(loaded),
        logs_first: matches!(
            run.status,
            RunStatus::PlanQueued | RunStatus::Planning | RunStatus::Canceled
        ) || (run.status == RunStatus::Errored
            && (loaded.apply_job.is_none() || !loaded.diagnostics.is_empty())
            && !lost::is_lost(run, loaded.apply_job.as_ref())),
        active: !run.status.is_terminal() || loaded.quarantine().is_some(),
    }
}

/// The outputs after an apply, from its state: the plan did not know all of them.
fn outputs_of(loaded: &Loaded) -> Option<(Vec<Output>, String)> {
    let (serial, document) = loaded.document.as_ref()?;
    if loaded.listed.run.status != RunStatus::Applied || !loaded.rights.read_outputs {
        return None;
    }
    let outputs = outputs(document);
    let serial = serial.map_or_else(String::new, |serial| format!("state serial {serial}"));
    (!outputs.is_empty()).then_some((outputs, serial))
}

fn buttons(loaded: &Loaded, tally: Tally) -> Buttons {
    let run = &loaded.listed.run;
    let (actions, rights) = (run.actions(loaded.now), loaded.rights);
    let destroyed: Vec<String> = loaded
        .plan
        .iter()
        .flat_map(|plan| &plan.resources)
        .filter(|change| change.action.destroys())
        .map(changes::Change::address)
        .collect();
    let count = run.plan_counts.map_or(0, |counts| counts.destroy);
    let may_cancel = if run.plan_only { rights.queue } else { rights.apply };
    let confirm = Offer::of(actions.is_confirmable, rights.apply);
    let discard = Offer::of(actions.is_discardable, rights.apply);
    let cancel = Offer::of(actions.is_cancelable, may_cancel);
    Buttons {
        may_not: may_not(run.plan_only, confirm, discard, cancel),
        confirm,
        discard,
        cancel,
        force: actions.is_force_cancelable && rights.force_cancel,
        retry: run.status.is_terminal() && rights.queue,
        destroyed_more: destroyed.len().saturating_sub(MOST_NAMED),
        destroyed: destroyed.into_iter().take(MOST_NAMED).collect(),
        destroyed_count: count,
        is_destroy: run.is_destroy && count > 0,
        in_apply: run.status == RunStatus::Applying,
        grace: whole_minutes(loaded.grace()),
        cool_off: whole_minutes(loaded.times.cool_off),
        stopping: stopping(tally),
    }
}

/// Who may do what the visitor may not.
fn may_not(plan_only: bool, confirm: Offer, discard: Offer, cancel: Offer) -> Option<String> {
    let closed: Vec<&str> = [(confirm, "confirm"), (discard, "discard"), (cancel, "stop")]
        .into_iter()
        .filter(|(offer, _)| offer.is_closed())
        .map(|(_, word)| word)
        .collect();
    let (last, others) = closed.split_last()?;
    let what = if others.is_empty() {
        (*last).to_owned()
    } else {
        format!("{} or {last}", others.join(", "))
    };
    let role = if plan_only { "plan" } else { "write" };
    Some(format!(
        "To {what} it takes the role {role}, or more, in this workspace or its project."
    ))
}

/// A time that somebody has set: "10 minutes", or as exact as it is.
fn whole_minutes(time: Millis) -> String {
    match time.0 {
        millis if millis >= 60_000 && millis.is_multiple_of(60_000) => {
            words::count(millis / 60_000, "minute", "minutes")
        }
        _ => Took(time).to_string(),
    }
}

/// What stopping an apply leaves: "3 changes in progress finish, 6 stay made, 2 are not made."
fn stopping(tally: Tally) -> String {
    let mut parts = Vec::new();
    if tally.working > 0 {
        let working = words::count(tally.working, "change", "changes");
        let finish = if tally.working == 1 { "finishes" } else { "finish" };
        parts.push(format!("{working} in progress {finish}"));
    }
    for (number, one, many) in [
        (tally.done, "stays made", "stay made"),
        (tally.not_started, "is not made", "are not made"),
    ] {
        if number > 0 {
            parts.push(words::count(number, one, many));
        }
    }
    if parts.is_empty() {
        return String::new();
    }
    format!("{}.", parts.join(", "))
}

fn changes_of(loaded: &Loaded, filter: &Filter, progress: Vec<Progress>) -> Changes {
    let run = &loaded.listed.run;
    let mut shown = Changes {
        heading: "Changes",
        modules: Vec::new(),
        outputs: Vec::new(),
        progress_heading: if lost::is_lost(run, loaded.apply_job.as_ref()) {
            let changes = words::count(progress.len() as u64, "change", "changes");
            format!("What is known of the {changes}")
        } else if run.status.is_terminal() {
            "What was done".to_owned()
        } else {
            "Changes as they happen".to_owned()
        },
        progress_words: Tally::of(&progress).words(!run.status.is_terminal()),
        lane: progress::longest_time(loaded).filter(|_| progress.iter().any(|row| row.lane.is_some())),
        progress,
        summary: String::new(),
        empty: None,
        chips: Vec::new(),
        paging: None,
        open: !run.status.is_terminal() || run.apply_counts.is_none(),
    };
    if !shown.progress.is_empty() {
        shown.heading = "Plan";
        shown.open = false;
    }
    shown.open |= filter.page > 1;
    let Some(plan) = &loaded.plan else {
        shown.empty = Some(match run.status {
            RunStatus::Pending | RunStatus::PlanQueued | RunStatus::Planning => {
                "The changes appear here when the plan is made."
            }
            RunStatus::Planned
            | RunStatus::PlannedAndSaved
            | RunStatus::PlannedAndFinished
            | RunStatus::ApplyQueued
            | RunStatus::Applying
            | RunStatus::Applied => "The plan’s changes can’t be shown here; its log tells them.",
            RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed
                if run.has_changes.is_some() =>
            {
                "The plan’s changes can’t be shown here; its log tells them."
            }
            RunStatus::Discarded
            | RunStatus::Errored
            | RunStatus::Canceled
            | RunStatus::ForceCanceled
            | RunStatus::PolicySoftFailed => "No plan was made.",
        });
        return shown;
    };
    let all: Vec<&changes::Change> = plan.resources.iter().chain(&plan.outside).collect();
    let mut by_action: BTreeMap<Action, u64> = BTreeMap::new();
    for change in &all {
        *by_action.entry(change.action).or_default() += 1;
    }
    let path = |action: &str| {
        crate::http::web::paging::with_query(&loaded.base, &[("action", action), ("address", &filter.text)])
    };
    shown
        .chips
        .push((path(""), "", "All", all.len() as u64, filter.action.is_empty()));
    for (action, number) in by_action {
        let (_, icon, _) = action.look();
        let key = action.key();
        match shown.chips.last_mut() {
            // Both orders of a replacement are one filter.
            Some(last) if last.2 == action.chip() => last.3 += number,
            _ => shown
                .chips
                .push((path(key), icon, action.chip(), number, filter.action == key)),
        }
    }
    let text = filter.text.to_lowercase();
    let fits = |change: &&changes::Change| {
        (filter.action.is_empty() || change.action.key() == filter.action)
            && (text.is_empty() || change.address().to_lowercase().contains(&text))
    };
    let mut fitting: Vec<changes::Change> = all.into_iter().filter(fits).cloned().collect();
    if fitting.is_empty() && plan.outputs.is_empty() {
        shown.empty = Some(if filter.action.is_empty() && text.is_empty() {
            "No resource changes."
        } else {
            "No change fits this filter."
        });
    }
    if fitting.len() > MOST_SHOWN {
        let filters = [("action", filter.action.as_str()), ("address", &filter.text)];
        let paging = Paging::numbered(filter.page, PAGE, &loaded.base, &filters, "in the order below")
            .of(fitting.len() as u64);
        fitting = changes::in_order(fitting)
            .into_iter()
            .skip(usize::try_from(paging.page.offset()).unwrap_or(0))
            .take(PAGE as usize)
            .collect();
        shown.paging = Some(paging);
    }
    shown.modules = changes::by_module(fitting);
    if filter.action.is_empty() && text.is_empty() {
        shown.outputs = changes::by_module(plan.outputs.clone());
        for module in &mut shown.outputs {
            "Outputs".clone_into(&mut module.name);
            module.open = shown.modules.is_empty();
        }
    }
    shown.summary = format!(
        "{} in the state. Within a module: destroy, replace, create, change; then by address.",
        words::count(loaded.workspace.resource_count, "resource", "resources")
    );
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stopping_an_apply_leaves_is_counted() {
        let tally = Tally {
            all: 11,
            done: 6,
            working: 3,
            not_started: 2,
            ..Tally::default()
        };
        assert_eq!(
            stopping(tally),
            "3 changes in progress finish, 6 stay made, 2 are not made."
        );
        assert_eq!(stopping(Tally::default()), "");
    }

    #[test]
    fn who_may_not_is_told_what_it_takes() {
        use Offer::{Absent, Closed, Open};
        assert_eq!(may_not(false, Open, Open, Absent), None);
        assert_eq!(
            may_not(false, Closed, Closed, Absent).as_deref(),
            Some("To confirm or discard it takes the role write, or more, in this workspace or its project.")
        );
        assert_eq!(
            may_not(true, Absent, Absent, Closed).as_deref(),
            Some("To stop it takes the role plan, or more, in this workspace or its project.")
        );
    }
}
