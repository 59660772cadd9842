//! The sandboxes' image, made from what the machine has: nothing is pulled.
//!
//! It holds sh and bash, git with https and ssh, and the certificates, each with the libraries it is linked to, and
//! nothing else. The archive has the format of `docker save` and is the same for the same inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::command::{find_program, output, program, target_dir};
use crate::packages;

const REPOSITORY: &str = "terrapool/sandbox";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The user that engines run as.
const USER: u64 = 1000;

/// What stands at a path of the image.
pub(crate) enum Node {
    Folder { mode: u32, owner: u64 },
    File { mode: u32, content: Vec<u8> },
    Link(String),
}

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let (path, tag) = make("debug")?;
    println!("{}\n{tag}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Makes the archive beside the binaries of a profile and returns its path and tag.
pub(crate) fn make(profile: &str) -> anyhow::Result<(PathBuf, String)> {
    packages::ensure(&[packages::IMAGE])?;
    let layer = layer(&nodes()?)?;
    let tag = format!("{REPOSITORY}:{}", &hex(&Sha256::digest(&layer))[..12]);
    let config =
        json!({ "Env": [format!("PATH={PATH}")], "Cmd": ["/bin/sh"], "WorkingDir": "/terrapool/work" });
    let archive = archive(&layer, &tag, &config, 0)?;
    let folder = target_dir().join(profile);
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("sandbox-image.tar");
    if std::fs::read(&path).ok().as_deref() != Some(&archive) {
        let temporary = folder.join(".sandbox-image.tar");
        std::fs::write(&temporary, &archive)?;
        std::fs::rename(&temporary, &path)?;
    }
    Ok((path, tag))
}

fn nodes() -> anyhow::Result<BTreeMap<String, Node>> {
    let mut nodes = BTreeMap::new();
    for folder in [
        "etc",
        "etc/ssl",
        "etc/ssl/certs",
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "usr/lib/git-core",
        "dev",
        "proc",
        "sys",
        "run",
        "var",
        "home",
        "usr/share",
        "usr/share/git-core",
        "usr/share/git-core/templates",
    ] {
        nodes.insert(
            folder.to_owned(),
            Node::Folder {
                mode: 0o755,
                owner: 0,
            },
        );
    }
    nodes.insert(
        "root".to_owned(),
        Node::Folder {
            mode: 0o700,
            owner: 0,
        },
    );
    nodes.insert(
        "tmp".to_owned(),
        Node::Folder {
            mode: 0o1777,
            owner: 0,
        },
    );
    nodes.insert(
        "var/tmp".to_owned(),
        Node::Folder {
            mode: 0o1777,
            owner: 0,
        },
    );
    nodes.insert(
        "home/terrapool".to_owned(),
        Node::Folder {
            mode: 0o755,
            owner: USER,
        },
    );
    nodes.insert(
        "terrapool".to_owned(),
        Node::Folder {
            mode: 0o755,
            owner: 0,
        },
    );
    // A fresh volume takes over the owner of the folder that it is mounted on.
    for folder in ["work", "state", "job"] {
        nodes.insert(
            format!("terrapool/{folder}"),
            Node::Folder {
                mode: 0o755,
                owner: USER,
            },
        );
    }
    for folder in ["bin", "providers"] {
        nodes.insert(
            format!("terrapool/{folder}"),
            Node::Folder {
                mode: 0o755,
                owner: 0,
            },
        );
    }
    for (link, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/sbin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        nodes.insert(link.to_owned(), Node::Link(target.to_owned()));
    }
    let text = |content: &str| Node::File {
        mode: 0o644,
        content: content.as_bytes().to_vec(),
    };
    nodes.insert(
        "etc/passwd".to_owned(),
        text("root:x:0:0:root:/root:/bin/sh\nterrapool:x:1000:1000:terrapool:/home/terrapool:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    );
    nodes.insert(
        "etc/group".to_owned(),
        text("root:x:0:\nterrapool:x:1000:\nnogroup:x:65534:\n"),
    );
    nodes.insert(
        "etc/nsswitch.conf".to_owned(),
        text("passwd: files\ngroup: files\nhosts: files dns\n"),
    );
    let certificates =
        std::fs::read("/etc/ssl/certs/ca-certificates.crt").context("the certificates cannot be read")?;
    nodes.insert(
        "etc/ssl/certs/ca-certificates.crt".to_owned(),
        Node::File {
            mode: 0o644,
            content: certificates,
        },
    );
    add_busybox(&mut nodes)?;
    add_programs(&mut nodes)?;
    Ok(nodes)
}

pub(crate) fn add_busybox(nodes: &mut BTreeMap<String, Node>) -> anyhow::Result<()> {
    let applets = output(program("/bin/busybox").arg("--list"))?;
    let content = std::fs::read("/bin/busybox").context("busybox cannot be read")?;
    for applet in applets
        .lines()
        .filter(|applet| !applet.is_empty() && *applet != "busybox")
    {
        nodes.insert(format!("usr/bin/{applet}"), Node::Link("busybox".to_owned()));
    }
    nodes.insert("usr/bin/busybox".to_owned(), Node::File { mode: 0o755, content });
    Ok(())
}

/// Programs of the machine and the libraries they are linked to.
fn add_programs(nodes: &mut BTreeMap<String, Node>) -> anyhow::Result<()> {
    let core = PathBuf::from(output(program("git").arg("--exec-path"))?.trim());
    let mut programs: Vec<(String, PathBuf)> = Vec::new();
    for name in ["git", "ssh", "bash"] {
        let path = find_program(name).with_context(|| format!("{name} is not installed"))?;
        programs.push((format!("usr/bin/{name}"), path));
    }
    programs.push((
        "usr/lib/git-core/git-remote-http".to_owned(),
        core.join("git-remote-http"),
    ));
    for script in ["git-submodule", "git-sh-setup", "git-sh-i18n"] {
        let content = std::fs::read(core.join(script)).with_context(|| format!("{script} cannot be read"))?;
        nodes.insert(
            format!("usr/lib/git-core/{script}"),
            Node::File { mode: 0o755, content },
        );
    }
    nodes.insert(
        "usr/lib/git-core/git".to_owned(),
        Node::Link("../../bin/git".to_owned()),
    );
    for name in ["git-remote-https", "git-remote-ftp"] {
        nodes.insert(
            format!("usr/lib/git-core/{name}"),
            Node::Link("git-remote-http".to_owned()),
        );
    }
    for name in ["git-upload-pack", "git-receive-pack", "git-upload-archive"] {
        nodes.insert(format!("usr/bin/{name}"), Node::Link("git".to_owned()));
    }
    let listed: Vec<&PathBuf> = programs.iter().map(|(_, path)| path).collect();
    for library in libraries(&listed)? {
        let name = library
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        // The loader's path is written into every program.
        let target = if name.starts_with("ld-linux") {
            format!("usr/lib64/{name}")
        } else {
            format!("usr/lib/{name}")
        };
        let content =
            std::fs::read(&library).with_context(|| format!("{} cannot be read", library.display()))?;
        nodes.insert(target, Node::File { mode: 0o755, content });
    }
    for (target, path) in programs {
        let content = std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        nodes.insert(target, Node::File { mode: 0o755, content });
    }
    Ok(())
}

pub(crate) fn libraries(programs: &[&PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in programs {
        for line in output(program("ldd").arg(path))?.lines() {
            let mut words = line.split_whitespace();
            let file = words.find(|word| word.starts_with('/'));
            match file {
                Some(file) => found.push(PathBuf::from(file)),
                None if line.contains("not found") => bail!("{}: {}", path.display(), line.trim()),
                None => {}
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn header(kind: tar::EntryType, mode: u32, owner: u64, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(0);
    header.set_size(size);
    header
}

pub(crate) fn layer(nodes: &BTreeMap<String, Node>) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, node) in nodes {
        match node {
            Node::Folder { mode, owner } => {
                let mut header = header(tar::EntryType::Directory, *mode, *owner, 0);
                archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            }
            Node::File { mode, content } => {
                let mut header = header(tar::EntryType::Regular, *mode, 0, content.len() as u64);
                archive.append_data(&mut header, path, content.as_slice())?;
            }
            Node::Link(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
                archive.append_link(&mut header, path, Path::new(target))?;
            }
        }
    }
    Ok(archive.into_inner()?)
}

/// An image of one layer, in the format of `docker save`.
pub(crate) fn archive(
    layer: &[u8],
    tag: &str,
    config: &serde_json::Value,
    epoch: i64,
) -> anyhow::Result<Vec<u8>> {
    let digest = hex(&Sha256::digest(layer));
    let created = output(program("date").args(["-u", "-d", &format!("@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"]))?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "created": created.trim(),
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": created.trim(), "created_by": "cargo xtask" }],
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    let layer_name = format!("{digest}/layer.tar");
    let manifest = json!([{ "Config": config_name, "RepoTags": [tag], "Layers": [layer_name] }]);
    let mut archive = tar::Builder::new(Vec::new());
    // The manifest first: readers that look for the tag need not read the rest.
    for (name, content) in [
        ("manifest.json", serde_json::to_vec(&manifest)?.as_slice()),
        (config_name.as_str(), config.as_slice()),
        (layer_name.as_str(), layer),
    ] {
        let mut header = header(tar::EntryType::Regular, 0o644, 0, content.len() as u64);
        archive.append_data(&mut header, name, content)?;
    }
    Ok(archive.into_inner()?)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
