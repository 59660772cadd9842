//! Configurations, states and the catalogue of engines.

use terrapool_model::engine::EngineKind;
use terrapool_model::id::StateVersionId;
use terrapool_model::lock::Lock;
use terrapool_store::configuration_versions::{self, ConfigurationStatus, NewConfigurationVersion};
use terrapool_store::db::{Db, Tx};
use terrapool_store::engine_versions::{self, EngineVersionFilter, EngineVersionSettings};
use terrapool_store::error::StoreError;
use terrapool_store::page::Page;
use terrapool_store::state_versions::{self, NewStateVersion, StateContent, StateStatus};
use terrapool_store::workspaces::{self};

use crate::{organization, user, workspace};

pub(super) async fn configurations(db: &Db) {
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

pub(super) async fn states(db: &Db) {
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

pub(super) async fn engine_catalogue(db: &Db) {
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
