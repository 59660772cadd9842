//! A log of 128,006 lines.

use serde_json::json;
use terrapool_testkit::browser::Browser;
use terrapool_testkit::installation::Installation;

use super::{PASSWORD, sign_in};

const LINES: usize = 128_006;

const CONFIGURATION: &str = r#"
resource "terraform_data" "long" {
  provisioner "local-exec" {
    command = "i=0; while [ $i -lt 128006 ]; do echo line $i; i=$((i + 1)); done"
  }
}
"#;

/// Lines that the page holds now.
async fn held(browser: &Browser) -> u64 {
    let held = browser
        .script("return document.querySelectorAll('#apply-log .ln').length")
        .await;
    held.as_u64().unwrap_or(u64::MAX)
}

#[tokio::test]
async fn a_long_log_is_scrolled_from_its_end_to_its_begin() {
    let installation = Installation::start().await;
    installation.create_account("grace", PASSWORD).await;
    let agent = installation.start_shared_agent().await;
    let workspace = installation
        .workspace("long", &json!({"auto-apply": true}), CONFIGURATION)
        .await;
    let run = installation.run(&workspace, &json!({})).await;
    installation.run_reaches(&run, "applied").await;

    let browser = Browser::start(&installation.url()).await;
    browser.look(1440, 900, false).await;
    sign_in(&browser).await;
    let page = format!("/app/acme/workspaces/long/runs/{run}");
    browser.open(&page).await;
    browser.wait_for("#apply-fold").await;
    browser
        .script("document.getElementById('apply-fold').open = true")
        .await;
    // The end is on the page, and nothing else but empty boxes.
    let last = format!("line {}", LINES - 1);
    let text = browser
        .script("return document.getElementById('apply-log').textContent")
        .await;
    let text = text.as_str().unwrap_or_default();
    assert!(text.contains(&last), "the end is not on the page");
    assert!(!text.contains("line 64000\n"));
    assert!(held(&browser).await <= 3000);
    // What is looked at is filled in, and what is far away is emptied.
    for place in [0.0, 0.5, 1.0] {
        browser
            .script(&format!(
                "const log = document.querySelector('#apply-log .log'); log.scrollTop = {place} * log.scrollHeight"
            ))
            .await;
        browser.wait_for_script(IS_FILLED).await;
        assert!(held(&browser).await <= 3000, "at {place}");
    }
    let height = browser
        .script("return document.querySelector('#apply-log .log').scrollHeight")
        .await;
    assert!(
        height.as_u64().is_some_and(|height| height > LINES as u64 * 15),
        "{height}"
    );
    // A line has an address, with scripts and without.
    let number = 64_000;
    browser
        .open(&format!("{page}?phase=apply&from={number}#apply-L{number}"))
        .await;
    browser.wait_for(&format!("#apply-L{number}")).await;
    browser
        .open(&format!("{page}?phase=apply&find=line%2077777"))
        .await;
    browser.wait_for_text("#apply-log .logbar", "1 of 1 line").await;
    assert!(
        browser
            .script("return location.hash")
            .await
            .as_str()
            .unwrap_or_default()
            .starts_with("#apply-L777")
    );
    // A colon and a number go to a line.
    browser.open(&format!("{page}?phase=apply&find=%3A64000")).await;
    browser.wait_for("#apply-L64000").await;
    assert_eq!(browser.script("return location.hash").await, "#apply-L64000");
    // Keys go from one found line to the next, and back.
    browser
        .open(&format!("{page}?phase=apply&from=1&find=line%201"))
        .await;
    browser.wait_for("#apply-log .ln.hit").await;
    for (key, expected) in [("n", 0), ("n", 1), ("N", 0)] {
        browser
            .script(&format!(
                "document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', bubbles: true}}))"
            ))
            .await;
        browser
            .wait_for_script(&format!(
                "return document.querySelectorAll('.ln.hit')[{expected}].contains(document.activeElement)"
            ))
            .await;
    }
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:?}");
    drop(agent);
}

/// Whether the log's middle, as it is scrolled now, has lines.
const IS_FILLED: &str = "
    const log = document.querySelector('#apply-log .log');
    log.scrollIntoView({ block: 'center' });
    const box = log.getBoundingClientRect();
    const at = document.elementFromPoint(box.left + 200, box.top + box.height / 2);
    return Boolean(at?.closest('.ln'));
";
