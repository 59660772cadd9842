//! Programs in a network namespace of their own, joined to this one by Unix sockets.
//!
//! A browser gives up its connections whenever an address of the machine changes, and containers that come and go change
//! them all the time. In a namespace of its own nothing changes.

use std::path::Path;
use std::process::Stdio;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::process::{Child, Command};

/// What runs inside, as PID 1: loopback, a relay for each direction, then the program.
const INSIDE: &str = "ip link set lo up && \
    socat TCP-LISTEN:\"$OUTWARD\",bind=127.0.0.1,fork,reuseaddr UNIX-CONNECT:\"$FOLDER/outward\" & \
    socat UNIX-LISTEN:\"$FOLDER/inward\",fork TCP:127.0.0.1:\"$INWARD\" & \
    \"$@\"";

/// Starts a program that finds this machine's port `outward` on its own loopback, and whose port `inward` is then found
/// on this machine's. It ends, with everything it has started, when the returned value is dropped.
pub async fn start(folder: &Path, outward: u16, inward: u16, program: &[&str]) -> Child {
    let listener = UnixListener::bind(folder.join("outward")).expect("a socket can be made");
    tokio::spawn(async move {
        while let Ok((mut inside, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut outside) = TcpStream::connect(("127.0.0.1", outward)).await {
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                }
            });
        }
    });
    let listener = TcpListener::bind(("127.0.0.1", inward))
        .await
        .expect("a port is free");
    let socket = folder.join("inward");
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                if let Ok(mut inside) = UnixStream::connect(&socket).await {
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                }
            });
        }
    });
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let own = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
    if !matches!(own, Ok(0)) {
        command.arg("--map-root-user");
    }
    command
        .args(["sh", "-c", INSIDE, "sh"])
        .args(program)
        .env("FOLDER", folder)
        .env("OUTWARD", outward.to_string())
        .env("INWARD", inward.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("unshare starts: `cargo xtask test` installs what this needs")
}
