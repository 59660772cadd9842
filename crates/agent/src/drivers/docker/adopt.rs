//! Finding sandboxes again: those of jobs that go on, what is left of those that are gone, and what nobody needs.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, KillContainerOptions, ListContainersOptions, ListVolumesOptions,
    StartContainerOptions,
};
use terrapool_protocol::job::{Limits, SandboxNetwork};

use super::sandbox::{VOLUMES, host_config, user_of, volume_name};
use super::{
    DockerDriver, LABEL_AGENT, LABEL_CREATED, LABEL_ROLE, LABEL_SANDBOX, is_status, labels, network,
    seconds_since_epoch,
};
use crate::drivers::DriverError;
use crate::drivers::sandbox::{Found, Place, SandboxKey, greet};

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Paused,
    Over,
}

/// How long volumes that no journal knows are kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// A runner that does not answer, and volumes that cannot be opened, are tried this often.
const TRIES: u32 = 20;

impl DockerDriver {
    async fn life(&self, id: &str) -> Result<Life, DriverError> {
        match self.docker.inspect_container(id, None).await {
            Ok(container) => Ok(match container.state {
                Some(state) if state.paused == Some(true) => Life::Paused,
                Some(state) if state.running == Some(true) => Life::Running,
                _ => Life::Over,
            }),
            // An answer that this client cannot read is an answer about a container that exists.
            Err(bollard::errors::Error::JsonDataError { .. }) => Ok(Life::Running),
            Err(error) if is_status(&error, 404) => Ok(Life::Over),
            Err(error) => Err(DriverError::call("looking at a sandbox")(error)),
        }
    }

