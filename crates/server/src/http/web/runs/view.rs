//! What the page of a run shows, decided from what was read.

use std::collections::BTreeMap;

use terrapool_model::id::AttemptId;
use terrapool_model::job::Phase;
use terrapool_model::run::{Aftermath, ErrorReason, RunStatus};

use super::facts::{self, Fact};
use super::load::Loaded;
use super::story::{self, Entry, Step, source_icon, source_words};
use super::{change_words, log};
use crate::http::web::changes::{self, Action, Module};
use crate::http::web::logs::LogView;
use crate::http::web::logs::progress::Stage;
use crate::http::web::parts::Tone;
use crate::http::web::parts::chart::Meter;
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::{Ago, Day, Took, between};
use crate::http::web::parts::words::{self, Number};

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
    pub(super) logs: Vec<log::Panel>,
    pub(super) facts: Vec<Fact>,
    pub(super) memory: Option<(String, Meter)>,
    pub(super) behind: Vec<(String, String, Ago)>,
    pub(super) timeline: Vec<Entry>,
    pub(super) active: bool,
    /// The log says more than the changes now.
    pub(super) logs_first: bool,
}

/// The one sentence above everything.
pub(super) struct Verdict {
    pub(super) heading: String,
    pub(super) counts: Vec<(Tone, &'static str, String)>,
    pub(super) meter: Option<Meter>,
    pub(super) text: String,
}

/// What may be done now.
pub(super) struct Buttons {
    pub(super) confirm: bool,
    pub(super) discard: bool,
    pub(super) cancel: bool,
    pub(super) force: bool,
    pub(super) retry: bool,
    /// What an apply destroys; the confirmation names it.
    pub(super) destroyed: Vec<String>,
    pub(super) destroyed_more: usize,
    pub(super) destroyed_count: u64,
    /// The name has to be typed.
    pub(super) is_destroy: bool,
    pub(super) in_apply: bool,
}

/// What changes: as it is planned, or as it happens.
pub(super) struct Changes {
    pub(super) heading: &'static str,
    pub(super) modules: Vec<Module>,
    pub(super) outputs: Vec<Module>,
    pub(super) progress: Vec<Progress>,
    pub(super) summary: String,
    pub(super) empty: Option<&'static str>,
    pub(super) chips: Vec<(String, &'static str, &'static str, u64, bool)>,
    pub(super) open: bool,
}

/// A resource of an apply.
pub(super) struct Progress {
    pub(super) action: Option<Action>,
    pub(super) address: String,
    pub(super) took: String,
    pub(super) status: Status,
}

/// A run whose agent was lost during its apply.
pub(super) struct Lost {
    pub(super) agent: String,
    pub(super) attempt: Option<AttemptId>,
    pub(super) locked_until: Option<String>,
    pub(super) locked: bool,
    pub(super) delivered: bool,
    pub(super) kept: Vec<(Status, String, String)>,
}

/// Which of the plan's changes are shown.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub(super) action: String,
    pub(super) text: String,
}

/// Decides what is shown.
pub(super) fn view(loaded: &Loaded, filter: &Filter, logs: Vec<log::Panel>) -> RunView {
    let (listed, now) = (&loaded.listed, loaded.now);
    let run = &listed.run;
    let status = loaded
        .reason
        .as_ref()
        .map_or_else(|| status::of_run(run), |(reason, _)| status::of_wait(reason));
    let progress = progress(loaded);
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
        verdict: verdict(loaded, &status, &progress),
        status,
        buttons: buttons(loaded),
        steps: story::steps(loaded),
        changes: changes_of(loaded, filter, progress),
        lost: lost(loaded),
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
        ) || (run.status == RunStatus::Errored && loaded.apply_job.is_none()),
        active: !run.status.is_terminal() || loaded.quarantine().is_some(),
    }
}

