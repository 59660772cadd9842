use super::*;
use crate::id::{RunId, StateVersionId, UserId};

const NOW: Timestamp = Timestamp(1_000_000);

fn run(status: RunStatus) -> Run {
    Run {
        id: RunId::from_random([1; 16]),
        status,
        plan_only: false,
        save_plan: false,
        auto_apply: false,
        allow_empty_apply: false,
        lock_epoch: Some(1),
        has_changes: None,
        plan_state: None,
        error: None,
        aftermath: Aftermath::None,
        cancel_asked_at: None,
        force_cancel_available_at: None,
    }
}

fn on(run: &Run, event: &RunEvent) -> Next {
    transition(run, event, NOW, &Times::default())
}

fn held() -> Lock {
    Lock::User(UserId::from_random([1; 16]))
}

fn finished(phase: Phase, end: End) -> RunEvent {
    RunEvent::Finished {
        phase,
        end,
        desired: Desired::Run,
        granted: true,
        needs_person: false,
    }
}

const CHANGES: End = End::Succeeded { changes: true };
const NO_CHANGES: End = End::Succeeded { changes: false };

#[test]
fn names_read_back_as_themselves() {
    for status in RunStatus::ALL {
        assert_eq!(status.to_string().parse(), Ok(*status));
    }
    assert!("nonsense".parse::<RunStatus>().is_err());
}

#[test]
fn a_run_that_may_apply_is_scheduled_only_under_a_free_lock() {
    let (next, effects) = on(&run(RunStatus::Pending), &RunEvent::Schedule { lock: Lock::Free }).unwrap();
    assert_eq!(next.status, RunStatus::PlanQueued);
    assert_eq!(effects, [RunEffect::TakeLock, RunEffect::QueueJob(Phase::Plan)]);
    assert!(on(&run(RunStatus::Pending), &RunEvent::Schedule { lock: held() }).is_err());
    for speculative in [
        Run {
            plan_only: true,
            ..run(RunStatus::Pending)
        },
        Run {
            save_plan: true,
            ..run(RunStatus::Pending)
        },
    ] {
        let (_, effects) = on(&speculative, &RunEvent::Schedule { lock: held() }).unwrap();
        assert_eq!(effects, [RunEffect::QueueJob(Phase::Plan)]);
    }
}

#[test]
fn the_end_of_a_plan_leads_where_the_run_wants_to_go() {
    let planning = run(RunStatus::Planning);
    let automatic = Run {
        auto_apply: true,
        ..planning.clone()
    };
    for (run, end, status) in [
        (planning.clone(), CHANGES, RunStatus::Planned),
        (planning.clone(), NO_CHANGES, RunStatus::PlannedAndFinished),
        (
            Run {
                plan_only: true,
                ..planning.clone()
            },
            CHANGES,
            RunStatus::PlannedAndFinished,
        ),
        (
            Run {
                save_plan: true,
                ..planning.clone()
            },
            CHANGES,
            RunStatus::PlannedAndSaved,
        ),
        (
            Run {
                save_plan: true,
                auto_apply: true,
                ..planning.clone()
            },
            CHANGES,
            RunStatus::PlannedAndSaved,
        ),
        (
            Run {
                allow_empty_apply: true,
                ..planning.clone()
            },
            NO_CHANGES,
            RunStatus::Planned,
        ),
        (automatic.clone(), CHANGES, RunStatus::ApplyQueued),
        (planning.clone(), End::Failed, RunStatus::Errored),
        (planning.clone(), End::EngineLost, RunStatus::Errored),
        (planning, End::Canceled, RunStatus::Canceled),
    ] {
        let (next, effects) = on(&run, &finished(Phase::Plan, end)).unwrap();
        assert_eq!(next.status, status, "{end:?}");
        assert_eq!(
            effects.contains(&RunEffect::ReleaseLock),
            status.is_terminal(),
            "the lock is released exactly at the end"
        );
    }
    let after_a_loss = RunEvent::Finished {
        phase: Phase::Plan,
        end: CHANGES,
        desired: Desired::Run,
        granted: false,
        needs_person: true,
    };
    assert_eq!(
        on(&automatic, &after_a_loss).unwrap().0.status,
        RunStatus::Planned
    );
    for desired in [Desired::Cancel, Desired::Kill] {
        let canceled = RunEvent::Finished {
            phase: Phase::Plan,
            end: CHANGES,
            desired,
            granted: false,
            needs_person: false,
        };
        let (next, effects) = on(&automatic, &canceled).unwrap();
        assert_eq!(
            (next.status, effects),
            (RunStatus::Canceled, vec![RunEffect::ReleaseLock])
        );
    }
}

