//! What the machine has to have, installed by its package manager when that is possible.

use std::path::Path;

use anyhow::bail;

use crate::command::{check, find_program, program};

/// Something a task needs: how to tell that it is there, and the Debian package that brings it.
pub(crate) struct Need {
    /// A program on PATH, or a file.
    pub(crate) sign: &'static str,
    /// The package.
    pub(crate) package: &'static str,
}

const fn need(sign: &'static str, package: &'static str) -> Need {
    Need { sign, package }
}

/// To build.
pub(crate) const BUILD: &[Need] = &[
    need("cc", "gcc"),
    need("cmake", "cmake"),
    need("objdump", "binutils"),
];
/// To make the sandboxes' image.
pub(crate) const IMAGE: &[Need] = &[
    need("/bin/busybox", "busybox-static"),
    need("git", "git"),
    need("ssh", "openssh-client"),
    need("bash", "bash"),
    need("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];
/// To run containers.
pub(crate) const CONTAINERS: &[Need] = &[need("dockerd", "docker.io"), need("iptables", "iptables")];
/// To connect sandboxes that need no container engine.
pub(crate) const NATIVE: &[Need] = &[need("ip", "iproute2"), need("iptables", "iptables")];
/// To make systems that packages are installed into.
pub(crate) const SYSTEMS: &[Need] = &[
    need("mmdebstrap", "mmdebstrap"),
    need("rpm", "rpm"),
    need("docker", "docker.io"),
];
/// To run containers without Docker.
pub(crate) const PODMAN: &[Need] = &[
    need("podman", "podman"),
    need("runc", "runc"),
    need("ip", "iproute2"),
    need("/usr/lib/podman/netavark", "netavark"),
    need("/usr/lib/podman/aardvark-dns", "aardvark-dns"),
];
/// To emulate a machine and make its disk.
pub(crate) const MACHINE: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("/usr/share/seabios", "seabios"),
    need("mke2fs", "e2fsprogs"),
];
/// To build the engines that the tests use.
pub(crate) const GO: &[Need] = &[need("go", "golang-go")];
/// To test.
pub(crate) const TEST: &[Need] = &[
    need("python3", "python3"),
    need("pip3", "python3-pip"),
    need("ip", "iproute2"),
    need("socat", "socat"),
    need("docker-registry", "docker-registry"),
    need("squid", "squid"),
    need("openssl", "openssl"),
    need("musl-gcc", "musl-tools"),
    need("faketime", "faketime"),
    need("chromium", "chromium"),
    need("chromedriver", "chromium-driver"),
    need("/usr/share/fonts/truetype/dejavu", "fonts-dejavu-core"),
];

fn is_there(sign: &str) -> bool {
    if sign.starts_with('/') {
        Path::new(sign).exists()
    } else {
        find_program(sign).is_some()
    }
}

/// Where Debian and Ubuntu put PostgreSQL's server programs.
fn has_postgres() -> bool {
    let versioned = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    find_program("initdb").is_some()
        || versioned
            .into_iter()
            .any(|entry| entry.path().join("bin/initdb").exists())
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Installs what is missing, or names the command that does.
pub(crate) fn ensure(groups: &[&[Need]]) -> anyhow::Result<()> {
    let mut missing: Vec<&str> = groups
        .iter()
        .copied()
        .flatten()
        .filter(|need| !is_there(need.sign))
        .map(|need| need.package)
        .collect();
    let tests = groups.iter().any(|group| std::ptr::eq(*group, TEST));
    if tests && !has_postgres() {
        missing.push("postgresql");
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !is_root() || find_program("apt-get").is_none() {
        bail!(
            "this machine lacks {}. Install it:\n\n  sudo {command}\n",
            missing.join(", ")
        );
    }
    eprintln!("installing {}", missing.join(", "));
    let quiet = |arguments: &[&str]| {
        let mut apt = program("apt-get");
        apt.args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(std::process::Stdio::null());
        apt
    };
    check(&mut quiet(&["update", "-qq"]))?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&missing);
    check(&mut quiet(&arguments))
}

/// Fails unless `terraform` is on PATH: it is what users bring.
pub(crate) fn ensure_terraform() -> anyhow::Result<()> {
    if find_program("terraform").is_none() {
        bail!(
            "terraform is not on PATH. Get it from https://developer.hashicorp.com/terraform/install, for example:\n\n  \
             curl -LO https://releases.hashicorp.com/terraform/1.11.4/terraform_1.11.4_linux_amd64.zip && sudo unzip -d \
             /usr/local/bin terraform_1.11.4_linux_amd64.zip terraform\n"
        );
    }
    Ok(())
}
