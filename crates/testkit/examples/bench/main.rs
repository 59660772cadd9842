//! What `cargo xtask bench` runs once everything is built: an installation of its own, measured against the container
//! engine alone, both sides in turn in the same run.
//!
//! `TERRAPOOL_BIN_DIR` names the folder of the programs, `TERRAPOOL_BENCH_IMAGE` the sandboxes' image, `DOCKER_HOST`
//! the engine's socket. Arguments choose measurements: `start`, `handover`, `small`, `large`, `memory`, `pages`; none
//! is all.

mod api;
mod docker;
mod figures;
mod handover;
mod memory;
mod pages;
mod probe;
mod setup;
mod start;
mod whole;

use setup::Bench;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    println!("{}", figures::machine());
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
}
