//! Signing in to the web UI, its sessions, and what forms need.

use serde_json::{Value, json};
use terrapool_protocol::secret::Secret;
use terrapool_server::admin::{self, AdminError, COMMAND_LINE};
use terrapool_testkit::forms::{FormBrowser, hidden};

use crate::common::browser::{PASSWORD, account, look_at};
use crate::common::{Plane, id};

#[tokio::test]
async fn an_account_made_on_the_command_line_signs_in_and_out() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    let mut browser = look_at(&plane);

    let page = browser.get("/app/acme/workspaces?q=x").await;
    assert_eq!(
        (page.status, page.location.as_str()),
        (303, "/sign-in?to=/app/acme/workspaces%3Fq%3Dx")
    );
    assert!(page.policy.contains("default-src 'none'") && !page.policy.contains("unsafe"));

    let answer = browser.sign_in("ada@example.com", PASSWORD).await;
    assert_eq!((answer.status, answer.location.as_str()), (303, "/app"));
    let page = browser.get("/app/acme/workspaces").await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("Three steps to the first run"),
        "{}",
        page.text
    );

    let token = browser.token("/app/settings/profile").await;
    let answer = browser.post("/sign-out", &[("token", &token)]).await;
    assert_eq!((answer.status, answer.location.as_str()), (303, "/sign-in"));
    assert_eq!(browser.get("/app/acme/workspaces").await.status, 303);
}

#[tokio::test]
async fn a_password_that_is_set_anew_ends_the_sessions_and_signs_in() {
    let plane = Plane::start().await;
    let app = &plane.running.app;
    account(&plane, "ada", false).await;
    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    assert_eq!(browser.get("/app/settings/profile").await.status, 200);
    let short = admin::reset_password(app, "ada", &Secret::new("short")).await;
    assert!(matches!(short, Err(AdminError::Password)), "{short:?}");
    assert_eq!(browser.get("/app/settings/profile").await.status, 200);

    let new = "a quite different horse";
    admin::reset_password(app, "ada", &Secret::new(new))
        .await
        .unwrap();
    assert_eq!(browser.get("/app/settings/profile").await.status, 303);
    assert_eq!(browser.sign_in("ada", PASSWORD).await.status, 401);
    assert_eq!(browser.sign_in("ada", new).await.status, 303);
    let nobody = admin::reset_password(app, "eve", &Secret::new(new)).await;
    assert!(matches!(nobody, Err(AdminError::NoUser(_))), "{nobody:?}");
}

#[tokio::test]
async fn site_administrators_disable_and_enable_accounts_but_not_their_own() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    let bobs_token = plane.stranger("bob").await;
    account(&plane, "cy", false).await;
    let (mut ada, mut cy) = (look_at(&plane), look_at(&plane));
    ada.sign_in("ada", PASSWORD).await;
    cy.sign_in("cy", PASSWORD).await;
    let cys_token = cy.token("/app/settings/profile").await;
    let me = |token: &str| plane.send(plane.request_as(token, "GET", "account/details"));
    assert_eq!(me(&bobs_token).await.status, 200);

    let token = ada.token("/app/admin").await;
    for name in ["bob", "cy"] {
        let answer = ada
            .post("/app/admin/users/disable", &[("token", &token), ("user", name)])
            .await;
        assert_eq!((answer.status, answer.location.as_str()), (303, "/app/admin"));
    }
    assert_eq!(me(&bobs_token).await.status, 401);
    assert_eq!(cy.get("/app/settings/profile").await.status, 303);
    let answer = cy
        .post("/app/settings/theme", &[("token", &cys_token), ("theme", "dark")])
        .await;
    assert_ne!(answer.status, 200);
    let refused = cy.sign_in("cy", PASSWORD).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert!(
        refused.text.contains("This account is disabled"),
        "{}",
        refused.text
    );
    // Who does not know the password does not learn of it.
    let wrong = cy.sign_in("cy", "wrong").await;
    assert!(wrong.status == 401 && !wrong.text.contains("disabled"));

    let page = ada.get("/app/admin").await;
    assert!(page.text.contains("<span class=\"tag bad\">disabled</span>"));
    for name in ["bob", "cy"] {
        ada.post("/app/admin/users/enable", &[("token", &token), ("user", name)])
            .await;
    }
    assert_eq!(me(&bobs_token).await.status, 200);
    // The old session does not come back.
    assert_eq!(cy.get("/app/settings/profile").await.status, 303);
    assert_eq!(cy.sign_in("cy", PASSWORD).await.status, 303);

    let own = ada
        .post("/app/admin/users/disable", &[("token", &token), ("user", "ada")])
        .await;
    assert_eq!(own.status, 422, "{}", own.text);
    assert!(own.text.contains("disable your own account"), "{}", own.text);
    let nobody = ada
        .post(
            "/app/admin/users/disable",
            &[("token", &token), ("user", "nobody")],
        )
        .await;
    assert_eq!(nobody.status, 422, "{}", nobody.text);
    let log = ada.get("/app/admin/audit").await.text;
    for action in ["user.disable", "user.enable", "user.create"] {
        assert!(log.contains(action), "{action}: {log}");
    }
}

