//! Every page in every look.

use std::collections::BTreeSet;

use serde_json::json;
use terrapool_server::http;
use terrapool_testkit::browser::{Browser, pictures};

use super::signed_in;
use super::world::World;
use crate::common::id;

/// The address that `terraform login` opens.
const AUTHORIZE: &str = "/app/oauth/authorize?client_id=terraform-cli&response_type=code&state=s&\
    code_challenge=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&code_challenge_method=S256&\
    redirect_uri=http://localhost:10000/login";

/// What is no page: it leads to one, is a part of one, or a file.
const NO_PAGES: [&str; 11] = [
    "/app/admin/audit/export",
    "/app/{org}/audit/export",
    "/app",
    "/app/{org}",
    "/app/{org}/events",
    "/app/{org}/{name}/runs/{run}",
    "/app/{org}/workspaces/{name}/states/{id}/download",
    "/app/{org}/workspaces/{name}/runs/{run}/lines",
    "/app/{org}/workspaces/{name}/runs/{run}/plan.log",
    "/app/{org}/workspaces/{name}/runs/{run}/apply.log",
    "/app/{org}/workspaces/{name}/runs/{run}/plan.json",
];

const RUN: &str = "/app/{org}/workspaces/{name}/runs/{run}";
const POOL: &str = "/app/{org}/agent-pools/{pool}";

/// Every page: the name of its picture, its route, its address.
fn pages(world: &World) -> Vec<(&'static str, String, String)> {
    let place = |name: &str| world.places[name].clone();
    let mut pages: Vec<(&str, String, String)> = [
        ("workspaces", "workspaces", ""),
        ("workspaces-none-fit", "workspaces", "?q=nothing"),
        ("workspace-new", "workspaces/new", ""),
        ("runs", "runs", ""),
        ("runs-asking", "runs", "?status=ask"),
        ("projects", "projects", ""),
        ("pools", "agent-pools", ""),
        ("pool-new", "agent-pools/new", ""),
        ("access", "access", ""),
        ("access-why", "access", "?workspace=network&pool=data-centre"),
        ("fleet", "fleet", ""),
        ("audit", "audit", ""),
        ("people", "people", ""),
        ("organization-settings", "settings", ""),
        ("search", "search", "?q=net"),
    ]
    .into_iter()
    .map(|(name, page, query)| {
        (
            name,
            format!("/app/{{org}}/{page}"),
            format!("/app/acme/{page}{query}"),
        )
    })
    .collect();
    for (name, tab) in [
        ("workspace", ""),
        ("workspace-runs", "/runs"),
        ("workspace-states", "/states"),
        ("workspace-variables", "/variables"),
        ("workspace-settings", "/settings"),
    ] {
        let route = format!("/app/{{org}}/workspaces/{{name}}{tab}");
        pages.push((name, route, format!("/app/acme/workspaces/network{tab}")));
    }
    let kept = "/app/acme/workspaces/firewall";
    pages.push((
        "workspace-kept-apart",
        "/app/{org}/workspaces/{name}".to_owned(),
        kept.to_owned(),
    ));
    pages.push((
        "workspace-empty-states",
        "/app/{org}/workspaces/{name}/states".to_owned(),
        "/app/acme/workspaces/edge/states".to_owned(),
    ));
    for run in [
        "run-applied",
        "run-planned",
        "run-oom",
        "run-given-up",
        "run-applying",
        "run-planning",
        "run-stalled",
        "run-lost",
    ] {
        pages.push((run, RUN.to_owned(), place(run)));
    }
    let log = format!("{}?phase=plan&from=1&find=red", place("run-applied"));
    pages.push(("run-log", RUN.to_owned(), log));
    for (name, tab) in [
        ("pool", ""),
        ("pool-install", "/install"),
        ("pool-connect", "/connect"),
        ("pool-tokens", "/tokens"),
        ("pool-access", "/access"),
        ("pool-settings", "/settings"),
    ] {
        pages.push((name, format!("{POOL}{tab}"), format!("{}{tab}", place("pool"))));
    }
    pages.push(("pool-stalled", POOL.to_owned(), place("pool-stalled")));
    pages.push((
        "pool-stalled-connect",
        format!("{POOL}/connect"),
        format!("{}/connect", place("pool-stalled")),
    ));
    for agent in ["agent", "agent-stopped"] {
        pages.push((agent, format!("{POOL}/agents/{{agent}}"), place(agent)));
    }
    pages.push(("project", "/app/{org}/projects/{id}".to_owned(), place("project")));
    pages.push(("team", "/app/{org}/people/teams/{id}".to_owned(), place("team")));
    pages.push((
        "authorize",
        "/app/oauth/authorize".to_owned(),
        AUTHORIZE.to_owned(),
    ));
    for (name, page, query) in [
        ("organizations", "/app/organizations", ""),
        ("account-profile", "/app/settings/profile", ""),
        (
            "account-tokens",
            "/app/settings/tokens",
            "?source=terraform-login",
        ),
        ("account-sessions", "/app/settings/sessions", ""),
        ("account-theme", "/app/settings/theme", ""),
        ("account-keys", "/app/settings/keys", ""),
        ("admin", "/app/admin", ""),
        ("admin-audit", "/app/admin/audit", ""),
        ("admin-shared-pool", "/app/admin/shared-pool", ""),
    ] {
        pages.push((name, page.to_owned(), format!("{page}{query}")));
    }
    pages
}

