//! Closing a sandbox's network: what must not be reached from inside gets an `unreachable` route, and of IPv6 nothing is
//! left but loopback.
//!
//! A container of its own joins the sandbox's network namespace, does this and ends; the sandbox itself has no capability
//! to undo it. All of it is asked for over rtnetlink (rtnetlink(7)).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use terrapool_protocol::block::Block;

use crate::bridges;
use crate::error::RunnerError;

/// Where clouds answer with credentials, and everything else that is only valid on a link.
const METADATA: [(Ipv4Addr, u8); 3] = [
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(100, 100, 100, 200), 32),
    (Ipv4Addr::new(192, 0, 0, 192), 32),
];

/// The resolver of a cloud's network, which is no secret.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK`
const ASK: u16 = 0x1 | 0x4;
/// `NLM_F_REPLACE | NLM_F_CREATE`
const MAKE: u16 = 0x100 | 0x400;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const IFA_LOCAL: u16 = 2;

/// Makes the gateway, neighbours, what is the host's and, unless it is to stay open, the clouds' metadata unreachable in
/// this network namespace. Its links lose the IPv6 addresses that the kernel gives every link: by them the host could be
/// reached past every route.
///
/// # Errors
/// [`RunnerError::Kernel`] when a route cannot be made, or an address not be taken away: the network is then not closed.
pub fn close(metadata_open: bool, host: &[Block]) -> Result<(), RunnerError> {
    let failed = |source| RunnerError::Kernel {
        what: "make a route that closes the network",
        source,
    };
    let mut routes = Netlink::open().map_err(failed)?;
    // Neighbours on the same bridge, which not every engine keeps apart. The way out stays: the kernel looked the gateway
    // up when its route was made.
    let own = bridges::connected(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    let own = own.into_iter().filter(|block| block.length() > 0);
    let gateway = gateway(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    if !metadata_open {
        // First, as long as the gateway can be resolved.
        if let Some(gateway) = gateway {
            routes.through(RESOLVER, gateway).map_err(failed)?;
        }
        for (address, length) in METADATA {
            routes.unreachable(address, length).map_err(failed)?;
        }
    }
    let gateway = gateway.map(IpAddr::V4).map(Block::from);
    for block in gateway.into_iter().chain(host.iter().copied()).chain(own) {
        // Of IPv6 nothing is left to be reached by.
        if let IpAddr::V4(address) = block.address() {
            routes.unreachable(address, block.length()).map_err(failed)?;
        }
    }
    close_v6(&mut routes).map_err(|source| RunnerError::Kernel {
        what: "take an IPv6 address away from the sandbox's link",
        source,
    })
}

/// Takes the IPv6 addresses of all links but loopback away, and their routes with them.
fn close_v6(netlink: &mut Netlink) -> io::Result<()> {
    // Where the kernel has no IPv6 it has no such table.
    let of_links = || links_v6(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
    for address in of_links() {
        netlink.remove(&address)?;
    }
    match of_links().first() {
        None => Ok(()),
        Some(left) => Err(io::Error::other(format!("{} is still there", left.address))),
    }
}

/// An IPv6 address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LinkAddress {
    address: Ipv6Addr,
    length: u8,
    /// The link's index.
    link: u32,
}

/// The addresses in `/proc/net/if_inet6` that other links than loopback have.
fn links_v6(table: &str) -> Vec<LinkAddress> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = LinkAddress {
            address: Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?),
            link: u32::from_str_radix(fields.get(1)?, 16).ok()?,
            length: u8::from_str_radix(fields.get(2)?, 16).ok()?,
        };
        (*fields.get(5)? != "lo").then_some(found)
    };
    table.lines().filter_map(parse).collect()
}

/// The addresses of the machine, as this network namespace has them; loopback and link-local ones are left out.
pub fn addresses() -> Vec<IpAddr> {
    let mut found = addresses_v4(&fs::read_to_string("/proc/net/fib_trie").unwrap_or_default());
    found.extend(addresses_v6(
        &fs::read_to_string("/proc/net/if_inet6").unwrap_or_default(),
    ));
    found
}

fn addresses_v4(trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last
            && !address.is_loopback()
            && !found.contains(&IpAddr::V4(address))
        {
            found.push(IpAddr::V4(address));
        }
    }
    found
}

fn addresses_v6(table: &str) -> Vec<IpAddr> {
    table
        .lines()
        .filter_map(|line| {
            let digits = line.split_whitespace().next()?;
            let address = Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
            let of_link = address.segments()[0] & 0xffc0 == 0xfe80;
            (!address.is_loopback() && !of_link).then_some(IpAddr::V6(address))
        })
        .collect()
}

