//! The web UI in a real browser, with a real agent: from the first sign-in to the deletion of the pool.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use terrapool_testkit::browser::Browser;
use terrapool_testkit::installation::{Installation, bin_dir};
use terrapool_testkit::wait::until;
use tokio::process::Command;

const PASSWORD: &str = "correct horse battery";

const CONFIGURATION: &str = r#"
resource "terraform_data" "network" {
  count = 3
  input = "zone ${count.index}"
  provisioner "local-exec" {
    command = "echo '<script>document.title=1</script>'; printf '\\033[31mred\\033[0m \\033]0;title\\007\\n'"
  }
}
output "zones" {
  value = terraform_data.network[*].output
}
output "secret" {
  value     = "hunter2"
  sensitive = true
}
"#;

/// Where pictures of the pages are kept.
fn pictures() -> PathBuf {
    let folder = bin_dir().join("../screenshots");
    std::fs::create_dir_all(&folder).expect("a folder for pictures can be made");
    folder
}

async fn sign_in(browser: &Browser) {
    browser.open("/app").await;
    browser.wait_for_text("h1", "Sign in").await;
    browser.fill("#login", "grace").await;
    browser.fill("#pw", PASSWORD).await;
    browser.click("form button").await;
    browser.wait_for_path(|path| path.starts_with("/app/acme")).await;
}

