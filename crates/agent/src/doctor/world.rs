//! The way of sandboxes to the world.

use super::Finding;

/// Whether sandboxes, which have IPv4 only, get out by this host's routes.
pub(super) fn addresses() -> Finding {
    let read = |table: &str| std::fs::read_to_string(table).unwrap_or_default();
    addresses_of(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
}

/// By `/proc/net/route` and `/proc/net/ipv6_route` (proc_pid_net(5)).
fn addresses_of(v4: &str, v6: &str) -> Finding {
    let leads_out_v4 = v4.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")
    });
    let leads_out_v6 = v6.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields
            .first()
            .is_some_and(|to| to.bytes().all(|digit| digit == b'0'))
            && fields.get(1) == Some(&"00");
        // The kernel's own, which refuses, is by loopback.
        is_default && fields.last() != Some(&"lo")
    });
    match (leads_out_v4, leads_out_v6) {
        (true, _) => Finding::fine("IPv4, of which this host has a default route"),
        (false, true) => Finding::warning(
            "this host has a default route of IPv6 only, and sandboxes have IPv4 only: runs reach the control plane, and no \
             provider's or module's address",
            "give the host a way to IPv4 (a NAT64 with a CLAT, such as clatd, on this host), or an HTTP proxy with an IPv4 \
             address, and let the pool's sandboxes use it (`proxy` of the pool: agent)",
        ),
        (false, false) => Finding::fine("IPv4; this host has no default route"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    const DEFAULT: &str = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    const LINK: &str = "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
    const ZERO: &str = "00000000000000000000000000000000";

    fn default_v6(interface: &str) -> String {
        format!(
            "{ZERO} 00 {ZERO} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 {interface}\n"
        )
    }

    #[test]
    fn a_host_that_has_ipv6_only_is_told_what_its_sandboxes_lack() {
        let only_v6 = addresses_of(&format!("{HEAD}{LINK}"), &default_v6("eth0"));
        assert!(
            matches!(&only_v6, Finding::Warning { found, cure } if found.contains("IPv6 only") && cure.contains("NAT64")),
            "{only_v6:?}"
        );
        for (v4, v6) in [
            (format!("{HEAD}{DEFAULT}"), default_v6("eth0")),
            (format!("{HEAD}{DEFAULT}"), String::new()),
            // No way out at all is a host's own affair.
            (format!("{HEAD}{LINK}"), default_v6("lo")),
        ] {
            assert!(matches!(addresses_of(&v4, &v6), Finding::Fine(_)), "{v4}{v6}");
        }
    }
}
