use terrapool_protocol::runner::RunnerStage;

use super::*;

const TIMES: JobTimes = JobTimes {
    contact_limit: Some(Millis(60_000)),
    grace: Millis(60_000),
    kill_after: Millis(10_000),
    start_window: Millis(20_000),
};

fn attempt(phase: Phase, state: State) -> Attempt {
    let job = JobId::from_random([1; 16]);
    let id = AttemptId::from_random([2; 16]);
    Attempt {
        times: Some(TIMES),
        state,
        ..Attempt::new(job, 1, id, phase, 1, Boottime(0))
    }
}

fn after(attempt: &Attempt, event: Event, now: u64) -> (State, Vec<Action>) {
    let (next, actions) = step(attempt, event, Boottime(now)).unwrap();
    (next.state, actions)
}

#[test]
fn a_plan_runs_as_soon_as_it_is_prepared_and_an_apply_asks_first() {
    let (state, actions) = after(&attempt(Phase::Plan, State::Preparing), Event::Prepared, 5);
    assert_eq!((state, actions), (State::Running, vec![Action::Journal]));
    let (state, actions) = after(&attempt(Phase::Apply, State::Preparing), Event::Prepared, 5);
    assert_eq!(state, State::Starting { sent: Boottime(5) });
    assert_eq!(actions, [Action::Journal, Action::SendStart]);
}

#[test]
fn a_grant_is_used_within_its_window_only() {
    let starting = attempt(Phase::Apply, State::Starting { sent: Boottime(1000) });
    let (state, actions) = after(&starting, Event::Granted, 20_999);
    assert_eq!(state, State::Running);
    assert_eq!(actions.last(), Some(&Action::Go));
    let (state, actions) = after(&starting, Event::Granted, 21_000);
    assert!(matches!(state, State::Returning { .. }));
    assert!(!actions.contains(&Action::Go));
}

#[test]
fn a_grant_that_arrives_after_a_stop_is_not_used() {
    let stopping = attempt(
        Phase::Apply,
        State::Stopping {
            kind: StopKind::Cancel,
            reason: StopReason::Canceled,
        },
    );
    let (state, actions) = after(&stopping, Event::Granted, 10);
    assert_eq!(
        state,
        State::Stopping {
            kind: StopKind::Cancel,
            reason: StopReason::Canceled,
        }
    );
    assert!(actions.is_empty());
}

#[test]
fn the_contact_limit_counts_from_when_the_answered_sync_was_sent() {
    let running = attempt(Phase::Plan, State::Running);
    let (renewed, actions) = step(
        &running,
        Event::Verdict {
            sent: Boottime(10_000),
            verdict: Verdict::Keep,
        },
        Boottime(35_000),
    )
    .unwrap();
    assert_eq!(
        actions,
        [Action::Renew {
            remaining: Some(Millis(35_000))
        }]
    );
    let (state, _) = after(&renewed, Event::Tick, 69_999);
    assert_eq!(state, State::Running);
    let (state, actions) = after(&renewed, Event::Tick, 70_000);
    assert_eq!(
        state,
        State::Stopping {
            kind: StopKind::Cancel,
            reason: StopReason::LostContact,
        }
    );
    assert_eq!(
        actions,
        [Action::Stop {
            kind: StopKind::Cancel,
            reason: StopReason::LostContact
        }]
    );
}

#[test]
fn repeated_cancels_stop_once_and_a_kill_escalates() {
    let cancel = Event::Verdict {
        sent: Boottime(1),
        verdict: Verdict::Cancel,
    };
    let running = attempt(Phase::Apply, State::Running);
    let (stopping, actions) = step(&running, cancel.clone(), Boottime(2)).unwrap();
    assert!(actions.contains(&Action::Stop {
        kind: StopKind::Cancel,
        reason: StopReason::Canceled
    }));
    let (_, actions) = step(&stopping, cancel, Boottime(3)).unwrap();
    assert!(!actions.iter().any(|action| matches!(action, Action::Stop { .. })));
    let kill = Event::Verdict {
        sent: Boottime(4),
        verdict: Verdict::Kill,
    };
    let (killed, actions) = step(&stopping, kill, Boottime(5)).unwrap();
    assert_eq!(
        killed.state,
        State::Stopping {
            kind: StopKind::Kill,
            reason: StopReason::Canceled,
        }
    );
    assert!(actions.contains(&Action::Stop {
        kind: StopKind::Kill,
        reason: StopReason::Canceled
    }));
}

