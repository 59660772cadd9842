//! Makes a job's description out of what is stored.

use terrapool_model::job::Phase;
use terrapool_protocol::job::{
    BundlePart, EngineDownload, EngineRequest, JobSpec, JobTimes, PartName, PlanMode, RunVariable, Variable,
};
use terrapool_protocol::secret::Secret;
use terrapool_store::job_specs::{StoredPart, StoredSpec, StoredVariable};

use super::error::AgentApiError;
use crate::app::App;

/// The parts of the bundle, in order.
pub(super) fn parts(stored: &StoredSpec) -> Result<Vec<(PartName, &StoredPart)>, AgentApiError> {
    let configuration = stored.configuration.as_ref().ok_or(AgentApiError::Internal(
        "the run's configuration was not uploaded",
    ))?;
    let mut parts = vec![(PartName::Configuration, configuration)];
    parts.extend(stored.state.as_ref().map(|part| (PartName::State, part)));
    match stored.job.row.phase {
        Phase::Plan => {}
        Phase::Apply => {
            let archive = stored.plan_archive.as_ref().ok_or(AgentApiError::Internal(
                "the run's plan archive does not exist any more",
            ))?;
            parts.push((PartName::PlanArchive, archive));
        }
    }
    Ok(parts)
}

fn variable(app: &App, stored: &StoredVariable) -> Result<Variable, AgentApiError> {
    let value = if stored.sensitive {
        app.objects
            .keyring()
            .open_sealed(stored.id.as_str(), &stored.value)?
    } else {
        stored.value.clone()
    };
    let value =
        String::from_utf8(value).map_err(|_| AgentApiError::Internal("a variable's value is no text"))?;
    Ok(Variable {
        key: stored.key.clone(),
        value: Secret::new(value),
        category: stored.category,
        hcl: stored.hcl,
        sensitive: stored.sensitive,
    })
}

fn run_variables(app: &App, stored: &StoredSpec) -> Result<Vec<RunVariable>, AgentApiError> {
    let Some(sealed) = &stored.run.variables else {
        return Ok(Vec::new());
    };
    let plain = app
        .objects
        .keyring()
        .open_sealed(stored.run.id.as_str(), sealed)?;
    serde_json::from_slice(&plain).map_err(|_| AgentApiError::Internal("the run's variables cannot be read"))
}

/// Host and port of an address as configurations write them.
fn hostname(public_url: &str) -> String {
    let host = public_url.trim_start_matches("https://");
    let host = host.split('/').next().unwrap_or_default();
    host.strip_suffix(":443").unwrap_or(host).to_owned()
}

/// The description of a job.
pub(super) fn spec(app: &App, stored: &StoredSpec) -> Result<JobSpec, AgentApiError> {
    let run = &stored.run;
    let phase = stored.job.row.phase;
    let times = &stored.settings.times;
    let mode = match (run.is_destroy, run.refresh_only) {
        (true, _) => PlanMode::Destroy,
        (false, true) => PlanMode::RefreshOnly,
        (false, false) => PlanMode::Normal,
    };
    let bundle = parts(stored)?
        .into_iter()
        .map(|(name, part)| BundlePart {
            name,
            size: part.size,
            sha256: part.sha256.clone(),
        })
        .collect();
    Ok(JobSpec {
        run: run.id.clone(),
        workspace: run.workspace_id.clone(),
        workspace_name: stored.workspace_name.clone(),
        organization: stored.organization.clone(),
        project: stored.project.clone(),
        configuration_version: run.configuration_version_id.clone(),
        phase,
        engine: EngineRequest {
            kind: run.engine,
            version: run.engine_version.clone(),
            download: stored.engine.as_ref().map(|entry| EngineDownload {
                version: entry.settings.version.clone(),
                url: entry.settings.url.clone(),
                sha256: entry.settings.sha256.clone(),
            }),
        },
        engine_sha256: match phase {
            Phase::Plan => None,
            Phase::Apply => run.engine_sha256.clone(),
        },
        working_directory: stored.working_directory.clone(),
        output: run.output_format,
        mode,
        refresh: run.refresh,
        targets: run.target_addrs.clone(),
        replace: run.replace_addrs.clone(),
        generate_config: run.allow_config_generation,
        variables: stored
            .variables
            .iter()
            .map(|stored| variable(app, stored))
            .collect::<Result<_, _>>()?,
        run_variables: run_variables(app, stored)?,
        parts: bundle,
        limits: stored.job.limits,
        times: JobTimes {
            contact_limit: times.contact_limit(phase),
            grace: times.grace(phase),
            kill_after: times.kill_after,
            start_window: times.start_window,
        },
        hostname: hostname(&app.config.public_url),
        proxy: stored.settings.sandbox_proxy,
    })
}
