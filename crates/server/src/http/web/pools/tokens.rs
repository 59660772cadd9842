//! Agent tokens of a pool.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::id::{TokenId, UserId};
use terrapool_model::time::Timestamp;
use terrapool_store::agent_tokens::{self, AgentTokenRecord};
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::PoolRecord;
use terrapool_store::{agents, overview};

use super::frame::{self, Frame, Names, Tab};
use super::install::NewToken;
use super::{connect, install};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, Fields, SignedForm, made, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::time::{Ago, Day, Expiry, date};
use crate::http::web::parts::{Code, Icon, words};
use crate::http::web::visitor::Visitor;
use crate::waiting::{self, PoolState};

#[derive(Template)]
#[template(path = "pool/tokens.html")]
struct TokensPage {
    shell: Shell,
    frame: Frame,
    new: Option<(String, Code)>,
    problem: Option<String>,
    today: String,
    rows: Vec<Row>,
    /// Where a token is revoked.
    revoke: String,
    revoked: Vec<Revoked>,
}

/// Revoked tokens that are listed.
const REVOKED: u32 = 10;

/// A token that nobody can register with any more.
struct Revoked {
    description: String,
    id: TokenId,
    creator: String,
    created: Ago,
    used: Option<Ago>,
    revoked: Option<Day>,
}

/// A token that agents may register with.
pub(in crate::http::web) struct Row {
    pub(in crate::http::web) id: TokenId,
    pub(in crate::http::web) description: String,
    pub(in crate::http::web) creator: String,
    pub(in crate::http::web) created: Ago,
    pub(in crate::http::web) expires: Expiry,
    /// Agents that are connected with it.
    pub(in crate::http::web) agents: usize,
    /// Jobs that they hold.
    pub(in crate::http::web) runs: u64,
    pub(in crate::http::web) used: Option<Ago>,
}

fn creator(token: &AgentTokenRecord, names: &BTreeMap<UserId, String>) -> String {
    let name = token.created_by.as_ref().and_then(|id| names.get(id).cloned());
    name.unwrap_or_else(|| "an operator".to_owned())
}

/// A pool's tokens, with who uses them.
pub(in crate::http::web) fn rows(
    state: &PoolState,
    tokens: &[AgentTokenRecord],
    creators: &BTreeMap<UserId, String>,
    now: Timestamp,
) -> Vec<Row> {
    let row = |token: &AgentTokenRecord| {
        let registered = state
            .agents
            .iter()
            .filter(|agent| agent.token_id.as_ref() == Some(&token.id));
        let (mut agents, mut runs) = (0, 0);
        for agent in registered {
            agents += usize::from(waiting::is_connected(agent, now, &state.pool));
            runs += agent.jobs;
        }
        Row {
            id: token.id.clone(),
            description: token.description.clone(),
            creator: creator(token, creators),
            created: Ago::new(token.created_at, now),
            expires: Expiry::new(token.expires_at, now),
            agents,
            runs,
            used: token.last_used_at.map(|at| Ago::new(at, now)),
        }
    };
    tokens.iter().map(row).collect()
}

async fn page(
    app: &App,
    visitor: &Visitor,
    names: &Names,
    new: Option<NewToken>,
    problem: Option<String>,
) -> Page {
    let mut connection = app.db.read().await?;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Tokens).await?;
    let listed = agent_tokens::list(&mut connection, &seen.pool().id, &StorePage::first(200)).await?;
    let revoked = agent_tokens::revoked(&mut connection, &seen.pool().id, REVOKED).await?;
    let all = listed.items.iter().chain(&revoked);
    let creators = all.filter_map(|token| token.created_by.clone());
    let creators = overview::user_names(&mut connection, creators).await?;
    let ago = |at: Timestamp| Ago::new(at, seen.now);
    let status = form::status(problem.is_some());
    let page = TokensPage {
        shell: seen.shell("Tokens"),
        new: new.map(|token| (token.description, Code::new("new-token", token.secret))),
        problem,
        today: date(seen.now),
        rows: rows(&seen.state, &listed.items, &creators, seen.now),
        revoke: format!("{}/tokens/revoke", seen.frame.base),
        revoked: revoked
            .iter()
            .map(|token| Revoked {
                description: token.description.clone(),
                id: token.id.clone(),
                creator: creator(token, &creators),
                created: ago(token.created_at),
                used: token.last_used_at.map(ago),
                revoked: token.revoked_at.map(|at| Day::new(at, seen.now)),
            })
            .collect(),
        frame: seen.frame,
    };
    html_with(status, &page)
}

