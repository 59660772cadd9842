//! All runs of an organization.

use axum::extract::{Path, State};
use terrapool_model::run::RunStatus;
use terrapool_store::overview::{self, RunFilter};

use super::{AppState, runs};
use crate::auth::{self, Caller, OrganizationPermission};
use crate::http::answer::{Answer, Params, Result};
use crate::http::error::ApiError;

/// Values that a filter may have.
const MOST_NAMES: usize = 50;

/// The parts of a filter, which are separated by commas.
fn list(params: &Params, name: &str) -> Result<Vec<String>> {
    let parts = params.get(name).unwrap_or_default().split(',').map(str::trim);
    let parts: Vec<String> = parts.filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if parts.len() > MOST_NAMES {
        return Err(ApiError::attribute(
            name,
            format!("`{name}` is limited to {MOST_NAMES} values"),
        ));
    }
    Ok(parts)
}

/// The statuses that `filter[status]` and `filter[status_group]` let through; `None` for all.
fn statuses(named: &[String], group: Option<&str>) -> Option<Vec<&'static str>> {
    let in_group = |status: RunStatus| match group {
        Some("final") => status.is_terminal(),
        Some("non_final") => !status.is_terminal(),
        Some("discardable") => matches!(
            status,
            RunStatus::Planned | RunStatus::PlannedAndSaved | RunStatus::PolicySoftFailed
        ),
        _ => true,
    };
    if named.is_empty() && group.is_none() {
        return None;
    }
    let chosen = |status: &RunStatus| named.is_empty() || named.iter().any(|name| name == status.as_str());
    let all = RunStatus::ALL.iter().copied();
    Some(
        all.filter(chosen)
            .filter(|status| in_group(*status))
            .map(RunStatus::as_str)
            .collect(),
    )
}

/// `GET organizations/:org/runs`, newest first: of the workspaces that the caller sees
pub(super) async fn all(
    State(app): AppState,
    caller: Caller,
    Path(name): Path<String>,
    params: Params,
) -> Result {
    let mut connection = app.db.read().await?;
    let (organization, standing) =
        auth::organization_and_standing(&mut connection, &caller, &name, OrganizationPermission::Read)
            .await?;
    let wanted = statuses(
        &list(&params, "filter[status]")?,
        params.get("filter[status_group]"),
    );
    if wanted.as_ref().is_some_and(Vec::is_empty) {
        return Ok(Answer::ok(params.paged(Vec::new(), 0)));
    }
    let filter = RunFilter {
        statuses: wanted.unwrap_or_default(),
        pool_names: list(&params, "filter[agent_pool_names]")?,
        workspace_names: list(&params, "filter[workspace_names]")?,
        text: params.get("search[basic]").map(str::to_owned),
        who: params.get("search[user]").map(str::to_owned),
        sight: auth::sight(&caller, &standing),
        ..RunFilter::default()
    };
    let page = runs::page(&params);
    let listed = overview::list_runs(&mut connection, &organization.id, &filter, &page).await?;
    let found = listed.items.iter().map(|listed| &listed.run);
    let resources = runs::of_several_workspaces(&app, &mut connection, &caller, found).await?;
    Ok(Answer::ok(params.paged(resources, listed.total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_chosen_by_name_and_by_group() {
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(statuses(&[], None), None);
        assert_eq!(
            statuses(&named(&["planned", "no_status"]), None),
            Some(vec!["planned"])
        );
        assert_eq!(
            statuses(&named(&["planned", "applied"]), Some("final")),
            Some(vec!["applied"])
        );
        assert_eq!(statuses(&named(&["applied"]), Some("non_final")), Some(vec![]));
        assert_eq!(
            statuses(&[], Some("discardable")),
            Some(vec!["planned", "planned_and_saved", "policy_soft_failed"])
        );
    }
}