#[tokio::test]
async fn an_installation_keeps_a_site_administrator_who_can_sign_in() {
    let plane = Plane::start().await;
    let app = &plane.running.app;
    // The one that the test's control plane begins with makes room for two.
    account(&plane, "ada", true).await;
    account(&plane, "bob", true).await;
    admin::set_site_admin(app, "ann", false).await.unwrap();
    admin::disable_user(app, "ada", COMMAND_LINE).await.unwrap();
    let last = admin::disable_user(app, "bob", COMMAND_LINE).await;
    assert!(
        matches!(last, Err(AdminError::LastSiteAdministrator(_))),
        "{last:?}"
    );
    let last = admin::set_site_admin(app, "bob", false).await;
    assert!(
        matches!(last, Err(AdminError::LastSiteAdministrator(_))),
        "{last:?}"
    );
    admin::enable_user(app, "ada", COMMAND_LINE).await.unwrap();
    admin::set_site_admin(app, "bob", false).await.unwrap();
    let mut bob = look_at(&plane);
    bob.sign_in("bob", PASSWORD).await;
    assert_eq!(bob.get("/app/admin").await.status, 404);
    let mut ada = look_at(&plane);
    ada.sign_in("ada", PASSWORD).await;
    assert_eq!(ada.get("/app/admin").await.status, 200);
}

#[tokio::test]
async fn wrong_passwords_are_counted_and_then_pause() {
    let plane = Plane::start().await;
    account(&plane, "ada", false).await;
    let mut browser = look_at(&plane);
    let first = browser.sign_in("ada", "wrong").await;
    assert_eq!(first.status, 401);
    assert!(first.text.contains("4 tries left"), "{}", first.text);
    assert!(first.text.contains("role=\"alert\""));
    for _ in 0..4 {
        browser.sign_in("ada", "wrong").await;
    }
    let paused = browser.sign_in("ada", PASSWORD).await;
    assert_eq!(paused.status, 429, "{}", paused.text);
    assert!(paused.text.contains("Too many wrong passwords"));
    // Nobody learns whether a name exists.
    let unknown = browser.sign_in("nobody", PASSWORD).await;
    assert_eq!(unknown.status, 401);
    assert!(
        unknown
            .text
            .contains("That name and password do not match. 4 tries left")
    );
}

