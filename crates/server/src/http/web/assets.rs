//! Style sheet, script and pictures: inside the program, at addresses that change with their content.
//!
//! They are sent without what only their authors read, and packed to who takes it so.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::http::routes::{Routes, get};

/// A file and the address it has.
struct Asset {
    content: String,
    /// The same by gzip; empty when that failed.
    packed: Vec<u8>,
    kind: &'static str,
    address: String,
}

fn asset(name: &str, extension: &str, kind: &'static str, content: String) -> Asset {
    let digest: String = Sha256::digest(content.as_bytes())
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Asset {
        packed: pack(content.as_bytes()).unwrap_or_default(),
        content,
        kind,
        address: format!("/static/{name}.{digest}.{extension}"),
    }
}

fn pack(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}

/// Without indentation and lines of comments. Nothing in our files goes over several lines that this would change:
/// neither comments beside code nor texts.
fn dense(content: &str) -> String {
    let is_comment = |line: &&str| line.starts_with("//") || line.starts_with("/*") && line.ends_with("*/");
    let lines = content.lines().map(str::trim);
    let kept: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !is_comment(line))
        .collect();
    kept.join("\n")
}

static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/app.css");
    asset("app", "css", "text/css; charset=utf-8", dense(content))
});
static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/app.js");
    asset("app", "js", "text/javascript; charset=utf-8", dense(content))
});
static ICONS: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/icons.svg");
    asset("i", "svg", "image/svg+xml", content.to_owned())
});
static FAVICON: LazyLock<Asset> = LazyLock::new(|| {
    let content = include_str!("../../../static/favicon.svg");
    asset("favicon", "svg", "image/svg+xml", content.to_owned())
});

/// Address of the style sheet.
pub fn style() -> &'static str {
    &STYLE.address
}

/// Address of the script.
pub fn script() -> &'static str {
    &SCRIPT.address
}

/// What pages are made of: another one after an update of the server.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let digest = |asset: &Asset| asset.address.split('.').nth(1).unwrap_or_default().to_owned();
        format!(
            "{}-{}-{}",
            env!("CARGO_PKG_VERSION"),
            digest(&STYLE),
            digest(&SCRIPT)
        )
    });
    &VERSION
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
    Routes::new().route("/static/{name}", get(serve)).route(
        "/favicon.ico",
        get(|headers: HeaderMap| async move { serve_asset(&FAVICON, &headers) }),
    )
}

async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    [&STYLE, &SCRIPT, &ICONS, &FAVICON]
        .into_iter()
        .find(|asset| asset.address.strip_prefix("/static/") == Some(name.as_str()))
        .map_or_else(
            || StatusCode::NOT_FOUND.into_response(),
            |asset| serve_asset(asset, &headers),
        )
}

fn serve_asset(asset: &'static Asset, asked: &HeaderMap) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        // Another content has another address.
        (
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=31536000, immutable"),
        ),
        (VARY, HeaderValue::from_static("accept-encoding")),
        (
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        ),
    ];
    if asset.packed.is_empty() || !takes_gzip(asked) {
        return (headers, asset.content.as_str()).into_response();
    }
    let encoding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
    (headers, encoding, asset.packed.as_slice()).into_response()
}

/// Whether the answer may be packed (RFC 9110, 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = accepted.flat_map(|value| value.to_str().unwrap_or_default().split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let refused = |weight: &str| weight.replace(' ', "").trim_end_matches(['0', '.']) == "q=";
        parts.next() == Some("gzip") && !parts.any(refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_page_loads_stays_small() {
        for (asset, most, most_packed) in [
            (&STYLE, 25 << 10, 7 << 10),
            (&SCRIPT, 9 << 10, 7 << 9),
            (&ICONS, 7 << 10, 3 << 10),
        ] {
            assert!(
                asset.content.len() <= most && asset.packed.len() <= most_packed,
                "{}: {} bytes, {} packed",
                asset.address,
                asset.content.len(),
                asset.packed.len()
            );
        }
    }

    #[test]
    fn only_lines_that_nobody_needs_are_left_out() {
        let script = "// what it is\n\n  a(); // stays\n  /* alone */\n  b(`//`);\n";
        assert_eq!(dense(script), "a(); // stays\nb(`//`);");
        for content in [
            include_str!("../../../static/app.css"),
            include_str!("../../../static/app.js"),
        ] {
            for line in content.lines() {
                assert_eq!(
                    line.matches('`').count() % 2,
                    0,
                    "a text over several lines: {line}"
                );
                assert_eq!(line.matches("/*").count(), line.matches("*/").count(), "{line}");
            }
        }
    }

    #[test]
    fn packed_is_what_is_sent_to_who_takes_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(
                ACCEPT_ENCODING,
                HeaderValue::from_static(value),
            )]))
        };
        assert!(takes("gzip") && takes("br, gzip;q=0.5") && takes("deflate,gzip"));
        assert!(!takes("") && !takes("br") && !takes("gzip;q=0") && !takes("gzip; q=0.0"));
    }
}
