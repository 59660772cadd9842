//! What people do with states, in a real browser.

use super::signed_in;
use super::world::World;

async fn serial(world: &World, workspace: &str) -> u64 {
    let found = world
        .plane
        .get(&format!(
            "organizations/acme/workspaces/{workspace}?include=current-state-version"
        ))
        .await
        .expect(200);
    let version = found["data"]["relationships"]["current-state-version"]["data"]["id"]
        .as_str()
        .map(str::to_owned);
    match version {
        Some(version) => {
            let version = world
                .plane
                .get(&format!("state-versions/{version}"))
                .await
                .expect(200);
            version["data"]["attributes"]["serial"].as_u64().unwrap()
        }
        None => 0,
    }
}

#[tokio::test]
async fn states_are_compared_rolled_back_and_what_is_kept_apart_is_adopted() {
    let world = World::new().await;
    let browser = signed_in(&world).await;

    // Two states side by side.
    let page = "/app/acme/workspaces/network/states";
    browser.open(page).await;
    browser.click("tbody tr:nth-child(2) [name=from]").await;
    browser.click("tbody tr:nth-child(1) [name=to]").await;
    browser.click("main form button.btn.sm").await;
    browser.wait_for_path(|path| path.contains("from=")).await;
    let text = browser.text("main").await;
    for expected in ["zone_1", "zone_2"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");

    // The plan that waits for somebody holds the lock.
    let run = world.places["run-planned"].rsplit('/').next().unwrap();
    let path = format!("runs/{run}/actions/discard");
    world.plane.post(&path, &serde_json::json!({})).await.expect(202);
    // The earlier one becomes current again, when its serial is typed.
    let earlier = browser
        .script("return document.querySelector('tbody tr:nth-child(2) th a').search")
        .await;
    let earlier = earlier.as_str().unwrap().to_owned();
    browser.click("tbody tr:nth-child(2) th a").await;
    let chosen = browser.wait_for_path(|path| path.ends_with(&earlier)).await;
    for (typed, done) in [("2", false), ("1", true)] {
        browser.open(&chosen).await;
        browser.click("[popovertarget=roll-back]").await;
        browser.fill("#rb", typed).await;
        browser.click("#roll-back button.kill").await;
        if done {
            browser
                .wait_for_text("main", "The earlier state is the current one again")
                .await;
        } else {
            browser.wait_for_text("h1", "Not done").await;
            browser.complaints().await;
        }
    }
    assert_eq!(serial(&world, "network").await, 3);

    // What is kept apart is said on the workspace's page, and adopted on that of its states.
    browser.open("/app/acme/workspaces/firewall").await;
    browser.wait_for_text("main", "1 state is kept apart").await;
    browser.open("/app/acme/workspaces/firewall/states").await;
    browser.click("tbody th a").await;
    let chosen = browser.wait_for_path(|path| path.contains("?to=")).await;
    for (typed, done) in [("4", false), ("5", true)] {
        browser.open(&chosen).await;
        browser.click("[popovertarget=promote]").await;
        browser.fill("#pr", typed).await;
        browser.click("#promote button.kill").await;
        if done {
            browser
                .wait_for_text("main", "The state is the current one now")
                .await;
        } else {
            browser.wait_for_text("h1", "Not done").await;
            browser.complaints().await;
        }
    }
    assert_eq!(serial(&world, "firewall").await, 5);
    browser.open("/app/acme/workspaces/firewall").await;
    assert!(!browser.text("main").await.contains("kept apart"));
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
}
