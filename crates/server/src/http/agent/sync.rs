//! `POST sync`: heartbeat, lease renewal, cancel channel and offers. Held while there is nothing to say.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use terrapool_model::id::JobId;
use terrapool_model::job::Desired;
use terrapool_model::sync::{self as table, Report};
use terrapool_model::time::Millis;
use terrapool_protocol::agent::{
    AttemptAnswer, AttemptKey, AttemptReport, AttemptStage, Offer, Sync, SyncMode, Synced, Verdict,
};
use terrapool_protocol::health::Health;
use terrapool_store::agents;
use terrapool_store::db::Hint;
use terrapool_store::error::StoreError;
use terrapool_store::installation;
use terrapool_store::jobs::{self, Ready};
use terrapool_store::pools::{self, PoolSettings};
use terrapool_store::runs::TransitionError;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::credentials::{self, Session};
use super::error::AgentApiError;
use super::register::{address, settings};
use crate::app::App;
use crate::presence::{RESERVATION, SelfReport};

pub(super) async fn sync(
    State(app): State<App>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    Json(request): Json<Sync>,
) -> Result<Json<Synced>, AgentApiError> {
    let mut session = match credentials::session(&app, &headers).await {
        Err(AgentApiError::OtherHistory) if !request.attempts.is_empty() => {
            return Ok(Json(surrendered(&app, request)));
        }
        other => other?,
    };
    let address = address(&headers, peer.map(|Extension(ConnectInfo(peer))| peer));
    superseded_heard(&app, &session, address).await?;
    // Subscribed before the first look, so that nothing between look and wait is missed.
    let mut hints = app.db.hints();
    let arrived = app.monotonic();
    heard(&app, &session, &request, arrived).await?;
    not_reported(&app, &session, &request).await?;
    let may_wait_for_work = request.capacity.free_slots > 0 && !request.draining;
    let waiting = may_wait_for_work.then(|| app.presence.waiting(&session.agent.pool_id));
    let mut until: Option<Instant> = None;
    let mut drain: Option<bool> = None;
    let started = Instant::now();
    loop {
        refuse_the_idle(&session, &request)?;
        let look = look(&app, &session, &request, arrived).await?;
        let until = *until.get_or_insert_with(|| {
            let hold = request.hold.min(look.settings.times.hold);
            started + hold.to_std()
        });
        let now = app.monotonic();
        let news = look.answers.iter().any(|(report, verdict)| {
            asks(report.stage, *verdict) && app.presence.is_news(&report.key, *verdict, now)
        }) || look.answers.iter().any(|(report, verdict)| {
            is_change(report.stage, *verdict) && !app.presence.was_told(&report.key, *verdict)
        });
        let is_over = Instant::now() >= until || !app.presence.holds();
        let drain_is_news = *drain.get_or_insert(look.drain) != look.drain;
        let unnamed = stops_unnamed(&app, &session, &request, now).await?;
        if news
            || unnamed
            || drain_is_news
            || !look.offers.is_empty()
            || look.mode_is_news(&request)
            || is_over
        {
            drop(waiting);
            return Ok(Json(answer(&app, look, now)));
        }
        let nap = until.min(Instant::now() + RESERVATION.to_std());
        tokio::select! {
            () = wait(&mut hints, &session, nap) => {}
            () = app.presence.stopped_holding() => {}
        }
        // Token, session and pool may have changed meanwhile.
        session = credentials::session(&app, &headers).await?;
    }
}

/// The answer to a process that registered in another history: what it holds is surrendered, and once it holds nothing
/// it has to register again.
fn surrendered(app: &App, request: Sync) -> Synced {
    let answers = request
        .attempts
        .into_iter()
        .map(|report| {
            let told = Report {
                phase: report.phase,
                generation: report.key.generation,
                attempt: report.key.attempt.clone(),
                stage: report.stage,
                incarnation_is_equal: false,
            };
            AttemptAnswer {
                verdict: table::answer(&told, None, false),
                key: report.key,
            }
        })
        .collect();
    Synced {
        answers,
        offers: Vec::new(),
        mode: SyncMode::FinishOnly,
        drain: false,
        settings: settings(&PoolSettings::default()),
        now: app.now(),
    }
}

/// A superseded process that is still heard is shown to people beside the newer one.
async fn superseded_heard(app: &App, session: &Session, address: String) -> Result<(), AgentApiError> {
    let noted = session.agent.superseded.as_ref().is_some_and(|other| {
        other.session == session.session && app.now() - other.last_ping_at < Millis::from_seconds(10)
    });
    if !session.is_superseded() || noted {
        return Ok(());
    }
    let (agent, number) = (session.agent.id.clone(), session.session);
    app.db
        .write::<_, StoreError, _>(move |tx| {
            let (agent, address) = (agent.clone(), address.clone());
            Box::pin(async move { agents::superseded_heard(tx, &agent, number, &address).await })
        })
        .await?;
    Ok(())
}

