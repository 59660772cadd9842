//! Everything that is installed: packages, container images and tarballs, from what the machine has.
//!
//! The same commit gives the same bytes. Times in the files are the commit's, or `SOURCE_DATE_EPOCH`.

mod bill;
mod container;
mod proof;
mod tools;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use crate::command::{cargo, check, output, program, target_dir, workspace};
use crate::image::hex;
use crate::{image, packages};
use tools::{Nfpm, Zig};

/// The oldest C library that the agent runs on: RHEL 7's.
const OLDEST_GLIBC: (u32, u32) = (2, 17);

/// The agent is built small: what it has read of its own program stays in memory that runs could use.
pub(crate) const AGENT_PROFILE: &str = "agent";

/// Only the symbols of what it makes are looked at.
const SYMBOLS_PROFILE: &str = "symbols";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    const OWN: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    /// As Debian and Go call it.
    fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// How the programs are built.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Build {
    /// As they are shipped.
    Release,
    /// As `cargo build` makes them, for tests on this machine.
    Quick,
}

/// `cargo xtask package`
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let mut build = Build::Release;
    let mut architecture = Architecture::OWN;
    let mut is_checked = false;
    let mut words = arguments.iter().copied();
    while let Some(word) = words.next() {
        match (
            word,
            if word == "--architecture" {
                words.next()
            } else {
                None
            },
        ) {
            ("--quick", _) => build = Build::Quick,
            ("--check", _) => is_checked = true,
            ("--architecture", Some("amd64")) => architecture = Architecture::Amd64,
            ("--architecture", Some("arm64")) => architecture = Architecture::Arm64,
            _ => bail!(
                "`cargo xtask package` does not know `{word}`: it takes --quick, --check and --architecture \
                 amd64|arm64"
            ),
        }
    }
    let (job, tools) = make_all(build, architecture)?;
    if is_checked {
        proof::same_bytes(&job, &tools)?;
        if build == Build::Release && architecture == Architecture::OWN {
            proof::runs_on_old_glibc(&job)?;
        }
    }
    let folder = job.folder;
    println!("{}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// Packages for tests, and those of a next version in `next` beside them.
pub(crate) fn make_quick() -> anyhow::Result<PathBuf> {
    let (mut job, tools) = make_all(Build::Quick, Architecture::OWN)?;
    proof::same_bytes(&job, &tools)?;
    let folder = job.folder.clone();
    job.version = format!("{}99-next", job.version);
    job.folder = folder.join("next");
    std::fs::create_dir_all(&job.folder)?;
    for which in ["agent", "server"] {
        for format in ["deb", "rpm"] {
            nfpm(&job, &tools, which, format)?;
        }
    }
    Ok(folder)
}

/// What all steps need to know.
struct Job {
    architecture: Architecture,
    version: String,
    /// Seconds since 1970: the time of everything that is made.
    epoch: i64,
    /// Where the parts are put together.
    stage: PathBuf,
    /// Where what is made goes.
    folder: PathBuf,
}

fn make_all(build: Build, architecture: Architecture) -> anyhow::Result<(Job, Nfpm)> {
    packages::ensure(&[packages::BUILD, packages::IMAGE])?;
    let installed =
        output(program("rustc").args(["--print", "target-libdir", "--target", architecture.target()]))?;
    if !Path::new(installed.trim()).exists() {
        bail!(
            "the toolchain cannot build for {}: rustup target add {}",
            architecture.name(),
            architecture.target()
        );
    }
    let tools = Nfpm::obtain()?;
    let folder = target_dir().join("packages");
    let job = Job {
        architecture,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch: epoch()?,
        stage: target_dir().join("package/stage").join(architecture.name()),
        folder,
    };
    empty(&job.stage)?;
    programs(&job, build)?;
    assemble(&job, &tools)?;
    Ok((job, tools))
}

/// A folder with nothing in it.
fn empty(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(std::fs::create_dir_all(folder)?),
    }
}

/// Makes everything of the programs in the stage.
fn assemble(job: &Job, tools: &Nfpm) -> anyhow::Result<()> {
    empty(&job.folder)?;
    sandbox_image(job)?;
    texts(job)?;
    for format in ["deb", "rpm"] {
        nfpm(job, tools, "agent", format)?;
    }
    tarball(job)?;
    // The server's packages offer the agent's.
    let offered = job.stage.join("packages");
    std::fs::create_dir_all(&offered)?;
    checksums(&job.folder)?;
    for file in files(&job.folder)? {
        std::fs::copy(job.folder.join(&file), offered.join(&file))?;
    }
    for format in ["deb", "rpm"] {
        nfpm(job, tools, "server", format)?;
    }
    if job.architecture == Architecture::OWN {
        container::agent(job)?;
        container::server(job)?;
    }
    for package in ["terrapool-agent", "terrapool-server"] {
        bill::write(job, package)?;
    }
    checksums(&job.folder)
}

