//! From a run's creation to the first instruction of its engine, against a container of the same image and limits.
//!
//! Our side begins just before `POST /runs` is sent; the other side just before the container is asked for at the
//! engine's API (create, start), which is less than what the `docker` command line needs. Both end where the same
//! script, as the first process, reads the clock. Cold means that the waiting sandbox was killed before.

use std::time::Duration;

use serde_json::json;

use crate::docker::limits;
use crate::figures::{self, Series, goal, line};
use crate::probe;
use crate::setup::{Bench, CONFIGURATION};

const ROUNDS: u32 = 20;

pub(crate) async fn measure(bench: &Bench) {
    let (mut warm, mut answered, mut cold, mut container) = (
        Series::default(),
        Series::default(),
        Series::default(),
        Series::default(),
    );
    for _ in 0..ROUNDS {
        bench.settle().await;
        let (start, answer) = one(bench).await;
        warm.push(start);
        answered.push(answer);
        bench.settle().await;
        container.push(other_side(bench).await);
        bench.settle().await;
        for sandbox in bench.sandboxes(&bench.pool).await {
            bench
                .docker
                .call("POST", &format!("/containers/{}/kill", sandbox.id), None)
                .await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        cold.push(one(bench).await.0);
    }
    println!("\nRun created -> engine's first instruction");
    line("our run, warm sandbox", &warm);
    line("  of which until POST /runs was answered", &answered);
    line("our run, no warm sandbox", &cold);
    line("container of the same image and limits", &container);
    println!(
        "  ratio to a container: warm {:.2}, cold {:.2}",
        warm.median() / container.median(),
        cold.median() / container.median()
    );
    goal("warm start, median", warm.median(), " ms", 30.0);
}

async fn one(bench: &Bench) -> (f64, f64) {
    let workspace = bench
        .workspace(&bench.pool.id, probe::VERSION, CONFIGURATION)
        .await;
    let sent = figures::now();
    let run = bench.create_run(&workspace).await;
    let answered = figures::now();
    let run = bench.ended(&run, "applied").await;
    let began = probe::time(&bench.log(&run, "plan").await, "began");
    (began - sent, answered - sent)
}

async fn other_side(bench: &Bench) -> f64 {
    let mut host = limits();
    host["Binds"] = json!([format!("{}:/engines:ro", bench.engines.display())]);
    let body = json!({
        "Image": bench.image, "User": "1000:1000", "HostConfig": host,
        "Cmd": ["/bin/bash", "-c", "now=$EPOCHREALTIME; echo \"began $now end\""],
    });
    let sent = figures::now();
    let id = bench.docker.create(body).await;
    bench.docker.start(&id).await;
    let output = bench.docker.output(&id).await;
    bench.docker.remove(&id).await;
    probe::time(&output, "began") - sent
}
