//! Tests of sandboxes on a host with control groups of version 2: a virtual machine with Debian and systemd.
//!
//! Its processors are emulated, so that no virtualization is needed: it is some ten times slower than the machine it is
//! on. The tests are those that run everywhere else, as programs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};

use anyhow::{Context as _, bail};

use crate::command::{cargo, check, find_program, output, program, target_dir};
use crate::systems::bootstrap;
use crate::{image, packages};

mod rootless_podman;

/// What the machine has: a kernel, systemd, a container engine, and what tests use.
const SYSTEM: &str = "linux-image-cloud-amd64,apparmor,systemd,systemd-sysv,dbus,procps,iproute2,iptables,docker.io,\
                      ca-certificates,passwd,kmod,socat,curl,git,openssh-client,python3,libpam-systemd,slirp4netns";

/// Tests of what depends on control groups and on the kernel, in the order in which they run.
const TESTS: [&str; 6] = [
    "limits",
    "native_driver",
    "network",
    "sandbox",
    "sandbox_cases",
    "sandbox_limits",
];

/// As whom agents run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// As root, with both drivers.
    Root,
    /// As an ordinary user with a delegated control group, with the native driver.
    User,
    /// As an ordinary user, with the Docker driver on Podman of the same user.
    RootlessPodman,
}

impl Step {
    const ALL: [Self; 3] = [Self::Root, Self::User, Self::RootlessPodman];

    /// Whether it runs a program.
    fn has(self, test: &str) -> bool {
        match self {
            // What the driver does on every engine is tested where engines are Docker.
            Self::Root => test != "sandbox",
            // The runner's own tests start no agent, those of the Docker driver none either.
            Self::User => !["limits", "network", "sandbox"].contains(&test),
            Self::RootlessPodman => rootless_podman::PROGRAMS.contains(&test),
        }
    }

    /// How programs of this step are started.
    fn begin(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::User => "TERRAPOOL_TEST_AGENT_USER=tester ",
            Self::RootlessPodman => rootless_podman::BEGIN,
        }
    }

    /// Arguments of the programs, before those of the caller.
    fn arguments(self, test: &str) -> &'static str {
        match (self, test) {
            (Self::RootlessPodman, "sandbox_cases") => " --skip native::",
            (Self::Root | Self::RootlessPodman, _) => "",
            // The root profile is root's to give, and the host's firewall is root's.
            (Self::User, "native_driver") => {
                " --include-ignored --skip the_root_profile_has --skip what_somebody_takes_away"
            }
            (Self::User, _) => " --skip root_profile --skip docker:: --skip what_a_pool_sets",
        }
    }

    /// A program's name in this step.
    fn name(self, test: &str) -> String {
        match self {
            Self::Root => test.to_owned(),
            Self::User => format!("{test}@user"),
            Self::RootlessPodman => format!("{test}@rootless-podman"),
        }
    }
}

