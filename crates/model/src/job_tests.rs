use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn attempt(byte: u8) -> AttemptId {
    AttemptId::from_random([byte; 16])
}

fn agent() -> AgentId {
    AgentId::from_random([1; 16])
}

fn held(phase: Phase, state: JobState) -> Job {
    Job {
        state,
        generation: 1,
        attempt: Some(attempt(1)),
        agent: Some(agent()),
        session: Some(1),
        start_granted: phase == Phase::Apply && state == JobState::Running,
        last_contact: Some(NOW),
        ..Job::queued(phase)
    }
}

fn claim(generation_seen: u64, by: u8) -> JobEvent {
    JobEvent::Claim {
        generation_seen,
        attempt: attempt(by),
        agent: agent(),
        session: 1,
        obstacle: None,
    }
}

fn start(by: u8) -> JobEvent {
    JobEvent::Start {
        generation: 1,
        attempt: attempt(by),
        obstacle: None,
    }
}

fn finish(by: u8) -> JobEvent {
    JobEvent::Finish {
        generation: 1,
        attempt: attempt(by),
    }
}

fn never_started(by: u8) -> JobEvent {
    JobEvent::NeverStarted {
        generation: 1,
        attempt: attempt(by),
    }
}

fn on(job: &Job, event: &JobEvent, now: Timestamp) -> Result<(Job, JobResult), Refusal> {
    transition(job, event, now, &Times::default())
}

fn stopping(job: Job) -> Job {
    Job {
        desired: Desired::Cancel,
        ..job
    }
}

fn late(phase: Phase) -> Timestamp {
    Times::default().expires_at(phase, NOW) + Millis(1)
}

#[test]
fn a_claim_of_a_queued_job_makes_the_next_assignment() {
    let (plan, result) = on(&Job::queued(Phase::Plan), &claim(0, 1), NOW).unwrap();
    assert_eq!(
        (plan.state, plan.generation, result),
        (JobState::Running, 1, JobResult::Claimed)
    );
    let (apply, _) = on(&Job::queued(Phase::Apply), &claim(0, 1), NOW).unwrap();
    assert_eq!((apply.state, apply.start_granted), (JobState::Leased, false));
}

#[test]
fn a_claim_is_refused_for_an_old_offer_an_obstacle_or_when_nobody_wants_the_job() {
    let queued = Job::queued(Phase::Plan);
    assert_eq!(on(&queued, &claim(1, 1), NOW), Err(Refusal::OtherGeneration));
    assert!(matches!(
        on(&stopping(queued.clone()), &claim(0, 1), NOW),
        Err(Refusal::NotWanted(_))
    ));
    let obstacle = JobEvent::Claim {
        generation_seen: 0,
        attempt: attempt(1),
        agent: agent(),
        session: 1,
        obstacle: Some(Refusal::NotAllowed("no")),
    };
    assert_eq!(on(&queued, &obstacle, NOW), Err(Refusal::NotAllowed("no")));
}

#[test]
fn a_held_job_answers_its_own_attempt_again_and_refuses_others() {
    let job = held(Phase::Apply, JobState::Leased);
    assert_eq!(
        on(&job, &claim(0, 1), NOW),
        Ok((job.clone(), JobResult::ClaimRepeated))
    );
    assert_eq!(on(&job, &claim(1, 2), NOW), Err(Refusal::OtherAttempt));
    assert_eq!(
        on(&held(Phase::Plan, JobState::Lost), &claim(1, 1), NOW),
        Err(Refusal::JobEnded)
    );
}

#[test]
fn the_start_is_granted_to_the_attempt_that_holds_the_lease_and_to_it_again() {
    let leased = held(Phase::Apply, JobState::Leased);
    let (running, result) = on(&leased, &start(1), NOW).unwrap();
    assert_eq!(
        (running.state, running.start_granted, result),
        (JobState::Running, true, JobResult::Granted)
    );
    assert_eq!(on(&running, &start(1), NOW).unwrap().1, JobResult::GrantRepeated);
    assert_eq!(on(&leased, &start(2), NOW), Err(Refusal::OtherAttempt));
    assert!(matches!(
        on(&stopping(leased.clone()), &start(1), NOW),
        Err(Refusal::NotWanted(_))
    ));
    let obstacle = JobEvent::Start {
        generation: 1,
        attempt: attempt(1),
        obstacle: Some(Refusal::LockMoved),
    };
    assert_eq!(on(&leased, &obstacle, NOW), Err(Refusal::LockMoved));
    assert!(on(&held(Phase::Plan, JobState::Running), &start(1), NOW).is_err());
}

#[test]
fn a_contact_renews_only_its_own_assignment_and_never_goes_back() {
    let job = held(Phase::Plan, JobState::Running);
    let contact = |by, at| JobEvent::Contact {
        generation: 1,
        attempt: attempt(by),
        at,
    };
    assert_eq!(
        on(&job, &contact(1, NOW + Millis(5)), NOW)
            .unwrap()
            .0
            .last_contact,
        Some(NOW + Millis(5))
    );
    assert_eq!(
        on(&job, &contact(1, Timestamp(0)), NOW).unwrap().0.last_contact,
        Some(NOW)
    );
    assert_eq!(on(&job, &contact(2, NOW), NOW), Err(Refusal::OtherAttempt));
}

