//! The same browser with scripts switched off.

use terrapool_testkit::browser::Browser;

use super::pages::scripts;

/// A sign-in, a variable, and a run from its start by way of its confirmation to its end, by links and forms alone.
pub(crate) async fn a_run_from_its_start_to_its_end(browser: &Browser) {
    scripts(browser, false).await;
    browser.open("/app/acme/workspaces/network/variables").await;
    // Nothing of the page's own script has run.
    assert!(!browser.has("#live:not([hidden])").await);
    browser.fill("#key", "TF_VAR_size").await;
    browser.fill("#value", "3").await;
    browser.click("[name=category][value=env]").await;
    browser.click("#edit button.main").await;
    browser.wait_for_text("main", "TF_VAR_size is saved.").await;
    browser.open("/app/acme/workspaces/network/variables").await;
    assert!(
        !browser.text("main").await.contains("is saved"),
        "it is said once"
    );

    browser.open("/app/acme/workspaces/network").await;
    browser.click("[popovertarget=new]").await;
    browser.fill("#msg", "without scripts").await;
    browser.click("[name=kind][value=destroy]").await;
    browser.click("#new button.main").await;
    let run = browser.wait_for_path(|path| path.contains("/runs/run-")).await;
    // The page reloads by itself while the run is active.
    browser.wait_for_text("#verdict", "Needs confirmation").await;
    browser.wait_for_text("#verdict", "3 to destroy").await;
    browser.open(&format!("{run}?phase=plan&from=1")).await;
    browser.wait_for("#plan-L1").await;
    browser.open(&run).await;
    browser.click("[popovertarget=no]").await;
    browser.click("#no button.kill").await;
    browser.wait_for_text("#verdict h2", "Discarded").await;
    scripts(browser, true).await;
    browser.open(&run).await;
    browser.complaints().await;
}
