//! The API, called without a network.

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::app::App;
use crate::http;

/// The API, as one user sees it.
pub(super) struct Api {
    router: Router,
    token: String,
}

impl Api {
    pub(super) fn new(app: &App, token: String) -> Self {
        Self {
            router: http::router(app),
            token,
        }
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call("GET", path, Body::empty()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call("POST", path, Body::from(body.to_string())).await
    }

    async fn call(&self, method: &str, path: &str, body: Body) -> anyhow::Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v2{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/vnd.api+json")
            .body(body)?;
        let answer = self.router.clone().oneshot(request).await?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!(
                "{method} {path} answered {status}: {}",
                String::from_utf8_lossy(&bytes)
            );
        }
        serde_json::from_slice(&bytes).with_context(|| format!("{method} {path} did not answer JSON"))
    }
}
