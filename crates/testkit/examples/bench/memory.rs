//! Resident memory of both programs after runs and ten idle seconds.

use std::time::Duration;

use crate::figures::goal;
use crate::setup::Bench;

pub(crate) async fn measure(bench: &Bench) {
    bench.settle().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("\nIdle resident memory (VmRSS; anonymous, file)");
    for (name, pid, limit) in [
        ("server", bench.installation.server_pid(), 40.0),
        ("agent", bench.pool.agent.pid(), 12.0),
    ] {
        let pid = pid.expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let read = |field: &str| -> f64 {
            let line = status.lines().find(|line| line.starts_with(field));
            let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kilobytes.unwrap_or(f64::NAN) / 1024.0
        };
        println!(
            "  {name:<10} {:.1} MB ({:.1}, {:.1})",
            read("VmRSS:"),
            read("RssAnon:"),
            read("RssFile:")
        );
        goal(name, read("VmRSS:"), " MB", limit);
    }
}
