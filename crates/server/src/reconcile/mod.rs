//! Background work: functions without input that look at the database and bring things to where they should be. Each
//! may be run at any time and any number of times; hints wake them early and timers bound how late they are.

use std::future::Future;
use std::time::Duration;

use terrapool_store::db::Hint;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use crate::app::App;

mod brakes;
mod contacts;
mod leases;
mod sweeps;

pub use contacts::flush_contacts;
pub use leases::{Leases, end_quarantines};
pub use sweeps::{
    count_resources, forget_form_answers, remove_silent_agents, schedule, seal_logs, sweep_objects,
    try_to_write, write_pool_minutes,
};

/// Something that a reconciler could not do; it tries again at its next turn.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] terrapool_store::error::StoreError),
    /// A log could not be written.
    #[error("a log failed")]
    Log(#[from] crate::logs::LogError),
    /// An object could not be removed.
    #[error("an object failed")]
    Object(#[from] terrapool_objects::ObjectError),
}

/// The running reconcilers. They end when this is dropped.
#[derive(Debug)]
pub struct Reconcilers {
    tasks: JoinSet<()>,
}

impl Reconcilers {
    /// Ends them, after what agents told last was written down.
    pub async fn stop(mut self, app: &App) {
        self.tasks.shutdown().await;
        if let Err(error) = flush_contacts(app).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the last contacts were not written down"
            );
        }
    }
}

/// Starts all reconcilers.
pub fn start(app: App) -> Reconcilers {
    let mut tasks = JoinSet::new();
    app.presence.listen_anew(app.monotonic());
    let logs = app.logs.clone();
    tasks.spawn(async move { logs.sync_forever().await });
    tasks.spawn(timed(
        app.clone(),
        "contacts",
        Duration::from_secs(2),
        |app| async move { flush_contacts(&app).await },
    ));
    tasks.spawn(leases::run(app.clone(), Duration::from_secs(1)));
    tasks.spawn(woken(
        app.clone(),
        "logs",
        Duration::from_secs(5),
        is_run,
        |app| async move { seal_logs(&app).await },
    ));
    tasks.spawn(woken(
        app.clone(),
        "schedule",
        Duration::from_secs(10),
        is_schedule,
        |app| async move { schedule(&app).await },
    ));
    tasks.spawn(timed(
        app.clone(),
        "objects",
        Duration::from_secs(30),
        |app| async move { sweep_objects(&app).await },
    ));
    tasks.spawn(woken(
        app.clone(),
        "resources",
        Duration::from_secs(30),
        is_schedule,
        |app| async move { count_resources(&app).await },
    ));
    tasks.spawn(timed(
        app.clone(),
        "forms",
        Duration::from_secs(600),
        |app| async move { forget_form_answers(&app).await },
    ));
    tasks.spawn(woken(
        app.clone(),
        "pool minutes",
        Duration::from_secs(60),
        |_| false,
        |app| async move { write_pool_minutes(&app).await },
    ));
    tasks.spawn(timed(
        app.clone(),
        "writability",
        Duration::from_secs(5),
        |app| async move {
            try_to_write(&app).await;
            Ok(())
        },
    ));
    tasks.spawn(timed(app, "agents", Duration::from_secs(60), |app| async move {
        remove_silent_agents(&app).await
    }));
    Reconcilers { tasks }
}

fn is_run(hint: &Hint) -> bool {
    match hint {
        Hint::Run(_) => true,
        Hint::Pool(_) | Hint::Schedule => false,
    }
}

fn is_schedule(hint: &Hint) -> bool {
    match hint {
        Hint::Schedule => true,
        Hint::Pool(_) | Hint::Run(_) => false,
    }
}

fn report(name: &'static str, result: Result<(), ReconcileError>) {
    if let Err(error) = result {
        tracing::error!(
            reconciler = name,
            error = &error as &dyn std::error::Error,
            "background work failed"
        );
    }
}

/// Runs at each tick.
async fn timed<F, R>(app: App, name: &'static str, each: Duration, run: F)
where
    F: Fn(App) -> R + Send,
    R: Future<Output = Result<(), ReconcileError>> + Send,
{
    loop {
        tokio::time::sleep(each).await;
        report(name, run(app.clone()).await);
    }
}

/// Runs at the start, at each hint that concerns it, and at each tick.
async fn woken<F, R>(app: App, name: &'static str, each: Duration, concerns: fn(&Hint) -> bool, run: F)
where
    F: Fn(App) -> R + Send,
    R: Future<Output = Result<(), ReconcileError>> + Send,
{
    let mut hints = app.db.hints();
    loop {
        report(name, run(app.clone()).await);
        let deadline = tokio::time::Instant::now() + each;
        loop {
            match tokio::time::timeout_at(deadline, hints.recv()).await {
                Ok(Ok(hint)) if concerns(&hint) => break,
                Ok(Ok(_)) => {}
                Ok(Err(RecvError::Lagged(_))) | Err(_) => break,
                Ok(Err(RecvError::Closed)) => return,
            }
        }
    }
}
