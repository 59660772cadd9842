//! Chaos: everything is built, then `crates/testkit/examples/chaos` maltreats an installation of its own.

use std::process::ExitCode;

use crate::command::{cargo, check, program, target_dir};
use crate::{image, packages};

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    packages::ensure(&[
        packages::BUILD,
        packages::IMAGE,
        packages::TEST,
        packages::CONTAINERS,
    ])?;
    packages::ensure_terraform()?;
    check(cargo().args([
        "build",
        "--locked",
        "--package",
        "terrapool-server",
        "--package",
        "terrapool-agent",
        "--bins",
    ]))?;
    check(cargo().args([
        "build",
        "--locked",
        "--package",
        "terrapool-testkit",
        "--example",
        "chaos",
    ]))?;
    image::make("debug")?;
    let folder = target_dir().join("debug");
    let status = program(&folder.join("examples/chaos").to_string_lossy())
        .args(arguments)
        .env("TERRAPOOL_BIN_DIR", &folder)
        .env("TF_CLI_CONFIG_FILE", "/dev/null")
        .status()?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}