#[test]
fn a_cancel_before_a_runner_has_the_job_gives_the_assignment_back() {
    let claimed = attempt(Phase::Apply, State::Claimed);
    let (state, actions) = after(
        &claimed,
        Event::Verdict {
            sent: Boottime(1),
            verdict: Verdict::Cancel,
        },
        2,
    );
    assert!(matches!(state, State::Returning { .. }));
    assert!(matches!(
        actions.last(),
        Some(Action::Finish {
            outcome: Outcome::NeverStarted { .. }
        })
    ));
}

#[test]
fn a_sandbox_that_vanishes_is_lost_or_never_started_by_its_marker() {
    let running = attempt(Phase::Apply, State::Running);
    let (state, _) = after(&running, Event::SandboxVanished { marker: true }, 2);
    assert!(matches!(
        state,
        State::Delivering {
            outcome: Outcome::EngineLost { .. }
        }
    ));
    let starting = attempt(Phase::Apply, State::Starting { sent: Boottime(0) });
    let (state, _) = after(&starting, Event::SandboxVanished { marker: false }, 2);
    assert!(matches!(state, State::Returning { .. }));
}

#[test]
fn every_change_that_a_restart_must_know_is_journaled_first() {
    let times = TIMES;
    let events = [
        (
            State::Claiming,
            Event::ClaimAccepted {
                generation: 2,
                sent: Boottime(1),
                times,
            },
        ),
        (State::Claiming, Event::ClaimFailed),
        (
            State::Claimed,
            Event::SandboxFailed {
                message: "no".to_owned(),
            },
        ),
        (State::Preparing, Event::Prepared),
        (State::Starting { sent: Boottime(1) }, Event::Granted),
        (
            State::Running,
            Event::Ended {
                outcome: Outcome::Canceled,
                marker: true,
            },
        ),
        (
            State::Delivering {
                outcome: Outcome::Canceled,
            },
            Event::FinishAnswered,
        ),
    ];
    for (state, event) in events {
        let (_, actions) = after(&attempt(Phase::Apply, state.clone()), event, 3);
        assert_eq!(actions.first(), Some(&Action::Journal), "{state:?}");
    }
}

#[test]
fn an_attempt_is_reported_from_its_claim_until_it_is_over() {
    for (state, reported) in [
        (State::Claiming, false),
        (State::Claimed, true),
        (State::Preparing, true),
        (State::Running, true),
        (
            State::Delivering {
                outcome: Outcome::Canceled,
            },
            true,
        ),
        (State::Done, false),
    ] {
        assert_eq!(attempt(Phase::Plan, state).report().is_some(), reported);
    }
}

fn stopped(reason: StopReason) -> State {
    State::Stopping {
        kind: StopKind::Cancel,
        reason,
    }
}

fn verdict(verdict: Verdict) -> Event {
    Event::Verdict {
        sent: Boottime(1),
        verdict,
    }
}

const ENDED_BEFORE_THE_ENGINE: Event = Event::Ended {
    outcome: Outcome::Canceled,
    marker: false,
};

#[test]
fn a_job_that_is_canceled_while_its_runner_prepares_it_delivers_what_was_printed() {
    for phase in [Phase::Plan, Phase::Apply] {
        let (preparing, actions) =
            step(&attempt(phase, State::Claimed), Event::HandedOver, Boottime(1)).unwrap();
        assert_eq!((&preparing.state, actions), (&State::Preparing, Vec::new()));
        let (stopping, actions) = step(&preparing, verdict(Verdict::Cancel), Boottime(2)).unwrap();
        assert_eq!(stopping.state, stopped(StopReason::Canceled));
        assert!(actions.contains(&Action::Stop {
            kind: StopKind::Cancel,
            reason: StopReason::Canceled
        }));
        for end in [ENDED_BEFORE_THE_ENGINE, Event::SandboxVanished { marker: false }] {
            let outcome = Outcome::Canceled;
            let (state, actions) = after(&stopping, end, 3);
            assert_eq!(
                state,
                State::Delivering {
                    outcome: outcome.clone()
                }
            );
            assert_eq!(actions, [Action::Journal, Action::Finish { outcome }]);
        }
    }
}

