//! What has to be reachable in the graph of all situations.

use crate::invariant::Invariant;
use crate::search::is_alone;
use crate::step::Actor;

/// Situations and the steps between them.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    over: Vec<bool>,
    edges: Vec<(u32, u32, Actor)>,
}

impl Graph {
    /// Notes whether every run has ended there, and nobody holds the lock.
    pub(crate) fn mark(&mut self, number: u32, over: bool) {
        let place = number as usize;
        if self.over.len() <= place {
            self.over.resize(place + 1, false);
        }
        self.over[place] = over;
    }

    /// Notes a step.
    pub(crate) fn edge(&mut self, from: u32, to: u32, actor: Actor) {
        if from != to {
            self.edges.push((from, to, actor));
        }
    }

    /// The first property of the whole graph that does not hold, and where.
    pub(crate) fn broken(&self, wanted: impl Fn(Invariant) -> bool) -> Option<(Invariant, u32)> {
        let all = |_: Actor| true;
        let unreachable = |invariant, counts: fn(Actor) -> bool| {
            wanted(invariant)
                .then(|| self.cannot_end(counts))
                .flatten()
                .map(|number| (invariant, number))
        };
        unreachable(Invariant::EndReachable, all)
            .or_else(|| unreachable(Invariant::EndReachableAlone, is_alone))
            .or_else(|| {
                wanted(Invariant::NoCircle)
                    .then(|| self.circle())
                    .flatten()
                    .map(|number| (Invariant::NoCircle, number))
            })
    }

    /// A situation from which no end can be reached by the steps that count.
    fn cannot_end(&self, counts: fn(Actor) -> bool) -> Option<u32> {
        let into = Lists::new(
            self.over.len(),
            self.edges
                .iter()
                .filter(|(_, _, actor)| counts(*actor))
                .map(|(from, to, _)| (*to, *from)),
        );
        let mut reaches = self.over.clone();
        let mut waiting: Vec<u32> = (0..)
            .zip(&self.over)
            .filter(|(_, over)| **over)
            .map(|(number, _)| number)
            .collect();
        while let Some(number) = waiting.pop() {
            for before in into.of(number) {
                let reached = &mut reaches[*before as usize];
                if !*reached {
                    *reached = true;
                    waiting.push(*before);
                }
            }
        }
        reaches
            .iter()
            .position(|reached| !reached)
            .and_then(|place| u32::try_from(place).ok())
    }

    /// A situation on a circle of the system's own steps while something has not ended: one that is left when everything
    /// without a predecessor is taken away, again and again, and then everything without a successor.
    fn circle(&self) -> Option<u32> {
        let own: Vec<(u32, u32)> = self
            .edges
            .iter()
            .filter(|(from, to, actor)| {
                *actor == Actor::System && !self.over[*from as usize] && !self.over[*to as usize]
            })
            .map(|(from, to, _)| (*from, *to))
            .collect();
        let forward = Lists::new(self.over.len(), own.iter().copied());
        let backward = Lists::new(self.over.len(), own.iter().map(|(from, to)| (*to, *from)));
        let mut left = vec![true; self.over.len()];
        for (next, before) in [(&forward, &backward), (&backward, &forward)] {
            let mut counts: Vec<usize> = (0..)
                .zip(&left)
                .map(|(number, _)| {
                    before
                        .of(number)
                        .iter()
                        .filter(|from| left[**from as usize])
                        .count()
                })
                .collect();
            let mut waiting: Vec<u32> = (0..)
                .zip(&counts)
                .filter(|(number, count)| **count == 0 && left[*number as usize])
                .map(|(number, _): (u32, &usize)| number)
                .collect();
            while let Some(number) = waiting.pop() {
                left[number as usize] = false;
                for after in next.of(number) {
                    let count = &mut counts[*after as usize];
                    *count -= 1;
                    if *count == 0 && left[*after as usize] {
                        waiting.push(*after);
                    }
                }
            }
        }
        left.iter()
            .position(|left| *left)
            .and_then(|place| u32::try_from(place).ok())
    }
}

/// For each situation a list of others.
struct Lists {
    begins: Vec<usize>,
    others: Vec<u32>,
}

impl Lists {
    fn new(situations: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut begins = vec![0; situations + 1];
        for (from, _) in pairs.clone() {
            begins[from as usize + 1] += 1;
        }
        for place in 0..situations {
            begins[place + 1] += begins[place];
        }
        let mut next = begins.clone();
        let mut others = vec![0; begins[situations]];
        for (from, to) in pairs {
            let place = &mut next[from as usize];
            others[*place] = to;
            *place += 1;
        }
        Self { begins, others }
    }

    fn of(&self, number: u32) -> &[u32] {
        let place = number as usize;
        &self.others[self.begins[place]..self.begins[place + 1]]
    }
}