/// The commit's time, unless the environment says another; 1970 where there is no commit to ask.
fn epoch() -> anyhow::Result<i64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => output(program("git").args(["log", "-1", "--format=%ct"])).unwrap_or_else(|error| {
            eprintln!("    files are of 1970, because the commit's time is not known: {error:#}");
            "0".to_owned()
        }),
    };
    text.trim()
        .parse()
        .with_context(|| format!("`{}` is no number of seconds", text.trim()))
}

/// Builds both programs and puts them into the stage.
fn programs(job: &Job, build: Build) -> anyhow::Result<()> {
    if build == Build::Quick {
        own_programs()?;
        for binary in ["terrapool-agent", "terrapool"] {
            let program = target_dir().join("debug").join(binary);
            check(
                crate::command::program("strip")
                    .arg("-o")
                    .arg(job.stage.join(binary))
                    .arg(program),
            )?;
        }
        return Ok(());
    }
    let zig = Zig::obtain()?;
    // Each on its own: what one needs of a shared crate would otherwise be built into the other.
    for (package, binary, profile) in [
        ("terrapool-agent", "terrapool-agent", AGENT_PROFILE),
        ("terrapool-server", "terrapool", "release"),
    ] {
        let program = for_oldest_glibc(&zig, job.architecture, package, profile)?.join(binary);
        oldest_glibc(&program)?;
        std::fs::copy(&program, job.stage.join(binary))?;
    }
    Ok(())
}

/// Builds the programs of a crate for the oldest C library, and names the folder that they are in.
fn for_oldest_glibc(
    zig: &Zig,
    architecture: Architecture,
    package: &str,
    profile: &str,
) -> anyhow::Result<PathBuf> {
    let target = architecture.target();
    let folder = target_dir().join("package/build");
    let mut zigbuild = zig.build();
    zigbuild
        .args([
            "zigbuild",
            "--locked",
            "--profile",
            profile,
            "--bins",
            "--package",
            package,
            "--target",
        ])
        .arg(format!("{target}.{}.{}", OLDEST_GLIBC.0, OLDEST_GLIBC.1))
        .env("CARGO_TARGET_DIR", &folder);
    anywhere(&mut zigbuild, &folder);
    check(&mut zigbuild)?;
    Ok(folder.join(target).join(profile))
}

/// Builds the agent for the oldest C library that it is meant for, as quickly as that goes, and fails when it
/// needs a newer one.
pub(crate) fn check_glibc() -> anyhow::Result<()> {
    packages::ensure(&[packages::BUILD])?;
    let zig = Zig::obtain()?;
    let folder = for_oldest_glibc(&zig, Architecture::OWN, "terrapool-agent", SYMBOLS_PROFILE)?;
    oldest_glibc(&folder.join("terrapool-agent"))
}

/// Builds the programs for this machine.
fn own_programs() -> anyhow::Result<()> {
    check(cargo().args(["build", "--locked", "--workspace", "--bins"]))
}

/// Keeps out of programs where they were built: the same sources give the same bytes in every folder.
fn anywhere(build: &mut Command, target: &Path) {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let places = [
        (Some(workspace()), "/terrapool"),
        (Some(target.to_owned()), "/target"),
        (cargo, "/cargo"),
    ];
    // Of several that fit the last counts, and folders may lie in one another.
    let maps: Vec<String> = places
        .into_iter()
        .filter_map(|(from, to)| Some(format!("{}={to}", from?.display())))
        .collect();
    let rust = maps.iter().map(|map| format!("--remap-path-prefix={map}"));
    let c = maps.iter().map(|map| format!("-ffile-prefix-map={map}"));
    build
        .env("CARGO_ENCODED_RUSTFLAGS", rust.collect::<Vec<_>>().join("\u{1f}"))
        .env("CFLAGS", c.collect::<Vec<_>>().join(" "));
}

/// Fails when a program needs a newer C library than the oldest that it is meant for.
fn oldest_glibc(binary: &Path) -> anyhow::Result<()> {
    let symbols = output(program("objdump").arg("-T").arg(binary))?;
    let newest = symbols
        .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_' && letter != '.')
        .filter_map(|word| word.strip_prefix("GLIBC_")?.split_once('.'))
        .filter_map(|(major, minor)| {
            let minor = minor.split('.').next()?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        })
        .max()
        .context("the program names no version of the C library")?;
    eprintln!("    {}: needs glibc {}.{}", binary.display(), newest.0, newest.1);
    if newest > OLDEST_GLIBC {
        bail!(
            "{} needs glibc {}.{}; it has to run on {}.{}",
            binary.display(),
            newest.0,
            newest.1,
            OLDEST_GLIBC.0,
            OLDEST_GLIBC.1
        );
    }
    Ok(())
}

/// The sandboxes' image. It is made of programs of this machine, so one for another architecture has to be brought.
fn sandbox_image(job: &Job) -> anyhow::Result<()> {
    let image = if job.architecture == Architecture::OWN {
        image::make("package")?.0
    } else {
        std::env::var_os("TERRAPOOL_SANDBOX_IMAGE").map(PathBuf::from).with_context(|| {
            format!(
                "the sandboxes' image for {name} is made on a {name} machine by `cargo xtask image`: name the file in \
                 TERRAPOOL_SANDBOX_IMAGE",
                name = job.architecture.name()
            )
        })?
    };
    std::fs::copy(image, job.stage.join("sandbox-image.tar"))?;
    Ok(())
}

