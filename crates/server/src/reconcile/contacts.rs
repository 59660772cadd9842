//! What agents told in memory reaches the database.

use terrapool_store::error::StoreError;
use terrapool_store::{agents, jobs};

use super::ReconcileError;
use crate::app::App;

/// Writes down the contacts and pings since the last time.
///
/// # Errors
/// [`ReconcileError`] when the database fails; the contacts are kept for the next time.
pub async fn flush_contacts(app: &App) -> Result<(), ReconcileError> {
    let (contacts, pings) = app.presence.take();
    if contacts.is_empty() && pings.is_empty() {
        return Ok(());
    }
    let (to_write, to_ping) = (contacts.clone(), pings.clone());
    let written = app
        .db
        .write::<_, StoreError, _>(move |tx| {
            let (contacts, pings) = (to_write.clone(), to_ping.clone());
            Box::pin(async move {
                jobs::flush_contacts(tx, &contacts).await?;
                agents::flush_pings(tx, &pings).await
            })
        })
        .await;
    if let Err(error) = written {
        app.presence.give_back(contacts, pings);
        // Silence that the database did not hear of is nobody's silence.
        app.presence.listen_anew();
        return Err(error.into());
    }
    Ok(())
}
