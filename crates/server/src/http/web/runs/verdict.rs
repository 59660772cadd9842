//! The one sentence that a run's page begins with.

use terrapool_model::job::Phase;
use terrapool_model::run::{Aftermath, ErrorReason, RunStatus};
use terrapool_model::time::{Millis, Timestamp};

use super::load::Loaded;
use super::progress::{self, Progress, Tally};
use super::{change_words, log, lost, memory};
use crate::http::web::changes::Action;
use crate::http::web::logs::LogView;
use crate::http::web::parts::Tone;
use crate::http::web::parts::chart::Meter;
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::{Ago, Clock, Took, between};
use crate::http::web::parts::words::{self, Number};

/// The one sentence above everything.
pub(super) struct Verdict {
    pub(super) heading: String,
    pub(super) counts: Vec<(Tone, &'static str, String)>,
    pub(super) meter: Option<Meter>,
    pub(super) text: String,
    /// Where the log says it: words and address.
    pub(super) link: Option<(String, String)>,
}

/// Decides what it says.
pub(super) fn verdict(loaded: &Loaded, status: &Status, progress: &[Progress]) -> Verdict {
    let run = &loaded.listed.run;
    let mut verdict = Verdict {
        heading: status.word.to_string(),
        counts: Vec::new(),
        meter: None,
        text: String::new(),
        link: None,
    };
    if let Some((_, sentence)) = &loaded.reason {
        sentence.clone_into(&mut verdict.text);
        return verdict;
    }
    if let Some(asked) = run.cancel_asked_at.filter(|_| !run.status.is_terminal()) {
        verdict.text = canceling(loaded, asked);
        return verdict;
    }
    match run.status {
        RunStatus::Planning => verdict.text = planning(loaded),
        RunStatus::Planned | RunStatus::PlannedAndSaved => {
            verdict.counts = counts(loaded);
            if run.auto_apply && loaded.workspace.auto_apply {
                verdict.text = "Auto-apply is off for this run: a lost apply came before it.".to_owned();
            }
        }
        RunStatus::Applying | RunStatus::ApplyQueued => applying(loaded, progress, &mut verdict),
        RunStatus::Applied => {
            verdict.counts = counts(loaded);
            if let Some(apply) = &loaded.apply_job
                && let (Some(from), Some(to)) = (apply.started_at, apply.finished_at)
            {
                verdict.text = format!("In {}.", between(from, to));
            }
            let outputs = loaded.plan.as_ref().map_or(0, |plan| plan.outputs.len());
            if outputs > 0 {
                let outputs = words::count(outputs as u64, "output", "outputs");
                verdict.text.push_str(&format!(" {outputs} changed."));
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
            verdict.text.push_str(&aftermath(loaded));
        }
        RunStatus::Discarded => "Nothing was changed, and nothing will be.".clone_into(&mut verdict.text),
        RunStatus::PolicySoftFailed => "A policy did not let it go on.".clone_into(&mut verdict.text),
        RunStatus::Pending | RunStatus::PlanQueued => {}
    }
    verdict
}

/// The agent that works on a phase, and for how long it has.
fn work(loaded: &Loaded, phase: Phase) -> (String, Took) {
    let job = loaded.job(phase);
    let name = job.and_then(|job| job.agent.clone());
    let started = job.and_then(|job| job.started_at);
    (
        name.unwrap_or_else(|| "an agent".to_owned()),
        started.map_or(Took(Millis::ZERO), |at| between(at, loaded.now)),
    )
}

fn canceling(loaded: &Loaded, asked: Timestamp) -> String {
    let (run, now) = (&loaded.listed.run, loaded.now);
    let by = loaded
        .canceled_by
        .as_ref()
        .map_or_else(String::new, |name| format!(" by {}", words::theirs(name)));
    let mut text = format!("Asked to stop at {}{by}.", Clock(asked).words());
    let until = asked + loaded.grace();
    text.push_str(&if until > now {
        format!(
            " Its engine has {} left to do so in good order.",
            between(now, until)
        )
    } else {
        " The time that its engine had for that is over: it is being killed.".to_owned()
    });
    if let Some(from) = run.force_cancel_available_at.filter(|from| *from > now) {
        text.push_str(&format!(" It can be given up in {}.", between(now, from)));
    }
    text
}

fn planning(loaded: &Loaded) -> String {
    let (name, took) = work(loaded, Phase::Plan);
    let read = loaded.log(Phase::Plan).map_or(0, LogView::refreshed);
    let attempt = loaded.job(Phase::Plan).map_or(1, |job| job.generation);
    let mut text = if attempt > 1 {
        format!("started again on {name} (attempt {attempt}), for {took}")
    } else {
        format!("for {took} on {name}")
    };
    if read > 0 {
        let read = words::count(read as u64, "resource", "resources");
        text.push_str(&format!(": {read} refreshed so far"));
    }
    text.push('.');
    if attempt > 1 {
        text.push_str(" The attempt before was lost or given back; its log is kept above this one’s.");
    }
    if let Some(last) = loaded.last_took {
        text.push_str(&format!(" The last plan here took {}.", Took(last)));
    }
    text
}

fn applying(loaded: &Loaded, progress: &[Progress], verdict: &mut Verdict) {
    let (name, took) = work(loaded, Phase::Apply);
    let Tally {
        all, done, working, ..
    } = Tally::of(progress);
    verdict.heading = format!("Applying: {done} of {all} done, {working} in progress");
    verdict.meter = Some(Meter::of(done, all, format!("{done} of {all} changes done")).in_tone(Tone::Live));
    let text = &mut verdict.text;
    *text = format!("{took} so far on {name}");
    if let Some(last) = loaded.last_took {
        text.push_str(&format!("; the last apply here took {}", Took(last)));
    }
    text.push('.');
    if let Some(longest) = progress::longest(loaded) {
        text.push_str(&format!(" Longest so far: {longest}."));
    }
    text.push_str(" The state is stored each time the engine writes it");
    if let Some(version) = loaded.states.first() {
        let age = Ago::new(version.created_at, loaded.now).words();
        match version.serial {
            Some(serial) => text.push_str(&format!(": serial {serial}, {age}")),
            None => text.push_str(&format!(": {age}")),
        }
    }
    text.push('.');
}

/// What was learnt of a run after its end, as a sentence.
fn aftermath(loaded: &Loaded) -> String {
    let run = &loaded.listed.run;
    match run.aftermath {
        Aftermath::None => String::new(),
        Aftermath::Delivered => format!(
            " The agent came back and delivered the rest at {}.",
            Clock(run.updated_at).words()
        ),
        Aftermath::Overridden => " A person overrode the lock.".to_owned(),
    }
}

fn errored(loaded: &Loaded, progress: &[Progress], verdict: &mut Verdict) {
    let (run, now) = (&loaded.listed.run, loaded.now);
    let apply = loaded.apply_job.as_ref();
    if lost::is_lost(run, apply) && run.error_reason == Some(ErrorReason::AgentLost) {
        "Errored: the agent was lost during the apply".clone_into(&mut verdict.heading);
        let name = apply.and_then(|job| job.agent.clone());
        let heard = apply
            .and_then(|job| job.last_contact)
            .filter(|_| run.aftermath != Aftermath::Delivered)
            .map_or_else(String::new, |at| {
                format!(", last heard from {} ago", between(at, now))
            });
        let Tally {
            all,
            done,
            failed,
            unknown,
            not_started,
            ..
        } = Tally::of(progress);
        let failed = if failed > 0 {
            format!(" {failed} failed,")
        } else {
            String::new()
        };
        verdict.text = format!(
            "{}{heard}. {done} of {all} changes are confirmed,{failed} {unknown} unknown, {not_started} not started. \
             An apply is never started again by itself.",
            name.unwrap_or_else(|| "The agent".to_owned()),
        );
        if run.aftermath == Aftermath::Delivered {
            "Delivered later: the agent was lost during the apply, and came back"
                .clone_into(&mut verdict.heading);
        }
        verdict.text.push_str(&aftermath(loaded));
        return;
    }
    if let Some(shortage) = memory::of(loaded) {
        verdict.heading = format!("Errored: out of memory in the {}", shortage.phase);
        verdict.text = shortage.sentence;
        verdict.text.push_str(&aftermath(loaded));
        return;
    }
    verdict.text = run.error_message.clone().unwrap_or_default();
    if let Some((phase, line, first)) = loaded.diagnostics.first() {
        if status::cause(run) == "Errored" {
            let about = first.address.as_ref();
            let about = about.map_or_else(String::new, |address| format!(", {address}"));
            verdict.text = format!("{}{about}.", first.summary.trim_end_matches('.'));
        }
        let link = log::link(loaded, *phase, *line);
        verdict.link = Some((format!("Line {} of the log", Number(*line as u64)), link));
    }
    if apply.is_some() {
        verdict
            .text
            .push_str(" What was done until then is in the state; a new run goes on from there.");
    }
    verdict.text.push_str(&aftermath(loaded));
}

/// How many resources are added, changed, replaced, destroyed.
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
