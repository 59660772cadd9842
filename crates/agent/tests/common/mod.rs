//! A driver on the container engine of the test machine, with the project's own image.

#![allow(unreachable_pub, clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use terrapool_agent::config::{Config, DriverKind, SandboxUser};
use terrapool_agent::drivers::docker::DockerDriver;
use terrapool_agent::engines::hex;
use terrapool_protocol::secret::Secret;

/// A driver for an agent with this data folder.
pub async fn prepare(config: &Config, data_dir: &Path) -> Arc<DockerDriver> {
    DockerDriver::prepare(config, &identity(data_dir)).await.unwrap()
}

/// The identity of that agent.
#[allow(dead_code, reason = "not every test looks for what is left")]
pub fn identity(data_dir: &Path) -> String {
    hex(&Sha256::digest(data_dir.to_string_lossy().as_bytes()))[..12].to_owned()
}

/// The configuration of that agent, on the container engine of the test machine.
#[allow(dead_code, reason = "some tests have engines of their own")]
pub fn config(data_dir: &Path) -> Config {
    config_on(std::env::var("DOCKER_HOST").ok(), data_dir)
}

/// The configuration of that agent, on a container engine at this address.
pub fn config_on(docker_host: Option<String>, data_dir: &Path) -> Config {
    // Installed once: tests share a process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let image_file = std::env::var("TERRAPOOL_BIN_DIR").map_or_else(
        |_| {
            std::env::current_exe()
                .unwrap()
                .parent()
                .unwrap()
                .parent()
                .unwrap()
                .to_owned()
        },
        std::path::PathBuf::from,
    );
    let tag = image_tag(docker_host.as_deref(), &image_file.join("sandbox-image.tar"));
    Config {
        url: "https://localhost:1".to_owned(),
        token: Secret::new("unused"),
        name: "test".to_owned(),
        data_dir: data_dir.to_owned(),
        concurrency: 1,
        memory_mb: None,
        cpu_millis: None,
        driver: DriverKind::Docker,
        user: SandboxUser::Unprivileged,
        image: Some(tag),
        registry_auth: None,
        engines: None,
        ca_file: None,
        docker_host,
        listen: None,
        token_grace: terrapool_model::time::Millis::from_seconds(600),
    }
}

/// Loads the project's own image, as the agent does for its packages' file.
fn image_tag(docker_host: Option<&str>, file: &Path) -> String {
    let docker = ["/usr/bin/docker", "docker"]
        .into_iter()
        .find(|path| which(path))
        .expect("the docker client is missing");
    let output = std::process::Command::new(docker)
        .envs(docker_host.map(|host| ("DOCKER_HOST", host)))
        .arg("load")
        .arg("-i")
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    // An engine that holds the image already says so first.
    let loaded = text.lines().find_map(|line| line.strip_prefix("Loaded image: "));
    loaded
        .unwrap_or_else(|| panic!("no image was loaded: {text}"))
        .to_owned()
}

fn which(program: &str) -> bool {
    std::process::Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Listens on port 9000 of a container, with the image's busybox.
#[allow(dead_code, reason = "not every test looks at networks")]
pub const SERVE: &str = "while :; do nc -l -p 9000 -e true; done";

/// Whether a program succeeds, and what it prints.
#[allow(dead_code, reason = "not every test looks at networks")]
pub fn output(program: &str, arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(program)
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Whether a connection from inside a container succeeds.
#[allow(dead_code, reason = "not every test looks at networks")]
pub fn reaches(container: &str, address: &str, port: u16) -> bool {
    let script = format!("exec 3<>/dev/tcp/{address}/{port}");
    output(
        "docker",
        &["exec", container, "timeout", "5", "bash", "-c", &script],
    )
    .0
}

/// Whether a condition comes true within a minute.
#[allow(dead_code, reason = "not every test looks at networks")]
pub fn in_time(condition: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while std::time::Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    false
}

/// The address of a container.
#[allow(dead_code, reason = "not every test looks at networks")]
pub fn address_of(container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    output("docker", &["inspect", "-f", format, container])
        .1
        .trim()
        .to_owned()
}

/// Removes what a driver keeps as long as its agent exists.
#[allow(dead_code, reason = "engines of a test's own go with it")]
pub struct Leftovers(String);

#[allow(dead_code, reason = "engines of a test's own go with it")]
impl Leftovers {
    /// Those of the agent with this data folder.
    pub fn of(data_dir: &Path) -> Self {
        Self(identity(data_dir))
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let docker = |arguments: &[&str]| std::process::Command::new("docker").args(arguments).output();
        let _ = docker(&["rm", "-f", &format!("terrapool-{}-loader", self.0)]);
        let _ = docker(&["volume", "rm", "-f", &format!("terrapool-{}-bin", self.0)]);
    }
}
