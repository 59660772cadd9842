//! Style sheet, script and pictures: inside the program, at addresses that change with their content.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use crate::http::routes::{Routes, get};

/// A file and the address it has.
struct Asset {
    content: &'static str,
    kind: &'static str,
    address: String,
}

fn asset(name: &str, extension: &str, kind: &'static str, content: &'static str) -> Asset {
    let digest: String = Sha256::digest(content.as_bytes())
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Asset {
        content,
        kind,
        address: format!("/static/{name}.{digest}.{extension}"),
    }
}

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/app.css");
    asset("app", "css", "text/css; charset=utf-8", content)
});
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/app.js");
    asset("app", "js", "text/javascript; charset=utf-8", content)
});
static ICONS: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/icons.svg");
    asset("i", "svg", "image/svg+xml", content)
});
static FAVICON: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/favicon.svg");
    asset("favicon", "svg", "image/svg+xml", content)
});

/// Address of the style sheet.
pub fn style() -> &'static str {
    &STYLE.address
}

/// Address of the script.
pub fn script() -> &'static str {
    &SCRIPT.address
}

/// Address of the sprite.
pub fn icons() -> &'static str {
    &ICONS.address
}

/// Address of the picture in the tab.
pub fn favicon() -> &'static str {
    &FAVICON.address
}

/// The routes. They need no sign-in.
pub fn routes() -> Routes {
    Routes::new()
        .route("/static/{name}", get(serve))
        .route("/favicon.ico", get(|| async { serve_asset(&FAVICON) }))
}

async fn serve(Path(name): Path<String>) -> Response {
    [&STYLE, &SCRIPT, &ICONS, &FAVICON]
        .into_iter()
        .find(|asset| asset.address.strip_prefix("/static/") == Some(name.as_str()))
        .map_or_else(
            || StatusCode::NOT_FOUND.into_response(),
            |asset| serve_asset(asset),
        )
}

fn serve_asset(asset: &Asset) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        // Another content has another address.
        (
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        ),
        (
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (headers, asset.content).into_response()
}
