//! The network of sandboxes: each has a link of its own to the host, on which it reaches the world, and nobody else.
//!
//! Addresses are of the range for benchmarks (RFC 2544), which no network uses. Two of them are a sandbox's and the
//! host's end of its link. Names and addresses that are taken are files in a folder that goes with the host's links.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

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
    ("filter", "FORWARD", "-i tpn+ -j TERRAPOOL-NATIVE"),
    ("filter", "FORWARD", "-i tpn+ -o tpn+ -j DROP"),
];

/// The chain that says by which interfaces sandboxes leave the host.
const CHAIN: &str = "TERRAPOOL-NATIVE";

/// Interfaces behind which lie containers and virtual machines of this host, or of its cluster, and not the world.
const INWARD: [&str; 4] = ["bridge", "geneve", "veth", "vxlan"];

/// The host's side of the sandboxes' network.
#[derive(Debug)]
pub(super) struct Network {
    /// What [`CHAIN`] was made of last.
    ways_out: Mutex<Vec<String>>,
}

impl Network {
    /// Prepares forwarding and translation of addresses.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when the host lacks what it takes.
    pub(super) async fn prepare() -> Result<Self, DriverError> {
        let network = Self {
            ways_out: Mutex::default(),
        };
        network.keep().await?;
        Ok(network)
    }

