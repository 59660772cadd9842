//! Container images of both programs: what they are linked to, certificates and a small shell. Nothing is pulled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Job, files};
use crate::image::{Node, add_busybox, archive, layer, libraries};

/// The user that the server runs as in its container.
const SERVER: u64 = 1000;

/// Where the control plane's container has the agent's packages.
const OFFERED: &str = "usr/share/terrapool/packages";

/// In nanoseconds, as images tell times.
const SECOND: u64 = 1_000_000_000;

/// The agent's image.
pub(super) fn agent(job: &Job) -> anyhow::Result<()> {
    let mut nodes = base(&job.stage.join("terrapool-agent"), "usr/bin/terrapool-agent")?;
    put(
        &mut nodes,
        "usr/share/terrapool-agent/sandbox-image.tar",
        &job.stage.join("sandbox-image.tar"),
        0o644,
    )?;
    add_folder(&mut nodes, "var/lib/terrapool-agent", 0o700, 0);
    let config = json!({
        "Entrypoint": ["/usr/bin/terrapool-agent"],
        "Cmd": ["run"],
        "Env": ["PATH=/usr/bin"],
        "Volumes": { "/var/lib/terrapool-agent": {} },
        "StopSignal": "SIGTERM",
        // By the socket in its data folder: in the host's network a port could be another agent's.
        "Healthcheck": {
            "Test": ["CMD", "/usr/bin/terrapool-agent", "status", "--check"],
            "Interval": 30 * SECOND,
            "Timeout": 10 * SECOND,
            "StartPeriod": 120 * SECOND,
            "Retries": 3,
        },
    });
    write(job, "terrapool-agent", &nodes, &config)
}

/// The control plane's image.
pub(super) fn server(job: &Job) -> anyhow::Result<()> {
    let mut nodes = base(&job.stage.join("terrapool"), "usr/bin/terrapool")?;
    add_folder(&mut nodes, "var/lib/terrapool", 0o750, SERVER);
    // As the deb and the rpm do, it brings along what the install page offers to agents' hosts.
    let offered = job.stage.join("packages");
    for file in files(&offered)? {
        put(
            &mut nodes,
            &format!("{OFFERED}/{file}"),
            &offered.join(&file),
            0o644,
        )?;
    }
    let config = json!({
        "Entrypoint": ["/usr/bin/terrapool"],
        "Cmd": ["server"],
        "Env": [
            "PATH=/usr/bin",
            "TERRAPOOL_LISTEN=0.0.0.0:8443",
            format!("TERRAPOOL_PACKAGES_DIR=/{OFFERED}"),
        ],
        "User": SERVER.to_string(),
        "ExposedPorts": { "8443/tcp": {} },
        "Volumes": { "/var/lib/terrapool": {} },
        "StopSignal": "SIGTERM",
    });
    write(job, "terrapool", &nodes, &config)
}

fn write(job: &Job, name: &str, nodes: &BTreeMap<String, Node>, config: &Value) -> anyhow::Result<()> {
    let tag = format!("terrapool/{name}:{}", job.version);
    let image = archive(&layer(nodes)?, &tag, config, job.epoch)?;
    let file = format!(
        "{name}-{}-linux-{}.image.tar",
        job.version,
        job.architecture.name()
    );
    std::fs::write(job.folder.join(file), image)?;
    Ok(())
}

fn base(program: &Path, at: &str) -> anyhow::Result<BTreeMap<String, Node>> {
    let mut nodes = BTreeMap::new();
    for folder in [
        "etc/ssl/certs",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/share",
        "run",
        "var/lib",
    ] {
        add_folder(&mut nodes, folder, 0o755, 0);
    }
    add_folder(&mut nodes, "tmp", 0o1777, 0);
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        nodes.insert(link.to_owned(), Node::Link(target.to_owned()));
    }
    let text = |content: &str| Node::File {
        mode: 0o644,
        content: content.as_bytes().to_vec(),
    };
    nodes.insert(
        "etc/passwd".to_owned(),
        text("root:x:0:0:root:/root:/bin/sh\nterrapool:x:1000:1000:terrapool:/var/lib/terrapool:/bin/sh\n"),
    );
    nodes.insert("etc/group".to_owned(), text("root:x:0:\nterrapool:x:1000:\n"));
    nodes.insert(
        "etc/nsswitch.conf".to_owned(),
        text("passwd: files\ngroup: files\nhosts: files dns\n"),
    );
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    put(
        &mut nodes,
        "etc/ssl/certs/ca-certificates.crt",
        certificates,
        0o644,
    )?;
    add_busybox(&mut nodes)?;
    // Looked up by name at run time, so that no program is linked to them.
    let resolvers = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2"]
        .map(|name| PathBuf::from(format!("/lib/{}-linux-gnu/{name}", std::env::consts::ARCH)));
    let found = resolvers.into_iter().filter(|path| path.exists());
    let linked = libraries(&[&program.to_owned()])?;
    for library in linked.into_iter().chain(found) {
        let name = library
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let folder = if name.starts_with("ld-linux") {
            "usr/lib64"
        } else {
            "usr/lib"
        };
        put(&mut nodes, &format!("{folder}/{name}"), &library, 0o755)?;
    }
    put(&mut nodes, at, program, 0o755)?;
    Ok(nodes)
}

fn put(nodes: &mut BTreeMap<String, Node>, at: &str, file: &Path, mode: u32) -> anyhow::Result<()> {
    let content = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    if let Some((folder, _)) = at.rsplit_once('/') {
        add_folder(nodes, folder, 0o755, 0);
    }
    nodes.insert(at.to_owned(), Node::File { mode, content });
    Ok(())
}

/// A folder, with those above it.
fn add_folder(nodes: &mut BTreeMap<String, Node>, path: &str, mode: u32, owner: u64) {
    for (end, _) in path.match_indices('/') {
        nodes.entry(path[..end].to_owned()).or_insert(Node::Folder {
            mode: 0o755,
            owner: 0,
        });
    }
    if mode == 0o755 && nodes.contains_key(path) {
        return;
    }
    nodes.insert(path.to_owned(), Node::Folder { mode, owner });
}
