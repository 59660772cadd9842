//! Logs on the page of a run: what is found in them, and the lines that links lead to.

use terrapool_protocol::job::FailureReason;
use terrapool_testkit::browser::Browser;
use terrapool_testkit::installation::free_port;

use super::{Scene, has};
use crate::common::browser::PASSWORD;

#[tokio::test]
async fn a_log_is_searched_by_the_server_and_shows_long_lines_when_asked() {
    let mut scene = Scene::new().await;
    let mut log: String = (1..=3000).map(|number| format!("line {number}\n")).collect();
    log.push_str(&format!("{}end\n", "x".repeat(9000)));
    let page = scene
        .failed(&log, FailureReason::Exit, "terraform exited with 1", 100 << 20)
        .await;
    let asked = |query: &str| format!("{page}?phase=plan&{query}");
    // Without scripts: the first line that was found, its place among all, and the way to the others.
    let found = scene.browser.get(&asked("find=line+200")).await;
    let first = asked("find=line%20200&at=200#plan-L200");
    assert_eq!((found.status, found.location.as_str()), (303, first.as_str()));
    let seen = scene.page(&asked("find=line+200&at=2000")).await;
    has(
        &seen,
        &[
            "2 of 11 lines",
            "at=200#",
            "Previous",
            "at=2001#",
            "Next",
            "class=\"ln hit\" id=\"plan-L2000\"",
        ],
    );
    has(&scene.page(&asked("find=nowhere")).await, &["Not found"]);
    let line = scene.browser.get(&asked("find=%3A1200")).await;
    assert_eq!(line.location, asked("at=1200#plan-L1200"));

    // A line of more than 4 kB is cut, until it is asked for.
    let cut = scene.page(&page).await;
    has(
        &cut,
        &[
            "xxx<em",
            "4 kB more</em>",
            "?phase=plan&amp;at=3001&amp;whole=1#plan-L3001\">show all",
        ],
    );
    assert!(!cut.contains("xend"));
    assert!(
        scene
            .page(&asked("at=3001&whole=1"))
            .await
            .contains("xend</span>")
    );
}

#[tokio::test]
async fn a_link_to_lines_of_a_long_log_shows_them() {
    let port = free_port();
    let mut scene = Scene::on(|config| {
        config.listen = format!("127.0.0.1:{port}");
        config.public_url = format!("http://127.0.0.1:{port}");
    })
    .await;
    let log: String = (1..=5000).map(|number| format!("line {number}\n")).collect();
    let page = scene
        .failed(&log, FailureReason::Exit, "terraform exited with 1", 100 << 20)
        .await;
    let browser = Browser::start(&scene.plane.base()).await;
    browser.look(1440, 900, false).await;
    browser.open("/app").await;
    browser.fill("#login", "ada").await;
    browser.fill("#pw", PASSWORD).await;
    browser.click("form button").await;
    browser.wait_for_path(|path| path.starts_with("/app/")).await;

    browser.open(&format!("{page}#plan-L700-702")).await;
    for line in ["#plan-L700.hit", "#plan-L702.hit"] {
        browser.wait_for(line).await;
    }
    assert!(!browser.has("#plan-L703.hit").await);
    let in_sight = "const at = document.getElementById('plan-L700').getBoundingClientRect();\
        return at.top >= 0 && at.bottom <= innerHeight";
    browser.wait_for_script(in_sight).await;
    browser.script("location.hash = '#plan-L2222'").await;
    browser.wait_for("#plan-L2222.hit").await;
    assert!(!browser.has("#plan-L700.hit").await);
    // The page of lines that has it, where this one has others.
    browser.open("/app").await;
    browser
        .open(&format!("{page}?phase=plan&from=1#plan-L3333"))
        .await;
    browser.wait_for("#plan-L3333.hit").await;
    let path = browser.path().await;
    assert!(path.ends_with("?phase=plan&from=2833#plan-L3333"), "{path}");
}
