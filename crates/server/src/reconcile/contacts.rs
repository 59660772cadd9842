//! What agents told in memory reaches the database.

use terrapool_model::time::{Millis, Timestamp};
use terrapool_store::agents::Ping;
use terrapool_store::error::StoreError;
use terrapool_store::jobs::Contact;
use terrapool_store::{agents, jobs};

use super::ReconcileError;
use crate::app::App;
use crate::presence::{Heard, Unwritten};

/// Writes down the contacts and pings since the last time.
///
/// # Errors
/// [`ReconcileError`] when the database fails; the contacts are kept for the next time.
pub async fn flush_contacts(app: &App) -> Result<(), ReconcileError> {
    let unwritten = app.presence.take();
    if unwritten.contacts.is_empty() && unwritten.reports.is_empty() {
        return Ok(());
    }
    if let Err(error) = write(app, &unwritten).await {
        app.presence.give_back(unwritten);
        // Silence that the database did not hear of is nobody's silence.
        app.presence.listen_anew(app.monotonic());
        return Err(error.into());
    }
    Ok(())
}

async fn write(app: &App, unwritten: &Unwritten) -> Result<(), StoreError> {
    // Agents are heard by this machine's clock, and leases end by the database's: what both agree on is an age.
    let (now, monotonic) = (app.db.time().await?, app.monotonic());
    let contacts: Vec<Contact> = unwritten
        .contacts
        .iter()
        .map(|heard| Contact {
            job: heard.what.job.clone(),
            generation: heard.what.generation,
            attempt: heard.what.attempt.clone(),
            at: moment(heard, now, monotonic),
        })
        .collect();
    let pings: Vec<Ping> = unwritten
        .reports
        .iter()
        .map(|heard| Ping {
            agent: heard.what.agent.clone(),
            session: heard.what.session,
            at: moment(heard, now, monotonic),
            capacity: heard.what.capacity,
            draining: heard.what.draining,
            health: heard.what.health.clone(),
        })
        .collect();
    app.db
        .write(move |tx| {
            let (contacts, pings) = (contacts.clone(), pings.clone());
            Box::pin(async move {
                jobs::flush_contacts(tx, &contacts).await?;
                agents::flush_pings(tx, &pings).await
            })
        })
        .await
}

fn moment<T>(heard: &Heard<T>, now: Timestamp, monotonic: Millis) -> Timestamp {
    let age = monotonic.0.saturating_sub(heard.at.0);
    Timestamp(now.0.saturating_sub(i64::try_from(age).unwrap_or(i64::MAX)))
}
