//! One sandbox: a container that runs one job and is never used again.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ContainerUpdateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, RenameContainerOptions, StartContainerOptions,
};
use futures_util::StreamExt as _;
use terrapool_protocol::job::Limits;
use terrapool_protocol::runner::{JOB, STATE, WORK};
use terrapool_protocol::secret::Secret;

use super::{DockerDriver, is_status, labels, network, promises};
use crate::config::SandboxUser;
use crate::drivers::DriverError;
use crate::drivers::sandbox::{Place, Sandbox, SandboxKey, greet};
use crate::engines::hex;
use crate::runner_link::RunnerLink;

/// Volumes of a sandbox: the end of the name, and where it is mounted.
pub(super) const VOLUMES: [(&str, &str); 3] = [("work", WORK), ("state", STATE), ("job", JOB)];

/// The volume with the state of a sandbox.
pub(in crate::drivers) fn state_volume(place: &Place) -> String {
    volume_name(&place.volumes, "state")
}

pub(super) fn volume_name(sandbox: &str, suffix: &str) -> String {
    format!("{sandbox}-{suffix}")
}

/// User and group inside.
pub(super) fn user_of(user: SandboxUser) -> &'static str {
    match user {
        SandboxUser::Unprivileged => "1000:1000",
        SandboxUser::Root => "0:0",
    }
}

pub(super) fn host_config(key: &SandboxKey, network: &str, binds: Vec<String>) -> HostConfig {
    let memory = i64::try_from(key.limits.memory_mb << 20).unwrap_or(i64::MAX);
    let (read_only, capabilities) = match key.user {
        SandboxUser::Unprivileged => (true, Vec::new()),
        SandboxUser::Root => (
            false,
            vec!["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID", "FSETID"],
        ),
    };
    HostConfig {
        memory: Some(memory),
        // The same figure: no swap.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::try_from(key.limits.cpu_millis * 1_000_000).unwrap_or(i64::MAX)),
        pids_limit: Some(i64::from(key.limits.pids)),
        binds: Some(binds),
        // Output is a file on the job volume: a reader that goes away stalls nothing.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        network_mode: Some(network.to_owned()),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(capabilities.into_iter().map(str::to_owned).collect()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        readonly_rootfs: Some(read_only),
        ipc_mode: Some("private".to_owned()),
        tmpfs: Some(HashMap::from([(
            "/tmp".to_owned(),
            "rw,nosuid,nodev,size=64m,mode=1777".to_owned(),
        )])),
        ..Default::default()
    }
}

impl DockerDriver {
    /// Makes a sandbox and waits until its runner answers.
    ///
    /// # Errors
    /// [`DriverError`]; nothing is left behind.
    pub async fn create_sandbox(&self, key: &SandboxKey) -> Result<Sandbox, DriverError> {
        let network = self.network_of(key.network).await;
        let made = self.try_to_create(key, network.clone()).await;
        let (Some(wanted), Err(failure)) = (network, &made) else {
            return made;
        };
        if !self.mend_network(&wanted, failure).await {
            return made;
        }
        let network = self.network_of(key.network).await;
        self.try_to_create(key, network).await
    }