#[test]
fn what_only_this_host_stopped_before_the_engine_is_given_back() {
    for reason in [StopReason::AgentEnds, StopReason::LostContact] {
        for end in [ENDED_BEFORE_THE_ENGINE, Event::SandboxVanished { marker: false }] {
            let (state, _) = after(&attempt(Phase::Apply, stopped(reason)), end, 3);
            assert!(matches!(state, State::Returning { .. }));
        }
        let failed = Event::Ended {
            outcome: Outcome::Failed {
                reason: terrapool_protocol::job::FailureReason::Internal,
                message: "stopped".to_owned(),
            },
            marker: true,
        };
        let (state, _) = after(&attempt(Phase::Apply, stopped(reason)), failed, 3);
        assert!(matches!(state, State::Delivering { .. }));
    }
}

#[test]
fn a_person_s_cancel_counts_more_than_an_earlier_stop_of_the_host() {
    let (state, actions) = after(
        &attempt(Phase::Plan, stopped(StopReason::AgentEnds)),
        verdict(Verdict::Cancel),
        2,
    );
    assert_eq!(state, stopped(StopReason::Canceled));
    assert!(!actions.iter().any(|action| matches!(action, Action::Stop { .. })));
    let (state, _) = after(
        &attempt(Phase::Plan, stopped(StopReason::Canceled)),
        Event::AgentEnds,
        2,
    );
    assert_eq!(state, stopped(StopReason::Canceled));
}

#[test]
fn a_runner_that_is_handed_a_job_which_was_given_back_is_stopped() {
    let returning = State::Returning {
        message: "stopped".to_owned(),
    };
    let (state, actions) = after(&attempt(Phase::Plan, returning.clone()), Event::HandedOver, 3);
    assert_eq!(state, returning);
    assert!(matches!(
        actions.as_slice(),
        [Action::Stop {
            kind: StopKind::Kill,
            ..
        }]
    ));
}

#[test]
fn a_runner_that_prepares_is_told_of_every_contact() {
    let (_, actions) = after(&attempt(Phase::Plan, State::Preparing), verdict(Verdict::Keep), 2);
    assert!(matches!(
        actions.as_slice(),
        [Action::Renew { remaining: Some(_) }]
    ));
}

#[test]
fn told_to_forget_an_attempt_still_delivers_what_it_printed() {
    for state in [
        State::Preparing,
        State::Starting { sent: Boottime(0) },
        State::Running,
    ] {
        let (stopping, _) = step(
            &attempt(Phase::Plan, state),
            verdict(Verdict::Forget),
            Boottime(2),
        )
        .unwrap();
        let (state, _) = after(&stopping, ENDED_BEFORE_THE_ENGINE, 3);
        assert!(matches!(state, State::Delivering { .. }));
    }
    let delivering = attempt(
        Phase::Plan,
        State::Delivering {
            outcome: Outcome::Canceled,
        },
    );
    let (state, actions) = after(&delivering, verdict(Verdict::Forget), 4);
    assert_eq!((state, actions), (delivering.state.clone(), Vec::new()));
    assert_eq!(after(&delivering, Event::FinishAnswered, 5).0, State::Done);
    for state in [
        State::Claimed,
        State::Returning {
            message: "stopped".to_owned(),
        },
    ] {
        let (state, _) = after(&attempt(Phase::Plan, state), verdict(Verdict::Forget), 4);
        assert_eq!(state, State::Done);
    }
}

#[test]
fn surrendered_before_its_start_an_apply_never_uses_a_grant() {
    let surrender = verdict(Verdict::Surrender { kill: false });
    for state in [State::Preparing, State::Starting { sent: Boottime(0) }] {
        let (stopping, _) = step(&attempt(Phase::Apply, state), surrender.clone(), Boottime(2)).unwrap();
        let (state, actions) = after(&stopping, Event::Granted, 3);
        assert!(matches!(state, State::Stopping { .. }));
        assert!(actions.is_empty());
    }
    let running = attempt(Phase::Apply, State::Running);
    assert_eq!(after(&running, surrender, 2), (State::Running, Vec::new()));
}

fn again(phase: Phase, state: State, found: Found) -> (State, Vec<Action>) {
    let (next, actions) = restart(&attempt(phase, state), found, Boottime(7));
    (next.state, actions)
}

#[test]
fn restarted_while_claiming_an_agent_asks_again() {
    for found in [Found::Gone { marker: false }, Found::Runner(RunnerStage::Waiting)] {
        let (state, actions) = again(Phase::Apply, State::Claiming, found);
        assert_eq!((state, actions), (State::Claiming, Vec::new()));
    }
}