#[test]
fn a_plan_is_confirmed_on_the_state_it_read() {
    let state = StateRef {
        version: StateVersionId::from_random([1; 16]),
        serial: Some(4),
        lineage: Some("line".to_owned()),
        sha256: Some("abc".to_owned()),
    };
    let same = StateRef {
        version: StateVersionId::from_random([2; 16]),
        ..state.clone()
    };
    let newer = StateRef {
        serial: Some(5),
        ..same.clone()
    };
    let planned = Run {
        plan_state: Some(state),
        ..run(RunStatus::Planned)
    };
    let confirm = |current| RunEvent::Confirm {
        lock: Lock::Free,
        current,
    };
    let (next, effects) = on(&planned, &confirm(Some(same.clone()))).unwrap();
    assert_eq!(next.status, RunStatus::ApplyQueued);
    assert_eq!(
        effects,
        [RunEffect::QueueJob(Phase::Apply), RunEffect::ClearLostRun]
    );
    assert_eq!(
        on(&planned, &confirm(Some(newer.clone()))),
        Err(Refusal::StalePlan)
    );
    assert_eq!(on(&planned, &confirm(None)), Err(Refusal::StalePlan));
    // Pushed by force: serial and lineage are the old ones, what it says is not.
    let pushed = StateRef {
        sha256: Some("def".to_owned()),
        ..same.clone()
    };
    assert_eq!(on(&planned, &confirm(Some(pushed))), Err(Refusal::StalePlan));
    let unknown = StateRef {
        sha256: None,
        ..same.clone()
    };
    assert_eq!(on(&planned, &confirm(Some(unknown))), Err(Refusal::StalePlan));
    let saved = planned.with(RunStatus::PlannedAndSaved);
    let (_, effects) = on(&saved, &confirm(Some(same.clone()))).unwrap();
    assert_eq!(effects[0], RunEffect::TakeLock);
    assert_eq!(on(&saved, &confirm(Some(newer))), Err(Refusal::StalePlan));
    let locked = RunEvent::Confirm {
        lock: held(),
        current: Some(same),
    };
    assert!(matches!(on(&saved, &locked), Err(Refusal::LockedByUser(_))));
}

#[test]
fn only_waiting_runs_are_discarded() {
    for status in RunStatus::ALL {
        let result = on(&run(*status), &RunEvent::Discard);
        match status {
            RunStatus::Pending | RunStatus::Planned | RunStatus::PlannedAndSaved => {
                assert_eq!(result.unwrap().0.status, RunStatus::Discarded);
            }
            other => assert!(result.is_err(), "{other}"),
        }
    }
}

#[test]
fn a_cancel_ends_what_nobody_works_on_and_asks_the_others() {
    let cancel = |job| RunEvent::Cancel { job };
    let (next, _) = on(&run(RunStatus::Pending), &cancel(None)).unwrap();
    assert_eq!(next.status, RunStatus::Canceled);
    assert_eq!(
        next.force_cancel_available_at,
        Some(NOW + Times::default().cool_off)
    );
    for (status, phase) in [
        (RunStatus::PlanQueued, Phase::Plan),
        (RunStatus::ApplyQueued, Phase::Apply),
    ] {
        let (next, effects) = on(&run(status), &cancel(Some(JobState::Queued))).unwrap();
        assert_eq!(next.status, RunStatus::Canceled);
        assert_eq!(effects, [RunEffect::WithdrawJob(phase), RunEffect::ReleaseLock]);
    }
    for (status, state) in [
        (RunStatus::Planning, JobState::Running),
        (RunStatus::ApplyQueued, JobState::Leased),
        (RunStatus::Applying, JobState::Running),
    ] {
        let (next, effects) = on(&run(status), &cancel(Some(state))).unwrap();
        assert_eq!(next.status, status);
        assert!(matches!(effects[..], [RunEffect::StopJob(_, Desired::Cancel)]));
        let (again, _) = transition(
            &next,
            &cancel(Some(state)),
            Timestamp(i64::MAX),
            &Times::default(),
        )
        .unwrap();
        assert_eq!(again.cancel_asked_at, Some(NOW), "the first cancel counts");
    }
    for status in [RunStatus::Planned, RunStatus::PlannedAndSaved] {
        assert_eq!(
            on(&run(status), &cancel(None)),
            Err(Refusal::DiscardInstead(status))
        );
    }
}

