//! Which projects and workspaces may run in which pool, and why.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::access::PoolAccess;
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{AgentPoolId, ProjectId, WorkspaceId};
use terrapool_store::page::Page as StorePage;
use terrapool_store::pools::{self, PoolFilter, PoolRecord};
use terrapool_store::projects::{self, ProjectFilter, ProjectRecord};
use terrapool_store::workspaces::{self, WorkspaceFilter, WorkspaceOrder, WorkspaceRecord};

use super::why::{self, Why};
use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::answer::Params;
use crate::http::web::page::{Page, Section, Shell, html};
use crate::http::web::paging::with_query;
use crate::http::web::parts::{Icon, Tone, words};
use crate::http::web::visitor::Visitor;

/// Workspaces that are listed; a filter narrows.
const MOST: u32 = 300;
/// Workspaces that are looked at for conflicts.
const LOOKED_AT: u32 = 2000;

#[derive(Template)]
#[template(path = "organization/access.html")]
struct AccessPage {
    shell: Shell,
    base: String,
    query: String,
    conflicts: Vec<(String, String)>,
    pools: Vec<(String, String, String)>,
    rows: Vec<Row>,
    why: Option<Why>,
    footer: String,
}

struct Row {
    name: String,
    group: bool,
    count: Option<u64>,
    cells: Vec<Cell>,
}

struct Cell {
    pool: String,
    tone: Tone,
    icon: &'static str,
    word: &'static str,
    address: String,
    current: bool,
}

/// What the rule says of a whole project.
fn of_project(
    access: &PoolAccess,
    project: &ProjectId,
    is_default: bool,
) -> (Tone, &'static str, &'static str) {
    if access.allowed_projects.contains(project) || access.organization_scoped {
        if is_default {
            (Tone::Live, "pool", "Default")
        } else if access.organization_scoped {
            (Tone::Good, "ok", "All")
        } else {
            (Tone::Good, "ok", "Allowed")
        }
    } else if is_default {
        (Tone::Warn, "warn", "Conflict")
    } else {
        (Tone::Mute, "discard", "No")
    }
}

/// What the rule says of a workspace.
fn of_workspace(
    access: &PoolAccess,
    workspace: &WorkspaceId,
    project: &ProjectId,
    uses: bool,
) -> (Tone, &'static str, &'static str) {
    match (access.allows(workspace, project), uses) {
        (true, true) => (Tone::Live, "pool", "Uses"),
        (false, true) => (Tone::Warn, "warn", "Conflict"),
        (true, false) => (Tone::Good, "ok", "Allowed"),
        (false, false) if access.excluded_workspaces.contains(workspace) => (Tone::Bad, "stop", "Excluded"),
        (false, false) => (Tone::Mute, "discard", "No"),
    }
}

/// Whether the runs of a workspace go to a pool.
pub(super) fn in_use(record: &WorkspaceRecord, pool: &AgentPoolId) -> bool {
    record.effective.execution_mode == ExecutionMode::Agent
        && record.effective.agent_pool_id.as_ref() == Some(pool)
}

fn scope(pool: &PoolRecord) -> String {
    if pool.access.organization_scoped {
        "everyone".to_owned()
    } else {
        format!(
            "{}, {}",
            words::count(pool.access.allowed_projects.len() as u64, "project", "projects"),
            words::count(
                pool.access.allowed_workspaces.len() as u64,
                "workspace",
                "workspaces"
            )
        )
    }
}

