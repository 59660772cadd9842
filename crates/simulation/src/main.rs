//! Simulates as many seeds as are asked for, on both cores, and tells which failed.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use terrapool_simulation::{Counts, DatabaseKind, Report, Settings, simulate};

/// Agents, jobs and faults in virtual time.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// 50 agents and a thousand jobs in each.
    #[arg(long)]
    large: bool,
    /// On PostgreSQL, with two processes of the control plane.
    #[arg(long)]
    postgres: bool,
    /// Print what happened.
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let database = if arguments.postgres {
        DatabaseKind::Postgres
    } else {
        DatabaseKind::Sqlite
    };
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed + arguments.seeds;
    let failed = Mutex::new(Vec::new());
    let total = Mutex::new(Counts::default());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..threads.min(usize::try_from(arguments.seeds).unwrap_or(usize::MAX)) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    let settings = if arguments.large {
                        Settings::large(seed, database)
                    } else {
                        Settings::small(seed, database)
                    };
                    let report = run(settings);
                    show(seed, &report, &arguments);
                    if let Ok(report) = &report {
                        *total.lock().unwrap_or_else(PoisonError::into_inner) += report.counts;
                    }
                    if report.is_err() || report.is_ok_and(|report| !report.violations.is_empty()) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds in {:.1} s, failed: {failed:?}",
        arguments.seeds,
        started.elapsed().as_secs_f64()
    );
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(settings: Settings) -> anyhow::Result<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(simulate(settings))
}

fn show(seed: u64, report: &anyhow::Result<Report>, arguments: &Arguments) {
    match report {
        Err(error) => println!("seed {seed}: {error:#}"),
        Ok(report) => {
            if arguments.trace {
                for line in &report.trace {
                    println!("{line}");
                }
            }
            for violation in &report.violations {
                println!("seed {seed} BROKEN: {violation}");
            }
            if arguments.large {
                println!("seed {seed}: {:?}", report.counts);
            }
        }
    }
}
