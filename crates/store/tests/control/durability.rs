//! What a write leaves behind when its request goes away, it panics, or the server's defaults are lax.

use std::sync::Arc;
use std::time::Duration;

use terrapool_store::error::StoreError;
use terrapool_store::values;
use terrapool_testkit::database::{DatabaseKind, database};
use terrapool_testkit::wait::until;
use tokio::sync::Notify;

use crate::on_both;
use crate::support::{World, command};

async fn description(world: &World) -> Option<String> {
    world
        .read()
        .await
        .fetch_one(
            "SELECT description FROM workspaces WHERE id = $1",
            values![&world.workspace],
        )
        .await
        .unwrap()
        .opt_text("description")
        .unwrap()
}

async fn a_request_that_is_dropped_leaves_no_transaction_open(world: &World) {
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, outside) = (Arc::clone(&entered), Arc::clone(&go_on));
    let workspace = world.workspace.clone();
    let db = world.db.clone();
    let request = tokio::spawn(async move {
        db.write::<_, StoreError, _>(move |tx| {
            let (inside, outside, workspace) = (Arc::clone(&inside), Arc::clone(&outside), workspace.clone());
            Box::pin(async move {
                tx.execute(
                    "UPDATE workspaces SET description = 'whole' WHERE id = $1",
                    values![&workspace],
                )
                .await?;
                inside.notify_one();
                outside.notified().await;
                Ok(())
            })
        })
        .await
    });
    entered.notified().await;
    request.abort();
    assert!(request.await.is_err(), "the request is gone");
    go_on.notify_one();
    let whole = until(Duration::from_secs(60), async || {
        (description(world).await.as_deref() == Some("whole")).then_some(())
    })
    .await;
    assert!(whole.is_some(), "the command ran to its end without its request");
    // On PostgreSQL every connection of the pool is tried: none holds a transaction, or the row's lock.
    for number in 0..20 {
        command!(world, StoreError, [workspace = world.workspace.clone()], |tx| {
            let text = format!("number {number}");
            tx.execute(
                "UPDATE workspaces SET description = $2 WHERE id = $1",
                values![&workspace, text],
            )
            .await
        })
        .unwrap();
        assert_eq!(description(world).await, Some(format!("number {number}")));
    }
}

async fn a_command_that_panics_is_taken_back_and_the_next_one_works(world: &World) {
    let (db, workspace) = (world.db.clone(), world.workspace.clone());
    let panicked = tokio::spawn(async move {
        db.write::<(), StoreError, _>(move |tx| {
            let workspace = workspace.clone();
            Box::pin(async move {
                tx.execute(
                    "UPDATE workspaces SET description = 'half' WHERE id = $1",
                    values![&workspace],
                )
                .await?;
                panic!("a mistake in a command")
            })
        })
        .await
    })
    .await;
    assert!(!matches!(panicked, Ok(Ok(()))));
    command!(world, StoreError, [workspace = world.workspace.clone()], |tx| {
        tx.execute(
            "UPDATE workspaces SET updated_at = 7 WHERE id = $1",
            values![&workspace],
        )
        .await
    })
    .unwrap();
    assert_eq!(description(world).await, None);
}

on_both!(
    a_request_that_is_dropped_leaves_no_transaction_open,
    a_command_that_panics_is_taken_back_and_the_next_one_works,
);

#[tokio::test(flavor = "multi_thread")]
async fn interleaving_17_a_commit_on_postgres_is_durable_before_it_is_answered_whatever_the_servers_default_is()
 {
    // The test server's default is off.
    let database = database(DatabaseKind::Postgres).await;
    let show = "SELECT current_setting('synchronous_commit') AS setting";
    let default = database
        .db
        .read()
        .await
        .unwrap()
        .fetch_one(show, values![])
        .await
        .unwrap();
    assert_eq!(default.text("setting").unwrap(), "off");
    let setting = database
        .db
        .write::<_, StoreError, _>(move |tx| {
            Box::pin(async move { tx.fetch_one(show, values![]).await?.text("setting") })
        })
        .await
        .unwrap();
    assert_eq!(setting, "on");
}
