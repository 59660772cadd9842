//! Security case 25: every route, asked by everybody, against a table of who may. Who may not is told that there is
//! nothing, in an organization of their own as across organizations.
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

mod agents;
mod audit;
mod names;
mod policy;
mod sent;
mod world;

use std::collections::BTreeSet;

use policy::{Level, Rule, table};
use world::{Answered, World};

/// Everybody who asks.
const LEVELS: [Level; 9] = [
    Level::Anonymous,
    Level::Outsider,
    Level::Member,
    Level::Read,
    Level::Plan,
    Level::Write,
    Level::Admin,
    Level::Owner,
    Level::SiteAdmin,
];

/// Whoever is allowed would end what the sweep itself needs.
const DESTROYS_THE_TEST: [(&str, &str); 1] = [("DELETE", "/api/v2/organizations/{org}")];

fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with("/app") || path.starts_with("/sign-")
}

/// Whether an answer tells nothing but that there is nothing, or that one has to sign in.
fn tells_nothing(level: Level, path: &str, answered: &Answered) -> bool {
    match (level, is_page(path)) {
        (Level::Anonymous, false) => answered.status == 401,
        (Level::Anonymous, true) => {
            answered.status == 401 || (answered.status == 303 && answered.location.starts_with("/sign-in"))
        }
        (_, _) => answered.status == 404,
    }
}

#[tokio::test]
async fn every_route_has_a_policy_and_every_policy_a_route() {
    let world = World::new().await;
    let served: BTreeSet<(String, String)> = world
        .routes()
        .into_iter()
        .map(|route| (route.path, route.method))
        .collect();
    let written: BTreeSet<(String, String)> = table()
        .into_iter()
        .map(|(method, path, _)| (path, method))
        .collect();
    assert_eq!(written.len(), table().len(), "a route has two policies");
    let without: Vec<_> = served.difference(&written).collect();
    assert!(without.is_empty(), "routes without a policy: {without:?}");
    let stale: Vec<_> = written.difference(&served).collect();
    assert!(stale.is_empty(), "policies without a route: {stale:?}");
}

#[tokio::test]
async fn everybody_is_answered_on_every_route_as_the_policy_says() {
    let mut world = World::new().await;
    let mut wrong = Vec::new();
    for (method, path, rule) in table() {
        let changes = method != "GET";
        for level in LEVELS {
            let (refused, allowed) = match rule {
                Rule::Open | Rule::Signed | Rule::Agents => (false, false),
                Rule::Own => (level == Level::Anonymous, level > Level::Anonymous && !changes),
                // Every level that may is asked where nothing changes, else the least.
                Rule::From(least) => (level < least, level == least || (level > least && !changes)),
                Rule::Absent => (true, false),
            };
            if refused {
                let answered = world.ask(level, &method, &path).await;
                if !tells_nothing(level, &path, &answered) {
                    wrong.push(format!(
                        "{level:?} {method} {path}: {answered:?} to somebody who may not"
                    ));
                }
            } else if allowed && !DESTROYS_THE_TEST.contains(&(method.as_str(), path.as_str())) {
                let answered = world.ask(level, &method, &path).await;
                if matches!(answered.status, 401 | 403 | 404 | 500..)
                    || answered.location.starts_with("/sign-in")
                {
                    wrong.push(format!(
                        "{level:?} {method} {path}: {answered:?} to somebody who may"
                    ));
                }
                if changes && answered.status < 400 {
                    world.renew().await;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn credentials_of_agents_and_jobs_open_no_route_of_people_nor_theirs_one_of_agents() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for (method, path, rule) in table() {
        let agents = rule == Rule::Agents;
        let [session, job] = world.foreign_credentials();
        let tokens: Vec<&str> = match rule {
            Rule::Agents => vec![&world.plane.token, session, job, "tps_unknown", "tpj_unknown"],
            Rule::Signed => vec![&world.plane.token, &world.foreign_agent_token, session, job],
            Rule::Own | Rule::From(_) | Rule::Absent if !is_page(&path) => {
                vec![
                    &world.foreign_agent_token,
                    session,
                    job,
                    "tps_unknown",
                    "tpj_unknown",
                ]
            }
            Rule::Open | Rule::Own | Rule::From(_) | Rule::Absent => continue,
        };
        for token in tokens {
            let status = world.ask_with(token, &method, &path).await;
            let refused = match rule {
                // A body of the protocol is read before its credential is looked at.
                Rule::Agents => matches!(status, 400 | 401 | 403 | 404 | 409 | 415 | 422),
                Rule::Signed => matches!(status, 401 | 403 | 404),
                Rule::Open | Rule::Own | Rule::From(_) | Rule::Absent => status == 401,
            };
            if !refused {
                wrong.push(format!("{method} {path}: {status} (agents: {agents})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
