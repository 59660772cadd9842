//! The web UI in a real browser, with a real agent: from the first sign-in to the deletion of the pool.

use std::process::Stdio;
use std::time::Duration;

use terrapool_testkit::browser::Browser;
use terrapool_testkit::installation::{Installation, bin_dir};
use terrapool_testkit::wait::until;
use tokio::process::Command;

mod long_log;
mod pages;
mod without_scripts;

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
    // What it leaves on the container engine is removed like that of all agents.
    let data = home.join(".terrapool-agent/data");
    std::os::unix::fs::symlink(data, home.with_file_name("agent-pasted")).expect("a link can be made");
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
    // Its first sandbox proves the host before a run needs it.
    browser
        .wait_for_text("#arrival", "Sandbox started, limited and connected")
        .await;
    browser
        .wait_for_text("#arrival", "limited to 512 MB, network as the pool wants it")
        .await;

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
    followed_logs(&browser, &run).await;
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

    starting_twice(&installation, &browser, &workspace.id).await;
    draining(&browser, &pool).await;
    let team = team(&browser).await;
    pages::all(&browser, &pool, &run, &team).await;
    without_scripts::a_run_from_its_start_to_its_end(&browser).await;

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

/// A page that was open all the time has each line of its logs once, and says how many; a browser that connects again
/// gets only those it does not have.
async fn followed_logs(browser: &Browser, run: &str) {
    browser
        .wait_for_script(
            "const lines = [...document.querySelectorAll('.log .ln')].map((line) => line.id); \
             const counted = ['plan', 'apply'].map((phase) => parseInt(document.getElementById(phase + '-count').textContent)); \
             return lines.length > 10 && new Set(lines).size === lines.length && counted[0] + counted[1] === lines.length \
               && !document.querySelector('main').textContent.includes('Nothing written')",
        )
        .await;
    let id = run.rsplit('/').next().unwrap_or_default();
    let told = browser
        .script(&format!(
            "const again = new XMLHttpRequest(); again.open('GET', '/app/acme/events?run={id}&plan=0&apply=0', false); \
             again.setRequestHeader('Last-Event-ID', '2.1'); again.send(); return again.responseText"
        ))
        .await;
    let told = told.as_str().unwrap_or_default();
    for (line, comes) in [
        ("plan-L2", false),
        ("plan-L3", true),
        ("apply-L1", false),
        ("apply-L2", true),
    ] {
        assert_eq!(
            told.contains(&format!(r#"id=\"{line}\""#)),
            comes,
            "{line}: {told}"
        );
    }
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

/// A form that is sent twice starts one run.
async fn starting_twice(installation: &Installation, browser: &Browser, workspace: &str) {
    let runs = async || {
        let listed = installation.get(&format!("/workspaces/{workspace}/runs")).await;
        listed["data"].as_array().map_or(0, Vec::len)
    };
    let before = runs().await;
    browser.open("/app/acme/workspaces/network").await;
    browser.click("[popovertarget=new]").await;
    browser.click("[name=kind][value=plan]").await;
    browser
        .script("const b = document.querySelector('#new button.main'); b.click(); b.click();")
        .await;
    browser.wait_for_path(|path| path.contains("/runs/run-")).await;
    browser.wait_for_text("#verdict h2", "No changes").await;
    assert_eq!(runs().await, before + 1);
    browser.complaints().await;
}

/// An agent is drained and taken back by its page's buttons.
async fn draining(browser: &Browser, pool: &str) {
    browser.open(pool).await;
    browser.click("tbody th a").await;
    browser
        .wait_for_path(|path| path.contains("/agents/agent-"))
        .await;
    browser.wait_for_text("#agent-status", "Idle").await;
    let page = browser.text("main").await;
    browser.wait_for_text("#health", "Container engine").await;
    for text in ["as this server", "first host", "Jobs so far", "free"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    browser.click("[popovertarget=drain]").await;
    browser.click("#drain button.main").await;
    browser
        .wait_for_text("main", "takes no new run, and finishes what it holds")
        .await;
    browser.wait_for_text("#agent-status", "Draining").await;
    browser.click("#agent-actions form button").await;
    browser.wait_for_text("main", "takes runs again").await;
    browser.wait_for_text("#agent-status", "Idle").await;
}

/// Makes a team by its form, and gives it a role.
async fn team(browser: &Browser) -> String {
    browser.open("/app/acme/people").await;
    browser.fill("#name", "developers").await;
    browser.click("form[action$='/teams'] button").await;
    let team = browser
        .wait_for_path(|path| path.contains("/people/teams/"))
        .await;
    browser.click("form[action$='/access'] button").await;
    browser.wait_for_text("main table", "read").await;
    team
}
