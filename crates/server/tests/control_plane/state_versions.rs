//! States: both ways to upload, who may, and what is refused.
#![allow(
    clippy::needless_pass_by_value,
    reason = "bodies are written where they are sent"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use terrapool_store::audit::{self, AuditFilter};
use terrapool_store::organizations;

use crate::common::{Plane, id, md5, state};

fn body(state: &[u8], serial: u64, lineage: &str, more: Value) -> Value {
    let mut attributes = json!({"serial": serial, "lineage": lineage, "md5": md5(state), "force": false});
    for (name, value) in more.as_object().unwrap() {
        attributes[name] = value.clone();
    }
    json!({"data": {"type": "state-versions", "attributes": attributes}})
}

async fn announce(plane: &Plane, workspace: &str, body: &Value) -> crate::common::Answer {
    plane
        .post(&format!("workspaces/{workspace}/state-versions"), body)
        .await
}

/// A whole upload as the CLI does it.
async fn upload(plane: &Plane, workspace: &str, serial: u64, lineage: &str) -> String {
    let bytes = state(serial, lineage);
    let made = announce(plane, workspace, &body(&bytes, serial, lineage, json!({})))
        .await
        .expect(201);
    let url = made["data"]["attributes"]["hosted-state-upload-url"]
        .as_str()
        .unwrap();
    plane
        .send(plane.anonymous("PUT", url).body(bytes))
        .await
        .expect(200);
    id(&made)
}

#[tokio::test]
async fn a_state_uploaded_to_the_hosted_url_becomes_current_and_reads_back_byte_for_byte() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    let bytes = state(3, "l");
    let made = announce(&plane, &workspace, &body(&bytes, 3, "l", json!({})))
        .await
        .expect(201);
    let attributes = &made["data"]["attributes"];
    assert_eq!(attributes["status"], "pending");
    assert_eq!(attributes["hosted-state-download-url"], Value::Null);
    let (raw, json_url) = (
        attributes["hosted-state-upload-url"].as_str().unwrap(),
        attributes["hosted-json-state-upload-url"].as_str().unwrap(),
    );
    plane
        .send(plane.anonymous("PUT", json_url).body("{\"values\":{}}"))
        .await
        .expect(200);
    plane
        .send(plane.anonymous("PUT", raw).body(bytes.clone()))
        .await
        .expect(200);
    // A repeated upload of the same bytes is fine.
    plane
        .send(plane.anonymous("PUT", raw).body(bytes.clone()))
        .await
        .expect(200);
    let current = plane
        .get(&format!("workspaces/{workspace}/current-state-version"))
        .await
        .expect(200);
    assert_eq!(id(&current), id(&made));
    assert_eq!(current["data"]["attributes"]["status"], "finalized");
    let url = current["data"]["attributes"]["hosted-state-download-url"]
        .as_str()
        .unwrap();
    assert_eq!(plane.get(url).await.bytes, bytes);
    assert_eq!(plane.send(plane.anonymous("GET", url)).await.status, 401);
    let url = current["data"]["attributes"]["hosted-json-state-download-url"]
        .as_str()
        .unwrap();
    assert_eq!(plane.get(url).await.bytes, b"{\"values\":{}}");
    // Whoever reads states is in the audit log, once for each time.
    let mut connection = plane.running.app.db.read().await.unwrap();
    let acme = organizations::by_name(&mut connection, "acme")
        .await
        .unwrap()
        .unwrap();
    let entries = audit::list(&mut connection, Some(&acme.id), &AuditFilter::default(), 100)
        .await
        .unwrap();
    drop(connection);
    let read = entries
        .iter()
        .filter(|entry| entry.action == "state.download" && entry.subject == id(&current));
    assert_eq!(read.count(), 2);
    let workspace = plane.get(&format!("workspaces/{workspace}")).await.expect(200);
    assert_eq!(workspace["data"]["attributes"]["resource-count"], 1);
}