/// Configuration files, scripts, manual pages, completions.
fn texts(job: &Job) -> anyhow::Result<()> {
    let agent = std::fs::read_to_string(workspace().join("crates/agent/src/agent.default.toml"))?;
    let engine = "#docker_host = \"unix:///var/run/docker.sock\"\n";
    let own = "docker_host = \"unix:///run/terrapool-docker/docker.sock\"\n";
    std::fs::write(job.stage.join("agent.toml"), activate(&agent, engine, own)?)?;
    let server = std::fs::read_to_string(workspace().join("crates/server/src/config.default.toml"))?;
    let offered = "packages_dir = \"/usr/share/terrapool/packages\"\n";
    let text = activate(&server, &format!("#{offered}"), offered)?;
    std::fs::write(job.stage.join("terrapool.toml"), text)?;
    let scripts = workspace().join("packaging/agent");
    let removal = std::fs::read_to_string(scripts.join("remove.sh"))?;
    for (script, made) in [("postremove.sh", "postremove.sh"), ("purge.sh", "purge")] {
        let rest = std::fs::read_to_string(scripts.join(script))?;
        std::fs::write(job.stage.join(made), format!("{removal}{rest}"))?;
    }
    // Programs of another architecture cannot be asked for their pages here.
    if job.architecture != Architecture::OWN {
        own_programs()?;
    }
    for (binary, pages) in [("terrapool-agent", "agent-pages"), ("terrapool", "server-pages")] {
        let program = if job.architecture == Architecture::OWN {
            job.stage.join(binary)
        } else {
            target_dir().join("debug").join(binary)
        };
        let mut documentation = crate::command::program(&program.to_string_lossy());
        check(documentation.arg("documentation").arg(job.stage.join(pages)))?;
    }
    Ok(())
}

/// Puts a setting below the line that shows it.
fn activate(text: &str, shown: &str, set: &str) -> anyhow::Result<String> {
    if !text.contains(shown) {
        bail!(
            "the default configuration does not show `{}` any more",
            shown.trim()
        );
    }
    Ok(text.replacen(shown, &format!("{shown}{set}"), 1))
}

fn nfpm(job: &Job, tools: &Nfpm, which: &str, format: &str) -> anyhow::Result<()> {
    // It fills in folders of contents, and none of scripts.
    let recipe = std::fs::read_to_string(workspace().join("packaging").join(which).join("nfpm.yaml"))?;
    let filled = job.stage.join(format!("{which}.nfpm.yaml"));
    std::fs::write(&filled, recipe.replace("${STAGE}", &job.stage.to_string_lossy()))?;
    let mut nfpm = tools.command();
    nfpm.args(["package", "--config"])
        .arg(&filled)
        .args(["--packager", format, "--target"])
        .arg(&job.folder)
        .env("ARCH", job.architecture.name())
        .env("VERSION", &job.version)
        .env("SOURCE_DATE_EPOCH", job.epoch.to_string());
    check(&mut nfpm)
}

/// What hosts without a package manager of ours unpack.
fn tarball(job: &Job) -> anyhow::Result<()> {
    let name = format!(
        "terrapool-agent-{}-linux-{}",
        job.version,
        job.architecture.name()
    );
    let root = job.stage.join("tarball").join(&name);
    std::fs::create_dir_all(&root)?;
    for (from, to) in [
        (job.stage.join("terrapool-agent"), "terrapool-agent"),
        (job.stage.join("sandbox-image.tar"), "sandbox-image.tar"),
        (workspace().join("LICENSE"), "LICENSE"),
        (
            workspace().join("packaging/systemd/terrapool-agent.service"),
            "terrapool-agent.service",
        ),
        (
            workspace().join("crates/agent/src/agent.default.toml"),
            "agent.toml",
        ),
    ] {
        std::fs::copy(&from, root.join(to))
            .with_context(|| format!("{} cannot be copied", from.display()))?;
    }
    let script = "tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=\"@$EPOCH\" --mode=u+rw,go+r,go-w \
                  -C \"$FROM\" -c \"$NAME\" | gzip -n > \"$TO\"";
    let mut tar = program("sh");
    tar.args(["-c", script])
        .env("EPOCH", job.epoch.to_string())
        .env("FROM", job.stage.join("tarball"))
        .env("NAME", &name)
        .env("TO", job.folder.join(format!("{name}.tar.gz")));
    check(&mut tar)
}

fn files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// `SHA256SUMS`, as `sha256sum --check` reads it.
fn checksums(folder: &Path) -> anyhow::Result<()> {
    const FILE: &str = "SHA256SUMS";
    let mut text = String::new();
    for name in files(folder)?.into_iter().filter(|name| name != FILE) {
        let content = std::fs::read(folder.join(&name))?;
        text.push_str(&format!("{}  {name}\n", hex(&Sha256::digest(&content))));
    }
    std::fs::write(folder.join(FILE), text)?;
    Ok(())
}
