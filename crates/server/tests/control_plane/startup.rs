//! Starting, and what stands in its way; the command line.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use terrapool_server::config::{Config, Tls};
use terrapool_server::server::{self, StartError};

use crate::common::Plane;
use crate::common::browser::look_at;

fn terrapool(folder: &std::path::Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_terrapool"))
        .args(arguments)
        .env_clear()
        .env("TERRAPOOL_DATA_DIR", folder)
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// The same with something at its standard input.
fn terrapool_reading(folder: &std::path::Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_terrapool"))
        .args(arguments)
        .env_clear()
        .env("TERRAPOOL_DATA_DIR", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let plane = Plane::start().await;
    let folder = tempfile::tempdir().unwrap();
    let address = plane.running.address.to_string();
    let mut config = Config::in_folder(folder.path());
    config.listen = address.clone();
    config.tls = Tls::Off;
    let error = server::start(config).await.unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }));
    let message = error.to_string();
    assert!(
        message.contains(&address) && message.contains("TERRAPOOL_LISTEN"),
        "{message}"
    );
    // Nothing was made in the folder: the port is tried first.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_unknown_key_stops_the_server_and_names_the_key_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("terrapool.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nlisten_port = 3\n").unwrap();
    let output = terrapool(
        folder.path(),
        &["server"],
        &[("TERRAPOOL_CONFIG", file.to_str().unwrap())],
    );
    assert!(!output.status.success());
    let message = text(&output.stderr);
    assert!(
        message.contains("listen_port") && message.contains("terrapool.toml, line 2"),
        "{message}"
    );
}

#[test]
fn the_default_configuration_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let output = terrapool(folder.path(), &["server", "--print-config"], &[]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("#listen = \"127.0.0.1:8443\""));
}

#[test]
fn admin_prints_a_token_and_nothing_else_with_the_server_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "admin",
        "create-user",
        "ann",
        "--email",
        "ann@example.com",
        "--site-admin",
    ];
    let output = terrapool(folder.path(), &arguments, &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let token = text(&output.stdout);
    assert!(
        token.starts_with("tpu_") && token.ends_with('\n') && token.lines().count() == 1,
        "{token}"
    );
    let again = terrapool(folder.path(), &arguments, &[]);
    assert!(!again.status.success());
    assert!(
        text(&again.stderr).contains("a user named ann already"),
        "{}",
        text(&again.stderr)
    );
    let output = terrapool(folder.path(), &["admin", "create-agent-token", "--shared"], &[]);
    assert!(
        text(&output.stdout).starts_with("tpa_"),
        "{}",
        text(&output.stderr)
    );
    let output = terrapool(folder.path(), &["doctor"], &[]);
    assert!(output.status.success(), "{}", text(&output.stdout));
}

#[tokio::test]
async fn admin_works_while_the_server_runs() {
    let plane = Plane::start().await;
    let folder = plane.folder.path().to_owned();
    let arguments = ["admin", "create-user", "eve", "--email", "eve@example.com"];
    let output = tokio::task::spawn_blocking(move || terrapool(&folder, &arguments, &[]))
        .await
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let token = text(&output.stdout);
    let request = plane.request_as(token.trim(), "GET", "account/details");
    assert_eq!(
        plane.send(request).await.expect(200)["data"]["attributes"]["username"],
        "eve"
    );
}

#[tokio::test]
async fn admin_handles_lost_passwords_and_people_who_leave_while_the_server_runs() {
    let plane = Plane::start().await;
    let token = plane.stranger("eve").await;
    let admin = |arguments: &'static [&'static str]| {
        let folder = plane.folder.path().to_owned();
        tokio::task::spawn_blocking(move || terrapool_reading(&folder, arguments, "correct horse battery\n"))
    };
    let status = async || {
        plane
            .send(plane.request_as(&token, "GET", "account/details"))
            .await
            .status
    };

    let output = admin(&["admin", "reset-password", "eve", "--password-stdin"])
        .await
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut browser = look_at(&plane);
    assert_eq!(browser.sign_in("eve", "correct horse battery").await.status, 303);

    let output = admin(&["admin", "disable-user", "eve"]).await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(status().await, 401);
    assert_eq!(browser.get("/app/settings/profile").await.status, 303);
    let output = admin(&["admin", "enable-user", "eve"]).await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(status().await, 200);

    let output = admin(&["admin", "set-site-admin", "eve", "on"]).await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    browser.sign_in("eve", "correct horse battery").await;
    assert_eq!(browser.get("/app/admin").await.status, 200);
    let output = admin(&["admin", "disable-user", "nobody"]).await.unwrap();
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("there is no user named nobody"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn data_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(terrapool(folder.path(), &["migrate"], &[]).status.success());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let app = server::open(Config::in_folder(folder.path())).await.unwrap();
        app.db
            .write(|tx| {
                Box::pin(async move {
                    tx.execute(
                        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                         VALUES (9999, 'future', 1, x'00', 0)",
                        Vec::new(),
                    )
                    .await
                    .map(|_| ())
                })
            })
            .await
            .unwrap();
    });
    let output = terrapool(folder.path(), &["migrate"], &[]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("newer version of terrapool"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn health_metrics_and_a_graceful_end() {
    let plane = Plane::start_with(|config| config.metrics_listen = Some("127.0.0.1:0".to_owned())).await;
    let answer = plane.send(plane.anonymous("GET", "/healthz")).await;
    assert_eq!(answer.status, 200);
    let metrics = format!("http://{}/metrics", plane.running.metrics_address.unwrap());
    let answer = plane.send(plane.anonymous("GET", &metrics)).await;
    assert!(text(&answer.bytes).contains("terrapool_workspaces 0"));
    // Metrics are not on the public listener.
    assert_eq!(plane.send(plane.anonymous("GET", "/metrics")).await.status, 404);
    let address = plane.running.address;
    plane.running.shutdown().await.unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn packages_are_served_and_nothing_beside_them() {
    let packages = tempfile::tempdir().unwrap();
    std::fs::create_dir(packages.path().join("deb")).unwrap();
    std::fs::write(packages.path().join("deb/agent.deb"), b"package").unwrap();
    let path = packages.path().to_owned();
    let plane = Plane::start_with(move |config| config.packages_dir = Some(path)).await;
    let answer = plane
        .send(plane.anonymous("GET", "/packages/deb/agent.deb"))
        .await;
    assert_eq!(answer.bytes, b"package");
    for path in [
        "/packages/deb",
        "/packages/..%2Fkeyring",
        "/packages/.hidden",
        "/packages/deb/%2e%2e/%2e%2e/x",
    ] {
        assert_eq!(
            plane.send(plane.anonymous("GET", path)).await.status,
            404,
            "{path}"
        );
    }
}
