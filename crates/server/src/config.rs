//! The configuration: defaults, then the file, then the environment, then flags.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use terrapool_protocol::secret::Secret;

/// The commented default configuration, which is its documentation.
pub const DEFAULT_FILE: &str = include_str!("config.default.toml");

/// The configuration of a control plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the data is.
    pub data_dir: PathBuf,
    /// Address and port to listen on.
    pub listen: String,
    /// The address by which clients reach the control plane, without a slash at its end. Empty until the port is known.
    pub public_url: String,
    /// How connections are encrypted.
    pub tls: Tls,
    /// The database's address, which may hold a password.
    pub database_url: Secret,
    /// Folder of the objects.
    pub objects: PathBuf,
    /// The key ring.
    pub keyring_file: PathBuf,
    /// Address and port of the metrics.
    pub metrics_listen: Option<String>,
    /// Requests a second and token.
    pub rate_limit: Option<u32>,
    /// Folder served at `/packages/`.
    pub packages_dir: Option<PathBuf>,
    /// Whether the server starts an agent for the shared pool.
    pub shared_agent: bool,
    /// How `terraform login` comes to a token.
    pub login: Login,
    /// Sizes of uploads.
    pub limits: Limits,
}

/// How `terraform login` comes to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// Through a browser on the same machine.
    #[default]
    Browser,
    /// It is pasted: for people who work on machines without a browser.
    Token,
}

/// How connections are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Not at all: a proxy in front does it.
    Off,
    /// With a certificate of the operator's.
    Files {
        /// Certificate and chain, PEM.
        cert: PathBuf,
        /// Private key, PEM.
        key: PathBuf,
    },
    /// With a certificate of a local authority in the data folder.
    Local,
}

/// Sizes of uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest compressed configuration, bytes.
    pub configuration_bytes: u64,
    /// Largest state, bytes.
    pub state_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            configuration_bytes: 256 << 20,
            state_bytes: 256 << 20,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::in_folder(Path::new("/var/lib/terrapool"))
    }
}

impl Config {
    /// The defaults with a data folder.
    pub fn in_folder(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
            listen: "127.0.0.1:8443".to_owned(),
            public_url: String::new(),
            tls: Tls::Local,
            database_url: Secret::new(format!("sqlite:{}", data_dir.join("terrapool.db").display())),
            objects: data_dir.join("objects"),
            keyring_file: data_dir.join("keyring"),
            metrics_listen: None,
            rate_limit: None,
            packages_dir: None,
            shared_agent: false,
            login: Login::default(),
            limits: Limits::default(),
        }
    }

    /// Whether the database is shared between replicas.
    pub fn is_postgres(&self) -> bool {
        self.database_url.expose().starts_with("postgres")
    }

    /// The host in `public_url`, without a port.
    pub fn public_host(&self) -> &str {
        let rest = self
            .public_url
            .split_once("://")
            .map_or(self.public_url.as_str(), |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        match authority.strip_prefix('[') {
            Some(address) => address.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        }
    }

    /// Reads the configuration from its file, the environment and flags.
    ///
    /// # Errors
    /// [`ConfigError`] that names the key and where it stands.
    pub fn load(flags: &ConfigArgs) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::default(),
        };
        let data_dir = flags
            .data_dir
            .clone()
            .or(file.data_dir)
            .unwrap_or_else(|| PathBuf::from("/var/lib/terrapool"));
        let defaults = Self::in_folder(&data_dir);
        let database_url = match (&flags.database_url, &flags.database_url_file) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Both(
                    "TERRAPOOL_DATABASE_URL",
                    "TERRAPOOL_DATABASE_URL_FILE",
                ));
            }
            (Some(url), None) => Some(Secret::new(url.clone())),
            (None, Some(path)) => Some(Secret::new(read_text(path)?.trim().to_owned())),
            (None, None) => file.database_url,
        };
        let cert = flags.tls_cert.clone().or(file.tls_cert);
        let key = flags.tls_key.clone().or(file.tls_key);
        let tls = match (flags.tls.or(file.tls).unwrap_or(true), cert, key) {
            (false, _, _) => Tls::Off,
            (true, Some(cert), Some(key)) => Tls::Files { cert, key },
            (true, None, None) => Tls::Local,
            (true, Some(_), None) => return Err(ConfigError::Half("tls_cert", "tls_key")),
            (true, None, Some(_)) => return Err(ConfigError::Half("tls_key", "tls_cert")),
        };
        let public_url = flags.public_url.clone().or(file.public_url).unwrap_or_default();
        let public_url = public_url.trim_end_matches('/').to_owned();
        if !public_url.is_empty() && !public_url.starts_with("https://") && !public_url.starts_with("http://")
        {
            return Err(ConfigError::Value {
                key: "public_url",
                problem: format!("`{public_url}` is no address: write https://host or https://host:port"),
            });
        }
        let objects = flags.objects.clone().or(file.objects);
        if objects
            .as_deref()
            .is_some_and(|address| address.starts_with("s3://"))
        {
            return Err(ConfigError::Value {
                key: "objects",
                problem: "this build keeps objects in folders only: name a folder".to_owned(),
            });
        }
        let config = Self {
            listen: flags.listen.clone().or(file.listen).unwrap_or(defaults.listen),
            public_url,
            tls,
            database_url: database_url.unwrap_or(defaults.database_url),
            objects: objects.map_or(defaults.objects, PathBuf::from),
            keyring_file: flags
                .keyring_file
                .clone()
                .or(file.keyring_file.clone())
                .unwrap_or(defaults.keyring_file),
            metrics_listen: flags.metrics_listen.clone().or(file.metrics_listen),
            rate_limit: flags.rate_limit.or(file.rate_limit).filter(|limit| *limit > 0),
            packages_dir: flags.packages_dir.clone().or(file.packages_dir),
            shared_agent: flags.shared_agent.or(file.shared_agent).unwrap_or(false),
            login: flags.login.or(file.login).unwrap_or_default(),
            limits: Limits {
                configuration_bytes: file
                    .limits
                    .configuration_bytes
                    .unwrap_or(defaults.limits.configuration_bytes),
                state_bytes: file.limits.state_bytes.unwrap_or(defaults.limits.state_bytes),
            },
            data_dir,
        };
        if config.is_postgres() && flags.keyring_file.is_none() && file.keyring_file.is_none() {
            return Err(ConfigError::Value {
                key: "keyring_file",
                problem: "with PostgreSQL all replicas need the same key ring, so its file has to be named \
                          (TERRAPOOL_KEYRING_FILE)"
                    .to_owned(),
            });
        }
        Ok(config)
    }
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

