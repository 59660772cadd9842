//! Users, tokens, organizations, projects, workspaces, variables, configurations and states, on both databases.
#![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

use serde_json::{Map, json};
use terrapool_model::engine::EngineKind;
use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{StateVersionId, UserId, VariableId, WorkspaceId};
use terrapool_model::lock::Lock;
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::VariableCategory;
use terrapool_store::api_tokens::{self, NewApiToken, TokenOwner};
use terrapool_store::audit;
use terrapool_store::configuration_versions::{self, ConfigurationStatus, NewConfigurationVersion};
use terrapool_store::db::{Db, Tx};
use terrapool_store::engine_versions::{self, EngineVersionFilter, EngineVersionSettings};
use terrapool_store::error::StoreError;
use terrapool_store::organizations::{self, OrganizationRecord, Visible};
use terrapool_store::page::Page;
use terrapool_store::projects::{self, NewProject, ProjectFilter};
use terrapool_store::state_versions::{self, NewStateVersion, StateContent, StateStatus};
use terrapool_store::users::{self, NewUser};
use terrapool_store::variables::{self, VariableRecord};
use terrapool_store::workspaces::{
    self, NewWorkspace, Tag, TagFilter, WorkspaceFilter, WorkspaceOrder, WorkspaceSettings,
};
use terrapool_testkit::database::{DatabaseKind, database};

macro_rules! on_both {
    ($($name:ident => $scenario:ident;)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                let database = super::database(super::DatabaseKind::Sqlite).await;
                super::$scenario(&database.db).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                let database = super::database(super::DatabaseKind::Postgres).await;
                super::$scenario(&database.db).await;
            })*
        }
    };
}

on_both! {
    a_token_is_found_by_its_hash_until_it_is_revoked => tokens;
    an_organization_has_a_default_project_and_takes_everything_with_it => organizations;
    a_workspace_inherits_where_its_runs_go => inheritance;
    workspaces_are_listed_by_name_tag_and_project => lists;
    a_variable_keeps_its_bytes_and_its_name_is_unique => variables;
    an_upload_can_be_repeated_until_a_run_uses_it => configurations;
    a_state_becomes_current_once_its_bytes_are_there => states;
    the_catalogue_gives_the_newest_or_the_named_engine => engine_catalogue;
}

/// Runs a command that has to succeed.
macro_rules! write {
    // A command may be run again: it has its own copy of what it uses.
    ($db:expr, [$($own:ident),*], |$tx:ident| $body:expr) => {
        $db.write(move |$tx: &mut Tx| {
            $(let $own = $own.clone();)*
            Box::pin(async move { Ok::<_, StoreError>($body) })
        })
        .await
        .unwrap()
    };
    ($db:expr, |$tx:ident| $body:expr) => {
        $db.write(move |$tx: &mut Tx| Box::pin(async move { Ok::<_, StoreError>($body) }))
            .await
            .unwrap()
    };
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

async fn tokens(db: &Db) {
    let ann = user(db, "ann").await;
    let owner = TokenOwner::User(ann.clone());
    let made = {
        let owner = owner.clone();
        db.write(move |tx| {
            let new = NewApiToken {
                hash: vec![7; 32],
                owner: owner.clone(),
                description: "d".to_owned(),
                created_by: None,
                expires_at: None,
            };
            Box::pin(async move { api_tokens::create(tx, &new).await })
        })
        .await
        .unwrap()
    };
    let mut connection = db.read().await.unwrap();
    let found = api_tokens::by_hash(&mut connection, &[7; 32])
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found, made);
    assert!(found.is_valid(db.clock().now()));
    assert!(
        api_tokens::by_hash(&mut connection, &[8; 32])
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        api_tokens::of_owner(&mut connection, &owner).await.unwrap().len(),
        1
    );
    drop(connection);
    let id = made.id.clone();
    let revoked = db
        .write(move |tx| {
            let id = id.clone();
            Box::pin(async move {
                api_tokens::touch(tx, &id).await?;
                Ok::<_, StoreError>((
                    api_tokens::revoke(tx, &id).await?,
                    api_tokens::revoke(tx, &id).await?,
                ))
            })
        })
        .await
        .unwrap();
    assert_eq!(revoked, (true, false));
    let mut connection = db.read().await.unwrap();
    let found = api_tokens::by_hash(&mut connection, &[7; 32])
        .await
        .unwrap()
        .unwrap();
    assert!(!found.is_valid(db.clock().now()));
    assert!(found.last_used_at.is_some());
    assert!(
        api_tokens::get(&mut connection, &made.id)
            .await
            .unwrap()
            .is_none()
    );
}

