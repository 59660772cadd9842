//! Closing a sandbox's network: what must not be reached from inside gets an `unreachable` route.
//!
//! A container of its own joins the sandbox's network namespace, makes the routes and ends; the sandbox itself has no
//! capability to remove them. Routes are asked for over rtnetlink (rtnetlink(7)).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use terrapool_protocol::block::Block;

use crate::bridges;
use crate::error::RunnerError;

/// Where clouds answer with credentials, and everything else that is only valid on a link.
const METADATA: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0)), 32),
];

/// The resolver of a cloud's network, which is no secret.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE`
const FLAGS: u16 = 0x1 | 0x4 | 0x100 | 0x400;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;

/// Makes the gateway, neighbours, what is the host's and, unless it is to stay open, the clouds' metadata unreachable in
/// this network namespace.
///
/// # Errors
/// [`RunnerError::Kernel`] when a route cannot be made: the network is then not closed.
pub fn close(metadata_open: bool, host: &[Block]) -> Result<(), RunnerError> {
    let failed = |source| RunnerError::Kernel {
        what: "make a route that closes the network",
        source,
    };
    let mut routes = Routes::open().map_err(failed)?;
    // Neighbours on the same bridge, which not every engine keeps apart. The way out stays: the kernel looked the gateway
    // up when its route was made.
    let own = bridges::connected(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    let own = own.into_iter().filter(|block| block.length() > 0);
    let gateway = gateway(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    let with_v6 = fs::read_to_string("/proc/net/if_inet6").is_ok_and(|text| !addresses_v6(&text).is_empty());
    let gateway_v6 = gateway_v6(&fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default());
    if !metadata_open {
        // First, as long as the gateway can be resolved.
        if let Some(gateway) = gateway {
            routes.through(RESOLVER, gateway).map_err(failed)?;
        }
        for (address, length) in METADATA {
            if address.is_ipv4() || with_v6 {
                routes.unreachable(address, length).map_err(failed)?;
            }
        }
    }
    let gateways = gateway
        .map(IpAddr::V4)
        .into_iter()
        .chain(gateway_v6.map(IpAddr::V6))
        .map(Block::from);
    for block in gateways.chain(host.iter().copied()).chain(own) {
        if block.address().is_ipv4() || with_v6 {
            routes
                .unreachable(block.address(), block.length())
                .map_err(failed)?;
        }
    }
    Ok(())
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

/// The default gateway in `/proc/net/ipv6_route`.
fn gateway_v6(table: &str) -> Option<Ipv6Addr> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let next = u128::from_str_radix(fields.get(4)?, 16).ok()?;
        let everything = u128::from_str_radix(fields.first()?, 16).ok()? == 0 && *fields.get(1)? == "00";
        (everything && next != 0).then(|| Ipv6Addr::from(next))
    })
}

/// Makes routes, one request after the other.
struct Routes {
    socket: rustix::fd::OwnedFd,
    sequence: u32,
}

impl Routes {
    fn open() -> io::Result<Self> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn unreachable(&mut self, address: IpAddr, length: u8) -> io::Result<()> {
        self.make(RTN_UNREACHABLE, address, length, None)
    }

    fn through(&mut self, address: Ipv4Addr, gateway: Ipv4Addr) -> io::Result<()> {
        self.make(RTN_UNICAST, address.into(), 32, Some(gateway))
    }

    fn make(&mut self, kind: u8, address: IpAddr, length: u8, gateway: Option<Ipv4Addr>) -> io::Result<()> {
        self.sequence += 1;
        let message = request(self.sequence, kind, address, length, gateway);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
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
fn request(sequence: u32, kind: u8, address: IpAddr, length: u8, gateway: Option<Ipv4Addr>) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (2_u8, address.octets().to_vec()),
        IpAddr::V6(address) => (10_u8, address.octets().to_vec()),
    };
    let mut body = vec![family, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, kind];
    body.extend(0_u32.to_ne_bytes());
    attribute(&mut body, RTA_DST, &bytes);
    if let Some(gateway) = gateway {
        attribute(&mut body, RTA_GATEWAY, &gateway.octets());
    }
    let size = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = size.to_ne_bytes().to_vec();
    message.extend(RTM_NEWROUTE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
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
        let routes = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000009 00000400 00000000 00000000 00000003 eth0\n";
        assert_eq!(gateway_v6(routes), Some("fe80::9".parse().unwrap()));
    }

    #[test]
    fn a_request_holds_what_the_kernel_wants_to_know() {
        let message = request(
            7,
            RTN_UNREACHABLE,
            IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)),
            16,
            None,
        );
        assert_eq!(message.len(), 16 + 12 + 8);
        assert_eq!(message[16..24], [2, 16, 0, 0, 254, 4, 0, 7]);
        assert_eq!(message[32..], [169, 254, 0, 0]);
        let mut answer = vec![0; 36];
        answer[4] = 2;
        answer[8] = 7;
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(result(&answer, 7).unwrap().unwrap_err().raw_os_error(), Some(1));
        assert!(result(&answer, 8).is_none());
    }
}