#[test]
fn a_force_cancel_waits_for_the_cool_off() {
    let force = |granted| RunEvent::ForceCancel {
        job: Some(JobState::Running),
        granted,
    };
    assert_eq!(
        on(&run(RunStatus::Applying), &force(true)),
        Err(Refusal::NotCanceledYet)
    );
    let asked = |at| Run {
        cancel_asked_at: Some(NOW),
        force_cancel_available_at: Some(at),
        ..run(RunStatus::Applying)
    };
    let later = NOW + crate::time::Millis(1);
    assert_eq!(
        on(&asked(later), &force(true)),
        Err(Refusal::CoolOff { available_at: later })
    );
    let (next, effects) = on(&asked(NOW), &force(true)).unwrap();
    assert_eq!(next.status, RunStatus::ForceCanceled);
    assert_eq!(
        effects,
        [
            RunEffect::StopJob(Phase::Apply, Desired::Kill),
            RunEffect::SnapshotCurrent,
            RunEffect::LoseLock
        ]
    );
    let (_, effects) = on(&asked(NOW), &force(false)).unwrap();
    assert_eq!(
        effects,
        [
            RunEffect::StopJob(Phase::Apply, Desired::Kill),
            RunEffect::ReleaseLock
        ]
    );
    let waiting = RunEvent::ForceCancel {
        job: Some(JobState::Queued),
        granted: false,
    };
    assert!(
        on(
            &Run {
                status: RunStatus::ApplyQueued,
                ..asked(NOW)
            },
            &waiting
        )
        .is_err()
    );
}

#[test]
fn the_end_of_an_apply_makes_its_last_state_current() {
    for (end, status) in [
        (NO_CHANGES, RunStatus::Applied),
        (End::Failed, RunStatus::Errored),
        (End::EngineLost, RunStatus::Errored),
        (End::Canceled, RunStatus::Canceled),
    ] {
        let (next, effects) = on(&run(RunStatus::Applying), &finished(Phase::Apply, end)).unwrap();
        assert_eq!(next.status, status);
        assert_eq!(effects, [RunEffect::SnapshotCurrent, RunEffect::ReleaseLock]);
    }
    let (next, effects) = on(&run(RunStatus::ApplyQueued), &finished(Phase::Apply, End::Failed)).unwrap();
    assert_eq!(
        (next.status, effects),
        (RunStatus::Errored, vec![RunEffect::ReleaseLock])
    );
    assert!(on(&run(RunStatus::ApplyQueued), &finished(Phase::Apply, NO_CHANGES)).is_err());
}

#[test]
fn a_lost_job_ends_the_run_and_only_a_granted_apply_keeps_the_lock() {
    let lost = |phase, granted| RunEvent::Lost {
        phase,
        granted,
        reason: ErrorReason::AgentLost,
    };
    let (next, effects) = on(&run(RunStatus::Applying), &lost(Phase::Apply, true)).unwrap();
    assert_eq!(
        (next.status, next.error),
        (RunStatus::Errored, Some(ErrorReason::AgentLost))
    );
    assert_eq!(effects, [RunEffect::SnapshotCurrent, RunEffect::LoseLock]);
    for (status, phase) in [
        (RunStatus::Planning, Phase::Plan),
        (RunStatus::ApplyQueued, Phase::Apply),
    ] {
        let (next, effects) = on(&run(status), &lost(phase, false)).unwrap();
        assert_eq!(
            (next.status, effects),
            (RunStatus::Errored, vec![RunEffect::ReleaseLock])
        );
    }
}

#[test]
fn a_terminal_status_never_changes() {
    let events = [
        finished(Phase::Plan, CHANGES),
        finished(Phase::Apply, NO_CHANGES),
        RunEvent::Returned { phase: Phase::Plan },
        RunEvent::Returned { phase: Phase::Apply },
        RunEvent::Lost {
            phase: Phase::Apply,
            granted: true,
            reason: ErrorReason::AgentLost,
        },
        RunEvent::Requeued { phase: Phase::Plan },
        RunEvent::Granted,
        RunEvent::Schedule { lock: Lock::Free },
        RunEvent::Confirm {
            lock: Lock::Free,
            current: None,
        },
        RunEvent::Discard,
        RunEvent::Cancel { job: None },
        RunEvent::ForceCancel {
            job: Some(JobState::Running),
            granted: true,
        },
    ];
    for status in RunStatus::ALL.iter().filter(|status| status.is_terminal()) {
        for event in &events {
            if let Ok((next, effects)) = on(&run(*status), event) {
                assert_eq!((next.status, effects), (*status, Vec::new()), "{event:?}");
            }
        }
    }
}

#[test]
fn actions_say_what_the_table_allows() {
    for status in RunStatus::ALL {
        let row = run(*status);
        let actions = row.actions(NOW);
        let confirm = RunEvent::Confirm {
            lock: Lock::Free,
            current: None,
        };
        assert_eq!(actions.is_confirmable, on(&row, &confirm).is_ok(), "{status}");
        assert_eq!(
            actions.is_discardable,
            on(&row, &RunEvent::Discard).is_ok(),
            "{status}"
        );
        let cancel = [None, Some(JobState::Queued), Some(JobState::Running)]
            .into_iter()
            .any(|job| on(&row, &RunEvent::Cancel { job }).is_ok());
        assert_eq!(actions.is_cancelable, cancel, "{status}");
        assert!(!actions.is_force_cancelable);
    }
}
