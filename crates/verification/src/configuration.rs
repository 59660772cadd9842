//! What is searched: how many runs of which kind, how many attempts, and what people may do.

use terrapool_model::job::Phase;

use crate::situation::SLOTS;
use crate::step::Step;

/// How a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Plan and apply, confirmed by a person.
    Confirmed,
    /// Plan and apply, applied without a person.
    AutoApply,
    /// Its plan is made at once when it is scheduled, and applied without a person: only the apply is searched.
    ApplyOnly,
    /// Its plan is made at once, kept, and applied when a person confirms it.
    SavedPlan,
    /// It never applies.
    PlanOnly,
}

/// A configuration of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// Its name on the command line.
    pub name: &'static str,
    /// The runs, in the order in which they may be scheduled or not.
    pub runs: &'static [Kind],
    /// Attempts that are alive at once.
    pub slots: usize,
    /// How often a person may override a quarantine.
    pub overrides: u8,
    /// How often a user may lock the workspace.
    pub user_locks: u8,
    /// How often an agent may be cut off.
    pub cut_offs: u8,
    /// Whether an apply has no contact limit: then only its end or an override ends a quarantine.
    pub never: bool,
    /// Whether engines and sandboxes may also fail by themselves.
    pub failures: bool,
    /// Steps that have been taken before the search begins.
    pub opening: &'static [Step],
}

/// From the beginning to where the apply of the first run, made at once, executes.
pub const EXECUTING: &[Step] = &[
    Step::Schedule(0),
    Step::Mint(0, 0, Phase::Apply),
    Step::HandleClaim(SLOTS - 1),
    Step::HearClaim(SLOTS - 1),
    Step::HandOver(SLOTS - 1),
    Step::InitDone(SLOTS - 1),
    Step::HandleStart(SLOTS - 1),
    Step::HearStart(SLOTS - 1),
    Step::Execute(SLOTS - 1),
];

/// As [`EXECUTING`], until the apply is lost and its engine still executes.
pub const LOST: &[Step] = &[
    Step::Schedule(0),
    Step::Mint(0, 0, Phase::Apply),
    Step::HandleClaim(SLOTS - 1),
    Step::HearClaim(SLOTS - 1),
    Step::HandOver(SLOTS - 1),
    Step::InitDone(SLOTS - 1),
    Step::HandleStart(SLOTS - 1),
    Step::HearStart(SLOTS - 1),
    Step::Execute(SLOTS - 1),
    Step::Expire(0, Phase::Apply),
];

/// As [`EXECUTING`], while an earlier attempt at the same apply still gives it back.
pub const EXECUTING_AGAIN: &[Step] = &[
    Step::Schedule(0),
    Step::Mint(0, 0, Phase::Apply),
    Step::HandleClaim(SLOTS - 1),
    Step::HearClaim(SLOTS - 1),
    Step::Expire(0, Phase::Apply),
    Step::SandboxFails(SLOTS - 1),
    Step::Mint(1, 0, Phase::Apply),
    Step::HandleClaim(SLOTS - 1),
    Step::HearClaim(SLOTS - 1),
    Step::HandOver(SLOTS - 1),
    Step::InitDone(SLOTS - 1),
    Step::HandleStart(SLOTS - 1),
    Step::HearStart(SLOTS - 1),
    Step::Execute(SLOTS - 1),
];

/// One apply with two attempts, and nothing else: what the others are made of.
pub const PLAIN: Configuration = Configuration {
    name: "",
    runs: &[Kind::ApplyOnly],
    slots: 2,
    overrides: 0,
    user_locks: 0,
    cut_offs: 0,
    never: false,
    failures: false,
    opening: &[],
};

/// Every configuration, the small ones first.
pub const ALL: &[Configuration] = &[
    Configuration {
        name: "plan-only",
        runs: &[Kind::PlanOnly],
        slots: 3,
        cut_offs: 1,
        failures: true,
        ..PLAIN
    },
    Configuration {
        name: "apply",
        ..PLAIN
    },
    Configuration {
        name: "apply-1",
        slots: 1,
        cut_offs: 1,
        overrides: 1,
        user_locks: 1,
        failures: true,
        ..PLAIN
    },
    Configuration {
        name: "apply-never",
        overrides: 1,
        never: true,
        ..PLAIN
    },
    Configuration {
        name: "saved-1",
        runs: &[Kind::SavedPlan],
        slots: 1,
        user_locks: 1,
        ..PLAIN
    },
    Configuration {
        name: "auto-apply-1",
        runs: &[Kind::AutoApply],
        slots: 1,
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "confirmed-1",
        runs: &[Kind::Confirmed],
        slots: 1,
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "two-applies-1",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        slots: 1,
        ..PLAIN
    },
    Configuration {
        name: "saved-and-apply-1",
        runs: &[Kind::SavedPlan, Kind::ApplyOnly],
        slots: 1,
        ..PLAIN
    },
    Configuration {
        name: "lost-and-apply",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        opening: LOST,
        ..PLAIN
    },
    Configuration {
        name: "lost-and-saved",
        runs: &[Kind::ApplyOnly, Kind::SavedPlan],
        overrides: 1,
        opening: LOST,
        ..PLAIN
    },
    Configuration {
        name: "executing-and-apply",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        opening: EXECUTING,
        ..PLAIN
    },
    Configuration {
        name: "apply-failures",
        failures: true,
        ..PLAIN
    },
    Configuration {
        name: "apply-people",
        overrides: 1,
        user_locks: 1,
        ..PLAIN
    },
    Configuration {
        name: "apply-people-3",
        slots: 3,
        overrides: 1,
        user_locks: 1,
        ..PLAIN
    },
    Configuration {
        name: "confirmed",
        runs: &[Kind::Confirmed],
        slots: 3,
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "auto-apply",
        runs: &[Kind::AutoApply],
        slots: 3,
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "saved-plan",
        runs: &[Kind::SavedPlan],
        user_locks: 1,
        ..PLAIN
    },
    Configuration {
        name: "two-applies",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        ..PLAIN
    },
    Configuration {
        name: "two-applies-3",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        slots: 3,
        ..PLAIN
    },
    Configuration {
        name: "two-applies-override",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "two-applies-override-3",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        slots: 3,
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "two-applies-never",
        runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
        overrides: 1,
        never: true,
        ..PLAIN
    },
    Configuration {
        name: "saved-and-apply",
        runs: &[Kind::SavedPlan, Kind::ApplyOnly],
        ..PLAIN
    },
    Configuration {
        name: "saved-and-apply-override",
        runs: &[Kind::SavedPlan, Kind::ApplyOnly],
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "plan-only-and-apply",
        runs: &[Kind::PlanOnly, Kind::ApplyOnly],
        overrides: 1,
        ..PLAIN
    },
    Configuration {
        name: "auto-apply-and-apply",
        runs: &[Kind::AutoApply, Kind::ApplyOnly],
        overrides: 1,
        ..PLAIN
    },
];

/// A configuration by its name.
pub fn named(name: &str) -> Option<&'static Configuration> {
    ALL.iter().find(|configuration| configuration.name == name)
}
