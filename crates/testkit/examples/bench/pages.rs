//! Pages at 10,000 runs against the same pages of an organization with one workspace and no run.

use std::sync::Arc;

use serde_json::{Value, json};
use terrapool_testkit::forms::FormBrowser;

use crate::figures::{self, Series, goal, line};
use crate::setup::{Bench, CONFIGURATION};

const WORKSPACES: usize = 50;
const RUNS: usize = 200;
const ROUNDS: u32 = 40;
const PASSWORD: &str = "correct horse battery";
/// Goal for a page, in milliseconds.
const LONGEST: f64 = 20.0;

/// Makes the runs: one of each workspace waits, the others were discarded.
async fn fill(bench: &Bench) -> String {
    let (pool, _) = bench.installation.create_pool("idle").await;
    let http = bench.installation.http().clone();
    let api = Arc::new((
        format!("{}/api/v2", bench.installation.url()),
        bench.installation.token.clone(),
    ));
    let mut name = String::new();
    for _ in 0..WORKSPACES {
        let workspace = bench.workspace(&pool, &bench.version, CONFIGURATION).await;
        let first = bench.create_run(&workspace).await;
        let found = bench.installation.get(&format!("/runs/{first}")).await;
        let id = found["data"]["relationships"]["workspace"]["data"]["id"].clone();
        let found = bench
            .installation
            .get(&format!("/workspaces/{}", id.as_str().unwrap_or_default()))
            .await;
        name = found["data"]["attributes"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let tasks: Vec<_> = (1..RUNS)
            .map(|_| {
                let (http, api, id) = (http.clone(), Arc::clone(&api), id.clone());
                tokio::spawn(async move { discarded(&http, &api.0, &api.1, &id).await })
            })
            .collect();
        for task in tasks {
            task.await.expect("a run is made");
        }
    }
    name
}

async fn discarded(http: &reqwest::Client, api: &str, token: &str, workspace: &Value) {
    let send = async |path: &str, body: Value| -> Value {
        let request = http
            .post(format!("{api}{path}"))
            .bearer_auth(token)
            .header("content-type", "application/vnd.api+json")
            .body(body.to_string());
        let answer = request.send().await.expect("the server answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let text = answer.text().await.unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    };
    let body = json!({"data": {"type": "runs", "attributes": {"message": "one of many"}, "relationships": {
        "workspace": {"data": {"type": "workspaces", "id": workspace}}}}});
    let run = send("/runs", body).await;
    let id = run["data"]["id"].as_str().unwrap_or_default();
    send(&format!("/runs/{id}/actions/discard"), json!({})).await;
}

pub(crate) async fn measure(bench: &Bench) {
    let installation = &bench.installation;
    installation.create_account("grace", PASSWORD).await;
    let few =
        json!({"data": {"type": "organizations", "attributes": {"name": "few", "email": "few@example.com"}}});
    installation.post("/organizations", &few).await;
    let body = json!({"data": {"type": "workspaces", "attributes": {"name": "one"}}});
    installation.post("/organizations/few/workspaces", &body).await;
    let workspace = fill(bench).await;
    let pem = std::fs::read(installation.ca()).expect("the server has a CA");
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).expect("a CA is PEM");
    let client = reqwest::Client::builder().tls_certs_only(certificates);
    let mut browser = FormBrowser::new(&installation.url(), client);
    browser.sign_in("grace", PASSWORD).await;
    println!(
        "\nPages, asked over one connection, at {} runs",
        WORKSPACES * RUNS
    );
    for (name, many, few) in [
        (
            "workspaces",
            "/app/acme/workspaces".to_owned(),
            "/app/few/workspaces",
        ),
        ("runs", "/app/acme/runs".to_owned(), "/app/few/runs"),
        (
            "runs of a workspace",
            format!("/app/acme/workspaces/{workspace}/runs"),
            "/app/few/workspaces/one/runs",
        ),
        ("fleet", "/app/acme/fleet".to_owned(), "/app/few/fleet"),
    ] {
        let (mut at_many, mut at_few) = (Series::default(), Series::default());
        for _ in 0..ROUNDS {
            for (path, series) in [(many.as_str(), &mut at_many), (few, &mut at_few)] {
                let asked = figures::now();
                let seen = browser.get(path).await;
                series.push(figures::now() - asked);
                assert_eq!(seen.status, 200, "{path}");
            }
        }
        line(name, &at_many);
        line(&format!("{name}, empty organization"), &at_few);
        println!("  ratio {:.2}", at_many.median() / at_few.median());
        goal(name, at_many.median(), " ms", LONGEST);
    }
}
