//! Images of sandboxes: chosen by workspaces from the pool's list, named by digest, pulled with credentials that stay in
//! the agent.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use terrapool_testkit::installation::{Installation, free_port};
use terrapool_testkit::wait::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;

const CONFIGURATION: &str = "resource \"terraform_data\" \"a\" { input = \"a\" }\n";

/// bcrypt of `registry-secret-4711`.
const HTPASSWD: &str = "ada:$2b$05$abcdefghijklmnopqrstuuh6kAQOMZXEVGrNWFwm0uH2DxcY607Oq\n";
const PASSWORD: &str = "registry-secret-4711";

async fn docker(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("docker")
        .args(arguments)
        .output()
        .await
        .expect("the docker client is there");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).trim().to_owned(),
    )
}

/// An image with one file and nothing that could run; it is removed at the end.
struct Image(String);

impl Image {
    async fn scratch(content: &str) -> Self {
        Self::of(&[("content", content.as_bytes())]).await
    }

    async fn of(files: &[(&str, &[u8])]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            archive
                .append_data(&mut header, path, *content)
                .expect("memory takes everything");
        }
        let bytes = archive.into_inner().expect("memory takes everything");
        let mut import = Command::new("docker")
            .args(["import", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the docker client is there");
        let mut input = import.stdin.take().expect("the input is a pipe");
        input.write_all(&bytes).await.expect("docker reads the image");
        drop(input);
        let output = import.wait_with_output().await.expect("docker ends");
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(id.starts_with("sha256:"), "{id}");
        Self(id)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker")
            .args(["rmi", "-f", &self.0])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

/// A registry that asks for a password, behind a gate.
struct Registry {
    server: Child,
    host: String,
    folder: tempfile::TempDir,
    gate: watch::Sender<bool>,
}

/// Hands connections on. While the gate is shut, nobody is given a layer or a configuration.
async fn stand_before(listener: TcpListener, registry: String, gate: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        let (registry, mut gate) = (registry.clone(), gate.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(&registry).await else {
                return;
            };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let answers = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            });
            let mut buffer = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                let asked = &buffer[..count];
                let is_blob = asked.starts_with(b"GET ") && asked.windows(7).any(|word| word == b"/blobs/");
                if is_blob && gate.wait_for(|open| *open).await.is_err() {
                    break;
                }
                if to_server.write_all(asked).await.is_err() {
                    break;
                }
            }
            drop(to_server);
            let _ = answers.await;
        });
    }
}

impl Registry {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = format!("127.0.0.1:{}", free_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let host = listener.local_addr().expect("it is bound").to_string();
        let (gate, opened) = watch::channel(true);
        tokio::spawn(stand_before(listener, address.clone(), opened));
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("htpasswd"), HTPASSWD).expect("a file can be written");
        let configuration = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\nauth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
            path("data"),
            path("htpasswd")
        );
        std::fs::write(path("registry.yml"), configuration).expect("a file can be written");
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("ada:{PASSWORD}"));
        let client = json!({"auths": {host.as_str(): {"auth": auth}}});
        std::fs::write(path("config.json"), client.to_string()).expect("a file can be written");
        let server = Command::new("docker-registry")
            .args(["serve", &path("registry.yml")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("docker-registry is there");
        let ready = until(Duration::from_secs(60), async || {
            TcpStream::connect(&address).await.ok()
        });
        assert!(ready.await.is_some(), "the registry does not listen");
        Self {
            server,
            host,
            folder,
            gate,
        }
    }

    /// Pushes an image and returns its name there, by digest. The container engine forgets that it had it.
    async fn push(&self, image: &Image, name: &str) -> String {
        let tag = format!("{}/{name}:1", self.host);
        let (tagged, text) = docker(&["tag", &image.0, &tag]).await;
        assert!(tagged, "{text}");
        let config = self.folder.path().display().to_string();
        let (pushed, text) = docker(&["--config", &config, "push", &tag]).await;
        assert!(pushed, "{text}");
        let (_, digest) = docker(&["inspect", "-f", "{{index .RepoDigests 0}}", &tag]).await;
        let (removed, text) = docker(&["rmi", "-f", &image.0]).await;
        assert!(removed, "{text}");
        digest
    }

    fn credentials(&self) -> String {
        self.folder.path().join("config.json").display().to_string()
    }
}

struct Site {
    installation: Installation,
    pool: String,
    token: String,
}

impl Site {
    async fn start() -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        Self {
            installation,
            pool,
            token,
        }
    }

    async fn offer(&self, images: &[&str]) {
        let body = json!({"data": {"type": "agent-pools", "attributes": {"sandbox": {"images": images}}}});
        let path = format!("/agent-pools/{}", self.pool);
        self.installation.patch(&path, &body).await;
    }

    /// A run of a workspace that chooses an image: its id, or the answer that refuses it.
    async fn run(&self, workspace: &str, image: &str) -> Result<String, Value> {
        let attributes = json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true,
            "sandbox-image": image});
        self.run_of(workspace, &attributes, CONFIGURATION).await
    }

    async fn run_of(
        &self,
        workspace: &str,
        attributes: &Value,
        configuration: &str,
    ) -> Result<String, Value> {
        let workspace = self
            .installation
            .workspace(workspace, attributes, configuration)
            .await;
        let body = json!({"data": {"type": "runs", "attributes": {"auto-apply": true}, "relationships":
            {"workspace": {"data": {"type": "workspaces", "id": workspace.id}}}}});
        let (status, answer) = self.installation.call("POST", "/runs", Some(&body)).await;
        if status == 201 {
            Ok(answer["data"]["id"].as_str().expect("a run has an id").to_owned())
        } else {
            Err(answer)
        }
    }
}

