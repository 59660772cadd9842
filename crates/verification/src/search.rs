//! Breadth first over every situation of a configuration.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash as _, Hasher};

use crate::configuration::Configuration;
use crate::graph::Graph;
use crate::guard::Guard;
use crate::invariant::{self, Invariant};
use crate::situation::Situation;
use crate::step::{Actor, Step, steps};
use crate::tables::Tables;
use crate::world::{World, first};

/// What is searched for, and how far.
#[derive(Debug, Clone, Copy)]
pub struct Task<'c> {
    /// The configuration.
    pub configuration: &'c Configuration,
    /// The guard that is taken out.
    pub removed: Option<Guard>,
    /// The only invariant that is looked at; `None`: all.
    pub only: Option<Invariant>,
    /// Whether the graph is kept, for what has to be reachable.
    pub graph: bool,
    /// Situations after which the search gives up.
    pub limit: usize,
}

impl<'c> Task<'c> {
    /// Everything about a configuration as it is.
    pub fn new(configuration: &'c Configuration) -> Self {
        Self {
            configuration,
            removed: None,
            only: None,
            graph: false,
            limit: usize::MAX,
        }
    }
}

/// An invariant that does not hold, and the shortest way to where it breaks.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// The steps.
    pub trace: Vec<Step>,
}

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// Different situations.
    pub situations: usize,
    /// Steps between them.
    pub steps: usize,
    /// The first invariant that broke.
    pub violation: Option<Violation>,
    /// Whether everything was seen.
    pub complete: bool,
}

/// Keys are fingerprints already.
#[derive(Debug, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

fn fingerprint(situation: &Situation) -> u64 {
    let mut hasher = DefaultHasher::new();
    situation.hash(&mut hasher);
    hasher.finish()
}

struct Search<'c> {
    task: Task<'c>,
    tables: Tables,
    seen: HashMap<u64, u32, BuildHasherDefault<Plain>>,
    /// For each situation, in the order of discovery: its fingerprint and where it was reached from.
    path: Vec<(u64, u32)>,
    graph: Option<Graph>,
    steps: usize,
}

/// Searches.
pub fn search(task: Task<'_>) -> Found {
    let mut search = Search {
        task,
        tables: Tables::new(task.configuration.never, task.removed),
        seen: HashMap::default(),
        path: Vec::new(),
        graph: task.graph.then(Graph::default),
        steps: 0,
    };
    let violation = search.run();
    let complete = violation.is_none() && search.path.len() < task.limit;
    Found {
        situations: search.path.len(),
        steps: search.steps,
        violation,
        complete,
    }
}

impl Search<'_> {
    fn wanted(&self) -> impl Fn(Invariant) -> bool + Copy + use<> {
        let only = self.task.only;
        move |invariant| only.is_none_or(|only| only == invariant)
    }

    fn run(&mut self) -> Option<Violation> {
        let runs = self.task.configuration.runs.len();
        let wanted = self.wanted();
        let start = first(self.task.configuration, &mut self.tables);
        let mut level = vec![(self.note(&start, u32::MAX), start)];
        let mut possible = Vec::new();
        while !level.is_empty() && self.path.len() < self.task.limit {
            let mut next = Vec::new();
            for (number, situation) in &level {
                if let Some(graph) = &mut self.graph {
                    graph.mark(*number, invariant::is_over(situation, runs, &self.tables));
                }
                steps(situation, self.task.configuration, &self.tables, &mut possible);
                for step in &possible {
                    let mut world = World::new(*situation, &mut self.tables, self.task.configuration);
                    if !world.take(*step) {
                        continue;
                    }
                    self.steps += 1;
                    let violated = world.violation(wanted);
                    world.normalise();
                    let after = world.situation;
                    if let Some(invariant) = violated {
                        let mut trace = self.trace(*number);
                        trace.push(*step);
                        return Some(Violation { invariant, trace });
                    }
                    let known = self.path.len();
                    let place = self.note(&after, *number);
                    if place as usize == known {
                        next.push((place, after));
                    }
                    if let Some(graph) = &mut self.graph {
                        let ended = invariant::is_over(&after, runs, &self.tables);
                        graph.edge(*number, place, step.actor(self.task.configuration));
                        graph.mark(place, ended);
                    }
                }
            }
            level = next;
        }
        let graph = self.graph.take()?;
        let (invariant, number) = graph.broken(wanted)?;
        Some(Violation {
            invariant,
            trace: self.trace(number),
        })
    }

    /// The number of a situation; a new one is noted.
    fn note(&mut self, situation: &Situation, from: u32) -> u32 {
        let print = fingerprint(situation);
        let number = u32::try_from(self.path.len()).unwrap_or(u32::MAX);
        let known = *self.seen.entry(print).or_insert(number);
        if known == number {
            self.path.push((print, from));
        }
        known
    }

    /// The steps from the beginning to a situation.
    fn trace(&mut self, number: u32) -> Vec<Step> {
        let mut prints = Vec::new();
        let mut place = number;
        while place != u32::MAX {
            let (print, from) = self.path[place as usize];
            prints.push(print);
            place = from;
        }
        prints.pop();
        let mut trace = Vec::new();
        let mut situation = first(self.task.configuration, &mut self.tables);
        let mut possible = Vec::new();
        while let Some(print) = prints.pop() {
            steps(&situation, self.task.configuration, &self.tables, &mut possible);
            for step in &possible {
                let mut world = World::new(situation, &mut self.tables, self.task.configuration);
                if !world.take(*step) {
                    continue;
                }
                world.normalise();
                if fingerprint(&world.situation) == print {
                    situation = world.situation;
                    trace.push(*step);
                    break;
                }
            }
        }
        trace
    }
}

/// Whether a step counts for what server and agents can do alone.
pub(crate) fn is_alone(actor: Actor) -> bool {
    match actor {
        Actor::System | Actor::Awaited => true,
        Actor::Fault | Actor::Person => false,
    }
}
