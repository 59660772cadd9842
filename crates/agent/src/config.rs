//! The agent's configuration: a TOML file, then the environment, then flags.

pub mod edit;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use terrapool_model::time::Millis;
use terrapool_protocol::secret::Secret;

/// Where the configuration file lies unless `TERRAPOOL_AGENT_CONFIG` says otherwise.
pub const DEFAULT_FILE: &str = "/etc/terrapool-agent/agent.toml";
/// The file with every setting explained and none set.
pub const DEFAULT_TEXT: &str = include_str!("agent.default.toml");
const DEFAULT_DATA_DIR: &str = "/var/lib/terrapool-agent";
const TOKEN_GRACE: Millis = Millis::from_seconds(600);
/// Name of the systemd credential that holds the agent token.
const CREDENTIAL: &str = "terrapool-token";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path} cannot be read{}", advice(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be; unknown keys are errors too.
    #[error("{path} is no valid configuration")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// Something is not said that has to be.
    #[error("{what} is not set: use {how}")]
    Missing {
        /// What.
        what: &'static str,
        /// How to say it.
        how: &'static str,
    },
    /// A value that makes no sense.
    #[error("{what} is `{found}`: {expected}")]
    Invalid {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => ": it belongs to the agent's user; call this with sudo",
        _ => "",
    }
}

/// The file. Every key may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) url: Option<String>,
    pub(crate) token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) name: Option<String>,
    data_dir: Option<PathBuf>,
    pub(crate) concurrency: Option<u32>,
    memory: Option<String>,
    cpu: Option<u32>,
    user: Option<String>,
    driver: Option<String>,
    image: Option<String>,
    registry_auth: Option<PathBuf>,
    engines: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    docker_host: Option<String>,
    listen: Option<String>,
    token_grace: Option<u64>,
}

impl File {
    /// The file that was named, else the one at the usual place when there is one.
    fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let (path, text) = match &overrides.config {
            Some(path) => (path.as_path(), read(path)?),
            None => match read(default) {
                Ok(text) => (default, text),
                Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Ok(Self::default());
                }
                // An agent of one's own that is told where its control plane is has no use for the host's file.
                Err(ConfigError::Read { .. }) if overrides.url.is_some() => return Ok(Self::default()),
                Err(error) => return Err(error),
            },
        };
        Self::parse(path, &text)
    }

    /// The text of the file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })
    }
}

/// The folder for identity, journal and caches.
///
/// # Errors
/// [`ConfigError`] when the configuration file cannot be used.
pub fn data_dir(overrides: &Overrides) -> Result<PathBuf, ConfigError> {
    let of_file = File::load(overrides)?.data_dir;
    let chosen = overrides.data_dir.clone().or(of_file);
    Ok(chosen.unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)))
}

