//! What makes a sandbox around itself: `terrapool-agent native-sandbox outer` and, in it, `inner`.
//!
//! The outer process leaves the host's namespaces and starts the inner one, which is PID 1 of the new ones. That one
//! builds a root file system of its own, leaves the user namespace last, so that nobody inside has any power over the
//! others, and becomes the runner. The agent does from outside what takes the host: control group, link, user map. Both
//! talk with it by lines: what they need on standard output, and an empty line on standard input once it is done.
//!
//! Where the agent is not root, the outer process makes a user namespace first, in which it is root and to which all others
//! belong. The inner one leaves that as well, so that inside nobody has any power over them either.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::thread::{CapabilitySet, UnshareFlags};
use serde::{Deserialize, Serialize};
use terrapool_protocol::runner::WORK;

use super::privilege::Privilege;
use super::users::UNPRIVILEGED;
use super::{root, seccomp, user_mode};
use crate::config::SandboxUser;

/// A link of a sandbox to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) number: u16,
    pub(super) host_end: String,
    pub(super) gateway: Ipv4Addr,
    pub(super) address: Ipv4Addr,
}

/// The sandbox's end of its link.
pub(super) const INTERFACE: &str = "eth0";

/// How a sandbox is joined to the world.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Way {
    /// By a link to the host, which translates its address.
    Link(Link),
    /// By a program of the agent's user.
    UserMode,
}

/// The network that a sandbox gets besides loopback.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outside {
    pub(super) way: Way,
    pub(super) metadata_open: bool,
    /// Addresses and blocks that are not to be reached: the host's own, and what is its alone.
    pub(super) closed: Vec<String>,
}

/// What a sandbox is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Specification {
    /// Its folder: volumes, and what it changes of the host's files.
    pub(super) folder: PathBuf,
    /// The folder with runner and engines.
    pub(super) bin: PathBuf,
    /// The runner's name in it.
    pub(super) runner: String,
    /// What the runner is to do.
    pub(super) action: String,
    pub(super) user: SandboxUser,
    /// What the agent is.
    pub(super) privilege: Privilege,
    pub(super) network: Option<Outside>,
    /// Its control groups, by their names below `/sys/fs/cgroup`.
    pub(super) groups: Vec<(String, PathBuf)>,
    /// Its `/etc/resolv.conf`.
    pub(super) resolvers: String,
}

/// What the processes of a sandbox ask the agent for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Wish {
    /// Nothing: this is the inner process's number on the host.
    Inner(u32),
    /// The link to the host.
    Link,
    /// The map of users.
    Users,
}

/// One of the two processes. It does not return when all went well.
///
/// # Errors
/// What could not be done, for the agent's log.
pub fn run(step: &str) -> io::Result<std::convert::Infallible> {
    match step {
        "outer" => outer(),
        "inner" => inner(),
        _ => Err(io::Error::other("outer or inner")),
    }
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[expect(
    deprecated,
    reason = "its one danger is a shared table of descriptors, which this never leaves"
)]
fn leave(namespaces: UnshareFlags) -> io::Result<()> {
    rustix::thread::unshare(namespaces)?;
    Ok(())
}

const NO_USERS: &str = "a user namespace cannot be made (see /proc/sys/user/max_user_namespaces)";

/// Leaves the user namespace for one whose only user, with this number, is this process's. Ordinary users may map no
/// other without help, and nobody in it can become another one (user_namespaces(7)).
fn become_alone(number: u32) -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    leave(UnshareFlags::NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{number} {} 1\n", user.as_raw()))?;
    fs::write("/proc/self/gid_map", format!("{number} {} 1\n", group.as_raw()))
}

fn wish(wish: &Wish) -> io::Result<()> {
    let mut line = serde_json::to_string(wish)?;
    line.push('\n');
    let mut output = io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()
}

/// Reads a line. The agent sends the next one only when it is asked for, so nothing is read ahead of a later reader.
fn read_line() -> io::Result<String> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        // The agent has given up, or is gone; it knows why.
        std::process::exit(1);
    }
    Ok(line)
}