#[tokio::test]
async fn a_state_sent_inline_is_finalized_at_once_and_its_outputs_resolve() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    let bytes = state(1, "l");
    let inline = json!({"state": STANDARD.encode(&bytes), "json-state": STANDARD.encode("{}")});
    let made = announce(&plane, &workspace, &body(&bytes, 1, "l", inline))
        .await
        .expect(201);
    assert_eq!(made["data"]["attributes"]["status"], "finalized");
    let outputs = plane
        .get(&format!("workspaces/{workspace}/current-state-version-outputs"))
        .await
        .expect(200);
    let secret = outputs["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|output| output["attributes"]["name"] == "secret");
    let secret = secret.unwrap();
    assert_eq!(secret["attributes"]["value"], Value::Null);
    let one = plane
        .get(&format!(
            "state-version-outputs/{}",
            secret["id"].as_str().unwrap()
        ))
        .await
        .expect(200);
    assert_eq!(one["data"]["attributes"]["value"], "hunter2");
    let all = plane
        .get(&format!("state-versions/{}?include=outputs", id(&made)))
        .await
        .expect(200);
    let list = all["included"]
        .as_array()
        .unwrap()
        .iter()
        .find(|output| output["attributes"]["name"] == "list");
    let list = &list.unwrap()["attributes"];
    assert_eq!(list["type"], "array");
    assert_eq!(list["detailed-type"], json!(["tuple", ["string", "string"]]));
    assert_eq!(
        plane
            .get("state-version-outputs/wsout-1111111111111111aaaaaaaaaaaa")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn only_the_holder_of_the_lock_writes_and_the_announced_digest_has_to_match() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    let bytes = state(1, "l");
    let unlocked = announce(&plane, &workspace, &body(&bytes, 1, "l", json!({}))).await;
    assert_eq!(unlocked.status, 409);
    plane.lock(&workspace).await;
    let made = announce(&plane, &workspace, &body(&bytes, 1, "l", json!({})))
        .await
        .expect(201);
    let url = made["data"]["attributes"]["hosted-state-upload-url"]
        .as_str()
        .unwrap();
    let other = plane.send(plane.anonymous("PUT", url).body(state(2, "l"))).await;
    assert_eq!(other.status, 422);
    assert!(other.error().contains("MD5"), "{}", other.error());
    let inline = json!({"state": STANDARD.encode(state(2, "l"))});
    assert_eq!(
        announce(&plane, &workspace, &body(&bytes, 1, "l", inline))
            .await
            .status,
        422
    );
}

#[tokio::test]
async fn unlock_waits_for_an_announced_state_and_force_unlock_gives_it_up() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    let bytes = state(1, "l");
    let made = announce(&plane, &workspace, &body(&bytes, 1, "l", json!({})))
        .await
        .expect(201);
    let unlock = plane
        .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
        .await;
    assert_eq!(unlock.status, 422);
    assert!(
        unlock.error().contains("latest state version is still pending"),
        "{}",
        unlock.error()
    );
    plane
        .post(
            &format!("workspaces/{workspace}/actions/force-unlock"),
            &json!({}),
        )
        .await
        .expect(200);
    let url = made["data"]["attributes"]["hosted-state-upload-url"]
        .as_str()
        .unwrap();
    assert_eq!(
        plane.send(plane.anonymous("PUT", url).body(bytes)).await.status,
        409
    );
    assert_eq!(
        plane
            .get(&format!("workspaces/{workspace}/current-state-version"))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn another_lineage_and_another_state_with_the_same_serial_need_force() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    upload(&plane, &workspace, 5, "l").await;
    let other = state(6, "m");
    let refused = announce(&plane, &workspace, &body(&other, 6, "m", json!({}))).await;
    assert_eq!(refused.status, 409);
    assert!(
        refused
            .error()
            .contains("The lineage provided in the state file does not match"),
        "{}",
        refused.error()
    );
    announce(&plane, &workspace, &body(&other, 6, "m", json!({"force": true})))
        .await
        .expect(201);
    let mut same = state(5, "l");
    upload(&plane, &workspace, 5, "l").await;
    same.push(b'\n');
    let refused = announce(&plane, &workspace, &body(&same, 5, "l", json!({}))).await;
    assert_eq!(refused.status, 409);
    announce(&plane, &workspace, &body(&same, 5, "l", json!({"force": true})))
        .await
        .expect(201);
}

#[tokio::test]
async fn t20_a_lower_serial_is_accepted_from_the_holder_of_the_lock_without_force() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    upload(&plane, &workspace, 9, "l").await;
    let low = upload(&plane, &workspace, 2, "l").await;
    let current = plane
        .get(&format!("workspaces/{workspace}/current-state-version"))
        .await
        .expect(200);
    assert_eq!(id(&current), low);
    let filters = "filter%5Bworkspace%5D%5Bname%5D=one&filter%5Borganization%5D%5Bname%5D=acme";
    let all = plane.get(&format!("state-versions?{filters}")).await.expect(200);
    assert_eq!(all["meta"]["pagination"]["total-count"], 2);
}