#[tokio::test]
async fn forms_without_the_sessions_token_do_nothing() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    for token in ["", "AAAA"] {
        let fields = [("token", token), ("name", "forged"), ("scope", "organization")];
        let answer = browser.post("/app/acme/agent-pools", &fields).await;
        assert_eq!(answer.status, 403);
        assert!(answer.text.contains("This form is too old"));
    }
    let mut other = look_at(&plane);
    other.sign_in("ada", PASSWORD).await;
    let foreign = other.token("/app/acme/agent-pools/new").await;
    let answer = browser
        .post(
            "/app/acme/agent-pools",
            &[("token", &foreign), ("name", "forged")],
        )
        .await;
    assert_eq!(answer.status, 403);
    let pools = plane.get("organizations/acme/agent-pools").await.expect(200);
    assert_eq!(pools["data"].as_array().unwrap().len(), 0);
    // The sign-in form needs its cookie, too.
    let mut fresh = look_at(&plane);
    let answer = fresh
        .post(
            "/sign-in",
            &[("login", "ada"), ("password", PASSWORD), ("token", "x")],
        )
        .await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn what_is_not_for_somebody_looks_like_what_is_not_there() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    account(&plane, "bob", false).await;
    let pool = plane
        .post(
            "organizations/acme/agent-pools",
            &serde_json::json!({"data": {"attributes": {"name": "one"}}}),
        )
        .await
        .expect(201);
    let pool = crate::common::id(&pool);
    plane.workspace("network").await;
    let paths = [
        "/app/acme/workspaces".to_owned(),
        "/app/acme/workspaces/network".to_owned(),
        "/app/acme/workspaces/network/settings".to_owned(),
        "/app/acme/workspaces/network/variables".to_owned(),
        "/app/acme/workspaces/network/states".to_owned(),
        "/app/acme/runs".to_owned(),
        "/app/acme/projects".to_owned(),
        "/app/acme/agent-pools".to_owned(),
        format!("/app/acme/agent-pools/{pool}"),
        format!("/app/acme/agent-pools/{pool}/install"),
        format!("/app/acme/agent-pools/{pool}/connect"),
        format!("/app/acme/agent-pools/{pool}/tokens"),
        format!("/app/acme/agent-pools/{pool}/access"),
        format!("/app/acme/agent-pools/{pool}/settings"),
        "/app/acme/access".to_owned(),
        "/app/acme/fleet".to_owned(),
        "/app/acme/audit".to_owned(),
        "/app/acme/settings".to_owned(),
        format!("/app/acme/events?page=pool:{pool}"),
        "/app/admin".to_owned(),
        "/app/admin/audit".to_owned(),
    ];
    let (mut owner, mut stranger) = (look_at(&plane), look_at(&plane));
    owner.sign_in("ada", PASSWORD).await;
    stranger.sign_in("bob", PASSWORD).await;
    let nothing = stranger.get("/app/nothing/workspaces").await;
    assert_eq!(nothing.status, 404);
    assert!(nothing.text.contains("Not here, or not for you") && nothing.text.contains("bob"));
    for path in paths {
        if !path.contains("/events") {
            let seen = owner.get(&path).await;
            assert_eq!(seen.status, 200, "{path}: {}", seen.text);
            assert!(
                !seen.text.contains(" style=") && !seen.text.contains(" onclick="),
                "{path}"
            );
        }
        let seen = stranger.get(&path).await;
        assert_eq!((seen.status, &seen.text), (404, &nothing.text), "{path}");
        let anonymous = look_at(&plane).get(&path).await;
        assert_eq!(anonymous.status, 303, "{path}");
    }
}

#[tokio::test]
async fn forms_tell_what_is_wrong_and_keep_what_was_filled_in() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    let token = browser.token("/app/acme/workspaces/new").await;
    let hostile = "<script>alert(1)</script>";
    let fields = [
        ("token", token.as_str()),
        ("name", hostile),
        ("description", "kept"),
    ];
    let answer = browser.post("/app/acme/workspaces", &fields).await;
    assert_eq!(answer.status, 422, "{}", answer.text);
    assert!(answer.text.contains("Name is invalid") && answer.text.contains("value=\"kept\""));
    assert!(!answer.text.contains(hostile), "{}", answer.text);

    let fields = [("token", token.as_str()), ("name", "made"), ("mode", "remote")];
    let answer = browser.post("/app/acme/workspaces", &fields).await;
    assert_eq!(
        (answer.status, answer.location.as_str()),
        (303, "/app/acme/workspaces/made")
    );
    let page = browser.get("/app/acme/workspaces/made").await;
    assert!(page.text.contains("Workspace made is there."), "{}", page.text);
    assert!(page.text.contains("Locked") || page.text.contains("Lock…"));

    let fields = [("token", token.as_str()), ("reason", "by hand")];
    browser.post("/app/acme/workspaces/made/lock", &fields).await;
    let page = browser.get("/app/acme/workspaces/made").await;
    assert!(page.text.contains("Locked by you: by hand"), "{}", page.text);
    browser
        .post("/app/acme/workspaces/made/unlock", &[("token", &token)])
        .await;

    // A name has to be typed as it is; the server checks it.
    let answer = browser
        .post(
            "/app/acme/workspaces/made/delete",
            &[("token", &token), ("name", "mad"), ("abandon", "on")],
        )
        .await;
    // The form again, with what was filled in and what is wrong with it.
    assert_eq!(answer.status, 422);
    for part in [
        "action=\"/app/acme/workspaces/made/delete\"",
        "name=\"abandon\" value=\"on\"",
        "Type <b>made</b>",
        "value=\"mad\"",
        "aria-invalid=\"true\"",
        "That is another name.",
        ">Delete the workspace<",
    ] {
        assert!(answer.text.contains(part), "{part}: {}", answer.text);
    }
    assert_eq!(browser.get("/app/acme/workspaces/made").await.status, 200);
    let answer = browser
        .post(
            "/app/acme/workspaces/made/delete",
            &[("token", &token), ("name", "made")],
        )
        .await;
    assert_eq!(answer.status, 303);
    assert_eq!(browser.get("/app/acme/workspaces/made").await.status, 404);

    let log = browser.get("/app/acme/audit").await.text;
    for action in [
        "workspace.create",
        "workspace.lock",
        "workspace.unlock",
        "workspace.delete",
    ] {
        assert!(log.contains(action), "{action}");
    }
    assert!(log.contains("ada"));
    let own = browser.get("/app/admin/audit").await.text;
    assert!(own.contains("sign-in"), "{own}");
}

