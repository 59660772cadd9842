//! The small configurations, searched completely: every invariant, and what has to be reachable.

use terrapool_verification::configuration::named;
use terrapool_verification::search::{Task, search};

/// `at_least`: situations below which the search has lost something that it used to see.
fn holds(name: &str, at_least: usize) {
    let configuration = named(name).expect(name);
    let found = search(Task {
        graph: true,
        ..Task::new(configuration)
    });
    if let Some(violation) = found.violation {
        panic!(
            "{name}: {} breaks: {:#?}",
            violation.invariant.as_str(),
            violation.trace
        );
    }
    assert!(found.complete);
    assert!(
        found.situations >= at_least,
        "{name}: only {} situations",
        found.situations
    );
}

#[test]
fn a_plan_holds_with_three_attempts_and_failures() {
    holds("plan-only", 1_000);
}

#[test]
fn an_apply_holds_with_two_attempts() {
    holds("apply", 100_000);
}

#[test]
fn an_apply_holds_with_failures_an_override_and_a_user_s_lock() {
    holds("apply-1", 25_000);
}

#[test]
fn an_apply_without_contact_limit_holds() {
    holds("apply-never", 40_000);
}

#[test]
fn a_saved_plan_holds_beside_a_user_s_lock() {
    holds("saved-1", 10_000);
}

#[test]
fn plan_and_apply_of_one_run_hold() {
    holds("auto-apply-1", 15_000);
    holds("confirmed-1", 15_000);
}

#[test]
fn two_applies_hold_one_after_the_other() {
    holds("two-applies-1", 30_000);
}

#[test]
fn a_saved_plan_and_an_apply_hold() {
    holds("saved-and-apply-1", 30_000);
}

#[test]
fn a_second_apply_holds_beside_a_lost_one_that_still_executes() {
    holds("lost-and-apply", 400_000);
}