    /// Connects anew to a sandbox that an earlier connection, or process, used. A container engine that is away is waited
    /// for. When the sandbox has ended, another one serves what is on its volumes. `None`: nothing is left of it.
    pub async fn find(&self, place: &Place, log_from: u64) -> Option<Found> {
        let (mut silent, mut closed) = (0, 0);
        loop {
            match self.life(&place.id).await {
                Ok(Life::Running) => match self.reconnect(place, log_from).await {
                    Ok(found) => return Some(found),
                    Err(error) => {
                        silent += 1;
                        tracing::warn!(
                            sandbox = place.id,
                            error = &error as &dyn std::error::Error,
                            "a sandbox does not answer"
                        );
                        if silent >= TRIES {
                            self.kill(&place.id).await;
                        }
                    }
                },
                Ok(Life::Paused) => {}
                Ok(Life::Over) => match self.open_remains(place, log_from).await {
                    Ok(found) => return found,
                    Err(error) => {
                        closed += 1;
                        tracing::warn!(
                            volumes = place.volumes,
                            error = &error as &dyn std::error::Error,
                            "what a sandbox left cannot be opened"
                        );
                        if closed >= TRIES {
                            return None;
                        }
                    }
                },
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the container engine is away"
                    );
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn reconnect(&self, place: &Place, log_from: u64) -> Result<Found, DriverError> {
        let mut link = self.connect_runner(&place.id).await?;
        let silent = || DriverError::RunnerSilent {
            image: place.id.clone(),
        };
        let greeting = greet(&mut link, &place.runner_key, log_from)
            .await
            .ok_or_else(silent)?;
        Ok(Found {
            place: place.clone(),
            link,
            stage: greeting.stage,
            engine: greeting.engine,
            remains: false,
        })
    }

    async fn kill(&self, id: &str) {
        let options = KillContainerOptions {
            signal: "KILL".to_owned(),
        };
        // It may have ended meanwhile.
        let _ = self.docker.kill_container(id, Some(options)).await;
    }

    /// Serves what a sandbox left on its volumes. `None` when they are gone too.
    async fn open_remains(&self, place: &Place, log_from: u64) -> Result<Option<Found>, DriverError> {
        for (suffix, _) in VOLUMES {
            match self
                .docker
                .inspect_volume(&volume_name(&place.volumes, suffix))
                .await
            {
                Ok(_) => {}
                Err(error) if is_status(&error, 404) => return Ok(None),
                Err(error) => return Err(DriverError::call("looking at a volume")(error)),
            }
        }
        self.remove_container(&place.id).await;
        let name = format!("{}-remains", place.volumes);
        self.remove_container(&name).await;
        let key = SandboxKey {
            image: self.image.clone(),
            user: place.user,
            network: SandboxNetwork::None,
            limits: Limits::default(),
        };
        let body = ContainerCreateBody {
            image: Some(key.image.clone()),
            user: Some(user_of(place.user).to_owned()),
            entrypoint: Some(vec![self.bin.runner_path()]),
            cmd: Some(vec!["remains".to_owned()]),
            labels: Some(labels(&self.identity, "sandbox", &place.volumes)),
            host_config: Some(host_config(
                &key,
                network::mode(key.network),
                self.binds(&place.volumes),
            )),
            ..Default::default()
        };
        let options = CreateContainerOptions {
            name: Some(name),
            ..Default::default()
        };
        let opening = "opening what a sandbox left";
        let created = self
            .docker
            .create_container(Some(options), body)
            .await
            .map_err(DriverError::call(opening))?;
        self.docker
            .start_container(&created.id, None::<StartContainerOptions>)
            .await
            .map_err(DriverError::call(opening))?;
        let now = Place {
            id: created.id,
            ..place.clone()
        };
        let found = self.reconnect(&now, log_from).await?;
        tracing::info!(volumes = place.volumes, stage = ?found.stage, "a sandbox is gone; what it left is read");
        Ok(Some(Found {
            remains: true,
            ..found
        }))
    }

    /// Looks through everything of this agent on the container engine: removes what no job needs, keeps what jobs in the
    /// journal still need (`keep`), and keeps the volumes of jobs that no journal knows for seven days. `over` are the
    /// volumes of jobs that are known to be over.
    ///
    /// # Errors
    /// [`DriverError`] when the engine cannot list them.
    pub async fn take_stock(&self, keep: &[Place], over: &BTreeSet<String>) -> Result<(), DriverError> {
        let mine = HashMap::from([(
            "label".to_owned(),
            vec![
                format!("{LABEL_AGENT}={}", self.identity),
                format!("{LABEL_ROLE}=sandbox"),
            ],
        )]);
        let needed: BTreeSet<&str> = keep.iter().map(|place| place.volumes.as_str()).collect();
        let options = ListContainersOptions {
            all: true,
            filters: Some(mine.clone()),
            ..Default::default()
        };
        let containers = self
            .docker
            .list_containers(Some(options))
            .await
            .map_err(DriverError::call("listing the sandboxes"))?;
        for container in containers {
            let (Some(id), labels) = (container.id, container.labels.unwrap_or_default()) else {
                continue;
            };
            if !self.is_own_sandboxes(&labels) {
                continue;
            }
            if keep.iter().any(|place| place.id == id) {
                continue;
            }
            let volumes = labels.get(LABEL_SANDBOX).cloned().unwrap_or_default();
            let orphan =
                !needed.contains(volumes.as_str()) && !over.contains(&volumes) && self.has_worked(&id).await;
            self.remove_container(&id).await;
            if orphan {
                tracing::warn!(
                    sandbox = id,
                    volumes,
                    "stopped a sandbox of a job that is not in the journal; its volumes are kept for seven days"
                );
            } else if !needed.contains(volumes.as_str()) && !volumes.is_empty() {
                tracing::info!(sandbox = id, "removed a sandbox that no job needs");
                self.remove_volumes(&volumes).await;
            }
        }
        self.sweep_volumes(&needed, over, mine).await
    }

    /// Whether something belongs to a sandbox of this agent. To Podman, of several labels that are asked for one may do.
    fn is_own_sandboxes(&self, labels: &HashMap<String, String>) -> bool {
        let is = |name: &str, value: &str| labels.get(name).is_some_and(|found| found == value);
        is(LABEL_AGENT, &self.identity) && is(LABEL_ROLE, "sandbox")
    }

    /// Whether an engine phase was started in a container, or a job ended there. What cannot be told counts.
    async fn has_worked(&self, id: &str) -> bool {
        for file in ["started", "end.json"] {
            if self.job_file_exists(id, file).await != Some(false) {
                return true;
            }
        }
        false
    }

    async fn sweep_volumes(
        &self,
        needed: &BTreeSet<&str>,
        over: &BTreeSet<String>,
        mine: HashMap<String, Vec<String>>,
    ) -> Result<(), DriverError> {
        let volumes = self
            .docker
            .list_volumes(Some(ListVolumesOptions { filters: Some(mine) }))
            .await
            .map_err(DriverError::call("listing the volumes"))?;
        let mut kept = BTreeSet::new();
        for volume in volumes.volumes.unwrap_or_default() {
            if !self.is_own_sandboxes(&volume.labels) {
                continue;
            }
            let sandbox = volume.labels.get(LABEL_SANDBOX).cloned().unwrap_or_default();
            let created = volume.labels.get(LABEL_CREATED).map(String::as_str);
            if needed.contains(sandbox.as_str()) {
                continue;
            }
            if over.contains(&sandbox) || is_old(created, seconds_since_epoch()) {
                self.remove_volume(&volume.name).await;
            } else {
                kept.insert(sandbox);
            }
        }
        for volumes in kept {
            tracing::info!(
                volumes,
                "volumes of a job that is not in the journal are kept for seven days"
            );
        }
        Ok(())
    }
}

/// Whether something that was made at a time (seconds since the Unix epoch) has been kept long enough.
fn is_old(created: Option<&str>, now: u64) -> bool {
    created
        .and_then(|seconds| seconds.parse::<u64>().ok())
        .is_some_and(|created| now.saturating_sub(created) > KEPT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_unknown_jobs_are_kept_for_seven_days() {
        const DAY: u64 = 24 * 3600;
        let now = 1_800_000_000;
        assert!(!is_old(Some(&(now - 6 * DAY).to_string()), now));
        assert!(is_old(Some(&(now - 8 * DAY).to_string()), now));
        assert!(!is_old(None, now));
    }
}