fn buttons(loaded: &Loaded) -> Buttons {
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
    Buttons {
        confirm: actions.is_confirmable && rights.apply,
        discard: actions.is_discardable && rights.apply,
        cancel: actions.is_cancelable && if run.plan_only { rights.queue } else { rights.apply },
        force: actions.is_force_cancelable && rights.force_cancel,
        retry: run.status.is_terminal() && rights.queue,
        destroyed_more: destroyed.len().saturating_sub(MOST_NAMED),
        destroyed: destroyed.into_iter().take(MOST_NAMED).collect(),
        destroyed_count: count,
        is_destroy: run.is_destroy && count > 0,
        in_apply: run.status == RunStatus::Applying,
    }
}

/// How far the apply has come with each change.
fn progress(loaded: &Loaded) -> Vec<Progress> {
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
    let over = run.status.is_terminal();
    let word = |stage: Stage| match stage {
        Stage::Done => Status::new(Tone::Good, "ok", "Done"),
        Stage::Failed => Status::new(Tone::Bad, "bad", "Failed"),
        Stage::Working if over && run.status != RunStatus::Applied => {
            Status::new(Tone::Bad, "warn", "Unknown")
        }
        Stage::Working if over => Status::new(Tone::Good, "ok", "Done"),
        Stage::Working => Status::new(Tone::Live, "run", "Working"),
    };
    let mut rows: Vec<Progress> = steps
        .iter()
        .map(|step| Progress {
            action: planned.get(&step.address).copied(),
            address: step.address.clone(),
            took: if step.took.is_empty() {
                "—".to_owned()
            } else {
                step.took.clone()
            },
            status: word(step.stage),
        })
        .collect();
    for (address, action) in &planned {
        let begun = steps.iter().any(|step| step.address == *address);
        if !begun && !matches!(action, Action::Read) {
            rows.push(Progress {
                action: Some(*action),
                address: address.clone(),
                took: "—".to_owned(),
                status: Status::new(Tone::Mute, "pend", "Not started"),
            });
        }
    }
    rows
}

/// How many rows of an apply have a word.
fn with_word(progress: &[Progress], word: &str) -> u64 {
    progress.iter().filter(|row| row.status.word == word).count() as u64
}

fn verdict(loaded: &Loaded, status: &Status, progress: &[Progress]) -> Verdict {
    let (run, now) = (&loaded.listed.run, loaded.now);
    let mut verdict = Verdict {
        heading: status.word.to_string(),
        counts: Vec::new(),
        meter: None,
        text: String::new(),
    };
    let agent = |phase: Phase| {
        let job = loaded.job(phase);
        let name = job.and_then(|job| job.agent.clone());
        (
            name.unwrap_or_else(|| "an agent".to_owned()),
            job.and_then(|job| job.started_at)
                .map_or(Took(terrapool_model::time::Millis::ZERO), |at| between(at, now)),
        )
    };
    if let Some((_, sentence)) = &loaded.reason {
        sentence.clone_into(&mut verdict.text);
        return verdict;
    }
    if run.cancel_asked_at.is_some() && !run.status.is_terminal() {
        verdict.text =
            "It was asked to stop, and is given time to do so in good order. If it does not, it can be \
                        given up a minute after it was asked."
                .to_owned();
        return verdict;
    }
    match run.status {
        RunStatus::Planning => {
            let (name, took) = agent(Phase::Plan);
            let read = loaded.log(Phase::Plan).map_or(0, LogView::refreshed);
            verdict.text = format!("for {took} on {name}");
            if read > 0 {
                let read = words::count(read as u64, "resource", "resources");
                verdict.text.push_str(&format!(": {read} refreshed so far"));
            }
            verdict.text.push('.');
        }
        RunStatus::Planned | RunStatus::PlannedAndSaved => {
            verdict.counts = counts(loaded);
            if run.auto_apply && loaded.workspace.auto_apply {
                verdict.text = "Auto-apply is off for this run: a lost apply came before it.".to_owned();
            }
        }
        RunStatus::Applying | RunStatus::ApplyQueued => {
            let (name, took) = agent(Phase::Apply);
            let (all, done) = (progress.len() as u64, with_word(progress, "Done"));
            let working = with_word(progress, "Working");
            verdict.heading = format!("Applying: {done} of {all} done, {working} in progress");
            verdict.meter =
                Some(Meter::of(done, all, format!("{done} of {all} changes done")).in_tone(Tone::Live));
            verdict.text =
                format!("{took} so far on {name}. The state is stored each time the engine writes it");
            if let Some(serial) = loaded.states.first().and_then(|version| version.serial) {
                verdict.text.push_str(&format!(": serial {serial}"));
            }
            verdict.text.push('.');
        }
        RunStatus::Applied => {
            verdict.counts = counts(loaded);
            if let Some(apply) = &loaded.apply_job
                && let (Some(from), Some(to)) = (apply.started_at, apply.finished_at)
            {
                verdict.text = format!("In {}.", between(from, to));
            }
        }
        RunStatus::PlannedAndFinished if run.has_changes == Some(true) => {
            verdict.counts = counts(loaded);
            verdict.text = "A plan only: it is never applied.".to_owned();
        }
        RunStatus::PlannedAndFinished => {
            verdict.text = "The infrastructure is as the configuration says.".to_owned();
        }
        RunStatus::Errored => errored(loaded, progress, &mut verdict),
        RunStatus::Canceled => {
            "It was stopped. What it had done by then is in the state.".clone_into(&mut verdict.text)
        }
        RunStatus::ForceCanceled => {
            "It was given up while its engine may have been alive.".clone_into(&mut verdict.text);
        }
        RunStatus::Discarded => "Nothing was changed, and nothing will be.".clone_into(&mut verdict.text),
        RunStatus::PolicySoftFailed => "A policy did not let it go on.".clone_into(&mut verdict.text),
        RunStatus::Pending | RunStatus::PlanQueued => {}
    }
    verdict
}