/// Pages whose addresses only links have.
async fn linked(browser: &Browser) -> Vec<(&'static str, String, String)> {
    let mut pages = Vec::new();
    for (name, route, page, link, query) in [
        (
            "audit-open",
            "/app/{org}/audit",
            "/app/acme/audit?q=workspace.update",
            "a[href*='open=']",
            "",
        ),
        (
            "workspace-states-raw",
            "/app/{org}/workspaces/{name}/states",
            "/app/acme/workspaces/network/states",
            "tbody th a",
            "&view=raw",
        ),
    ] {
        browser.open(page).await;
        browser.wait_for(link).await;
        let script = format!("const a = document.querySelector(\"{link}\"); return a.pathname + a.search;");
        let address = browser.script(&script).await;
        let address = address.as_str().unwrap_or_default();
        pages.push((name, route.to_owned(), format!("{address}{query}")));
    }
    pages
}

/// Every page is whole: nothing refused by its own policy, nothing wider than the window, every control with a name,
/// every text legible.
async fn check(browser: &Browser, wrong: &mut Vec<String>, name: &str, path: &str, look: &str) {
    let problems = browser.problems().await;
    if !problems.is_empty() {
        wrong.push(format!("{name} {look} ({path}): {problems}"));
    }
}

/// Switches the scripts of pages off or on.
async fn scripts(browser: &Browser, on: bool) {
    let off = json!({"value": !on});
    browser
        .devtools("Emulation.setScriptExecutionDisabled", &off)
        .await;
}

/// Windows: a screen and a phone.
const WINDOWS: [(u32, u32); 2] = [(1440, 900), (390, 844)];

/// A page in both windows and both themes. Neither needs that it is loaded again.
async fn looks(browser: &Browser, wrong: &mut Vec<String>, name: &str, path: &str, keep: bool) {
    for (width, height) in WINDOWS {
        for dark in [false, true] {
            browser.look(width, height, dark).await;
            let theme = if dark { "dark" } else { "light" };
            check(
                browser,
                wrong,
                name,
                path,
                &format!("{width} {theme} scripts={keep}"),
            )
            .await;
            if keep && dark == (width < 500) {
                browser
                    .picture(&pictures().join(format!("page-{name}-{width}.png")))
                    .await;
            }
        }
    }
}

/// The form that asks again for a name that was mistyped, and does what it was to do when the name is the right one.
async fn mistyped(browser: &Browser, world: &World, wrong: &mut Vec<String>) {
    let pool = json!({"data": {"type": "agent-pools", "attributes": {"name": "short-lived"}}});
    let pool = world
        .plane
        .post("organizations/acme/agent-pools", &pool)
        .await
        .expect(201);
    let settings = format!("/app/acme/agent-pools/{}/settings", id(&pool));
    browser.complaints().await;
    browser.open(&settings).await;
    browser.click("[popovertarget=delete]").await;
    browser.fill("#delete-name", "long-lived").await;
    browser.click("#delete button.kill").await;
    browser.wait_for_text("#wrong", "That is another name.").await;
    looks(browser, wrong, "mistyped", &settings, true).await;
    let complaints = browser.complaints().await;
    // The answer is 422, which a browser tells.
    if complaints.iter().any(|complaint| !complaint.contains("422")) {
        wrong.push(format!("mistyped: {complaints:?}"));
    }
    browser.fill("#name", "short-lived").await;
    browser.click("form button.kill").await;
    browser
        .wait_for_text("body", "Pool short-lived is deleted.")
        .await;
}

#[tokio::test]
async fn every_page_is_whole_in_every_look() {
    let world = World::new().await;
    let mut pages = pages(&world);
    let served: BTreeSet<String> = http::routes(&world.plane.running.app)
        .list()
        .into_iter()
        .filter(|route| route.method == "GET" && (route.path == "/app" || route.path.starts_with("/app/")))
        .map(|route| route.path)
        .filter(|path| !NO_PAGES.contains(&path.as_str()))
        .collect();
    let seen: BTreeSet<String> = pages.iter().map(|(_, route, _)| route.clone()).collect();
    assert_eq!(served, seen, "every page is looked at");

    let mut wrong = Vec::new();
    let stranger = Browser::start(&world.plane.base()).await;
    stranger.open("/sign-in").await;
    looks(&stranger, &mut wrong, "sign-in", "/sign-in", true).await;
    drop(stranger);
    let browser = signed_in(&world).await;
    pages.extend(linked(&browser).await);
    browser.complaints().await;
    for on in [true, false] {
        scripts(&browser, on).await;
        for (name, _, path) in &pages {
            browser.open(path).await;
            let heading = browser.text("h1").await;
            if heading.is_empty() || heading.starts_with("Not here") {
                wrong.push(format!("{name} ({path}) is `{heading}`"));
            }
            looks(&browser, &mut wrong, name, path, on).await;
            for complaint in browser.complaints().await {
                wrong.push(format!("{name} ({path}), scripts {on}: {complaint}"));
            }
        }
    }
    scripts(&browser, true).await;
    for (name, path) in [("not-found", "/app/acme/nothing")] {
        browser.open(path).await;
        browser.wait_for_text("h1", "Not here, or not for you").await;
        looks(&browser, &mut wrong, name, path, true).await;
    }
    mistyped(&browser, &world, &mut wrong).await;
    assert!(wrong.is_empty(), "{} things:\n{}", wrong.len(), wrong.join("\n"));
}
