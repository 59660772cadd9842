//! Pages that follow what happens: when they are old, when nobody looks, when the server is away.

use serde_json::json;
use terrapool_testkit::browser::Browser;

use super::signed_in;
use super::world::World;

/// Before a page's own script: a tab that a test hides and shows, minutes that pass at once, and what was closed.
const BEFORE: &str = "
    window.closed_streams = 0;
    window.ahead = 0;
    window.lost = false;
    const close = EventSource.prototype.close;
    EventSource.prototype.close = function () { window.closed_streams++; return close.call(this); };
    const listen = EventSource.prototype.addEventListener;
    EventSource.prototype.addEventListener = function (name, ...rest) {
        if (name === 'error') listen.call(this, name, () => (window.lost = true));
        return listen.call(this, name, ...rest);
    };
    const later = window.setTimeout;
    window.setTimeout = (what, when, ...rest) => later(what, when === 300000 ? 0 : when, ...rest);
    const now = Date.now;
    Date.now = () => now() + window.ahead;
    Object.defineProperty(document, 'hidden', { get: () => !!window.tab_hidden });
    window.show_tab = (on) => { window.tab_hidden = !on; document.dispatchEvent(new Event('visibilitychange')); };
";

const IS_LIVE: &str = "return document.querySelector('#live').dataset.state === 'on' && !document.querySelector('#live').hidden";

async fn offline(browser: &Browser, is: bool) {
    let network = json!({"offline": is, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
    browser
        .devtools("Network.emulateNetworkConditions", &network)
        .await;
}

async fn open(browser: &Browser, page: &str) {
    browser.open(page).await;
    browser.wait_for_script(IS_LIVE).await;
}

#[tokio::test]
async fn a_live_page_says_that_it_is_old_and_rests_while_nobody_looks() {
    let world = World::new().await;
    let browser = signed_in(&world).await;
    browser
        .devtools(
            "Page.addScriptToEvaluateOnNewDocument",
            &json!({"source": BEFORE}),
        )
        .await;
    browser.devtools("Network.enable", &json!({})).await;
    let page = world.places["pool"].as_str();

    // A page of the version before is told by the server that it is one.
    open(&browser, page).await;
    browser
        .script(
            "const page = document.documentElement, script = document.querySelector('script[type=module]').src;
             const events = page.dataset.events.replace(/([?&]v=)[^&]*/, '$1older');
             import(script).then((module) => module.connect(new EventSource(events)));",
        )
        .await;
    browser.wait_for_text("#stale", "The server was updated").await;

    // A hidden tab lets go of its stream, and is up to date when somebody looks again.
    open(&browser, page).await;
    browser.script("window.same_page = true; show_tab(false);").await;
    browser
        .wait_for_script("return window.closed_streams === 1")
        .await;
    browser.script("show_tab(true);").await;
    browser
        .wait_for_script("return window.same_page === undefined && document.readyState === 'complete'")
        .await;
    browser.wait_for_script(IS_LIVE).await;

    // Nothing is taken from somebody who was about to do something.
    open(&browser, &world.places["agent"]).await;
    browser.click("[popovertarget=drain]").await;
    browser.wait_for(":popover-open").await;
    browser.script("window.same_page = true; show_tab(false);").await;
    browser
        .wait_for_script("return window.closed_streams === 1")
        .await;
    browser.script("show_tab(true);").await;
    browser
        .wait_for_text("#stale", "Updates were paused while this tab was hidden.")
        .await;
    assert!(browser.has(":popover-open").await);
    assert_eq!(browser.script("return window.same_page").await, json!(true));

    // A page that cannot hear its server says since when, and stops saying so when it hears it again.
    open(&browser, page).await;
    offline(&browser, true).await;
    world.plane.running.app.presence.stop_holding();
    browser.wait_for_script("return window.lost").await;
    browser.script("window.ahead = 70000;").await;
    browser
        .wait_for_text("#live", "Reconnecting, shown as it was")
        .await;
    browser
        .wait_for_text("#stale", "The server cannot be reached")
        .await;
    offline(&browser, false).await;
    browser.wait_for_script(IS_LIVE).await;
    browser
        .wait_for_script("return document.querySelector('#stale').hidden")
        .await;
}
