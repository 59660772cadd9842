//! The way to the control plane: proxy, names, connection, certificates, clock.

use std::time::{Duration, Instant};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::{Check, Finding};
use crate::clock::disagreement;
use crate::config::Config;
use crate::control_plane::{ControlPlane, describe};

/// Longest wait for names and for a connection.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) async fn examine(config: &Config) -> Vec<Check> {
    let check = |name, finding| Check { name, finding };
    let Some(place) = Place::of(&config.url) else {
        let cure = "terrapool-agent configure --url https://…";
        return vec![check(
            "control plane",
            Finding::broken(format!("{} is no address", config.url), cure),
        )];
    };
    let proxy = config.url.parse().ok().and_then(|uri| {
        let found = Matcher::from_system().intercept(&uri)?;
        Place::of(&found.uri().to_string())
    });
    // Behind a proxy it is the proxy that looks the control plane's name up.
    let next = proxy.as_ref().unwrap_or(&place);
    let mut checks = vec![
        check("proxy", said_of_proxy(proxy.as_ref(), &place)),
        check("names", names(next).await),
        check("connection", connection(next, proxy.is_some()).await),
        check("certificates", certificates(config)),
    ];
    let client = match ControlPlane::new(config) {
        Ok(client) => client,
        Err(error) => {
            checks.push(check(
                "control plane",
                Finding::broken(describe(&error), cure_for(&describe(&error))),
            ));
            return checks;
        }
    };
    match client.look().await {
        Ok(server) => {
            checks.push(check("control plane", Finding::fine(config.url.clone())));
            checks.push(check("version", version(server.as_deref())));
        }
        Err(error) => {
            let text = describe(&error);
            let cure = cure_for(&text);
            checks.push(check(
                "control plane",
                Finding::broken(format!("{}: {text}", config.url), cure),
            ));
        }
    }
    checks.push(check("clock", clock(client.clock_ahead_seconds())));
    checks
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    port: u16,
}

impl Place {
    fn of(address: &str) -> Option<Self> {
        let url = Url::parse(address).ok()?;
        let host = url.host_str()?.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(1080);
        Some(Self { host, port })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Without the proxy's password.
fn said_of_proxy(proxy: Option<&Place>, place: &Place) -> Finding {
    match proxy {
        Some(proxy) => Finding::fine(format!("{proxy} leads to {place}")),
        None => Finding::fine(format!(
            "none for {place} (HTTPS_PROXY, ALL_PROXY and NO_PROXY of this process and of the service)"
        )),
    }
}

async fn names(place: &Place) -> Finding {
    let asked = tokio::time::timeout(
        PATIENCE,
        tokio::net::lookup_host((place.host.as_str(), place.port)),
    );
    let cure = "check the spelling, /etc/resolv.conf and /etc/hosts; behind a proxy that looks names up, set HTTPS_PROXY";
    match asked.await {
        Ok(Ok(found)) => {
            let found: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            if found.is_empty() {
                Finding::broken(format!("{} has no address", place.host), cure)
            } else {
                Finding::fine(format!("{} is {}", place.host, found.join(", ")))
            }
        }
        Ok(Err(error)) => Finding::broken(format!("{} is not known: {error}", place.host), cure),
        Err(_) => Finding::broken(
            format!(
                "nobody says within {} s what {} is",
                PATIENCE.as_secs(),
                place.host
            ),
            cure,
        ),
    }
}

async fn connection(place: &Place, is_proxy: bool) -> Finding {
    let begin = Instant::now();
    let tried = tokio::time::timeout(
        PATIENCE,
        tokio::net::TcpStream::connect((place.host.as_str(), place.port)),
    );
    let cure = if is_proxy {
        "the proxy has to run and to be reachable from here: check its address in HTTPS_PROXY and the firewall"
    } else {
        "let this host connect out to that port (firewall, security group, routes), or set HTTPS_PROXY in a drop-in of \
         the service"
    };
    match tried.await {
        Ok(Ok(_)) => Finding::fine(format!(
            "{place} accepts after {} ms",
            begin.elapsed().as_millis()
        )),
        Ok(Err(error)) => Finding::broken(format!("{place}: {error}"), cure),
        Err(_) => Finding::broken(
            format!("{place} does not answer within {} s", PATIENCE.as_secs()),
            cure,
        ),
    }
}

fn certificates(config: &Config) -> Finding {
    let Some(path) = &config.ca_file else {
        return Finding::fine("the system's");
    };
    let shown = path.display();
    let cure = "terrapool-agent configure --ca-file FILE, with a file in PEM format";
    match std::fs::read_to_string(path) {
        Ok(text) => match text.matches("-----BEGIN CERTIFICATE-----").count() {
            0 => Finding::broken(format!("{shown} holds no certificate"), cure),
            count => Finding::fine(format!("the system's, and {count} of {shown}")),
        },
        Err(error) => Finding::broken(format!("{shown} cannot be read: {error}"), cure),
    }
}

/// What helps against an error of the client; the texts are those of rustls, hyper and the operating system.
fn cure_for(error: &str) -> &'static str {
    const CURES: [(&[&str], &str); 8] = [
        (
            &["UnknownIssuer", "SelfSigned", "CaUsedAsEndEntity"],
            "its authority is not trusted here: terrapool-agent configure --ca-file FILE, with the control plane's ca.pem, or \
             that of a proxy that looks into TLS",
        ),
        (
            &["NotValidForName", "not valid for name"],
            "the certificate is for another name: use the address that the control plane has as its public_url",
        ),
        (
            &["Expired", "expired", "NotValidYet", "not valid yet"],
            "compare this host's clock (timedatectl) and the certificate's dates",
        ),
        (
            &["407", "roxy authentication"],
            "the proxy wants a name and a password: HTTPS_PROXY=http://user:password@proxy:3128",
        ),
        (
            &["tunnel"],
            "the proxy does not lead there: it has to allow CONNECT to the control plane's host and port",
        ),
        (
            &["refused", "unreachable", "timed out", "dns"],
            "see `names` and `connection`; check the address, HTTPS_PROXY and NO_PROXY",
        ),
        (
            &["answered 5"],
            "the control plane, or a load balancer before it, has trouble: look at its log and `terrapool doctor`",
        ),
        (
            &["unexpected answer", "none of a control plane's"],
            "something else answers at this address: use the control plane's public_url (terrapool-agent configure \
             --url), and check what stands before it",
        ),
    ];
    CURES
        .into_iter()
        .find(|(signs, _)| signs.iter().any(|sign| error.contains(sign)))
        .map_or(
            "check the address, HTTPS_PROXY and NO_PROXY, and TERRAPOOL_CA_FILE for a private CA",
            |(_, cure)| cure,
        )
}

fn version(server: Option<&str>) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    match server {
        None => Finding::fine(own),
        Some(server) if server == own => Finding::fine(format!("{own}, as the control plane")),
        Some(server) => Finding::warning(
            format!("{own}, the control plane has {server}"),
            "install the package that the pool's Install page offers; runs go on meanwhile",
        ),
    }
}

