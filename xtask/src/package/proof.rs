//! What is promised of packages, tried: the same bytes each time, and programs that run on old systems.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::tools::Nfpm;
use super::{Job, assemble};
use crate::command::{check, output, program, target_dir};
use crate::{packages, systems};

/// Makes everything once more of the same programs, and fails unless each file has the same bytes.
pub(super) fn same_bytes(job: &Job, tools: &Nfpm) -> anyhow::Result<()> {
    let again = Job {
        architecture: job.architecture,
        version: job.version.clone(),
        epoch: job.epoch,
        stage: job.stage.clone(),
        folder: target_dir().join("package/again"),
    };
    assemble(&again, tools)?;
    let sums = |job: &Job| std::fs::read_to_string(job.folder.join("SHA256SUMS"));
    let (first, second) = (sums(job)?, sums(&again)?);
    let others: Vec<&str> = first
        .lines()
        .filter(|line| !second.lines().any(|other| other == *line))
        .collect();
    if !others.is_empty() || first.lines().count() != second.lines().count() {
        bail!(
            "made twice, these have other bytes in {}:\n{}",
            again.folder.display(),
            others.join("\n")
        );
    }
    eprintln!(
        "    {} files, made twice, have the same bytes",
        first.lines().count()
    );
    Ok(std::fs::remove_dir_all(&again.folder)?)
}

/// Starts both programs with the C library of Debian 11 (2.31), the oldest that Debian's archive still has.
pub(super) fn runs_on_old_glibc(job: &Job) -> anyhow::Result<()> {
    packages::ensure(&[packages::SYSTEMS])?;
    let archive = systems::bootstrap("bullseye", "bullseye", "extract", "libc6")?;
    let root = tempfile::tempdir()?;
    let mut tar = program("tar");
    tar.args(["--exclude=./dev/*", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(root.path());
    check(&mut tar)?;
    for binary in ["terrapool-agent", "terrapool"] {
        let copied: PathBuf = root.path().join(binary);
        std::fs::copy(job.stage.join(binary), &copied)
            .with_context(|| format!("{binary} cannot be copied"))?;
        let mut chroot = program("chroot");
        chroot.arg(root.path()).arg(format!("/{binary}")).arg("--version");
        let shown = output(&mut chroot)?;
        eprintln!("    on glibc 2.31: {}", shown.trim());
    }
    Ok(())
}
