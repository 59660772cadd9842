//! `terraform login` through the browser: OAuth 2.0 authorization code (RFC 6749, 4.1) with PKCE (RFC 7636), for
//! programs that listen on the loopback of the person's own machine.
//!
//! Nothing is stored between the two steps: the code is signed and says what it stands for. The token follows from the
//! code, and a token exists once, so that a code is good for one.

use std::fmt::Write as _;

use askama::Template;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use terrapool_model::id::UserId;
use terrapool_model::time::{Millis, Timestamp};
use terrapool_protocol::secret::Secret;
use terrapool_store::api_tokens::{self, NewApiToken, TokenOwner};
use terrapool_store::{audit, users};

use super::error::WebError;
use super::form::{Fields, SignedForm};
use super::page::{Page, Section, Shell, html};
use super::parts::Icon;
use super::visitor::Visitor;
use super::{encoded, policy_with_form_action};
use crate::app::App;
use crate::http::answer::Params;
use crate::http::error::ApiError;
use crate::http::routes::{Routes, get, post};
use crate::secrets::{self, TokenKind};

/// The only client: the command line.
pub(crate) const CLIENT: &str = "terraform-cli";
/// Where people agree.
pub(crate) const AUTHORIZE: &str = "/app/oauth/authorize";
/// Where codes become tokens.
pub(crate) const TOKEN: &str = "/oauth/token";
/// Ports on which the command line may listen.
pub(crate) const PORTS: [u16; 2] = [10_000, 10_010];

/// A code is good for so long; the command line asks at once.
const LIFETIME: Millis = Millis::from_seconds(120);
/// What signatures of codes are for.
const CODE: &str = "login-code";
/// What tokens are derived for.
const GRANT: &str = "login-token";

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().route(AUTHORIZE, get(show).post(agree))
}

/// The route that programs call.
pub(super) fn token_routes() -> Routes {
    Routes::new().route(TOKEN, post(token))
}

/// What the command line asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    redirect: String,
    port: u16,
    state: String,
    challenge: String,
}

/// A code, before it is signed.
#[derive(Debug, Serialize, Deserialize)]
struct Code {
    user: UserId,
    challenge: String,
    redirect: String,
    until: i64,
    nonce: String,
}

/// The port of an address on the loopback to which a browser may be sent.
fn loopback_port(redirect: &str) -> Option<u16> {
    let rest = ["http://localhost:", "http://127.0.0.1:"]
        .iter()
        .find_map(|start| redirect.strip_prefix(start))?;
    let port: u16 = rest.strip_suffix("/login")?.parse().ok()?;
    (PORTS[0]..=PORTS[1]).contains(&port).then_some(port)
}

impl Asked {
    fn read<'v>(value: impl Fn(&str) -> &'v str) -> Result<Self, WebError> {
        let wrong = |detail: &str| {
            Err(WebError::bad_request(format!(
                "{detail} Run `terraform login` again, and open the address that it prints."
            )))
        };
        if value("client_id") != CLIENT {
            return wrong("Only the command line can be given a token here.");
        }
        if value("response_type") != "code" {
            return wrong("The address asks for something else than a code.");
        }
        let challenge = value("code_challenge");
        if value("code_challenge_method") != "S256" || challenge.len() != 43 {
            return wrong("The address has no proof of who asks (code_challenge, S256).");
        }
        let redirect = value("redirect_uri");
        let Some(port) = loopback_port(redirect) else {
            return wrong("The token could only be handed to a program on your own machine.");
        };
        Ok(Self {
            redirect: redirect.to_owned(),
            port,
            state: value("state").to_owned(),
            challenge: challenge.to_owned(),
        })
    }

    fn back(&self, key: &str, value: &str) -> String {
        let state = encoded(&self.state);
        format!("{}?{key}={}&state={state}", self.redirect, encoded(value))
    }
}

#[derive(Template)]
#[template(path = "account/authorize.html")]
struct AuthorizePage {
    shell: Shell,
    asked: Asked,
    client: &'static str,
    no: String,
}

