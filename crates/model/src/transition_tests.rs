use super::*;
use crate::id::{AgentId, RunId};
use crate::job::JobState;
use crate::lock::Workspace;
use crate::run::{Run, RunStatus};
use crate::time::Millis;

const NOW: Timestamp = Timestamp(1_000_000);

fn attempt(byte: u8) -> AttemptId {
    AttemptId::from_random([byte; 16])
}

fn new() -> Rows {
    Rows {
        workspace: Workspace::new(),
        run: Run {
            id: RunId::from_random([1; 16]),
            status: RunStatus::Pending,
            plan_only: false,
            save_plan: false,
            auto_apply: true,
            allow_empty_apply: false,
            lock_epoch: None,
            has_changes: None,
            plan_state: None,
            error: None,
            aftermath: Aftermath::None,
            cancel_asked_at: None,
            force_cancel_available_at: None,
        },
        plan: None,
        apply: None,
    }
}

fn claim(phase: Phase, generation_seen: u64, by: u8) -> Event {
    Event::Claim(Claim {
        phase,
        generation_seen,
        attempt: attempt(by),
        agent: AgentId::from_random([1; 16]),
        session: 1,
        session_is_newest: true,
        incarnation_is_equal: true,
        pool_is_allowed: true,
        current: None,
    })
}

fn finish(phase: Phase, by: u8, end: End) -> Event {
    Event::Finish {
        phase,
        generation: 1,
        attempt: attempt(by),
        end,
    }
}

const DONE: End = End::Succeeded { changes: true };

fn step(rows: &Rows, event: &Event) -> Outcome {
    at(rows, event, NOW)
}

fn at(rows: &Rows, event: &Event, now: Timestamp) -> Outcome {
    transition(rows, event, now, &Times::default()).unwrap_or_else(|refusal| panic!("{event:?}: {refusal}"))
}

/// A run whose apply was granted to attempt 2.
fn applying() -> Rows {
    let events = [
        Event::Schedule,
        claim(Phase::Plan, 0, 1),
        finish(Phase::Plan, 1, DONE),
        claim(Phase::Apply, 0, 2),
        Event::Start {
            generation: 1,
            attempt: attempt(2),
        },
    ];
    events.iter().fold(new(), |rows, event| step(&rows, event).rows)
}

fn expired() -> Timestamp {
    Times::default().expires_at(Phase::Apply, NOW) + Millis(1)
}

fn lost() -> Rows {
    at(&applying(), &Event::Expire { phase: Phase::Apply }, expired()).rows
}

#[test]
fn a_run_goes_from_pending_to_applied() {
    let rows = applying();
    assert_eq!(rows.run.status, RunStatus::Applying);
    assert!(rows.workspace.is_held_by(&rows.run.id, rows.run.lock_epoch));
    let done = step(&rows, &finish(Phase::Apply, 2, DONE));
    assert_eq!(done.rows.run.status, RunStatus::Applied);
    assert_eq!(done.rows.workspace.lock, Lock::Free);
    assert_eq!(
        done.effects,
        [
            Effect::SnapshotCurrent,
            Effect::LogEnded(Phase::Apply),
            Effect::RunEnded,
            Effect::LockFreed
        ]
    );
}

#[test]
fn a_lost_apply_leaves_a_quarantine_that_its_own_end_frees() {
    let rows = lost();
    assert_eq!(rows.run.status, RunStatus::Errored);
    let safe_at = Times::default().safe_at(NOW);
    assert_eq!(
        rows.workspace.lock,
        Lock::Lost {
            run: rows.run.id.clone(),
            safe_at
        }
    );
    let late = step(&rows, &finish(Phase::Apply, 2, DONE));
    assert_eq!(late.rows.run.status, RunStatus::Errored);
    assert_eq!(late.rows.run.aftermath, Aftermath::Delivered);
    assert_eq!(late.rows.workspace.lock, Lock::Free);
    let returned = Event::NeverStarted {
        phase: Phase::Apply,
        generation: 1,
        attempt: attempt(2),
    };
    assert_eq!(step(&rows, &returned).rows.workspace.lock, Lock::Free);
}

#[test]
fn a_late_end_never_changes_a_lock_that_somebody_took_since() {
    let mut rows = lost();
    rows.workspace = rows.workspace.quarantine_ended(Timestamp(i64::MAX)).unwrap();
    rows.workspace = rows.workspace.take_for_run(&RunId::from_random([9; 16])).unwrap();
    let late = step(&rows, &finish(Phase::Apply, 2, DONE));
    assert_eq!(late.rows.workspace.lock, rows.workspace.lock);
    assert_eq!(
        late.rows.workspace.lost_run,
        Some(rows.run.id),
        "its state was kept apart: a person has to look"
    );
}

#[test]
fn a_contact_in_quarantine_moves_it() {
    let contact = Event::Contact {
        phase: Phase::Apply,
        generation: 1,
        attempt: attempt(2),
        at: NOW + Millis(7),
    };
    let Lock::Lost { safe_at, .. } = step(&lost(), &contact).rows.workspace.lock else {
        panic!("the quarantine has ended");
    };
    assert_eq!(safe_at, Times::default().safe_at(NOW + Millis(7)));
}

