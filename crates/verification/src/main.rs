//! Searches a configuration and prints how many situations it has.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use terrapool_verification::configuration;
use terrapool_verification::guard::Guard;
use terrapool_verification::history::{self, Rare, Weakness};
use terrapool_verification::invariant::Invariant;
use terrapool_verification::search::{Task, search};

/// Searches every situation of a configuration of the run protocol, and checks its invariants.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configurations; none lists them.
    configurations: Vec<String>,
    /// Takes a guard out, so that the search has to find something.
    #[arg(long)]
    without: Option<String>,
    /// Looks at this invariant only, by its short name (`I2`).
    #[arg(long)]
    only: Option<String>,
    /// Also checks what has to be reachable. Needs memory for every step.
    #[arg(long)]
    graph: bool,
    /// Gives up after so many situations.
    #[arg(long, default_value_t = usize::MAX)]
    limit: usize,
    /// Plays so many random histories instead.
    #[arg(long)]
    histories: Option<u64>,
    /// The first history's seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Tells the history of a seed, step by step.
    #[arg(long)]
    tell: Option<u64>,
}

fn histories(from: u64, count: u64) -> ExitCode {
    let start = Instant::now();
    let many = history::play_many(from..from + count, Weakness::None);
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} histories, {} steps, {seconds:.1} s", many.steps);
    for rare in Rare::ALL {
        println!("{:9} {rare:?}", many.counts.of(*rare));
    }
    for (seed, invariant) in &many.broken {
        println!("seed {seed} breaks {} ({invariant:?})", invariant.as_str());
    }
    if many.broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.tell {
        let (played, told) = history::tell(seed);
        for step in told {
            println!("{step}");
        }
        println!("{:?}", played.broken);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(count) = arguments.histories {
        return Ok(histories(arguments.from, count));
    }
    if arguments.configurations.is_empty() {
        for configuration in configuration::ALL {
            println!("{:28} {configuration:?}", configuration.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let removed = arguments
        .without
        .as_deref()
        .map(|name| {
            let mut guards = Guard::ALL.iter().copied();
            guards
                .find(|guard| guard.as_str() == name)
                .ok_or_else(|| anyhow::anyhow!("there is no guard `{name}`"))
        })
        .transpose()?;
    let only = arguments
        .only
        .as_deref()
        .map(|name| {
            let mut invariants = Invariant::ALL.iter().copied();
            invariants
                .find(|invariant| invariant.as_str() == name)
                .ok_or_else(|| anyhow::anyhow!("there is no invariant `{name}`"))
        })
        .transpose()?;
    let mut holds = true;
    for name in &arguments.configurations {
        let configuration = configuration::named(name)
            .ok_or_else(|| anyhow::anyhow!("there is no configuration `{name}`"))?;
        let start = Instant::now();
        let found = search(Task {
            removed,
            only,
            graph: arguments.graph,
            limit: arguments.limit,
            ..Task::new(configuration)
        });
        let seconds = start.elapsed().as_secs_f64();
        let (situations, steps) = (found.situations, found.steps);
        match &found.violation {
            None => {
                let end = if found.complete { "holds" } else { "not complete" };
                println!("{name}: {situations} situations, {steps} steps, {seconds:.1} s: {end}");
            }
            Some(violation) => {
                holds = false;
                let invariant = violation.invariant;
                println!(
                    "{name}: {situations} situations, {seconds:.1} s: {} ({invariant:?}) is violated after {} steps",
                    invariant.as_str(),
                    violation.trace.len()
                );
                for step in &violation.trace {
                    println!("  {step:?}");
                }
            }
        }
    }
    Ok(if holds {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