/// Flags and environment of `terrapool-agent run`.
#[derive(Debug, Clone, Default, Args)]
pub struct Overrides {
    /// Configuration file.
    #[arg(long, env = "TERRAPOOL_AGENT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the control plane, https://…
    #[arg(long, env = "TERRAPOOL_URL")]
    pub url: Option<String>,
    /// Agent token. Prefer --token-file: arguments can be seen by others.
    #[arg(long, env = "TERRAPOOL_TOKEN", hide = true, hide_env_values = true)]
    pub token: Option<String>,
    /// File with the agent token.
    #[arg(long, env = "TERRAPOOL_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Name for people; the host's name when left out.
    #[arg(long, env = "TERRAPOOL_AGENT_NAME")]
    pub name: Option<String>,
    /// Folder for identity, journal and caches.
    #[arg(long, env = "TERRAPOOL_AGENT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Jobs at once at most.
    #[arg(long, env = "TERRAPOOL_AGENT_CONCURRENCY", value_name = "N")]
    pub concurrency: Option<u32>,
    /// Memory to hand out in all, for example 4096 (MB) or 4GB.
    #[arg(long, env = "TERRAPOOL_AGENT_MEMORY", value_name = "SIZE")]
    pub memory: Option<String>,
    /// Processors to hand out in all; each job counts with its limit.
    #[arg(long, env = "TERRAPOOL_AGENT_CPU", value_name = "N")]
    pub cpu: Option<u32>,
    /// User inside the sandboxes: default or root.
    #[arg(long, env = "TERRAPOOL_AGENT_USER")]
    pub user: Option<String>,
    /// How jobs are isolated: docker, or native where there is no container engine.
    #[arg(long, env = "TERRAPOOL_AGENT_DRIVER")]
    pub driver: Option<String>,
    /// Image of the sandboxes; the agent's own when left out.
    #[arg(long, env = "TERRAPOOL_AGENT_IMAGE")]
    pub image: Option<String>,
    /// Credentials of image registries, as `docker login` writes them (config.json).
    #[arg(long, env = "TERRAPOOL_AGENT_REGISTRY_AUTH", value_name = "FILE")]
    pub registry_auth: Option<PathBuf>,
    /// Folder with engines: terraform_1.11.4/terraform, tofu_1.11.14/tofu, …
    #[arg(long, env = "TERRAPOOL_AGENT_ENGINES", value_name = "DIR")]
    pub engines: Option<PathBuf>,
    /// Certificates to trust besides the system's (PEM).
    #[arg(long, env = "TERRAPOOL_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Loopback address for /healthz and /metrics, for example 127.0.0.1:9465; none when left out.
    #[arg(long, env = "TERRAPOOL_AGENT_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// For so long an agent whose token was accepted before asks on when it is refused, and then ends; 600 when left out.
    #[arg(long, env = "TERRAPOOL_AGENT_TOKEN_GRACE", value_name = "SECONDS")]
    pub token_grace: Option<u64>,
}

/// How jobs are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// By a container engine.
    Docker,
    /// By namespaces of our own.
    Native,
}

impl DriverKind {
    /// As it is written in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
        }
    }
}

/// The user that an engine runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxUser {
    /// uid 1000, nothing writable but its volumes.
    Unprivileged,
    /// uid 0 inside the sandbox, with the few capabilities that installing packages takes.
    Root,
}

/// A complete configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the control plane, without a slash at its end.
    pub url: String,
    /// The agent token.
    pub token: Secret,
    /// Name for people.
    pub name: String,
    /// Folder for identity, journal and caches.
    pub data_dir: PathBuf,
    /// Jobs at once at most.
    pub concurrency: u32,
    /// Memory to hand out in all, in MiB; everything above the reserve when `None`.
    pub memory_mb: Option<u64>,
    /// CPU to hand out in all, in thousandths of a processor; only `concurrency` limits it when `None`.
    pub cpu_millis: Option<u64>,
    /// How jobs are isolated.
    pub driver: DriverKind,
    /// User inside the sandboxes.
    pub user: SandboxUser,
    /// Image of the sandboxes; the agent's own when `None`.
    pub image: Option<String>,
    /// Credentials of image registries.
    pub registry_auth: Option<PathBuf>,
    /// Folder with engines.
    pub engines: Option<PathBuf>,
    /// Certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// The container engine's address, as `DOCKER_HOST` has it.
    pub docker_host: Option<String>,
    /// Where `/healthz` and `/metrics` are answered.
    pub listen: Option<SocketAddr>,
    /// For so long after its last contact an agent asks on whose token is refused.
    pub token_grace: Millis,
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Memory sizes: plain numbers are MiB; `GB`/`G`/`MB`/`M` may follow.
pub(crate) fn parse_memory(text: &str) -> Result<u64, ConfigError> {
    let invalid = || ConfigError::Invalid {
        what: "memory",
        found: text.to_owned(),
        expected: "write it like 4096, 4096MB or 4GB",
    };
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().map_err(|_| invalid())?;
    match upper[digits.len()..].trim() {
        "" | "M" | "MB" | "MIB" => Ok(number),
        "G" | "GB" | "GIB" => Ok(number * 1024),
        _ => Err(invalid()),
    }
}

pub(crate) fn parse_user(text: &str) -> Result<SandboxUser, ConfigError> {
    match text {
        "default" => Ok(SandboxUser::Unprivileged),
        "root" => Ok(SandboxUser::Root),
        _ => Err(ConfigError::Invalid {
            what: "user",
            found: text.to_owned(),
            expected: "it is `default` (an unprivileged user) or `root`",
        }),
    }
}