    async fn try_to_create(&self, key: &SandboxKey, network: Option<String>) -> Result<Sandbox, DriverError> {
        let mut random = [0; 24];
        getrandom::fill(&mut random).map_err(|error| DriverError::File {
            path: "/dev/urandom".into(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let name = format!("terrapool-{}-{}", self.identity, hex(&random[..6]));
        let runner_key = Secret::new(hex(&random[6..]));
        match self.create_and_connect(&name, key, runner_key).await {
            Ok(sandbox) => Ok(Sandbox {
                connection: network.map(network::connection),
                ..sandbox
            }),
            Err(error) => {
                self.remove_container(&name).await;
                self.remove_volumes(&name).await;
                Err(error)
            }
        }
    }

    async fn create_and_connect(
        &self,
        name: &str,
        key: &SandboxKey,
        runner_key: Secret,
    ) -> Result<Sandbox, DriverError> {
        // The agent's own image is there since its start.
        let other_image = key.image != self.image;
        let note = if other_image {
            self.ensure_image(&key.image).await?
        } else {
            None
        };
        let volumes = VOLUMES.map(|(suffix, _)| volume_name(name, suffix));
        let made = volumes.iter().map(|volume| self.create_volume(name, volume));
        futures_util::future::try_join_all(made).await?;
        if other_image {
            self.give_folders(name).await?;
        }
        let body = ContainerCreateBody {
            image: Some(key.image.clone()),
            hostname: Some("sandbox".to_owned()),
            user: Some(user_of(key.user).to_owned()),
            entrypoint: Some(vec![self.bin.runner_path()]),
            cmd: Some(vec!["run".to_owned()]),
            // The engine makes a working folder that the image does not have, as root, and with it the volume there.
            working_dir: Some(if other_image { "/" } else { WORK }.to_owned()),
            labels: Some(labels(&self.identity, "sandbox", name)),
            host_config: Some(host_config(key, network::mode(key.network), self.binds(name))),
            ..Default::default()
        };
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..Default::default()
        };
        let created = self
            .docker
            .create_container(Some(options), body)
            .await
            .map_err(DriverError::call(format!(
                "making a sandbox from image {}",
                key.image
            )))?;
        promises::refuse_lost_limits(&created.warnings)?;
        self.docker
            .start_container(&created.id, None::<StartContainerOptions>)
            .await
            .map_err(DriverError::call(format!(
                "starting a sandbox from image {}",
                key.image
            )))?;
        // Nothing of a job is inside yet; one whose network cannot be closed is not used.
        self.close_network(&created.id, key.network).await?;
        let mut link = self.connect_runner(&created.id).await?;
        let silent = || DriverError::RunnerSilent {
            image: key.image.clone(),
        };
        let greeting = greet(&mut link, &runner_key, 0).await.ok_or_else(silent)?;
        Ok(Sandbox {
            id: created.id,
            runner_key,
            link,
            key: key.clone(),
            note,
            memory_limit: greeting.memory_limit,
            connection: None,
            name: name.to_owned(),
        })
    }

    /// Where the volumes of a sandbox, and the one with engines, are mounted.
    pub(super) fn binds(&self, sandbox: &str) -> Vec<String> {
        let bin = format!("{}:{}:ro", self.bin.name(), terrapool_protocol::runner::BIN);
        let own = VOLUMES.map(|(suffix, target)| format!("{}:{target}", volume_name(sandbox, suffix)));
        std::iter::once(bin).chain(own).collect()
    }

    /// Opens a stream to the runner of a running container.
    pub(super) async fn connect_runner(&self, id: &str) -> Result<RunnerLink, DriverError> {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(false),
            cmd: Some(vec![self.bin.runner_path(), "connect".to_owned()]),
            ..Default::default()
        };
        let exec = self
            .docker
            .create_exec(id, options)
            .await
            .map_err(DriverError::call("connecting to the runner of a sandbox"))?;
        let start = StartExecOptions {
            detach: false,
            tty: false,
            output_capacity: Some(64 << 10),
        };
        let started = self
            .docker
            .start_exec(&exec.id, Some(start))
            .await
            .map_err(DriverError::call("connecting to the runner of a sandbox"))?;
        let StartExecResults::Attached { output, input } = started else {
            let source =
                bollard::errors::Error::from(std::io::Error::other("the engine did not attach the stream"));
            return Err(DriverError::call("connecting to the runner of a sandbox")(source));
        };
        let bytes = output
            .take_while(|item| std::future::ready(item.is_ok()))
            .filter_map(|item| std::future::ready(item.ok()))
            .filter_map(|item| {
                std::future::ready(match item {
                    LogOutput::StdOut { message } | LogOutput::Console { message } => Some(message),
                    LogOutput::StdErr { .. } | LogOutput::StdIn { .. } => None,
                })
            })
            .boxed();
        Ok(RunnerLink::new(input, bytes))
    }

    /// Gives a warm sandbox the limits of the job that takes it, and its name.
    ///
    /// # Errors
    /// [`DriverError`] when the engine refuses.
    pub async fn assign(&self, sandbox: &mut Sandbox, limits: Limits, name: &str) -> Result<(), DriverError> {
        if sandbox.key.limits.of_container() != limits.of_container() {
            let wanted = SandboxKey {
                limits,
                ..sandbox.key.clone()
            };
            let config = host_config(&wanted, network::mode(wanted.network), Vec::new());
            let update = ContainerUpdateBody {
                memory: config.memory,
                memory_swap: config.memory_swap,
                nano_cpus: config.nano_cpus,
                pids_limit: config.pids_limit,
                ..Default::default()
            };
            self.docker
                .update_container(&sandbox.id, update)
                .await
                .map_err(DriverError::call("setting the limits of a sandbox"))?;
            sandbox.key = wanted;
        }
        // For people who look at `docker ps`; nothing depends on it.
        let docker = self.docker.clone();
        let (id, name) = (sandbox.id.clone(), name.to_owned());
        tokio::spawn(async move {
            let _ = docker
                .rename_container(&id, RenameContainerOptions { name })
                .await;
        });
        Ok(())
    }

    /// Whether a file exists on the job volume of a sandbox, running or not; `None` when that cannot be told.
    pub async fn job_file_exists(&self, id: &str, file: &str) -> Option<bool> {
        let options = ContainerArchiveInfoOptions {
            path: format!("{JOB}/{file}"),
        };
        match self.docker.get_container_archive_info(id, Some(options)).await {
            Ok(_) => Some(true),
            Err(error) if is_status(&error, 404) => {
                let message = error.to_string().to_ascii_lowercase();
                // 404 is also the answer when the container itself is gone.
                (!message.contains("no such container")).then_some(false)
            }
            Err(_) => None,
        }
    }

    /// Removes a sandbox and its volumes. `volumes` is the name it was made with.
    pub async fn remove_sandbox(&self, id: &str, volumes: &str) {
        self.remove_container(id).await;
        self.remove_volumes(volumes).await;
    }

    pub(super) async fn remove_volumes(&self, name: &str) {
        let names = VOLUMES.map(|(suffix, _)| volume_name(name, suffix));
        futures_util::future::join_all(names.iter().map(|name| self.remove_volume(name))).await;
    }
}
