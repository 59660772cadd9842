//! Helper containers: the runner's binary as root in a container of its own, for what only the engine's host can do.

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt as _;
use terrapool_protocol::runner::BIN;

use super::bin_volume::BinVolume;
use super::{DockerDriver, DriverError, labels};

/// What a helper may do besides looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rights {
    /// Nothing.
    None,
    /// Set routes of the network namespace that it is in.
    Network,
    /// Write to the volume with engines.
    Engines,
}

impl DockerDriver {
    /// Removes engines from the volume that no job has used for long, or that are too many, as of `now` (seconds since
    /// 1970). Answers their folders.
    ///
    /// # Errors
    /// [`DriverError`] when the engine does not let them be looked at or removed.
    pub async fn remove_old_engines(&self, now: u64) -> Result<Vec<String>, DriverError> {
        let mut held = self.bin.hold().await;
        let looking = "looking at the engines in the volume";
        let listed = self
            .helper(looking, vec!["engines".to_owned()], "none", Rights::None)
            .await?;
        let surplus = BinVolume::surplus(&listed, now);
        if surplus.is_empty() {
            return Ok(surplus);
        }
        let arguments = std::iter::once("remove-engines".to_owned())
            .chain(surplus.iter().cloned())
            .collect();
        self.helper(
            "removing old engines from the volume",
            arguments,
            "none",
            Rights::Engines,
        )
        .await?;
        held.forget(&surplus);
        Ok(surplus)
    }

    /// Runs the runner's binary in a container of its own and returns what it printed.
    pub(super) async fn helper(
        &self,
        action: &'static str,
        arguments: Vec<String>,
        network_mode: &str,
        rights: Rights,
    ) -> Result<String, DriverError> {
        let access = if rights == Rights::Engines { "rw" } else { "ro" };
        let capabilities = (rights == Rights::Network).then(|| vec!["NET_ADMIN".to_owned()]);
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            user: Some("0:0".to_owned()),
            entrypoint: Some(vec![self.bin.runner_path()]),
            cmd: Some(arguments),
            labels: Some(labels(&self.identity, "helper", "")),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{}:{BIN}:{access}", self.bin.name())]),
                network_mode: Some(network_mode.to_owned()),
                // An engine that remaps users keeps the host's network from all but its own users.
                userns_mode: (network_mode == "host").then(|| "host".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                cap_add: capabilities,
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                readonly_rootfs: Some(true),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("none".to_owned()),
                    config: None,
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let created = self
            .docker
            .create_container(None::<CreateContainerOptions>, body)
            .await
            .map_err(DriverError::call(action))?;
        let result = self.run_helper(&created.id, action).await;
        self.remove_container(&created.id).await;
        result
    }

    async fn run_helper(&self, id: &str, action: &'static str) -> Result<String, DriverError> {
        let options = AttachContainerOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..Default::default()
        };
        let mut attached = self
            .docker
            .attach_container(id, Some(options))
            .await
            .map_err(DriverError::call(action))?;
        self.docker
            .start_container(id, None::<StartContainerOptions>)
            .await
            .map_err(DriverError::call(action))?;
        let mut output = String::new();
        while let Some(Ok(piece)) = attached.output.next().await {
            output.push_str(&String::from_utf8_lossy(&piece.into_bytes()));
        }
        let mut waited = self.docker.wait_container(id, None::<WaitContainerOptions>);
        let status = match waited.next().await {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(DriverError::call(action)(error)),
            None => 0,
        };
        if status == 0 {
            Ok(output)
        } else {
            let output = output.trim().to_owned();
            Err(DriverError::Helper {
                action,
                status,
                output,
            })
        }
    }
}