    /// Lets sandboxes out by the interfaces that lead to the world at this moment, and by no other. What other programs
    /// have taken away of it since, as a firewall does that is loaded anew, is made again.
    ///
    /// # Errors
    /// [`DriverError::NotNative`] when the rules cannot be made.
    pub(super) async fn keep(&self) -> Result<(), DriverError> {
        let failed = |what: &str, error: std::io::Error| DriverError::NotNative(format!("{what}: {error}"));
        fs::create_dir_all(TAKEN).map_err(|error| failed(TAKEN, error))?;
        let forwarding = "/proc/sys/net/ipv4/ip_forward";
        if fs::read_to_string(forwarding).unwrap_or_default().trim() != "1" {
            fs::write(forwarding, "1").map_err(|error| failed(forwarding, error))?;
        }
        let ways = current_ways_out().await?;
        // Held over the change: of two, the later is the one that stays.
        let mut made = self.ways_out.lock().await;
        let is_known = *made == ways;
        if !is_known || !stand(&printed("filter", CHAIN).await, &chain_rules(&ways)) {
            restore(&chain_of(&ways)).await?;
            *made = ways;
        }
        for table in ["nat", "filter"] {
            keep_rules(table).await?;
        }
        Ok(())
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

/// An interface, as `ip -json -details link` prints it.
#[derive(Debug, Deserialize)]
struct Interface {
    ifname: String,
    linkinfo: Option<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    info_kind: Option<String>,
}

/// A route, as `ip -json route` prints it; one by several ways has none here.
#[derive(Debug, Deserialize)]
struct Route {
    dev: Option<String>,
    #[serde(default)]
    nexthops: Vec<Hop>,
}

#[derive(Debug, Deserialize)]
struct Hop {
    dev: Option<String>,
}

/// The interfaces by which sandboxes may leave: those of default routes, whatever they are, and all others that do not
/// lead to what the host itself carries.
fn ways_out(interfaces: &[Interface], default_routes: &[Route]) -> Vec<String> {
    let is_default = |name: &str| {
        default_routes.iter().any(|route| {
            let hops = route.nexthops.iter().filter_map(|hop| hop.dev.as_deref());
            hops.chain(route.dev.as_deref()).any(|device| device == name)
        })
    };
    let leads_inward = |interface: &Interface| {
        let kind = interface
            .linkinfo
            .as_ref()
            .and_then(|link| link.info_kind.as_deref());
        kind.is_some_and(|kind| INWARD.contains(&kind))
    };
    // In a rule, anything else could mean something.
    let is_plain = |name: &str| {
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:@".contains(&byte))
    };
    let mut names: Vec<String> = interfaces
        .iter()
        .filter(|interface| interface.ifname != "lo" && is_plain(&interface.ifname))
        .filter(|interface| is_default(&interface.ifname) || !leads_inward(interface))
        .map(|interface| interface.ifname.clone())
        .collect();
    names.sort_unstable();
    names
}

/// The interfaces by which sandboxes may leave at this moment.
async fn current_ways_out() -> Result<Vec<String>, DriverError> {
    let ask = async |words: &[&str]| {
        let words: Vec<String> = words.iter().copied().map(str::to_owned).collect();
        run("ip", &words).await
    };
    let unreadable = |error: serde_json::Error| {
        DriverError::NotNative(format!("ip (iproute2) prints something unknown: {error}"))
    };
    let interfaces = ask(&["-json", "-details", "link", "show"]).await?;
    let routes = ask(&["-json", "-4", "route", "show", "default"]).await?;
    let interfaces: Vec<Interface> = serde_json::from_str(&interfaces).map_err(unreadable)?;
    // Older ones print nothing where there is none.
    let routes = if routes.trim().is_empty() {
        "[]"
    } else {
        routes.as_str()
    };
    let routes: Vec<Route> = serde_json::from_str(routes).map_err(unreadable)?;
    Ok(ways_out(&interfaces, &routes))
}

/// Makes the rules of a table anew, at once, unless all of them stand in their order.
async fn keep_rules(table: &str) -> Result<(), DriverError> {
    let mine = || RULES.iter().filter(|(of, ..)| *of == table);
    let mut chains: Vec<&str> = mine().map(|(_, chain, _)| *chain).collect();
    chains.dedup();
    let mut all_stand = true;
    for chain in chains {
        // The last one that was inserted stands first.
        let wanted: Vec<String> = mine()
            .rev()
            .filter(|(_, of, _)| *of == chain)
            .map(|(_, _, rule)| format!("-A {chain} {rule}"))
            .collect();
        all_stand &= stand(&printed(table, chain).await, &wanted);
    }
    if all_stand {
        return Ok(());
    }
    let mut text = format!("*{table}\n");
    for (_, chain, rule) in mine() {
        let words = ["-w", "-t", table, "-C", chain]
            .into_iter()
            .chain(rule.split(' '));
        let words: Vec<String> = words.map(str::to_owned).collect();
        if run("iptables", &words).await.is_ok() {
            text.push_str(&format!("-D {chain} {rule}\n"));
        }
    }
    for (_, chain, rule) in mine() {
        text.push_str(&format!("-I {chain} {rule}\n"));
    }
    text.push_str("COMMIT\n");
    restore(&text).await
}

/// The rules of a chain, as iptables prints them; nothing where it has no such chain.
async fn printed(table: &str, chain: &str) -> String {
    let words = ["-w", "-t", table, "-S", chain].map(str::to_owned);
    run("iptables", &words).await.unwrap_or_default()
}

/// Whether rules are among those that were printed, in this order. Others may stand between them.
fn stand(printed: &str, rules: &[String]) -> bool {
    let mut lines = printed.lines().map(str::trim_end);
    rules.iter().all(|rule| lines.any(|line| line == rule))
}

/// What the chain is made of.
fn chain_rules(ways: &[String]) -> Vec<String> {
    ways.iter()
        .map(|name| format!("-A {CHAIN} -o {name} -j ACCEPT"))
        .chain([format!("-A {CHAIN} -j DROP")])
        .collect()
}

/// What iptables-restore makes the chain of, at once.
fn chain_of(ways: &[String]) -> String {
    let rules: String = chain_rules(ways).iter().map(|rule| format!("{rule}\n")).collect();
    format!("*filter\n:{CHAIN} - [0:0]\n{rules}COMMIT\n")
}

async fn restore(text: &str) -> Result<(), DriverError> {
    feed("iptables-restore", &["--wait", "--noflush"], text)
        .await
        .map_err(|reason| DriverError::NotNative(format!("the rules of iptables cannot be made: {reason}")))
}

/// Whether the host's end of a link is there.
pub(super) fn exists(link: &Link) -> bool {
    Path::new("/sys/class/net").join(&link.host_end).exists()
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
pub(super) async fn host_addresses(runner: &Path) -> Result<Vec<String>, DriverError> {
    let printed = run(&runner.to_string_lossy(), &["addresses".to_owned()]).await?;
    let addresses = printed.lines().filter_map(|line| line.trim().parse().ok());
    let foreign = addresses.filter(|address: &IpAddr| !is_ours(*address));
    Ok(foreign.map(|address| address.to_string()).collect())
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
    feed("ip", &["-batch", "-"], commands).await.map_err(|reason| {
        DriverError::NotNative(format!(
            "a link for a sandbox in {RANGE} could not be made: {reason}"
        ))
    })
}

/// Runs a program that reads what it is to do, and returns what it has to say when it fails.
async fn feed(program: &str, arguments: &[&str], input: &str) -> Result<(), String> {
    let missing = |error: std::io::Error| format!("{program} cannot be run (is it installed?): {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(input.as_bytes()).await.map_err(missing)?;
    }
    let output = child.wait_with_output().await.map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Runs a program, and returns what it prints.
pub(super) async fn run(program: &str, arguments: &[String]) -> Result<String, DriverError> {
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

    #[test]
    fn sandboxes_leave_by_default_routes_hardware_and_tunnels_and_not_to_what_the_host_carries() {
        let interfaces = r#"[{"ifname":"lo"},{"ifname":"eth0"},{"ifname":"eth1.7","linkinfo":{"info_kind":"vlan"}},
            {"ifname":"wg0","linkinfo":{"info_kind":"wireguard"}},{"ifname":"docker0","linkinfo":{"info_kind":"bridge"}},
            {"ifname":"cali1","linkinfo":{"info_kind":"veth"}},{"ifname":"flannel.1","linkinfo":{"info_kind":"vxlan"}},
            {"ifname":"br0","linkinfo":{"info_kind":"bridge"}},{"ifname":"host0","linkinfo":{"info_kind":"veth"}},
            {"ifname":"any+","linkinfo":{}}]"#;
        let interfaces: Vec<Interface> = serde_json::from_str(interfaces).unwrap();
        let routes = r#"[{"dst":"default","gateway":"192.0.2.1","dev":"br0","metric":5},
            {"dst":"default","nexthops":[{"gateway":"192.0.2.9","dev":"host0","weight":1,"flags":[]}]}]"#;
        let routes: Vec<Route> = serde_json::from_str(routes).unwrap();
        let ways = ways_out(&interfaces, &routes);
        assert_eq!(ways, ["br0", "eth0", "eth1.7", "host0", "wg0"]);
        assert_eq!(
            chain_of(&ways[..1]),
            "*filter\n:TERRAPOOL-NATIVE - [0:0]\n-A TERRAPOOL-NATIVE -o br0 -j ACCEPT\n-A TERRAPOOL-NATIVE -j DROP\nCOMMIT\n"
        );
    }

    #[test]
    fn rules_stand_when_all_are_there_in_their_order() {
        let rules = chain_rules(&["eth0".to_owned(), "wg0".to_owned()]);
        let whole = "-N TERRAPOOL-NATIVE\n-A TERRAPOOL-NATIVE -o mine -j ACCEPT\n-A TERRAPOOL-NATIVE -o eth0 -j ACCEPT\n\
                     -A TERRAPOOL-NATIVE -o wg0 -j ACCEPT\n-A TERRAPOOL-NATIVE -j DROP\n";
        assert!(stand(whole, &rules));
        assert!(!stand(&whole.replace("wg0", "wg1"), &rules));
        assert!(!stand("-N TERRAPOOL-NATIVE\n", &rules));
        let turned: String = whole.lines().rev().map(|line| format!("{line}\n")).collect();
        assert!(!stand(&turned, &rules));
    }
}
