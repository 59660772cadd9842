//! Users, tokens, organizations, projects, workspaces, variables, configurations and states, on both databases.
#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

use serde_json::{Map, json};
use terrapool_model::engine::EngineKind;
use terrapool_model::id::{UserId, WorkspaceId};
use terrapool_store::db::{Db, Tx};
use terrapool_store::error::StoreError;
use terrapool_store::organizations::{self, OrganizationRecord};
use terrapool_store::projects::{self};
use terrapool_store::users::{self, NewUser};
use terrapool_store::workspaces::{self, NewWorkspace, Tag, WorkspaceSettings};
use terrapool_testkit::database::{DatabaseKind, database};

/// Runs a command that has to succeed.
macro_rules! write {
    // A command may be run again: it has its own copy of what it uses.
    ($db:expr, [$($own:ident),*], |$tx:ident| $body:expr) => {{
        $(let $own = $own.clone();)*
        $db.write(move |$tx: &mut Tx| {
            $(let $own = $own.clone();)*
            Box::pin(async move { Ok::<_, StoreError>($body) })
        })
        .await
        .unwrap()
    }};
    ($db:expr, |$tx:ident| $body:expr) => {
        $db.write(move |$tx: &mut Tx| Box::pin(async move { Ok::<_, StoreError>($body) }))
            .await
            .unwrap()
    };
}

mod content;
mod people;
mod settings;

macro_rules! on_both {
    ($($name:ident => $module:ident::$scenario:ident;)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let database = super::database(super::DatabaseKind::Sqlite).await;
                super::$module::$scenario(&database.db).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let database = super::database(super::DatabaseKind::Postgres).await;
                super::$module::$scenario(&database.db).await;
            })*
        }
    };
}

on_both! {
    a_token_is_found_by_its_hash_until_it_is_revoked => people::tokens;
    disabled_accounts_have_no_session_and_are_no_enabled_administrators => people::disabled_accounts;
    an_organization_has_a_default_project_and_takes_everything_with_it => people::organizations;
    pages_of_the_audit_log_have_every_entry_also_of_one_millisecond => people::audit_log;
    members_hold_what_their_teams_were_given_and_lists_show_no_more => people::teams;
    a_workspace_inherits_where_its_runs_go => settings::inheritance;
    workspaces_are_listed_by_name_tag_and_project => settings::lists;
    a_variable_keeps_its_bytes_and_its_name_is_unique => settings::variables;
    an_upload_can_be_repeated_until_a_run_uses_it => content::configurations;
    a_state_becomes_current_once_its_bytes_are_there => content::states;
    the_catalogue_gives_the_newest_or_the_named_engine => content::engine_catalogue;
}

async fn user(db: &Db, name: &'static str) -> UserId {
    write!(db, |tx| {
        let new = NewUser {
            username: name.to_owned(),
            email: format!("{name}@example.com"),
            site_admin: false,
            password_hash: None,
        };
        users::create(tx, &new).await?.id
    })
}

async fn organization(db: &Db, name: &'static str, owner: &UserId) -> OrganizationRecord {
    let owner = owner.clone();
    db.write(move |tx| {
        let owner = owner.clone();
        Box::pin(
            async move { organizations::create(tx, name, "a@example.com", Some(&owner), &Map::new()).await },
        )
    })
    .await
    .unwrap()
}

fn settings(name: &str) -> WorkspaceSettings {
    WorkspaceSettings {
        name: name.to_owned(),
        description: None,
        execution_mode: None,
        agent_pool_id: None,
        engine: EngineKind::Terraform,
        engine_version: "latest".to_owned(),
        working_directory: String::new(),
        auto_apply: false,
        global_remote_state: false,
        structured_run_output: true,
        further: Map::from_iter([("queue-all-runs".to_owned(), json!(true))]),
    }
}

async fn workspace(
    db: &Db,
    organization: &OrganizationRecord,
    name: &'static str,
    tags: &'static [&'static str],
) -> WorkspaceId {
    let organization = organization.id.clone();
    db.write(move |tx| {
        let organization = organization.clone();
        Box::pin(async move {
            let project = projects::default_of(tx, &organization).await?;
            let new = NewWorkspace {
                organization_id: organization,
                project_id: project.id,
                settings: settings(name),
                source: "tfe-api".to_owned(),
            };
            let id = workspaces::create(tx, &new).await?;
            let tags: Vec<Tag> = tags
                .iter()
                .map(|key| Tag {
                    key: (*key).to_owned(),
                    value: String::new(),
                })
                .collect();
            workspaces::add_tags(tx, &id, &tags).await?;
            Ok::<_, StoreError>(id)
        })
    })
    .await
    .unwrap()
}
