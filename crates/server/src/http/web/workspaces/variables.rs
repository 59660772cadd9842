//! Variables of a workspace.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::json;
use terrapool_protocol::job::VariableCategory;
use terrapool_store::variables::{self, VariableRecord, category_name};

use super::frame::{self, Frame, LockEnd, Tab};
use crate::app::App;
use crate::auth::WorkspacePermission;
use crate::http::answer::Params;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, Fields, SignedForm, request};
use crate::http::web::page::{Page, Section, Shell, html_with, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::parts::time::Ago;
use crate::http::web::visitor::Visitor;

#[derive(Template)]
#[template(path = "workspace/variables.html")]
struct VariablesPage {
    shell: Shell,
    frame: Frame,
    rows: Vec<Row>,
    filled: Filled,
    problem: Option<String>,
}

struct Row {
    id: String,
    key: String,
    value: Option<String>,
    warning: Option<&'static str>,
    hcl: bool,
    kind: &'static str,
    description: String,
    since: Ago,
}

/// What is in the form.
#[derive(Default)]
struct Filled {
    id: String,
    key: String,
    value: String,
    category: String,
    hcl: bool,
    sensitive: bool,
    was_sensitive: bool,
    description: String,
}

/// Parts of names that secrets have.
const SECRET_NAMES: [&str; 8] = [
    "password",
    "passwd",
    "secret",
    "token",
    "private_key",
    "api_key",
    "access_key",
    "credential",
];

/// What is to be said of a variable whose value everybody sees who sees the workspace.
fn warning(key: &str, value: Option<&str>) -> Option<&'static str> {
    value.filter(|value| !value.is_empty())?;
    let key = key.to_lowercase();
    if key == "tf_log" || key.starts_with("tf_log_") {
        Some("Writes secrets of providers to the log. Remove it when you are done.")
    } else if SECRET_NAMES.iter().any(|name| key.contains(name)) && !key.ends_with("_id") {
        Some("Looks like a secret that everybody reads who sees this workspace. Make it sensitive.")
    } else {
        None
    }
}

impl Filled {
    fn of(fields: &Fields) -> Self {
        Self {
            id: fields.text("id").to_owned(),
            key: fields.text("key").to_owned(),
            // A value that may be a secret is not sent back.
            value: if fields.ticked("sensitive") {
                String::new()
            } else {
                fields.raw("value").to_owned()
            },
            category: fields.text("category").to_owned(),
            hcl: fields.ticked("hcl"),
            sensitive: fields.ticked("sensitive"),
            was_sensitive: false,
            description: fields.text("description").to_owned(),
        }
    }

    fn stored(record: &VariableRecord) -> Self {
        Self {
            id: record.id.to_string(),
            key: record.key.clone(),
            value: plain(record).unwrap_or_default(),
            category: category_name(record.category).to_owned(),
            hcl: record.hcl,
            sensitive: record.sensitive,
            was_sensitive: record.sensitive,
            description: record.description.clone(),
        }
    }
}

fn plain(record: &VariableRecord) -> Option<String> {
    (!record.sensitive).then(|| String::from_utf8_lossy(&record.value).into_owned())
}

async fn page(
    app: &App,
    visitor: &Visitor,
    names: &(String, String),
    edit: Option<&str>,
    refused: Option<(Filled, String)>,
) -> Page {
    let mut connection = app.db.read().await?;
    let permission = WorkspacePermission::ReadVariables;
    let seen = frame::see(app, &mut connection, visitor, names, Tab::Variables, permission).await?;
    let records = variables::of_workspace(&mut connection, &seen.record.id).await?;
    let status = form::status(refused.is_some());
    let (filled, problem) = form::filled(refused, || {
        let chosen = records.iter().find(|record| Some(record.id.as_str()) == edit);
        chosen.map(Filled::stored).unwrap_or_default()
    });
    let row = |record: &VariableRecord| Row {
        id: record.id.to_string(),
        key: record.key.clone(),
        value: plain(record),
        warning: warning(&record.key, plain(record).as_deref()),
        hcl: record.hcl,
        kind: match record.category {
            VariableCategory::Terraform => "Terraform",
            VariableCategory::Env => "Environment",
        },
        description: record.description.clone(),
        since: Ago::new(record.created_at, seen.now),
    };
    let page = VariablesPage {
        shell: seen.shell("Variables"),
        rows: records.iter().map(row).collect(),
        filled,
        problem,
        frame: seen.frame,
    };
    html_with(status, &page)
}

