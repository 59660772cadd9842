//! What the server sees of a pool that has no agents, and what is most likely the cause.

use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::agent_tokens;
use terrapool_store::db::Connection;
use terrapool_store::page::Page as StorePage;

use super::connect::Check;
use super::frame::Seen;
use crate::app::App;
use crate::http::web::error::WebError;
use crate::http::web::parts::status::Status;
use crate::http::web::parts::time::Ago;
use crate::http::web::parts::words::count;
use crate::http::web::parts::{Code, Tone};
use crate::refusals::Tries;

/// Refusals that are listed.
const MOST: usize = 5;
/// Refused tokens that nobody knows may be anybody's: older ones are not shown.
const LATELY: Millis = Millis::from_seconds(3600);

/// What is seen, and what helps.
pub(super) struct Observed {
    pub(super) checks: Vec<Check>,
    /// The likely cause, and what to type on the host.
    pub(super) likely: Option<(String, Code)>,
}

fn check(tone: Tone, icon: &'static str, text: String, more: String, at: Option<Ago>) -> Check {
    Check {
        status: Status::new(tone, icon, ""),
        text,
        more,
        at,
    }
}

/// Registrations that were refused lately because nobody knows their token.
pub(super) fn unknown_lately(app: &App, now: Timestamp) -> Option<Tries> {
    app.refusals.unknown().filter(|tries| now - tries.last < LATELY)
}

/// What the server sees, for those who may do something about it; `None` while an agent is connected.
pub(super) async fn of(
    app: &App,
    connection: &mut Connection,
    seen: &Seen,
) -> Result<Option<Observed>, WebError> {
    let (now, pool) = (seen.now, seen.pool());
    if !seen.frame.manages || seen.state.connected(now).next().is_some() {
        return Ok(None);
    }
    let newest = seen.state.agents.iter().max_by_key(|agent| agent.last_ping_at);
    let mut checks = vec![check(
        Tone::Bad,
        "bad",
        "No agent is heard from".to_owned(),
        newest.map_or_else(
            || "none ever was, or it was removed a day after it was last heard from".to_owned(),
            |agent| format!("the last one was {} on {}", agent.name, agent.hostname),
        ),
        newest.map(|agent| Ago::new(agent.last_ping_at, now)),
    )];

    let mut likely = None;
    for refusal in app.refusals.of(&pool.id).into_iter().take(MOST) {
        let why = if refusal.revoked {
            "was revoked"
        } else {
            "has expired"
        };
        checks.push(check(
            Tone::Warn,
            "warn",
            format!("Token “{}” {why}", refusal.token),
            format!(
                "{} from {} since, the last one",
                count(
                    refusal.tries.number,
                    "refused registration",
                    "refused registrations"
                ),
                refusal.address
            ),
            Some(Ago::new(refusal.tries.last, now)),
        ));
        likely.get_or_insert_with(|| {
            (
                format!(
                    "the agent at {} still has the token that {why}. Give it another one, on its host:",
                    refusal.address
                ),
                "sudo terrapool-agent configure --token-stdin\nsudo systemctl restart terrapool-agent",
            )
        });
    }
    let unknown = unknown_lately(app, now);
    if let Some(tries) = unknown {
        checks.push(check(
            Tone::Warn,
            "warn",
            "Tokens that this server does not know".to_owned(),
            format!(
                "{}, for this pool or another one, the last one",
                count(tries.number, "refused registration", "refused registrations")
            ),
            Some(Ago::new(tries.last, now)),
        ));
    }

    let tokens = agent_tokens::list(connection, &pool.id, &StorePage::first(100)).await?;
    let valid: Vec<_> = tokens.items.iter().filter(|token| token.is_valid(now)).collect();
    let unused: Vec<&str> = valid
        .iter()
        .filter(|token| token.last_used_at.is_none())
        .map(|token| token.description.as_str())
        .collect();
    checks.push(if valid.is_empty() {
        check(
            Tone::Bad,
            "bad",
            "No token is valid".to_owned(),
            "agents that have one that was revoked or has expired cannot register: make one".to_owned(),
            None,
        )
    } else {
        check(
            Tone::Good,
            "ok",
            count(valid.len() as u64, "valid token", "valid tokens"),
            match unused.as_slice() {
                [] => "used before".to_owned(),
                [one] => format!("“{one}” was never used"),
                many => format!("{} were never used", many.len()),
            },
            None,
        )
    });

    let likely = likely.or_else(|| match newest {
        Some(agent) if agent.exited => Some((
            format!("the agent was stopped. On {}:", agent.hostname),
            "sudo systemctl start terrapool-agent",
        )),
        Some(agent) => Some((
            format!(
                "the agent does not run, or does not reach this server. On {}:",
                agent.hostname
            ),
            "systemctl status terrapool-agent\njournalctl -u terrapool-agent -n 50\nsudo terrapool-agent doctor",
        )),
        None if unknown.is_some() => Some((
            "a token was cut when it was pasted, or it is another server’s. On the agent’s host:".to_owned(),
            "sudo terrapool-agent configure --token-stdin\nsudo systemctl restart terrapool-agent",
        )),
        None => None,
    });
    Ok(Some(Observed {
        checks,
        likely: likely.map(|(words, commands)| (words, Code::new("fix", commands))),
    }))
}