fn outer() -> io::Result<std::convert::Infallible> {
    // The agent's own files are private; what a sandbox is made of is not.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let text = read_line()?;
    let specification: Specification = serde_json::from_str(&text)?;
    if specification.privilege == Privilege::User {
        become_alone(0).map_err(failed(NO_USERS))?;
    }
    let namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    leave(namespaces).map_err(failed("new namespaces cannot be made"))?;
    let mut child = Command::new("/proc/self/exe")
        .args(["native-sandbox", "inner"])
        .env("TERRAPOOL_SANDBOX", text.trim())
        .spawn()
        .map_err(failed(
            "the first process of the new namespaces cannot be started",
        ))?;
    wish(&Wish::Inner(child.id()))?;
    // The agent sees the end of the stream when the inner process becomes the runner.
    let nothing = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    let status = child.wait()?;
    std::process::exit(status.code().unwrap_or(1))
}

fn inner() -> io::Result<std::convert::Infallible> {
    let text = std::env::var("TERRAPOOL_SANDBOX").map_err(io::Error::other)?;
    let specification: Specification = serde_json::from_str(&text)?;
    rustix::system::sethostname(b"sandbox")?;
    root::keep_apart().map_err(failed("mounts cannot be kept apart"))?;
    connect(&specification)?;
    root::enter(&specification)?;
    match specification.privilege {
        Privilege::Root => leave(UnshareFlags::NEWUSER).map_err(failed(NO_USERS))?,
        Privilege::User => become_alone(UNPRIVILEGED).map_err(failed(NO_USERS))?,
    }
    wish(&Wish::Users)?;
    read_line()?;
    give_up_power(specification.user).map_err(failed("capabilities cannot be given up"))?;
    let mut runner = Command::new(format!(
        "{}/{}",
        terrapool_protocol::runner::BIN,
        specification.runner
    ));
    runner
        .arg(&specification.action)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .current_dir(WORK)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if specification.user == SandboxUser::Unprivileged {
        runner.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    rustix::thread::set_no_new_privs(true)?;
    seccomp::apply().map_err(failed("system calls cannot be filtered"))?;
    Err(failed("the runner cannot be started")(runner.exec()))
}

/// Sets up the sandbox's end of its network.
fn connect(specification: &Specification) -> io::Result<()> {
    let mut commands = "link set lo up\n".to_owned();
    if let Some(outside) = &specification.network {
        // By its link's own address the host could be reached past every rule. Loopback keeps its addresses.
        match fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("IPv6 cannot be closed")(error));
            }
            _ => {}
        }
        wish(&Wish::Link)?;
        read_line()?;
        commands.push_str(&match &outside.way {
            Way::Link(Link { address, gateway, .. }) => format!(
                "addr add {address}/31 dev {INTERFACE}\nlink set {INTERFACE} up\nroute add default via {gateway}\n"
            ),
            Way::UserMode => user_mode::commands(),
        });
    }
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed("ip (iproute2) cannot be run"))?;
    if let Some(mut input) = ip.stdin.take() {
        input.write_all(commands.as_bytes())?;
    }
    if !ip.wait()?.success() {
        return Err(io::Error::other("the network cannot be set up"));
    }
    let Some(outside) = &specification.network else {
        return Ok(());
    };
    let mut close = Command::new(specification.bin.join(&specification.runner));
    close.arg("close-network");
    if outside.metadata_open {
        close.arg("--metadata-open");
    }
    close.args(&outside.closed);
    if close.stdout(Stdio::null()).status()?.success() {
        Ok(())
    } else {
        Err(io::Error::other("the network cannot be closed"))
    }
}

/// Capabilities of the root profile: what installing packages takes.
const OF_ROOT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Gives up every capability that the user must never have again. A change of user gives up the rest.
fn give_up_power(user: SandboxUser) -> io::Result<()> {
    let kept = match user {
        SandboxUser::Unprivileged => CapabilitySet::empty(),
        SandboxUser::Root => OF_ROOT,
    };
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if user == SandboxUser::Root {
        let sets = rustix::thread::CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets)?;
    }
    Ok(())
}
