//! What an agent has found when it looked at itself, for people.

use terrapool_model::time::Millis;
use terrapool_protocol::health::{Health, Room, SelfTest};

use crate::http::web::parts::Tone;
use crate::http::web::parts::time::Took;
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

/// What came of the first sandbox with the pool's settings, and what helps where it is not as it should be.
pub(super) fn of_self_test(test: &SelfTest) -> Check {
    const NAME: &str = "Sandbox as the pool wants it";
    const DOCTOR: &str = "On the host, sudo terrapool-agent doctor names the cause";
    let wanted = megabytes(test.wanted_memory_mb);
    if let Some(failure) = &test.failure {
        return check(
            Tone::Bad,
            NAME,
            format!("none could be made: {failure}. {DOCTOR}"),
        );
    }
    let limited = match test.memory_mb {
        Some(limit) if limit > test.wanted_memory_mb => {
            let limit = if limit > 1 << 40 {
                "not at all".to_owned()
            } else {
                format!("to {}", megabytes(limit))
            };
            let found = format!("its memory is limited {limit} instead of to {wanted}. {DOCTOR}");
            return check(Tone::Bad, NAME, found);
        }
        Some(limit) => format!("limited to {}", megabytes(limit)),
        None => format!("to be limited to {wanted}, which cannot be seen from inside"),
    };
    let started = format!("started in {}, {limited}", Took(Millis(test.took_ms)));
    if test.connected {
        check(
            Tone::Good,
            NAME,
            format!("{started}, network as the pool wants it"),
        )
    } else {
        let found = format!("{started}, but without the network that the pool wants. {DOCTOR}");
        check(Tone::Bad, NAME, found)
    }
}

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
    checks.extend(health.self_test.as_ref().map(of_self_test));
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
    fn a_sandbox_that_is_not_as_the_pool_wants_it_is_told_with_what_helps() {
        let good = SelfTest {
            took_ms: 400,
            failure: None,
            wanted_memory_mb: 512,
            memory_mb: Some(512),
            connected: true,
        };
        let found = of_self_test(&good);
        assert_eq!(found.tone, Tone::Good);
        assert_eq!(
            found.found,
            "started in 0.4 s, limited to 512 MB, network as the pool wants it"
        );
        for (test, says) in [
            (
                SelfTest {
                    failure: Some("the sandbox image x cannot be had: no such image".to_owned()),
                    ..good.clone()
                },
                "none could be made: the sandbox image x cannot be had: no such image. On the host",
            ),
            (
                SelfTest {
                    memory_mb: Some(u64::MAX),
                    ..good.clone()
                },
                "its memory is limited not at all instead of to 512 MB. On the host",
            ),
            (
                SelfTest {
                    memory_mb: Some(1024),
                    ..good.clone()
                },
                "its memory is limited to 1,024 MB instead of to 512 MB. On the host",
            ),
            (
                SelfTest {
                    connected: false,
                    ..good
                },
                "started in 0.4 s, limited to 512 MB, but without the network that the pool wants. On the host",
            ),
        ] {
            let found = of_self_test(&test);
            assert_eq!(found.tone, Tone::Bad, "{test:?}");
            assert!(found.found.starts_with(says), "{}", found.found);
        }
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
