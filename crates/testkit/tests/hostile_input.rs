//! What people upload and set, when they mean harm: archives, folders, names and variables. Each case ends in a sentence,
//! and the agent goes on.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tar::{EntryType, Header};
use terrapool_testkit::installation::{AgentProcess, Installation};
use terrapool_testkit::runs::Workspace;

const GOOD: &str = "resource \"terraform_data\" \"a\" {}\n";

/// An archive whose names and links are written as they are; the library's own setters refuse the hostile ones.
struct Archive(Vec<u8>);

impl Archive {
    /// Begins with a configuration that is fine.
    fn new() -> Self {
        Self(Vec::new()).file("main.tf", GOOD.as_bytes())
    }

    fn entry(mut self, kind: EntryType, name: &str, link: &str, size: u64, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        let padded = self.0.len().next_multiple_of(512);
        self.0.resize(padded, 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, "", content.len() as u64, content)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0, b"")
    }

    /// A file behind a path that no header holds.
    fn deep(self, path: &str) -> Self {
        let record = |length: usize| format!("{length} path={path}\n");
        let mut length = record(0).len();
        while record(length).len() != length {
            length = record(length).len();
        }
        let record = record(length);
        self.entry(
            EntryType::XHeader,
            "pax",
            "",
            record.len() as u64,
            record.as_bytes(),
        )
        .file("x", b"x")
    }

    fn compressed(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        gzip(&self.0)
    }

    /// Ends with a file of zeros, from a few kilobytes of archive.
    fn bomb(self, mebibytes: u64) -> Vec<u8> {
        let whole = self.entry(EntryType::Regular, "zeros", "", mebibytes << 20, b"");
        let mut bytes = gzip(&whole.0);
        // Members of a gzip stream follow one another, so one of them is made and repeated.
        let zeros = gzip(&vec![0; 16 << 20]);
        for _ in 0..mebibytes / 16 {
            bytes.extend_from_slice(&zeros);
        }
        bytes.extend_from_slice(&gzip(&[0; 1024]));
        bytes
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

struct Site {
    installation: Installation,
    pool: String,
    agent: AgentProcess,
}

impl Site {
    async fn start(driver: &str) -> Self {
        let installation = Installation::start().await;
        let (pool, token) = installation.create_pool("private").await;
        let agent = installation
            .start_agent("private", &token, &[("TERRAPOOL_AGENT_DRIVER", driver)])
            .await;
        Self {
            installation,
            pool,
            agent,
        }
    }

    fn attributes(&self) -> Value {
        json!({"execution-mode": "agent", "agent-pool-id": self.pool, "auto-apply": true})
    }

    async fn workspace(&self, name: &str) -> Workspace {
        self.installation.workspace(name, &self.attributes(), GOOD).await
    }

    /// Uploads an archive, and runs it when it is taken. Answers the sentence with which it is refused; none: it was
    /// applied.
    async fn refusal(&self, workspace: &mut Workspace, archive: Vec<u8>) -> Option<String> {
        let (status, answer) = self.installation.upload(workspace, archive).await;
        if status != 200 {
            assert!((400..500).contains(&status), "{status} {answer}");
            return Some(answer);
        }
        let run = self
            .installation
            .run(workspace, &json!({"auto-apply": true}))
            .await;
        if self.installation.run_ends(&run).await == "applied" {
            return None;
        }
        let run = self.installation.get(&format!("/runs/{run}")).await;
        let message = run["data"]["attributes"]["error-message"].as_str();
        Some(message.unwrap_or_default().to_owned())
    }

    /// The positive control: what is fine still works, on the same agent.
    async fn still_works(&mut self) {
        assert!(self.agent.is_running(), "{}", self.agent.log());
        let mut workspace = self.workspace("control").await;
        let benign = Archive::new()
            .file("sub/other.tf", b"")
            .link("sub/link", "other.tf");
        assert_eq!(self.refusal(&mut workspace, benign.compressed()).await, None);
    }
}

async fn case_01_and_02_hostile_archives_are_refused_by_upload_or_run_and_the_agent_goes_on(driver: &str) {
    let mut site = Site::start(driver).await;
    let mut workspace = site.workspace("hostile").await;
    let outside = std::env::temp_dir().join("terrapool-victim-of-case-01");
    let absolute = outside.to_str().expect("a path of text");
    for (archive, words) in [
        (Archive::new().file("../victim", b"x"), "leads out of"),
        (Archive::new().file("a/../../victim", b"x"), "leads out of"),
        (Archive::new().file(absolute, b"x"), "leads out of"),
        (Archive::new().link("link", "/etc"), "leads out of"),
        (Archive::new().link("link", "../.."), "leads out of"),
        (
            Archive::new().entry(EntryType::Link, "hard", "../../etc/passwd", 0, b""),
            "leads out of",
        ),
        (
            Archive::new()
                .link("link", "sub")
                .file("sub/a", b"x")
                .file("link/b", b"x"),
            "would be written through the symlink",
        ),
        (
            Archive::new().entry(EntryType::Fifo, "pipe", "", 0, b""),
            "neither a file, a folder nor a link",
        ),
        (
            Archive::new().entry(EntryType::Char, "null", "", 0, b""),
            "neither a file, a folder nor a link",
        ),
        (
            Archive::new().entry(EntryType::Block, "disk", "", 0, b""),
            "neither a file, a folder nor a link",
        ),
    ] {
        let refusal = site.refusal(&mut workspace, archive.compressed()).await;
        let refusal =
            refusal.unwrap_or_else(|| panic!("an archive was taken that should be refused: {words}"));
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    assert!(!outside.exists());

    // More than 512 MiB, and deeper than 128 folders.
    for (archive, words) in [
        (Archive::new().bomb(528), "512"),
        (
            Archive::new()
                .deep(&format!("{}x", "d/".repeat(2000)))
                .compressed(),
            "128",
        ),
    ] {
        assert!(archive.len() < 8 << 20);
        let refusal = site.refusal(&mut workspace, archive).await;
        let refusal = refusal.unwrap_or_else(|| panic!("a bomb was taken: {words}"));
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    site.still_works().await;
}

async fn case_03_a_working_directory_outside_of_the_configuration_ends_the_run_before_init(driver: &str) {
    let site = Site::start(driver).await;
    let mut workspace = site.workspace("directories").await;
    let set = |directory: &str| json!({"data": {"type": "workspaces", "attributes": {"working-directory": directory}}});
    let path = format!("/workspaces/{}", workspace.id);
    for directory in ["../..", "a/../../..", "a\\b"] {
        let (status, answer) = site
            .installation
            .call("PATCH", &path, Some(&set(directory)))
            .await;
        assert_eq!(status, 422, "{directory}: {answer}");
    }
    // Taken as a folder of the configuration, of which there is none.
    site.installation.patch(&path, &set("/etc")).await;
    let refusal = site
        .refusal(&mut workspace, Archive::new().compressed())
        .await
        .expect("the run fails");
    assert!(
        refusal.contains("working directory `etc` does not exist"),
        "{refusal}"
    );
    site.installation.patch(&path, &set("link")).await;
    let refusal = site
        .refusal(&mut workspace, Archive::new().link("link", "/etc").compressed())
        .await;
    assert!(refusal.expect("it is refused").contains("leads out of"));
    // A folder of the configuration works.
    site.installation.patch(&path, &set("sub")).await;
    let archive = Archive::new().file("sub/main.tf", GOOD.as_bytes());
    assert_eq!(site.refusal(&mut workspace, archive.compressed()).await, None);
}

async fn case_23_names_and_variables_change_neither_the_agent_nor_its_arguments(driver: &str) {
    let mut site = Site::start(driver).await;
    for name in ["a;reboot", "$(id)", "a b", "-rf", "a\nb", "\u{202e}abc", "a/../b"] {
        let mut attributes = site.attributes();
        attributes["name"] = json!(name);
        let body = json!({"data": {"type": "workspaces", "attributes": attributes}});
        let (status, answer) = site
            .installation
            .call("POST", "/organizations/acme/workspaces", Some(&body))
            .await;
        // A dash may begin a name; it is never an argument of its own.
        assert!(
            status == 422 || name == "-rf" && status == 201,
            "{name}: {answer}"
        );
    }
    let configuration = r#"variable "text" {}
resource "terraform_data" "probe" {
  input = var.text
  provisioner "local-exec" {
    interpreter = ["bash", "-c"]
    command     = "env | sort | cut -c -300; echo length $${#BIG}"
  }
}
"#;
    let workspace = site
        .installation
        .workspace("variables", &site.attributes(), configuration)
        .await;
    let path = format!("/workspaces/{}/vars", workspace.id);
    let big = "x".repeat(64 << 10);
    let text = "`id` $(id) ; \" ' \u{202e} \n -destroy ${path.root} %{ if true }";
    for (key, value, category) in [
        ("text", text, "terraform"),
        ("BIG", &big, "env"),
        ("OWN", "own-variable-is-seen", "env"),
        ("TF_CLI_ARGS", "-destroy", "env"),
        ("TF_CLI_ARGS_apply", "-state=/tmp/elsewhere", "env"),
        ("TF_CLI_CONFIG_FILE", "/tmp/hostile.tfrc", "env"),
        ("TF_DATA_DIR", "/tmp/hostile", "env"),
        ("TF_WORKSPACE", "other", "env"),
        ("TF_PLUGIN_CACHE_DIR", "/tmp/hostile-cache", "env"),
        ("GIT_SSH_COMMAND", "touch /tmp/hostile-git", "env"),
        ("DOCKER_HOST", "tcp://198.51.100.1:1", "env"),
        ("HTTPS_PROXY", "http://198.51.100.1:1", "env"),
        ("TERRAPOOL_URL", "https://198.51.100.1", "env"),
        ("spec.containers[0].image", "hostile", "env"),
    ] {
        let body = json!({"data": {"type": "vars", "attributes": {"key": key, "value": value, "category": category}}});
        let (status, answer) = site.installation.call("POST", &path, Some(&body)).await;
        assert!(matches!(status, 201 | 422), "{key}: {answer}");
    }
    let attributes = json!({"auto-apply": true, "message": "-x; $(id) \u{202e}\n<script>alert(1)</script>"});
    let run = site.installation.run(&workspace, &attributes).await;
    site.installation.run_reaches(&run, "applied").await;
    let log = site.installation.phase_log(&run, "apply").await;
    assert!(log.contains("OWN=own-variable-is-seen"), "{log}");
    assert!(log.contains("length 65536"), "{log}");
    assert!(log.contains("TF_WORKSPACE=variables"), "{log}");
    assert!(
        log.contains("TF_CLI_CONFIG_FILE=/terrapool/job/cli.tfrc"),
        "{log}"
    );
    for ignored in [
        "TF_CLI_ARGS=",
        "TF_CLI_ARGS_apply=",
        "TF_DATA_DIR=",
        "hostile.tfrc",
    ] {
        assert!(
            !log.lines()
                .any(|line| line.contains(": ") && line.ends_with(ignored)),
            "{log}"
        );
        assert!(!log.contains(&format!(": {ignored}")), "{ignored}: {log}");
    }
    // The value is data: it came into the state as it is.
    let state = site
        .installation
        .current_state(&workspace)
        .await
        .expect("a state");
    let kept = &state["resources"][0]["instances"][0]["attributes"]["input"]["value"];
    let kept = if kept.is_null() {
        &state["resources"][0]["instances"][0]["attributes"]["input"]
    } else {
        kept
    };
    assert_eq!(kept, &json!(text), "{state}");
    assert!(site.agent.is_running());

    // Targets are arguments' values, never arguments.
    let body = json!({"data": {"type": "runs", "attributes": {"plan-only": true, "target-addrs": ["-destroy"]},
        "relationships": {"workspace": {"data": {"type": "workspaces", "id": workspace.id}}}}});
    let (status, answer) = site.installation.call("POST", "/runs", Some(&body)).await;
    assert_eq!(status, 422, "{answer}");

    // What runs in the agent's own process and in the next run is untouched.
    site.still_works().await;
    assert!(!std::path::Path::new("/tmp/hostile-git").exists());
}

terrapool_testkit::on_both_drivers!(
    case_01_and_02_hostile_archives_are_refused_by_upload_or_run_and_the_agent_goes_on,
    case_03_a_working_directory_outside_of_the_configuration_ends_the_run_before_init,
    case_23_names_and_variables_change_neither_the_agent_nor_its_arguments
);