/// Superseded or revoked agents are served as long as they hold something.
fn refuse_the_idle(session: &Session, request: &Sync) -> Result<(), AgentApiError> {
    if !request.attempts.is_empty() {
        return Ok(());
    }
    if session.is_superseded() {
        return Err(AgentApiError::Superseded);
    }
    if session.token_is_valid {
        Ok(())
    } else {
        Err(AgentApiError::Unauthorized)
    }
}

/// Waits for a hint of the agent's pool, or until the time is over.
async fn wait(hints: &mut tokio::sync::broadcast::Receiver<Hint>, session: &Session, until: Instant) {
    loop {
        match tokio::time::timeout_at(until, hints.recv()).await {
            Ok(Ok(Hint::Pool(pool))) if pool == session.agent.pool_id => return,
            Ok(Ok(Hint::Pool(_) | Hint::Run(_) | Hint::Schedule)) => {}
            Ok(Err(RecvError::Lagged(_))) | Err(_) => return,
            Ok(Err(RecvError::Closed)) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                return;
            }
        }
    }
}

async fn heard(app: &App, session: &Session, request: &Sync, arrived: Millis) -> Result<(), AgentApiError> {
    if session.is_superseded() {
        return Ok(());
    }
    if request.draining && request.attempts.is_empty() {
        // It drains and holds nothing: it is about to end, or has nothing more to do here.
        if !session.agent.exited {
            let (agent, number) = (session.agent.id.clone(), session.session);
            app.db
                .write::<_, StoreError, _>(move |tx| {
                    let agent = agent.clone();
                    Box::pin(async move { agents::exited(tx, &agent, number).await })
                })
                .await?;
        }
        return Ok(());
    }
    let report = SelfReport {
        agent: session.agent.id.clone(),
        session: session.session,
        capacity: request.capacity,
        draining: request.draining,
        health: request.health.clone().map(Health::bounded),
    };
    app.presence.report(report, arrived);
    Ok(())
}

