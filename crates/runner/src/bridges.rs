//! Networks that a host carries itself: those of bridges and overlays, behind which lie virtual machines and containers.
//!
//! Read from the kernel's tables of routes (proc_pid_net(5)) and from what sysfs tells of interfaces.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use terrapool_protocol::block::Block;

/// Kinds of interfaces (`DEVTYPE` in their `uevent`) that do not lead to the world.
const INWARD: [&str; 3] = ["bridge", "geneve", "vxlan"];

/// The blocks that this network namespace reaches by bridges and overlays that no default route takes. Link-local ones
/// are left out.
pub fn blocks() -> Vec<Block> {
    let read = |table: &str| fs::read_to_string(Path::new("/proc/net").join(table)).unwrap_or_default();
    let mut routes = routes_v4(&read("route"));
    routes.extend(routes_v6(&read("ipv6_route")));
    inward(&routes, |interface| {
        let event = Path::new("/sys/class/net").join(interface).join("uevent");
        let event = fs::read_to_string(event).unwrap_or_default();
        let mut kinds = event.lines().filter_map(|line| line.strip_prefix("DEVTYPE="));
        kinds.any(|kind| INWARD.contains(&kind))
    })
}

/// The blocks of the links themselves in `/proc/net/route`.
pub(crate) fn connected(table: &str) -> Vec<Block> {
    let routes = routes_v4(table).into_iter();
    routes
        .filter(|route| route.is_of_link)
        .map(|route| route.block)
        .collect()
}

/// A route by an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    block: Block,
    interface: String,
    /// Without a gateway.
    is_of_link: bool,
}

fn inward(routes: &[Route], leads_inward: impl Fn(&str) -> bool) -> Vec<Block> {
    let defaults: BTreeSet<&str> = routes
        .iter()
        .filter(|route| route.block.length() == 0)
        .map(|route| route.interface.as_str())
        .collect();
    let blocks: BTreeSet<Block> = routes
        .iter()
        .filter(|route| !defaults.contains(route.interface.as_str()) && !is_of_links(route.block))
        .filter(|route| leads_inward(&route.interface))
        .map(|route| route.block)
        .collect();
    blocks.into_iter().collect()
}

/// Metadata is there, which a pool may open, and nothing of which a host has only one.
fn is_of_links(block: Block) -> bool {
    match block.address() {
        IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

fn routes_v4(table: &str) -> Vec<Route> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |place: usize| u32::from_str_radix(fields.get(place)?, 16).ok();
        let address = Ipv4Addr::from(number(1)?.to_ne_bytes());
        let length = u8::try_from(number(7)?.count_ones()).ok()?;
        Some(Route {
            block: Block::new(address.into(), length)?,
            interface: (*fields.first()?).to_owned(),
            is_of_link: number(2)? == 0,
        })
    };
    table.lines().filter_map(parse).collect()
}

fn routes_v6(table: &str) -> Vec<Route> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |place: usize| u128::from_str_radix(fields.get(place)?, 16).ok();
        let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        Some(Route {
            block: Block::new(Ipv6Addr::from(address(0)?).into(), length)?,
            interface: (*fields.get(9)?).to_owned(),
            is_of_link: address(4)? == 0,
        })
    };
    table.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what goes wrong in a test fails it")]

    use super::*;

    const ROUTES: &str = "\
        Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        br0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        br0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n\
        virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        virbr0\t0000FEA9\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
        flannel.1\t00012A0A\t00012A0A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const ROUTES_V6: &str = "\
        fd001234000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001   virbr0\n\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001   virbr0\n";

    #[test]
    fn what_lies_behind_bridges_and_overlays_is_the_hosts_unless_a_default_route_goes_by_them() {
        let mut routes = routes_v4(ROUTES);
        routes.extend(routes_v6(ROUTES_V6));
        let found = inward(&routes, |name| ["br0", "virbr0", "flannel.1"].contains(&name));
        let found: Vec<String> = found.iter().map(Block::to_string).collect();
        assert_eq!(found, ["10.42.1.0/24", "192.168.122.0/24", "fd00:1234::/64"]);
    }

    #[test]
    fn the_blocks_of_links_are_those_without_a_gateway() {
        let found = connected(ROUTES);
        assert!(found.contains(&"192.168.122.0/24".parse().unwrap()), "{found:?}");
        assert!(!found.contains(&"10.42.1.0/24".parse().unwrap()), "{found:?}");
    }
}
