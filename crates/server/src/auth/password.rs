//! Passwords: kept as PBKDF2 with SHA-256, `pbkdf2-sha256$<iterations>$<salt>$<key>` in base64.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use terrapool_protocol::secret::Secret;
use terrapool_store::db::Entropy;

const ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
const NAME: &str = "pbkdf2-sha256";
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(600_000) {
    Some(number) => number,
    None => NonZeroU32::MIN,
};

/// What is stored of a password. Takes a tenth of a second, so call it off the async threads.
pub fn hash(password: &Secret, entropy: &dyn Entropy) -> Secret {
    let salt = entropy.draw();
    let mut key = [0; 32];
    pbkdf2::derive(
        ALGORITHM,
        ITERATIONS,
        &salt,
        password.expose().as_bytes(),
        &mut key,
    );
    Secret::new(format!(
        "{NAME}${ITERATIONS}${}${}",
        BASE64.encode(salt),
        BASE64.encode(key)
    ))
}

/// Whether a password is the one that was stored.
pub fn verify(password: &Secret, stored: &Secret) -> bool {
    let mut parts = stored.expose().split('$');
    let (Some(NAME), Some(iterations), Some(salt), Some(key)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let (Ok(iterations), Ok(salt), Ok(key)) = (iterations.parse(), BASE64.decode(salt), BASE64.decode(key))
    else {
        return false;
    };
    pbkdf2::verify(ALGORITHM, iterations, &salt, password.expose().as_bytes(), &key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_is_accepted() {
        let stored = hash(&Secret::new("correct horse"), &terrapool_store::db::SystemEntropy);
        assert!(verify(&Secret::new("correct horse"), &stored));
        assert!(!verify(&Secret::new("correct horsf"), &stored));
        assert!(!verify(&Secret::new(""), &Secret::new("")));
    }
}
