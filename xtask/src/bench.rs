//! Measurements.

use std::process::ExitCode;

pub(crate) fn run(_arguments: &[&str]) -> anyhow::Result<ExitCode> {
    anyhow::bail!("there is no measurement yet")
}