#[tokio::test]
async fn an_encrypted_state_is_kept_as_it_is_and_its_outputs_come_from_beside_it() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    let bytes = br#"{"serial":1,"lineage":"l","meta":{},"encrypted_data":"AAAA","encryption_version":"v0"}"#;
    let outputs = json!({"o": {"sensitive": false, "value": "d", "type": "string"}}).to_string();
    let more = json!({"state": STANDARD.encode(bytes), "json-state-outputs": STANDARD.encode(outputs)});
    let made = announce(&plane, &workspace, &body(bytes, 1, "l", more))
        .await
        .expect(201);
    let url = made["data"]["attributes"]["hosted-state-download-url"]
        .as_str()
        .unwrap();
    assert_eq!(plane.get(url).await.bytes, bytes);
    let outputs = plane
        .get(&format!("workspaces/{workspace}/current-state-version-outputs"))
        .await
        .expect(200);
    assert_eq!(outputs["data"][0]["attributes"]["value"], "d");
}

#[tokio::test]
async fn safe_delete_refuses_a_workspace_that_is_locked_or_manages_something() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    let path = "organizations/acme/workspaces/one/actions/safe-delete";
    let answer = plane.post(path, &json!({})).await;
    assert_eq!(answer.status, 409);
    assert!(answer.error().contains("locked"), "{}", answer.error());
    upload(&plane, &workspace, 1, "l").await;
    plane
        .post(&format!("workspaces/{workspace}/actions/unlock"), &json!({}))
        .await
        .expect(200);
    let answer = plane.post(path, &json!({})).await;
    assert_eq!(answer.status, 409);
    let text = answer.error();
    assert!(
        text.contains("manages 1 resources") && !text.contains("locked") && !text.contains("being processed")
    );
    assert_eq!(
        plane.delete("organizations/acme/workspaces/one").await.status,
        204
    );
    assert_eq!(plane.get(&format!("workspaces/{workspace}")).await.status, 404);
}

/// The bytes of the state that is current.
async fn current(plane: &Plane, workspace: &str) -> Vec<u8> {
    let version = plane
        .get(&format!("workspaces/{workspace}/current-state-version"))
        .await
        .expect(200);
    let url = version["data"]["attributes"]["hosted-state-download-url"]
        .as_str()
        .unwrap()
        .to_owned();
    plane.send(plane.request("GET", &url)).await.bytes
}

#[tokio::test]
async fn case_11_a_poisoned_state_is_refused_and_the_good_one_stays_current() {
    let plane = Plane::start_with(|config| config.limits.state_bytes = 1 << 20).await;
    let workspace = plane.workspace("one").await;
    let good = state(5, "good");
    // Only who holds the lock writes a state at all.
    let free = announce(&plane, &workspace, &body(&good, 5, "good", json!({}))).await;
    assert_eq!(free.status, 409);
    plane.lock(&workspace).await;
    upload(&plane, &workspace, 5, "good").await;
    assert_eq!(current(&plane, &workspace).await, good);

    let other_lineage = state(6, "evil");
    let answer = announce(&plane, &workspace, &body(&other_lineage, 6, "evil", json!({}))).await;
    assert_eq!(answer.status, 409, "{}", answer.error());
    assert!(answer.error().contains("lineage"), "{}", answer.error());
    let mut same_serial = state(5, "good");
    same_serial.push(b' ');
    let answer = announce(&plane, &workspace, &body(&same_serial, 5, "good", json!({}))).await;
    assert_eq!(answer.status, 409, "{}", answer.error());
    assert!(answer.error().contains("serial"), "{}", answer.error());

    // What is no state, and what is too large: announced, and refused when it arrives.
    for (bytes, status) in [
        (b"{\"serial\": 7, not JSON".to_vec(), 422),
        (vec![b' '; (1 << 20) + 1], 413),
    ] {
        let made = announce(&plane, &workspace, &body(&bytes, 7, "good", json!({}))).await;
        let url = made.expect(201)["data"]["attributes"]["hosted-state-upload-url"]
            .as_str()
            .unwrap()
            .to_owned();
        let answer = plane.send(plane.anonymous("PUT", &url).body(bytes)).await;
        assert_eq!(answer.status, status, "{}", answer.error());
    }
    assert_eq!(current(&plane, &workspace).await, good);

    // Of two that are uploaded at once with one serial, one is current.
    let (one, mut two) = (state(8, "good"), state(8, "good"));
    two.push(b'\n');
    let (first, second) = tokio::join!(
        announce_and_upload(&plane, &workspace, &one),
        announce_and_upload(&plane, &workspace, &two)
    );
    assert!(
        first != second,
        "of two uploads {} were taken",
        u8::from(first) + u8::from(second)
    );
    let now = current(&plane, &workspace).await;
    assert_eq!(now, if first { one } else { two });
}