/// `GET /app/:org/agent-pools/:id/tokens`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(names): Path<Names>) -> Page {
    page(&app, &visitor, &names, None, None).await
}

/// `POST /app/:org/agent-pools/:id/tokens`: the answer is the only page that ever has the secret.
pub(super) async fn create(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let description = fields.text("description").to_owned();
    let expires = match fields.last_day("expires", app.now()) {
        Ok(expires) => expires,
        Err(problem) => return page(&app, &visitor, &names, None, Some(problem)).await,
    };
    let attributes = json!({"description": description, "expired-at": expires});
    let (caller, id) = (visitor.caller.clone(), Path(names.1.clone()));
    let made_token = tfe::tokens::create_for_pool(State(app.clone()), caller, id, request(attributes)).await;
    let document = match made_token.map_err(WebError::from) {
        Ok(answer) => made(answer),
        Err(error) => {
            let problem = error.problem()?;
            return page(&app, &visitor, &names, None, Some(problem)).await;
        }
    };
    let token = NewToken {
        description,
        secret: document["data"]["attributes"]["token"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    };
    let for_page = fields.text("for");
    if for_page.is_empty() {
        return page(&app, &visitor, &names, Some(token), None).await;
    }
    let mut connection = app.db.read().await?;
    let seen = frame::see(&app, &mut connection, &visitor, &names, Tab::Install).await?;
    drop(connection);
    if for_page == "connect" {
        connect::page(&app, seen, Some(token)).await
    } else {
        install::page(&app, seen, Some(token)).await
    }
}

/// Revokes the token of a pool that a form names, as the form says. What was done, or why nothing was.
pub(in crate::http::web) async fn revoke_as_sent(
    app: &App,
    visitor: &Visitor,
    pool: &PoolRecord,
    fields: &Fields,
) -> Result<Result<String, String>, WebError> {
    let mut connection = app.db.read().await?;
    let id: TokenId = fields.text("id").parse().map_err(|_| WebError::not_found())?;
    let token = agent_tokens::get(&mut connection, &id)
        .await?
        .filter(|token| token.pool_id == pool.id)
        .ok_or_else(WebError::not_found)?;
    let listed = agents::list(&mut connection, &pool.id, None, false, &StorePage::first(500)).await?;
    drop(connection);
    let now: Timestamp = app.now();
    let using = listed
        .items
        .iter()
        .filter(|agent| agent.token_id.as_ref() == Some(&id))
        .filter(|agent| waiting::is_connected(agent, now, pool))
        .count();
    if using > 0 && fields.text("name") != token.description {
        return Ok(Err(format!(
            "Nothing was done: {} connected with “{1}”. Type its name, {1}, to revoke it anyway.",
            words::count(using as u64, "agent is", "agents are"),
            token.description
        )));
    }
    let cut_off = fields.text("running") == "cut-off";
    let params = Params::of(&[("cut-off", if cut_off { "true" } else { "false" })]);
    let caller = visitor.caller.clone();
    tfe::tokens::delete(State(app.clone()), caller, Path(id.to_string()), params).await?;
    Ok(Ok(if cut_off {
        format!(
            "{} is revoked, and what its agents run is stopped now.",
            token.description
        )
    } else if using > 0 {
        format!(
            "{} is revoked. Its agents finish what they hold, and take nothing new.",
            token.description
        )
    } else {
        format!("{} is revoked.", token.description)
    }))
}

/// `POST /app/:org/agent-pools/:id/tokens/revoke`
pub(super) async fn revoke(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let permission = OrganizationPermission::ManageAgentPools;
    let (place, pool) = frame::pool(&app, &mut connection, &visitor, &names, permission).await?;
    drop(connection);
    match revoke_as_sent(&app, &visitor, &pool, &fields).await? {
        Err(problem) => page(&app, &visitor, &names, None, Some(problem)).await,
        Ok(said) => {
            let address = place.address(&format!("/agent-pools/{}/tokens", pool.id));
            see_with(&visitor, &address, &said)
        }
    }
}
