//! Interleavings that have to have a test, wherever it is (`fn interleaving_NN_…`); and those that can be told step by
//! step here.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use terrapool_agent_core::attempt::State;
use terrapool_model::job::{JobState, Phase};
use terrapool_model::lock::Lock;
use terrapool_model::run::RunStatus;
use terrapool_verification::configuration::{Configuration, EXECUTING, PLAIN};
use terrapool_verification::situation::{Ending, Process, SLOTS, Situation};
use terrapool_verification::step::Step;
use terrapool_verification::tables::Tables;
use terrapool_verification::world::{World, first};

/// How many interleavings of two or three parties have to be tests.
const ALL: u8 = 28;

fn numbers(folder: &Path, found: &mut BTreeSet<u8>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("a file of the workspace").path();
        if path.is_dir() {
            numbers(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            let names = text.split("fn interleaving_").skip(1);
            found.extend(names.filter_map(|rest| rest.get(..2)?.parse::<u8>().ok()));
        }
    }
}

#[test]
fn every_interleaving_has_a_test() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = BTreeSet::new();
    numbers(&crates, &mut found);
    let missing: Vec<u8> = (1..=ALL).filter(|number| !found.contains(number)).collect();
    assert!(
        missing.is_empty(),
        "no test is named for the interleavings {missing:?}"
    );
}

/// The only attempt, after each step: occupied slots come last.
const A: usize = SLOTS - 1;

struct Story {
    configuration: Configuration,
    tables: Tables,
    situation: Situation,
    /// The run's, before the situation was brought into its plain form.
    status: RunStatus,
}

impl Story {
    fn new(configuration: Configuration) -> Self {
        let mut tables = Tables::new(configuration.never, None);
        let situation = first(&configuration, &mut tables);
        Self {
            configuration,
            tables,
            situation,
            status: RunStatus::Pending,
        }
    }

    fn then(mut self, steps: &[Step]) -> Self {
        for step in steps {
            let mut world = World::new(self.situation, &mut self.tables, &self.configuration);
            assert!(world.take(*step), "{step:?}");
            assert_eq!(world.violation(|_| true), None, "{step:?}");
            let rows = world.situation.runs[0].rows;
            world.normalise();
            self.situation = world.situation;
            self.status = self.tables.rows(rows).run.status;
        }
        self
    }

    fn refuses(&mut self, step: Step) {
        let mut world = World::new(self.situation, &mut self.tables, &self.configuration);
        assert!(!world.take(step), "{step:?}");
    }

    fn job(&self) -> Option<JobState> {
        let rows = self.tables.rows(self.situation.runs[0].rows);
        rows.job(Phase::Apply).map(|job| job.state)
    }

    fn state(&self) -> &State {
        &self.tables.attempt(self.situation.slots[A].attempt).state
    }

    fn is_free(&self) -> bool {
        self.tables.workspace(self.situation.workspace).lock == Lock::Free
    }

    fn is_lost(&self) -> bool {
        matches!(
            self.tables.workspace(self.situation.workspace).lock,
            Lock::Lost { .. }
        )
    }
}

const CLAIMED: [Step; 4] = [
    Step::Schedule(0),
    Step::Mint(0, 0, Phase::Apply),
    Step::HandleClaim(A),
    Step::HearClaim(A),
];

const PREPARED: [Step; 2] = [Step::HandOver(A), Step::InitDone(A)];

const APPLIED: [Step; 7] = [
    Step::HandleStart(A),
    Step::HearStart(A),
    Step::Execute(A),
    Step::Write(A),
    Step::HandleState(A),
    Step::Ends(A, Ending::Succeeded),
    Step::HandleEnd(A, Ending::Succeeded),
];

#[test]
fn interleaving_03_an_agent_that_was_killed_after_its_claim_takes_its_sandbox_up_again() {
    let story = Story::new(PLAIN)
        .then(&CLAIMED)
        .then(&PREPARED)
        .then(&[Step::Dies(A), Step::Restarts(A)]);
    assert!(matches!(story.state(), State::Starting { .. }));
    let story = story.then(&APPLIED);
    assert_eq!(story.status, RunStatus::Applied);
    assert!(story.is_free());
}

#[test]
fn interleaving_04_a_claimed_apply_whose_host_is_lost_is_queued_and_runs_once() {
    let story = Story::new(PLAIN)
        .then(&CLAIMED)
        .then(&[Step::HostLost(A), Step::Expire(0, Phase::Apply)]);
    assert_eq!(story.job(), Some(JobState::Queued));
    let again = [
        Step::Mint(0, 0, Phase::Apply),
        Step::HandleClaim(A),
        Step::HearClaim(A),
    ];
    let story = story.then(&again).then(&PREPARED).then(&APPLIED);
    assert_eq!(story.status, RunStatus::Applied);
}

#[test]
fn interleaving_05_a_granted_apply_whose_host_is_lost_is_lost_and_its_lock_with_it() {
    let mut story = Story::new(Configuration {
        opening: EXECUTING,
        ..PLAIN
    })
    .then(&[Step::HostLost(A), Step::Expire(0, Phase::Apply)]);
    assert_eq!(
        (story.status, story.job()),
        (RunStatus::Errored, Some(JobState::Lost))
    );
    assert!(story.is_lost());
    story.refuses(Step::Mint(0, 0, Phase::Apply));
    assert!(story.then(&[Step::QuarantineEnds]).is_free());
}

#[test]
fn interleaving_12_an_engine_without_contact_is_stopped_and_its_state_is_delivered_at_return() {
    let mut story = Story::new(Configuration {
        opening: EXECUTING,
        ..PLAIN
    })
    .then(&[Step::Expire(0, Phase::Apply), Step::Dies(A), Step::Write(A)]);
    story.refuses(Step::QuarantineEnds);
    let story = story.then(&[
        Step::ContactLost(A),
        Step::Ends(A, Ending::Failed),
        Step::Restarts(A),
        Step::HandleState(A),
    ]);
    assert!(story.is_lost());
    assert_ne!(story.situation.current, 0, "nobody else has taken the lock");
    let story = story.then(&[Step::HandleEnd(A, Ending::Failed)]);
    assert!(story.is_free());
    assert_eq!(story.status, RunStatus::Errored);
}

#[test]
fn interleaving_15_an_engine_whose_agent_never_returns_is_stopped_before_the_lock_is_free() {
    let mut story = Story::new(Configuration {
        opening: EXECUTING,
        ..PLAIN
    })
    .then(&[Step::Dies(A), Step::Expire(0, Phase::Apply)]);
    story.refuses(Step::QuarantineEnds);
    let story = story.then(&[
        Step::ContactLost(A),
        Step::Ends(A, Ending::Failed),
        Step::QuarantineEnds,
    ]);
    assert!(story.is_free());
    assert_eq!(story.situation.engines(), 0);
    assert_eq!(story.situation.slots[A].process, Process::Down);
}
