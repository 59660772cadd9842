//! The images, started as the manual says.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use terrapool_testkit::installation::Installation;
use terrapool_testkit::system::{documented, documented_with, on_path, package, packages};
use terrapool_testkit::wait::until;

use super::{MANUAL, WHO, run};

/// Held while the images are on the engine: who is done removes them.
static IMAGES: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[test]
fn the_images_hold_programs_that_run_in_them() {
    let _images = IMAGES.blocking_lock();
    for (name, program) in [("terrapool-agent", "terrapool-agent"), ("terrapool", "terrapool")] {
        let file = package(&packages(), &format!("{name}-0"), ".image.tar");
        let loaded = run(Command::new("docker").arg("load").arg("-i").arg(&file));
        let tag = loaded.trim().trim_start_matches("Loaded image: ");
        let shown = run(Command::new("docker").args(["run", "--rm", tag, "--version"]));
        assert!(shown.starts_with(&format!("{program} ")), "{shown}");
        let watched = run(Command::new("docker").args([
            "inspect",
            "--format",
            "{{if .Config.Healthcheck}}{{.Config.Healthcheck.Test}}{{end}}",
            tag,
        ]));
        if name == "terrapool-agent" {
            assert!(watched.contains("terrapool-agent status --check"), "{watched}");
        }
        run(Command::new("docker").args(["rmi", tag]));
    }
}

/// A container of one of the images, with a volume of its name. It ends before what it leaves on the engine is removed.
struct Container {
    name: String,
    image: &'static str,
}

impl Container {
    fn exec(&self, arguments: &[&str]) -> std::process::Output {
        let mut docker = Command::new("docker");
        docker.args(["exec", &self.name]).args(arguments);
        docker.output().expect("docker starts")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let docker = |arguments: &[&str]| Command::new("docker").args(arguments).output();
        if std::thread::panicking()
            && let Ok(log) = docker(&["logs", &self.name])
        {
            eprintln!("--- container\n{}", String::from_utf8_lossy(&log.stderr));
        }
        let _ = docker(&["stop", "-t", "20", &self.name]);
        let _ = docker(&["rm", "-f", &self.name]);
        let _ = docker(&["volume", "rm", "-f", &self.name]);
        let _ = docker(&["rmi", self.image]);
    }
}

#[tokio::test]
async fn the_agents_container_is_started_as_the_manual_says_and_is_healthy_once_it_is_connected() {
    let folder = packages().display().to_string();
    let installation = Installation::start_with(&[("TERRAPOOL_PACKAGES_DIR", &folder)]).await;
    let (pool, token) = installation.create_pool("private").await;
    let scratch = installation.scratch("container");
    std::fs::write(scratch.join("token"), token).expect("a file can be written");
    std::fs::copy(installation.ca(), scratch.join("ca.pem")).expect("the server has a CA");
    let name = format!("terrapool-agent-{}", installation.port());
    let _images = IMAGES.lock().await;
    let container = Container {
        name: name.clone(),
        image: "terrapool/terrapool-agent:0.1.0",
    };
    let socket = std::env::var("DOCKER_HOST").unwrap_or_default();
    let socket = match socket.strip_prefix("unix://") {
        Some(path) => path.to_owned(),
        None => "/var/run/docker.sock".to_owned(),
    };
    // As it stands there, but for what is this machine's: its engine, a control plane on its loopback, its terraform. It
    // is root already.
    let typed = documented(MANUAL, "A container")
        .replace("https://terrapool.example.com", &installation.url())
        .replace("sudo ", "")
        .replace("/etc/terrapool", &scratch.join("etc").display().to_string())
        .replace(
            "--name terrapool-agent ",
            &format!(
                "--name {name} -v {}:/usr/bin/terraform:ro ",
                on_path("terraform").display()
            ),
        )
        .replace("-v /var/run/docker.sock:", &format!("-v {socket}:"))
        .replace("-v terrapool-agent:", &format!("-v {name}:"));
    run(Command::new("sh").args(["-ec", &typed]).current_dir(&scratch));
    let connected = until(Duration::from_secs(180), async || {
        let status = container.exec(&["terrapool-agent", "status", "--check"]);
        status.status.success().then_some(())
    })
    .await;
    assert!(connected.is_some(), "the agent in the container does not connect");
    // Left on the engine, and removed with the installation.
    let key = container
        .exec(&["cat", "/var/lib/terrapool-agent/instance.key"])
        .stdout;
    let known = installation.agent_folder("container");
    std::fs::create_dir_all(&known).expect("a folder can be made");
    std::fs::write(known.join("instance.key"), key).expect("a file can be written");

    let attributes = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": true});
    let workspace = installation.workspace("contained", &attributes, WHO).await;
    let run = installation.run(&workspace, &json!({"auto-apply": true})).await;
    installation.run_reaches(&run, "applied").await;
    let log = installation.phase_log(&run, "apply").await;
    assert!(log.contains("user 1000"), "{log}");
}

