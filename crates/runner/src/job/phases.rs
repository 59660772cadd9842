//! The engine phase: plan with what it leaves behind, and apply.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use sha2::{Digest, Sha256};
use terrapool_protocol::job::{Artifact, ArtifactName, FailureReason, Outcome, OutputFormat, PlanMode};

use super::{Job, artifact_path, lock_file};
use crate::archive::Inventory;
use crate::bundle::StateFile;
use crate::digest;
use crate::error::{Failure, Halt};
use crate::outcome;
use crate::plan_archive;
use crate::process::Output;
use crate::state::StateWatcher;

impl Job<'_> {
    pub(super) fn plan(&mut self, root: &Path, inventory: &Inventory) -> Result<Outcome, Halt> {
        let spec = &self.work.spec;
        let mut arguments = vec![
            "plan".to_owned(),
            "-input=false".into(),
            "-detailed-exitcode".into(),
        ];
        arguments.push(format!("-out={}", self.shared.paths.plan_file().display()));
        arguments.push(self.format_option().into());
        match spec.mode {
            PlanMode::Normal => {}
            PlanMode::Destroy => arguments.push("-destroy".into()),
            PlanMode::RefreshOnly => arguments.push("-refresh-only".into()),
        }
        if !spec.refresh {
            arguments.push("-refresh=false".into());
        }
        arguments.extend(spec.targets.iter().map(|target| format!("-target={target}")));
        arguments.extend(spec.replace.iter().map(|address| format!("-replace={address}")));
        if spec.generate_config {
            let path = self.shared.paths.plan().join("generated.tf");
            arguments.push(format!("-generate-config-out={}", path.display()));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let command = self.command(root, &arguments);
        let before = self.refusals();
        let exit = self.engine_phase(root, command, &mut None)?;
        let stop = self.shared.status().stop.clone();
        if let Some(outcome) = self.ending(exit, &[0, 2], before, stop) {
            return Ok(outcome);
        }
        self.after_plan(root, inventory)?;
        Ok(Outcome::Succeeded {
            changes: exit.code == Some(2),
        })
    }

    fn format_option(&self) -> &'static str {
        match self.work.spec.output {
            OutputFormat::Json => "-json",
            OutputFormat::Plain => "-no-color",
        }
    }

    /// The artifacts of a plan. The archive is packed while the engine shows the plan; the engine's own steps come one
    /// after the other, because each of them may start every provider and memory is short.
    fn after_plan(&mut self, root: &Path, inventory: &Inventory) -> Result<(), Halt> {
        let manifest = self.manifest(root)?;
        let lock = lock_file(root)?.unwrap_or_default();
        let mut hasher = Sha256::new();
        hasher.update(&lock);
        hasher.update(self.work.engine_sha256.as_bytes());
        let schemas_key = digest::hex(hasher);
        let shared = Arc::clone(self.shared);
        let plan = shared.paths.plan_file();
        let plan = plan.to_string_lossy();
        let (archive, json) = thread::scope(|scope| {
            let archive = scope.spawn(|| plan_archive::pack(&shared.paths, root, inventory, &manifest));
            let json = self.artifact(
                root,
                ArtifactName::PlanJson,
                &["show", "-json", "-no-color", &plan],
            );
            (archive.join(), json)
        });
        let archive = archive
            .map_err(|_| Failure::new(FailureReason::Internal, "The plan archive could not be packed."))??;
        self.left.artifacts.push(archive);
        self.left.artifacts.push(json?);
        if !self.work.known_schemas.contains(&schemas_key) {
            let schemas = self.artifact(
                root,
                ArtifactName::ProviderSchemas,
                &["providers", "schema", "-json"],
            )?;
            self.left.artifacts.push(schemas);
        }
        self.left.schemas_key = Some(schemas_key);
        Ok(())
    }

    /// Runs the engine with its standard output into an artifact.
    fn artifact(&mut self, root: &Path, name: ArtifactName, arguments: &[&str]) -> Result<Artifact, Halt> {
        let path = artifact_path(&self.shared.paths, name);
        let failed = |error: io::Error| Failure::io("write", &path, &error);
        let file = File::create(&path).map_err(failed)?;
        let mut errors = Vec::new();
        let command = self.command(root, arguments);
        let exit = self.run(command, Output::File(file, &mut errors), |_| {})?;
        if exit.code != Some(0) {
            if self.shared.status().stop.is_some() {
                return Err(Halt::Stopped);
            }
            self.spool.append(&errors);
            let message = format!(
                "`{} {}` failed: {}",
                self.work.engine.kind,
                arguments[0],
                outcome::describe(exit)
            );
            return Err(Failure::new(FailureReason::Exit, message).into());
        }
        let (size, sha256) = digest::of_file(&path).map_err(failed)?;
        Ok(Artifact { name, size, sha256 })
    }

    pub(super) fn apply(&mut self, root: &Path, state: &StateFile) -> Result<Outcome, Halt> {
        let watcher = StateWatcher::start(self.shared, state, root)?;
        let mut status = self.shared.status();
        while !status.go {
            if status.stop.is_some() || status.released {
                return Err(Halt::Stopped);
            }
            status = self.shared.wait_control(status);
        }
        drop(status);
        let plan = self.shared.paths.plan_file();
        let plan = plan.to_string_lossy();
        let command = self.command(root, &["apply", "-input=false", self.format_option(), &plan]);
        let before = self.refusals();
        let mut dump = None;
        let result = self.engine_phase(root, command, &mut dump);
        let stop = self.shared.status().stop.clone();
        if self.shared.status().started {
            self.left.state = watcher.finish(dump);
        }
        let exit = result?;
        Ok(self
            .ending(exit, &[0], before, stop)
            .unwrap_or(Outcome::Succeeded { changes: true }))
    }
}