/// An address without a slash at its end.
pub(crate) fn parse_url(text: &str) -> Result<String, ConfigError> {
    let url = text.trim().trim_end_matches('/').to_owned();
    if url.starts_with("https://") && url.len() > "https://".len() {
        return Ok(url);
    }
    Err(ConfigError::Invalid {
        what: "url",
        found: url,
        expected: "an agent talks to its control plane over https:// only",
    })
}

pub(crate) fn parse_driver(text: &str) -> Result<DriverKind, ConfigError> {
    [DriverKind::Docker, DriverKind::Native]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| ConfigError::Invalid {
            what: "driver",
            found: text.to_owned(),
            expected: "`docker` or `native`",
        })
}

/// An address that no other host reaches.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, ConfigError> {
    let address: Option<SocketAddr> = text.trim().parse().ok();
    address
        .filter(|address| address.ip().is_loopback())
        .ok_or_else(|| ConfigError::Invalid {
            what: "listen",
            found: text.to_owned(),
            expected: "it is a loopback address with a port, like 127.0.0.1:9465 or [::1]:9465",
        })
}

pub(crate) fn at_least_one(what: &'static str, number: u32) -> Result<(), ConfigError> {
    if number > 0 {
        return Ok(());
    }
    Err(ConfigError::Invalid {
        what,
        found: number.to_string(),
        expected: "at least one job has to fit",
    })
}

/// What a configuration does not say, and why not.
#[derive(Debug, Default)]
pub struct Gaps {
    /// Where the control plane is.
    pub address: Option<ConfigError>,
    /// The agent's token.
    pub token: Option<ConfigError>,
}

impl Config {
    /// Puts file, environment and flags together. Later ones win.
    ///
    /// # Errors
    /// [`ConfigError`] names the setting and what to do.
    pub fn load(overrides: &Overrides) -> Result<Self, ConfigError> {
        let (config, gaps) = Self::with_gaps(overrides)?;
        gaps.address.or(gaps.token).map_or(Ok(config), Err)
    }

    /// The same for whoever only looks around: address and token may be missing, which is answered beside it.
    ///
    /// # Errors
    /// [`ConfigError`] when what is said makes no sense.
    pub fn with_gaps(overrides: &Overrides) -> Result<(Self, Gaps), ConfigError> {
        let file = File::load(overrides)?;
        let mut gaps = Gaps::default();
        let url = match overrides.url.clone().or(file.url) {
            Some(url) => parse_url(&url)?,
            None => {
                gaps.address = Some(ConfigError::Missing {
                    what: "the control plane's address",
                    how: "`terrapool-agent configure`, TERRAPOOL_URL, or `url` in the configuration file",
                });
                String::new()
            }
        };
        let token = token(overrides, file.token, file.token_file).unwrap_or_else(|gap| {
            gaps.token = Some(gap);
            Secret::new("")
        });
        let driver = overrides.driver.clone().or(file.driver);
        let driver = parse_driver(driver.as_deref().unwrap_or("docker"))?;
        let concurrency = overrides.concurrency.or(file.concurrency).unwrap_or(5);
        at_least_one("concurrency", concurrency)?;
        let cpu = overrides.cpu.or(file.cpu);
        cpu.map_or(Ok(()), |cpu| at_least_one("cpu", cpu))?;
        let memory = overrides.memory.clone().or(file.memory);
        let user = overrides.user.clone().or(file.user);
        let nonempty = |text: &String| !text.is_empty();
        let config = Self {
            url,
            token,
            name: overrides
                .name
                .clone()
                .or(file.name)
                .filter(nonempty)
                .unwrap_or_else(hostname),
            data_dir: overrides
                .data_dir
                .clone()
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR)),
            concurrency,
            memory_mb: memory.map(|text| parse_memory(&text)).transpose()?,
            cpu_millis: cpu.map(|cpu| u64::from(cpu) * 1000),
            driver,
            user: user.map_or(Ok(SandboxUser::Unprivileged), |text| parse_user(&text))?,
            image: overrides.image.clone().or(file.image).filter(nonempty),
            registry_auth: overrides.registry_auth.clone().or(file.registry_auth),
            engines: overrides.engines.clone().or(file.engines),
            ca_file: overrides.ca_file.clone().or(file.ca_file),
            docker_host: std::env::var("DOCKER_HOST")
                .ok()
                .or(file.docker_host)
                .filter(nonempty),
            listen: overrides
                .listen
                .clone()
                .or(file.listen)
                .filter(nonempty)
                .map(|text| parse_listen(&text))
                .transpose()?,
            token_grace: overrides
                .token_grace
                .or(file.token_grace)
                .map_or(TOKEN_GRACE, Millis::from_seconds),
        };
        Ok((config, gaps))
    }
}

