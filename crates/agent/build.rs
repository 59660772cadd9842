//! Builds the runner as a static program, to be carried inside the agent.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let workspace = manifest.join("../..");
    for input in [
        "crates/runner",
        "crates/protocol",
        "crates/model",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let target = format!("{architecture}-unknown-linux-gnu");
    let folder = PathBuf::from(variable("OUT_DIR")).join("runner");
    build(&workspace, &target, &folder);
    let binary = folder.join(&target).join("release/terrapool-runner");
    // Known here, so that the agent need not read, and keep in memory, what it carries.
    let content = std::fs::read(&binary).unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hasher::write(&mut hasher, &content);
    let digest = std::hash::Hasher::finish(&hasher);
    println!("cargo::rustc-env=TERRAPOOL_RUNNER_DIGEST={digest:016x}");
    println!("cargo::rustc-env=TERRAPOOL_RUNNER_LENGTH={}", content.len());
    let packed = folder.join("terrapool-runner.deflate");
    pack(&content, &packed).unwrap_or_else(|error| panic!("{}: {error}", packed.display()));
    println!("cargo::rustc-env=TERRAPOOL_RUNNER={}", packed.display());
}

fn pack(content: &[u8], to: &Path) -> std::io::Result<()> {
    let file = std::fs::File::create(to)?;
    let mut packer = flate2::write::DeflateEncoder::new(file, flate2::Compression::best());
    packer.write_all(content)?;
    packer.finish()?.sync_all()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// A build of its own: nothing that this build was told (flags, wrappers, target) may reach it.
fn build(workspace: &Path, target: &str, folder: &Path) {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .current_dir(workspace)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "terrapool-runner",
            "--target",
            target,
        ])
        .arg("--target-dir")
        .arg(folder);
    let inherited = [
        "RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CC",
        "AR",
        "CFLAGS",
        "TARGET",
        "HOST",
        "OUT_DIR",
    ];
    for (name, _) in std::env::vars() {
        let of_cargo =
            name.starts_with("CARGO_") && name != "CARGO_HOME" && !name.starts_with("CARGO_REGISTRIES");
        if of_cargo || inherited.contains(&name.as_str()) {
            cargo.env_remove(name);
        }
    }
    // Where it is built does not show in it: the same sources give the same bytes.
    let home = std::env::var("CARGO_HOME").unwrap_or_else(|_| variable("HOME") + "/.cargo");
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        format!(
            "-Ctarget-feature=+crt-static\u{1f}--remap-path-prefix={home}=/cargo\u{1f}--remap-path-prefix={}=/terrapool",
            workspace.display()
        ),
    );
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("building the runner for {target} failed: {status}"),
        Err(error) => panic!("cargo could not be started to build the runner: {error}"),
    }
}