/// Whether a state with serial 8 was taken.
async fn announce_and_upload(plane: &Plane, workspace: &str, bytes: &[u8]) -> bool {
    let made = announce(plane, workspace, &body(bytes, 8, "good", json!({}))).await;
    if made.status != 201 {
        return false;
    }
    let url = made.json()["data"]["attributes"]["hosted-state-upload-url"]
        .as_str()
        .unwrap()
        .to_owned();
    let answer = plane
        .send(plane.anonymous("PUT", &url).body(bytes.to_vec()))
        .await;
    answer.status == 200
}

#[tokio::test]
async fn a_state_that_is_rolled_back_to_gets_the_next_serial_and_an_encrypted_one_keeps_its_own() {
    let plane = Plane::start().await;
    let workspace = plane.workspace("one").await;
    plane.lock(&workspace).await;
    let first = upload(&plane, &workspace, 3, "l").await;
    let sealed = br#"{"serial":4,"lineage":"l","meta":{},"encrypted_data":"AAAA","encryption_version":"v0"}"#;
    let inline = json!({"state": STANDARD.encode(sealed)});
    let encrypted = announce(&plane, &workspace, &body(sealed, 4, "l", inline))
        .await
        .expect(201);
    upload(&plane, &workspace, 9, "l").await;
    // What was announced and never came is given up, or it would replace the copy.
    let late = state(10, "l");
    let announced = announce(&plane, &workspace, &body(&late, 10, "l", json!({})))
        .await
        .expect(201);
    let roll_back = async |to: &str| {
        let body = json!({"data": {"type": "state-versions", "relationships": {
            "rollback-state-version": {"data": {"type": "state-versions", "id": to}}}}});
        let path = format!("workspaces/{workspace}/state-versions");
        plane
            .send(plane.request("PATCH", &path).json(&body))
            .await
            .expect(200)
    };
    let rolled = roll_back(&first).await;
    let attributes = &rolled["data"]["attributes"];
    let bytes = current(&plane, &workspace).await;
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&attributes["serial"], &document["serial"]),
        (&json!(10), &json!(10))
    );
    assert_eq!(bytes, state(10, "l"), "nothing else differs");
    assert_eq!(attributes["md5"], md5(&bytes));
    assert_eq!(attributes["size"], bytes.len());
    let url = announced["data"]["attributes"]["hosted-state-upload-url"]
        .as_str()
        .unwrap();
    let late = plane.send(plane.anonymous("PUT", url).body(late)).await;
    assert_eq!(late.status, 409, "it was announced before");

    // OpenTofu refuses a state whose serial in clear is not the one inside.
    let rolled = roll_back(&id(&encrypted)).await;
    assert_eq!(rolled["data"]["attributes"]["serial"], 4);
    assert_eq!(current(&plane, &workspace).await, sealed);
    // Back from there, the serial is above all that were there before.
    assert_eq!(roll_back(&first).await["data"]["attributes"]["serial"], 11);
    upload(&plane, &workspace, 12, "l").await;
}
