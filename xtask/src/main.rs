//! Project tasks. Each does all its own set-up.

#![forbid(unsafe_code)]

mod bench;
mod cgroup_v2;
mod chaos;
mod command;
mod container_engine;
mod demo;
mod engines;
mod image;
mod package;
mod packages;
mod podman;
mod systems;
mod test;

use std::process::ExitCode;
use std::sync::Arc;

const HELP: &str = "\
cargo xtask <task>

  demo [--once]   build, start a control plane and two agents, run a real configuration through them
  test            everything CI runs: style, lints, documentation, licences, budgets, tests, a short chaos
  bench [NAME]    measure, as ratios taken side by side in one run; `capture`: what is kept when something is killed (root)
  chaos [--minutes N] [--rounds N] [--seed S] [--sqlite | --postgres]
                  kill and cut off everything at random while runs are applied, then count what was promised (root)
  cgroup-v2 [--root | --user | --rootless-podman] [TEST…]
                  tests of sandboxes on a host with control groups of version 2: a virtual machine, emulated (root, an hour;
                  --root and --user: only with agents that are root, or an ordinary user; --rootless-podman: only those
                  of the Docker driver on an ordinary user's Podman; TEST: only tests whose name has this in it)
  engines         build the engines that the tests use: target/tools/engines
  package [--quick] [--check] [--architecture amd64|arm64]
                  make everything that is installed: target/packages (deb, rpm, images, tarballs, checksums, contents);
                  --check makes it twice and compares, and starts the programs with the C library of Debian 11 (root)
  podman          tests of the Docker driver on Podman instead (root)
  image           make the sandboxes' image: target/<profile>/sandbox-image.tar
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = catch_interrupts() {
        eprintln!("xtask: signals cannot be caught: {error}");
    }
    let outcome = match words.as_slice() {
        ["demo", rest @ ..] => demo::run(rest),
        ["test", rest @ ..] => test::run(rest),
        ["bench", rest @ ..] => bench::run(rest),
        ["chaos", rest @ ..] => chaos::run(rest),
        ["cgroup-v2", rest @ ..] => cgroup_v2::run(rest),
        ["engines"] => engines::run(),
        ["package", rest @ ..] => package::run(rest),
        ["podman"] => podman::run(),
        ["image"] => image::run(),
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C ends what a task has started, and then the task, which still stops its private Docker engine. Programs that are
/// started where SIGINT is ignored (in the background of a script) would ignore it too, and tests send it.
fn catch_interrupts() -> std::io::Result<()> {
    const SIGINT: i32 = 2;
    signal_hook::flag::register(SIGINT, Arc::default()).map(|_| ())
}
