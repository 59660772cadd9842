//! Uploads of configurations, good and bad.

use serde_json::{Value, json};

use crate::common::{Plane, archive, archive_of, id};

async fn create(plane: &Plane, workspace: &str) -> (String, String) {
    let body = json!({"data": {"type": "configuration-versions", "attributes": {}}});
    let made = plane
        .post(&format!("workspaces/{workspace}/configuration-versions"), &body)
        .await
        .expect(201);
    assert_eq!(made["data"]["attributes"]["status"], "pending");
    (
        id(&made),
        made["data"]["attributes"]["upload-url"]
            .as_str()
            .unwrap()
            .to_owned(),
    )
}

async fn show(plane: &Plane, id: &str) -> Value {
    plane
        .get(&format!("configuration-versions/{id}"))
        .await
        .expect(200)["data"]["attributes"]
        .clone()
}

#[tokio::test]
async fn an_uploaded_configuration_reads_back_byte_for_byte_and_hides_its_upload_url() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let (configuration, url) = create(&plane, &workspace).await;
    assert_eq!(
        plane
            .get(&format!("configuration-versions/{configuration}/download"))
            .await
            .status,
        404
    );
    let bytes = archive();
    plane
        .send(plane.anonymous("PUT", &url).body(bytes.clone()))
        .await
        .expect(200);
    plane
        .send(plane.anonymous("PUT", &url).body(bytes.clone()))
        .await
        .expect(200);
    let attributes = show(&plane, &configuration).await;
    assert_eq!(attributes["status"], "uploaded");
    assert_eq!(attributes["upload-url"], Value::Null);
    let download = plane
        .get(&format!("configuration-versions/{configuration}/download"))
        .await;
    assert_eq!(download.bytes, bytes);
}

#[tokio::test]
async fn a_bad_archive_is_refused_with_a_sentence_and_the_configuration_is_errored() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let whole = archive();
    for (bytes, words) in [
        (b"hello".to_vec(), "no gzip archive"),
        (whole[..whole.len() - 12].to_vec(), "damaged or was cut short"),
        (
            archive_of("../evil.tf", b""),
            "leads out of the configuration's folder",
        ),
    ] {
        let (configuration, url) = create(&plane, &workspace).await;
        let answer = plane.send(plane.anonymous("PUT", &url).body(bytes)).await;
        assert_eq!(answer.status, 422);
        assert!(answer.error().contains(words), "{}", answer.error());
        let attributes = show(&plane, &configuration).await;
        assert_eq!(attributes["status"], "errored");
        assert!(attributes["error-message"].as_str().unwrap().contains(words));
        let run = plane
            .post("runs", &crate::common::run_body(&workspace, &configuration))
            .await;
        assert_eq!(run.status, 422);
        assert!(run.error().contains(words), "{}", run.error());
    }
}

#[tokio::test]
async fn a_configuration_over_the_limit_is_refused_with_413() {
    let plane = Plane::start_with(|config| config.limits.configuration_bytes = 1 << 20).await;
    let workspace = plane.workspace("one").await;
    let (configuration, url) = create(&plane, &workspace).await;
    let answer = plane
        .send(plane.anonymous("PUT", &url).body(vec![0x1f; 3 << 20]))
        .await;
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains(".terraformignore"), "{}", answer.error());
    assert_eq!(show(&plane, &configuration).await["status"], "errored");
    let leftover = std::fs::read_dir(plane.folder.path().join("objects/.staging"))
        .unwrap()
        .count();
    assert_eq!(leftover, 0);
}

#[tokio::test]
async fn a_run_takes_the_newest_configuration_that_is_meant_for_runs_and_plan_only_follows_speculative() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let usable = plane.configuration(&workspace, json!({})).await;
    plane
        .configuration(&workspace, json!({"provisional": true}))
        .await;
    let speculative = plane
        .configuration(&workspace, json!({"speculative": true}))
        .await;
    let body = json!({"data": {"attributes": {}, "relationships": {
        "workspace": {"data": {"type": "workspaces", "id": workspace}}}}});
    let run = plane.post("runs", &body).await.expect(201);
    assert_eq!(
        run["data"]["relationships"]["configuration-version"]["data"]["id"],
        usable
    );
    assert_eq!(run["data"]["attributes"]["plan-only"], false);
    let run = plane.run(&workspace, &speculative).await;
    assert_eq!(run["data"]["attributes"]["plan-only"], true);
}

#[tokio::test]
async fn run_variables_are_sealed_in_the_database_and_come_back() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let configuration = plane.configuration(&workspace, json!({})).await;
    let mut body = crate::common::run_body(&workspace, &configuration);
    body["data"]["attributes"] =
        json!({"variables": [{"key": "v", "value": "\"hunter2\""}], "target-addrs": ["a.b"]});
    let run = plane.post("runs", &body).await.expect(201);
    assert_eq!(run["data"]["attributes"]["variables"][0]["value"], "\"hunter2\"");
    assert_eq!(run["data"]["attributes"]["target-addrs"], json!(["a.b"]));
    let database = std::fs::read(plane.folder.path().join("terrapool.db")).unwrap();
    let log = std::fs::read(plane.folder.path().join("terrapool.db-wal")).unwrap_or_default();
    for bytes in [database, log] {
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
}
