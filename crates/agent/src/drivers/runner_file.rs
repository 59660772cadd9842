//! The runner, built by this crate's build script.

use flate2::read::DeflateDecoder;

/// Packed: what an agent has read of its own program stays in memory.
static PACKED: &[u8] = include_bytes!(env!("TERRAPOOL_RUNNER"));

/// Its name below [`terrapool_protocol::runner::BIN`]; another build has another one.
pub(super) const NAME: &str = concat!("terrapool-runner-", env!("TERRAPOOL_RUNNER_DIGEST"));

/// Its length in bytes, as the build script has it.
const LENGTH: &str = env!("TERRAPOOL_RUNNER_LENGTH");

/// How long the program is, in bytes.
pub(super) fn length() -> u64 {
    LENGTH.parse().unwrap_or(0)
}

/// The program, unpacked while it is read.
pub(super) fn open() -> impl std::io::Read + Send + 'static {
    DeflateDecoder::new(PACKED)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_unpacked_is_the_whole_program() {
        let mut program = Vec::new();
        open().read_to_end(&mut program).unwrap();
        assert_eq!(program.len() as u64, length());
        assert!(program.starts_with(b"\x7fELF"));
        assert!(PACKED.len() < program.len());
    }
}
