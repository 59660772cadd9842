//! What packages carry, and what is said of it beside them.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use terrapool_testkit::system::{package, packages};

use super::run;

#[test]
fn checksums_and_lists_of_contents_are_those_of_what_is_there() {
    run(Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(packages()));
    let list = package(&packages(), "terrapool-agent-", ".cdx.json");
    let list: Value = serde_json::from_slice(&std::fs::read(list).expect("a file")).expect("JSON");
    let names: Vec<&str> = list["components"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|component| component["name"].as_str())
        .collect();
    assert!(
        names.contains(&"rustls") && !names.contains(&"proptest"),
        "{names:?}"
    );
}

/// Paths of files that packages have to carry, with this in place of the program's name: `{}`.
const CARRIED: [&str; 8] = [
    "/usr/bin/{}",
    "/usr/lib/systemd/system/{}.service",
    "/usr/lib/sysusers.d/{}.conf",
    "/usr/lib/tmpfiles.d/{}.conf",
    "/usr/share/man/man1/{}.1",
    "/usr/share/man/man1/{}-doctor.1",
    "/usr/share/bash-completion/completions/{}",
    "/usr/share/fish/vendor_completions.d/{}.fish",
];

#[test]
fn packages_carry_services_users_folders_manual_pages_completions_and_licences() {
    for (name, deb, rpm) in [
        ("terrapool-agent", "terrapool-agent_", "terrapool-agent-"),
        ("terrapool", "terrapool_", "terrapool-0"),
    ] {
        let with = |path: &str| path.replace("{}", name);
        let deb = package(&packages(), deb, ".deb");
        let rpm = package(&packages(), rpm, ".rpm");
        let in_deb = run(Command::new("dpkg-deb").arg("--contents").arg(&deb));
        let in_rpm = run(Command::new("rpm").args(["-qlvp"]).arg(&rpm));
        // Size and path: the third and the last word of tar's lines, the fifth and the last of rpm's.
        let files = |list: &str, size: usize| -> BTreeMap<String, u64> {
            let file = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let path = words.last()?.trim_start_matches('.').to_owned();
                Some((path, words.get(size)?.parse().ok()?))
            };
            list.lines().filter_map(file).collect()
        };
        let (in_deb, in_rpm) = (files(&in_deb, 2), files(&in_rpm, 4));
        let zsh = with("_{}");
        for (files, own) in [
            (
                &in_deb,
                [
                    format!("/usr/share/zsh/vendor-completions/{zsh}"),
                    with("/usr/share/doc/{}/copyright"),
                ],
            ),
            (
                &in_rpm,
                [
                    format!("/usr/share/zsh/site-functions/{zsh}"),
                    with("/usr/share/licenses/{}/LICENSE"),
                ],
            ),
        ] {
            for path in CARRIED.map(with).iter().chain(&own) {
                assert!(files.get(path).is_some_and(|size| *size > 0), "{path}: {files:?}");
            }
        }
        let licences = run(Command::new("rpm").args(["-qp", "--licensefiles"]).arg(&rpm));
        assert_eq!(licences.trim(), with("/usr/share/licenses/{}/LICENSE"));
    }
}

#[test]
fn the_agents_packages_depend_on_one_container_engine_of_several_and_do_not_insist_on_selinux() {
    let deb = package(&packages(), "terrapool-agent_", ".deb");
    let depends = run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg("Depends"));
    assert!(
        depends.contains("docker.io (>= 18.09) | docker-ce | moby-engine"),
        "{depends}"
    );
    let rpm = package(&packages(), "terrapool-agent-", ".rpm");
    let asked = |what: &str| run(Command::new("rpm").args(["-qp", what]).arg(&rpm));
    let (required, recommended) = (asked("--requires"), asked("--recommends"));
    assert!(
        required.lines().any(|line| line == "/usr/bin/dockerd"),
        "{required}"
    );
    assert!(!required.contains("selinux"), "{required}");
    assert_eq!(recommended.trim(), "container-selinux");
}
