//! People with accounts, and the browsers they use.

use terrapool_protocol::secret::Secret;
use terrapool_server::admin::{self, UserRequest};
use terrapool_testkit::forms::FormBrowser;

use crate::common::Plane;

/// A browser that looks at a control plane.
pub fn look_at(plane: &Plane) -> FormBrowser {
    FormBrowser::new(&plane.base(), reqwest::Client::builder())
}

pub const PASSWORD: &str = "correct horse battery";

pub async fn account(plane: &Plane, name: &str, site_admin: bool) {
    let request = UserRequest {
        username: name.to_owned(),
        email: format!("{name}@example.com"),
        site_admin,
        password: Some(Secret::new(PASSWORD)),
    };
    admin::create_user(&plane.running.app, request).await.unwrap();
}