async fn organizations(db: &Db) {
    let (ann, bob) = (user(db, "ann").await, user(db, "bob").await);
    let acme = organization(db, "acme", &ann).await;
    organization(db, "bobs", &bob).await;
    let mut connection = db.read().await.unwrap();
    let default = projects::default_of(&mut connection, &acme.id).await.unwrap();
    assert_eq!(
        (default.name.as_str(), default.is_default),
        (organizations::DEFAULT_PROJECT, true)
    );
    assert_eq!(
        organizations::by_name(&mut connection, "acme")
            .await
            .unwrap()
            .unwrap(),
        acme
    );
    let role = organizations::role_of(&mut connection, &acme.id, &ann)
        .await
        .unwrap();
    assert_eq!(role.as_deref(), Some("owner"));
    assert!(
        organizations::role_of(&mut connection, &acme.id, &bob)
            .await
            .unwrap()
            .is_none()
    );
    let seen = organizations::list(&mut connection, &Visible::MemberOf(bob.clone()), None, 20, 0)
        .await
        .unwrap();
    assert_eq!((seen.0[0].name.as_str(), seen.1), ("bobs", 1));
    let all = organizations::list(&mut connection, &Visible::All, Some("AC"), 20, 0)
        .await
        .unwrap();
    assert_eq!((all.0[0].name.as_str(), all.1), ("acme", 1));
    drop(connection);
    let taken = db
        .write(|tx| {
            Box::pin(async move { organizations::create(tx, "acme", "x@y", None, &Map::new()).await })
        })
        .await;
    assert!(matches!(taken, Err(StoreError::Conflict)));
    let one = workspace(db, &acme, "one", &["a"]).await;
    let id = acme.id.clone();
    db.write(move |tx| {
        let id = id.clone();
        Box::pin(async move {
            audit::record(
                tx,
                Some(&id),
                "user-1",
                "organization.delete",
                "acme",
                &json!({"a": 1}),
            )
            .await?;
            assert_eq!(audit::newest(tx, &id, 10).await?[0].detail, json!({"a": 1}));
            assert!(!organizations::is_applying(tx, &id).await?);
            organizations::delete(tx, &id).await
        })
    })
    .await
    .unwrap();
    let mut connection = db.read().await.unwrap();
    assert!(
        organizations::get(&mut connection, &acme.id)
            .await
            .unwrap()
            .is_none()
    );
    assert!(workspaces::get(&mut connection, &one).await.unwrap().is_none());
}

async fn inheritance(db: &Db) {
    let ann = user(db, "ann").await;
    let mut acme = organization(db, "acme", &ann).await;
    let one = workspace(db, &acme, "one", &[]).await;
    let effective = async |db: &Db, id: &WorkspaceId| {
        let mut connection = db.read().await.unwrap();
        workspaces::get(&mut connection, id)
            .await
            .unwrap()
            .unwrap()
            .effective
            .execution_mode
    };
    assert_eq!(effective(db, &one).await, ExecutionMode::Remote);
    acme.default_execution_mode = ExecutionMode::Local;
    let changed = acme.clone();
    db.write(move |tx| {
        let record = changed.clone();
        Box::pin(async move { organizations::update(tx, &record).await })
    })
    .await
    .unwrap();
    assert_eq!(effective(db, &one).await, ExecutionMode::Local);
    let id = one.clone();
    db.write(move |tx| {
        let id = id.clone();
        Box::pin(async move {
            let record = workspaces::get_locked(tx, &id).await?.unwrap();
            let mut settings = record.to_settings();
            assert_eq!(settings.further["queue-all-runs"], true);
            settings.execution_mode = Some(ExecutionMode::Remote);
            workspaces::update(tx, &id, &record.project_id, &settings).await
        })
    })
    .await
    .unwrap();
    assert_eq!(effective(db, &one).await, ExecutionMode::Remote);
}