/// `GET /app/:org/workspaces/:name/variables`
pub(super) async fn show(
    State(app): State<App>,
    visitor: Visitor,
    Path(names): Path<(String, String)>,
    params: Params,
) -> Page {
    page(&app, &visitor, &names, params.get("edit"), None).await
}

/// `POST /app/:org/workspaces/:name/variables`
pub(super) async fn save(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut connection = app.db.read().await?;
    let (place, record) = frame::workspace(
        &app,
        &mut connection,
        &visitor,
        &names,
        WorkspacePermission::WriteVariables,
    )
    .await?;
    let id = fields.text("id");
    let stored = variables::of_workspace(&mut connection, &record.id)
        .await?
        .into_iter()
        .find(|variable| variable.id.as_str() == id);
    drop(connection);
    let was_sensitive = stored.as_ref().is_some_and(|variable| variable.sensitive);
    let mut attributes = json!({
        "key": fields.text("key"),
        "category": fields.some("category").unwrap_or_else(|| "terraform".to_owned()),
        "hcl": fields.ticked("hcl"),
        "sensitive": fields.ticked("sensitive") || was_sensitive,
        "description": fields.text("description"),
    });
    // Browsers send line breaks as CR LF.
    let value = fields.raw("value").replace("\r\n", "\n");
    if !(was_sensitive && value.is_empty()) {
        attributes["value"] = json!(value);
    }
    let (caller, workspace) = (visitor.caller.clone(), record.id.to_string());
    let saved = if id.is_empty() {
        tfe::variables::create(State(app.clone()), caller, Path(workspace), request(attributes)).await
    } else {
        let path = Path((workspace, id.to_owned()));
        tfe::variables::update(State(app.clone()), caller, path, request(attributes)).await
    };
    match saved.map_err(WebError::from) {
        Ok(_) => {
            let address = place.address(&format!("/workspaces/{}/variables", record.name));
            see_with(&visitor, &address, &format!("{} is saved.", fields.text("key")))
        }
        Err(error) => {
            let problem = error.problem()?;
            let filled = Filled {
                was_sensitive,
                ..Filled::of(&fields)
            };
            page(&app, &visitor, &names, None, Some((filled, problem))).await
        }
    }
}

/// `POST /app/:org/workspaces/:name/variables/delete`
pub(super) async fn delete(
    State(app): State<App>,
    Path(names): Path<(String, String)>,
    form: SignedForm,
) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (place, record) = frame::opened(&app, &visitor, &names, WorkspacePermission::WriteVariables).await?;
    let path = Path((record.id.to_string(), fields.text("id").to_owned()));
    tfe::variables::delete(State(app), visitor.caller.clone(), path).await?;
    let address = place.address(&format!("/workspaces/{}/variables", record.name));
    see_with(&visitor, &address, "The variable is deleted.")
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn what_gives_secrets_away_is_warned_of() {
        let secret =
            |key| warning(key, Some("x")).is_some_and(|said| said.starts_with("Looks like a secret"));
        assert!(secret("db_password") && secret("AWS_SECRET_ACCESS_KEY") && secret("GITHUB_TOKEN"));
        assert!(!secret("region") && !secret("AWS_ACCESS_KEY_ID"));
        assert!(warning("TF_LOG", Some("debug")).is_some_and(|said| said.contains("log")));
        assert_eq!(warning("TF_LOG", Some("")), None);
        assert_eq!(warning("db_password", None), None, "it is sensitive");
    }
}