/// The token, from the nearest source that has one.
fn token(
    overrides: &Overrides,
    of_file: Option<Secret>,
    file_of_file: Option<PathBuf>,
) -> Result<Secret, ConfigError> {
    let from = |path: &Path| read(path).map(|text| Secret::new(text.trim()));
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|folder| PathBuf::from(folder).join(CREDENTIAL))
        .filter(|path| path.exists());
    let token = if let Some(token) = &overrides.token {
        Secret::new(token.trim())
    } else if let Some(path) = overrides.token_file.as_deref().or(credential.as_deref()) {
        from(path)?
    } else if let Some(token) = of_file {
        token
    } else if let Some(path) = file_of_file {
        from(&path)?
    } else {
        Secret::new("")
    };
    if token.expose().is_empty() {
        return Err(ConfigError::Missing {
            what: "the agent token",
            how: "`terrapool-agent configure`, TERRAPOOL_TOKEN_FILE, or `token_file` in the configuration file",
        });
    }
    Ok(token)
}

/// The host's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(file: &Path) -> Overrides {
        Overrides {
            config: Some(file.to_owned()),
            ..Overrides::default()
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "url = \"https://x\"\nconcurency = 3\n").unwrap();
        let error = Config::load(&overrides(&file)).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("concurency"), "{source}");
    }

    #[test]
    fn the_file_that_explains_every_setting_has_only_settings_that_exist_and_sets_none() {
        let none: toml::Table = toml::from_str(DEFAULT_TEXT).unwrap();
        assert!(none.is_empty(), "{none:?}");
        let shown: String = DEFAULT_TEXT
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.starts_with(|letter: char| letter.is_ascii_lowercase()))
            .map(|line| format!("{line}\n"))
            .collect();
        let file = File::parse(Path::new("shown"), &shown).unwrap();
        assert_eq!((file.concurrency, file.cpu), (Some(5), Some(4)));
    }

    #[test]
    fn flags_win_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(
            &file,
            "url = \"https://x/\"\ntoken = \"t\"\nconcurrency = 3\nmemory = \"2GB\"\n",
        )
        .unwrap();
        let config = Config::load(&Overrides {
            concurrency: Some(7),
            ..overrides(&file)
        })
        .unwrap();
        assert_eq!((config.concurrency, config.memory_mb), (7, Some(2048)));
        assert_eq!(config.url, "https://x");
    }

    #[test]
    fn health_and_metrics_are_off_unless_asked_for_and_never_on_an_address_that_others_reach() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        let listen = |line: &str| {
            std::fs::write(&file, format!("url = \"https://x\"\ntoken = \"t\"\n{line}\n")).unwrap();
            Config::load(&overrides(&file)).map(|config| config.listen)
        };
        assert_eq!(listen("").unwrap(), None);
        assert_eq!(listen("listen = \"\"").unwrap(), None);
        assert!(listen("listen = \"[::1]:9465\"").unwrap().is_some());
        for refused in ["0.0.0.0:9465", "9465", "localhost:9465", "127.0.0.1"] {
            let error = listen(&format!("listen = \"{refused}\"")).unwrap_err();
            assert!(
                matches!(error, ConfigError::Invalid { what: "listen", .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn a_missing_token_and_a_plain_http_address_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, "url = \"https://x\"\n").unwrap();
        assert!(matches!(
            Config::load(&overrides(&file)),
            Err(ConfigError::Missing { .. })
        ));
        std::fs::write(&file, "url = \"http://x\"\ntoken = \"t\"\n").unwrap();
        assert!(matches!(
            Config::load(&overrides(&file)),
            Err(ConfigError::Invalid { what: "url", .. })
        ));
    }
}
