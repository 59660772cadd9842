//! `POST register`: makes a process known.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{Register, Registered, Settings};
use terrapool_store::agents::{self, Registration};
use terrapool_store::error::StoreError;
use terrapool_store::pools::{self, PoolSettings};
use terrapool_store::{agent_tokens, installation};

use super::credentials;
use super::error::AgentApiError;
use crate::app::App;
use crate::secrets::{self, TokenKind};

/// Longest text that an agent may tell of itself, in characters.
const LONGEST: usize = 255;

/// What the control plane wants from an agent's loop.
pub(super) fn settings(pool: &PoolSettings) -> Settings {
    Settings {
        hold: pool.times.hold,
        retry_min: Millis(200),
        retry_max: Millis::from_seconds(10),
        default_limits: pool.default_limits,
        image: pool.image.clone(),
        network: pool.sandbox_network,
        root_refused: pool.root_refused,
    }
}

fn shortened(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(LONGEST)
        .collect()
}

/// The address that a request came from: as a proxy names it, else the connection's.
pub(super) fn address(headers: &HeaderMap, peer: Option<SocketAddr>) -> String {
    let forwarded = headers
        .get("x-forwarded-for")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').next())
        .and_then(|value| value.trim().parse::<IpAddr>().ok());
    forwarded
        .or(peer.map(|peer| peer.ip()))
        .map(|address| address.to_string())
        .unwrap_or_default()
}

pub(super) async fn register(
    State(app): State<App>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    Json(request): Json<Register>,
) -> Result<Json<Registered>, AgentApiError> {
    let bearer = credentials::bearer(&headers)?;
    if TokenKind::of(bearer) != Some(TokenKind::Agent) {
        return Err(AgentApiError::Unauthorized);
    }
    let ip_address = address(&headers, peer.map(|Extension(ConnectInfo(peer))| peer));
    let now = app.now();
    let known = agent_tokens::by_hash(&mut app.db.read().await?, &secrets::hash(bearer)).await?;
    let token = match known {
        Some(token) if token.is_valid(now) => token,
        refused => {
            app.refusals.note(refused.as_ref(), &ip_address, now);
            return Err(AgentApiError::Unauthorized);
        }
    };
    if request.process_nonce.len() < 16 || request.instance_key.expose().len() < 16 {
        return Err(AgentApiError::Invalid(
            "instance key and process nonce are 128 random bits".to_owned(),
        ));
    }
    let registration = Registration {
        pool_id: token.pool_id.clone(),
        token_id: token.id.clone(),
        instance_key_hash: secrets::hash(request.instance_key.expose()),
        process_nonce: shortened(&request.process_nonce),
        name: shortened(&request.name),
        version: shortened(&request.version),
        hostname: shortened(&request.hostname),
        kernel: shortened(&request.kernel),
        driver: shortened(&request.driver),
        ip_address,
        capacity: request.capacity,
        engines: request.engines,
        root_sandboxes: request.root,
    };
    let (agent, pool, installation) = app
        .db
        .write::<_, StoreError, _>(move |tx| {
            let registration = registration.clone();
            let token = token.id.clone();
            Box::pin(async move {
                let installation = installation::get_or_create(tx).await?;
                agent_tokens::used(tx, &token).await?;
                let agent = agents::register(tx, &registration).await?;
                let pool = pools::get(tx, &agent.pool_id)
                    .await?
                    .ok_or(StoreError::Reference)?;
                Ok((agent, pool, installation))
            })
        })
        .await?;
    tracing::info!(
        agent = agent.id.as_str(),
        name = agent.name,
        pool = pool.name,
        session = agent.session,
        "an agent registered"
    );
    Ok(Json(Registered {
        session_token: credentials::session_token(
            app.objects.keyring(),
            &agent.id,
            agent.session,
            installation.incarnation,
        ),
        agent: agent.id,
        pool: pool.id,
        pool_name: pool.name,
        session: agent.session,
        installation: installation.id,
        incarnation: installation.incarnation,
        settings: settings(&pool.settings),
    }))
}
