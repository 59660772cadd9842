//! Pulling images, and telling how far it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt as _;

use super::{DockerDriver, DriverError, is_status};
use crate::drivers::PullProgress;

/// Longest time that an image may take to be pulled.
const PULL: Duration = Duration::from_secs(15 * 60);

/// How often the progress of a pull is told.
const TELL: Duration = Duration::from_secs(5);

impl DockerDriver {
    /// Makes sure that the engine has an image, and tells people about it when it had to be pulled.
    ///
    /// # Errors
    /// [`DriverError::Image`] when it cannot be had: another try of the run would not get it either.
    pub(super) async fn ensure_image(&self, image: &str) -> Result<Option<String>, DriverError> {
        // One at a time: jobs that want the same image pull it once.
        let _pulling = self.pulling.lock().await;
        match self.docker.inspect_image(image).await {
            Ok(_) | Err(bollard::errors::Error::JsonDataError { .. }) => return Ok(None),
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(DriverError::call(format!("looking for image {image}"))(error)),
        }
        let unavailable = |reason: String| DriverError::Image {
            image: image.to_owned(),
            reason,
        };
        if !image.contains('@') {
            return Err(unavailable(
                "the container engine of this agent does not have it".to_owned(),
            ));
        }
        let begin = Instant::now();
        let layers = tokio::time::timeout(PULL, self.pull(image)).await;
        self.pulls.send_replace(None);
        let layers = layers
            .unwrap_or_else(|_| Err("it took longer than 15 minutes".to_owned()))
            .map_err(unavailable)?;
        Ok(Some(format!(
            "Pulled the sandbox image {image} in {:.1} s: {layers} layers.",
            begin.elapsed().as_secs_f64()
        )))
    }

    /// Pulls an image, and answers how many layers were downloaded.
    async fn pull(&self, image: &str) -> Result<usize, String> {
        let tell = |line: String| {
            tracing::info!("{line}");
            self.pulls.send_replace(Some(PullProgress {
                image: image.to_owned(),
                line,
            }));
        };
        tell(format!("Pulling the sandbox image {image}."));
        let options = CreateImageOptions {
            from_image: Some(image.to_owned()),
            ..Default::default()
        };
        let credentials = self
            .registries
            .for_image(image)
            .map_err(|error| error.to_string())?;
        let mut steps = std::pin::pin!(self.docker.create_image(Some(options), None, credentials));
        let mut layers = Layers::default();
        let mut told = Instant::now();
        while let Some(step) = steps.next().await {
            let step = step.map_err(|error| error.to_string())?;
            if let Some(error) = step.error_detail {
                return Err(error.message.unwrap_or_else(|| "the registry refused".to_owned()));
            }
            layers.see(step);
            if told.elapsed() >= TELL {
                told = Instant::now();
                tell(layers.line());
            }
        }
        Ok(layers.done())
    }
}

/// The layers of an image that is being pulled.
#[derive(Debug, Default)]
struct Layers(BTreeMap<String, Layer>);

#[derive(Debug, Default, Clone, Copy)]
struct Layer {
    /// Bytes that were downloaded, and all of them.
    downloaded: u64,
    size: u64,
    done: bool,
}

impl Layers {
    /// Takes a step, as the engine reports it.
    fn see(&mut self, step: CreateImageInfo) {
        let (Some(layer), Some(status)) = (step.id, step.status) else {
            return;
        };
        // The image itself is no layer: its step names the tag or the digest.
        if status.starts_with("Pulling from") {
            return;
        }
        let layer = self.0.entry(layer).or_default();
        let detail = step.progress_detail.unwrap_or_default();
        let bytes = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        match status.as_str() {
            "Downloading" => {
                layer.downloaded = bytes(detail.current).unwrap_or(layer.downloaded);
                layer.size = bytes(detail.total).unwrap_or(layer.size);
            }
            "Download complete" => layer.downloaded = layer.size,
            "Pull complete" | "Already exists" => {
                layer.downloaded = layer.size;
                layer.done = true;
            }
            _ => {}
        }
    }

    fn done(&self) -> usize {
        self.0.values().filter(|layer| layer.done).count()
    }

    /// For people who wait.
    fn line(&self) -> String {
        let sum = |of: fn(&Layer) -> u64| self.0.values().map(of).sum::<u64>() / 1_000_000;
        format!(
            "Pulling: {} of {} layers, {} of {} MB.",
            self.done(),
            self.0.len(),
            sum(|layer| layer.downloaded),
            sum(|layer| layer.size)
        )
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn progress_is_that_of_all_layers() {
        let step = |id: &str, status: &str, bytes: Option<(i64, i64)>| CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: bytes.map(|(current, total)| ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..Default::default()
        };
        let mut layers = Layers::default();
        for step in [
            step("sha256:1", "Pulling from team/sandbox", None),
            step("a", "Pulling fs layer", None),
            step("b", "Pulling fs layer", None),
            step("c", "Already exists", None),
            step("a", "Downloading", Some((3_000_000, 40_000_000))),
            step("b", "Downloading", Some((1_000_000, 2_000_000))),
            step("b", "Download complete", None),
            step("b", "Extracting", Some((7, 2_000_000))),
        ] {
            layers.see(step);
        }
        assert_eq!(layers.line(), "Pulling: 1 of 3 layers, 5 of 42 MB.");
        layers.see(step("b", "Pull complete", None));
        assert_eq!(layers.done(), 2);
    }
}