/// Jobs of an older process of this agent that the newer one does not name are given up, once they are silent.
async fn not_reported(app: &App, session: &Session, request: &Sync) -> Result<(), AgentApiError> {
    if session.is_superseded() || session.agent.jobs == 0 {
        return Ok(());
    }
    let held = jobs::held_by(&mut app.db.read().await?, &session.agent.id).await?;
    for job in held {
        let named = request.attempts.iter().any(|report| {
            job.row.is_of(report.key.generation, &report.key.attempt) && report.key.job == job.id
        });
        let older = job.row.session.is_none_or(|held| held < session.session);
        if named
            || !older
            || !app.presence.may_expire(
                Millis(2 * settings_of(app, session).await?.times.hold.0),
                app.monotonic(),
            )
        {
            continue;
        }
        let (id, number) = (job.id.clone(), session.session);
        let given_up = app
            .db
            .write::<_, TransitionError, _>(move |tx| {
                let id = id.clone();
                Box::pin(async move { jobs::not_reported(tx, &id, number).await })
            })
            .await;
        match given_up {
            Ok(()) => {
                tracing::warn!(
                    job = job.id.as_str(),
                    agent = session.agent.id.as_str(),
                    "a job was not reported"
                );
            }
            Err(TransitionError::NotFound | TransitionError::Refused(_)) => {}
            Err(TransitionError::Store(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether a job of this process that the request does not name is to stop: the process claimed it after it asked, and
/// has to ask again to be told. It is answered so once a second at most.
async fn stops_unnamed(
    app: &App,
    session: &Session,
    request: &Sync,
    now: Millis,
) -> Result<bool, AgentApiError> {
    if session.is_superseded() || session.agent.jobs == 0 {
        return Ok(false);
    }
    let mut unnamed = Vec::new();
    for job in jobs::held_by(&mut app.db.read().await?, &session.agent.id).await? {
        let stops = match job.row.desired {
            Desired::Run => false,
            Desired::Cancel | Desired::Kill => true,
        };
        let named = request.attempts.iter().any(|report| report.key.job == job.id);
        let Some(attempt) = job.row.attempt else { continue };
        if stops && !named && job.row.session == Some(session.session) {
            unnamed.push(AttemptKey {
                job: job.id,
                generation: job.row.generation,
                attempt,
            });
        }
    }
    // Noted as another verdict than the one that waits for it, which is news then.
    let news = unnamed
        .iter()
        .any(|key| app.presence.is_news(key, Verdict::Keep, now));
    if news {
        app.presence
            .tell(unnamed.into_iter().map(|key| (key, Verdict::Keep)), now);
    }
    Ok(news)
}

async fn settings_of(app: &App, session: &Session) -> Result<PoolSettings, AgentApiError> {
    let pool = pools::get(&mut app.db.read().await?, &session.agent.pool_id).await?;
    Ok(pool.map(|pool| pool.settings).unwrap_or_default())
}

/// What the database says now.
struct Look {
    answers: Vec<(AttemptReport, Verdict)>,
    offers: Vec<Ready>,
    mode: SyncMode,
    drain: bool,
    settings: PoolSettings,
}

impl Look {
    /// A process that thinks it may take work is told at once that it may not.
    fn mode_is_news(&self, request: &Sync) -> bool {
        match self.mode {
            SyncMode::Normal => false,
            SyncMode::FinishOnly => !request.draining && request.capacity.free_slots > 0,
        }
    }
}

async fn look(app: &App, session: &Session, request: &Sync, arrived: Millis) -> Result<Look, AgentApiError> {
    let mut connection = app.db.read().await?;
    let incarnation = installation::get(&mut connection)
        .await?
        .map_or(0, |installation| installation.incarnation);
    let ids: Vec<JobId> = request
        .attempts
        .iter()
        .map(|report| report.key.job.clone())
        .collect();
    let rows = jobs::reported(&mut connection, &ids).await?;
    let mut answers = Vec::new();
    for report in &request.attempts {
        let found = rows.get(&report.key.job);
        let row = found.map(|found| &found.row);
        let told = Report {
            phase: report.phase,
            generation: report.key.generation,
            attempt: report.key.attempt.clone(),
            stage: report.stage,
            incarnation_is_equal: report.incarnation == incarnation,
        };
        if table::renews(&told, row) {
            app.presence.contact(report.key.clone(), arrived);
        }
        let verdict = table::answer(&told, row, found.is_some_and(|found| found.epoch_is_runs));
        answers.push((report.clone(), verdict));
    }
    let mode = if session.is_superseded() || !session.token_is_valid || request.draining {
        SyncMode::FinishOnly
    } else {
        SyncMode::Normal
    };
    let settings = pools::get(&mut connection, &session.agent.pool_id)
        .await?
        .map(|pool| pool.settings)
        .unwrap_or_default();
    let offers = match mode {
        SyncMode::Normal
            if request.capacity.free_slots > 0
                && !session.agent.drain_wanted
                && settings.gives_to(session.agent.root_sandboxes) =>
        {
            let ready = jobs::ready(&mut connection, &session.agent.pool_id).await?;
            app.presence.reserve(
                &session.agent.pool_id,
                &session.agent.id,
                &request.capacity,
                ready,
                app.monotonic(),
            )
        }
        SyncMode::Normal | SyncMode::FinishOnly => Vec::new(),
    };
    Ok(Look {
        answers,
        offers,
        mode,
        drain: session.agent.drain_wanted,
        settings,
    })
}

/// Whether the verdict asks for something that the attempt has not begun to do.
fn asks(stage: AttemptStage, verdict: Verdict) -> bool {
    match (stage, verdict) {
        (
            AttemptStage::Preparing
            | AttemptStage::Running
            | AttemptStage::Stopping
            | AttemptStage::Delivering
            | AttemptStage::Returning,
            Verdict::Forget | Verdict::Surrender { .. },
        )
        | (
            AttemptStage::Preparing | AttemptStage::Running,
            Verdict::Cancel | Verdict::Kill | Verdict::Deliver,
        )
        | (AttemptStage::Stopping, Verdict::Deliver) => true,
        (
            AttemptStage::Preparing
            | AttemptStage::Running
            | AttemptStage::Stopping
            | AttemptStage::Delivering
            | AttemptStage::Returning,
            Verdict::Keep,
        )
        | (AttemptStage::Stopping, Verdict::Cancel | Verdict::Kill)
        | (
            AttemptStage::Delivering | AttemptStage::Returning,
            Verdict::Cancel | Verdict::Kill | Verdict::Deliver,
        ) => false,
    }
}

/// Whether a verdict may be an escalation that the attempt does not know of.
fn is_change(stage: AttemptStage, verdict: Verdict) -> bool {
    match (stage, verdict) {
        (AttemptStage::Stopping, Verdict::Kill) => true,
        (
            AttemptStage::Stopping,
            Verdict::Keep | Verdict::Cancel | Verdict::Deliver | Verdict::Forget | Verdict::Surrender { .. },
        )
        | (
            AttemptStage::Preparing
            | AttemptStage::Running
            | AttemptStage::Delivering
            | AttemptStage::Returning,
            Verdict::Keep
            | Verdict::Cancel
            | Verdict::Kill
            | Verdict::Deliver
            | Verdict::Forget
            | Verdict::Surrender { .. },
        ) => false,
    }
}

fn answer(app: &App, look: Look, now: Millis) -> Synced {
    let answers = look.answers;
    app.presence.tell(
        answers
            .iter()
            .map(|(report, verdict)| (report.key.clone(), *verdict)),
        now,
    );
    let network = look.settings.sandbox_network;
    Synced {
        answers: answers
            .into_iter()
            .map(|(report, verdict)| AttemptAnswer {
                key: report.key,
                verdict,
            })
            .collect(),
        offers: look
            .offers
            .into_iter()
            .map(|ready| Offer {
                job: ready.job,
                generation: ready.generation,
                run: ready.run,
                phase: ready.phase,
                limits: ready.limits,
                image: ready.image,
                network,
            })
            .collect(),
        mode: look.mode,
        drain: look.drain,
        settings: settings(&look.settings),
        now: app.now(),
    }
}
