//! The demo: builds, then lets `terrapool demo` do the work.

use std::process::ExitCode;

use crate::command::{cargo, check, program, target_dir};
use crate::container_engine::ContainerEngine;
use crate::{image, packages};

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    packages::ensure(&[packages::BUILD, packages::IMAGE, packages::NATIVE])?;
    packages::ensure_terraform()?;
    check(cargo().args([
        "build",
        "--locked",
        "--package",
        "terrapool-server",
        "--package",
        "terrapool-agent",
    ]))?;
    // Without an engine the demo needs no image.
    if ContainerEngine::find().is_some() {
        image::make("debug")?;
    }
    let status = program(&target_dir().join("debug/terrapool").to_string_lossy())
        .arg("demo")
        .args(arguments)
        .status()?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}
