//! Tokens: what opens nothing, and where none must ever be seen.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use terrapool_testkit::installation::Installation;

async fn output(program: &str, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .output()
        .await
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether any file below a folder holds these bytes.
fn any_file_holds(folder: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return any_file_holds(&path, wanted);
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            bytes.windows(wanted.len()).any(|window| window == wanted)
        })
}

#[tokio::test]
async fn case_21_tokens_open_only_their_own_doors_and_are_seen_nowhere() {
    let installation = Installation::start().await;
    let (pool, token) = installation.create_pool("private").await;
    let agent = installation.start_agent("private", &token, &[]).await;
    let configuration = "resource \"terraform_data\" \"a\" {\n  provisioner \"local-exec\" {\n    command = \"echo in the run\"\n  }\n}\n";
    let attributes = json!({"execution-mode": "agent", "agent-pool-id": pool, "auto-apply": true});
    let workspace = installation.workspace("app", &attributes, configuration).await;
    let run = installation.run(&workspace, &json!({"auto-apply": true})).await;
    installation.run_reaches(&run, "applied").await;

    // Who uses a token in another one's place, a cut, a lengthened or a made-up one, is told nothing.
    let user = installation.token.clone();
    let agent_calls = format!("{}/agent/v1", installation.url());
    let register = async |token: &str| {
        let body = json!({"instance_key": "0123456789abcdef0123456789abcdef", "process_nonce": "fedcba9876543210fedcba9876543210", "name": "thief",
            "version": "0", "hostname": "thief", "kernel": "0", "driver": "docker", "engines": [],
            "capacity": {"slots": 1, "free_slots": 1, "memory_mb": 1, "free_memory_mb": 1, "reserve_mb": 1}});
        let request = installation
            .http()
            .post(format!("{agent_calls}/register"))
            .bearer_auth(token)
            .json(&body);
        request
            .send()
            .await
            .expect("the server answers")
            .status()
            .as_u16()
    };
    let details = async |token: &str| {
        let request = installation
            .http()
            .get(format!("{}/api/v2/account/details", installation.url()))
            .bearer_auth(token);
        request
            .send()
            .await
            .expect("the server answers")
            .status()
            .as_u16()
    };
    assert_eq!((register(&token).await, details(&user).await), (200, 200));
    let cut = &token[..token.len() - 1];
    for wrong in [
        user.as_str(),
        cut,
        &format!("{token}x"),
        "tpa_nonsense",
        "inside-a-run",
        "x",
    ] {
        assert_eq!(register(wrong).await, 401);
    }
    for wrong in [token.as_str(), &user[..user.len() - 1], "inside-a-run", "x"] {
        assert_eq!(details(wrong).await, 401);
    }
    let (other, _) = installation.create_pool("other").await;
    let expired = json!({"data": {"type": "authentication-tokens",
        "attributes": {"description": "old", "expired-at": "2020-01-01T00:00:00Z"}}});
    let path = format!("/agent-pools/{other}/authentication-tokens");
    let (status, answer) = installation.call("POST", &path, Some(&expired)).await;
    if let Some(old) = answer["data"]["attributes"]["token"].as_str() {
        assert_eq!(register(old).await, 401);
    } else {
        assert_eq!(status, 422, "{answer}");
    }

    // Hashed at rest: neither token is in any file of the control plane. What is there is found.
    let data = installation.scratch("data");
    assert!(any_file_holds(&data, b"private"));
    let own = installation.agent_folder("private");
    let key = std::fs::read_to_string(own.join("instance.key")).expect("an agent has a key");
    for secret in [token.as_str(), user.as_str(), key.trim()] {
        assert!(!any_file_holds(&data, secret.as_bytes()));
        // Nor in logs, arguments, and what the container engine knows of sandboxes.
        for log in ["server.log", "agent-private.log"] {
            let text = installation.log(log);
            assert!(!text.is_empty() && !text.contains(secret), "{log}");
        }
    }
    let processes = output("ps", &["-eo", "args"]).await;
    assert!(processes.contains("terrapool-agent run"), "{processes}");
    let digest: String = Sha256::digest(key.trim())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let label = format!("label=io.terrapool.agent={}", &digest[..12]);
    let ids = output("docker", &["ps", "-aq", "--filter", &label]).await;
    let mut inspect = vec!["inspect"];
    inspect.extend(ids.lines());
    let inspected = output("docker", &inspect).await;
    assert!(inspected.contains("io.terrapool.role"), "{inspected}");
    for secret in [token.as_str(), user.as_str(), key.trim()] {
        assert!(!processes.contains(secret));
        assert!(!inspected.contains(secret));
    }

    // A revoked token opens nothing from the next request on.
    let tokens = installation
        .get(&format!("/agent-pools/{pool}/authentication-tokens"))
        .await;
    let ids: Vec<&Value> = tokens["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| &token["id"])
        .collect();
    for id in ids {
        let path = format!(
            "/authentication-tokens/{}",
            id.as_str().expect("a token has an id")
        );
        let (status, answer) = installation.call("DELETE", &path, None).await;
        assert_eq!(status, 204, "{answer}");
    }
    assert_eq!(register(&token).await, 401);
    drop(agent);
}