#[tokio::test]
async fn the_servers_container_is_started_as_the_manual_says_offers_the_agents_packages_and_keeps_its_data() {
    const URL: &str = "https://terrapool.example.com";
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let _images = IMAGES.lock().await;
    let name = format!("terrapool-{}", std::process::id());
    let container = Container {
        name: name.clone(),
        image: "terrapool/terrapool:0.1.0",
    };
    // As they stand there, but for a port, a name and a volume that nothing else on this machine has.
    let type_in = |commands: &str| {
        let typed = commands
            .replace("-p 443:8443", "-p 127.0.0.1::8443")
            .replace("--name terrapool ", &format!("--name {name} "))
            .replace("-v terrapool:", &format!("-v {name}:"))
            .replace("docker exec terrapool ", &format!("docker exec {name} "));
        run(Command::new("sh")
            .args(["-ec", &typed])
            .current_dir(scratch.path()))
    };
    let image = package(&packages(), "terrapool-0", ".image.tar");
    let file = image.file_name().expect("a file has a name");
    std::os::unix::fs::symlink(&image, scratch.path().join(file)).expect("a link can be made");
    let start = documented_with(MANUAL, "The control plane", "docker load");
    let first_user = documented_with(MANUAL, "The control plane", "docker exec");
    type_in(&start);
    let answering = async || {
        let port = run(Command::new("docker").args(["port", &name, "8443"]));
        let place: std::net::SocketAddr = port.trim().parse().expect("a published port");
        let answered = until(Duration::from_secs(60), async || {
            let pem = container.exec(&["cat", "/var/lib/terrapool/ca.pem"]).stdout;
            let authority = reqwest::Certificate::from_pem_bundle(&pem).ok()?;
            // By its own name: the certificate is the public address's.
            let client = reqwest::Client::builder()
                .tls_certs_only(authority)
                .resolve("terrapool.example.com", place)
                .no_proxy()
                .build()
                .ok()?;
            let base = format!("{URL}:{}", place.port());
            let answer = client.get(format!("{base}/healthz")).send().await.ok()?;
            answer.status().is_success().then_some((client, base))
        })
        .await;
        answered.expect("the control plane in the container answers")
    };
    let (client, base) = answering().await;
    let token = type_in(&first_user).trim().to_owned();
    assert!(
        token.len() > 20 && !token.contains(char::is_whitespace),
        "{token}"
    );
    let trusted = std::fs::read_to_string(scratch.path().join("ca.pem")).expect("the manual takes it");
    assert!(trusted.contains("BEGIN CERTIFICATE"), "{trusted}");

    let deb = package(&packages(), "terrapool-agent_", ".deb");
    let file = deb.file_name().expect("a file has a name").to_string_lossy();
    let fetched = client.get(format!("{base}/packages/{file}")).send().await;
    let fetched = fetched.expect("the control plane answers");
    assert_eq!(fetched.status(), 200, "{file}");
    let fetched = fetched.bytes().await.expect("a whole package");
    assert!(
        fetched == std::fs::read(&deb).expect("a package"),
        "another {file}"
    );

    // Replaced, as an upgrade does it.
    run(Command::new("docker").args(["rm", "-f", &name]));
    type_in(&start);
    let (client, base) = answering().await;
    let account = client
        .get(format!("{base}/api/v2/account/details"))
        .bearer_auth(&token)
        .send()
        .await
        .expect("the control plane answers");
    assert_eq!(account.status(), 200, "the volume has the first user");
}
