//! The network of sandboxes of an agent that is not root: a program of the agent's user, slirp4netns, speaks for a sandbox
//! as any program of that user does. What must not be reached is closed in the sandbox's own namespace, as for Docker.
//!
//! The sandbox's addresses are of the range for benchmarks (RFC 2544), as those of links are; each sandbox has the same
//! ones, which nobody else can reach.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use terrapool_protocol::block::Block;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::setup::INTERFACE;
use crate::drivers::DriverError;

const PROGRAM: &str = "slirp4netns";
/// Its own addresses (slirp4netns(1)): the gateway is the second one, the third answers for the host's resolver.
const ADDRESSES: &str = "198.18.0.0/24";
const GATEWAY: &str = "198.18.0.2";
const RESOLVER: &str = "198.18.0.3";
/// The range of links of sandboxes, of root's agents on this host as well. But for the resolver, nobody is there.
const CLOSED: &str = "198.18.0.0/15";
/// Larger packets cost the program less.
const PACKET: u32 = 65_520;
/// It is ready at once; on a machine under load it may take a while to be started.
const READY: Duration = Duration::from_secs(60);
/// Where it says what went wrong.
const SAID: &str = "network.log";

/// What `ip -batch` makes of the sandbox's end. The gateway's own route is replaced when the network is closed.
pub(super) fn commands() -> String {
    format!(
        "addr add 198.18.0.100/32 dev {INTERFACE}\nlink set {INTERFACE} mtu {PACKET} up\n\
         route add {GATEWAY} dev {INTERFACE}\nroute add {RESOLVER} via {GATEWAY}\nroute add default via {GATEWAY}\n"
    )
}

/// The program, where it is installed.
#[derive(Debug)]
pub(super) struct UserMode {
    program: Option<PathBuf>,
}

impl UserMode {
    /// Looks for the program.
    pub(super) fn find() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
        let program = std::env::split_paths(&path)
            .chain(sbin)
            .map(|folder| folder.join(PROGRAM))
            .find(|file| file.is_file());
        Self { program }
    }

    /// The program.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] names the package that brings it.
    pub(super) fn program(&self) -> Result<&Path, DriverError> {
        self.program.as_deref().ok_or_else(|| {
            DriverError::NotNative(format!(
                "the pool's sandboxes have a network, for which an agent that is not root needs the program {PROGRAM}: \
                 install the package {PROGRAM} and restart the agent, or set the network of the pool's sandboxes to none"
            ))
        })
    }

    /// What must not be reached of this host and of what it carries, besides the gateway.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when the host's addresses cannot be told.
    pub(super) async fn closed(&self, runner: &Path) -> Result<Vec<String>, DriverError> {
        self.program()?;
        let words = ["addresses", "--with-bridges"].map(str::to_owned);
        let printed = super::network::run(&runner.to_string_lossy(), &words).await?;
        let blocks = printed
            .lines()
            .filter_map(|line| line.trim().parse::<Block>().ok());
        let mut closed: Vec<String> = blocks.map(|block| block.to_string()).collect();
        closed.push(CLOSED.to_owned());
        Ok(closed)
    }

    /// Starts the program for the network namespace of a process, and waits until it is connected.
    ///
    /// # Errors
    /// [`DriverError`] with what the program said.
    pub(super) async fn connect(&self, process: u32, sandbox: &Path) -> Result<Child, DriverError> {
        let program = self.program()?;
        let failed = |source: std::io::Error| DriverError::File {
            path: program.to_owned(),
            source,
        };
        let said = sandbox.join(SAID);
        let log = fs::File::create(&said).map_err(failed)?;
        let (ready, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| failed(error.into()))?;
        let mut child = self
            .command(program, process)
            .stdin(Stdio::from(told))
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let is_ready = tokio::time::timeout(READY, is_told(ready)).await;
        if matches!(is_ready, Ok(Ok(true))) {
            return Ok(child);
        }
        let _ = child.kill().await;
        let text = fs::read_to_string(&said).unwrap_or_default();
        let last = text.trim().lines().next_back().unwrap_or("it said nothing");
        Err(DriverError::NotNative(format!(
            "{PROGRAM} (0.4 or newer is needed) could not connect a sandbox: {last}; it needs /dev/net/tun (modprobe tun)"
        )))
    }

    /// It reaches neither loopback of the host nor its files, and makes few system calls.
    fn command(&self, program: &Path, process: u32) -> Command {
        let mut command = Command::new(program);
        command
            .arg(format!("--cidr={ADDRESSES}"))
            .arg(format!("--mtu={PACKET}"))
            .args([
                "--disable-host-loopback",
                "--enable-sandbox",
                "--enable-seccomp",
                // Standard input is the end of a pipe that can be written to.
                "--ready-fd=0",
            ])
            .args([&process.to_string(), INTERFACE])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdout(Stdio::null())
            // Signals for the agent's group are not for sandboxes.
            .process_group(0);
        command
    }
}

/// Whether something is written to a pipe before it ends.
async fn is_told(pipe: OwnedFd) -> std::io::Result<bool> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut word = [0; 1];
    Ok(pipe.read(&mut word).await? > 0)
}

/// The `/etc/resolv.conf` of such a sandbox: the host's, asked by the program.
pub(super) fn resolvers() -> String {
    of_host(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn of_host(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        ["search", "domain", "options"]
            .iter()
            .any(|word| line.starts_with(word))
    });
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    format!("nameserver {RESOLVER}\n{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_asked_of_the_program_with_the_hosts_own_endings() {
        let host = "# made by hand\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.com\n";
        assert_eq!(
            of_host(host),
            "nameserver 198.18.0.3\noptions edns0 trust-ad\nsearch example.com\n"
        );
    }

    #[tokio::test]
    async fn without_the_program_its_package_is_named() {
        let nothing = UserMode { program: None };
        let refused = nothing.closed(Path::new("/nowhere")).await;
        let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            text.contains("install the package slirp4netns") && text.contains("none"),
            "{text}"
        );
    }
}