#[tokio::test]
async fn secrets_are_shown_once() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    let token = browser.token("/app/acme/agent-pools/new").await;
    let answer = browser
        .post(
            "/app/acme/agent-pools",
            &[("token", &token), ("name", "dc"), ("scope", "listed")],
        )
        .await;
    assert_eq!(answer.status, 303, "{}", answer.text);
    let pool = answer.location.trim_end_matches("/connect").to_owned();
    let answer = browser
        .post(
            &format!("{pool}/tokens"),
            &[("token", &token), ("description", "hosts"), ("for", "install")],
        )
        .await;
    assert_eq!(answer.status, 200);
    let secret = answer
        .text
        .split("tpa_")
        .nth(1)
        .unwrap()
        .split('<')
        .next()
        .unwrap()
        .to_owned();
    assert!(secret.len() > 30);
    for page in ["tokens", "install", "connect", "settings"] {
        let seen = browser.get(&format!("{pool}/{page}")).await;
        assert!(!seen.text.contains(&secret), "{page}");
    }

    plane.workspace("network").await;
    let fields = [
        ("token", token.as_str()),
        ("key", "password"),
        ("value", "hunter2\r\nsecond"),
        ("category", "env"),
        ("sensitive", "on"),
    ];
    let answer = browser
        .post("/app/acme/workspaces/network/variables", &fields)
        .await;
    assert_eq!(answer.status, 303, "{}", answer.text);
    let seen = browser.get("/app/acme/workspaces/network/variables").await;
    assert!(seen.text.contains("password") && !seen.text.contains("hunter2"));
    let log = browser.get("/app/acme/audit").await.text;
    assert!(!log.contains("hunter2") && !log.contains(&secret));
}

#[tokio::test]
async fn static_files_have_addresses_of_their_content_and_are_kept_for_long() {
    let plane = Plane::start().await;
    let page = plane.send(plane.anonymous("GET", "/sign-in")).await;
    let html = String::from_utf8(page.bytes).unwrap();
    let style = html
        .split("href=\"/static/app.")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let file = plane
        .send(plane.anonymous("GET", &format!("/static/app.{style}")))
        .await;
    assert_eq!(file.status, 200);
    assert!(file.header("cache-control").contains("immutable"));
    assert_eq!(file.header("content-type"), "text/css; charset=utf-8");
    let other = plane
        .send(plane.anonymous("GET", "/static/app.00000000.css"))
        .await;
    assert_eq!(other.status, 404);
}

/// A state, uploaded as the CLI does it.
async fn upload(plane: &Plane, workspace: &str, serial: u64) -> String {
    let bytes = crate::common::state(serial, "l");
    let attributes = serde_json::json!({
        "serial": serial, "lineage": "l", "md5": crate::common::md5(&bytes), "force": false,
    });
    let body = serde_json::json!({"data": {"type": "state-versions", "attributes": attributes}});
    let made = plane
        .post(&format!("workspaces/{workspace}/state-versions"), &body)
        .await
        .expect(201);
    let url = made["data"]["attributes"]["hosted-state-upload-url"]
        .as_str()
        .unwrap();
    plane
        .send(plane.anonymous("PUT", url).body(bytes))
        .await
        .expect(200);
    crate::common::id(&made)
}

