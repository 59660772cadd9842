//! Checks of what an agent needs, each with a cure.

use crate::config::Config;
use crate::control_plane::ControlPlane;
use crate::drivers::docker;
use crate::engines::Engines;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Fine(String),
    /// Works, but look at it.
    Warning(String),
    /// Jobs cannot run.
    Broken(String),
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub finding: Finding,
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Looks at everything, even after something is broken.
pub async fn examine(config: &Config) -> Vec<Check> {
    vec![
        Check {
            name: "container engine",
            finding: engine(config).await,
        },
        Check {
            name: "control plane",
            finding: control_plane(config).await,
        },
        Check {
            name: "data folder",
            finding: data_dir(config),
        },
        Check {
            name: "memory",
            finding: memory(config),
        },
        Check {
            name: "engines",
            finding: engines(config).await,
        },
    ]
}

async fn engine(config: &Config) -> Finding {
    match docker::connect(config).await {
        Ok(docker) => match docker.version().await {
            Ok(version) => Finding::Fine(format!(
                "{} (API {})",
                version.version.unwrap_or_else(|| "answers".to_owned()),
                docker.client_version()
            )),
            Err(error) => Finding::Broken(chain(&error)),
        },
        Err(error) => Finding::Broken(chain(&error)),
    }
}

async fn control_plane(config: &Config) -> Finding {
    let client = match ControlPlane::new(config) {
        Ok(client) => client,
        Err(error) => return Finding::Broken(chain(&error)),
    };
    let answer = client.http().get(format!("{}/healthz", config.url)).send().await;
    match answer {
        Ok(answer) if answer.status().is_success() => Finding::Fine(config.url.clone()),
        Ok(answer) => Finding::Broken(format!("{} answers {}", config.url, answer.status())),
        Err(error) => Finding::Broken(format!(
            "{}. Check the address, HTTPS_PROXY and NO_PROXY, and TERRAPOOL_CA_FILE for a private CA",
            chain(&error)
        )),
    }
}

fn data_dir(config: &Config) -> Finding {
    let probe = config.data_dir.join(".probe");
    let written = std::fs::create_dir_all(&config.data_dir)
        .and_then(|()| std::fs::write(&probe, b"x"))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => Finding::Fine(config.data_dir.display().to_string()),
        Err(error) => Finding::Broken(format!(
            "{} cannot be written: {error}",
            config.data_dir.display()
        )),
    }
}

fn memory(config: &Config) -> Finding {
    use terrapool_agent_core::capacity::{Held, Size, free_slots, reserve};
    let host = crate::host::read(config);
    let slots = free_slots(
        host,
        Held::default(),
        Size {
            memory_mb: 512,
            cpu_millis: 1000,
        },
    );
    let text = format!(
        "{} MB, {} available, {} kept for the system: {slots} jobs of 512 MB at once",
        host.total_mb,
        host.available_mb,
        reserve(host.total_mb)
    );
    if slots == 0 {
        Finding::Broken(text)
    } else {
        Finding::Fine(text)
    }
}

async fn engines(config: &Config) -> Finding {
    let Ok(client) = ControlPlane::new(config) else {
        return Finding::Warning("not looked at: the HTTPS client cannot be set up".to_owned());
    };
    let names: Vec<String> = Engines::discover(config, client.http().clone())
        .await
        .list()
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    if names.is_empty() {
        Finding::Warning(
            "none on this host: runs need the control plane's catalogue, or a folder named in TERRAPOOL_AGENT_ENGINES"
                .to_owned(),
        )
    } else {
        Finding::Fine(names.join(", "))
    }
}