#[test]
fn silence_queues_again_what_did_not_start() {
    for job in [
        held(Phase::Plan, JobState::Running),
        held(Phase::Apply, JobState::Leased),
    ] {
        assert_eq!(
            on(&job, &JobEvent::Expire, NOW + Millis::from_seconds(60)),
            Err(Refusal::NotDue)
        );
        let (next, result) = on(&job, &JobEvent::Expire, late(job.phase)).unwrap();
        assert_eq!(
            (next.state, next.tries, result),
            (JobState::Queued, 1, JobResult::Requeued)
        );
        assert_eq!((next.attempt, next.generation), (None, 1));
    }
}

#[test]
fn the_third_try_is_the_last() {
    let job = Job {
        tries: 2,
        ..held(Phase::Plan, JobState::Running)
    };
    let (next, result) = on(&job, &never_started(1), NOW).unwrap();
    assert_eq!(
        (next.state, result),
        (JobState::Lost, JobResult::Lost { granted: false })
    );
}

#[test]
fn silence_of_a_granted_apply_loses_it_whatever_is_wanted() {
    let job = held(Phase::Apply, JobState::Running);
    for job in [job.clone(), stopping(job)] {
        let (next, result) = on(&job, &JobEvent::Expire, late(Phase::Apply)).unwrap();
        assert_eq!(
            (next.state, result),
            (JobState::Lost, JobResult::Lost { granted: true })
        );
        assert_eq!(next.attempt, Some(attempt(1)));
    }
}

#[test]
fn what_nobody_wants_is_never_queued_again() {
    for job in [
        held(Phase::Plan, JobState::Running),
        held(Phase::Apply, JobState::Leased),
    ] {
        let job = stopping(job);
        assert_eq!(on(&job, &never_started(1), NOW).unwrap().1, JobResult::Returned);
        let (next, result) = on(&job, &JobEvent::Expire, late(job.phase)).unwrap();
        assert_eq!((next.state, result), (JobState::Done, JobResult::Returned));
    }
    let granted = stopping(held(Phase::Apply, JobState::Running));
    assert_eq!(
        on(&granted, &never_started(1), NOW).unwrap().1,
        JobResult::Returned
    );
}

#[test]
fn a_grant_that_was_not_used_is_given_up() {
    let granted = held(Phase::Apply, JobState::Running);
    let (next, result) = on(&granted, &never_started(1), NOW).unwrap();
    assert_eq!(
        (next.state, next.start_granted, result),
        (JobState::Queued, false, JobResult::Requeued)
    );
    assert_eq!(on(&granted, &never_started(2), NOW), Err(Refusal::OtherAttempt));
}

#[test]
fn a_newer_session_gives_up_only_what_is_silent() {
    let job = held(Phase::Apply, JobState::Leased);
    let gone = |session| JobEvent::NotReported { session };
    let silent = NOW + Millis(2 * Times::default().hold.0) + Millis(1);
    assert_eq!(on(&job, &gone(2), NOW), Err(Refusal::NotDue));
    assert_eq!(on(&job, &gone(1), silent), Err(Refusal::NotDue));
    assert_eq!(on(&job, &gone(2), silent).unwrap().1, JobResult::Requeued);
    let granted = held(Phase::Apply, JobState::Running);
    assert_eq!(
        on(&granted, &gone(2), silent).unwrap().1,
        JobResult::Lost { granted: true }
    );
}

#[test]
fn an_end_is_taken_from_the_newest_attempt_also_after_the_job_was_lost() {
    let job = held(Phase::Apply, JobState::Running);
    assert_eq!(
        on(&job, &finish(1), NOW).unwrap().1,
        JobResult::Finished { granted: true }
    );
    assert_eq!(on(&job, &finish(2), NOW), Err(Refusal::OtherAttempt));
    let lost = held(Phase::Apply, JobState::Lost);
    assert_eq!(on(&lost, &finish(1), NOW).unwrap().1, JobResult::FinishedLate);
    assert_eq!(
        on(&lost, &never_started(1), NOW).unwrap().1,
        JobResult::ReturnedLate
    );
    assert_eq!(
        on(&held(Phase::Apply, JobState::Done), &finish(1), NOW),
        Err(Refusal::JobEnded)
    );
}

#[test]
fn a_kill_is_never_taken_back() {
    let job = held(Phase::Plan, JobState::Running);
    let stop = |desired| JobEvent::Stop { desired };
    let (killed, _) = on(&job, &stop(Desired::Kill), NOW).unwrap();
    let (still, _) = on(&killed, &stop(Desired::Cancel), NOW).unwrap();
    assert_eq!(still.desired, Desired::Kill);
}

#[test]
fn only_waiting_jobs_are_withdrawn() {
    let (done, result) = on(&Job::queued(Phase::Plan), &JobEvent::Withdraw, NOW).unwrap();
    assert_eq!((done.state, result), (JobState::Done, JobResult::Withdrawn));
    assert!(on(&held(Phase::Plan, JobState::Running), &JobEvent::Withdraw, NOW).is_err());
}