/// What is asked for: `[--root | --user | --rootless-podman] [TEST…]`.
fn steps<'a>(arguments: &'a [&'a str]) -> (Vec<Step>, &'a [&'a str]) {
    match arguments {
        ["--root", rest @ ..] => (vec![Step::Root], rest),
        ["--user", rest @ ..] => (vec![Step::User], rest),
        ["--rootless-podman", rest @ ..] => (vec![Step::RootlessPodman], rest),
        rest => (Step::ALL.to_vec(), rest),
    }
}

/// A user of the machine whose own systemd delegates what limits are made with.
const DELEGATE: &str = "\
[Service]
Delegate=cpu memory pids
";

/// Memory of the machine, in MiB.
const MEMORY: &str = "6144";
/// Its disk; what is not written takes no space.
const DISK: &str = "12G";

/// Starts the tests when the machine is up, and switches it off when they have ended.
const SERVICE: &str = "\
[Unit]
Description=Tests
After=multi-user.target docker.service

[Service]
Type=oneshot
ExecStart=/tests/run
ExecStopPost=systemctl --no-block poweroff
StandardOutput=file:/dev/ttyS1
StandardError=inherit
TimeoutStartSec=infinity
";

/// What a test's program says at its end, followed by its name and its code.
const ENDED: &str = "cgroup-v2 ended";

pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    packages::ensure(&[
        packages::BUILD,
        packages::IMAGE,
        packages::SYSTEMS,
        packages::MACHINE,
    ])?;
    packages::ensure_terraform()?;
    if !packages::is_root() {
        bail!("the machine's disk is made by root: sudo cargo xtask cgroup-v2");
    }
    check(cargo().args(["build", "--locked", "--workspace", "--bins"]))?;
    image::make("debug")?;
    let tests = test_programs()?;
    let folder = target_dir().join("tools/cgroup-v2");
    fs::create_dir_all(&folder)?;
    let (steps, words) = steps(arguments);
    let folder = tempfile::Builder::new().prefix("machine-").tempdir_in(folder)?;
    let machine = Machine {
        root: folder.path().join("root"),
        folder: folder.path().to_owned(),
    };
    machine.install()?;
    let programs = machine.bring(&tests, &steps, words)?;
    machine.make_disk()?;
    machine.run(programs)
}

/// The tests' programs, by name.
fn test_programs() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut build = cargo();
    build.args([
        "test",
        "--locked",
        "--workspace",
        "--no-run",
        "--message-format=json",
    ]);
    for name in TESTS {
        build.args(["--test", name]);
    }
    let printed = output(&mut build)?;
    let found = printed.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = message["executable"].as_str()?;
        let name = message["target"]["name"].as_str()?;
        let place = TESTS.iter().position(|test| *test == name)?;
        Some((place, name.to_owned(), PathBuf::from(path)))
    });
    // Cargo builds in any order.
    let found: BTreeSet<_> = found.collect();
    if found.len() != TESTS.len() {
        bail!("not every test of {TESTS:?} was built: {found:?}");
    }
    Ok(found.into_iter().map(|(_, name, path)| (name, path)).collect())
}

struct Machine {
    folder: PathBuf,
    /// What will be its disk.
    root: PathBuf,
}

