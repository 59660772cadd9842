//! Every page with what a real agent has made: whole, named, legible, and a picture of each.

use serde_json::json;
use terrapool_testkit::browser::{Browser, pictures};

/// The address that `terraform login` opens.
const AUTHORIZE: &str = "/app/oauth/authorize?client_id=terraform-cli&response_type=code&state=s&\
    code_challenge=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&code_challenge_method=S256&\
    redirect_uri=http://localhost:10000/login";

/// Every page is whole: nothing refused by its own policy, nothing wider than the window, every control with a name,
/// every text legible.
pub(crate) async fn check(browser: &Browser, path: &str) {
    assert_eq!(browser.problems().await, "", "{path}");
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{path}: {complaints:?}");
}

/// Switches the scripts of pages off or on.
pub(crate) async fn scripts(browser: &Browser, on: bool) {
    let off = json!({"value": !on});
    browser
        .devtools("Emulation.setScriptExecutionDisabled", &off)
        .await;
}

/// Every page, on a screen and on a phone, light and dark.
pub(crate) async fn all(browser: &Browser, pool: &str, run: &str, team: &str) {
    browser.open(pool).await;
    let agent = browser
        .script("return document.querySelector('tbody th a').getAttribute('href')")
        .await;
    let agent = agent.as_str().expect("the pool has an agent").to_owned();
    let pages = [
        ("workspaces", "/app/acme/workspaces".to_owned()),
        ("workspaces-none-fit", "/app/acme/workspaces?q=nothing".to_owned()),
        ("workspace-new", "/app/acme/workspaces/new".to_owned()),
        ("workspace", "/app/acme/workspaces/network".to_owned()),
        ("workspace-runs", "/app/acme/workspaces/network/runs".to_owned()),
        (
            "workspace-states",
            "/app/acme/workspaces/network/states".to_owned(),
        ),
        (
            "workspace-variables",
            "/app/acme/workspaces/network/variables".to_owned(),
        ),
        (
            "workspace-settings",
            "/app/acme/workspaces/network/settings".to_owned(),
        ),
        ("run", run.to_owned()),
        ("run-log", format!("{run}?phase=apply&from=1&find=red")),
        ("runs", "/app/acme/runs".to_owned()),
        ("projects", "/app/acme/projects".to_owned()),
        ("pools", "/app/acme/agent-pools".to_owned()),
        ("pool-new", "/app/acme/agent-pools/new".to_owned()),
        ("pool", pool.to_owned()),
        ("pool-install", format!("{pool}/install")),
        ("pool-connect", format!("{pool}/connect")),
        ("pool-tokens", format!("{pool}/tokens")),
        ("pool-access", format!("{pool}/access")),
        ("pool-settings", format!("{pool}/settings")),
        ("agent", agent),
        (
            "access",
            "/app/acme/access?workspace=network&pool=data-centre".to_owned(),
        ),
        ("fleet", "/app/acme/fleet".to_owned()),
        ("audit", "/app/acme/audit".to_owned()),
        ("organization-settings", "/app/acme/settings".to_owned()),
        ("organizations", "/app/organizations".to_owned()),
        ("account-profile", "/app/settings/profile".to_owned()),
        (
            "account-tokens",
            "/app/settings/tokens?source=terraform-login".to_owned(),
        ),
        ("account-sessions", "/app/settings/sessions".to_owned()),
        ("account-theme", "/app/settings/theme".to_owned()),
        ("account-keys", "/app/settings/keys".to_owned()),
        ("people", "/app/acme/people".to_owned()),
        ("team", team.to_owned()),
        ("search", "/app/acme/search?q=net".to_owned()),
        ("authorize", AUTHORIZE.to_owned()),
        ("admin", "/app/admin".to_owned()),
        ("admin-audit", "/app/admin/audit".to_owned()),
    ];
    let folder = pictures();
    browser.complaints().await;
    for (width, height, dark) in [(1440, 900, false), (390, 844, true)] {
        browser.look(width, height, dark).await;
        for (name, path) in &pages {
            browser.open(path).await;
            check(browser, path).await;
            browser.picture(&folder.join(format!("{name}-{width}.png"))).await;
        }
    }
    browser.look(1440, 900, false).await;
    browser.open("/app/acme/nothing").await;
    browser.wait_for_text("h1", "Not here, or not for you").await;
    browser.picture(&folder.join("not-found.png")).await;
    // The server answers 404, which the browser notes.
    browser.complaints().await;
}
