//! Checks of what an agent needs, each with a cure.

mod environment;
mod network;
mod system;
mod world;

pub use environment::of_service;

use crate::config::{Config, DriverKind, Gaps};
use crate::control::{self, AskError, Request};
use crate::control_plane::{ControlPlane, describe};
use crate::drivers::docker;
use crate::drivers::native::NativeDriver;
use crate::engines::Engines;
use crate::monitoring;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// As it should be.
    Fine(String),
    /// Works, but look at it.
    Warning {
        /// What is found.
        found: String,
        /// What helps.
        cure: String,
    },
    /// Jobs cannot run.
    Broken {
        /// What is found.
        found: String,
        /// What helps.
        cure: String,
    },
}

impl Finding {
    fn fine(found: impl Into<String>) -> Self {
        Self::Fine(found.into())
    }

    fn warning(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Warning {
            found: found.into(),
            cure: cure.into(),
        }
    }

    fn broken(found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Broken {
            found: found.into(),
            cure: cure.into(),
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// What was found.
    pub finding: Finding,
}

impl std::fmt::Display for Check {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mark, found, cure) = match &self.finding {
            Finding::Fine(found) => ("ok    ", found, None),
            Finding::Warning { found, cure } => ("warn  ", found, Some(cure)),
            Finding::Broken { found, cure } => ("BROKEN", found, Some(cure)),
        };
        write!(formatter, "{mark}  {}: {found}", self.name)?;
        match cure {
            Some(cure) => write!(formatter, "\n        {cure}"),
            None => Ok(()),
        }
    }
}

/// Looks at everything, even after something is broken. `gaps` is what the configuration does not say.
pub async fn examine(config: &Config, gaps: &Gaps) -> Vec<Check> {
    let mut checks = missing(gaps);
    if !config.url.is_empty() {
        checks.extend(network::examine(config).await);
    }
    checks.extend(engine(config).await);
    checks.push(Check {
        name: "sandboxes' addresses",
        finding: world::addresses(),
    });
    let mut add = |name, finding| checks.push(Check { name, finding });
    add("SELinux", system::selinux());
    add("data folder", data_dir(config));
    add("disk", system::disk("the data folder", &config.data_dir));
    add("memory", memory(config));
    add("engines", engines(config).await);
    add("running agent", running(config).await);
    checks
}

/// Settings that are missing. Who has no token here may still have one as a credential of the service.
fn missing(gaps: &Gaps) -> Vec<Check> {
    let address = gaps.address.as_ref().map(|gap| {
        Finding::broken(
            describe(gap),
            "the pool's page has the commands, with address and token",
        )
    });
    let token = gaps.token.as_ref().map(|gap| {
        let cure = "make a token on the pool's page; one that the service gets as a systemd credential is not seen from here";
        Finding::warning(describe(gap), cure)
    });
    let name = "configuration";
    let found = address.into_iter().chain(token);
    found.map(|finding| Check { name, finding }).collect()
}

