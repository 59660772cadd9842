//! URLs that authenticate themselves: clients send no token to them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use terrapool_model::time::{Millis, Timestamp};

use crate::app::App;

/// How long an upload URL can be used.
pub const UPLOAD_LIFETIME: Millis = Millis::from_seconds(25 * 3600);

const PURPOSE: &str = "url";

fn message(path: &str, expires: i64) -> String {
    format!("{path}\n{expires}")
}

/// An absolute URL of `path` that can be used for `lifetime`.
pub fn signed(app: &App, path: &str, lifetime: Millis) -> String {
    let expires = (app.now() + lifetime).0;
    let signature = app.objects.keyring().sign(PURPOSE, &message(path, expires));
    let signature = URL_SAFE_NO_PAD.encode(signature);
    format!(
        "{}{path}?expires={expires}&signature={signature}",
        app.config.public_url
    )
}

/// Whether `expires` and `signature` of a request to `path` are those of [`signed`], and still good.
pub fn verify(app: &App, path: &str, expires: &str, signature: &str) -> bool {
    let Ok(expires) = expires.parse::<i64>() else {
        return false;
    };
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else {
        return false;
    };
    app.now() < Timestamp(expires)
        && app
            .objects
            .keyring()
            .verify(PURPOSE, &message(path, expires), &signature)
}