async fn lists(db: &Db) {
    let ann = user(db, "ann").await;
    let acme = organization(db, "acme", &ann).await;
    let id = acme.id.clone();
    let project = db
        .write(move |tx| {
            let id = id.clone();
            Box::pin(
                async move { projects::create(tx, &NewProject::new(id, "Team".to_owned(), false)).await },
            )
        })
        .await
        .unwrap();
    workspace(db, &acme, "b-prod", &["x", "a"]).await;
    let moved = workspace(db, &acme, "a-prod", &["x"]).await;
    workspace(db, &acme, "c_dev", &[]).await;
    let (id, to) = (moved.clone(), project.id.clone());
    db.write(move |tx| {
        let (id, to) = (id.clone(), to.clone());
        Box::pin(async move { workspaces::update(tx, &id, &to, &settings("a-prod")).await })
    })
    .await
    .unwrap();
    let mut connection = db.read().await.unwrap();
    let mut names = async |filter: WorkspaceFilter, order, limit, offset| {
        let (records, total) = workspaces::list(&mut connection, &acme.id, &filter, order, limit, offset)
            .await
            .unwrap();
        (
            records.into_iter().map(|record| record.name).collect::<Vec<_>>(),
            total,
        )
    };
    let all = WorkspaceFilter::default;
    assert_eq!(
        names(all(), WorkspaceOrder::Name, 2, 0).await,
        (vec!["a-prod".into(), "b-prod".into()], 3)
    );
    assert_eq!(names(all(), WorkspaceOrder::CurrentRun, 20, 2).await.0.len(), 1);
    assert_eq!(names(all(), WorkspaceOrder::ChangeDescending, 20, 0).await.1, 3);
    let tag = |key: &str, value: Option<&str>| TagFilter {
        key: key.into(),
        value: value.map(str::to_owned),
    };
    let tagged = WorkspaceFilter {
        tagged: vec![tag("x", None), tag("a", Some(""))],
        ..all()
    };
    assert_eq!(names(tagged, WorkspaceOrder::Creation, 20, 0).await.0, ["b-prod"]);
    let excluded = WorkspaceFilter {
        exclude_tags: vec!["x".into()],
        name: Some("_DEV".into()),
        ..all()
    };
    assert_eq!(
        names(excluded, WorkspaceOrder::Creation, 20, 0).await.0,
        ["c_dev"]
    );
    let of_project = WorkspaceFilter {
        project: Some(project.id.clone()),
        wildcard_name: Some("*-prod".into()),
        ..all()
    };
    assert_eq!(
        names(of_project, WorkspaceOrder::Creation, 20, 0).await.0,
        ["a-prod"]
    );
    let by_run = WorkspaceFilter {
        run_statuses: vec!["applied".into(), "errored".into()],
        ..all()
    };
    assert_eq!(names(by_run, WorkspaceOrder::Creation, 20, 0).await.1, 0);
    let tags = workspaces::organization_tags(&mut connection, &acme.id)
        .await
        .unwrap();
    assert_eq!(tags, [("a".to_owned(), 1), ("x".to_owned(), 2)]);
    let filter = ProjectFilter {
        names: vec!["Team".into(), "None".into()],
        search: Some("te".into()),
    };
    let (found, total) = projects::list(&mut connection, &acme.id, &filter, 20, 0)
        .await
        .unwrap();
    assert_eq!((found[0].workspace_count, total), (1, 1));
    drop(connection);
    let used = db
        .write(move |tx| {
            let id = project.id.clone();
            Box::pin(async move { projects::delete(tx, &id).await })
        })
        .await;
    assert!(matches!(used, Err(StoreError::Reference)));
}

async fn variables(db: &Db) {
    let ann = user(db, "ann").await;
    let acme = organization(db, "acme", &ann).await;
    let one = workspace(db, &acme, "one", &[]).await;
    let record = VariableRecord {
        id: VariableId::from_random([1; 16]),
        workspace_id: one.clone(),
        key: "k".to_owned(),
        value: vec![0, 159, 146, 150],
        category: VariableCategory::Env,
        hcl: true,
        sensitive: true,
        description: "d".to_owned(),
        version_id: "v1".to_owned(),
        created_at: Timestamp(5),
    };
    let first = record.clone();
    db.write(move |tx| {
        let record = first.clone();
        Box::pin(async move { variables::create(tx, &record).await })
    })
    .await
    .unwrap();
    let mut same_name = record.clone();
    same_name.id = VariableId::from_random([2; 16]);
    let taken = db
        .write(move |tx| {
            let record = same_name.clone();
            Box::pin(async move { variables::create(tx, &record).await })
        })
        .await;
    assert!(matches!(taken, Err(StoreError::Conflict)));
    let mut connection = db.read().await.unwrap();
    assert_eq!(
        variables::of_workspace(&mut connection, &one).await.unwrap(),
        std::slice::from_ref(&record)
    );
    drop(connection);
    let deleted = db
        .write(move |tx| {
            let mut record = record.clone();
            Box::pin(async move {
                record.key = "other".to_owned();
                variables::update(tx, &record).await?;
                assert_eq!(variables::get(tx, &record.id).await?.unwrap().key, "other");
                variables::delete(tx, &record.id).await
            })
        })
        .await
        .unwrap();
    assert!(deleted);
}

