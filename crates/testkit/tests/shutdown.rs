//! A control plane that is stopped while agents are connected.

use std::time::Duration;

use terrapool_testkit::installation::Installation;
use terrapool_testkit::wait::until;

#[tokio::test]
async fn the_server_stops_at_once_with_agents_connected_and_they_come_back() {
    let mut installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    // Its first sync is answered or held by now; a run shows that it works.
    let cli = installation.cli(&format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"one\" }}\n  }}\n}}\nresource \"terraform_data\" \"a\" {{}}\n",
        installation.host()
    ));
    cli.run(&["init"]).await.succeeded();
    cli.run(&["plan"]).await.succeeded();

    let took = installation.stop_server().await;
    assert!(took < Duration::from_secs(1), "stopping took {took:?}");

    installation.start_server().await;
    let ended = until(Duration::from_secs(60), async || {
        let plan = cli.run(&["plan"]).await;
        (plan.code == Some(0)).then_some(())
    })
    .await;
    assert!(ended.is_some(), "the agent did not come back");
}
