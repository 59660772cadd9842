//! Which agent takes which run.

use serde_json::json;
use terrapool_testkit::installation::Installation;

fn configuration(installation: &Installation, workspace: &str) -> String {
    format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"{workspace}\" }}\n  }}\n}}\nresource \"terraform_data\" \"a\" {{}}\n",
        installation.host()
    )
}

#[tokio::test]
async fn each_pools_runs_go_to_its_own_agents() {
    let installation = Installation::start().await;
    let (pool, token) = installation.create_pool("private").await;
    let shared = installation.start_shared_agent().await;
    let private = installation.start_agent("private", &token, &[]).await;
    let workspace = json!({"data": {"type": "workspaces",
        "attributes": {"name": "inside", "execution-mode": "agent", "agent-pool-id": pool}}});
    installation
        .post("/organizations/acme/workspaces", &workspace)
        .await;

    for (workspace, mine, other) in [("inside", &private, &shared), ("outside", &shared, &private)] {
        let cli = installation.cli(&configuration(&installation, workspace));
        cli.run(&["init"]).await.succeeded();
        cli.run(&["apply", "-auto-approve"]).await.succeeded();
        let name = format!("workspace=\"{workspace}\"");
        assert_eq!(mine.log().matches(&name).count(), 2, "{}", mine.log());
        assert!(!other.log().contains(&name), "{}", other.log());
    }

    let (status, answer) = installation
        .call("DELETE", &format!("/agent-pools/{pool}"), None)
        .await;
    assert_eq!(status, 409, "{answer}");
    assert!(
        answer["errors"][0]["detail"].as_str().unwrap().contains("inside"),
        "{answer}"
    );
    let agents = installation.get(&format!("/agent-pools/{pool}/agents")).await;
    assert_eq!(
        agents["data"][0]["attributes"]["status"],
        json!("idle"),
        "{agents}"
    );
}
