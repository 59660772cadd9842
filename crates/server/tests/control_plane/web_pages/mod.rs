//! Every page of the web UI in a real browser: on a screen and on a phone, light and dark, with scripts and without,
//! under its own policy.
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

mod live;
mod pages;
mod states;
mod world;

use terrapool_testkit::browser::Browser;
use world::World;

use crate::common::browser::PASSWORD;

/// A browser in which somebody who may do everything is signed in.
async fn signed_in(world: &World) -> Browser {
    let browser = Browser::start(&world.plane.base()).await;
    browser.look(1440, 900, false).await;
    browser.open("/app").await;
    browser.fill("#login", "grace").await;
    browser.fill("#pw", PASSWORD).await;
    browser.click("form button").await;
    browser.wait_for_path(|path| path.starts_with("/app/")).await;
    browser
}
