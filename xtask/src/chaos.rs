//! Chaos: everything is built, then `crates/testkit/examples/chaos` maltreats an installation of its own.

use std::process::{Command, ExitCode};

use anyhow::bail;

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
    let status = example().args(arguments).status()?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

/// What is built, as a program.
fn example() -> Command {
    let folder = target_dir().join("debug");
    let mut example = program(&folder.join("examples/chaos").to_string_lossy());
    example
        .env("TERRAPOOL_BIN_DIR", &folder)
        .env("TF_CLI_CONFIG_FILE", "/dev/null");
    example
}

/// Every kind of fault once, in an order that is always the same. Programs and the sandboxes' image are built.
pub(crate) fn short() -> anyhow::Result<()> {
    packages::ensure(&[packages::CONTAINERS])?;
    if !packages::is_root() {
        bail!("the container engine that is killed here needs root: sudo cargo xtask test");
    }
    // As the tests have built it, with the features of the whole workspace.
    check(cargo().args(["build", "--locked", "--workspace", "--example", "chaos"]))?;
    check(example().args(["--minutes", "2", "--rounds", "1", "--seed", "1", "--postgres"]))
}
