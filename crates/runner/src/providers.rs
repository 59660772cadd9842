//! Providers that a state names. Engines install these like those of a configuration, so whoever writes a state could have
//! any program run. They are installed only with the consent of the configuration: it, or its lock file, requires them.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};

use serde::Deserialize;

/// Hosts of the public registries, which are one in what they offer: a state that one engine has written is read by the
/// other.
const PUBLIC: [&str; 2] = ["registry.terraform.io", "registry.opentofu.org"];

/// Those whose providers nobody else can publish: what has used one may destroy it after its last line is gone from the
/// configuration.
const TRUSTED: [&str; 2] = ["hashicorp", "opentofu"];

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    provider: String,
}

/// The providers that a state names and a lock file does not. A state that cannot be read has none: the engine will say
/// what is wrong with it.
pub fn without_consent(state: impl Read, lock_file: &str) -> BTreeSet<String> {
    let document: Result<Document, _> = serde_json::from_reader(BufReader::new(state));
    let named = document.map(|document| document.resources).unwrap_or_default();
    let locked: BTreeSet<String> = lock_file.lines().filter_map(locked).map(normal).collect();
    named
        .iter()
        .filter_map(|resource| source(&resource.provider))
        .filter(|source| !is_trusted(source) && !locked.contains(&normal(source)))
        .map(str::to_owned)
        .collect()
}

/// The address in `module.a.provider["registry.terraform.io/hashicorp/null"].alias`.
fn source(reference: &str) -> Option<&str> {
    let (_, rest) = reference.split_once("provider[\"")?;
    rest.split_once("\"]").map(|(source, _)| source)
}

/// The address in a line that begins the block of a provider.
fn locked(line: &str) -> Option<&str> {
    let rest = line.trim().strip_prefix("provider")?.trim_start();
    rest.strip_prefix('"')?.split_once('"').map(|(source, _)| source)
}

/// Addresses of the public registries without their host.
fn normal(source: &str) -> String {
    match source.split_once('/') {
        Some((host, rest)) if PUBLIC.contains(&host) => rest.to_owned(),
        _ => source.to_owned(),
    }
}

fn is_trusted(source: &str) -> bool {
    let Some((host, rest)) = source.split_once('/') else {
        return false;
    };
    // Built into the engine.
    (host == "terraform.io" && rest.starts_with("builtin/"))
        || (PUBLIC.contains(&host)
            && rest
                .split_once('/')
                .is_some_and(|(namespace, _)| TRUSTED.contains(&namespace)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_of_a_state_need_the_lock_files_consent() {
        let state = r#"{"version": 4, "resources": [
            {"mode": "managed", "provider": "provider[\"registry.terraform.io/hashicorp/null\"]", "instances": [{}]},
            {"mode": "managed", "provider": "provider[\"terraform.io/builtin/terraform\"]"},
            {"mode": "managed", "provider": "module.a.provider[\"registry.terraform.io/acme/known\"].west"},
            {"mode": "managed", "provider": "provider[\"registry.example.com/acme/known\"]"},
            {"mode": "managed", "provider": "provider[\"registry.example.com/hashicorp/null\"]"},
            {"mode": "managed", "provider": "provider[\"registry.terraform.io/rogue/rogue\"]"},
            {"mode": "managed", "provider": "nonsense"}, {"mode": "managed"}]}"#;
        let lock_file =
            "# made by init\nprovider \"registry.opentofu.org/acme/known\" {\n  version = \"1.0.0\"\n}\n";
        let found = without_consent(state.as_bytes(), lock_file);
        let expected = [
            "registry.example.com/acme/known",
            "registry.example.com/hashicorp/null",
            "registry.terraform.io/rogue/rogue",
        ];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        for unreadable in ["", "{", "[]", r#"{"resources": 7}"#] {
            assert!(
                without_consent(unreadable.as_bytes(), "").is_empty(),
                "{unreadable}"
            );
        }
    }
}
