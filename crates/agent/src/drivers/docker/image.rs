//! Images of sandboxes: the default, a file that the agent's packages carry, is loaded when its tag is absent; others
//! are pulled when they are wanted ([`super::pull`]).

use std::io::Read as _;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, ImportImageOptions};
use futures_util::StreamExt as _;

use super::{DockerDriver, DriverError, is_status, labels};

const FILE: &str = "sandbox-image.tar";

/// Makes sure that the default image is loaded and returns its tag.
pub(super) async fn load_default(docker: &Docker) -> Result<String, DriverError> {
    let path = find().ok_or(DriverError::NoImage)?;
    let fail = |source| DriverError::File {
        path: path.clone(),
        source,
    };
    let tag = tag_of(&path).map_err(fail)?;
    match docker.inspect_image(&tag).await {
        Ok(_) => return Ok(tag),
        Err(error) if is_status(&error, 404) => {}
        // Engines add fields and states faster than clients learn them; an answer means that the image is there.
        Err(bollard::errors::Error::JsonDataError { .. }) => return Ok(tag),
        Err(error) => return Err(DriverError::call("looking for the sandbox image")(error)),
    }
    tracing::info!(tag, file = %path.display(), "loading the sandbox image");
    let bytes = tokio::fs::read(&path).await.map_err(fail)?;
    let body = bollard::body_full(bytes.into());
    let mut progress = std::pin::pin!(docker.import_image(ImportImageOptions::default(), body, None));
    while let Some(step) = progress.next().await {
        step.map_err(DriverError::call("loading the sandbox image"))?;
    }
    Ok(tag)
}

impl DockerDriver {
    /// Gives the volumes of a sandbox to its user, which its image does not do: a volume begins as a copy of the folder
    /// that the image of its first container has there. That container is never started.
    pub(super) async fn give_folders(&self, sandbox: &str) -> Result<(), DriverError> {
        let failed = "giving the folders of a sandbox to its user";
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(vec!["never".to_owned()]),
            labels: Some(labels(&self.identity, "helper", sandbox)),
            host_config: Some(HostConfig {
                binds: Some(self.binds(sandbox)),
                network_mode: Some("none".to_owned()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let created = self
            .docker
            .create_container(None::<CreateContainerOptions>, body)
            .await
            .map_err(DriverError::call(failed))?;
        self.remove_container(&created.id).await;
        Ok(())
    }
}

/// Beside the agent's binary, or where packages put it.
fn find() -> Option<PathBuf> {
    let named = std::env::var_os("TERRAPOOL_AGENT_IMAGE_FILE").map(PathBuf::from);
    let beside = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join(FILE)));
    let packaged = Some(PathBuf::from("/usr/share/terrapool-agent").join(FILE));
    [named, beside, packaged]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

/// The tag in the archive's manifest (the format of `docker save`).
fn tag_of(path: &Path) -> std::io::Result<String> {
    let mut archive = tar::Archive::new(std::fs::File::open(path)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.as_ref() != Path::new("manifest.json") {
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text)?;
        let manifest: serde_json::Value = serde_json::from_str(&text)?;
        let tag = manifest[0]["RepoTags"][0].as_str();
        return tag
            .map(str::to_owned)
            .ok_or_else(|| std::io::Error::other("its manifest names no tag"));
    }
    Err(std::io::Error::other(
        "it has no manifest.json, so it is no image archive",
    ))
}
