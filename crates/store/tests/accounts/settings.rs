//! Workspaces and their variables.

use terrapool_model::execution::ExecutionMode;
use terrapool_model::id::{VariableId, WorkspaceId};
use terrapool_model::time::Timestamp;
use terrapool_protocol::job::VariableCategory;
use terrapool_store::db::Db;
use terrapool_store::error::StoreError;
use terrapool_store::organizations::{self};
use terrapool_store::projects::{self, NewProject, ProjectFilter};
use terrapool_store::variables::{self, VariableRecord};
use terrapool_store::workspaces::{self, TagFilter, WorkspaceFilter, WorkspaceOrder};

use crate::{organization, settings, user, workspace};

pub(super) async fn inheritance(db: &Db) {
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

pub(super) async fn lists(db: &Db) {
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
        ..ProjectFilter::default()
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

pub(super) async fn variables(db: &Db) {
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