/// The default gateway in `/proc/net/route`.
fn gateway(table: &str) -> Option<Ipv4Addr> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

/// Asks the kernel for changes, one after the other.
struct Netlink {
    socket: rustix::fd::OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn unreachable(&mut self, address: Ipv4Addr, length: u8) -> io::Result<()> {
        self.ask(|sequence| new_route(sequence, RTN_UNREACHABLE, address, length, None))
    }

    fn through(&mut self, address: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
        self.ask(|sequence| new_route(sequence, RTN_UNICAST, address, 32, Some(gateway)))
    }

    fn remove(&mut self, address: &LinkAddress) -> io::Result<()> {
        match self.ask(|sequence| delete_address(sequence, address)) {
            // The kernel may have given it up meanwhile.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::ADDRNOTAVAIL.raw_os_error()) => {
                Ok(())
            }
            result => result,
        }
    }

    fn ask(&mut self, message: impl FnOnce(u32) -> Vec<u8>) -> io::Result<()> {
        self.sequence += 1;
        rustix::net::send(&self.socket, &message(self.sequence), SendFlags::empty())?;
        let mut answer = [0; 1024];
        loop {
            let (count, _) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
            if let Some(result) = result(&answer[..count], self.sequence) {
                return result;
            }
        }
    }
}

/// An `RTM_NEWROUTE` message.
fn new_route(sequence: u32, kind: u8, address: Ipv4Addr, length: u8, gateway: Option<Ipv4Addr>) -> Vec<u8> {
    let mut body = vec![AF_INET, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, kind];
    body.extend(0_u32.to_ne_bytes());
    attribute(&mut body, RTA_DST, &address.octets());
    if let Some(gateway) = gateway {
        attribute(&mut body, RTA_GATEWAY, &gateway.octets());
    }
    message(sequence, RTM_NEWROUTE, ASK | MAKE, &body)
}

/// An `RTM_DELADDR` message.
fn delete_address(sequence: u32, address: &LinkAddress) -> Vec<u8> {
    let mut body = vec![AF_INET6, address.length, 0, 0];
    body.extend(address.link.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &address.address.octets());
    message(sequence, RTM_DELADDR, ASK, &body)
}

fn message(sequence: u32, kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = size.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let size = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(size.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// What the kernel answered to a request; `None` when this is no answer to it.
fn result(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let of = u32::from_ne_bytes(answer.get(8..12)?.try_into().ok()?);
    if kind != NLMSG_ERROR || of != sequence {
        return None;
    }
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    Some(if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-code))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_and_addresses_are_read_from_the_kernels_tables() {
        let routes = "Iface\tDestination\tGateway \tFlags\neth0\t00000000\t010011AC\t0003\neth0\t000011AC\t00000000\t0001\n";
        assert_eq!(gateway(routes), Some(Ipv4Addr::new(172, 17, 0, 1)));
        assert_eq!(gateway("Iface\tDestination\tGateway\n"), None);
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(addresses_v4(trie), [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5))]);
        let v6 = "00000000000000000000000000000001 01 80 10 80       lo\nfe800000000000000000000000000001 02 40 20 80     eth0\n20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(addresses_v6(v6), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
        let links = links_v6(v6);
        assert_eq!(links.len(), 2, "{links:?}");
        let of_link = LinkAddress {
            address: "fe80::1".parse().unwrap(),
            length: 64,
            link: 2,
        };
        assert_eq!(links[0], of_link);
    }

    #[test]
    fn a_request_holds_what_the_kernel_wants_to_know() {
        let message = new_route(7, RTN_UNREACHABLE, Ipv4Addr::new(169, 254, 0, 0), 16, None);
        assert_eq!(message.len(), 16 + 12 + 8);
        assert_eq!(message[16..24], [2, 16, 0, 0, 254, 4, 0, 7]);
        assert_eq!(message[32..], [169, 254, 0, 0]);
        let of_link = LinkAddress {
            address: "fe80::1".parse().unwrap(),
            length: 64,
            link: 2,
        };
        let message = delete_address(8, &of_link);
        assert_eq!(message.len(), 16 + 8 + 20);
        assert_eq!(message[16..20], [10, 64, 0, 0]);
        assert_eq!(message[28..30], of_link.address.octets()[..2]);
        let mut answer = vec![0; 36];
        answer[4] = 2;
        answer[8] = 7;
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(result(&answer, 7).unwrap().unwrap_err().raw_os_error(), Some(1));
        assert!(result(&answer, 8).is_none());
    }
}
