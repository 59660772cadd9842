//! `terrapool-agent configure`, as an administrator calls it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn configure(file: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_terrapool-agent"))
        .arg("configure")
        .args(arguments)
        .env_clear()
        .env("TERRAPOOL_AGENT_CONFIG", file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // It may end without reading.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("the program ends")
}

fn configured(file: &Path, arguments: &[&str], input: &str) -> String {
    let output = configure(file, arguments, input);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

fn refused(file: &Path, arguments: &[&str], input: &str) -> String {
    let output = configure(file, arguments, input);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).expect("text")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn a_token_comes_in_by_standard_input_and_lies_in_a_file_that_nobody_else_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new/agent.toml");
    let said = configured(
        &file,
        &[
            "--url",
            "https://tp.example:8443",
            "--token-stdin",
            "--name",
            "north",
        ],
        "tpa_0123456789\n",
    );
    assert!(said.contains("changed token, url, name"), "{said}");
    assert!(!said.contains("tpa_"), "{said}");
    let token = folder.path().join("new/token");
    assert_eq!(std::fs::read_to_string(&token).unwrap(), "tpa_0123456789\n");
    assert_eq!(mode(&token), 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("tpa_"), "{text}");
    assert!(
        text.contains(&format!("token_file = \"{}\"", token.display())),
        "{text}"
    );
    assert!(text.contains("# Address of the control plane"), "{text}");
}

#[test]
fn only_what_is_said_is_changed_and_saying_it_again_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let before = "# Ours, see the wiki.\nurl = \"https://tp.example\" # north\nconcurrency = 2\n";
    std::fs::write(&file, before).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o604)).unwrap();
    configured(&file, &["--user=root", "--memory", "2GB", "--cpu", "3"], "");
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        after,
        format!("{before}cpu = 3\nmemory = \"2GB\"\nuser = \"root\"\n")
    );
    assert_eq!(mode(&file), 0o604);
    let said = configured(&file, &["--user=root", "--cpu=3"], "");
    assert!(said.contains("is as it was"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after);
    configured(&file, &["--user=default"], "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, after.replace("root", "default"));
}

#[test]
fn a_token_that_stood_in_the_file_itself_makes_way_for_one_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "token = \"tpa_old\"\n").unwrap();
    let given = folder.path().join("given");
    std::fs::write(&given, "tpa_new\n").unwrap();
    configured(&file, &["--token-file", given.to_str().unwrap()], "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("tpa_old"), "{text}");
    assert_eq!(
        std::fs::read_to_string(folder.path().join("token")).unwrap(),
        "tpa_new\n"
    );
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let no_pem = folder.path().join("no.pem");
    std::fs::write(&no_pem, "hello\n").unwrap();
    for (arguments, input, expected) in [
        (&["--url", "http://tp.example"][..], "", "over https:// only"),
        (&["--memory", "lots"], "", "write it like 4096"),
        (
            &["--user", "admin"],
            "",
            "`default` (an unprivileged user) or `root`",
        ),
        (&["--driver", "magic"], "", "`docker` or `native`"),
        (&["--concurrency", "0"], "", "at least one job has to fit"),
        (
            &["--token-stdin"],
            "two words\n",
            "standard input has no agent token",
        ),
        (
            &["--token-stdin", "--url", "https://a"],
            "",
            "standard input has no agent token",
        ),
        (
            &["--ca-file", no_pem.to_str().unwrap()],
            "",
            "no certificate in PEM format",
        ),
        (
            &["--token-file", "/nonexistent"],
            "",
            "/nonexistent cannot be read",
        ),
        (&[], "", "nothing to configure"),
    ] {
        let said = refused(&file, arguments, input);
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!file.exists(), "{arguments:?}");
    }
    std::fs::write(&file, "concurency = 3\n").unwrap();
    let said = refused(&file, &["--user=root"], "");
    assert!(said.contains("concurency"), "{said}");
}

#[test]
fn the_doctor_looks_at_the_host_also_where_nothing_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "").unwrap();
    let doctor = |file: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_terrapool-agent"))
            .arg("doctor")
            .env_clear()
            .env("TERRAPOOL_AGENT_CONFIG", file)
            .env("TERRAPOOL_AGENT_DATA_DIR", folder.path())
            .env("DOCKER_HOST", "unix:///nowhere")
            .output()
            .expect("the program starts");
        assert!(!output.status.success());
        String::from_utf8([output.stdout, output.stderr].concat()).expect("text")
    };
    let said = doctor(&file);
    for expected in [
        "BROKEN  configuration: the control plane's address is not set",
        "warn    configuration: the agent token is not set",
        "BROKEN  container engine: ",
        "memory: ",
    ] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    std::fs::write(&file, "user = \"admin\"\n").unwrap();
    let said = doctor(&file);
    assert!(said.contains("user is `admin`"), "{said}");
}
