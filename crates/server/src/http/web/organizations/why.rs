//! Why something may, or may not, run in a pool: rule by rule, who set it, and the smallest change that turns it.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use serde_json::json;
use terrapool_model::access::{AccessChange, AccessSubject};
use terrapool_model::id::UserId;
use terrapool_model::time::Timestamp;
use terrapool_store::audit::{self, AuditRecord};
use terrapool_store::db::Connection;
use terrapool_store::pools::PoolRecord;
use terrapool_store::projects::ProjectRecord;
use terrapool_store::workspaces::WorkspaceRecord;
use terrapool_store::{overview, pools};

use super::access::{in_use, named};
use crate::access_log::{Said, set_by};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{SignedForm, request_with_lists};
use crate::http::web::page::{Page, see_with};
use crate::http::web::paging::with_query;
use crate::http::web::parts::Tone;
use crate::http::web::parts::time::Day;
use crate::http::web::visitor::Place;

/// Entries about a pool that are looked through.
const LOOKED_AT: u32 = 500;

/// Which rule decides a cell.
pub(super) struct Why {
    pub(super) subject: String,
    pub(super) pool: String,
    pub(super) pool_id: String,
    pub(super) verdict: &'static str,
    pub(super) lines: Vec<Line>,
    /// Changes that turn it: value, and words on the button.
    pub(super) changes: Vec<(&'static str, String)>,
    /// Pools that it may use.
    pub(super) may_use: String,
    /// Where a workspace is given another pool.
    pub(super) settings: Option<String>,
    /// The pool's own page about access.
    pub(super) address: String,
}

/// What one part of the rule says.
pub(super) struct Line {
    pub(super) tone: Tone,
    pub(super) icon: &'static str,
    pub(super) text: String,
    /// Who said so, and when.
    pub(super) set: Option<(Day, String)>,
}

fn line(holds: bool, yes: String, no: String) -> Line {
    let (tone, icon, text) = if holds {
        (Tone::Good, "ok", yes)
    } else {
        (Tone::Mute, "discard", no)
    };
    Line {
        tone,
        icon,
        text,
        set: None,
    }
}

fn words(change: AccessChange, subject: &str, project: &str) -> String {
    match change {
        AccessChange::AllowProject => format!("Allow all of {project}"),
        AccessChange::ForbidProject => format!("Allow {project} no more"),
        AccessChange::AllowWorkspace => format!("Allow {subject}"),
        AccessChange::ForbidWorkspace => format!("Allow {subject} no more"),
        AccessChange::ExcludeWorkspace => format!("Exclude {subject}"),
    }
}

/// Who made these entries, by name.
async fn names(
    connection: &mut Connection,
    entries: &[AuditRecord],
) -> Result<BTreeMap<UserId, String>, WebError> {
    let users = entries.iter().filter_map(|entry| entry.actor.parse().ok());
    Ok(overview::user_names(connection, users).await?)
}

/// The answer for a cell, whose names may be wrong.
pub(super) async fn of(
    connection: &mut Connection,
    place: &Place,
    (subject, pool): (&str, &str),
    (pools, projects, workspaces): (&[PoolRecord], &[ProjectRecord], &[WorkspaceRecord]),
    now: Timestamp,
) -> Result<Option<Why>, WebError> {
    let Some(pool) = pools.iter().find(|found| found.name == pool) else {
        return Ok(None);
    };
    let Some((project, workspace)) = named(subject, projects, workspaces) else {
        return Ok(None);
    };
    let to = AccessSubject {
        project: project.id.clone(),
        workspace: workspace.map(|record| record.id.clone()),
    };
    let access = &pool.access;
    let entries = audit::of_subject(connection, &place.organization.id, pool.id.as_str(), LOOKED_AT).await?;
    let names = names(connection, &entries).await?;
    let with = |line: Line, said: Said<'_>| Line {
        set: set_by(&entries, said).map(|entry| {
            let name = entry.actor.parse().ok().and_then(|id| names.get(&id));
            let name = name.cloned().unwrap_or_else(|| entry.actor.clone());
            (Day::new(entry.at, now), name)
        }),
        ..line
    };
    let mut lines = vec![
        with(
            line(
                access.organization_scoped,
                "Every workspace of the organization may use the pool".to_owned(),
                "The pool is not for every workspace of the organization".to_owned(),
            ),
            Said::Scoped,
        ),
        with(
            line(
                access.allowed_projects.contains(&project.id),
                format!("Project {} is allowed", project.name),
                format!("Project {} is not among the allowed ones", project.name),
            ),
            Said::Project(&project.id),
        ),
    ];
    let allowed = match workspace {
        Some(record) => {
            lines.push(with(
                line(
                    access.allowed_workspaces.contains(&record.id),
                    "The workspace itself is allowed".to_owned(),
                    "The workspace itself is not among the allowed ones".to_owned(),
                ),
                Said::Workspace(&record.id),
            ));
            let excluded = access.excluded_workspaces.contains(&record.id);
            let mut line = line(
                !excluded,
                "The workspace is not excluded".to_owned(),
                "The workspace is excluded, whatever else is said".to_owned(),
            );
            if excluded {
                (line.tone, line.icon) = (Tone::Bad, "stop");
            } else {
                line.tone = Tone::Mute;
            }
            lines.push(with(line, Said::Excluded(&record.id)));
            let allowed = access.allows(&record.id, &record.project_id);
            if !allowed && in_use(record, &pool.id) {
                lines.push(Line {
                    tone: Tone::Warn,
                    icon: "warn",
                    text: "Not allowed, yet still set in the workspace: its runs wait".to_owned(),
                    set: None,
                });
            }
            allowed
        }
        None => access.allows_project(&project.id),
    };
    let mut may_use: Vec<&str> = pools
        .iter()
        .filter(|pool| match workspace {
            Some(record) => pool.access.allows(&record.id, &record.project_id),
            None => pool.access.allows_project(&project.id),
        })
        .map(|pool| pool.name.as_str())
        .collect();
    may_use.push("the shared pool");
    let changes = if place.may(OrganizationPermission::ManageAgentPools) {
        access
            .turns(&to)
            .into_iter()
            .map(|change| (change.as_str(), words(change, subject, &project.name)))
            .collect()
    } else {
        Vec::new()
    };
    Ok(Some(Why {
        subject: subject.to_owned(),
        pool: pool.name.clone(),
        pool_id: pool.id.to_string(),
        verdict: if allowed {
            "may run there."
        } else {
            "may not run there."
        },
        lines,
        changes,
        may_use: may_use.join(", "),
        settings: workspace.map(|record| place.address(&format!("/workspaces/{}/settings", record.name))),
        address: place.address(&format!("/agent-pools/{}/access", pool.id)),
    }))
}

