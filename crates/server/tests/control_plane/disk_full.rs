//! The control plane's disk is full: requests are answered so, nothing that was acknowledged is lost, and work goes on
//! once there is room.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use terrapool_testkit::forms::hidden;

use crate::common::browser::{PASSWORD, account, look_at};
use crate::common::{Plane, archive_of, id};

/// A small file system of its own, unmounted when this is dropped.
struct SmallDisk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` when this process may not mount.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(&path)
            .status();
        let is_mounted = mounted.is_ok_and(|status| status.success());
        is_mounted.then_some(Self {
            path,
            _folder: folder,
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

/// Takes all the room that is left.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        let piece = vec![7; size];
        while file.write_all(&piece).is_ok() {}
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_acknowledged_is_lost() {
    let Some(disk) = SmallDisk::mount() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "this process may not mount a file system"
        );
        eprintln!("passed over: this process may not mount a file system");
        return;
    };
    let plane = Plane::start_with(|config| {
        let on_disk = terrapool_server::config::Config::in_folder(&disk.path);
        config.data_dir = on_disk.data_dir;
        config.database_url = on_disk.database_url;
        config.objects = on_disk.objects;
        config.keyring_file = on_disk.keyring_file;
    })
    .await;
    let workspace = plane.workspace("network").await;
    account(&plane, "ada", true).await;
    let mut browser = look_at(&plane);
    browser.sign_in("ada", PASSWORD).await;
    let filler = fill(&disk.path);
    let make = async |number: u32| {
        let name = format!("workspace-{number}");
        let body = json!({"data": {"type": "workspaces", "attributes": {"name": name}}});
        plane.post("organizations/acme/workspaces", &body).await
    };
    // The log of the database may have room of its own for a while.
    let mut made = Vec::new();
    let mut number = 0;
    let refused = loop {
        let answer = make(number).await;
        if answer.status != 201 {
            break answer;
        }
        made.push(id(&answer.json()));
        number += 1;
        assert!(number < 5000, "the disk was not full");
    };
    assert_eq!(refused.status, 507, "{}", refused.error());
    assert!(refused.error().contains("disk"), "{}", refused.error());
    // Pages are shown, and say that nothing can be changed; what is a cookie can be.
    let page = "/app/acme/workspaces/network";
    let seen = browser.get(page).await;
    assert_eq!(seen.status, 200);
    let said = seen.text.contains("data-read-only") && seen.text.contains("takes no changes since");
    assert!(said, "{}", seen.text);
    let (token, once) = (hidden(&seen.text, "token"), hidden(&seen.text, "once"));
    let form = [
        ("token", token.as_str()),
        ("once", &once),
        ("theme", "dark"),
        ("to", page),
    ];
    assert_eq!(browser.post("/app/settings/theme", &form).await.status, 303);
    std::fs::remove_file(&filler).unwrap();
    // Nothing was kept of what was refused, and nothing of what was acknowledged is missing.
    let again = make(number).await;
    assert_eq!(again.status, 201, "{}", again.error());
    assert!(!browser.get(page).await.text.contains("data-read-only"));
    for workspace in &made {
        plane.get(&format!("workspaces/{workspace}")).await.expect(200);
    }
    // Objects, too.
    let body = json!({"data": {"type": "configuration-versions", "attributes": {"auto-queue-runs": false}}});
    let announced = plane
        .post(&format!("workspaces/{workspace}/configuration-versions"), &body)
        .await
        .expect(201);
    let url = announced["data"]["attributes"]["upload-url"]
        .as_str()
        .unwrap()
        .to_owned();
    let filler = fill(&disk.path);
    let random: Vec<u8> = (0..300_000_u32)
        .flat_map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let upload = archive_of("main.tf", &random);
    let refused = plane
        .send(plane.anonymous("PUT", &url).body(upload.clone()))
        .await;
    assert_eq!(refused.status, 507, "{}", refused.error());
    std::fs::remove_file(&filler).unwrap();
    let taken = plane.send(plane.anonymous("PUT", &url).body(upload)).await;
    assert_eq!(taken.status, 200, "{}", taken.error());
}
