//! Passwords: kept as Argon2id in the PHC format.

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, PasswordHash};
use terrapool_protocol::secret::Secret;
use terrapool_store::db::Entropy;
use tokio::sync::Semaphore;

/// Fewest characters of a password.
pub const SHORTEST: usize = 8;

/// Checks that run at once; each takes 19 MiB.
static CHECKS: Semaphore = Semaphore::const_new(2);

/// A password that could not be hashed.
#[derive(Debug, thiserror::Error)]
#[error("the password can't be hashed: {0}")]
pub struct HashError(String);

/// What is stored of a password. Takes a good part of a second, so call it off the async threads.
///
/// # Errors
/// [`HashError`] when the password is longer than the algorithm takes.
pub fn hash(password: &Secret, entropy: &dyn Entropy) -> Result<Secret, HashError> {
    Argon2::default()
        .hash_password_with_salt(password.expose().as_bytes(), &entropy.draw())
        .map(|hash| Secret::new(hash.to_string()))
        .map_err(|error| HashError(error.to_string()))
}

/// Whether a password is the one that was stored.
pub fn verify(password: &Secret, stored: &Secret) -> bool {
    PasswordHash::new(stored.expose()).is_ok_and(|stored| {
        Argon2::default()
            .verify_password(password.expose().as_bytes(), &stored)
            .is_ok()
    })
}

/// The same off the async threads. Without a stored password it takes as long, and the answer is no.
pub async fn check(password: Secret, stored: Option<Secret>) -> bool {
    // Of the empty password, which nobody can have.
    const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
        AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let Ok(_permit) = CHECKS.acquire().await else {
        return false;
    };
    let check = move || match stored {
        Some(stored) => verify(&password, &stored),
        None => {
            verify(&password, &Secret::new(NOBODY));
            false
        }
    };
    tokio::task::spawn_blocking(check).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_is_accepted() {
        let stored = hash(&Secret::new("correct horse"), &terrapool_store::db::SystemEntropy).unwrap();
        assert!(stored.expose().starts_with("$argon2id$"));
        assert!(verify(&Secret::new("correct horse"), &stored));
        assert!(!verify(&Secret::new("correct horsf"), &stored));
        assert!(!verify(&Secret::new(""), &Secret::new("")));
    }

    #[tokio::test]
    async fn somebody_without_a_password_cannot_sign_in() {
        assert!(!check(Secret::new(""), None).await);
    }
}