/// `POST /app/:org/access`: one change of a pool's access rule.
pub(super) async fn change(State(app): State<App>, Path(name): Path<String>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(
            &app,
            &mut connection,
            &name,
            OrganizationPermission::ManageAgentPools,
        )
        .await?;
    let id = fields.text("pool").parse().map_err(|_| WebError::not_found())?;
    let pool = pools::get(&mut connection, &id)
        .await?
        .filter(|pool| pool.organization_id.as_ref() == Some(&place.organization.id))
        .ok_or_else(WebError::not_found)?;
    let subject = fields.text("subject");
    let change = AccessChange::ALL
        .into_iter()
        .find(|change| change.as_str() == fields.text("change"))
        .ok_or_else(WebError::not_found)?;
    let projects = overview::project_names(&mut connection, &place.organization.id).await?;
    let workspaces = overview::workspace_names(&mut connection, &place.organization.id).await?;
    drop(connection);
    let workspace = workspaces.iter().find(|(_, name, _)| name == subject);
    let project = projects.iter().find(|(_, name)| *name == subject);
    let to = match (workspace, project) {
        (Some((id, _, project)), _) => AccessSubject {
            project: project.clone(),
            workspace: Some(id.clone()),
        },
        (None, Some((project, _))) => AccessSubject {
            project: project.clone(),
            workspace: None,
        },
        (None, None) => return Err(WebError::not_found()),
    };
    let mut access = pool.access.clone();
    access.make(change, &to);
    let texts = |ids: &mut dyn Iterator<Item = String>| ids.collect::<Vec<_>>();
    let body = request_with_lists(
        json!({}),
        &[
            (
                "allowed-projects",
                texts(&mut access.allowed_projects.iter().map(ToString::to_string)),
            ),
            (
                "allowed-workspaces",
                texts(&mut access.allowed_workspaces.iter().map(ToString::to_string)),
            ),
            (
                "excluded-workspaces",
                texts(&mut access.excluded_workspaces.iter().map(ToString::to_string)),
            ),
        ],
    );
    let id = Path(pool.id.to_string());
    tfe::agent_pools::update(State(app), visitor.caller.clone(), id, body).await?;
    let address = with_query(
        &place.address("/access"),
        &[("workspace", subject), ("pool", &pool.name)],
    );
    see_with(
        &visitor,
        &(address + "#why"),
        "Access is changed. It holds for runs that are claimed from now on.",
    )
}