async fn configurations(db: &Db) {
    let ann = user(db, "ann").await;
    let acme = organization(db, "acme", &ann).await;
    let one = workspace(db, &acme, "one", &[]).await;
    let new = |speculative, provisional| NewConfigurationVersion {
        workspace_id: one.clone(),
        speculative,
        provisional,
        auto_queue_runs: false,
        source: "tfe-api".to_owned(),
    };
    for (index, new) in [new(false, false), new(true, false), new(false, true)]
        .into_iter()
        .enumerate()
    {
        let key = format!("configurations/{index}");
        db.write(move |tx| {
            let (new, key) = (new.clone(), key.clone());
            Box::pin(async move {
                let record = configuration_versions::create(tx, &new).await?;
                assert_eq!(
                    configuration_versions::finish_upload(tx, &record.id, &key, 3, "aa").await?,
                    None
                );
                let again =
                    configuration_versions::finish_upload(tx, &record.id, "configurations/x", 4, "bb")
                        .await?;
                assert_eq!(again.as_deref(), Some(key.as_str()));
                // An upload that worked is not undone by a later one that did not.
                configuration_versions::fail_upload(tx, &record.id, "bad", "it is bad").await?;
                let record = configuration_versions::get(tx, &record.id).await?.unwrap();
                assert_eq!(
                    (record.status, record.size),
                    (ConfigurationStatus::Uploaded, Some(4))
                );
                Ok::<_, StoreError>(())
            })
        })
        .await
        .unwrap();
    }
    let mut connection = db.read().await.unwrap();
    let usable = configuration_versions::newest_usable(&mut connection, &one)
        .await
        .unwrap()
        .unwrap();
    assert!(!usable.speculative && !usable.provisional);
    let (page, total) = configuration_versions::list(&mut connection, &one, 2, 0)
        .await
        .unwrap();
    assert_eq!((page.len(), total), (2, 3));
    let record = workspaces::get(&mut connection, &one).await.unwrap().unwrap();
    assert!(record.current_configuration_version_id.is_some());
}

async fn states(db: &Db) {
    let ann = user(db, "ann").await;
    let acme = organization(db, "acme", &ann).await;
    let one = workspace(db, &acme, "one", &[]).await;
    let id = StateVersionId::from_random([3; 16]);
    let new = NewStateVersion {
        id: id.clone(),
        workspace_id: one.clone(),
        run_id: None,
        created_by: Some(ann),
        serial: Some(4),
        lineage: None,
        md5: Some("m".to_owned()),
        outputs: Some(vec![1, 2]),
    };
    let content = StateContent {
        object_key: "states/x".to_owned(),
        size: 9,
        sha256: "aa".to_owned(),
        serial: Some(99),
        lineage: Some("l".to_owned()),
        resource_count: Some(2),
        engine_version: Some("1.11.4".to_owned()),
    };
    let workspace = one.clone();
    db.write(move |tx| {
        let (new, content, workspace) = (new.clone(), content.clone(), workspace.clone());
        Box::pin(async move {
            state_versions::create(tx, &new).await?;
            assert!(workspaces::has_pending_state(tx, &workspace).await?);
            assert!(state_versions::current(tx, &workspace).await?.is_none());
            assert!(state_versions::finalize(tx, &new.id, &content).await?);
            assert!(!state_versions::finalize(tx, &new.id, &content).await?);
            assert_eq!(state_versions::discard_pending(tx, &workspace).await?, 0);
            state_versions::set_json(tx, &new.id, "states/x-json").await
        })
    })
    .await
    .unwrap();
    let mut connection = db.read().await.unwrap();
    let current = state_versions::current(&mut connection, &one)
        .await
        .unwrap()
        .unwrap();
    // What the client announced wins over what the bytes say.
    assert_eq!((current.serial, current.lineage.as_deref()), (Some(4), Some("l")));
    assert_eq!(
        (current.id.clone(), current.status),
        (id.clone(), StateStatus::Finalized)
    );
    assert_eq!(current.json_object_key.as_deref(), Some("states/x-json"));
    let owner = state_versions::organization_of(&mut connection, &id)
        .await
        .unwrap();
    assert_eq!(owner, Some(acme.id));
    let (all, total) = state_versions::list(&mut connection, &one, 20, 0).await.unwrap();
    assert_eq!((all.len(), total), (1, 1));
    let record = workspaces::get(&mut connection, &one).await.unwrap().unwrap();
    assert_eq!((record.resource_count, record.lock), (2, Lock::Free));
}

