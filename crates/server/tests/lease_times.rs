//! Times of leases, stops and locks that an agent pool sets.

#![allow(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod common;

use common::{Plane, id};
use serde_json::{Value, json};

fn pool(attributes: &Value) -> Value {
    json!({"data": {"type": "agent-pools", "attributes": attributes}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_sets_its_times_and_what_it_does_not_name_stays() {
    let plane = Plane::start().await;
    let made = plane
        .post(
            "organizations/acme/agent-pools",
            &pool(&json!({"name": "dc", "lease-times": {"plan-lease": 120}})),
        )
        .await
        .expect(201);
    let times = &made["data"]["attributes"]["lease-times"];
    assert_eq!(
        (&times["plan-lease"], &times["apply-lease"]),
        (&json!(120), &json!(300))
    );
    let path = format!("agent-pools/{}", id(&made));
    let change = pool(&json!({"lease-times": {"apply-contact-limit": null, "apply-grace": 900}}));
    plane.patch(&path, &change).await.expect(200);
    let shown = plane.get(&path).await.expect(200);
    assert_eq!(
        shown["data"]["attributes"]["lease-times"],
        json!({"plan-lease": 120, "apply-lease": 300, "plan-contact-limit": 60, "apply-contact-limit": null,
            "plan-grace": 60, "apply-grace": 900, "cool-off": 60})
    );
    // A change of something else leaves them alone.
    plane
        .patch(&path, &pool(&json!({"name": "dc-1"})))
        .await
        .expect(200);
    let again = plane.get(&path).await.expect(200);
    assert_eq!(again["data"]["attributes"]["lease-times"]["apply-grace"], 900);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_that_would_lose_healthy_agents_are_refused() {
    let plane = Plane::start().await;
    let made = plane
        .post("organizations/acme/agent-pools", &pool(&json!({"name": "dc"})))
        .await
        .expect(201);
    let path = format!("agent-pools/{}", id(&made));
    for (times, word) in [
        (json!({"plan-lease": 5}), "from 60 to 86400"),
        (json!({"apply-lease": null}), "whole number"),
        (json!({"apply-grace": "long"}), "whole number"),
        (json!({"lease": 100}), "have no `lease`"),
        (json!({"apply-lease": 3600}), "can't be shorter than apply-lease"),
    ] {
        let answer = plane.patch(&path, &pool(&json!({"lease-times": times}))).await;
        assert_eq!(answer.status, 422, "{times}");
        assert!(answer.error().contains(word), "{times}: {}", answer.error());
    }
    let shown = plane.get(&path).await.expect(200);
    assert_eq!(shown["data"]["attributes"]["lease-times"]["plan-lease"], 90);
}
