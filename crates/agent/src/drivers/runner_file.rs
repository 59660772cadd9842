//! The runner, built by this crate's build script.

/// The program.
pub(super) static BYTES: &[u8] = include_bytes!(env!("TERRAPOOL_RUNNER"));

/// Its name below [`terrapool_protocol::runner::BIN`]; another build has another one.
pub(super) const NAME: &str = concat!("terrapool-runner-", env!("TERRAPOOL_RUNNER_DIGEST"));