/// Flags and environment variables of the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML)
    #[arg(long, env = "TERRAPOOL_CONFIG", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where the control plane keeps its data [default: /var/lib/terrapool]
    #[arg(long, env = "TERRAPOOL_DATA_DIR", value_name = "FOLDER", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Address and port to listen on [default: 127.0.0.1:8443]
    #[arg(long, env = "TERRAPOOL_LISTEN", value_name = "ADDRESS", global = true)]
    pub listen: Option<String>,
    /// The address by which clients and agents reach the control plane
    #[arg(long, env = "TERRAPOOL_PUBLIC_URL", value_name = "URL", global = true)]
    pub public_url: Option<String>,
    /// TLS certificate with its chain (PEM)
    #[arg(long, env = "TERRAPOOL_TLS_CERT", value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the TLS certificate (PEM)
    #[arg(long, env = "TERRAPOOL_TLS_KEY", value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,
    /// Whether to speak TLS; false behind a proxy that does [default: true]
    #[arg(long, env = "TERRAPOOL_TLS", value_name = "BOOL", global = true)]
    pub tls: Option<bool>,
    /// sqlite:PATH or postgres://user@host/name (no flag: it may hold a password)
    #[arg(
        env = "TERRAPOOL_DATABASE_URL",
        long = "database-url",
        hide = true,
        hide_env_values = true,
        global = true
    )]
    pub database_url: Option<String>,
    /// A file that holds the database's address
    #[arg(long, env = "TERRAPOOL_DATABASE_URL_FILE", value_name = "FILE", global = true)]
    pub database_url_file: Option<PathBuf>,
    /// Folder for configurations, states and plans
    #[arg(long, env = "TERRAPOOL_OBJECTS", value_name = "FOLDER", global = true)]
    pub objects: Option<String>,
    /// The key ring
    #[arg(long, env = "TERRAPOOL_KEYRING_FILE", value_name = "FILE", global = true)]
    pub keyring_file: Option<PathBuf>,
    /// Address and port for metrics
    #[arg(long, env = "TERRAPOOL_METRICS_LISTEN", value_name = "ADDRESS", global = true)]
    pub metrics_listen: Option<String>,
    /// Requests that each token may make in a second; 0: no limit
    #[arg(long, env = "TERRAPOOL_RATE_LIMIT", value_name = "NUMBER", global = true)]
    pub rate_limit: Option<u32>,
    /// Folder served at /packages/
    #[arg(long, env = "TERRAPOOL_PACKAGES_DIR", value_name = "FOLDER", global = true)]
    pub packages_dir: Option<PathBuf>,
    /// Whether the server starts the terrapool-agent beside its own program for the shared pool
    #[arg(long, env = "TERRAPOOL_SHARED_AGENT", value_name = "BOOL", global = true)]
    pub shared_agent: Option<bool>,
    /// How `terraform login` comes to a token [default: browser]
    #[arg(long, env = "TERRAPOOL_LOGIN", value_name = "WAY", global = true)]
    pub login: Option<Login>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    data_dir: Option<PathBuf>,
    listen: Option<String>,
    public_url: Option<String>,
    tls: Option<bool>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    database_url: Option<Secret>,
    objects: Option<String>,
    keyring_file: Option<PathBuf>,
    metrics_listen: Option<String>,
    rate_limit: Option<u32>,
    packages_dir: Option<PathBuf>,
    shared_agent: Option<bool>,
    login: Option<Login>,
    #[serde(default)]
    limits: LimitsFile,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    configuration_bytes: Option<u64>,
    state_bytes: Option<u64>,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
            });
            ConfigError::File {
                path: path.to_owned(),
                line,
                problem: error.message().to_owned(),
            }
        })
    }
}

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file can't be read.
    #[error("{path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The configuration file is wrong.
    #[error("{path}, line {line}: {problem} (`terrapool server --print-config` shows every key)")]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A value is wrong, wherever it stands.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// One of two that belong together.
    #[error("{0} is set but {1} is not: TLS needs both, or neither for a local certificate authority")]
    Half(&'static str, &'static str),
    /// Two that exclude each other.
    #[error("{0} and {1} are both set: keep one")]
    Both(&'static str, &'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, change: impl FnOnce(&mut ConfigArgs)) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("terrapool.toml");
        std::fs::write(&path, text).unwrap();
        let mut flags = ConfigArgs {
            config: Some(path),
            ..ConfigArgs::default()
        };
        change(&mut flags);
        Config::load(&flags)
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it_and_its_file() {
        let error = load("listen = \"127.0.0.1:1\"\nlistne = 3\n", |_| {})
            .unwrap_err()
            .to_string();
        assert!(error.contains("listne"), "{error}");
        assert!(error.contains("terrapool.toml, line 2"), "{error}");
        let error = load("[limits]\nfoo = 3\n", |_| {}).unwrap_err().to_string();
        assert!(error.contains("foo"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "listen = \"127.0.0.1:1\"\ndata_dir = \"/data\"\n[limits]\nstate_bytes = 7\n";
        let config = load(text, |flags| flags.listen = Some("127.0.0.1:2".to_owned())).unwrap();
        assert_eq!(config.listen, "127.0.0.1:2");
        assert_eq!(config.objects, PathBuf::from("/data/objects"));
        assert_eq!(config.limits.state_bytes, 7);
        assert_eq!(config.limits.configuration_bytes, 256 << 20);
    }

    #[test]
    fn the_commented_defaults_are_the_defaults() {
        let uncommented: String = DEFAULT_FILE
            .lines()
            .filter(|line| {
                !line.starts_with("#tls_") && !line.starts_with("#metrics") && !line.starts_with("#rate")
            })
            .filter(|line| !line.starts_with("#packages") && !line.starts_with("#public_url"))
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => key,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let config = load(&uncommented, |_| {}).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let error = load("tls_cert = \"/x\"", |_| {}).unwrap_err().to_string();
        assert!(error.contains("tls_key"), "{error}");
    }

    #[test]
    fn the_host_of_the_public_url_has_no_port() {
        let mut config = Config::default();
        for (url, host) in [
            ("https://tp.example:8443", "tp.example"),
            ("https://[::1]:8443/x", "::1"),
        ] {
            config.public_url = url.to_owned();
            assert_eq!(config.public_host(), host);
        }
    }
}