#[tokio::test]
async fn a_state_is_rolled_back_when_its_serial_is_typed() {
    let plane = Plane::start().await;
    account(&plane, "ada", true).await;
    let workspace = plane.workspace("network").await;
    plane.lock(&workspace).await;
    let first = upload(&plane, &workspace, 1).await;
    upload(&plane, &workspace, 2).await;
    let unlock = format!("workspaces/{workspace}/actions/unlock");
    plane.post(&unlock, &serde_json::json!({})).await.expect(200);

    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    let states = "/app/acme/workspaces/network/states";
    let page = browser.get(&format!("{states}?to={first}")).await;
    assert!(page.text.contains("Roll back to 1"), "{}", page.text);
    let token = hidden(&page.text, "token");
    let path = format!("{states}/{first}/roll-back");
    let current = format!("workspaces/{workspace}/current-state-version");
    for (typed, expected, serial) in [("2", 422, 2), ("1", 303, 3)] {
        let answer = browser.post(&path, &[("token", &token), ("name", typed)]).await;
        assert_eq!(answer.status, expected, "{}", answer.text);
        let now = plane.get(&current).await.expect(200);
        assert_eq!(now["data"]["attributes"]["serial"], serial);
    }
    // The lock that it took for this is given back.
    let seen = plane.get(&format!("workspaces/{workspace}")).await.expect(200);
    assert_eq!(seen["data"]["attributes"]["locked"], false);
}

#[tokio::test]
async fn a_pools_page_saves_what_the_api_takes_and_nothing_of_what_it_refuses() {
    let plane = Plane::start().await;
    account(&plane, "grace", true).await;
    let pool = json!({"data": {"type": "agent-pools", "attributes": {"name": "own"}}});
    let pool = id(&plane
        .post("organizations/acme/agent-pools", &pool)
        .await
        .expect(201));
    let mut browser = look_at(&plane);
    browser.sign_in("grace", PASSWORD).await;
    let page = format!("/app/acme/agent-pools/{pool}/settings");
    let token = browser.token(&page).await;
    let form = |contact: &'static str| {
        [
            ("token", token.clone()),
            ("name", "renamed".to_owned()),
            ("memory", "1024".to_owned()),
            ("cpu", "500".to_owned()),
            ("image", String::new()),
            ("network", "none".to_owned()),
            ("grace", "5".to_owned()),
            ("contact", contact.to_owned()),
            ("root", "no".to_owned()),
            ("log", "32".to_owned()),
            ("plan", "30".to_owned()),
            ("most-memory", "2048".to_owned()),
        ]
    };
    let send = async |browser: &mut FormBrowser, fields: &[(&str, String)]| {
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        browser.post(&page, &fields).await
    };
    // Shorter than the lease of applies.
    let refused = send(&mut browser, &form("1")).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text.contains("apply-contact-limit"), "{}", refused.text);
    let shown =
        async || plane.get(&format!("agent-pools/{pool}")).await.expect(200)["data"]["attributes"].clone();
    assert_eq!(shown().await["name"], "own", "nothing of it was saved");

    let saved = send(&mut browser, &form("")).await;
    assert_eq!(saved.status, 303, "{}", saved.text);
    let pool = shown().await;
    assert_eq!(pool["name"], "renamed");
    assert_eq!(pool["sandbox"]["memory-mb"], 1024);
    assert_eq!(pool["sandbox"]["network"], "none");
    assert_eq!(pool["sandbox"]["root-allowed"], false);
    assert_eq!(pool["sandbox"]["log-mb"], 32);
    assert_eq!(pool["sandbox"]["plan-seconds"], 1800);
    assert_eq!(pool["sandbox"]["maximum-memory-mb"], 2048);
    assert_eq!(
        pool["sandbox"]["apply-seconds"], 86_400,
        "what was not sent stays"
    );
    assert_eq!(pool["lease-times"]["apply-contact-limit"], Value::Null);
    assert_eq!(pool["lease-times"]["apply-grace"], 300);
}
