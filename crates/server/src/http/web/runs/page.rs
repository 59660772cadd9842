//! The page of a run, and the parts of it that are replaced while somebody looks.

use askama::Template;
use axum::extract::{Path, State};
use terrapool_model::job::Phase;
use terrapool_model::run::RunStatus;

use super::load::{self, Loaded, Names};
use super::log::{self, Wanted};
use super::memory::Raise;
use super::view::{self, Filter, Offer, RunView};
use crate::app::App;
use crate::http::answer::Params;
use crate::http::web::page::{Page, Section, Shell, TokenField, html, see};
use crate::http::web::parts::{Breaking, Icon};
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "runs/run.html")]
struct RunPage<'a> {
    shell: Shell,
    view: &'a RunView,
    filter: &'a Filter,
    token: TokenField<'a>,
}

macro_rules! parts {
    ($($name:ident = $path:literal;)*) => {$(
        #[derive(Template)]
        #[template(path = $path)]
        struct $name<'a> {
            view: &'a RunView,
            #[expect(dead_code, reason = "not every part has forms")]
            token: TokenField<'a>,
        }
    )*};
}

parts! {
    StepsPart = "runs/steps.html";
    FaultsPart = "runs/faults.html";
    SidePart = "runs/side.html";
}

#[derive(Template)]
#[template(path = "runs/verdict.html")]
struct VerdictPart<'a> {
    view: &'a RunView,
    token: TokenField<'a>,
}

#[derive(Template)]
#[template(path = "runs/pops.html")]
struct PopsPart<'a> {
    view: &'a RunView,
    token: TokenField<'a>,
}

#[derive(Template)]
#[template(path = "runs/changes.html")]
struct ChangesPart<'a> {
    view: &'a RunView,
    filter: &'a Filter,
    token: TokenField<'a>,
}

/// The parts of the page that change, each an element with an id.
pub(super) fn parts(view: &RunView, visitor: &Visitor) -> Result<Vec<String>, askama::Error> {
    let filter = Filter::default();
    let token = || TokenField::of(visitor);
    Ok(vec![
        VerdictPart { view, token: token() }.render()?,
        PopsPart { view, token: token() }.render()?,
        StepsPart { view, token: token() }.render()?,
        FaultsPart { view, token: token() }.render()?,
        ChangesPart {
            view,
            filter: &filter,
            token: token(),
        }
        .render()?,
        SidePart { view, token: token() }.render()?,
    ])
}

/// The title of the tab.
pub(super) fn title(loaded: &Loaded, view: &RunView) -> String {
    format!("{}: {} · {}", view.status.word, view.title, loaded.organization)
}

/// `GET /app/:org/workspaces/:name/runs/:run`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<Names>,
    params: Params,
) -> Page {
    let mut connection = app.db.read().await?;
    let (place, loaded) = load::load(&app, &mut connection, &visitor, &names).await?;
    drop(connection);
    let filter = Filter {
        action: params.get("action").unwrap_or_default().to_owned(),
        text: params.get("address").unwrap_or_default().to_owned(),
        page: params.get("page").and_then(|page| page.parse().ok()).unwrap_or(1),
    };
    let wanted = Wanted::of(&params);
    let filtered =
        !filter.action.is_empty() || !filter.text.is_empty() || filter.page > 1 || wanted.is_for_lines();
    if let Some(line) = log::destination(&loaded, &wanted).await {
        return see(&line);
    }
    let panels = log::panels(&loaded, &wanted).await;
    let view = view::view(&loaded, &filter, panels);
    let workspace = &loaded.listed.workspace;
    let mut shell = place.shell(Section::Runs, view.id.clone()).behind(
        workspace.clone(),
        place.address(&format!("/workspaces/{workspace}")),
    );
    shell.title = title(&loaded, &view);
    if view.active && !filtered {
        let lines = |lines: usize| lines.to_string();
        shell = shell.live(format!(
            "{}?run={}&plan={}&apply={}",
            place.address("/events"),
            view.id,
            lines(loaded.lines(Phase::Plan)),
            lines(loaded.lines(Phase::Apply))
        ));
        // A page that waits for a person does not change by itself.
        shell.refreshes = loaded.listed.run.status != RunStatus::Planned;
    }
    let page = RunPage {
        token: TokenField::of(&visitor),
        shell,
        view: &view,
        filter: &filter,
    };
    html(&page)
}

/// `GET /app/:org/:name/runs/:run`: the address that command lines print.
pub(super) async fn from_cli(Path((organization, workspace, run)): Path<Names>) -> Page {
    see(&format!("/app/{organization}/workspaces/{workspace}/runs/{run}"))
}
