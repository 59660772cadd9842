//! What a pool sets for the sandboxes of its jobs.

use serde_json::{Value, json};

use crate::common::{Plane, id};

fn sandbox(settings: &Value) -> Value {
    json!({"data": {"type": "agent-pools", "attributes": {"sandbox": settings}}})
}

#[tokio::test]
async fn a_pool_sets_network_and_limits_of_its_sandboxes() {
    let server = Plane::start().await;
    let body = json!({"data": {"type": "agent-pools", "attributes": {"name": "private"}}});
    let pool = server
        .post("/api/v2/organizations/acme/agent-pools", &body)
        .await
        .expect(201);
    let expected = json!({"network": "closed", "proxy": "none", "root-allowed": true, "image": null, "images": [], "memory-mb": 512, "cpu-millis": 1000, "processes": 512,
        "open-files": 8192, "disk-mb": 10240, "log-mb": 64, "plan-seconds": 7200, "apply-seconds": 86400,
        "silence-seconds": null, "maximum-memory-mb": null, "maximum-cpu-millis": null, "maximum-processes": null,
        "maximum-open-files": null, "maximum-disk-mb": null, "maximum-log-mb": null,
        "maximum-plan-seconds": null, "maximum-apply-seconds": null, "maximum-silence-seconds": null});
    assert_eq!(pool["data"]["attributes"]["sandbox"], expected);
    let path = format!("/api/v2/agent-pools/{}", id(&pool));
    let change = json!({"network": "none", "proxy": "agent", "memory-mb": 1024, "maximum-memory-mb": 2048});
    let changed = server.patch(&path, &sandbox(&change)).await.expect(200);
    let found = &changed["data"]["attributes"]["sandbox"];
    assert_eq!(
        (
            &found["network"],
            &found["proxy"],
            &found["memory-mb"],
            &found["maximum-memory-mb"],
            &found["processes"]
        ),
        (
            &json!("none"),
            &json!("agent"),
            &json!(1024),
            &json!(2048),
            &json!(512)
        )
    );
    for (wrong, names) in [
        (json!({"network": "open"}), "metadata"),
        (json!({"proxy": "http://proxy:3128"}), "agent"),
        (json!({"root-allowed": "no"}), "root-allowed"),
        (json!({"memory": 512}), "memory-mb"),
        (json!({"memory-mb": 1}), "128"),
        (json!({"memory-mb": 4096}), "maximum"),
        (json!({"maximum-disk-mb": 100}), "disk-mb"),
        (json!({"log-mb": 0}), "1024"),
        (json!({"image": "debian:12"}), "sha256"),
        (json!({"images": ["debian"]}), "sha256"),
    ] {
        let answer = server.patch(&path, &sandbox(&wrong)).await;
        assert_eq!(answer.status, 422, "{wrong}");
        assert!(answer.error().contains(names), "{wrong}: {}", answer.error());
    }
    let same = server.get(&path).await.expect(200);
    assert_eq!(&same["data"]["attributes"]["sandbox"], found);
}