fn errored(loaded: &Loaded, progress: &[Progress], verdict: &mut Verdict) {
    let (run, now) = (&loaded.listed.run, loaded.now);
    let in_apply = loaded.apply_job.is_some();
    if run.error_reason == Some(ErrorReason::AgentLost) && in_apply {
        "Errored: the agent was lost during the apply".clone_into(&mut verdict.heading);
        let job = loaded.apply_job.as_ref();
        let name = job.and_then(|job| job.agent.clone());
        let heard = job
            .and_then(|job| job.last_contact)
            .map_or_else(String::new, |at| {
                format!(", last heard from {} ago", between(at, now))
            });
        verdict.text = format!(
            "{}{heard}. {} of {} changes are confirmed, {} unknown, {} not started. An apply is never started again \
             by itself.",
            name.unwrap_or_else(|| "The agent".to_owned()),
            with_word(progress, "Done"),
            progress.len(),
            with_word(progress, "Unknown"),
            with_word(progress, "Not started"),
        );
        match run.aftermath {
            Aftermath::None => {}
            Aftermath::Delivered => verdict
                .text
                .push_str(" The agent came back and delivered the rest."),
            Aftermath::Overridden => verdict.text.push_str(" A person overrode the lock."),
        }
        return;
    }
    verdict.text = run.error_message.clone().unwrap_or_default();
    if in_apply {
        verdict
            .text
            .push_str(" What was done until then is in the state; a new run goes on from there.");
    }
}

