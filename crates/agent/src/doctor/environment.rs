//! The environment that systemd gives the agent's service: a doctor on a terminal has to look with the same proxies.

use std::process::Command;

/// The packages' service.
const SERVICE: &str = "terrapool-agent.service";

/// Variables by which an agent's network and configuration are set.
fn matters(name: &str) -> bool {
    const NAMES: [&str; 4] = [
        "DOCKER_HOST",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CREDENTIALS_DIRECTORY",
    ];
    NAMES.contains(&name) || name.starts_with("TERRAPOOL_") || name.to_ascii_uppercase().ends_with("_PROXY")
}

/// What drop-ins of the service set and this process does not have. Nothing where there is no systemd or no service.
pub fn of_service() -> Vec<(String, String)> {
    let shown = Command::new("systemctl")
        .args(["show", "--property=Environment", SERVICE])
        .output();
    let text = shown.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    assignments(&text)
        .into_iter()
        .filter(|(name, _)| matters(name) && std::env::var_os(name).is_none())
        .collect()
}

/// The assignments of a line `Environment=A=b "C=d e"`.
fn assignments(text: &str) -> Vec<(String, String)> {
    let list = text.trim().strip_prefix("Environment=").unwrap_or_default();
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = list.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '\\' => word.extend(letters.next()),
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            letter => word.push(letter),
        }
    }
    words.push(word);
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_shows_is_read_with_its_quotes() {
        let shown = "Environment=HTTPS_PROXY=http://u:p@proxy:3128 \"NO_PROXY=a, b\" X=\\\"q\\\" EMPTY=\n";
        let expected = [
            ("HTTPS_PROXY", "http://u:p@proxy:3128"),
            ("NO_PROXY", "a, b"),
            ("X", "\"q\""),
            ("EMPTY", ""),
        ];
        assert_eq!(
            assignments(shown),
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(assignments("Environment=\n").is_empty());
        assert!(assignments("").is_empty());
        assert!(matters("https_proxy") && matters("TERRAPOOL_CA_FILE") && !matters("LANG"));
    }
}
