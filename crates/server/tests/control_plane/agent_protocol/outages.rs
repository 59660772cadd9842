//! The database goes away for a while.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;
use tempfile::TempDir;
use terrapool_model::run::RunStatus;
use terrapool_model::time::Millis;
use terrapool_server::reconcile::{self, Leases};
use terrapool_testkit::database::{DatabaseKind, database, open};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::support::{eventually, plane_on};

/// A door between the control plane and PostgreSQL's socket.
struct Door {
    open: watch::Sender<bool>,
    folder: TempDir,
}

const SOCKET: &str = ".s.PGSQL.5432";

impl Door {
    fn to(socket: PathBuf) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        let (open, watched) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut outside, _)) = listener.accept().await {
                let (socket, mut watched) = (socket.clone(), watched.clone());
                if !*watched.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut inside) = UnixStream::connect(socket).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut outside, &mut inside) => {}
                        _ = watched.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { open, folder }
    }

    fn set(&self, open: bool) {
        self.open.send_replace(open);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_requests_are_told_so_and_afterwards_everything_goes_on() {
    let mut database = database(DatabaseKind::Postgres).await;
    let (before, socket) = database.address.split_once("?host=").unwrap();
    let door = Door::to(PathBuf::from(socket).join(SOCKET));
    let address = format!("{before}?host={}", door.folder.path().display());
    database.db = open(&address).await;
    let plane = plane_on(database).await;
    let mut agent = plane.agent("one").await;
    let (run, plan) = plane.planning(&mut agent, plane.seed.new_run()).await;

    door.set(false);
    let path = format!("workspaces/{}", plane.seed.workspace);
    let answer = plane.api("GET", &path, None).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let locked = plane
        .api("POST", &format!("{path}/actions/lock"), Some(json!({})))
        .await;
    assert_eq!(locked.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        agent.try_sync(Millis::ZERO).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let mut leases = Leases::new();
    assert!(leases.expire(&plane.app).await.is_err());
    assert!(reconcile::seal_logs(&plane.app).await.is_err());

    door.set(true);
    let synced = eventually("the agent is heard again", async || {
        let answer = agent.try_sync(Millis::ZERO).await;
        answer
            .status
            .is_success()
            .then(|| answer.json::<terrapool_protocol::agent::Synced>())
    })
    .await;
    assert_eq!(synced.answers.len(), 1);
    // Nobody was listened to meanwhile, so nobody was silent.
    assert!(
        !plane
            .app
            .presence
            .may_expire(Millis::from_seconds(3600), plane.app.monotonic())
    );
    leases.expire(&plane.app).await.unwrap();
    assert_eq!(plane.run(&run).await.status, RunStatus::Planning);
    plane.end_plan(&mut agent, &plan).await;
    // The reconcilers went on by themselves: this log is ended by one of them.
    plane.ended_log(run.plan_id.as_str()).await;
    tokio::time::timeout(Duration::from_secs(60), plane.api("GET", &path, None))
        .await
        .unwrap();
}
