//! `terrapool-runner connect`: joins standard input and output to the runner's socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::RunnerError;
use crate::runner::protect_memory;

/// How long the socket is waited for: the container may have started this moment.
const PATIENCE: Duration = Duration::from_secs(5);

/// Joins standard input and output to the socket until either side ends.
///
/// # Errors
/// [`RunnerError::Connect`] when nobody listens on the socket within five seconds; [`RunnerError::Kernel`] when the kernel
/// does not close this process to others.
pub fn connect(socket: &Path) -> Result<(), RunnerError> {
    // The key and every frame pass through here, as the user of the job.
    protect_memory()?;
    let stream = reach(socket)?;
    let failed = |source| RunnerError::Connect {
        path: socket.to_owned(),
        source,
    };
    let mut from_runner = stream.try_clone().map_err(failed)?;
    // Input that ends, ends the stream: the other direction then sees its end and the process goes.
    let mut input = unbuffered(io::stdin()).map_err(failed)?;
    let mut output = unbuffered(io::stdout()).map_err(failed)?;
    std::thread::spawn(move || {
        let mut to_runner = stream;
        let _ = copy(&mut input, &mut to_runner);
        let _ = to_runner.shutdown(Shutdown::Both);
    });
    let _ = copy(&mut from_runner, &mut output);
    Ok(())
}

/// The standard library buffers its standard streams by lines.
fn unbuffered(stream: impl AsFd) -> io::Result<File> {
    Ok(File::from(stream.as_fd().try_clone_to_owned()?))
}

fn reach(socket: &Path) -> Result<UnixStream, RunnerError> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(source) if Instant::now() >= deadline => {
                return Err(RunnerError::Connect {
                    path: socket.to_owned(),
                    source,
                });
            }
            Err(_) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all(&buffer[..count])?;
    }
}
