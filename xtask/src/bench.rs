//! Measurements: release builds of everything, then `crates/testkit/examples/bench` against them.

use std::process::ExitCode;

use crate::command::{cargo, check, target_dir};
use crate::container_engine::ContainerEngine;
use crate::{image, packages};

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    packages::ensure(&[packages::BUILD, packages::IMAGE])?;
    if arguments.contains(&"capture") {
        packages::ensure(&[packages::CONTAINERS])?;
    }
    packages::ensure_terraform()?;
    check(cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "terrapool-server",
        "--package",
        "terrapool-agent",
        "--bins",
    ]))?;
    check(cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "terrapool-testkit",
        "--example",
        "bench",
    ]))?;
    let (_, tag) = image::make("release")?;
    let engine = ContainerEngine::obtain()?;
    let folder = target_dir().join("release");
    let status = crate::command::program(&folder.join("examples/bench").to_string_lossy())
        .args(arguments)
        .env("DOCKER_HOST", &engine.host)
        .env("TERRAPOOL_BIN_DIR", &folder)
        .env("TERRAPOOL_BENCH_IMAGE", tag)
        .env("TF_CLI_CONFIG_FILE", "/dev/null")
        .status()?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}
