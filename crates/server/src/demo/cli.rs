//! The stock command line, in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::server::Running;

/// `terraform` in a folder with the example, signed in.
pub(super) struct Terraform {
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Terraform {
    pub(super) fn new(
        folder: &Path,
        running: &Running,
        token: &str,
        organization: &str,
        workspace: &str,
        configuration: &str,
    ) -> anyhow::Result<Self> {
        let url = &running.app.config.public_url;
        let host = url.strip_prefix("https://").unwrap_or(url);
        let own = folder.join(workspace);
        std::fs::create_dir_all(&own)?;
        std::fs::write(own.join("main.tf"), configuration)?;
        let credentials = folder.join("cli.tfrc");
        std::fs::write(
            &credentials,
            format!("credentials \"{host}\" {{\n  token = \"{token}\"\n}}\n"),
        )?;
        let environment = vec![
            ("TF_CLI_CONFIG_FILE", credentials.display().to_string()),
            ("SSL_CERT_FILE", folder.join("data/ca.pem").display().to_string()),
            ("TF_CLOUD_HOSTNAME", host.to_owned()),
            ("TF_CLOUD_ORGANIZATION", organization.to_owned()),
            ("TF_WORKSPACE", workspace.to_owned()),
            ("CHECKPOINT_DISABLE", "1".to_owned()),
        ];
        Ok(Self {
            folder: own,
            environment,
        })
    }

    /// Runs a command with this typed into it, its output going where ours goes, and returns its exit code.
    pub(super) async fn run(&self, arguments: &[&str], input: &str) -> anyhow::Result<u8> {
        let mut child = Command::new("terraform")
            .args(arguments)
            .current_dir(&self.folder)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .spawn()
            .context("terraform could not be started: it has to be on PATH")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that reads nothing may have ended already.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let status = child.wait().await?;
        Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1))
    }
}
