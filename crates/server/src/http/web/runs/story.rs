//! What happened to a run and when: its phases and its timeline, from what was written down.

use terrapool_model::job::Phase;
use terrapool_model::run::{Aftermath, RunStatus};
use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::overview::JobView;

use super::change_words;
use super::load::Loaded;
use crate::http::web::parts::status::{self, Status};
use crate::http::web::parts::time::{Clock, Took, between};
use crate::http::web::parts::{Tone, words};

/// A step of a run.
pub(super) struct Step {
    pub(super) status: Status,
    pub(super) word: &'static str,
    pub(super) detail: String,
    pub(super) current: bool,
}

/// Something that happened.
pub(super) struct Entry {
    pub(super) status: Status,
    pub(super) text: String,
    pub(super) at: Clock,
    pub(super) more: Option<String>,
}

fn step(tone: Tone, icon: &'static str, word: &'static str, detail: String, current: bool) -> Step {
    Step {
        status: Status::new(tone, icon, word),
        word,
        detail,
        current,
    }
}

fn done(word: &'static str, from: Timestamp, to: Timestamp) -> Step {
    step(Tone::Good, "ok", word, between(from, to).to_string(), false)
}

fn to_come(word: &'static str, detail: &str) -> Step {
    step(Tone::Mute, "pend", word, detail.to_owned(), false)
}

/// The steps of a job: its wait, what was made ready for it, and its work. `ended` is how the run ended, when it ended in this phase.
fn job_steps(
    job: &JobView,
    words: (&'static str, &'static str),
    ended: Option<&Status>,
    now: Timestamp,
) -> Vec<Step> {
    let (queued, working) = words;
    let Some(started) = job.started_at.filter(|started| *started >= job.queued_at) else {
        let wait = between(job.queued_at, job.finished_at.unwrap_or(now)).to_string();
        return vec![match ended {
            Some(status) => step(status.tone, status.icon, queued, wait, true),
            None => step(Tone::Warn, "clock", queued, wait, true),
        }];
    };
    let mut steps = vec![done(queued, job.queued_at, started)];
    let mut work = job.finished_at.unwrap_or(now) - started;
    let mut word = working;
    let usage = job.usage.unwrap_or_default();
    for (before, took) in [("Sandbox", usage.sandbox_ms), ("Init", usage.init_ms)] {
        if let Some(took) = took {
            let took = Millis(took.min(work.0));
            work = Millis(work.0 - took.0);
            steps.push(step(Tone::Good, "ok", before, Took(took).to_string(), false));
        }
    }
    if usage.sandbox_ms.is_some() && usage.init_ms.is_none() && (ended.is_some() || job.finished_at.is_none())
    {
        word = "Init";
    }
    let work = Took(work).to_string();
    let last = match ended {
        Some(status) => step(status.tone, status.icon, word, work, true),
        None if job.finished_at.is_some() => step(Tone::Good, "ok", word, work, false),
        None => step(Tone::Live, "run", word, work, true),
    };
    steps.push(last);
    steps
}

/// The steps of a run.
pub(super) fn steps(loaded: &Loaded) -> Vec<Step> {
    let run = &loaded.listed.run;
    // What was given up has no end of its own: it ended with the run.
    let end = run.status_timestamps.values().max().copied();
    let now = end.filter(|_| run.status.is_terminal()).unwrap_or(loaded.now);
    let failed = match run.status {
        RunStatus::Errored | RunStatus::Canceled | RunStatus::ForceCanceled | RunStatus::PolicySoftFailed => {
            Some(status::of_run(run))
        }
        RunStatus::Pending
        | RunStatus::PlanQueued
        | RunStatus::Planning
        | RunStatus::Planned
        | RunStatus::PlannedAndSaved
        | RunStatus::PlannedAndFinished
        | RunStatus::ApplyQueued
        | RunStatus::Applying
        | RunStatus::Applied
        | RunStatus::Discarded => None,
    };
    let mut steps = Vec::new();
    let Some(plan) = &loaded.plan_job else {
        let wait = between(run.created_at, now).to_string();
        steps.push(match &failed {
            Some(status) => step(status.tone, status.icon, "Pending", String::new(), true),
            None if run.status == RunStatus::Discarded => {
                step(Tone::Mute, "discard", "Discarded", String::new(), true)
            }
            None => step(Tone::Warn, "pend", "Pending", wait, true),
        });
        steps.push(to_come("Plan", "not yet"));
        if !run.plan_only {
            steps.push(to_come("Apply", "not yet"));
        }
        return steps;
    };
    let in_plan = failed.as_ref().filter(|_| loaded.apply_job.is_none());
    steps.extend(job_steps(plan, ("Queued", "Plan"), in_plan, now));
    if run.plan_only || run.status == RunStatus::PlannedAndFinished || in_plan.is_some() {
        return steps;
    }
    let time = |name: &str| run.status_timestamps.get(name).copied();
    match (time("planned-at"), time("confirmed-at"), time("discarded-at")) {
        (Some(planned), Some(confirmed), _) => steps.push(done("Confirmed", planned, confirmed)),
        (Some(planned), None, Some(discarded)) => steps.push(step(
            Tone::Mute,
            "discard",
            "Discarded",
            between(planned, discarded).to_string(),
            true,
        )),
        (Some(planned), None, None) => steps.push(step(
            Tone::Ask,
            "ask",
            "Confirm",
            between(planned, now).to_string(),
            true,
        )),
        (None, _, _) => {
            let by = if run.auto_apply {
                "by itself"
            } else {
                "by a person"
            };
            steps.push(to_come("Confirm", by));
        }
    }
    match &loaded.apply_job {
        Some(apply) => steps.extend(job_steps(apply, ("Queued", "Apply"), failed.as_ref(), now)),
        None if run.status == RunStatus::Discarded => {}
        None => steps.push(to_come("Apply", "not yet")),
    }
    steps
}

