//! The network of sandboxes: each has a link of its own to the host, on which it reaches the world, and nobody else.
//!
//! Addresses are of the range for benchmarks (RFC 2544), which no network uses. Two of them are a sandbox's and the
//! host's end of its link. Names and addresses that are taken are files in a folder that goes with the host's links.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::setup::Link;
use crate::drivers::DriverError;

/// Where taken links are noted.
const TAKEN: &str = "/run/terrapool-native";
/// What the names of the host's ends begin with.
const PREFIX: &str = "tpn";
const RANGE: &str = "198.18.0.0/15";

/// What lets sandboxes reach the world, and keeps them from each other and from the host: table, chain, and the rule.
const RULES: [(&str, &str, &str); 6] = [
    ("nat", "POSTROUTING", "-s 198.18.0.0/15 ! -o tpn+ -j MASQUERADE"),
    ("filter", "INPUT", "-i tpn+ -j DROP"),
    // Each goes before those above it.
    ("filter", "FORWARD", "-o tpn+ -j DROP"),
    (
        "filter",
        "FORWARD",
        "-o tpn+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ),
    ("filter", "FORWARD", "-i tpn+ -j ACCEPT"),
    ("filter", "FORWARD", "-i tpn+ -o tpn+ -j DROP"),
];

/// The host's side of the sandboxes' network.
#[derive(Debug)]
pub(super) struct Network;

impl Network {
    /// Prepares forwarding and translation of addresses.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when the host lacks what it takes.
    pub(super) async fn prepare() -> Result<Self, DriverError> {
        let failed = |what: &str, error: std::io::Error| DriverError::NotNative(format!("{what}: {error}"));
        fs::create_dir_all(TAKEN).map_err(|error| failed(TAKEN, error))?;
        let forwarding = "/proc/sys/net/ipv4/ip_forward";
        if fs::read_to_string(forwarding).unwrap_or_default().trim() != "1" {
            fs::write(forwarding, "1").map_err(|error| failed(forwarding, error))?;
        }
        for (table, chain, rule) in RULES {
            let iptables = |action: &str| {
                let mut words = vec!["-w", "-t", table, action, chain];
                words.extend(rule.split(' '));
                words.into_iter().map(str::to_owned).collect::<Vec<_>>()
            };
            if run("iptables", &iptables("-C")).await.is_err() {
                run("iptables", &iptables("-I")).await?;
            }
        }
        Ok(Self)
    }

    /// Takes a link that nobody else has.
    pub(super) fn take(&self, random: [u8; 2], sandbox: &Path) -> Result<Link, DriverError> {
        let first = u16::from_be_bytes(random);
        for step in 0..=u16::MAX {
            let number = first.wrapping_add(step);
            let note = note(number);
            match fs::OpenOptions::new().write(true).create_new(true).open(&note) {
                Ok(mut file) => {
                    let _ = file.write_all(sandbox.as_os_str().as_encoded_bytes());
                    return Ok(link(number));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return Err(DriverError::File { path: note, source }),
            }
        }
        Err(DriverError::NotNative("every address is taken".to_owned()))
    }

    /// Joins the host with the network namespace of a process.
    pub(super) async fn connect(&self, link: &Link, process: u32) -> Result<(), DriverError> {
        // Left by a sandbox whose removal was cut off.
        self.disconnect(link).await;
        let name = &link.host_end;
        batch(&format!(
            "link add {name} type veth peer name {} netns {process}\nlink set {name} addrgenmode none\naddr add {}/31 dev {name}\nlink set {name} up\n",
            super::setup::INTERFACE,
            link.gateway
        ))
        .await
    }

    async fn disconnect(&self, link: &Link) {
        let words = ["link", "del", link.host_end.as_str()].map(str::to_owned);
        // It goes with its namespace and may be gone.
        let _ = run("ip", &words).await;
    }

    /// Gives a link back.
    pub(super) async fn give_back(&self, link: &Link) {
        self.disconnect(link).await;
        let _ = fs::remove_file(note(link.number));
    }
}

fn note(number: u16) -> PathBuf {
    Path::new(TAKEN).join(number.to_string())
}

fn link(number: u16) -> Link {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + u32::from(number) * 2;
    Link {
        number,
        host_end: format!("{PREFIX}{number}"),
        gateway: Ipv4Addr::from(first),
        address: Ipv4Addr::from(first + 1),
    }
}

/// The addresses of this host that sandboxes must not reach.
pub(super) async fn host_addresses(runner: &Path) -> Result<Vec<IpAddr>, DriverError> {
    let printed = run(&runner.to_string_lossy(), &["addresses".to_owned()]).await?;
    let addresses = printed.lines().filter_map(|line| line.trim().parse().ok());
    Ok(addresses.filter(|address| !is_ours(*address)).collect())
}

fn is_ours(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18)
}

/// The resolvers of the host, as far as a sandbox can ask them.
pub(super) fn resolvers() -> String {
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .find(|text| {
            text.lines().any(|line| {
                line.strip_prefix("nameserver")
                    .is_some_and(|address| !address.trim().starts_with("127.") && address.trim() != "::1")
            })
        })
        .unwrap_or_default()
}

async fn batch(commands: &str) -> Result<(), DriverError> {
    let missing =
        |error: std::io::Error| DriverError::NotNative(format!("ip (iproute2) cannot be run: {error}"));
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(commands.as_bytes()).await.map_err(missing)?;
    }
    let output = child.wait_with_output().await.map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    Err(DriverError::NotNative(format!(
        "a link for a sandbox in {RANGE} could not be made: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

async fn run(program: &str, arguments: &[String]) -> Result<String, DriverError> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| {
            DriverError::NotNative(format!("{program} cannot be run (is it installed?): {error}"))
        })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(DriverError::NotNative(format!(
        "{program} {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_has_two_addresses_of_the_range() {
        assert_eq!(link(0).gateway, Ipv4Addr::new(198, 18, 0, 0));
        assert_eq!(link(0).address, Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(link(u16::MAX).address, Ipv4Addr::new(198, 19, 255, 255));
        assert!(link(u16::MAX).host_end.len() <= 15, "the kernel's longest name");
        assert!(is_ours(link(u16::MAX).address.into()) && !is_ours(Ipv4Addr::new(198, 20, 0, 1).into()));
    }
}
