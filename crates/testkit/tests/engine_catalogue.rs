//! Engines that no agent has: from the catalogue, checked, kept.

use std::io::{Cursor, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use terrapool_testkit::cli::Cli;
use terrapool_testkit::file_server::{FileServer, STALLS};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::wait::until;

const BODY: &str = "resource \"terraform_data\" \"a\" { input = \"a\" }\n";

/// The terraform on PATH, and what it calls itself.
fn terraform() -> (PathBuf, String) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let binary = std::env::split_paths(&path)
        .map(|folder| folder.join("terraform"))
        .find(|file| file.is_file())
        .expect("terraform is on PATH");
    let output = std::process::Command::new(&binary)
        .args(["version", "-json"])
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .expect("terraform runs");
    let version: Value = serde_json::from_slice(&output.stdout).expect("terraform says its version");
    let version = version["terraform_version"]
        .as_str()
        .expect("a version")
        .to_owned();
    (binary, version)
}

fn zipped(binary: &Path) -> Bytes {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("LICENSE.txt", stored).expect("an entry");
    archive.write_all(b"a licence").expect("a content");
    archive.start_file("terraform", stored).expect("an entry");
    let content = std::fs::read(binary).expect("the binary can be read");
    archive.write_all(&content).expect("a content");
    archive.finish().expect("an archive").into_inner().into()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An agent that finds no engine by itself.
async fn bare_agent(installation: &Installation, files: &FileServer) -> AgentProcess {
    let empty = installation.scratch("no-engines");
    let bundle = installation.scratch("certificates").join("bundle.pem");
    let mut pem = std::fs::read_to_string(installation.ca()).expect("the CA can be read");
    pem.push_str(&files.certificate);
    std::fs::write(&bundle, pem).expect("a file can be written");
    let token = installation.admin(&["create-agent-token", "--shared"]).await;
    let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
    let environment = [("PATH", text(&empty)), ("TERRAPOOL_CA_FILE", text(&bundle))];
    let environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    installation.start_agent("bare", &token, &environment).await
}

async fn add_entry(installation: &Installation, version: &str, url: &str, sha: &str) -> String {
    let entry = json!({"data": {"type": "terraform-versions",
        "attributes": {"version": version, "url": url, "sha": sha}}});
    let made = installation.post("/admin/terraform-versions", &entry).await;
    made["data"]["id"]
        .as_str()
        .expect("an entry has an id")
        .to_owned()
}

async fn cli(installation: &Installation, name: &str, version: &str) -> Cli {
    let workspace = json!({"data": {"type": "workspaces",
        "attributes": {"name": name, "terraform-version": version}}});
    installation
        .post("/organizations/acme/workspaces", &workspace)
        .await;
    let cli = installation.cli(&format!(
        "terraform {{\n  cloud {{\n    hostname = \"{}\"\n    organization = \"acme\"\n    workspaces {{ name = \"{name}\" }}\n  }}\n}}\n{BODY}",
        installation.host()
    ));
    cli.run(&["init"]).await.succeeded();
    cli
}

fn kept(installation: &Installation, version: &str) -> PathBuf {
    installation
        .scratch("agent-bare")
        .join(format!("engines/terraform_{version}/terraform"))
}

#[tokio::test]
async fn latest_comes_from_the_catalogue_when_the_agent_has_no_engine() {
    let (binary, version) = terraform();
    let archive = zipped(&binary);
    let sha = sha256(&archive);
    let files = FileServer::start(vec![("terraform.zip".to_owned(), archive)]).await;
    let installation = Installation::start().await;
    let _agent = bare_agent(&installation, &files).await;
    let cli = cli(&installation, "newest", "latest").await;

    let nothing = cli.run(&["plan"]).await.failed();
    assert!(
        nothing.contains("terraform latest is not on this agent"),
        "{nothing}"
    );

    add_entry(&installation, &version, &files.url("terraform.zip"), &sha).await;
    let apply = cli.run(&["apply", "-auto-approve"]).await.succeeded();
    assert!(apply.contains("Apply complete! Resources: 1 added"), "{apply}");
    assert!(kept(&installation, &version).is_file());
    // Once for plan and apply.
    assert_eq!(files.requests(), 1);
}

#[tokio::test]
async fn a_download_with_another_digest_is_refused_and_not_kept() {
    let (binary, version) = terraform();
    let content: Bytes = std::fs::read(&binary).expect("the binary can be read").into();
    let sha = sha256(&content);
    let files = FileServer::start(vec![("terraform".to_owned(), content)]).await;
    let installation = Installation::start().await;
    let _agent = bare_agent(&installation, &files).await;
    let wrong = "0".repeat(64);
    let entry = add_entry(&installation, &version, &files.url("terraform"), &wrong).await;
    let cli = cli(&installation, "named", &version).await;

    let refused = cli.run(&["plan"]).await.failed();
    let sentence = format!(
        "terraform {version} could not be downloaded: its SHA-256 is {sha}, the catalogue says {wrong}"
    );
    assert!(refused.contains(&sentence), "{refused}");
    assert!(!kept(&installation, &version).exists());

    let right = json!({"data": {"type": "terraform-versions", "attributes": {"sha": sha}}});
    installation
        .patch(&format!("/admin/terraform-versions/{entry}"), &right)
        .await;
    let plan = cli.run(&["plan"]).await.succeeded();
    assert!(plan.contains("Plan: 1 to add"), "{plan}");
    assert!(kept(&installation, &version).is_file());
}

#[tokio::test]
async fn jobs_at_once_fetch_an_engine_once_and_a_download_that_stalls_holds_up_nobody_else() {
    let (binary, version) = terraform();
    let content: Bytes = std::fs::read(&binary).expect("the binary can be read").into();
    let sha = sha256(&content);
    let files = FileServer::start(vec![("terraform".to_owned(), content)]).await;
    let installation = Installation::start().await;
    add_entry(&installation, "0.99.0", &files.url(STALLS), &sha).await;
    add_entry(&installation, &version, &files.url("terraform"), &sha).await;
    let run = async |name: &str, version: &str| {
        let attributes = json!({"terraform-version": version});
        let workspace = installation.workspace(name, &attributes, BODY).await;
        installation.run(&workspace, &json!({})).await
    };
    let stalled = run("stalled", "0.99.0").await;
    let _agent = bare_agent(&installation, &files).await;
    installation.run_reaches(&stalled, "planning").await;
    let asked = until(Duration::from_secs(60), async || {
        (files.requests() == 1).then_some(())
    })
    .await;
    assert!(asked.is_some(), "the engine that stalls was not asked for");

    let (one, other) = (run("one", &version).await, run("other", &version).await);
    installation.run_reaches(&one, "planned").await;
    installation.run_reaches(&other, "planned").await;
    // The one that stalls, and one for both.
    assert_eq!(files.requests(), 2);
    assert_eq!(installation.run_ends(&stalled).await, "errored");
    let log = installation.phase_log(&stalled, "plan").await;
    assert!(log.contains("nothing more came for 60 s"), "{log}");
}