/// Moments by the API's names for them: colour, picture, words.
const MOMENTS: [(&str, Tone, &str, &str); 14] = [
    ("plan-queued-at", Tone::Mute, "clock", "Plan queued"),
    ("planning-at", Tone::Live, "run", "Plan started"),
    ("planned-at", Tone::Good, "ok", "Planned"),
    ("planned-and-saved-at", Tone::Ask, "ask", "Plan kept for later"),
    (
        "planned-and-finished-at",
        Tone::Good,
        "ok",
        "Finished: nothing to apply",
    ),
    ("confirmed-at", Tone::Good, "user", "Confirmed"),
    ("apply-queued-at", Tone::Mute, "clock", "Apply queued"),
    ("applying-at", Tone::Live, "run", "Apply started"),
    ("applied-at", Tone::Good, "ok", "Applied"),
    ("discarded-at", Tone::Mute, "discard", "Discarded"),
    ("errored-at", Tone::Bad, "bad", "Errored"),
    ("canceled-at", Tone::Mute, "stop", "Canceled"),
    ("force-canceled-at", Tone::Warn, "stop", "Given up"),
    ("policy-soft-failed-at", Tone::Bad, "bad", "Refused by policy"),
];

/// What happened to a run, newest first.
pub(super) fn timeline(loaded: &Loaded) -> Vec<Entry> {
    let run = &loaded.listed.run;
    // What happened at the same time is told in the order in which one thing leads to the next.
    let entry = |(at, order): (Timestamp, usize), tone, icon, text: String, more: Option<String>| {
        (
            (at, order),
            Entry {
                status: Status::new(tone, icon, ""),
                text,
                at: Clock(at),
                more,
            },
        )
    };
    let mut entries = vec![entry(
        (run.created_at, 0),
        Tone::Mute,
        source_icon(&run.source),
        format!("Created by {}", loaded.listed.who()),
        Some(source_words(&run.source).to_owned()),
    )];
    for (place, (name, tone, icon, words)) in (1..).zip(MOMENTS) {
        let Some(at) = run.status_timestamps.get(name) else {
            continue;
        };
        let (mut text, mut more) = (words.to_owned(), None);
        match name {
            "planned-at" if run.has_changes == Some(true) => more = Some(change_words(run)),
            "confirmed-at" => {
                if let Some(user) = &loaded.confirmed_by {
                    text = format!("Confirmed by {user}");
                }
                more = run
                    .comment
                    .as_ref()
                    .map(|comment| format!("“{}”", words::theirs(comment)));
            }
            "discarded-at" | "canceled-at" if loaded.confirmed_by.is_none() => {
                more = run
                    .comment
                    .as_ref()
                    .map(|comment| format!("“{}”", words::theirs(comment)));
            }
            "errored-at" => {
                let cause = status::cause(run);
                if cause != "Errored" {
                    text = format!("Errored: {cause}");
                }
            }
            _ => {}
        }
        entries.push(entry((*at, 2 * place), tone, icon, text, more));
    }
    for job in [&loaded.plan_job, &loaded.apply_job].into_iter().flatten() {
        if let (Some(agent), Some(started)) = (&job.agent, job.started_at) {
            let waited = between(job.queued_at, started);
            let taken = if job.generation > 1 {
                format!("Started again on {agent} (attempt {})", job.generation)
            } else {
                format!("Taken by {agent}")
            };
            let begun = match job.phase {
                Phase::Plan => "planning-at",
                Phase::Apply => "applying-at",
            };
            let place = MOMENTS.iter().position(|moment| moment.0 == begun).unwrap_or(0);
            entries.push(entry(
                (started, 2 * place + 1),
                Tone::Good,
                "agent",
                taken,
                Some(format!("{}, waited {waited}", job.phase.as_str())),
            ));
        }
    }
    if let Some(asked) = run.cancel_asked_at {
        let by = loaded.canceled_by.as_ref();
        let by = by.map_or_else(String::new, |name| format!(" by {name}"));
        entries.push(entry(
            (asked, usize::MAX),
            Tone::Warn,
            "stop",
            format!("Asked to stop{by}"),
            None,
        ));
    }
    match run.aftermath {
        Aftermath::None => {}
        Aftermath::Delivered => entries.push(entry(
            (run.updated_at, usize::MAX),
            Tone::Good,
            "down",
            "The agent delivered the rest".to_owned(),
            None,
        )),
        Aftermath::Overridden => entries.push(entry(
            (run.updated_at, usize::MAX),
            Tone::Warn,
            "warn",
            "Overridden: unlocked while its engine may have run".to_owned(),
            None,
        )),
    }
    entries.sort_by_key(|(when, _)| std::cmp::Reverse(*when));
    entries.into_iter().map(|(_, entry)| entry).collect()
}

/// The picture of where a run came from.
pub(super) fn source_icon(source: &str) -> &'static str {
    match source {
        "tfe-api" => "bot",
        "tfe-ui" => "user",
        _ => "cli",
    }
}

/// Where a run came from.
pub(super) fn source_words(source: &str) -> &'static str {
    match source {
        "tfe-api" => "by the API",
        "tfe-ui" => "in the web UI",
        _ => "from the command line",
    }
}