#[tokio::test]
async fn an_image_without_anything_in_it_will_do_and_only_the_pools_list_can_be_chosen_from() {
    let site = Site::start().await;
    for profile in ["default", "root"] {
        let image = Image::scratch(&format!("scratch of the {profile} profile")).await;
        let environment = [("TERRAPOOL_AGENT_USER", profile)];
        let mut agent = site
            .installation
            .start_agent(profile, &site.token, &environment)
            .await;
        let refused = site
            .run(&format!("unlisted-{profile}"), &image.0)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("not on the list"), "{refused}");
        site.offer(&[&image.0]).await;
        let run = site
            .run(&format!("listed-{profile}"), &image.0)
            .await
            .expect("it is listed");
        site.installation.run_reaches(&run, "applied").await;
        agent.signal("TERM").await;
        agent.wait().await;
    }
}

#[tokio::test]
async fn an_image_of_a_private_registry_is_pulled_with_the_agents_credentials_and_the_run_tells_of_it() {
    let site = Site::start().await;
    let mut registry = Registry::start().await;
    let image = Image::scratch("an image of a private registry").await;
    let pinned = registry.push(&image, "team/sandbox").await;
    let missing = format!("{}/team/sandbox@sha256:{}", registry.host, "0".repeat(64));
    site.offer(&[&pinned, &missing]).await;

    // Without credentials: the run says what happened.
    let mut agent = site.installation.start_agent("stranger", &site.token, &[]).await;
    let run = site.run("stranger", &pinned).await.expect("it is listed");
    assert_eq!(site.installation.run_ends(&run).await, "errored");
    let log = site.installation.phase_log(&run, "plan").await;
    assert!(
        log.contains(&format!("the sandbox image {pinned} cannot be had")),
        "{log}"
    );
    agent.signal("TERM").await;
    agent.wait().await;

    let credentials = registry.credentials();
    let environment = [("TERRAPOOL_AGENT_REGISTRY_AUTH", credentials.as_str())];
    let agent = site
        .installation
        .start_agent("known", &site.token, &environment)
        .await;
    // While the registry keeps its layers, people see in the log what is waited for.
    registry.gate.send_replace(false);
    let run = site.run("known", &pinned).await.expect("it is listed");
    let pulling = format!("Initializing plugins and modules...\nPulling the sandbox image {pinned}.\n");
    let told = until(Duration::from_secs(120), async || {
        let shown = site.installation.get(&format!("/runs/{run}/plan")).await;
        shown["data"]["attributes"]["log-read-url"].as_str()?;
        let log = site.installation.read_log(&shown).await;
        log.contains(&pulling).then_some(())
    });
    assert!(told.await.is_some(), "the log does not tell of the pull");
    registry.gate.send_replace(true);
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "plan").await;
    assert!(
        log.contains(&pulling) && log.contains(&format!("Pulled the sandbox image {pinned}")),
        "{log}"
    );
    assert!(!log.contains(PASSWORD) && !agent.log().contains(PASSWORD));

    let run = site.run("missing", &missing).await.expect("it is listed");
    assert_eq!(site.installation.run_ends(&run).await, "errored");
    let log = site.installation.phase_log(&run, "plan").await;
    assert!(
        log.contains(&format!("the sandbox image {missing} cannot be had")),
        "{log}"
    );
    docker(&["rmi", "-f", &pinned]).await;
    registry.server.kill().await.expect("the registry ends");
}

/// A program, its C library and nothing else: as images of Alpine are, and without a shell.
#[tokio::test]
async fn an_image_on_musl_runs_what_it_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, program) = (folder.path().join("probe.c"), folder.path().join("probe"));
    let text = "#include <stdio.h>\nint main(void) { puts(\"a program of musl\"); return 0; }\n";
    std::fs::write(&source, text).expect("a file can be written");
    let built = std::process::Command::new("musl-gcc")
        .args(["-o".as_ref(), program.as_os_str(), source.as_os_str()])
        .status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "musl-gcc (musl-tools)"
    );
    let loader = format!("ld-musl-{}.so.1", std::env::consts::ARCH);
    let library = std::fs::read(format!("/lib/{loader}")).expect("musl is installed");
    let program = std::fs::read(&program).expect("the program was built");
    let (inside, loader) = ("probe", format!("lib/{loader}"));
    let image = Image::of(&[(inside, &program), (&loader, &library)]).await;

    let site = Site::start().await;
    site.offer(&[&image.0]).await;
    let _agent = site.installation.start_agent("musl", &site.token, &[]).await;
    let attributes = json!({"execution-mode": "agent", "agent-pool-id": site.pool, "auto-apply": true,
        "sandbox-image": image.0});
    let configuration = "resource \"terraform_data\" \"a\" {\n  provisioner \"local-exec\" {\n    interpreter = [\"/probe\"]\n    command     = \"now\"\n  }\n}\n";
    let run = site
        .run_of("musl", &attributes, configuration)
        .await
        .expect("it is listed");
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("a program of musl"), "{log}");
}
