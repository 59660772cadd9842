//! Members and teams of an organization.

use askama::Template;
use axum::extract::{Path, State};
use serde_json::{Map, Value, json};
use terrapool_model::permission::{ProjectRole, WorkspaceRole};
use terrapool_store::db::Connection;
use terrapool_store::memberships::{self, MembershipRecord};
use terrapool_store::overview;
use terrapool_store::teams::{self, TeamRecord, Visibility};

use crate::app::App;
use crate::auth::OrganizationPermission;
use crate::http::tfe;
use crate::http::web::error::WebError;
use crate::http::web::form::{self, SignedForm, made_id, request, request_named, request_with};
use crate::http::web::page::{Page, Section, Shell, html, html_with, see_with};
use crate::http::web::parts::Icon;
use crate::http::web::visitor::{Place, Visitor};

#[derive(Template)]
#[template(path = "organization/people.html")]
struct PeoplePage {
    shell: Shell,
    base: String,
    members: Vec<Member>,
    teams: Vec<Team>,
    problem: Option<String>,
    login: String,
}

struct Member {
    id: String,
    name: String,
    email: String,
    teams: String,
}

struct Team {
    id: String,
    name: String,
    about: String,
    members: u64,
}

#[derive(Template)]
#[template(path = "organization/team.html")]
struct TeamPage {
    shell: Shell,
    base: String,
    people: String,
    team: TeamRecord,
    visible_to_all: bool,
    members: Vec<(String, String)>,
    others: Vec<String>,
    flags: Vec<Flag>,
    grants: Vec<Grant>,
    projects: Vec<(String, String)>,
    workspaces: Vec<(String, String)>,
    roles: Vec<(&'static str, &'static str)>,
}

/// Something that a team may do in the whole organization.
struct Flag {
    name: &'static str,
    words: &'static str,
    detail: &'static str,
    held: bool,
}

/// A role that a team has somewhere.
struct Grant {
    id: String,
    kind: &'static str,
    place: String,
    role: &'static str,
    detail: &'static str,
}

/// Names in the API, words, and what they mean.
const FLAGS: [(&str, &str, &str); 5] = [
    (
        "read-workspaces",
        "Read every workspace",
        "with its states and variables",
    ),
    ("read-projects", "See every project", "and nothing in it"),
    (
        "manage-workspaces",
        "Manage every workspace",
        "as an admin; make workspaces in every project",
    ),
    (
        "manage-projects",
        "Manage every project",
        "make, change and delete them, and all workspaces in them",
    ),
    (
        "manage-agent-pools",
        "Manage agent pools",
        "their tokens and agents, and see what waits for them",
    ),
];

fn about(role: ProjectRole) -> &'static str {
    match role {
        ProjectRole::Read => "sees runs, logs, states and variables",
        ProjectRole::Plan => "and makes runs, which somebody else confirms",
        ProjectRole::Write => "and applies, writes states and variables, locks",
        ProjectRole::Maintain => "and makes, changes and deletes workspaces of the project",
        ProjectRole::Admin => "and everything else",
    }
}

fn about_in_workspace(role: WorkspaceRole) -> &'static str {
    about(match role {
        WorkspaceRole::Read => ProjectRole::Read,
        WorkspaceRole::Plan => ProjectRole::Plan,
        WorkspaceRole::Write => ProjectRole::Write,
        WorkspaceRole::Admin => ProjectRole::Admin,
    })
}

async fn place(
    app: &App,
    connection: &mut Connection,
    visitor: &Visitor,
    organization: &str,
) -> Result<Place, WebError> {
    visitor
        .organization(app, connection, organization, OrganizationPermission::Manage)
        .await
}

async fn page(app: &App, visitor: &Visitor, organization: &str, refused: Option<(String, String)>) -> Page {
    let mut connection = app.db.read().await?;
    let place = place(app, &mut connection, visitor, organization).await?;
    let id = &place.organization.id;
    let all = teams::of_organization(&mut connection, id).await?;
    let mut members = Vec::new();
    for member in memberships::of_organization(&mut connection, id).await? {
        let own = teams::of_user(&mut connection, id, &member.user_id).await?;
        let names: Vec<String> = all
            .iter()
            .filter(|team| own.contains(&team.id))
            .map(|team| team.name.clone())
            .collect();
        members.push(Member {
            id: member.id.to_string(),
            name: member.username,
            email: member.email,
            teams: names.join(", "),
        });
    }
    let status = form::status(refused.is_some());
    let (login, problem) = form::filled(refused, String::new);
    let page = PeoplePage {
        shell: place.shell(Section::People, "People"),
        base: place.address("/people"),
        members,
        teams: all
            .into_iter()
            .map(|team| Team {
                about: summary(&team),
                id: team.id.to_string(),
                name: team.name,
                members: team.users,
            })
            .collect(),
        problem,
        login,
    };
    html_with(status, &page)
}

