//! Debian systems that packages are installed into by the tests, made from its archive.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::command::{check, find_program, output, program, target_dir};
use crate::container_engine::ContainerEngine;
use crate::packages;

/// What a host has before the packages come: systemd, the engine that they depend on, and tools of the tests.
const HOST: &str =
    "systemd,systemd-sysv,dbus,procps,iproute2,iptables,docker.io,ca-certificates,passwd,kmod,socat,curl";

/// The systems.
pub(crate) struct Systems {
    /// Debian 12 with systemd, as an archive of its root folder.
    pub(crate) host: PathBuf,
    /// The same, as a tag of an image in the container engine.
    pub(crate) image: String,
}

impl Systems {
    /// Makes what is missing.
    pub(crate) fn obtain(engine: &ContainerEngine) -> anyhow::Result<Self> {
        packages::ensure(&[packages::SYSTEMS])?;
        let host = bootstrap("bookworm", "bookworm", "apt", HOST)?;
        let image = "terrapool-test/system:bookworm".to_owned();
        let docker = find_program("docker").context("the docker client is not installed")?;
        let mut import = program(&docker.to_string_lossy());
        import
            .args(["import"])
            .arg(&host)
            .arg(&image)
            .env("DOCKER_HOST", &engine.host);
        output(&mut import)?;
        Ok(Self { host, image })
    }
}

/// Makes a system of a suite and a variant with further packages, unless that was done before, and names its archive.
pub(crate) fn bootstrap(name: &str, suite: &str, variant: &str, include: &str) -> anyhow::Result<PathBuf> {
    let folder = target_dir().join("tools/systems");
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{name}.tar"));
    let recipe = folder.join(format!("{name}.recipe"));
    let wanted = format!("{suite} {variant} {include}\n");
    if archive.exists() && std::fs::read_to_string(&recipe).is_ok_and(|made| made == wanted) {
        return Ok(archive);
    }
    let temporary = folder.join(format!("{name}.new.tar"));
    let mut mmdebstrap = program("mmdebstrap");
    mmdebstrap
        .arg("--quiet")
        .arg(format!("--variant={variant}"))
        .arg(format!("--include={include}"))
        .args([
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
        ])
        .arg(suite)
        .arg(&temporary);
    check(&mut mmdebstrap)?;
    std::fs::rename(&temporary, &archive)?;
    std::fs::write(&recipe, wanted)?;
    Ok(archive)
}