#[test]
fn restarted_with_a_prepared_apply_an_agent_asks_for_the_start_again() {
    let prepared = Found::Runner(RunnerStage::Prepared);
    for state in [
        State::Claimed,
        State::Starting { sent: Boottime(1) },
        State::Running,
    ] {
        let (state, actions) = again(Phase::Apply, state, prepared);
        assert_eq!(state, State::Starting { sent: Boottime(7) });
        assert_eq!(actions, [Action::Journal, Action::SendStart]);
    }
    assert_eq!(again(Phase::Plan, State::Claimed, prepared).0, State::Running);
}

#[test]
fn restarted_an_agent_waits_for_a_runner_that_works_and_for_the_report_of_one_that_has_ended() {
    for (stage, expected) in [
        (RunnerStage::Preparing, State::Preparing),
        (RunnerStage::Running, State::Running),
        (RunnerStage::Finished, State::Running),
    ] {
        let (state, actions) = again(Phase::Apply, State::Claimed, Found::Runner(stage));
        assert_eq!(state, expected);
        assert!(!actions.iter().any(|action| !matches!(action, Action::Journal)));
    }
    let canceled = State::Delivering {
        outcome: Outcome::Canceled,
    };
    let (state, _) = again(
        Phase::Plan,
        canceled.clone(),
        Found::Runner(RunnerStage::Finished),
    );
    assert_eq!(state, State::Running);
    let (state, actions) = again(Phase::Plan, canceled.clone(), Found::Gone { marker: true });
    assert_eq!(state, canceled);
    assert_eq!(
        actions,
        [Action::Finish {
            outcome: Outcome::Canceled
        }]
    );
}

#[test]
fn interleaving_25_a_rebooted_host_reports_engine_lost_when_the_engine_had_started() {
    let (state, _) = again(Phase::Apply, State::Running, Found::Gone { marker: true });
    assert!(matches!(
        state,
        State::Delivering {
            outcome: Outcome::EngineLost { .. }
        }
    ));
}

#[test]
fn interleaving_08_after_a_kill_between_grant_and_exec_the_marker_decides() {
    for state in [State::Starting { sent: Boottime(1) }, State::Running] {
        let (lost, _) = again(Phase::Apply, state.clone(), Found::Gone { marker: true });
        assert!(matches!(lost, State::Delivering { .. }));
        let (returned, actions) = again(Phase::Apply, state, Found::Gone { marker: false });
        assert!(matches!(returned, State::Returning { .. }));
        assert_eq!(actions.first(), Some(&Action::Journal));
    }
}

#[test]
fn restarted_while_giving_back_an_agent_goes_on_giving_back_and_stops_the_runner() {
    let returning = State::Returning {
        message: "stopped".to_owned(),
    };
    for (found, stops) in [
        (Found::Gone { marker: false }, false),
        (Found::Runner(RunnerStage::Prepared), true),
    ] {
        let (state, actions) = again(Phase::Apply, returning.clone(), found);
        assert_eq!(state, returning);
        assert!(matches!(
            actions.last(),
            Some(Action::Finish {
                outcome: Outcome::NeverStarted { .. }
            })
        ));
        assert_eq!(
            matches!(actions.first(), Some(Action::Stop { .. })),
            stops,
            "{found:?}"
        );
    }
    let (_, actions) = again(Phase::Apply, State::Done, Found::Gone { marker: true });
    assert_eq!(actions, [Action::Remove]);
}

#[test]
fn interleaving_28_resumed_after_an_hour_an_agent_stops_its_engine_first_thing() {
    let (running, _) = step(
        &attempt(Phase::Apply, State::Running),
        Event::Verdict {
            sent: Boottime(10_000),
            verdict: Verdict::Keep,
        },
        Boottime(10_500),
    )
    .unwrap();
    // CLOCK_BOOTTIME has counted the sleep.
    let resumed = 10_500 + 3_600_000;
    assert_eq!(running.remaining_contact(Boottime(resumed)), Some(Millis::ZERO));
    let (state, actions) = after(&running, Event::Tick, resumed);
    assert_eq!(state, stopped(StopReason::LostContact));
    assert!(matches!(actions.as_slice(), [Action::Stop { .. }]));
    // A grant that was on its way is too old as well.
    let starting = attempt(
        Phase::Apply,
        State::Starting {
            sent: Boottime(10_000),
        },
    );
    let (state, actions) = after(&starting, Event::Granted, resumed);
    assert!(matches!(state, State::Returning { .. }));
    assert!(!actions.contains(&Action::Go));
}
