//! A guard that is taken out has to be noticed: each test takes one out, and the search finds the invariant that the
//! guard protects.

use terrapool_verification::configuration::{Configuration, EXECUTING, EXECUTING_AGAIN, Kind, PLAIN, named};
use terrapool_verification::guard::Guard;
use terrapool_verification::invariant::Invariant;
use terrapool_verification::search::{Task, search};

/// Two applies, the first of which executes.
const SECOND_WAITS: Configuration = Configuration {
    name: "the second apply waits",
    runs: &[Kind::ApplyOnly, Kind::ApplyOnly],
    opening: EXECUTING,
    ..PLAIN
};

/// Two applies, the first of which executes in its second attempt, while the first gives it back.
const FIRST_ATTEMPT_RETURNS: Configuration = Configuration {
    name: "the first attempt returns",
    slots: 3,
    opening: EXECUTING_AGAIN,
    ..SECOND_WAITS
};

/// An apply executes while a saved plan waits.
const SAVED_WAITS: Configuration = Configuration {
    name: "the saved plan waits",
    runs: &[Kind::ApplyOnly, Kind::SavedPlan],
    opening: EXECUTING,
    ..PLAIN
};

fn is_noticed(guard: Guard, configuration: &Configuration, invariant: Invariant) {
    let graph = matches!(
        invariant,
        Invariant::NoCircle | Invariant::EndReachable | Invariant::EndReachableAlone
    );
    let found = search(Task {
        removed: Some(guard),
        only: Some(invariant),
        graph,
        ..Task::new(configuration)
    });
    let Some(violation) = found.violation else {
        panic!(
            "{guard:?} is missing and {} situations of {} do not notice",
            found.situations, configuration.name
        );
    };
    assert_eq!(violation.invariant, invariant);
    assert!(!violation.trace.is_empty());
    println!(
        "{guard:?}: {} after {} steps, {} situations",
        invariant.as_str(),
        violation.trace.len(),
        found.situations
    );
}

macro_rules! noticed {
    ($($test:ident: $guard:ident in $configuration:expr => $invariant:ident;)*) => {
        $(
            #[test]
            fn $test() {
                is_noticed(Guard::$guard, &$configuration, Invariant::$invariant);
            }
        )*

        #[test]
        fn every_guard_has_a_test() {
            let tested = [$(Guard::$guard),*];
            for guard in Guard::ALL {
                assert!(tested.contains(guard), "{guard:?}");
            }
        }
    };
}

fn small(name: &str) -> Configuration {
    *named(name).expect(name)
}

noticed! {
    claims_and_starts_compare_the_attempt: AttemptCompared in small("apply") => ExecutedOnce;
    an_apply_needs_its_start_grant: StartGrant in small("apply") => ExecutedOnce;
    a_granted_apply_is_never_queued_again: GrantedNeverQueued in small("apply") => NoStateLost;
    a_state_is_compared_with_the_epoch: StateEpoch in small("two-applies-1") => HolderWrites;
    a_quarantine_lasts_until_it_is_safe: SafeAt in SECOND_WAITS => OneEngine;
    a_lost_apply_leaves_a_quarantine: LostLock in SECOND_WAITS => OneEngine;
    a_force_cancel_leaves_a_quarantine: ForceCancelQuarantine in SECOND_WAITS => OneEngine;
    a_terminal_status_is_final: TerminalFinal in small("apply") => TerminalFinal;
    a_late_state_is_kept_apart: KeptApart in small("two-applies-1") => NoStateLost;
    never_started_is_said_after_the_grant_was_given_up: GrantGivenUp in small("apply") => ExecutedOnce;
    never_started_is_said_with_the_marker_absent: MarkerAbsent in small("apply") => NoStateLost;
    nothing_starts_that_is_to_stop: StartWanted in small("apply") => StoppedStaysStopped;
    a_repeated_start_is_granted_anew: RepeatedStart in small("apply") => StoppedStaysStopped;
    what_falls_silent_and_is_to_stop_is_not_queued_again: ExpireWanted in small("apply") => StoppedStaysStopped;
    what_is_given_back_and_is_to_stop_is_not_queued_again: ReturnWanted in small("apply") => StoppedStaysStopped;
    a_job_is_tried_only_so_often: Tries in small("apply-1") => NoCircle;
    a_saved_plan_takes_a_free_lock: SavedLockFree in SAVED_WAITS => HolderWrites;
    a_saved_plan_is_applied_on_the_state_it_read: SavedStateSame in small("saved-and-apply-1") => PlanFresh;
    an_end_waits_for_its_state: StateBeforeEnd in small("apply") => NoStateLost;
    an_end_names_the_holder: EndMatches in FIRST_ATTEMPT_RETURNS => OneEngine;
    a_run_takes_a_free_lock: ScheduledLockFree in SECOND_WAITS => HolderWrites;
    a_plan_s_end_honours_a_cancel: PlanEndCanceled in small("auto-apply-1") => StoppedStaysStopped;
    only_the_lost_attempt_frees_its_quarantine: LateEndMatches in FIRST_ATTEMPT_RETURNS => OneEngine;
}

#[test]
fn a_quarantine_without_limit_that_nobody_may_override_is_noticed() {
    let configuration = Configuration {
        overrides: 0,
        ..small("apply-never")
    };
    for invariant in [Invariant::EndReachable, Invariant::EndReachableAlone] {
        let found = search(Task {
            only: Some(invariant),
            graph: true,
            ..Task::new(&configuration)
        });
        assert_eq!(
            found.violation.map(|violation| violation.invariant),
            Some(invariant)
        );
    }
}
