//! A control plane that is stopped while agents are connected, and agents that end by themselves.

use std::time::Duration;

use serde_json::json;
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

#[tokio::test]
async fn agents_of_an_autoscaler_end_after_one_job_or_when_there_is_none() {
    let installation = Installation::start().await;
    let token = installation.admin(&["create-agent-token", "--shared"]).await;
    let idle_exit = [("TERRAPOOL_AGENT_IDLE_EXIT", "1")];
    let mut idle = installation.start_agent("idle", &token, &idle_exit).await;
    assert_eq!(idle.wait().await, Some(0), "{}", idle.log());

    // A service of systemd says so in a way that keeps it from being started again.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("notify");
    let _systemd = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket can be made");
    let as_service = [idle_exit[0], ("NOTIFY_SOCKET", socket.to_str().expect("a path"))];
    let mut service = installation.start_agent("service", &token, &as_service).await;
    assert_eq!(service.wait().await, Some(79), "{}", service.log());

    let mut once = installation
        .start_agent("once", &token, &[("TERRAPOOL_AGENT_ONCE", "true")])
        .await;
    let workspace = installation
        .workspace("one", &json!({}), "resource \"terraform_data\" \"a\" {}\n")
        .await;
    let run = installation.run(&workspace, &json!({"auto-apply": true})).await;
    assert_eq!(once.wait().await, Some(0), "{}", once.log());
    // Its plan was the one job; the apply waits for the next agent.
    installation.run_reaches(&run, "apply_queued").await;
}
