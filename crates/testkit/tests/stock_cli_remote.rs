//! The stock terraform with backend `remote`, against a real control plane, agent and container engine.

use terrapool_testkit::installation::Installation;

const BODY: &str =
    "resource \"terraform_data\" \"a\" { input = \"a\" }\noutput \"o\" { value = terraform_data.a.output }\n";

fn configuration(installation: &Installation, workspaces: &str) -> String {
    format!(
        "terraform {{\n  backend \"remote\" {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ {workspaces} }}\n  }}\n}}\n{BODY}",
        installation.host()
    )
}

#[tokio::test]
async fn by_name_everything_is_plain_text() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = installation.cli(&configuration(&installation, "name = \"plain\""));
    cli.run(&["init"]).await.succeeded();
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(plan.contains("# terraform_data.a will be created"), "{plan}");
    assert!(!plan.contains("\"@level\""), "{plan}");
    let apply = cli.run_with_input(&["apply"], "yes\n").await.succeeded();
    assert!(apply.contains("terraform_data.a: Creation complete"), "{apply}");
    assert!(
        apply.contains("Apply complete! Resources: 1 added, 0 changed, 0 destroyed."),
        "{apply}"
    );
    cli.run(&["state", "mv", "terraform_data.a", "terraform_data.b"])
        .await
        .succeeded();
    assert_eq!(
        cli.run(&["state", "list"]).await.succeeded().trim(),
        "terraform_data.b"
    );
    let destroy = cli.run(&["destroy", "-auto-approve"]).await.succeeded();
    assert!(
        destroy.contains("Resources: 0 added, 0 changed, 1 destroyed."),
        "{destroy}"
    );
}

#[tokio::test]
async fn by_prefix_workspaces_are_made_and_chosen() {
    let installation = Installation::start().await;
    let _agent = installation.start_shared_agent().await;
    let cli = installation.cli(&configuration(&installation, "prefix = \"app-\""));
    cli.run(&["init"]).await.failed();
    cli.run(&["workspace", "new", "one"]).await.succeeded();
    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
    let list = cli.run(&["workspace", "list"]).await.succeeded();
    assert!(list.contains("* one"), "{list}");
    installation.get("/organizations/acme/workspaces/app-one").await;
}
