//! What `cargo xtask chaos` runs once everything is built: a whole installation under load, in which something is killed
//! or cut off every few seconds. Afterwards everything is left to heal, and what was promised is counted.
//!
//! Arguments: `--minutes N` (default 10), `--rounds N` (ends earlier, once every kind of fault has come so often),
//! `--seed S` (default from the clock), `--postgres` (default SQLite). Needs root: a container engine of its own runs in
//! a network namespace of its own.

mod faults;
mod load;
mod postgres;
mod proxy;
mod site;
mod verdict;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use site::Site;

struct Options {
    minutes: u64,
    rounds: u64,
    seed: u64,
    postgres: bool,
}

/// When nothing new is begun any more.
struct End {
    at: Instant,
    now: AtomicBool,
}

impl End {
    fn after(time: Duration) -> Self {
        Self {
            at: Instant::now() + time,
            now: AtomicBool::new(false),
        }
    }

    fn is_over(&self) -> bool {
        self.now.load(Ordering::Relaxed) || Instant::now() >= self.at
    }

    fn now(&self) {
        self.now.store(true, Ordering::Relaxed);
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        minutes: 10,
        rounds: u64::MAX,
        seed: std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |time| time.as_secs()),
        postgres: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, String> {
            let value = arguments.next().unwrap_or_default();
            value
                .parse()
                .map_err(|_| format!("{argument} wants a number, not `{value}`"))
        };
        match argument.as_str() {
            "--minutes" => options.minutes = number()?,
            "--rounds" => options.rounds = number()?,
            "--seed" => options.seed = number()?,
            "--postgres" => options.postgres = true,
            "--sqlite" => options.postgres = false,
            other => {
                return Err(format!(
                    "`{other}` is not known: --minutes N --rounds N --seed S --sqlite | --postgres"
                ));
            }
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(2);
        }
    };
    let database = if options.postgres { "PostgreSQL" } else { "SQLite" };
    println!(
        "{} minutes at most on {database}, seed {}",
        options.minutes, options.seed
    );
    let site = Site::start(options.postgres).await;
    let end = End::after(Duration::from_secs(60 * options.minutes));
    let (counted, ()) = tokio::join!(
        faults::inject(&site, options.seed, options.rounds, &end),
        load::keep(&site, options.seed, &end)
    );
    println!("{counted}");
    let healed = site.heal().await;
    let verdict = verdict::of(&site).await;
    println!("{verdict}");
    println!("healed in {} s", healed.as_secs());
    site.stop().await;
    if verdict.is_clean() {
        ExitCode::SUCCESS
    } else {
        println!("seed {} on {database} broke a promise", options.seed);
        ExitCode::FAILURE
    }
}
