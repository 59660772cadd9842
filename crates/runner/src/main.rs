#![forbid(unsafe_code)]
//! PID 1 of a sandbox: `terrapool-runner run`, and `connect`, by which the agent reaches it.

use std::process::ExitCode;

use terrapool_runner::{Options, Paths, connect, run, serve_remains};

const USAGE: &str = "usage: terrapool-runner run | connect | remains | version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run"] => run(&Options::for_process()),
        ["remains"] => serve_remains(&Options::for_process()),
        ["connect"] => connect::connect(&Paths::default().socket()),
        ["version" | "--version"] => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("terrapool-runner: {error}");
            ExitCode::FAILURE
        }
    }
}