/// The container engine, and what it makes of the kernel.
async fn engine(config: &Config) -> Vec<Check> {
    let check = |name, finding| Check { name, finding };
    if config.driver == DriverKind::Native {
        // What it takes is proved by a sandbox, as at every start.
        let identity = format!("doctor{}", std::process::id());
        let (finding, network) = match NativeDriver::prepare(config, &identity).await {
            Ok(driver) => (
                Finding::fine(format!(
                    "a sandbox was made, limited, {} and removed",
                    driver.shown()
                )),
                driver.network_refusal(),
            ),
            Err(error) => (Finding::broken(describe(&error), native_cure()), None),
        };
        let mut checks = vec![check("native driver", finding)];
        if let Some(refusal) = network {
            let cure =
                "apt-get install slirp4netns (or yum), or set the network of the pool's sandboxes to none";
            checks.push(check(
                "sandboxes' network",
                Finding::warning(describe(&refusal), cure),
            ));
        }
        checks.push(check("swap", system::swap_without_engine()));
        return checks;
    }
    let engine = "container engine";
    let cure = "systemctl start terrapool-docker (or docker); name another one by `terrapool-agent configure \
                --docker-host`; the user of the agent has to be in the socket's group";
    let docker = match docker::connect(config).await {
        Ok(docker) => docker,
        Err(error) => return vec![check(engine, Finding::broken(describe(&error), cure))],
    };
    let version = match docker.version().await {
        Ok(version) => version.version.unwrap_or_else(|| "answers".to_owned()),
        Err(error) => return vec![check(engine, Finding::broken(describe(&error), cure))],
    };
    let info = docker.info().await;
    let rootless = info.as_ref().is_ok_and(docker::rootless::is_rootless);
    let mut checks = vec![check(
        engine,
        Finding::fine(format!(
            "{version} (API {}){}",
            docker.client_version(),
            if rootless { ", rootless" } else { "" }
        )),
    )];
    match info {
        Ok(info) => {
            checks.push(check("cgroups", system::cgroups(&info)));
            checks.push(check("seccomp", system::seccomp(&info)));
            checks.extend(system::selinux_labels(&info).map(|finding| check("SELinux labels", finding)));
            checks.push(check("swap", system::swap(&info)));
            if let (Some(all), Ok(ours)) = (info.containers, docker::count_containers(&docker).await) {
                let all = usize::try_from(all).unwrap_or(0);
                let others = all.saturating_sub(ours + usize::from(system::is_in_container()));
                checks.push(check("engine's users", system::shared_engine(others)));
            }
            checks.push(check(
                "user namespaces",
                system::user_namespaces(&info, config.user),
            ));
            let folder = info.docker_root_dir.as_deref().map(std::path::Path::new);
            // An engine elsewhere has its folder elsewhere.
            if let Some(folder) = folder.filter(|folder| folder.exists()) {
                checks.push(check("engine's disk", system::disk("the engine's data", folder)));
            }
        }
        Err(error) => checks.push(check(
            "cgroups",
            Finding::warning(
                format!("the engine does not say what it can: {}", describe(&error)),
                "look at `docker info` yourself: memory, swap and pids limits have to be there",
            ),
        )),
    }
    checks
}

/// What helps where no sandbox can be made. Who is not root has to be started as the agent is.
fn native_cure() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "docs/native.md says what it takes; where a kernel cannot give it, use the docker driver"
    } else {
        "where the agent runs as root, call doctor with sudo; where it does not, start doctor as the agent is started \
         (systemd-run --user --scope -p Delegate=yes terrapool-agent doctor). docs/native.md says what it takes; else use \
         the docker driver"
    }
}

fn data_dir(config: &Config) -> Finding {
    let probe = config.data_dir.join(".probe");
    let written = std::fs::create_dir_all(&config.data_dir)
        .and_then(|()| std::fs::write(&probe, b"x"))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => Finding::fine(config.data_dir.display().to_string()),
        Err(error) => Finding::broken(
            format!("{} cannot be written: {error}", config.data_dir.display()),
            "call doctor as the agent's user or root; the folder belongs to terrapool-agent, mode 0700",
        ),
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
        Finding::broken(
            text,
            "free memory, add some, or raise `memory` in the configuration; 512 MB have to be free above what is kept",
        )
    } else {
        Finding::fine(text)
    }
}

async fn engines(config: &Config) -> Finding {
    let Ok(client) = ControlPlane::new(config) else {
        return Finding::warning(
            "not looked at: the HTTPS client cannot be set up",
            "see `control plane`",
        );
    };
    let names: Vec<String> = Engines::discover(config, client.http().clone())
        .await
        .list()
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    if names.is_empty() {
        Finding::warning(
            "none on this host",
            "runs need the control plane's catalogue, or a folder named in TERRAPOOL_AGENT_ENGINES",
        )
    } else {
        Finding::fine(names.join(", "))
    }
}

async fn running(config: &Config) -> Finding {
    match control::ask(&config.data_dir, Request::Status).await {
        Ok(status) => {
            let troubles = monitoring::troubles(&status);
            if troubles.is_empty() {
                let pool = status.pool.unwrap_or_default();
                Finding::fine(format!("connected, in pool {pool}, {} jobs", status.jobs.len()))
            } else {
                Finding::broken(
                    troubles.join("; "),
                    "journalctl -u terrapool-agent says more; see the checks above",
                )
            }
        }
        Err(AskError::NotRunning { .. }) => Finding::warning(
            "none uses this data folder, or it belongs to another user",
            "systemctl status terrapool-agent says why it ended; systemctl enable --now terrapool-agent; call doctor with sudo",
        ),
        Err(error) => Finding::warning(describe(&error), "journalctl -u terrapool-agent"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_fine_is_shown_with_what_to_do() {
        let check = Check {
            name: "disk",
            finding: Finding::warning("full", "empty it"),
        };
        assert_eq!(check.to_string(), "warn    disk: full\n        empty it");
        let check = Check {
            name: "disk",
            finding: Finding::fine("empty"),
        };
        assert_eq!(check.to_string(), "ok      disk: empty");
    }
}