fn engine_version(version: &str) -> EngineVersionSettings {
    EngineVersionSettings {
        version: version.parse().unwrap(),
        url: format!("https://example.com/{version}.zip"),
        sha256: "ab".repeat(32),
        enabled: true,
        official: true,
        beta: false,
        deprecated: false,
        deprecated_reason: None,
    }
}

async fn engine_catalogue(db: &Db) {
    for version in ["1.9.8", "1.11.4", "1.12.0-beta1", "1.10.0"] {
        let new = engine_version(version);
        write!(db, [new], |tx| {
            engine_versions::create(tx, EngineKind::Terraform, &new).await?
        });
    }
    let again = engine_version("1.9.8");
    let taken = db
        .write(move |tx| {
            let again = again.clone();
            Box::pin(async move { engine_versions::create(tx, EngineKind::Terraform, &again).await })
        })
        .await;
    assert!(matches!(taken, Err(StoreError::Conflict)), "{taken:?}");
    let same = engine_version("1.9.8");
    write!(db, [same], |tx| engine_versions::create(
        tx,
        EngineKind::Tofu,
        &same
    )
    .await?);

    let mut connection = db.read().await.unwrap();
    let filter = EngineVersionFilter::default();
    let listed = engine_versions::list(&mut connection, EngineKind::Terraform, &filter, &Page::first(2))
        .await
        .unwrap();
    let versions: Vec<String> = listed
        .items
        .iter()
        .map(|item| item.settings.version.to_string())
        .collect();
    assert_eq!(
        (versions, listed.total),
        (vec!["1.12.0-beta1".to_owned(), "1.11.4".to_owned()], 4)
    );
    let found = |record: Option<engine_versions::EngineVersionRecord>| {
        record.map(|record| record.settings.version.to_string())
    };
    for (wanted, expected) in [
        ("latest", Some("1.11.4")),
        ("1.10.0", Some("1.10.0")),
        ("1.12.0-beta1", Some("1.12.0-beta1")),
        ("1.8.0", None),
    ] {
        let record = engine_versions::wanted(&mut connection, EngineKind::Terraform, wanted)
            .await
            .unwrap();
        assert_eq!(found(record).as_deref(), expected, "{wanted}");
    }

    let newest = listed.items[1].clone();
    drop(connection);
    let (id, mut disabled) = (newest.id.clone(), newest.settings.clone());
    disabled.enabled = false;
    write!(db, [id, disabled], |tx| {
        engine_versions::update(tx, EngineKind::Terraform, &id, &disabled).await?
    });
    let mut connection = db.read().await.unwrap();
    for (wanted, expected) in [("latest", Some("1.10.0")), ("1.11.4", None)] {
        let record = engine_versions::wanted(&mut connection, EngineKind::Terraform, wanted)
            .await
            .unwrap();
        assert_eq!(found(record).as_deref(), expected, "{wanted}");
    }
    let other_kind = engine_versions::get(&mut connection, EngineKind::Tofu, &newest.id)
        .await
        .unwrap();
    assert!(other_kind.is_none());
    drop(connection);
    let id = newest.id.clone();
    write!(db, [id], |tx| engine_versions::delete(tx, &id).await?);
    let mut connection = db.read().await.unwrap();
    let gone = engine_versions::get(&mut connection, EngineKind::Terraform, &newest.id)
        .await
        .unwrap();
    assert!(gone.is_none());
}
