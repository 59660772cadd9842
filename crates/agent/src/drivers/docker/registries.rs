//! Credentials of image registries, as `docker login` writes them. They stay in the agent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

/// Where credentials of registries are read from, at each pull.
#[derive(Debug, Clone, Default)]
pub(super) struct Registries {
    file: Option<PathBuf>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the registry credentials in {path} cannot be used: {reason}")]
pub(super) struct RegistriesError {
    path: PathBuf,
    reason: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The registry of an image, as credentials name it.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "https://index.docker.io/v1/",
    }
}

impl Registries {
    pub(super) fn new(file: Option<&Path>) -> Self {
        Self {
            file: file.map(Path::to_owned),
        }
    }

    /// The credentials for an image's registry; none when there are none.
    ///
    /// # Errors
    /// [`RegistriesError`] when the file says nothing that can be understood.
    pub(super) fn for_image(&self, image: &str) -> Result<Option<DockerCredentials>, RegistriesError> {
        let Some(path) = &self.file else { return Ok(None) };
        let failed = |reason: String| RegistriesError {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        let file: File = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        let registry = registry_of(image);
        let found = file.auths.iter().find(|(name, _)| {
            let plain = name.trim_start_matches("https://").trim_start_matches("http://");
            name.as_str() == registry || plain.split('/').next() == Some(registry)
        });
        let Some((_, auth)) = found else { return Ok(None) };
        let decoded = match &auth.auth {
            Some(text) => STANDARD
                .decode(text)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| failed(format!("`auth` of {registry} is no base64")))?,
            None => String::new(),
        };
        let (username, password) = decoded.split_once(':').unwrap_or_default();
        Ok(Some(DockerCredentials {
            username: Some(username.to_owned()),
            password: Some(password.to_owned()),
            serveraddress: Some(registry.to_owned()),
            identitytoken: auth.identitytoken.clone(),
            ..Default::default()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_those_of_the_images_registry() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let auth = STANDARD.encode("ada:s3cret:x");
        let text = serde_json::json!({"auths": {"registry.example.com:5000": {"auth": auth}}});
        std::fs::write(&path, text.to_string()).unwrap();
        let registries = Registries::new(Some(&path));
        let found = registries
            .for_image("registry.example.com:5000/team/image@sha256:1")
            .unwrap();
        let found = found.expect("there are credentials");
        assert_eq!(found.username.as_deref(), Some("ada"));
        assert_eq!(found.password.as_deref(), Some("s3cret:x"));
        for other in [
            "other.example.com/image",
            "debian",
            "team/image",
            "registry.example.com/image",
        ] {
            assert!(registries.for_image(other).unwrap().is_none(), "{other}");
        }
        assert!(Registries::default().for_image("debian").unwrap().is_none());
        std::fs::write(&path, "{").unwrap();
        let error = registries.for_image("debian").unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
    }
}
