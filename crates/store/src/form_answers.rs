//! Forms of the web UI that were sent: what each was answered, so that one that is sent twice does its work once.

use terrapool_model::time::{Millis, Timestamp};

use crate::db::{Connection, Row, Tx};
use crate::error::StoreError;
use crate::values;

/// An answer is kept for so long: a form that is sent again later does its work again.
pub const KEPT: Millis = Millis::from_seconds(24 * 3600);

/// What a form was answered, without the page: that one may show a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormAnswer {
    /// The status.
    pub status: u16,
    /// Where it led.
    pub location: Option<String>,
    /// The values of its `Set-Cookie` headers.
    pub cookies: Vec<String>,
}

/// A form that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Timestamp,
    /// Its answer; `None` while its work is being done, and when the server ended before it was.
    pub answer: Option<FormAnswer>,
}

fn read(row: &Row) -> Result<Sent, StoreError> {
    let corrupt = |column: &str, found: String| StoreError::Corrupt {
        column: column.to_owned(),
        found,
    };
    let answer = match row.opt_int("status")? {
        None => None,
        Some(status) => {
            let cookies = row.text("cookies")?;
            Some(FormAnswer {
                status: u16::try_from(status).map_err(|_| corrupt("status", status.to_string()))?,
                location: row.opt_text("location")?,
                cookies: serde_json::from_str(&cookies).map_err(|_| corrupt("cookies", cookies))?,
            })
        }
    };
    Ok(Sent {
        at: row.time("created_at")?,
        answer,
    })
}

/// What is known of the form with a digest.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn get(connection: &mut Connection, digest: &[u8]) -> Result<Option<Sent>, StoreError> {
    connection
        .fetch_optional(
            "SELECT created_at, status, location, cookies FROM form_answers WHERE digest = $1",
            values![digest],
        )
        .await?
        .as_ref()
        .map(read)
        .transpose()
}

/// Takes a form's work. `None` when it is the caller's to do; else what is known of it.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn claim(tx: &mut Tx, digest: &[u8]) -> Result<Option<Sent>, StoreError> {
    let now = tx.now();
    let claimed = tx
        .execute(
            "INSERT INTO form_answers (digest, created_at) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING",
            values![digest, now],
        )
        .await?;
    if claimed > 0 {
        return Ok(None);
    }
    get(tx, digest).await
}

/// Keeps the answer to a form whose work was done.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn answer(tx: &mut Tx, digest: &[u8], answer: &FormAnswer) -> Result<(), StoreError> {
    let cookies = serde_json::json!(answer.cookies).to_string();
    tx.execute(
        "UPDATE form_answers SET status = $2, location = $3, cookies = $4 WHERE digest = $1",
        values![
            digest,
            u32::from(answer.status),
            answer.location.as_deref(),
            cookies
        ],
    )
    .await?;
    Ok(())
}

/// Gives a form's work back: it was refused or failed, and may be sent again.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn release(tx: &mut Tx, digest: &[u8]) -> Result<(), StoreError> {
    tx.execute("DELETE FROM form_answers WHERE digest = $1", values![digest])
        .await?;
    Ok(())
}

/// Forgets the answers of forms that were sent longer than [`KEPT`] ago; returns how many.
///
/// # Errors
/// [`StoreError`] when the database fails.
pub async fn forget(tx: &mut Tx) -> Result<u64, StoreError> {
    let before = Timestamp(tx.now().0 - i64::try_from(KEPT.0).unwrap_or(i64::MAX));
    tx.execute("DELETE FROM form_answers WHERE created_at < $1", values![before])
        .await
}
