//! Log ends, scheduling, objects and agents.

use terrapool_model::times::Times;
use terrapool_objects::ObjectKey;
use terrapool_store::error::StoreError;
use terrapool_store::{
    agents, artifacts, form_answers, host_memory, locks, logs, pool_minutes, state_copies, state_versions,
};
use terrapool_tfe::state;

use super::ReconcileError;
use crate::app::App;

/// Writes the end mark of every log whose phase is over, also of those that never began.
///
/// # Errors
/// [`ReconcileError`] when the database or the disk fails.
pub async fn seal_logs(app: &App) -> Result<(), ReconcileError> {
    let unsealed = logs::unsealed(&mut app.db.read().await?).await?;
    if unsealed.is_empty() {
        return Ok(());
    }
    let mut sizes = Vec::new();
    for log in unsealed {
        sizes.push((log.id.clone(), app.logs.seal(&log.id).await?));
    }
    app.db
        .write::<_, StoreError, _>(move |tx| {
            let sizes = sizes.clone();
            Box::pin(async move {
                for (id, size) in &sizes {
                    logs::sealed(tx, id, *size).await?;
                }
                Ok(())
            })
        })
        .await?;
    Ok(())
}

/// Schedules what waits for nothing any more. Changes do it themselves; this is for what they missed.
///
/// # Errors
/// [`ReconcileError`] when the database fails.
pub async fn schedule(app: &App) -> Result<(), ReconcileError> {
    let workspaces = locks::schedulable(&mut app.db.read().await?).await?;
    for workspace in workspaces {
        app.db
            .write::<_, StoreError, _>(move |tx| {
                let workspace = workspace.clone();
                Box::pin(async move { locks::schedule(tx, &workspace).await })
            })
            .await?;
    }
    Ok(())
}

/// Removes objects that nobody needs any more: plan archives of runs that have ended, and state copies that newer
/// ones have replaced.
///
/// # Errors
/// [`ReconcileError`] when the database or the object store fails.
pub async fn sweep_objects(app: &App) -> Result<(), ReconcileError> {
    for archive in artifacts::spent(&mut app.db.read().await?).await? {
        app.objects
            .delete(&ObjectKey::new(archive.object_key.clone())?)
            .await?;
        app.db
            .write::<_, StoreError, _>(move |tx| {
                let job = archive.job.clone();
                Box::pin(async move { artifacts::remove_archive(tx, &job).await })
            })
            .await?;
    }
    for (version, key) in state_copies::discarded_objects(&mut app.db.read().await?).await? {
        app.objects.delete(&ObjectKey::new(key)?).await?;
        app.db
            .write::<_, StoreError, _>(move |tx| {
                let version = version.clone();
                Box::pin(async move { state_copies::object_removed(tx, &version).await })
            })
            .await?;
    }
    Ok(())
}

/// Counts the resources of current states that runs delivered.
///
/// # Errors
/// [`ReconcileError`] when the database or the object store fails.
pub async fn count_resources(app: &App) -> Result<(), ReconcileError> {
    for version in state_versions::uncounted(&mut app.db.read().await?).await? {
        let Some(key) = version.object_key else { continue };
        let bytes = app
            .objects
            .get(&ObjectKey::new(key)?, version.id.as_str())
            .await?;
        let read = tokio::task::spawn_blocking(move || state::read(&bytes)).await;
        let resources = read
            .ok()
            .and_then(|read| read.contents)
            .map(|contents| contents.resource_count);
        let id = version.id;
        app.db
            .write::<_, StoreError, _>(move |tx| {
                let id = id.clone();
                Box::pin(async move { state_versions::counted(tx, &id, resources).await })
            })
            .await?;
    }
    Ok(())
}

/// Removes agents that were silent for a day, and what is not shown any more of their hosts' memory.
///
/// # Errors
/// [`ReconcileError`] when the database fails.
pub async fn remove_silent_agents(app: &App) -> Result<(), ReconcileError> {
    let silence = Times::default().agent_removed;
    let removed = app
        .db
        .write::<_, StoreError, _>(move |tx| {
            Box::pin(async move {
                host_memory::forget(tx).await?;
                agents::remove_silent(tx, silence).await
            })
        })
        .await?;
    if removed > 0 {
        tracing::info!(removed, "agents that were silent for long were removed");
    }
    Ok(())
}

/// While the database takes no writes: whether it does again. Pages say so until then, and nobody may write by chance.
pub async fn try_to_write(app: &App) {
    if app.db.read_only_since().is_none() {
        return;
    }
    // The database notes and logs itself how it went.
    let _ = app
        .db
        .write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                // A row that comes and goes is written, where a statement that changes nothing might not be.
                form_answers::claim(tx, b"try").await?;
                form_answers::release(tx, b"try").await
            })
        })
        .await;
}

/// Forgets what forms of the web UI were answered long ago.
///
/// # Errors
/// [`ReconcileError`] when the database fails.
pub async fn forget_form_answers(app: &App) -> Result<(), ReconcileError> {
    app.db
        .write::<_, StoreError, _>(|tx| Box::pin(form_answers::forget(tx)))
        .await?;
    Ok(())
}

/// Writes what each pool did in the minutes that are over, and forgets what is not shown any more.
///
/// # Errors
/// [`ReconcileError`] when the database fails.
pub async fn write_pool_minutes(app: &App) -> Result<(), ReconcileError> {
    loop {
        let unwritten = pool_minutes::unwritten(&mut app.db.read().await?, app.now()).await?;
        let Some(unwritten) = unwritten else { return Ok(()) };
        app.db
            .write::<_, StoreError, _>(move |tx| {
                let unwritten = unwritten.clone();
                Box::pin(async move { pool_minutes::write(tx, &unwritten).await })
            })
            .await?;
    }
}
