//! What an agent has found when it looked at itself, for people.

use terrapool_protocol::health::{Health, Room};

use crate::http::web::parts::Tone;
use crate::http::web::parts::words::{count, megabytes};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) tone: Tone,
    pub(super) icon: &'static str,
    pub(super) name: &'static str,
    pub(super) found: String,
}

fn check(tone: Tone, name: &'static str, found: String) -> Check {
    let icon = match tone {
        Tone::Good => "ok",
        Tone::Bad => "bad",
        Tone::Warn | Tone::Live | Tone::Ask | Tone::Mute => "warn",
    };
    Check {
        tone,
        icon,
        name,
        found,
    }
}

/// Good down to `little`, bad below `nothing`, both in MiB.
fn room(name: &'static str, room: Room, little: u64, nothing: u64) -> Check {
    let tone = match room.free_mb {
        free if free < nothing => Tone::Bad,
        free if free < little => Tone::Warn,
        _ => Tone::Good,
    };
    let found = format!("{} of {} free", megabytes(room.free_mb), megabytes(room.total_mb));
    check(tone, name, found)
}

/// Less free disk than this, in MiB, and soon something fails; less than the other, and everything does.
const DISK: (u64, u64) = (2048, 200);

/// The report as a list. `reserve_mb` is what the agent keeps for its host.
pub(super) fn checks(health: &Health, driver: &str, reserve_mb: u64) -> Vec<Check> {
    let name = match driver {
        "native" => "Native sandboxes",
        _ => "Container engine",
    };
    let mut checks = vec![if health.driver_answers {
        check(Tone::Good, name, "answers".to_owned())
    } else {
        check(
            Tone::Bad,
            name,
            "does not answer: the agent takes no run until it does".to_owned(),
        )
    }];
    if let Some(ahead) = health.clock_ahead_seconds {
        let tone = match ahead.unsigned_abs() {
            0..=5 => Tone::Good,
            6..=60 => Tone::Warn,
            _ => Tone::Bad,
        };
        let found = match ahead {
            0 => "as this server’s".to_owned(),
            1.. => format!("{ahead} s ahead of this server’s"),
            _ => format!("{} s behind this server’s", ahead.unsigned_abs()),
        };
        checks.push(check(tone, "Clock", found));
    }
    checks.push(match health.disk {
        Some(disk) => room("Disk", disk, DISK.0, DISK.1),
        None => check(Tone::Warn, "Disk", "could not be looked at".to_owned()),
    });
    if let Some(memory) = health.memory {
        checks.push(room("Host’s memory", memory, reserve_mb, reserve_mb / 2));
    }
    checks.push(match (&health.last_failure, health.failed_calls) {
        (_, 0) => check(Tone::Good, "Calls to this server", "all were answered".to_owned()),
        (last, failed) => {
            let mut found = format!(
                "{} not answered since the agent started",
                count(failed, "was", "were")
            );
            if let Some(last) = last {
                found.push_str(&format!("; the last: {last}"));
            }
            check(Tone::Warn, "Calls to this server", found)
        }
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(health: &Health) -> Vec<(&'static str, Tone)> {
        checks(health, "docker", 256)
            .into_iter()
            .map(|check| (check.name, check.tone))
            .collect()
    }

    #[test]
    fn a_host_that_is_well_is_good_throughout() {
        let mut health = Health {
            driver_answers: true,
            disk: Some(Room {
                free_mb: 60_000,
                total_mb: 120_000,
            }),
            memory: Some(Room {
                free_mb: 8000,
                total_mb: 16_000,
            }),
            clock_ahead_seconds: Some(-1),
            ..Health::default()
        };
        let found = of(&health);
        assert_eq!(found.len(), 5);
        assert!(found.iter().all(|(_, tone)| *tone == Tone::Good), "{found:?}");
        health.failed_calls = 1;
        health.last_failure = Some("timed out".to_owned());
        let said = checks(&health, "docker", 256).pop().unwrap();
        assert_eq!(said.tone, Tone::Warn);
        assert_eq!(
            said.found,
            "1 was not answered since the agent started; the last: timed out"
        );
    }

    #[test]
    fn what_stops_runs_is_bad_and_what_soon_will_is_warned_of() {
        let room = |free_mb| {
            Some(Room {
                free_mb,
                total_mb: 16_000,
            })
        };
        let bad = Health {
            driver_answers: false,
            disk: room(100),
            memory: room(100),
            clock_ahead_seconds: Some(3600),
            ..Health::default()
        };
        assert_eq!(
            of(&bad)[..4],
            [
                ("Container engine", Tone::Bad),
                ("Clock", Tone::Bad),
                ("Disk", Tone::Bad),
                ("Host’s memory", Tone::Bad),
            ]
        );
        let soon = Health {
            driver_answers: true,
            disk: room(1500),
            memory: room(200),
            clock_ahead_seconds: Some(-30),
            ..Health::default()
        };
        assert_eq!(
            of(&soon)[1..4],
            [
                ("Clock", Tone::Warn),
                ("Disk", Tone::Warn),
                ("Host’s memory", Tone::Warn)
            ]
        );
    }
}