/// What a team may do in the whole organization.
fn summary(team: &TeamRecord) -> String {
    if team.is_owners {
        return "may do everything".to_owned();
    }
    let held: Vec<String> = FLAGS
        .iter()
        .filter(|(name, ..)| team.organization_access.get(*name) == Some(&Value::Bool(true)))
        .map(|(_, words, _)| words.to_lowercase())
        .collect();
    if held.is_empty() {
        "roles in projects and workspaces only".to_owned()
    } else {
        held.join(", ")
    }
}

/// `GET /app/:org/people`
pub(super) async fn show(State(app): State<App>, visitor: Visitor, Path(name): Path<String>) -> Page {
    page(&app, &visitor, &name, None).await
}

/// `POST /app/:org/people`: somebody becomes a member.
pub(super) async fn add(State(app): State<App>, Path(name): Path<String>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (caller, login) = (visitor.caller.clone(), fields.text("login").to_owned());
    let body = request(json!({"username": login}));
    let made = tfe::memberships::create(State(app.clone()), caller, Path(name.clone()), body).await;
    match made.map_err(WebError::from) {
        Ok(_) => {
            let said = format!("{login} is a member. Put them into a team, so that they see something.");
            see_with(&visitor, &format!("/app/{name}/people"), &said)
        }
        Err(error) => {
            let problem = error.problem()?;
            page(&app, &visitor, &name, Some((login, problem))).await
        }
    }
}

/// `POST /app/:org/people/remove`
pub(super) async fn remove(State(app): State<App>, Path(name): Path<String>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let id = Path(fields.text("id").to_owned());
    tfe::memberships::delete(State(app), visitor.caller.clone(), id).await?;
    let said = "They are no member any more, and in no team of the organization.";
    see_with(&visitor, &format!("/app/{name}/people"), said)
}

/// `POST /app/:org/people/teams`
pub(super) async fn create_team(State(app): State<App>, Path(name): Path<String>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let body = request(json!({"name": fields.text("name")}));
    let (caller, path) = (visitor.caller.clone(), Path(name.clone()));
    let made = tfe::teams::create(State(app.clone()), caller, path, body).await;
    match made.map_err(WebError::from) {
        Ok(answer) => {
            let address = format!("/app/{name}/people/teams/{}", made_id(answer));
            see_with(
                &visitor,
                &address,
                "The team is there. Say who is in it, and what it may do.",
            )
        }
        Err(error) => {
            let problem = error.problem()?;
            page(&app, &visitor, &name, Some((String::new(), problem))).await
        }
    }
}

/// The names in a team's address: organization, team.
type Names = (String, String);

async fn team(connection: &mut Connection, place: &Place, id: &str) -> Result<TeamRecord, WebError> {
    let id = id.parse().map_err(|_| WebError::not_found())?;
    teams::get(connection, &id)
        .await?
        .filter(|team| team.organization_id == place.organization.id)
        .ok_or_else(WebError::not_found)
}

/// `GET /app/:org/people/teams/:id`
pub(super) async fn show_team(
    State(app): State<App>,
    visitor: Visitor,
    Path((organization, id)): Path<Names>,
) -> Page {
    let mut connection = app.db.read().await?;
    let place = place(&app, &mut connection, &visitor, &organization).await?;
    let team = team(&mut connection, &place, &id).await?;
    let members = teams::members(&mut connection, &team.id).await?;
    let others = memberships::of_organization(&mut connection, &place.organization.id)
        .await?
        .into_iter()
        .filter(|member: &MembershipRecord| !members.iter().any(|(id, _)| *id == member.user_id))
        .map(|member| member.username)
        .collect();
    let projects = overview::project_names(&mut connection, &place.organization.id).await?;
    let workspaces = overview::workspace_names(&mut connection, &place.organization.id).await?;
    let mut grants = Vec::new();
    for grant in teams::projects_of(&mut connection, &team.id).await? {
        grants.push(Grant {
            id: grant.id.to_string(),
            kind: "project",
            place: projects.get(&grant.project_id).cloned().unwrap_or_default(),
            role: grant.role.as_str(),
            detail: about(grant.role),
        });
    }
    for grant in teams::workspaces_of(&mut connection, &team.id).await? {
        let named = workspaces.iter().find(|(id, ..)| *id == grant.workspace_id);
        grants.push(Grant {
            id: grant.id.to_string(),
            kind: "workspace",
            place: named.map_or_else(String::new, |(_, name, _)| name.clone()),
            role: grant.role.as_str(),
            detail: about_in_workspace(grant.role),
        });
    }
    let people = place.address("/people");
    let page = TeamPage {
        shell: place
            .shell(Section::People, team.name.clone())
            .behind("People", people.clone()),
        base: place.address(&format!("/people/teams/{}", team.id)),
        people,
        visible_to_all: team.visibility == Visibility::Organization,
        members: members
            .into_iter()
            .map(|(id, name)| (id.to_string(), name))
            .collect(),
        others,
        flags: FLAGS
            .iter()
            .map(|(name, words, detail)| Flag {
                name,
                words,
                detail,
                held: team.organization_access.get(*name) == Some(&Value::Bool(true)),
            })
            .collect(),
        grants,
        projects: projects
            .into_iter()
            .map(|(id, name)| (id.to_string(), name))
            .collect(),
        workspaces: workspaces
            .into_iter()
            .map(|(id, name, _)| (id.to_string(), name))
            .collect(),
        roles: ProjectRole::ALL
            .iter()
            .map(|role| (role.as_str(), about(*role)))
            .collect(),
        team,
    };
    html(&page)
}

