#![forbid(unsafe_code)]
//! PID 1 of a sandbox: `terrapool-runner run`, and `connect`, by which the agent reaches it.

use std::process::ExitCode;

use terrapool_protocol::block::Block;
use terrapool_runner::{Options, Paths, RunnerError, bridges, connect, engines, network, run, serve_remains};

const USAGE: &str = "usage: terrapool-runner run | connect | remains | addresses [--with-bridges] | close-network \
                     [--metadata-open] ADDRESS... | engines | remove-engines NAME... | version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run"] => run(&Options::for_process()),
        ["remains"] => serve_remains(&Options::for_process()),
        ["addresses"] => {
            for address in network::addresses() {
                println!("{address}");
            }
            Ok(())
        }
        ["addresses", "--with-bridges"] => {
            let own = network::addresses().into_iter().map(Block::from);
            for block in own.chain(bridges::blocks()) {
                println!("{block}");
            }
            Ok(())
        }
        ["close-network", "--metadata-open", addresses @ ..] => close_network(true, addresses),
        ["close-network", addresses @ ..] => close_network(false, addresses),
        ["engines"] => {
            for engine in engines::list(&Paths::default().bin) {
                println!("{engine}");
            }
            Ok(())
        }
        ["remove-engines", names @ ..] => engines::remove(&Paths::default().bin, names),
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

fn close_network(metadata_open: bool, addresses: &[&str]) -> Result<(), RunnerError> {
    let parsed: Result<Vec<Block>, _> = addresses.iter().map(|address| address.parse()).collect();
    match parsed {
        Ok(addresses) => network::close(metadata_open, &addresses),
        Err(error) => Err(RunnerError::Kernel {
            what: "close the network for something that is no address",
            source: std::io::Error::other(error),
        }),
    }
}
