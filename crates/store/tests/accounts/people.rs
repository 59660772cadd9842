//! Users, tokens, organizations and teams.

use serde_json::{Map, json};
use terrapool_store::api_tokens::{self, NewApiToken, TokenOwner};
use terrapool_store::audit::{self, AuditFilter, Before, NoPlace};
use terrapool_store::db::{Db, Tx};
use terrapool_store::error::StoreError;
use terrapool_store::organizations::{self, OrganizationRecord, Visible};
use terrapool_store::projects::{self, NewProject, ProjectFilter};
use terrapool_store::workspaces::{self, WorkspaceFilter, WorkspaceOrder};

use crate::{organization, user, workspace};
use terrapool_model::permission::{ProjectRole, WorkspaceRole};
use terrapool_model::time::Timestamp;
use terrapool_store::memberships;
use terrapool_store::overview;
use terrapool_store::sight::Sight;
use terrapool_store::teams::{self as store_teams, NewTeam, Visibility};
use terrapool_store::users;
use terrapool_store::web_sessions;

pub(super) async fn tokens(db: &Db) {
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

pub(super) async fn disabled_accounts(db: &Db) {
    let (ann, bob) = (user(db, "ann").await, user(db, "bob").await);
    let administrators = write!(db, [ann, bob], |tx| {
        users::set_site_admin(tx, &ann, true).await?;
        users::set_site_admin(tx, &bob, true).await?;
        web_sessions::create(tx, &ann, &[1; 32], "b", "::1").await?;
        web_sessions::create(tx, &ann, &[2; 32], "b", "::1").await?;
        web_sessions::create(tx, &bob, &[3; 32], "b", "::1").await?;
        users::set_disabled(tx, &ann, true).await?;
        assert_eq!(web_sessions::end_all(tx, &ann).await?, 2);
        users::enabled_site_admins(tx).await?
    });
    assert_eq!(administrators, std::slice::from_ref(&bob));
    let mut connection = db.read().await.unwrap();
    let found = users::get(&mut connection, &ann).await.unwrap().unwrap();
    assert!(!found.is_enabled() && found.site_admin);
    let session = web_sessions::by_hash(&mut connection, &[3; 32])
        .await
        .unwrap()
        .unwrap();
    assert!(web_sessions::is_kept(&mut connection, &session.id).await.unwrap());
    assert!(
        web_sessions::of_user(&mut connection, &ann)
            .await
            .unwrap()
            .is_empty()
    );
    drop(connection);
    let administrators = write!(db, [ann, bob, session], |tx| {
        users::set_disabled(tx, &ann, false).await?;
        users::set_site_admin(tx, &bob, false).await?;
        assert!(web_sessions::end(tx, &bob, &session.id).await?);
        assert!(!web_sessions::is_kept(tx, &session.id).await?);
        users::enabled_site_admins(tx).await?
    });
    assert_eq!(administrators, [ann]);
}

pub(super) async fn organizations(db: &Db) {
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
    let grants = store_teams::grants(&mut connection, &acme.id, &ann)
        .await
        .unwrap();
    assert!(grants.unwrap().owner);
    let grants = store_teams::grants(&mut connection, &acme.id, &bob)
        .await
        .unwrap();
    assert!(grants.is_none());
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

pub(super) async fn audit_log(db: &Db) {
    const ENTRIES: usize = 7;
    let ann = user(db, "ann").await;
    let acme = organization(db, "acme", &ann).await;
    let (id, actor) = (acme.id.clone(), ann.clone());
    db.write(move |tx| {
        let (id, actor) = (id.clone(), actor.clone());
        Box::pin(async move {
            for number in 0..ENTRIES {
                let subject = format!("run-{number}");
                audit::record(tx, Some(&id), actor.as_str(), "run.cancel", &subject, &json!({})).await?;
            }
            Ok::<_, StoreError>(())
        })
    })
    .await
    .unwrap();
    let mut connection = db.read().await.unwrap();
    let mut filter = AuditFilter {
        kinds: vec!["run."],
        ..AuditFilter::default()
    };
    let all = audit::list(&mut connection, Some(&acme.id), &filter, 100)
        .await
        .unwrap();
    assert_eq!(all.len(), ENTRIES);
    assert!(
        all.iter().all(|record| record.at == all[0].at),
        "one transaction has one time"
    );
    let mut paged = Vec::new();
    loop {
        let page = audit::list(&mut connection, Some(&acme.id), &filter, 2)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        // As the address of the next page carries it.
        filter.before = Some(Before::entry(last).to_string().parse().unwrap());
        paged.extend(page);
    }
    assert_eq!(paged, all);
    filter.before = Some(all[0].at.0.to_string().parse().unwrap());
    let older = audit::list(&mut connection, Some(&acme.id), &filter, 100)
        .await
        .unwrap();
    assert_eq!(older, []);
    assert_eq!("yesterday".parse::<Before>(), Err(NoPlace));

    // By the name of who did it, and by time.
    let mut found = async |filter: AuditFilter| {
        audit::list(&mut connection, Some(&acme.id), &filter, 100)
            .await
            .unwrap()
            .len()
    };
    let by = |name: &str| AuditFilter {
        text: Some(name.to_owned()),
        kinds: vec!["run."],
        ..AuditFilter::default()
    };
    assert_eq!((found(by("Ann")).await, found(by("bob")).await), (ENTRIES, 0));
    let (at, later) = (all[0].at, Timestamp(all[0].at.0 + 1));
    for (from, until, expected) in [
        (Some(at), None, ENTRIES),
        (Some(later), None, 0),
        (None, Some(at), 0),
        (Some(at), Some(later), ENTRIES),
    ] {
        let filter = AuditFilter {
            from,
            until,
            ..by("ann")
        };
        assert_eq!(found(filter).await, expected, "{from:?} {until:?}");
    }
}

/// Names of the workspaces and of the projects that a list shows.
async fn shown(db: &Db, organization: &OrganizationRecord, sight: &Sight) -> (Vec<String>, Vec<String>) {
    let mut connection = db.read().await.unwrap();
    let filter = WorkspaceFilter {
        sight: sight.clone(),
        ..WorkspaceFilter::default()
    };
    let order = WorkspaceOrder::Name;
    let (found, total) = workspaces::list(&mut connection, &organization.id, &filter, order, 20, 0)
        .await
        .unwrap();
    assert_eq!(found.len() as u64, total);
    let filter = ProjectFilter {
        sight: sight.clone(),
        ..ProjectFilter::default()
    };
    let (projects, total) = projects::list(&mut connection, &organization.id, &filter, 20, 0)
        .await
        .unwrap();
    assert_eq!(projects.len() as u64, total);
    let counts = overview::counts(&mut connection, &organization.id, sight, db.clock().now())
        .await
        .unwrap();
    assert_eq!((counts.workspaces, counts.projects), (found.len() as u64, total));
    (
        found.into_iter().map(|workspace| workspace.name).collect(),
        projects.into_iter().map(|project| project.name).collect(),
    )
}

pub(super) async fn teams(db: &Db) {
    let (ann, bob) = (user(db, "ann").await, user(db, "bob").await);
    let acme = organization(db, "acme", &ann).await;
    let (one, other) = (
        workspace(db, &acme, "one", &[]).await,
        workspace(db, &acme, "other", &[]).await,
    );
    let organization_id = acme.id.clone();
    let (team, project) = write!(db, [organization_id, bob, one], |tx| {
        memberships::add(tx, &organization_id, &bob).await?;
        let new = NewTeam {
            organization_id: organization_id.clone(),
            name: "developers".to_owned(),
            visibility: Visibility::Secret,
            organization_access: Map::new(),
        };
        let team = store_teams::create(tx, &new).await?;
        store_teams::add_member(tx, &team.id, &bob).await?;
        store_teams::grant_workspace(tx, &team.id, &one, WorkspaceRole::Plan).await?;
        let new = NewProject::new(organization_id.clone(), "Apart".to_owned(), false);
        (team, projects::create(tx, &new).await?)
    });
    let default = {
        let mut connection = db.read().await.unwrap();
        let grants = store_teams::grants(&mut connection, &acme.id, &bob)
            .await
            .unwrap()
            .unwrap();
        let default = projects::default_of(&mut connection, &acme.id).await.unwrap();
        assert!(!grants.owner);
        assert_eq!(
            grants.workspace_role(&one, &default.id),
            Some(WorkspaceRole::Plan)
        );
        assert_eq!(grants.workspace_role(&other, &default.id), None);
        default
    };
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let sight = Sight::GrantedTo(bob.clone());
    assert_eq!(
        shown(db, &acme, &sight).await,
        (owned(&["one"]), owned(&["Default Project"]))
    );
    let everything = (owned(&["one", "other"]), owned(&["Default Project", "Apart"]));
    assert_eq!(shown(db, &acme, &Sight::All).await, everything);
    let projects_seen = Sight::Projects(bob.clone());
    assert_eq!(
        shown(db, &acme, &projects_seen).await,
        (owned(&["one"]), everything.1.clone())
    );
    let (team_id, project_id, default_id) = (team.id.clone(), project.id.clone(), default.id.clone());
    write!(db, [team_id, project_id, default_id], |tx| {
        store_teams::grant_project(tx, &team_id, &project_id, ProjectRole::Read).await?;
        store_teams::grant_project(tx, &team_id, &default_id, ProjectRole::Maintain).await?;
    });
    assert_eq!(shown(db, &acme, &sight).await, everything);
    let mut connection = db.read().await.unwrap();
    let grants = store_teams::grants(&mut connection, &acme.id, &bob)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        grants.workspace_role(&one, &default.id),
        Some(WorkspaceRole::Admin)
    );
    drop(connection);
    let taken = db
        .write(move |tx| {
            let (team, project) = (team_id.clone(), project_id.clone());
            Box::pin(async move {
                store_teams::grant_project(tx, &team, &project, ProjectRole::Write).await?;
                Ok::<_, StoreError>(())
            })
        })
        .await;
    assert!(matches!(taken, Err(StoreError::Conflict)), "{taken:?}");
    write!(db, [organization_id, bob], |tx| {
        memberships::remove(tx, &organization_id, &bob).await?;
    });
    let mut connection = db.read().await.unwrap();
    assert!(
        store_teams::grants(&mut connection, &acme.id, &bob)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store_teams::members(&mut connection, &team.id)
            .await
            .unwrap()
            .is_empty()
    );
}