fn address((organization, id): &Names) -> String {
    format!("/app/{organization}/people/teams/{id}")
}

/// `POST /app/:org/people/teams/:id`
pub(super) async fn save_team(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let mut attributes = json!({
        "name": fields.text("name"),
        "visibility": if fields.ticked("visible") { "organization" } else { "secret" },
    });
    if fields.ticked("everywhere") {
        let held = fields.all("flag");
        let flags: Map<String, Value> = FLAGS
            .iter()
            .map(|(name, ..)| ((*name).to_owned(), json!(held.iter().any(|flag| flag == name))))
            .collect();
        attributes["organization-access"] = Value::Object(flags);
    }
    let (caller, id) = (visitor.caller.clone(), Path(names.1.clone()));
    tfe::teams::update(State(app), caller, id, request(attributes)).await?;
    see_with(&visitor, &address(&names), "The team is saved.")
}

/// `POST /app/:org/people/teams/:id/members`
pub(super) async fn add_to_team(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, name) = (form.visitor, form.fields.text("user").to_owned());
    let (caller, id) = (visitor.caller.clone(), Path(names.1.clone()));
    tfe::teams::add_users(State(app), caller, id, request_named(&name)).await?;
    see_with(&visitor, &address(&names), &format!("{name} is in the team."))
}

/// `POST /app/:org/people/teams/:id/members/remove`
pub(super) async fn remove_from_team(
    State(app): State<App>,
    Path(names): Path<Names>,
    form: SignedForm,
) -> Page {
    let (visitor, user) = (form.visitor, form.fields.text("user").to_owned());
    let (caller, id) = (visitor.caller.clone(), Path(names.1.clone()));
    tfe::teams::remove_users(State(app), caller, id, request_named(&user)).await?;
    see_with(&visitor, &address(&names), "They are not in the team any more.")
}

/// `POST /app/:org/people/teams/:id/access`: a role in a project or a workspace.
pub(super) async fn grant(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, fields) = (form.visitor, form.fields);
    let (caller, place) = (visitor.caller.clone(), fields.text("place").to_owned());
    let attributes = json!({"access": fields.text("role")});
    let team = names.1.as_str();
    if place.starts_with("prj-") {
        let body = request_with(attributes, &[("project", &place), ("team", team)]);
        tfe::team_access::grant_project(State(app), caller, body).await?;
    } else {
        let body = request_with(attributes, &[("workspace", &place), ("team", team)]);
        tfe::team_access::grant_workspace(State(app), caller, body).await?;
    }
    see_with(&visitor, &address(&names), "The team has the role.")
}

/// `POST /app/:org/people/teams/:id/access/revoke`
pub(super) async fn revoke(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let (visitor, id) = (form.visitor, form.fields.text("id").to_owned());
    let caller = visitor.caller.clone();
    if id.starts_with("tprj-") {
        tfe::team_access::revoke_project(State(app), caller, Path(id)).await?;
    } else {
        tfe::team_access::revoke_workspace(State(app), caller, Path(id)).await?;
    }
    see_with(&visitor, &address(&names), "The role is taken away.")
}

/// `POST /app/:org/people/teams/:id/delete`
pub(super) async fn delete_team(State(app): State<App>, Path(names): Path<Names>, form: SignedForm) -> Page {
    let visitor = form.visitor;
    let (caller, id) = (visitor.caller.clone(), Path(names.1));
    tfe::teams::delete(State(app), caller, id).await?;
    let said = "The team is deleted. Its members stay members of the organization.";
    see_with(&visitor, &format!("/app/{}/people", names.0), said)
}
