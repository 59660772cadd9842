//! What is done to the installation.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use terrapool_testkit::container_engine::{engine_of, output};

use crate::End;
use crate::proxy::Weather;
use crate::site::Site;

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Agent,
    Runner,
    Engine,
    ContainerEngine,
    Server,
    Database,
    Cut,
    Stall,
    Pause,
}

const ALL: [Fault; 9] = [
    Fault::Agent,
    Fault::Runner,
    Fault::Engine,
    Fault::ContainerEngine,
    Fault::Server,
    Fault::Database,
    Fault::Cut,
    Fault::Stall,
    Fault::Pause,
];

impl Fault {
    fn describe(self) -> &'static str {
        match self {
            Self::Agent => "agents killed",
            Self::Runner => "runners killed",
            Self::Engine => "terraform killed",
            Self::ContainerEngine => "container engine killed",
            Self::Server => "server killed",
            Self::Database => "database killed",
            Self::Cut => "network cut",
            Self::Stall => "network stalled",
            Self::Pause => "agents paused",
        }
    }
}

/// How often each fault was done.
#[derive(Debug, Default)]
pub(crate) struct Counted(BTreeMap<Fault, u32>);

impl fmt::Display for Counted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u32 = self.0.values().sum();
        write!(formatter, "{total} faults")?;
        for (fault, count) in &self.0 {
            write!(formatter, ", {} {count}", fault.describe())?;
        }
        Ok(())
    }
}

/// Does something every few seconds until the end, which may be after so many rounds: no kind of fault comes again before
/// each other has come.
pub(crate) async fn inject(site: &Site, seed: u64, rounds: u64, end: &End) -> Counted {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut counted = Counted::default();
    let mut deck = VecDeque::new();
    let mut round = 0;
    while !end.is_over() {
        tokio::time::sleep(Duration::from_millis(random.u64(1000..6000))).await;
        site.supervise().await;
        if deck.is_empty() {
            if round == rounds {
                end.now();
                break;
            }
            round += 1;
            let mut all = ALL;
            random.shuffle(&mut all);
            deck.extend(all.into_iter().filter(|fault| site.has(*fault)));
        }
        let away = Duration::from_millis(random.u64(0..6000));
        let Some(fault) = deck.pop_front() else { continue };
        if done(site, fault, away, &mut random).await {
            *counted.0.entry(fault).or_default() += 1;
        } else {
            // Nothing works just now; later something will.
            deck.push_back(fault);
        }
    }
    counted
}

impl Site {
    fn has(&self, fault: Fault) -> bool {
        match fault {
            Fault::Database => self.has_database(),
            Fault::Agent
            | Fault::Runner
            | Fault::Engine
            | Fault::ContainerEngine
            | Fault::Server
            | Fault::Cut
            | Fault::Stall
            | Fault::Pause => true,
        }
    }
}

async fn kill(pid: u32) -> bool {
    output("kill", &["-9", &pid.to_string()]).await.0
}

/// Does it; `false` when there was nothing to do it to.
async fn done(site: &Site, fault: Fault, away: Duration, random: &mut fastrand::Rng) -> bool {
    match fault {
        Fault::Agent => {
            let number = random.usize(..site.agents());
            site.kill_agent(number).await;
            tokio::time::sleep(away).await;
            site.start_agent(number).await;
        }
        Fault::Pause => {
            let number = random.usize(..site.agents());
            site.signal_agent(number, "STOP").await;
            tokio::time::sleep(away).await;
            site.signal_agent(number, "CONT").await;
        }
        Fault::Runner => {
            let runners = site.engine.lock().await.runners().await;
            let working: Vec<u32> = runners
                .into_iter()
                .filter(|pid| engine_of(*pid).is_some())
                .collect();
            return match random.choice(&working) {
                Some(pid) => kill(*pid).await,
                None => false,
            };
        }
        Fault::Engine => {
            let runners = site.engine.lock().await.runners().await;
            let engines: Vec<u32> = runners.into_iter().filter_map(engine_of).collect();
            return match random.choice(&engines) {
                Some(pid) => kill(*pid).await,
                None => false,
            };
        }
        Fault::ContainerEngine => site.engine.lock().await.kill_and_restart(away).await,
        Fault::Server => site.restart_server(away).await,
        Fault::Database => site.restart_database(away).await,
        Fault::Cut | Fault::Stall => {
            let weather = if fault == Fault::Cut {
                Weather::Cut
            } else {
                Weather::Stalled
            };
            site.proxy.set(weather);
            tokio::time::sleep(away).await;
            site.proxy.set(Weather::Fair);
        }
    }
    true
}
