//! `terrapool admin backup` and `restore`, as commands, with the server running.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use terrapool_server::admin;
use terrapool_server::config::{Config, Tls};
use terrapool_server::server;
use terrapool_testkit::database::bare_postgres;

use crate::common::{Plane, id, md5, run_body, state};

fn terrapool(data: &Path, database: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_terrapool"))
        .args(arguments)
        .env("TERRAPOOL_DATA_DIR", data)
        .env("TERRAPOOL_DATABASE_URL", database)
        .env("TERRAPOOL_KEYRING_FILE", data.join("keyring"))
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn fails(output: &Output, with: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(with), "{text}");
}

/// A workspace with a state, a secret variable and a run that waits, in a control plane that is running.
async fn furnished(plane: &Plane) -> (String, String, Vec<u8>) {
    let workspace = plane.workspace("network").await;
    let variable = json!({"data": {"type": "vars", "attributes": {
        "key": "password", "value": "hunter2", "category": "terraform", "sensitive": true}}});
    plane
        .post(&format!("workspaces/{workspace}/vars"), &variable)
        .await
        .expect(201);
    plane.lock(&workspace).await;
    let bytes = state(7, "line");
    let body = json!({"data": {"type": "state-versions", "attributes": {
        "serial": 7, "lineage": "line", "md5": md5(&bytes), "state": base64(&bytes)}}});
    plane
        .post(&format!("workspaces/{workspace}/state-versions"), &body)
        .await
        .expect(201);
    plane
        .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
        .await
        .expect(200);
    let configuration = plane
        .configuration(&workspace, json!({"auto-queue-runs": false}))
        .await;
    let run = plane
        .post("runs", &run_body(&workspace, &configuration))
        .await
        .expect(201);
    (workspace, id(&run), bytes)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn get(running: &server::Running, token: &str, path: &str) -> (u16, Vec<u8>) {
    let answer = reqwest::Client::new()
        .get(format!("http://{}/api/v2/{path}", running.address))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

/// Backs a running control plane up, restores it elsewhere, and compares.
async fn there_and_back(plane: Plane, from: &str, to: &str) {
    let (workspace, run, bytes) = furnished(&plane).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let (backup, data) = (elsewhere.path().join("backup"), elsewhere.path().join("data"));
    let backup_text = backup.to_str().unwrap();
    let said = succeeds(&terrapool(
        plane.folder.path(),
        from,
        &["admin", "backup", backup_text],
    ));
    assert!(said.contains("incarnation 1"), "{said}");
    let again = terrapool(plane.folder.path(), from, &["admin", "backup", backup_text]);
    fails(&again, "is not empty");
    // What happens afterwards belongs to another history.
    let later = plane.workspace("later").await;

    let said = succeeds(&terrapool(&data, to, &["admin", "restore", backup_text]));
    assert!(said.contains("incarnation 2"), "{said}");
    fails(
        &terrapool(&data, to, &["admin", "restore", backup_text]),
        "not empty",
    );

    let mut config = Config::in_folder(&data);
    config.listen = "127.0.0.1:0".to_owned();
    config.tls = Tls::Off;
    config.database_url = terrapool_protocol::secret::Secret::new(to);
    let restored = server::start(config).await.unwrap();
    let path = format!("workspaces/{workspace}/current-state-version");
    let (status, document) = get(&restored, &plane.token, &path).await;
    assert_eq!(status, 200, "tokens are restored with everything else");
    let document: Value = serde_json::from_slice(&document).unwrap();
    let version = document["data"]["id"].as_str().unwrap();
    let (_, found) = get(
        &restored,
        &plane.token,
        &format!("state-versions/{version}/download"),
    )
    .await;
    assert_eq!(found, bytes);
    let (status, found) = get(&restored, &plane.token, &format!("runs/{run}")).await;
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(
        (status, &found["data"]["attributes"]["status"]),
        (200, &json!("errored"))
    );
    assert_eq!(found["data"]["attributes"]["error-reason"], "restored");
    let (_, told) = get(&restored, &plane.token, &format!("runs/{run}/whereabouts")).await;
    assert!(String::from_utf8_lossy(&told).contains("restored from a backup"));
    let (status, _) = get(&restored, &plane.token, &format!("workspaces/{later}")).await;
    assert_eq!(status, 404);
    restored.shutdown().await.unwrap();
    // The one that was backed up never noticed.
    plane.get(&format!("workspaces/{later}")).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_control_plane_on_sqlite_is_backed_up_and_restored() {
    let plane = Plane::start().await;
    let from = plane.running.app.config.database_url.expose().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let to = format!("sqlite:{}", elsewhere.path().join("restored.db").display());
    there_and_back(plane, &from, &to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_control_plane_on_postgres_is_backed_up_and_restored() {
    let (from, to) = (bare_postgres().await, bare_postgres().await);
    let address = from.address.clone();
    let plane = Plane::start_with(|config| {
        config.database_url = terrapool_protocol::secret::Secret::new(address);
        admin::create_keyring(config).unwrap();
    })
    .await;
    there_and_back(plane, &from.address, &to.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_a_whole_backup_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let database = format!("sqlite:{}", data.join("terrapool.db").display());
    let nothing = folder.path().to_str().unwrap();
    let refused = terrapool(&data, &database, &["admin", "restore", nothing]);
    fails(&refused, "has no complete backup");
    assert!(!data.join("terrapool.db").exists());
}
