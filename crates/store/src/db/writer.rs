//! The one writer of a SQLite database: commands queue up, run each in a savepoint, and are committed as a group.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::SqlitePool;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::connection::{Connection, Hint, Inner, Tx};
use super::origin::{self, Origin};
use super::writability::Writability;
use super::{Clock, Entropy};
use crate::error::StoreError;

/// Commands committed together at most. More only makes the first one wait.
const GROUP: usize = 64;

/// How often a transaction is begun again while another process holds the database.
const BUSY_TRIES: u32 = 20;

pub(super) trait Command: Send {
    /// Runs against the open transaction. `false`: the command refused, take back what it wrote.
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool>;
    /// Gives the caller the result, or the reason why nothing was committed.
    fn answer(self: Box<Self>, committed: Result<(), Failure>);
}

/// A command, its result once it ran, and who waits for it.
pub(super) struct Pending<T, E, F> {
    command: F,
    origin: Option<Arc<Origin>>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Pending<T, E, F> {
    /// A command that is made for the request that is worked on now.
    pub(super) fn new(command: F, reply: oneshot::Sender<Result<T, E>>) -> Self {
        Self {
            command,
            origin: origin::current(),
            result: None,
            reply,
        }
    }
}

impl<T, E, F> Command for Pending<T, E, F>
where
    T: Send,
    E: Send + From<StoreError>,
    F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + Sync,
{
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            tx.origin.clone_from(&self.origin);
            // The writer outlives a command that panics; whoever sent it is told that it did not run.
            let Ok(result) = AssertUnwindSafe((self.command)(tx)).catch_unwind().await else {
                tracing::error!("a command panicked; what it wrote is taken back");
                return false;
            };
            let keep = result.is_ok();
            self.result = Some(result);
            keep
        })
    }

    fn answer(self: Box<Self>, committed: Result<(), Failure>) {
        let answer = match (committed, self.result) {
            // A refusal changed nothing, so it stands whatever became of the group.
            (_, Some(Err(refusal))) => Err(refusal),
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(StoreError::Unavailable {
                context: "the command did not run".to_owned(),
                source: None,
            }
            .into()),
            (Err(failure), _) => Err(failure.into_error().into()),
        };
        // Nobody waits any more when the request was dropped; the commit stands all the same.
        let _ = self.reply.send(answer);
    }
}

/// Starts the writer. It ends when all senders are gone.
pub(super) fn start(
    pool: SqlitePool,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    hints: broadcast::Sender<Hint>,
    writability: Writability,
) -> mpsc::Sender<Box<dyn Command>> {
    let (sender, mut receiver) = mpsc::channel::<Box<dyn Command>>(1024);
    tokio::spawn(async move {
        while let Some(first) = receiver.recv().await {
            let mut group = vec![first];
            let outcome = write_group(&pool, clock.as_ref(), &entropy, &mut group, &mut receiver).await;
            writability.note(outcome.as_ref().err(), || clock.now());
            let (committed, to_send) = match outcome {
                Ok(to_send) => (Ok(()), to_send),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a write could not be committed"
                    );
                    (Err(Failure::of(&error)), Vec::new())
                }
            };
            for command in group {
                command.answer(committed.clone());
            }
            for hint in to_send {
                // No receiver is fine: nobody waits for hints.
                let _ = hints.send(hint);
            }
        }
    });
    sender
}

/// Why a group was not committed, for each of its commands.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    context: String,
    storage_full: bool,
}

impl Failure {
    fn of(error: &StoreError) -> Self {
        Self {
            context: describe(error),
            storage_full: error.is_storage_full(),
        }
    }

    fn into_error(self) -> StoreError {
        let (context, source) = (self.context, None);
        if self.storage_full {
            StoreError::StorageFull { context, source }
        } else {
            StoreError::Unavailable { context, source }
        }
    }
}

fn describe(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn write_group(
    pool: &SqlitePool,
    clock: &dyn Clock,
    entropy: &Arc<dyn Entropy>,
    group: &mut Vec<Box<dyn Command>>,
    receiver: &mut mpsc::Receiver<Box<dyn Command>>,
) -> Result<Vec<Hint>, StoreError> {
    let connection = pool
        .acquire()
        .await
        .map_err(|source| StoreError::from_driver("connecting", source))?;
    let mut tx = Tx {
        connection: Connection {
            inner: Inner::Sqlite(connection),
        },
        now: clock.now(),
        entropy: Arc::clone(entropy),
        hints: Vec::new(),
        origin: None,
    };
    begin(&mut tx).await?;
    tx.now = clock.now();
    let mut next = 0;
    let ran = loop {
        if let Err(error) = run_one(&mut tx, &mut group[next]).await {
            break Err(error);
        }
        next += 1;
        if next == group.len() {
            if group.len() == GROUP {
                break Ok(());
            }
            match receiver.try_recv() {
                Ok(command) => group.push(command),
                Err(_) => break Ok(()),
            }
        }
    };
    let committed = match ran {
        Ok(()) => tx.execute("COMMIT", Vec::new()).await.map(|_| ()),
        Err(error) => Err(error),
    };
    if let Err(error) = committed {
        // The connection may hold an open transaction; a fresh one is safer than trusting ROLLBACK on a full disk.
        if tx.execute("ROLLBACK", Vec::new()).await.is_err()
            && let Inner::Sqlite(connection) = tx.connection.inner
        {
            let _ = connection.close().await;
        }
        return Err(error);
    }
    Ok(tx.hints)
}

async fn begin(tx: &mut Tx) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        match tx.execute("BEGIN IMMEDIATE", Vec::new()).await {
            Ok(_) => return Ok(()),
            // `terrapool admin` may hold the database for a moment.
            Err(error) if error.is_unavailable() && tries < BUSY_TRIES => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn run_one(tx: &mut Tx, command: &mut Box<dyn Command>) -> Result<(), StoreError> {
    tx.execute("SAVEPOINT command", Vec::new()).await?;
    let hints_before = tx.hints.len();
    if command.run(tx).await {
        tx.execute("RELEASE command", Vec::new()).await?;
    } else {
        tx.hints.truncate(hints_before);
        tx.execute("ROLLBACK TO command", Vec::new()).await?;
        tx.execute("RELEASE command", Vec::new()).await?;
    }
    Ok(())
}
