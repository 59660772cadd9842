//! Measurements: release builds of everything, then `crates/testkit/examples/bench` against them.

use std::process::ExitCode;

use anyhow::bail;

use crate::command::{cargo, check, target_dir};
use crate::container_engine::ContainerEngine;
use crate::package::AGENT_PROFILE;
use crate::{image, packages};

/// What can be measured, in the order in which the example does it.
const MEASUREMENTS: [&str; 7] = [
    "capture", "start", "handover", "small", "large", "memory", "pages",
];

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    // Said before anything is built for minutes.
    if let Some(unknown) = arguments.iter().find(|name| !MEASUREMENTS.contains(name)) {
        bail!(
            "there is no measurement {unknown:?}; name some of {}",
            MEASUREMENTS.join(", ")
        );
    }
    packages::ensure(&[packages::BUILD, packages::IMAGE])?;
    if arguments.contains(&"capture") {
        packages::ensure(&[packages::CONTAINERS])?;
    }
    packages::ensure_terraform()?;
    // Each as it is shipped.
    let programs = [
        ("terrapool-server", "terrapool", "release"),
        ("terrapool-agent", "terrapool-agent", AGENT_PROFILE),
    ];
    let folder = target_dir().join("bench");
    std::fs::create_dir_all(&folder)?;
    for (package, binary, profile) in programs {
        let mut build = cargo();
        build.args([
            "build",
            "--locked",
            "--profile",
            profile,
            "--package",
            package,
            "--bins",
        ]);
        check(&mut build)?;
        std::fs::copy(target_dir().join(profile).join(binary), folder.join(binary))?;
    }
    check(cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "terrapool-testkit",
        "--example",
        "bench",
    ]))?;
    let (_, tag) = image::make("bench")?;
    let engine = ContainerEngine::obtain()?;
    let program = target_dir().join("release/examples/bench");
    let status = crate::command::program(&program.to_string_lossy())
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
