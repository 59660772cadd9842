//! One situation of the search: rows, network, agents, sandboxes and states together, small enough to keep millions.

use terrapool_model::job::Phase;

/// Most runs in a configuration.
pub const RUNS: usize = 2;
/// Most attempts that are alive at once.
pub const SLOTS: usize = 3;

/// Names an interned value of [`Tables`](crate::tables::Tables).
pub type Index = u16;

/// How an attempt says that its phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// Nothing was started.
    NeverStarted,
    /// The engine did its work.
    Succeeded,
    /// The engine, or a step before it, failed.
    Failed,
    /// It ended after it was told to.
    Canceled,
    /// Its end was not seen.
    EngineLost,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Self; 5] = [
        Self::NeverStarted,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
        Self::EngineLost,
    ];
}

/// A set of endings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Endings(u8);

impl Endings {
    /// Adds one.
    pub fn insert(&mut self, ending: Ending) {
        self.0 |= 1 << ending as u8;
    }

    /// Whether it is there.
    pub fn contains(self, ending: Ending) -> bool {
        self.0 & (1 << ending as u8) != 0
    }

    /// Whether none is there.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The process that an attempt belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Process {
    /// No attempt is here.
    #[default]
    Empty,
    /// It runs.
    Up,
    /// It was killed; its disk is there.
    Down,
    /// The attempt is over, or its disk is lost: only its messages are left.
    Over,
}

/// The sandbox of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Runner {
    /// There is none, or it has no job.
    #[default]
    None,
    /// It unpacks and runs `init`.
    Preparing,
    /// An apply that waits for its start.
    Prepared,
    /// It was told to execute, and has not yet.
    Going,
    /// The engine phase executes.
    Running,
    /// It has ended, and tells how.
    Ended(Ending),
    /// It went away.
    Gone,
}

/// Why a runner was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stop {
    /// A person wants it.
    Canceled,
    /// Contact was lost.
    LostContact,
}

/// An answer that is on its way to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Answer {
    /// None.
    #[default]
    None,
    /// Yes, and the generation.
    Yes(u8),
    /// No.
    No,
}

/// One attempt, with everything around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Slot {
    /// Its process.
    pub process: Process,
    /// Its run.
    pub run: u8,
    /// Whether its job is the apply.
    pub apply: bool,
    /// Whether its job's row names it.
    pub named: bool,
    /// The attempt, as the process has it in memory.
    pub attempt: Index,
    /// The attempt, as the journal has it.
    pub journal: Index,
    /// The generation that its claim repeats.
    pub seen: u8,
    /// Its sandbox.
    pub runner: Runner,
    /// What its runner was told.
    pub stop: Option<Stop>,
    /// Whether the runner's marker exists.
    pub marker: bool,
    /// The state that its engine wrote; 0 is none.
    pub document: u8,
    /// Whether that state was sent.
    pub document_sent: bool,
    /// Whether the control plane has that state.
    pub document_stored: bool,
    /// The answer to its claim.
    pub claim: Answer,
    /// Whether its start was requested.
    pub start_sent: bool,
    /// The answer to its start.
    pub start: Answer,
    /// The ends that it reported.
    pub ends_sent: Endings,
    /// Whether an answer to its end is on its way.
    pub end_answered: bool,
}

impl Slot {
    /// The phase of its job.
    pub fn phase(&self) -> Phase {
        if self.apply { Phase::Apply } else { Phase::Plan }
    }

    /// Whether an apply engine of it executes.
    pub fn engine_lives(&self) -> bool {
        self.apply && self.runner == Runner::Running
    }
}

/// One run, with its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Place {
    /// Its interned rows.
    pub rows: Index,
    /// Which slot the plan's row names: 0 none, then the slot's number + 1, or [`NOBODY`].
    pub plan_holder: u8,
    /// Which slot the apply's row names.
    pub apply_holder: u8,
    /// How often its apply was executed.
    pub executed: u8,
    /// The newest state copy of its apply that is not current; 0 is none.
    pub snapshot: u8,
}

/// An attempt that is in no slot any more.
pub const NOBODY: u8 = 9;

impl Place {
    /// Which slot the row of a phase names.
    pub fn holder(&self, phase: Phase) -> u8 {
        match phase {
            Phase::Plan => self.plan_holder,
            Phase::Apply => self.apply_holder,
        }
    }

    /// Changes which slot the row of a phase names.
    pub fn holder_mut(&mut self, phase: Phase) -> &mut u8 {
        match phase {
            Phase::Plan => &mut self.plan_holder,
            Phase::Apply => &mut self.apply_holder,
        }
    }
}

/// States that an apply of a run may write, one for each execution, at most two of each run.
pub const DOCUMENTS: usize = 1 + 2 * RUNS;

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Situation {
    /// The workspace's interned row.
    pub workspace: Index,
    /// The runs.
    pub runs: [Place; RUNS],
    /// The attempts.
    pub slots: [Slot; SLOTS],
    /// The current state; 0 is the one before all.
    pub current: u8,
    /// Serials of the states.
    pub serials: [u8; DOCUMENTS],
    /// States that were current at some time, one bit each.
    pub promoted: u8,
    /// States that are kept apart, one bit each.
    pub kept: u8,
    /// How often a user may still lock the workspace.
    pub user_locks: u8,
    /// How often a person may still override a quarantine.
    pub overrides: u8,
    /// How often an agent may still be cut off.
    pub cut_offs: u8,
    /// Whether a quarantine was overridden.
    pub overridden: bool,
}

impl Situation {
    /// Puts equivalent situations into one form: messages that can do nothing are forgotten, and slots are sorted.
    pub fn sort_slots(&mut self) {
        let mut order: [usize; SLOTS] = std::array::from_fn(|slot| slot);
        order.sort_by_key(|slot| self.slots[*slot]);
        let slots = self.slots;
        for (place, slot) in order.iter().enumerate() {
            self.slots[place] = slots[*slot];
        }
        let renamed = |holder: &mut u8| {
            if let Some(place) = order.iter().position(|slot| *slot as u8 + 1 == *holder) {
                *holder = place as u8 + 1;
            }
        };
        for run in &mut self.runs {
            renamed(&mut run.plan_holder);
            renamed(&mut run.apply_holder);
        }
    }

    /// Takes an attempt's messages out of the network; rows that name it name nobody that is here.
    pub fn forget_slot(&mut self, slot: usize) {
        for run in &mut self.runs {
            for holder in [&mut run.plan_holder, &mut run.apply_holder] {
                if *holder == slot as u8 + 1 {
                    *holder = NOBODY;
                }
            }
        }
        self.slots[slot] = Slot::default();
    }

    /// How many apply engines execute.
    pub fn engines(&self) -> usize {
        self.slots.iter().filter(|slot| slot.engine_lives()).count()
    }
}