/// `GET /app/oauth/authorize`
async fn show(visitor: Visitor, params: Params) -> Page {
    let asked = Asked::read(|name| params.get(name).unwrap_or_default())?;
    let port = asked.port;
    let page = AuthorizePage {
        shell: super::account::shell(&visitor, "Sign in on the command line"),
        no: asked.back("error", "access_denied"),
        asked,
        client: CLIENT,
    };
    let mut response = html(&page)?;
    // The answer to the form leads to the program that asked.
    let policy = policy_with_form_action(&format!("'self' http://localhost:{port} http://127.0.0.1:{port}"));
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// `POST /app/oauth/authorize`: the browser takes the code to the program that asked.
async fn agree(State(app): State<App>, form: SignedForm) -> Page {
    let asked = Asked::read(|name| form.fields.raw(name))?;
    let code = Code {
        user: form.visitor.user.id,
        challenge: asked.challenge.clone(),
        redirect: asked.redirect.clone(),
        until: (app.now() + LIFETIME).0,
        nonce: hex(&app.db.entropy().draw()),
    };
    let code = signed(&app, &code);
    let to = HeaderValue::from_str(&asked.back("code", &code))
        .map_err(|error| WebError::internal(error.to_string()))?;
    Ok((StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn signed(app: &App, code: &Code) -> String {
    let content = URL_SAFE_NO_PAD.encode(serde_json::to_vec(code).unwrap_or_default());
    let signature = URL_SAFE_NO_PAD.encode(app.objects.keyring().sign(CODE, &content));
    format!("{content}.{signature}")
}

fn opened(app: &App, code: &str) -> Option<Code> {
    let (content, signature) = code.split_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    if !app.objects.keyring().verify(CODE, content, &signature) {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(content).ok()?).ok()
}

/// Whether a verifier is the one whose challenge was sent (RFC 7636, 4.6).
fn is_verifier(verifier: &str, challenge: &str) -> bool {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes())) == challenge
}

/// An answer of RFC 6749, 5.2.
fn refused(error: &str, description: &str) -> Response {
    let body = json!({"error": error, "error_description": description});
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

/// `POST /oauth/token`
async fn token(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let Ok(fields) = Fields::read(request).await else {
        return Ok(refused("invalid_request", "the body is no form"));
    };
    if fields.raw("grant_type") != "authorization_code" {
        return Ok(refused(
            "unsupported_grant_type",
            "only authorization_code is known",
        ));
    }
    if fields.raw("client_id") != CLIENT {
        return Ok(refused("invalid_client", "only terraform-cli is known"));
    }
    let raw = fields.raw("code");
    let code = opened(&app, raw).filter(|code| {
        Timestamp(code.until) > app.now()
            && code.redirect == fields.raw("redirect_uri")
            && is_verifier(fields.raw("code_verifier"), &code.challenge)
    });
    let Some(code) = code else {
        return Ok(refused(
            "invalid_grant",
            "the code is not good (any more): run `terraform login` again",
        ));
    };
    let secret = Secret::new(format!(
        "{}{}",
        TokenKind::User.prefix(),
        hex(&app.objects.keyring().sign(GRANT, raw))
    ));
    let new = NewApiToken {
        hash: secrets::hash(secret.expose()),
        owner: TokenOwner::User(code.user.clone()),
        description: "terraform login".to_owned(),
        created_by: Some(code.user.clone()),
        expires_at: None,
    };
    let made = app
        .db
        .write::<_, ApiError, _>(move |tx| {
            let new = new.clone();
            let user = code.user.clone();
            Box::pin(async move {
                let is_used = api_tokens::by_hash(tx, &new.hash).await?.is_some();
                let is_enabled = users::get(tx, &user).await?.is_some_and(|user| user.is_enabled());
                if is_used || !is_enabled {
                    return Ok(false);
                }
                let record = api_tokens::create(tx, &new).await?;
                let (actor, subject) = (user.as_str(), record.id.as_str());
                audit::record(
                    tx,
                    None,
                    actor,
                    "token.create",
                    subject,
                    &json!({"by": "terraform login"}),
                )
                .await?;
                Ok(true)
            })
        })
        .await?;
    if !made {
        return Ok(refused(
            "invalid_grant",
            "the code was used before, or the account is disabled: run `terraform login` again",
        ));
    }
    let body = json!({"access_token": secret.expose(), "token_type": "bearer"});
    Ok((StatusCode::OK, [("cache-control", "no-store")], Json(body)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browser_is_sent_to_the_loopback_only() {
        assert_eq!(loopback_port("http://localhost:10000/login"), Some(10_000));
        assert_eq!(loopback_port("http://127.0.0.1:10010/login"), Some(10_010));
        for wrong in [
            "http://localhost:10011/login",
            "http://localhost:10000/else",
            "https://localhost:10000/login",
            "http://localhost:10000@evil.example/login",
            "http://localhost.evil.example:10000/login",
            "http://evil.example/http://localhost:10000/login",
        ] {
            assert_eq!(loopback_port(wrong), None, "{wrong}");
        }
    }

    /// The example of RFC 7636, appendix B.
    #[test]
    fn a_verifier_is_known_by_its_challenge() {
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert!(is_verifier(
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            challenge
        ));
        assert!(!is_verifier(
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK",
            challenge
        ));
    }
}
