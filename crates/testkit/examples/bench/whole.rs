//! A whole run by API against the same commands by hand in one running container with the same limits.
//!
//! Ours: from just before `POST /runs` to the status `applied`, seen by polling. By hand: from the line that is typed
//! into a shell inside the container to the shell's answer after `init`, `plan -out`, `show -json`, `init`, `apply`.

use serde_json::json;

use crate::docker::limits;
use crate::figures::{self, Series, goal, line};
use crate::setup::{Bench, CONFIGURATION};

/// One configuration.
pub(crate) struct Case {
    name: &'static str,
    configuration: fn() -> String,
    rounds: u32,
    /// Goal for what is added, in milliseconds.
    added: Option<f64>,
}

/// One resource.
pub(crate) const SMALL: Case = Case {
    name: "one resource",
    configuration: || CONFIGURATION.to_owned(),
    rounds: 15,
    added: Some(80.0),
};

/// Two hundred resources.
pub(crate) const LARGE: Case = Case {
    name: "200 resources",
    configuration: || {
        (0..200)
            .map(|number| {
                format!("resource \"terraform_data\" \"r{number}\" {{\n  input = \"{number}\"\n}}\n")
            })
            .collect()
    },
    rounds: 7,
    added: None,
};

pub(crate) async fn measure(bench: &Bench, case: &Case) {
    let configuration = (case.configuration)();
    let (mut ours, mut theirs) = (Series::default(), Series::default());
    for _ in 0..case.rounds {
        bench.settle().await;
        let workspace = bench
            .workspace(&bench.pool.id, &bench.version, &configuration)
            .await;
        let sent = figures::now();
        let run = bench.create_run(&workspace).await;
        bench.ended(&run, "applied").await;
        ours.push(figures::now() - sent);
        bench.settle().await;
        theirs.push(by_hand(bench, &configuration).await);
    }
    println!("\nPlan and apply, {}", case.name);
    line("remote run, created -> applied", &ours);
    line("by hand in a running container", &theirs);
    let added = ours.median() - theirs.median();
    println!("  added: {added:.1} ms");
    goal("ratio", ours.median() / theirs.median(), "", 1.15);
    if let Some(limit) = case.added {
        goal("added", added, " ms", limit);
    }
}

async fn by_hand(bench: &Bench, configuration: &str) -> f64 {
    let mut host = limits();
    let folder = bench.installation.scratch("by-hand");
    std::fs::write(folder.join("main.tf"), configuration).expect("a file can be written");
    host["Binds"] = json!([
        format!("{}:/engines:ro", bench.engines.display()),
        format!("{}:/configuration:ro", folder.display()),
    ]);
    host["LogConfig"] = json!({"Type": "none"});
    let body = json!({
        "Image": bench.image, "User": "1000:1000", "HostConfig": host, "Cmd": ["/bin/bash"],
        "OpenStdin": true, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "Volumes": {"/terrapool/work": {}},
        "Env": ["CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "TF_INPUT=0", "TF_CLI_CONFIG_FILE=/dev/null", "HOME=/tmp"],
    });
    let id = bench.docker.create(body).await;
    let mut shell = bench.docker.attach(&id).await;
    bench.docker.start(&id).await;
    let folder = format!("/engines/terraform_{}", bench.version);
    shell
        .write(&format!(
            "mkdir -p /terrapool/work/config && cd /terrapool/work/config && cp /configuration/main.tf . && \
             export PATH={folder}:$PATH && echo rea''dy\n"
        ))
        .await;
    shell.wait_for("ready\n").await;
    let sent = figures::now();
    shell
        .write(
            "terraform init -no-color && terraform plan -no-color -out=/terrapool/work/plan && \
             terraform show -json /terrapool/work/plan > /terrapool/work/plan.json && terraform init -no-color && \
             terraform apply -no-color /terrapool/work/plan; echo do''ne\n",
        )
        .await;
    let output = shell.wait_for("done\n").await;
    let took = figures::now() - sent;
    bench.docker.remove(&id).await;
    assert!(output.contains("Apply complete!"), "{output}");
    took
}