#[test]
fn an_override_needs_the_attempt_and_tells_it_to_stop() {
    let rows = lost();
    let plain = transition(
        &rows,
        &Event::ForceUnlock { acknowledge: None },
        NOW,
        &Times::default(),
    );
    assert!(
        matches!(&plain, Err(Refusal::LockedByLostRun { attempt: Some(found), last_contact: Some(_), .. })
            if *found == attempt(2))
    );
    let done = step(
        &rows,
        &Event::ForceUnlock {
            acknowledge: Some(attempt(2)),
        },
    );
    assert_eq!(done.rows.workspace.lock, Lock::Free);
    assert_eq!(done.rows.workspace.lost_run, Some(rows.run.id));
    assert_eq!(done.rows.run.aftermath, Aftermath::Overridden);
    assert_eq!(done.rows.apply.map(|job| job.desired), Some(Desired::Kill));
}

#[test]
fn a_force_cancel_of_a_started_apply_waits_for_its_end() {
    let times = Times::default();
    let asked = step(&applying(), &Event::Cancel).rows;
    let forced = at(&asked, &Event::ForceCancel, NOW + times.cool_off).rows;
    assert_eq!(forced.run.status, RunStatus::ForceCanceled);
    assert!(matches!(forced.workspace.lock, Lock::Lost { .. }));
    let silent = at(&forced, &Event::Expire { phase: Phase::Apply }, expired()).rows;
    assert_eq!(silent.run.status, RunStatus::ForceCanceled);
    assert!(
        matches!(silent.workspace.lock, Lock::Lost { .. }),
        "silence is no confirmation"
    );
    let done = step(&silent, &finish(Phase::Apply, 2, End::Canceled)).rows;
    assert_eq!(done.workspace.lock, Lock::Free);
    let returned = Event::NeverStarted {
        phase: Phase::Apply,
        generation: 1,
        attempt: attempt(2),
    };
    assert_eq!(step(&forced, &returned).rows.workspace.lock, Lock::Free);
}

#[test]
fn a_claim_tells_why_it_is_refused() {
    let queued = step(&new(), &Event::Schedule).rows;
    let Event::Claim(good) = claim(Phase::Plan, 0, 1) else {
        panic!("no claim")
    };
    for bad in [
        Claim {
            incarnation_is_equal: false,
            ..good.clone()
        },
        Claim {
            session_is_newest: false,
            ..good.clone()
        },
        Claim {
            pool_is_allowed: false,
            ..good
        },
    ] {
        let refused = transition(&queued, &Event::Claim(bad), NOW, &Times::default());
        assert!(matches!(refused, Err(Refusal::NotAllowed(_))), "{refused:?}");
    }
    let apply = claim(Phase::Apply, 0, 1);
    assert_eq!(
        transition(&queued, &apply, NOW, &Times::default()),
        Err(Refusal::NoJob)
    );
}

/// A run in each status that has not ended, the lock its own where it needs one.
fn active() -> Vec<Rows> {
    let events = [
        Event::Schedule,
        claim(Phase::Plan, 0, 1),
        finish(Phase::Plan, 1, DONE),
        claim(Phase::Apply, 0, 2),
        Event::Start {
            generation: 1,
            attempt: attempt(2),
        },
    ];
    let mut all = vec![new()];
    for event in &events {
        let next = step(all.last().unwrap(), event).rows;
        all.push(next);
    }
    let waiting = |run: Run| {
        let first = Rows { run, ..new() };
        events[..3]
            .iter()
            .fold(first, |rows, event| step(&rows, event).rows)
    };
    all.push(waiting(Run {
        auto_apply: false,
        ..new().run
    }));
    all.push(waiting(Run {
        save_plan: true,
        ..new().run
    }));
    all
}

#[test]
fn interleaving_18_a_restore_ends_every_run_and_quarantines_what_it_held() {
    let mut seen = std::collections::BTreeSet::new();
    let later = NOW + Millis(5);
    for rows in active() {
        seen.insert(rows.run.status);
        let outcome = at(&rows, &Event::Restored, later);
        let restored = outcome.rows;
        assert_eq!(restored.run.status, RunStatus::Errored);
        assert_eq!(restored.run.error, Some(ErrorReason::Restored));
        assert_eq!(restored.workspace.lost_run, Some(rows.run.id.clone()));
        let expected = match rows.workspace.lock {
            Lock::Run(run) => Lock::Lost {
                run,
                safe_at: Times::default().safe_at(later),
            },
            other => other,
        };
        assert_eq!(restored.workspace.lock, expected);
        for job in [&restored.plan, &restored.apply].into_iter().flatten() {
            assert!(job.state == JobState::Done || job.attempt.is_none());
            assert!(!job.is_held() && job.state != JobState::Queued);
        }
        assert!(outcome.effects.contains(&Effect::RunEnded));
    }
    assert_eq!(
        seen.len(),
        RunStatus::ALL
            .iter()
            .filter(|status| !status.is_terminal())
            .count(),
        "every status that is not terminal"
    );
}

