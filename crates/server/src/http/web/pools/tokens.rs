//! Agent tokens of a pool.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;
use terrapool_model::id::TokenId;
use terrapool_model::time::Timestamp;
use terrapool_store::agent_tokens::{self, AgentTokenRecord};
use terrapool_store::page::Page as StorePage;
use terrapool_store::{agents, overview};

use super::frame::{self, Frame, Names, Tab};
use super::install::NewToken;
use super::{connect, install};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{SignedForm, made, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::time::Ago;
use crate::http::web::parts::{Code, Icon, words};
use crate::http::web::visitor::Visitor;
use crate::waiting;

#[derive(Template)]
#[template(path = "pool/tokens.html")]
struct TokensPage {
    shell: Shell,
    frame: Frame,
    new: Option<(String, Code)>,
    problem: Option<String>,
    rows: Vec<Row>,
}

struct Row {
    id: TokenId,
    description: String,
    creator: String,
    created: Ago,
    expires: Option<String>,
    agents: usize,
    runs: u64,
    used: Option<Ago>,
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
    let creators = listed.items.iter().filter_map(|token| token.created_by.clone());
    let creators = overview::user_names(&mut connection, creators).await?;
    let row = |token: &AgentTokenRecord| {
        let using: Vec<_> = seen
            .state
            .agents
            .iter()
            .filter(|agent| {
                agent.token_id.as_ref() == Some(&token.id)
                    && waiting::is_connected(agent, seen.now, seen.pool())
            })
            .collect();
        let creator = token.created_by.as_ref().and_then(|id| creators.get(id).cloned());
        Row {
            id: token.id.clone(),
            description: token.description.clone(),
            creator: creator.unwrap_or_else(|| "an operator".to_owned()),
            created: Ago::new(token.created_at, seen.now),
            expires: token.expires_at.map(|at| {
                if seen.now < at {
                    "expires".to_owned()
                } else {
                    "expired".to_owned()
                }
            }),
            agents: using.len(),
            runs: using.iter().map(|agent| agent.jobs).sum(),
            used: token.last_used_at.map(|at| Ago::new(at, seen.now)),
        }
    };
    let status = if problem.is_some() {
        StatusCode::UNPROCESSABLE_ENTITY
    } else {
        StatusCode::OK
    };
    let page = TokensPage {
        shell: seen.shell("Tokens"),
        new: new.map(|token| (token.description, Code::new("new-token", token.secret))),
        problem,
        rows: listed.items.iter().map(row).collect(),
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
    let attributes = json!({"description": description});
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

/// `POST /app/:org/agent-pools/:id/tokens/revoke`
pub(super) async fn revoke(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let (place, pool) = frame::pool(
        &app,
        &mut connection,
        &visitor,
        &names,
        OrganizationPermission::ManageAgentPools,
    )
    .await?;
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
        .filter(|agent| waiting::is_connected(agent, now, &pool))
        .count();
    if using > 0 && fields.text("name") != token.description {
        return Err(WebError::bad_request(format!(
            "{} connected with this token: type its name `{}` to revoke it anyway. Nothing was done. Go back and try \
             again",
            words::count(using as u64, "agent is", "agents are"),
            token.description
        )));
    }
    let cut_off = fields.ticked("cut");
    let params = Params::of(&[("cut-off", if cut_off { "true" } else { "false" })]);
    tfe::tokens::delete(State(app), visitor.caller.clone(), Path(id.to_string()), params).await?;
    let address = place.address(&format!("/agent-pools/{}/tokens", pool.id));
    let said = if cut_off {
        "The token is revoked, and its agents stop now."
    } else {
        "The token is revoked."
    };
    see_with(&visitor, &address, said)
}
