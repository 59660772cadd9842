//! The agent's own way out to the network, for sandboxes whose pool says that they use it.

use terrapool_protocol::runner::Egress;
use terrapool_protocol::secret::Secret;

use crate::config::Config;

/// Names that programs look for, in capitals; some know them in small letters only.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];
/// What is never asked for through a proxy: the runner serves the control plane's API on loopback.
const OWN: &str = "localhost,127.0.0.1,::1";

/// As this process has it, by its environment and its configuration.
pub fn own(config: &Config) -> Egress {
    let certificates = config.ca_file.as_ref().map(std::fs::read_to_string);
    Egress {
        proxy: proxies(|name| std::env::var(name).ok().filter(|value| !value.is_empty())),
        certificates: certificates.and_then(Result::ok).unwrap_or_default(),
    }
}

fn proxies(environment: impl Fn(&str) -> Option<String>) -> Vec<(String, Secret)> {
    let mut found = Vec::new();
    for name in PROXIES {
        let small = name.to_ascii_lowercase();
        if let Some(value) = environment(name).or_else(|| environment(&small)) {
            found.push((name, small, value));
        }
    }
    if found.iter().all(|(name, ..)| *name == "NO_PROXY") {
        return Vec::new();
    }
    match found.iter_mut().find(|(name, ..)| *name == "NO_PROXY") {
        Some((_, _, value)) => *value = format!("{value},{OWN}"),
        None => found.push(("NO_PROXY", "no_proxy".to_owned(), OWN.to_owned())),
    }
    let both = |(name, small, value): (&str, String, String)| {
        [
            (name.to_owned(), Secret::new(value.as_str())),
            (small, Secret::new(value)),
        ]
    };
    found.into_iter().flat_map(both).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(environment: &[(&str, &str)]) -> Vec<(String, String)> {
        let look = |name: &str| {
            let value = environment.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| (*value).to_owned())
        };
        proxies(look)
            .into_iter()
            .map(|(name, value)| (name, value.expose().to_owned()))
            .collect()
    }

    #[test]
    fn proxies_get_both_names_and_loopback_stays_out_of_them() {
        let all = found(&[("https_proxy", "http://proxy:3128"), ("NO_PROXY", "10.0.0.0/8")]);
        let own = "10.0.0.0/8,localhost,127.0.0.1,::1";
        let expected = [
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("https_proxy", "http://proxy:3128"),
            ("NO_PROXY", own),
            ("no_proxy", own),
        ];
        assert_eq!(
            all,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(found(&[("HTTP_PROXY", "http://p:1")])[2].1, OWN);
    }

    #[test]
    fn without_a_proxy_there_is_nothing_to_say() {
        assert!(found(&[]).is_empty());
        assert!(found(&[("NO_PROXY", "x")]).is_empty());
    }
}
