//! What keeps leases from ending for another reason than a dead agent: a clock that was set, a process or database that
//! stood still, or a fault that silences many agents at once. Decisions only; time comes in.

use terrapool_model::time::{Millis, Timestamp};

/// Wall and monotonic time may drift apart by so much between two looks.
const DRIFT: Millis = Millis::from_seconds(5);

/// Longest time between two looks at which this process counts as having listened.
const STANDSTILL: Millis = Millis::from_seconds(10);

/// So many leases may end together in any case.
const FEW: usize = 5;

/// What happened since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elapsed {
    /// Time went on as it should.
    Steadily,
    /// The wall clock was set by so many milliseconds.
    ClockSet(i64),
    /// Nobody looked for long: the process or its database stood still.
    Standstill,
}

/// The brakes of a pass over leases.
#[derive(Debug, Default)]
pub(super) struct Brakes {
    last: Option<(Timestamp, Millis)>,
    /// Until when a mass expiry is held back.
    held_back_until: Option<Millis>,
    /// Whether leases that end together are let go, after they were held back.
    released: bool,
}

impl Brakes {
    /// Compares both clocks with the last look.
    pub(super) fn look(&mut self, wall: Timestamp, monotonic: Millis) -> Elapsed {
        let Some((last_wall, last_monotonic)) = self.last.replace((wall, monotonic)) else {
            return Elapsed::Steadily;
        };
        let elapsed = monotonic.0.saturating_sub(last_monotonic.0);
        let expected = i64::try_from(elapsed).unwrap_or(i64::MAX);
        let set = wall.0.saturating_sub(last_wall.0).saturating_sub(expected);
        if set.unsigned_abs() > DRIFT.0 {
            Elapsed::ClockSet(set)
        } else if elapsed > STANDSTILL.0 {
            Elapsed::Standstill
        } else {
            Elapsed::Steadily
        }
    }

    /// Whether `due` of `held` leases may end now. When too many would, `longest` (a lease) more is waited, once.
    pub(super) fn may_expire(&mut self, due: usize, held: usize, longest: Millis, monotonic: Millis) -> bool {
        if due == 0 {
            self.held_back_until = None;
            self.released = false;
            return true;
        }
        match self.held_back_until {
            Some(until) if monotonic < until => return false,
            Some(_) => {
                self.held_back_until = None;
                self.released = true;
            }
            None => {}
        }
        if self.released || due <= FEW.max(held / 5) {
            return true;
        }
        tracing::error!(
            due,
            held,
            "many agents fell silent together, which a network or server fault does: their jobs are kept for one \
             more lease"
        );
        self.held_back_until = Some(monotonic + longest);
        false
    }
}

/// Whether a time in the database is later than the clock can explain.
pub(super) fn is_in_the_future(at: Timestamp, now: Timestamp) -> bool {
    at - now > DRIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Millis = Millis::from_seconds(90);

    #[test]
    fn a_mass_expiry_is_held_back_for_one_more_lease_and_then_goes_on() {
        let mut brakes = Brakes::default();
        assert!(brakes.may_expire(5, 5, LEASE, Millis(0)));
        assert!(brakes.may_expire(20, 100, LEASE, Millis(0)));
        assert!(!brakes.may_expire(21, 100, LEASE, Millis(0)));
        assert!(brakes.held_back_until.is_some());
        // Fewer are silent now, but the fault may not be over for them.
        assert!(!brakes.may_expire(3, 100, LEASE, Millis(LEASE.0 - 1)));
        assert!(brakes.may_expire(40, 100, LEASE, LEASE));
        assert!(brakes.may_expire(21, 60, LEASE, LEASE), "the rest follows");
        assert!(brakes.held_back_until.is_none());
    }

    #[test]
    fn a_mass_expiry_that_went_away_is_held_back_again_when_it_comes_back() {
        let mut brakes = Brakes::default();
        assert!(!brakes.may_expire(50, 100, LEASE, Millis(0)));
        assert!(brakes.may_expire(0, 100, LEASE, Millis(10)));
        assert!(!brakes.may_expire(50, 100, LEASE, Millis(200_000)));
        assert!(!brakes.may_expire(50, 100, LEASE, Millis(200_000 + LEASE.0 - 1)));
    }

    #[test]
    fn a_clock_that_is_set_is_seen_in_both_directions_and_twice_in_a_row() {
        let mut brakes = Brakes::default();
        assert_eq!(brakes.look(Timestamp(10_000_000), Millis(0)), Elapsed::Steadily);
        assert_eq!(
            brakes.look(Timestamp(10_001_000), Millis(1000)),
            Elapsed::Steadily
        );
        assert_eq!(
            brakes.look(Timestamp(13_602_000), Millis(2000)),
            Elapsed::ClockSet(3_600_000)
        );
        assert_eq!(
            brakes.look(Timestamp(17_203_000), Millis(3000)),
            Elapsed::ClockSet(3_600_000)
        );
        assert_eq!(
            brakes.look(Timestamp(10_004_000), Millis(4000)),
            Elapsed::ClockSet(-7_200_000)
        );
        assert_eq!(
            brakes.look(Timestamp(10_005_000), Millis(5000)),
            Elapsed::Steadily
        );
    }

    #[test]
    fn a_process_that_stood_still_has_not_listened() {
        let mut brakes = Brakes::default();
        brakes.look(Timestamp(0), Millis(0));
        assert_eq!(
            brakes.look(Timestamp(600_000), Millis(600_000)),
            Elapsed::Standstill
        );
        // A machine that was suspended: the wall clock went on, the monotonic one did not.
        assert_eq!(
            brakes.look(Timestamp(4_200_000), Millis(601_000)),
            Elapsed::ClockSet(3_599_000)
        );
    }

    #[test]
    fn a_contact_of_the_future_is_told_from_a_small_difference() {
        assert!(!is_in_the_future(Timestamp(5000), Timestamp(0)));
        assert!(is_in_the_future(Timestamp(5001), Timestamp(0)));
        assert!(!is_in_the_future(Timestamp(0), Timestamp(5001)));
    }
}
