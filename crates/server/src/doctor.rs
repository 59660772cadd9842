//! `terrapool doctor`: looks at what a control plane needs and says what is wrong.

use std::path::Path;
use std::sync::Arc;

use terrapool_objects::Keyring;
use terrapool_store::db::{Db, SystemClock, SystemEntropy};
use terrapool_store::gauges;

use crate::config::{Config, Tls};

/// Bytes that should be free on the data disk.
const LITTLE_SPACE: u64 = 1 << 30;

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// What was found; an error is what has to be done.
    pub result: Result<String, String>,
}

/// Looks at everything. Changes nothing but the database's schema, which is brought up to date.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let data_dir = &config.data_dir;
    vec![
        Finding {
            subject: "data folder",
            result: writable(data_dir),
        },
        Finding {
            subject: "disk space",
            result: space(data_dir),
        },
        Finding {
            subject: "key ring",
            result: key_ring(config),
        },
        Finding {
            subject: "database",
            result: database(config).await,
        },
        Finding {
            subject: "TLS",
            result: tls(config),
        },
    ]
}

fn writable(folder: &Path) -> Result<String, String> {
    let probe = folder.join(".doctor");
    std::fs::write(&probe, b"ok")
        .and_then(|()| std::fs::remove_file(&probe))
        .map(|()| folder.display().to_string())
        .map_err(|error| format!("{} can't be written to: {error}", folder.display()))
}

fn space(folder: &Path) -> Result<String, String> {
    let found = rustix::fs::statvfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let text = format!("{} MiB free", free >> 20);
    if free < LITTLE_SPACE {
        Err(format!(
            "only {text} on the disk of {}: make room",
            folder.display()
        ))
    } else {
        Ok(text)
    }
}

fn key_ring(config: &Config) -> Result<String, String> {
    let path = &config.keyring_file;
    if !path.exists() && !config.is_postgres() {
        return Ok("not made yet; the server makes it when it starts".to_owned());
    }
    match Keyring::open(path) {
        Ok(ring) => Ok(format!("{}: {ring:?}", path.display())),
        Err(error) => Err(chain(&error)),
    }
}

async fn database(config: &Config) -> Result<String, String> {
    let opened = Db::open(
        config.database_url.expose(),
        Arc::new(SystemClock),
        Arc::new(SystemEntropy),
    )
    .await;
    let db = opened.map_err(|error| chain(&error))?;
    let check = async {
        let mut connection = db.read().await?;
        gauges::read(&mut connection).await
    };
    match check.await {
        Ok(found) => Ok(format!("{db:?} answers; workspaces: {}", found.workspaces)),
        Err(error) => Err(chain(&error)),
    }
}

fn tls(config: &Config) -> Result<String, String> {
    match &config.tls {
        Tls::Off => Ok("off: a proxy in front has to do it".to_owned()),
        Tls::Local => Ok(format!(
            "a local certificate authority; clients trust {}",
            config.data_dir.join(crate::tls::CA_FILE).display()
        )),
        Tls::Files { cert, .. } => crate::tls::server_config(config)
            .map(|_| cert.display().to_string())
            .map_err(|error| chain(&error)),
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
