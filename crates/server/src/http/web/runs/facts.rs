//! What a run ran with and used, for the side of its page.

use terrapool_model::time::Millis;
use terrapool_protocol::job::Usage;

use super::load::Loaded;
use crate::http::web::parts::chart::Meter;
use crate::http::web::parts::time::{Took, between};
use crate::http::web::parts::words::{self, megabytes};
use crate::http::web::workspaces::engine_name;

/// A fact with an address, where it has one.
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) text: String,
    pub(super) address: Option<String>,
}

/// The newest job that used something.
fn usage(loaded: &Loaded) -> Option<(Usage, u64)> {
    [&loaded.apply_job, &loaded.plan_job]
        .into_iter()
        .flatten()
        .find_map(|job| Some((job.usage?, job.limits.memory_mb)))
}

/// The run's pool, where the visitor sees it.
pub(super) fn pool_address(loaded: &Loaded) -> Option<String> {
    let shared = loaded.workspace.effective.agent_pool_id.is_none();
    let seen = loaded.listed.pool.is_some() && !shared && loaded.rights.reads_queues;
    seen.then(|| {
        let pool = &loaded.listed.run.pool_id;
        format!("/app/{}/agent-pools/{pool}", loaded.organization)
    })
}

pub(super) fn of(loaded: &Loaded) -> Vec<Fact> {
    let run = &loaded.listed.run;
    let plain = |name, text: String| Fact {
        name,
        text,
        address: None,
    };
    let job = loaded.apply_job.as_ref().or(loaded.plan_job.as_ref());
    let pool = pool_address(loaded);
    let mut facts = vec![Fact {
        name: "Pool",
        text: loaded.listed.pool.clone().unwrap_or_else(|| "deleted".to_owned()),
        address: pool.clone(),
    }];
    if let Some(job) = job
        && let Some(agent) = &job.agent
    {
        facts.push(Fact {
            name: "Agent",
            text: agent.clone(),
            address: pool
                .zip(job.agent_id.as_ref())
                .map(|(pool, id)| format!("{pool}/agents/{id}")),
        });
    }
    facts.push(plain("Engine", engine_name(run.engine, &run.engine_version)));
    if let Some(job) = job {
        facts.push(plain(
            "Limits",
            format!(
                "{}, {} CPU",
                megabytes(job.limits.memory_mb),
                job.limits.cpu_millis as f64 / 1000.0
            ),
        ));
        if let Some(started) = job.started_at {
            facts.push(plain(
                "Waited",
                format!("{} for a slot", between(job.queued_at, started)),
            ));
        }
        if job.generation > 1 {
            facts.push(plain("Attempt", job.generation.to_string()));
        }
    }
    if let Some((usage, _)) = usage(loaded)
        && let Some(cpu) = usage.cpu_ms
    {
        facts.push(plain("CPU time", Took(Millis(cpu)).to_string()));
    }
    if let Some(state) = &run.plan_state
        && let Some(serial) = state.serial
    {
        facts.push(plain("State read", format!("serial {serial}")));
    }
    for (name, list) in [("Targets", &run.target_addrs), ("Replaces", &run.replace_addrs)] {
        if !list.is_empty() {
            facts.push(plain(name, words::some(list, 3)));
        }
    }
    facts
}

pub(super) fn memory(loaded: &Loaded) -> Option<(String, Meter)> {
    let (usage, limit) = usage(loaded)?;
    let peak = usage.peak_memory_bytes? >> 20;
    let text = format!("{} of {} at most", megabytes(peak), megabytes(limit));
    Some((text.clone(), Meter::of(peak, limit, text)))
}
