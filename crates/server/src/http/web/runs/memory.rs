//! A run that its limit of memory ended: how it came to that, and what helps.

use terrapool_model::job::Phase;

use super::load::Loaded;
use crate::http::web::parts::status;
use crate::http::web::parts::time::between;
use crate::http::web::parts::words::{count, megabytes};

/// What a run that needed more memory shows besides its log.
pub(super) struct Shortage {
    /// "Killed at 512 of 512 MB after 2 min 03 s."
    pub(super) sentence: String,
    /// The phase that it ended in.
    pub(super) phase: &'static str,
    pub(super) raise: Raise,
    /// Whether `TF_LOG` is set, as far as the visitor may know.
    pub(super) is_verbose: bool,
    pub(super) resources: String,
    pub(super) limit: String,
}

/// What can be done about the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raise {
    /// It is larger by now: the run can be made again.
    Raised {
        /// What it is now.
        now: String,
    },
    /// The next step: mebibytes, and the same in words.
    To {
        /// Mebibytes.
        memory_mb: u64,
        /// In words.
        words: String,
        /// Whether the visitor may set it.
        may: bool,
    },
    /// The pool allows no more.
    AtMost {
        /// What the pool allows.
        most: String,
    },
}

/// The next larger size: 512, 768, 1024, 1536, 2048 and so on, within what is allowed.
fn next_step(limit: u64, most: Option<u64>) -> Option<u64> {
    let mut step = 128_u64;
    let next = loop {
        if step > limit {
            break step;
        }
        if step + step / 2 > limit {
            break step + step / 2;
        }
        step = step.checked_mul(2)?;
    };
    Some(next.min(most.unwrap_or(next))).filter(|next| *next > limit)
}

fn raise(had: u64, has: u64, most: Option<u64>, may: bool) -> Raise {
    if has > had {
        return Raise::Raised { now: megabytes(has) };
    }
    match next_step(had, most) {
        Some(memory_mb) => Raise::To {
            memory_mb,
            words: megabytes(memory_mb),
            may,
        },
        None => Raise::AtMost {
            most: megabytes(most.unwrap_or(had)),
        },
    }
}

/// How a run came to the end of its memory; `None` for one that ended otherwise.
pub(super) fn of(loaded: &Loaded) -> Option<Shortage> {
    let run = &loaded.listed.run;
    let (phase, job) = match (&loaded.apply_job, &loaded.plan_job) {
        (Some(apply), _) => (Phase::Apply, apply),
        (None, Some(plan)) => (Phase::Plan, plan),
        (None, None) => return None,
    };
    if !run.status.is_terminal() || !status::is_out_of_memory(run) {
        return None;
    }
    let message = run.error_message.as_deref().unwrap_or_default();
    let limit = job.limits.memory_mb;
    let peak = job.usage.and_then(|usage| usage.peak_memory_bytes);
    let at = match peak {
        Some(peak) => format!(" at {} of {}", megabytes(peak >> 20), megabytes(limit)),
        None => format!(": it needed more than {}", megabytes(limit)),
    };
    let after = match (job.started_at, job.finished_at) {
        (Some(from), Some(to)) => format!(" after {}", between(from, to)),
        _ => String::new(),
    };
    let serial = |serial: Option<u64>| serial.map_or_else(String::new, |serial| format!(", serial {serial}"));
    let state = match (phase, loaded.states.first()) {
        (Phase::Plan, _) => format!(
            "Nothing was changed; the state is as it was{}.",
            serial(loaded.current.as_ref().and_then(|current| current.serial))
        ),
        (Phase::Apply, Some(version)) => format!(
            "What was done until then is in the state{}; a new run goes on from there.",
            serial(version.serial)
        ),
        (Phase::Apply, None) => "No state of this apply was stored; look at what it had begun.".to_owned(),
    };
    let how = if message.contains("kernel killed") {
        "Killed"
    } else {
        "Stopped"
    };
    let before = if message.contains("so that its state could be written") {
        ", so that its state could be written"
    } else {
        ""
    };
    Some(Shortage {
        sentence: format!("{how}{at}{after}{before}. {state}"),
        phase: phase.as_str(),
        raise: raise(
            limit,
            loaded.memory_mb,
            loaded.most_memory_mb,
            loaded.rights.manage,
        ),
        is_verbose: loaded.is_verbose,
        resources: count(loaded.workspace.resource_count, "resource", "resources"),
        limit: megabytes(limit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_raised_by_steps_within_what_the_pool_allows() {
        for (limit, most, expected) in [
            (512, None, Some(768)),
            (768, None, Some(1024)),
            (1024, None, Some(1536)),
            (1536, None, Some(2048)),
            (2048, None, Some(3072)),
            (600, None, Some(768)),
            (100, None, Some(128)),
            (512, Some(700), Some(700)),
            (512, Some(512), None),
            (512, Some(256), None),
            (u64::MAX, None, None),
        ] {
            assert_eq!(next_step(limit, most), expected, "{limit} of {most:?}");
        }
        let may = true;
        let to = Raise::To {
            memory_mb: 768,
            words: "768 MB".to_owned(),
            may,
        };
        assert_eq!(raise(512, 512, None, may), to);
        let now = "1,024 MB".to_owned();
        assert_eq!(raise(512, 1024, None, may), Raise::Raised { now });
        let most = "512 MB".to_owned();
        assert_eq!(raise(512, 512, Some(512), may), Raise::AtMost { most });
    }
}
