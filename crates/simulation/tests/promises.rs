//! The promises hold in simulations, and the simulations would tell if they did not.
#![allow(clippy::unwrap_used, reason = "what cannot be simulated fails the test")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use terrapool_simulation::{Counts, DatabaseKind, Report, Sabotage, Settings, simulate};

fn run(settings: Settings) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(simulate(settings)).unwrap()
}

/// Simulates seeds side by side.
fn run_all(seeds: u64, settings: impl Fn(u64) -> Settings + Sync) -> Vec<(u64, Report)> {
    let next = AtomicU64::new(1);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > seeds {
                        return;
                    }
                    let report = run(settings(seed));
                    reports.lock().unwrap().push((seed, report));
                }
            });
        }
    });
    reports.into_inner().unwrap()
}

fn must_hold(database: &str, reports: &[(u64, Report)]) -> Counts {
    let mut total = Counts::default();
    for (seed, report) in reports {
        assert!(
            report.violations.is_empty(),
            "seed {seed} on {database}: {:?}\n{}\nreplay: cargo run -p terrapool-simulation -- --seed {seed} --trace",
            report.violations,
            report.trace[report.trace.len().saturating_sub(60)..].join("\n")
        );
        total += report.counts;
    }
    total
}

#[test]
fn two_thousand_small_histories_on_sqlite_keep_every_promise() {
    let reports = run_all(2000, |seed| Settings::small(seed, DatabaseKind::Sqlite));
    let total = must_hold("SQLite", &reports);
    // They went through what they are for.
    assert!(
        total.engine_starts > 2000 && total.lost > 100 && total.kept_apart > 5,
        "{total:?}"
    );
}

#[test]
fn small_histories_with_two_processes_on_postgresql_keep_every_promise() {
    let reports = run_all(60, |seed| Settings::small(seed, DatabaseKind::Postgres));
    let total = must_hold("PostgreSQL", &reports);
    assert!(total.engine_starts > 100 && total.lost > 3, "{total:?}");
}

/// Security cases 19 and 20 are what happens here: partitions longer than a lease, and claims that race, are repeated,
/// and come late.
#[test]
fn case_19_and_20_fifty_agents_work_on_a_thousand_jobs_and_each_is_claimed_by_one() {
    let report = run(Settings {
        trace: false,
        ..Settings::large(1, DatabaseKind::Sqlite)
    });
    let total = must_hold("SQLite", &[(1, report)]);
    assert!(total.claims >= 1000, "{total:?}");
}

#[test]
fn case_19_and_20_two_processes_on_postgresql_give_each_job_to_one_of_many_agents() {
    let report = run(Settings {
        trace: false,
        ..Settings::large(1, DatabaseKind::Postgres)
    });
    let total = must_hold("PostgreSQL", &[(1, report)]);
    assert!(total.claims >= 1000, "{total:?}");
}

#[test]
fn a_seed_replays_exactly() {
    let settings = Settings::small(4242, DatabaseKind::Sqlite);
    let (one, other) = (run(settings), run(settings));
    assert_eq!(one.counts, other.counts);
    assert_eq!(one.trace, other.trace);
}

/// Whether one of the first seeds finds what is wrong with an agent.
fn finds(sabotage: Sabotage, promise: &str) -> bool {
    (1..=40).any(|seed| {
        let report = run(Settings {
            sabotage: Some(sabotage),
            trace: false,
            ..Settings::small(seed, DatabaseKind::Sqlite)
        });
        report
            .violations
            .iter()
            .any(|violation| violation.contains(promise))
    })
}

#[test]
fn an_agent_that_ignores_its_markers_is_found_out() {
    assert!(finds(Sabotage::MarkerIgnored, "was executed twice"));
}

#[test]
fn an_agent_that_forgets_its_journal_is_found_out() {
    assert!(finds(Sabotage::ForgottenJournal, "has lost what was made"));
}

#[test]
fn a_runner_that_tells_no_states_is_found_out() {
    assert!(finds(Sabotage::UntoldState, "has lost what was made"));
}
