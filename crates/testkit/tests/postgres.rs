//! The same on PostgreSQL.

use terrapool_testkit::database;
use terrapool_testkit::installation::Installation;

#[tokio::test]
async fn a_control_plane_on_postgres_runs_plans_and_applies_and_goes_on_after_a_crash() {
    let database = database::postgres().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keyring = folder.path().join("keyring");
    let environment = [
        ("TERRAPOOL_DATABASE_URL", database.address.as_str()),
        (
            "TERRAPOOL_KEYRING_FILE",
            keyring.to_str().expect("a path of ours is text"),
        ),
    ];
    Installation::prepare(&["create-keyring"], &environment).await;
    let mut installation = Installation::start_with(&environment).await;
    let _agent = installation.start_shared_agent().await;
    let configuration = format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"pg\" }}\n  }}\n}}\nresource \"terraform_data\" \"a\" {{ input = \"a\" }}\noutput \"o\" {{ value = terraform_data.a.output }}\n",
        installation.host()
    );
    let cli = installation.cli(&configuration);
    cli.run(&["init"]).await.succeeded();
    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");

    installation.kill_server().await;
    installation.start_server().await;
    assert_eq!(cli.run(&["output", "-raw", "o"]).await.succeeded(), "a");
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(plan.contains("No changes."), "{plan}");
}
