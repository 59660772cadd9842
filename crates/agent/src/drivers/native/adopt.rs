//! Finding sandboxes again: those of jobs that go on, what is left of those that are gone, and what nobody needs.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use terrapool_protocol::job::{Limits, SandboxNetwork};

use super::{HOST, NativeDriver, failed, now, read_note, silent};
use crate::drivers::sandbox::greet;
use crate::drivers::{DriverError, Found, Place, SandboxKey};

/// How long volumes that no journal knows are kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// A runner that does not answer, and volumes that cannot be opened, are tried this often.
const TRIES: u32 = 20;
/// Wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

impl NativeDriver {
    /// Connects anew to a sandbox that an earlier connection, or process, used. When it has ended, another one serves what
    /// is on its volumes. `None`: nothing is left of it.
    pub async fn find(&self, place: &Place, log_from: u64) -> Option<Found> {
        for _ in 0..TRIES {
            let note = read_note(&self.folder.join(&place.volumes))?;
            let runs = note.process.is_some_and(|process| process.is_alive());
            let found = if runs {
                self.reconnect(place, log_from, false).await
            } else {
                self.open_remains(place, log_from).await
            };
            match found {
                Ok(found) => return Some(found),
                Err(error) => tracing::warn!(
                    sandbox = place.volumes,
                    error = &error as &dyn std::error::Error,
                    "a sandbox does not answer"
                ),
            }
            tokio::time::sleep(AGAIN).await;
        }
        // It lives and says nothing: what it left is all that can be had.
        self.end(&place.volumes).await;
        self.open_remains(place, log_from).await.ok()
    }

    async fn reconnect(&self, place: &Place, log_from: u64, remains: bool) -> Result<Found, DriverError> {
        let mut link = self.connect(&place.volumes).await?;
        let greeting = greet(&mut link, &place.runner_key, log_from)
            .await
            .ok_or_else(silent)?;
        Ok(Found {
            place: place.clone(),
            link,
            stage: greeting.stage,
            engine: greeting.engine,
            remains,
        })
    }

    async fn open_remains(&self, place: &Place, log_from: u64) -> Result<Found, DriverError> {
        let name = &place.volumes;
        self.end(name).await;
        let key = SandboxKey {
            image: HOST.to_owned(),
            user: place.user,
            network: SandboxNetwork::None,
            limits: Limits::default(),
        };
        self.start(name, &key, "remains").await?;
        let found = self.reconnect(place, log_from, true).await?;
        tracing::info!(sandbox = name, stage = ?found.stage, "a sandbox is gone; what it left is read");
        Ok(found)
    }

    /// Ends what no job needs, and keeps the volumes of jobs that no journal knows for seven days.
    ///
    /// # Errors
    /// [`DriverError`] when the sandboxes cannot be listed.
    pub async fn take_stock(&self, keep: &[Place], over: &BTreeSet<String>) -> Result<(), DriverError> {
        let entries = fs::read_dir(&self.folder).map_err(failed(&self.folder))?;
        let names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        for name in names {
            if keep.iter().any(|place| place.volumes == name) {
                continue;
            }
            let worked = ["started", "end.json"]
                .iter()
                .any(|file| self.job_file_exists(&name, file));
            let created = read_note(&self.folder.join(&name)).map(|note| note.created);
            let is_old = created.is_some_and(|created| now().saturating_sub(created) > KEPT.as_secs());
            if !worked || over.contains(&name) || is_old {
                tracing::info!(sandbox = name, "removed a sandbox that no job needs");
                self.remove_sandbox(&name).await;
            } else {
                self.end(&name).await;
                tracing::warn!(
                    sandbox = name,
                    "stopped a sandbox of a job that is not in the journal; its volumes are kept for seven days"
                );
            }
        }
        Ok(())
    }
}
