//! From the end of a plan's last engine process to the first one of its apply, and the whole of a run whose engine
//! costs nothing: what is left is ours.

use crate::figures::{self, Series, line};
use crate::probe;
use crate::setup::{Bench, CONFIGURATION, Pool};

const ROUNDS: u32 = 15;

pub(crate) async fn measure(bench: &Bench) {
    println!("\nHand-over from plan to apply, with an engine that does nothing");
    one_pool(bench, &bench.pool, "four slots").await;
    let narrow = bench.narrow_pool().await;
    // The first run copies the engine.
    run(bench, &narrow).await;
    one_pool(bench, &narrow, "one slot").await;
}

struct Times {
    handover: f64,
    granted: f64,
    whole: f64,
    end: f64,
}

async fn run(bench: &Bench, pool: &Pool) -> Times {
    let workspace = bench.workspace(&pool.id, probe::VERSION, CONFIGURATION).await;
    let sent = figures::now();
    let run = bench.create_run(&workspace).await;
    let run = bench.ended(&run, "applied").await;
    let seen = figures::now();
    let ended = probe::time(&bench.plan_json(&run).await, "bench_ended");
    let log = bench.log(&run, "apply").await;
    let began = probe::time(&log, "began");
    Times {
        handover: began - ended,
        granted: probe::time(&log, "phase") - began,
        whole: seen - sent,
        end: seen - probe::time(&log, "ended"),
    }
}

async fn one_pool(bench: &Bench, pool: &Pool, name: &str) {
    let (mut handover, mut granted, mut whole, mut end) = (
        Series::default(),
        Series::default(),
        Series::default(),
        Series::default(),
    );
    for _ in 0..ROUNDS {
        bench.settle_pool(pool).await;
        let times = run(bench, pool).await;
        handover.push(times.handover);
        granted.push(times.granted);
        whole.push(times.whole);
        end.push(times.end);
    }
    line(&format!("{name}: plan's end -> apply's init"), &handover);
    line(&format!("{name}: init -> apply (grant included)"), &granted);
    line(&format!("{name}: apply's end -> applied seen"), &end);
    line(&format!("{name}: created -> applied, in all"), &whole);
}