impl Machine {
    fn install(&self) -> anyhow::Result<()> {
        let include = format!("{SYSTEM},{}", rootless_podman::SYSTEM);
        let archive = bootstrap("machine", "bookworm", "essential", &include)?;
        fs::create_dir_all(&self.root)?;
        let mut unpack = program("tar");
        check(
            unpack
                .arg("--extract")
                .arg("--file")
                .arg(archive)
                .arg("--directory")
                .arg(&self.root),
        )?;
        fs::write(self.root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
        let services = self.root.join("etc/systemd/system");
        fs::write(services.join("terrapool-tests.service"), SERVICE)?;
        let wanted = services.join("multi-user.target.wants");
        fs::create_dir_all(&wanted)?;
        symlink(
            "../terrapool-tests.service",
            wanted.join("terrapool-tests.service"),
        )?;
        symlink("/dev/null", services.join("serial-getty@ttyS0.service"))?;
        let users = services.join("user@.service.d");
        fs::create_dir_all(&users)?;
        fs::write(users.join("delegate.conf"), DELEGATE)?;
        Ok(())
    }

    /// Puts programs and tests onto the disk, without what only debuggers read. Answers how often tests' programs run.
    fn bring(
        &self,
        tests: &[(String, PathBuf)],
        steps: &[Step],
        arguments: &[&str],
    ) -> anyhow::Result<usize> {
        let folder = self.root.join("tests");
        fs::create_dir_all(folder.join("bin"))?;
        let built = target_dir().join("debug");
        for name in ["terrapool", "terrapool-agent"] {
            strip(&built.join(name), &folder.join("bin").join(name))?;
        }
        let image = "sandbox-image.tar";
        fs::copy(built.join(image), folder.join("bin").join(image))?;
        let terraform = find_program("terraform").context("terraform is not on PATH")?;
        fs::copy(terraform, self.root.join("usr/local/bin/terraform"))?;
        let mut script = "#!/bin/bash\ncd /tests\n\
                          export TERRAPOOL_BIN_DIR=/tests/bin TERRAPOOL_TEST_PATIENCE=5\n\
                          uname -r; cat /sys/fs/cgroup/cgroup.controllers\n"
            .to_owned();
        let words: String = arguments
            .iter()
            .map(|word| format!(" '{}'", word.replace('\'', "'\\''")))
            .collect();
        for (name, path) in tests {
            strip(path, &folder.join(name))?;
        }
        if steps.contains(&Step::User) {
            script.push_str("useradd --create-home --uid 1500 tester && systemctl start user@1500.service\n");
        }
        let mut programs = 0;
        for step in steps {
            if *step == Step::RootlessPodman {
                script.push_str(rootless_podman::SETUP);
            }
            for (name, _) in tests.iter().filter(|(name, _)| step.has(name)) {
                programs += 1;
                let shown = step.name(name);
                script.push_str(&format!(
                    "echo '{shown}:'; {}./{name} --test-threads=1{}{words} 2>&1; echo \"{ENDED} {shown} $?\"\n",
                    step.begin(),
                    step.arguments(name)
                ));
            }
        }
        let run = folder.join("run");
        fs::write(&run, script)?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
        Ok(programs)
    }

    fn make_disk(&self) -> anyhow::Result<()> {
        let mut make = program("mke2fs");
        make.args(["-q", "-t", "ext4", "-d"])
            .arg(&self.root)
            .arg(self.folder.join("disk"))
            .arg(DISK);
        check(&mut make)
    }

    /// Boots it, shows what the tests print, and answers whether all went well.
    fn run(&self, tests: usize) -> anyhow::Result<ExitCode> {
        let boot = self.root.join("boot");
        let console = self.folder.join("console");
        let mut emulator = program("qemu-system-x86_64");
        emulator
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                MEMORY,
            ])
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
                "-device",
                "virtio-rng-pci",
            ])
            .arg("-kernel")
            .arg(beginning_with(&boot, "vmlinuz-")?)
            .arg("-initrd")
            .arg(beginning_with(&boot, "initrd.img-")?)
            .args(["-append", "root=/dev/vda rw console=ttyS0 panic=-1 quiet"])
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,cache=unsafe",
                self.folder.join("disk").display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut emulator = Running(
            emulator
                .spawn()
                .context("qemu-system-x86_64 could not be started")?,
        );
        let lines = emulator.0.stdout.take().context("the emulator has no output")?;
        let (mut ended, mut failed) = (0, Vec::new());
        for line in BufReader::new(lines).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            writeln!(std::io::stdout(), "{line}")?;
            let Some((name, code)) = line
                .strip_prefix(ENDED)
                .and_then(|rest| rest.trim().split_once(' '))
            else {
                continue;
            };
            ended += 1;
            if code != "0" {
                failed.push(name.to_owned());
            }
        }
        emulator.0.wait()?;
        if ended != tests {
            let text = fs::read_to_string(&console).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "the machine ended before all tests had. Its last lines:\n{}",
                tail.join("\n")
            );
        }
        if failed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        bail!("on control groups of version 2 these fail: {}", failed.join(", "))
    }
}

/// The emulator. It ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn strip(from: &Path, to: &Path) -> anyhow::Result<()> {
    check(program("objcopy").arg("--strip-debug").arg(from).arg(to))
}

/// The only file of a folder whose name begins like this.
fn beginning_with(folder: &Path, begin: &str) -> anyhow::Result<PathBuf> {
    fs::read_dir(folder)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(begin))
        .map(|entry| entry.path())
        .with_context(|| format!("{} has no {begin}…", folder.display()))
}
