//! What `cargo xtask bench` runs once everything is built: an installation of its own, measured against the container
//! engine alone, both sides in turn in the same run.
//!
//! `TERRAPOOL_BIN_DIR` names the folder of the programs, `TERRAPOOL_BENCH_IMAGE` the sandboxes' image, `DOCKER_HOST`
//! the engine's socket. Arguments choose measurements: `start`, `handover`, `small`, `large`, `memory`, `pages`; none
//! is all of these. `capture` takes a quarter of an hour and root, and has a container engine of its own.

mod api;
mod capture;
mod docker;
mod figures;
mod handover;
mod memory;
mod pages;
mod probe;
mod setup;
mod start;
mod whole;

use std::process::ExitCode;

use setup::Bench;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    println!("{}", figures::machine());
    if let Some(at) = wanted.iter().position(|name| name == "capture") {
        if !capture::measure().await {
            println!("  something was lost");
            return ExitCode::FAILURE;
        }
        wanted.remove(at);
        if wanted.is_empty() {
            return ExitCode::SUCCESS;
        }
    }
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    let bench = Bench::start().await;
    if wants("start") {
        start::measure(&bench).await;
    }
    if wants("handover") {
        handover::measure(&bench).await;
    }
    if wants("small") {
        whole::measure(&bench, &whole::SMALL).await;
    }
    if wants("large") {
        whole::measure(&bench, &whole::LARGE).await;
    }
    if wants("memory") {
        memory::measure(&bench).await;
    }
    if wants("pages") {
        pages::measure(&bench).await;
    }
    ExitCode::SUCCESS
}