#[test]
fn after_a_restore_no_attempt_of_the_other_history_frees_the_quarantine() {
    for rows in [applying(), lost()] {
        let restored = at(&rows, &Event::Restored, NOW + Millis(5)).rows;
        let late = transition(&restored, &finish(Phase::Apply, 2, DONE), NOW, &Times::default());
        assert_eq!(late, Err(Refusal::OtherAttempt));
        let freed = step(&restored, &Event::ForceUnlock { acknowledge: None }).rows;
        assert_eq!(freed.workspace.lock, Lock::Free);
    }
    let done = step(&applying(), &finish(Phase::Apply, 2, DONE)).rows;
    assert_eq!(
        transition(&done, &Event::Restored, NOW, &Times::default()),
        Err(Refusal::RunEnded(RunStatus::Applied))
    );
}

#[test]
fn after_a_restore_the_next_run_waits_for_a_person() {
    let restored = step(&applying(), &Event::Restored).rows;
    let mut next = new();
    next.run.id = RunId::from_random([2; 16]);
    next.workspace = restored.workspace.quarantine_ended(Timestamp(i64::MAX)).unwrap();
    let planned = [
        Event::Schedule,
        claim(Phase::Plan, 0, 1),
        finish(Phase::Plan, 1, DONE),
    ]
    .iter()
    .fold(next, |rows, event| step(&rows, event).rows);
    assert_eq!(planned.run.status, RunStatus::Planned);
    let confirmed = step(&planned, &Event::Confirm { current: None }).rows;
    assert_eq!(confirmed.workspace.lost_run, None);
}

fn start() -> Event {
    Event::Start {
        generation: 1,
        attempt: attempt(2),
    }
}

#[test]
fn a_repeated_start_is_granted_anew_or_not_at_all() {
    let rows = applying();
    let repeated = at(&rows, &start(), NOW + Millis(9));
    assert_eq!(repeated.job, Some(JobResult::GrantRepeated));
    assert_eq!(
        repeated.rows.apply.as_ref().unwrap().last_contact,
        Some(NOW + Millis(9))
    );
    assert_eq!(repeated.rows.run, rows.run);

    let times = Times::default();
    let canceled = step(&rows, &Event::Cancel).rows;
    assert_eq!(
        transition(&canceled, &start(), NOW, &times),
        Err(Refusal::NotWanted(Desired::Cancel))
    );
    assert_eq!(transition(&lost(), &start(), NOW, &times), Err(Refusal::JobEnded));
    let mut moved = rows.clone();
    moved.workspace.lock_epoch += 1;
    assert_eq!(transition(&moved, &start(), NOW, &times), Err(Refusal::LockMoved));
    let mut ended = rows;
    ended.run.status = RunStatus::Errored;
    assert_eq!(
        transition(&ended, &start(), NOW, &times),
        Err(Refusal::RunEnded(RunStatus::Errored))
    );
}

#[test]
fn both_logs_end_when_a_run_ends_before_its_apply() {
    let queued = step(&new(), &Event::Schedule).rows;
    let canceled = step(&queued, &Event::Cancel);
    assert!(canceled.effects.contains(&Effect::LogEnded(Phase::Plan)));
    assert!(canceled.effects.contains(&Effect::LogEnded(Phase::Apply)));
    assert!(canceled.effects.contains(&Effect::LockFreed));
}

#[test]
fn a_job_that_is_queued_again_keeps_its_log() {
    let planning = step(&step(&new(), &Event::Schedule).rows, &claim(Phase::Plan, 0, 1)).rows;
    let late = Times::default().expires_at(Phase::Plan, NOW) + Millis(1);
    let again = at(&planning, &Event::Expire { phase: Phase::Plan }, late);
    assert_eq!(
        again.effects,
        [Effect::LogRetried(Phase::Plan), Effect::JobQueued(Phase::Plan)]
    );
    assert_eq!(again.rows.run.status, RunStatus::PlanQueued);
}

#[test]
fn interleaving_10_a_partition_shorter_than_the_lease_changes_nothing() {
    let times = Times::default();
    for (rows, phase) in [
        (applying(), Phase::Apply),
        (
            step(&step(&new(), &Event::Schedule).rows, &claim(Phase::Plan, 0, 1)).rows,
            Phase::Plan,
        ),
    ] {
        let ends = times.expires_at(phase, NOW);
        assert_eq!(
            transition(&rows, &Event::Expire { phase }, ends, &times),
            Err(Refusal::NotDue)
        );
        let by = rows.job(phase).unwrap().attempt.clone().unwrap();
        let contact = Event::Contact {
            phase,
            generation: 1,
            attempt: by,
            at: ends,
        };
        let heard = at(&rows, &contact, ends).rows;
        assert_eq!((&heard.run, &heard.workspace), (&rows.run, &rows.workspace));
        let later = times.expires_at(phase, ends);
        assert_eq!(
            transition(&heard, &Event::Expire { phase }, later, &times),
            Err(Refusal::NotDue)
        );
    }
}