/// `GET /app/:org/access?workspace=&pool=`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(name): Path<String>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = visitor
        .organization(&app, &mut connection, &name, OrganizationPermission::ReadQueues)
        .await?;
    let id = &place.organization.id;
    let pools = pools::list(&mut connection, id, &PoolFilter::default(), &StorePage::first(50))
        .await?
        .items;
    let (projects, _) = projects::list(&mut connection, id, &ProjectFilter::default(), 200, 0).await?;
    let query = params.get("q").or(params.get("workspace")).unwrap_or_default();
    let filter = WorkspaceFilter {
        name: Some(query.to_owned()).filter(|query| !query.is_empty()),
        ..WorkspaceFilter::default()
    };
    let (workspaces, total) =
        workspaces::list(&mut connection, id, &filter, WorkspaceOrder::Name, MOST, 0).await?;
    let chosen = (
        params.get("workspace").unwrap_or_default(),
        params.get("pool").unwrap_or_default(),
    );
    let base = place.address("");
    let path = format!("{base}/access");
    let cell = |subject: &str, pool: &PoolRecord, look: (Tone, &'static str, &'static str)| Cell {
        pool: pool.name.clone(),
        tone: look.0,
        icon: look.1,
        word: look.2,
        address: with_query(&path, &[("workspace", subject), ("pool", &pool.name)]) + "#why",
        current: chosen == (subject, pool.name.as_str()),
    };
    let mut rows = Vec::new();
    for project in &projects {
        let own: Vec<&WorkspaceRecord> = workspaces
            .iter()
            .filter(|record| record.project_id == project.id)
            .collect();
        if own.is_empty() && !query.is_empty() && !project.name.to_lowercase().contains(&query.to_lowercase())
        {
            continue;
        }
        rows.push(Row {
            name: project.name.clone(),
            group: true,
            count: Some(project.workspace_count),
            cells: pools
                .iter()
                .map(|pool| {
                    let is_default = project.default_agent_pool_id.as_ref() == Some(&pool.id);
                    cell(
                        &project.name,
                        pool,
                        of_project(&pool.access, &project.id, is_default),
                    )
                })
                .collect(),
        });
        for record in own {
            rows.push(Row {
                name: record.name.clone(),
                group: false,
                count: None,
                cells: pools
                    .iter()
                    .map(|pool| {
                        let uses = in_use(record, &pool.id);
                        let look = of_workspace(&pool.access, &record.id, &project.id, uses);
                        cell(&record.name, pool, look)
                    })
                    .collect(),
            });
        }
    }
    // A conflict is told whatever the filter shows.
    let all = if total > u64::from(MOST) || !query.is_empty() {
        let everything = WorkspaceFilter::default();
        workspaces::list(
            &mut connection,
            id,
            &everything,
            WorkspaceOrder::Name,
            LOOKED_AT,
            0,
        )
        .await?
        .0
    } else {
        workspaces.clone()
    };
    let conflicts = all
        .iter()
        .flat_map(|record| pools.iter().map(move |pool| (record, pool)))
        .filter(|(record, pool)| {
            in_use(record, &pool.id) && !pool.access.allows(&record.id, &record.project_id)
        })
        .map(|(record, pool)| (record.name.clone(), pool.name.clone()))
        .collect();
    let known = (pools.as_slice(), projects.as_slice(), all.as_slice());
    let why = why::of(&mut connection, &place, chosen, known, app.now()).await?;
    let page = AccessPage {
        shell: place.shell(Section::Access, "Pool access"),
        query: query.to_owned(),
        conflicts,
        why,
        pools: pools
            .iter()
            .map(|pool| {
                (
                    pool.name.clone(),
                    format!("{base}/agent-pools/{}", pool.id),
                    scope(pool),
                )
            })
            .collect(),
        rows,
        footer: if total > u64::from(MOST) {
            format!("{MOST} of {total} workspaces; the filter finds the others.")
        } else {
            "The shared pool is for everyone.".to_owned()
        },
        base,
    };
    html(&page)
}

/// What a row is about: the project, and the workspace when the name is one's.
pub(super) fn named<'a>(
    name: &str,
    projects: &'a [ProjectRecord],
    workspaces: &'a [WorkspaceRecord],
) -> Option<(&'a ProjectRecord, Option<&'a WorkspaceRecord>)> {
    let workspace = workspaces.iter().find(|record| record.name == name);
    let project = match workspace {
        Some(record) => projects.iter().find(|project| project.id == record.project_id),
        None => projects.iter().find(|project| project.name == name),
    };
    Some((project?, workspace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_that_lost_access_to_its_pool_is_a_conflict() {
        let (workspace, project) = (WorkspaceId::from_random([1; 16]), ProjectId::from_random([1; 16]));
        let mut access = PoolAccess::default();
        assert_eq!(of_workspace(&access, &workspace, &project, true).2, "Conflict");
        assert_eq!(of_workspace(&access, &workspace, &project, false).2, "No");
        access.allowed_projects.insert(project.clone());
        assert_eq!(of_workspace(&access, &workspace, &project, true).2, "Uses");
        access.excluded_workspaces.insert(workspace.clone());
        assert_eq!(of_workspace(&access, &workspace, &project, false).2, "Excluded");
        assert_eq!(of_project(&access, &project, false).2, "Allowed");
    }
}