fn clock(ahead: Option<i64>) -> Finding {
    match ahead.map(|ahead| (ahead, disagreement(ahead))) {
        None => Finding::warning(
            "not compared: the control plane did not answer",
            "see `control plane`; timedatectl shows whether the clock is synchronized",
        ),
        Some((_, Some(words))) => Finding::warning(words, "timedatectl set-ntp true"),
        Some((ahead, None)) => Finding::fine(format!("within {} s of the control plane's", ahead.abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_addresses_of_every_kind() {
        let place = |text: &str| Place::of(text).map(|place| place.to_string());
        assert_eq!(
            place("https://tp.example.com").as_deref(),
            Some("tp.example.com:443")
        );
        assert_eq!(place("http://user:pw@proxy:3128/").as_deref(), Some("proxy:3128"));
        assert_eq!(
            place("https://[2001:db8::1]:8443").as_deref(),
            Some("[2001:db8::1]:8443")
        );
        assert_eq!(place("nothing"), None);
    }

    #[test]
    fn every_trouble_of_tls_and_proxies_has_a_cure_of_its_own() {
        for (error, cure) in [
            ("invalid peer certificate: UnknownIssuer", "--ca-file"),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for b",
                "public_url",
            ),
            ("invalid peer certificate: Expired", "clock"),
            ("invalid peer certificate: certificate not valid yet", "clock"),
            ("unsuccessful tunnel: proxy authentication required", "password"),
            ("unsuccessful tunnel", "CONNECT"),
            (
                "tcp connect error: Connection refused (os error 111)",
                "connection",
            ),
            ("it answered 503 Service Unavailable", "load balancer"),
            ("unexpected answer 404: not found", "configure --url"),
            ("something else", "TERRAPOOL_CA_FILE"),
        ] {
            assert!(cure_for(error).contains(cure), "{error}: {}", cure_for(error));
        }
    }

    #[test]
    fn a_wrong_clock_and_another_version_are_warnings_with_cures() {
        assert!(matches!(clock(Some(-3)), Finding::Fine(_)));
        assert!(matches!(clock(Some(3600)), Finding::Warning { .. }));
        assert!(matches!(clock(None), Finding::Warning { .. }));
        assert!(matches!(
            version(Some(env!("CARGO_PKG_VERSION"))),
            Finding::Fine(_)
        ));
        assert!(matches!(version(Some("99.0.0")), Finding::Warning { .. }));
    }

    #[tokio::test]
    async fn what_does_not_listen_and_what_has_no_name_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
        };
        assert!(matches!(connection(&place, false).await, Finding::Fine(_)));
        drop(listener);
        assert!(matches!(connection(&place, true).await, Finding::Broken { .. }));
        let nowhere = Place {
            host: "nowhere.invalid".to_owned(),
            port: 443,
        };
        assert!(matches!(names(&nowhere).await, Finding::Broken { .. }));
    }
}