/// Runs what the page shows, as somebody who pastes it into a terminal of the host would.
async fn paste(installation: &Installation, commands: &str) -> tokio::process::Child {
    let home = installation.scratch("host");
    let mut path = std::ffi::OsString::from(bin_dir());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    Command::new("sh")
        .args(["-e", "-c", &format!("{commands} & echo $! > ~/pid; wait")])
        .env_clear()
        .env("HOME", &home)
        .env("PATH", path)
        .env("TERRAPOOL_AGENT_NAME", "pasted")
        .env("TERRAPOOL_LOG", "info")
        .envs(std::env::var_os("DOCKER_HOST").map(|host| ("DOCKER_HOST", host)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("a shell starts")
}

/// Every page is whole: nothing refused by its own policy, nothing wider than the window, every control with a name.
async fn check(browser: &Browser, path: &str) {
    let found = browser
        .script(
            r"
            const problems = [];
            const root = document.documentElement;
            if (root.scrollWidth > innerWidth) problems.push(`wider than the window: ${root.scrollWidth} > ${innerWidth}`);
            if (document.querySelectorAll('h1').length !== 1) problems.push('not exactly one h1');
            const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
            for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`two elements are called ${id}`);
            for (const e of document.querySelectorAll('a, button, input:not([type=hidden]), select, textarea, summary')) {
              const name = (e.ariaLabel ?? '') + e.textContent + [...(e.labels ?? [])].map((l) => l.textContent).join('');
              if (!name.trim()) problems.push('no name: ' + e.outerHTML.slice(0, 120));
            }
            for (const e of document.querySelectorAll('table')) if (!e.caption) problems.push('a table without a caption');
            return problems.join('; ');
            ",
        )
        .await;
    assert_eq!(found, json!(""), "{path}");
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{path}: {complaints:?}");
}

#[tokio::test]
async fn from_the_first_sign_in_to_the_deletion_of_the_pool() {
    let installation = Installation::start().await;
    installation.create_account("grace", PASSWORD).await;
    let browser = Browser::start(&installation.url()).await;
    browser.look(1440, 900, false).await;
    sign_in(&browser).await;
    browser
        .wait_for_text("body", "Three steps to the first run")
        .await;

    // A pool, a token, and the agent's own command.
    browser.open("/app/acme/agent-pools/new").await;
    browser.fill("#name", "data-centre").await;
    browser.click("main form button.main").await;
    let connect = browser.wait_for_path(|path| path.ends_with("/connect")).await;
    let pool = connect.trim_end_matches("/connect").to_owned();
    browser.fill("#description", "first host").await;
    browser.click("main .steps form button").await;
    browser
        .wait_for_text("#arrival", "Waiting for the first agent")
        .await;
    let commands = browser
        .script("return document.getElementById('c-bin').textContent")
        .await;
    let commands = commands.as_str().expect("the page has a command").to_owned();
    assert!(commands.contains("tpa_"), "{commands}");
    let shell = paste(&installation, &commands).await;
    browser.wait_for_text("#arrival", "pasted is connected").await;

    // A workspace in the pool, with a hostile message for its run.
    browser.open("/app/acme/workspaces/new").await;
    browser.fill("#name", "network").await;
    browser.click("[name=mode][value=agent]").await;
    browser.click("main form button.main").await;
    browser
        .wait_for_path(|path| path.ends_with("/workspaces/network"))
        .await;
    let mut workspace = installation.find_workspace("network").await;
    installation.configure(&mut workspace, CONFIGURATION).await;

    // Plan, confirm, apply; the page follows by itself.
    browser.open("/app/acme/workspaces/network").await;
    browser.click("[popovertarget=new]").await;
    browser
        .fill("#msg", "<img src=x onerror=alert(1)> \u{202e}three zones")
        .await;
    browser.click("#new button.main").await;
    let run = browser.wait_for_path(|path| path.contains("/runs/run-")).await;
    browser.wait_for_text("#verdict", "Needs confirmation").await;
    browser.wait_for_text("#verdict", "3 to add").await;
    browser.click("[popovertarget=ok]").await;
    browser.fill("#cm", "as agreed").await;
    browser.click("#ok button.main").await;
    browser.wait_for_text("#verdict h2", "Applied").await;
    browser.open(&run).await;
    let page = browser.text("main").await;
    for text in ["3 added", "Confirmed by grace", "as agreed", "onerror=alert(1)"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let log = browser
        .script("document.getElementById('apply-fold').open = true; return document.getElementById('apply-log').textContent")
        .await;
    let log = log.as_str().unwrap_or_default();
    assert!(log.contains("<script>document.title=1</script>"), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains('\u{7}'), "{log}");
    assert!(browser.title().await.starts_with("Applied"));
    browser.open("/app/acme/workspaces/network").await;
    let page = browser.text("main").await;
    assert!(
        page.contains("zone 2") && page.contains("sensitive, not shown"),
        "{page}"
    );
    assert!(!page.contains("hunter2"));

    pages(&browser, &pool, &run).await;

    // The address that command lines print.
    let printed = run.replacen("/workspaces/", "/", 1);
    browser.open(&printed).await;
    browser.wait_for_path(|path| path == run).await;

    // Everything is destroyed only when its name is typed, and the server checks it.
    browser.open("/app/acme/workspaces/network").await;
    browser.click("[popovertarget=new]").await;
    browser.click("[name=kind][value=destroy]").await;
    browser.click("#new button.main").await;
    browser.wait_for_text("#verdict", "3 to destroy").await;
    let destroy = browser.path().await;
    for (name, done) in [("netwark", false), ("network", true)] {
        browser.open(&destroy).await;
        browser.click("[popovertarget=ok]").await;
        browser.click("#ok [name=seen]").await;
        browser.fill("#ok [name=name]", name).await;
        browser.click("#ok button.kill").await;
        if done {
            browser.wait_for_text("#verdict h2", "Applied").await;
        } else {
            browser.wait_for_text("h1", "Not done").await;
            browser.complaints().await;
        }
    }

    // The workspace, and then the pool.
    browser.open("/app/acme/workspaces/network/settings").await;
    browser.click("[popovertarget=delete]").await;
    browser.fill("#delete-name", "network").await;
    browser.click("#delete button.kill").await;
    browser
        .wait_for_text("main", "Workspace network is deleted.")
        .await;
    browser.open(&format!("{pool}/settings")).await;
    browser.click("[popovertarget=delete]").await;
    browser.fill("#delete-name", "data-centre").await;
    browser.click("#delete button.kill").await;
    browser
        .wait_for_text("main", "Pool data-centre is deleted.")
        .await;

    end(&installation, shell).await;
}

/// Ends what was pasted, as Ctrl-C would, and waits for it.
async fn end(installation: &Installation, mut shell: tokio::process::Child) {
    let pid = std::fs::read_to_string(installation.scratch("host").join("pid")).unwrap_or_default();
    let ended = until(Duration::from_secs(60), async || {
        let _ = Command::new("kill").arg(pid.trim()).status().await;
        shell.try_wait().ok().flatten()
    })
    .await;
    assert!(ended.is_some(), "the agent did not end");
}

/// Every page, on a screen and on a phone, light and dark.
async fn pages(browser: &Browser, pool: &str, run: &str) {
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
    // The other themes change colours only.
    for (width, height, dark) in [(1440, 900, true), (390, 844, false)] {
        browser.look(width, height, dark).await;
        for (name, path) in pages
            .iter()
            .filter(|(name, _)| matches!(*name, "workspaces" | "run" | "pool"))
        {
            browser.open(path).await;
            check(browser, path).await;
            let theme = if dark { "dark" } else { "light" };
            browser
                .picture(&folder.join(format!("{name}-{width}-{theme}.png")))
                .await;
        }
    }
    browser.look(1440, 900, false).await;
    browser.open("/app/acme/nothing").await;
    browser.wait_for_text("h1", "Not here, or not for you").await;
    browser.picture(&folder.join("not-found.png")).await;
    // The server answers 404, which the browser notes.
    browser.complaints().await;
}