fn counts(loaded: &Loaded) -> Vec<(Tone, &'static str, String)> {
    let run = &loaded.listed.run;
    let replaced = loaded
        .plan
        .iter()
        .flat_map(|plan| &plan.resources)
        .filter(|change| matches!(change.action, Action::Replace { .. }))
        .count() as u64;
    let applied = run.status == RunStatus::Applied;
    let counts = run
        .apply_counts
        .filter(|_| applied)
        .or(run.plan_counts)
        .unwrap_or_default();
    let rows = [
        (
            Tone::Good,
            "add",
            counts.add,
            if applied { "added" } else { "to add" },
        ),
        (
            Tone::Warn,
            "chg",
            counts.change,
            if applied { "changed" } else { "to change" },
        ),
        (
            Tone::Bad,
            "rep",
            replaced,
            if applied { "replaced" } else { "of them replaced" },
        ),
        (
            Tone::Bad,
            "del",
            counts.destroy,
            if applied { "destroyed" } else { "to destroy" },
        ),
        (
            Tone::Mute,
            "imp",
            counts.import,
            if applied { "imported" } else { "to import" },
        ),
    ];
    let found: Vec<_> = rows
        .into_iter()
        .filter(|(_, _, number, _)| *number > 0)
        .map(|(tone, icon, number, word)| (tone, icon, format!("{} {word}", Number(number))))
        .collect();
    if found.is_empty() && run.has_changes == Some(true) {
        vec![(Tone::Warn, "chg", change_words(run))]
    } else {
        found
    }
}

fn changes_of(loaded: &Loaded, filter: &Filter, progress: Vec<Progress>) -> Changes {
    let run = &loaded.listed.run;
    let mut shown = Changes {
        heading: "Changes",
        modules: Vec::new(),
        outputs: Vec::new(),
        progress,
        summary: String::new(),
        empty: None,
        chips: Vec::new(),
        open: !run.status.is_terminal() || run.apply_counts.is_none(),
    };
    if !shown.progress.is_empty() {
        shown.heading = "Plan";
        shown.open = false;
    }
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
    let fitting: Vec<changes::Change> = all.into_iter().filter(fits).cloned().collect();
    if fitting.is_empty() && plan.outputs.is_empty() {
        shown.empty = Some(if filter.action.is_empty() && text.is_empty() {
            "No resource changes."
        } else {
            "No change fits this filter."
        });
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

fn lost(loaded: &Loaded) -> Option<Lost> {
    let run = &loaded.listed.run;
    let apply = loaded.apply_job.as_ref()?;
    let is_lost = match run.status {
        RunStatus::Errored => run.error_reason == Some(ErrorReason::AgentLost),
        RunStatus::ForceCanceled => apply.started_at.is_some(),
        _ => false,
    };
    if !is_lost {
        return None;
    }
    let quarantine = loaded.quarantine();
    let mut kept = Vec::new();
    let good = || Status::new(Tone::Good, "ok", "");
    match loaded.states.first() {
        Some(version) => kept.push((
            good(),
            format!(
                "State, serial {}",
                version
                    .serial
                    .map_or_else(|| "unknown".to_owned(), |serial| serial.to_string())
            ),
            if loaded.current.as_ref().map(|current| &current.id) == Some(&version.id) {
                "stored here, checked by digest. It is the current state now".to_owned()
            } else {
                "stored here, checked by digest".to_owned()
            },
        )),
        None => kept.push((
            Status::new(Tone::Mute, "pend", ""),
            "No state of this apply".to_owned(),
            "nothing was written before contact was lost; the state before it is current".to_owned(),
        )),
    }
    kept.push((
        good(),
        format!(
            "Apply log, {}",
            words::count(loaded.lines(Phase::Apply) as u64, "line", "lines")
        ),
        "every byte that the agent sent".to_owned(),
    ));
    kept.push((
        good(),
        "The plan and the configuration".to_owned(),
        "unchanged, so that you can compare".to_owned(),
    ));
    if run.aftermath == Aftermath::None {
        kept.push((
            Status::new(Tone::Bad, "bad", ""),
            "Anything after the last contact".to_owned(),
            "may still be on the agent’s disk. If the agent comes back it delivers it, and this page changes"
                .to_owned(),
        ));
    }
    Some(Lost {
        agent: apply.agent.clone().unwrap_or_else(|| "the agent".to_owned()),
        attempt: apply.attempt.clone(),
        locked: quarantine.is_some(),
        locked_until: quarantine.flatten().map(|at| {
            let tagged = Day::new(at, loaded.now).to_string();
            tagged.split(['>', '<']).nth(2).unwrap_or_default().to_owned() + " UTC"
        }),
        delivered: run.aftermath == Aftermath::Delivered,
        kept,
    })
}
