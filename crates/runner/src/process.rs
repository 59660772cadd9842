//! Running one process of the engine: its output, its signals, its end.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use terrapool_protocol::job::FailureReason;

use crate::children::{Exit, kill_everything};
use crate::dump::DumpFilter;
use crate::error::{Failure, Halt};
use crate::shared::{Shared, Status};
use crate::spool::Spool;

/// Most bytes of output that are kept in memory.
const CAPTURED: usize = 1 << 20;

/// Most bytes that are read after the process has ended, from what it left in the pipe.
const LEFT_IN_PIPE: usize = 4 << 20;

/// Where the output of a process goes.
pub(crate) enum Output<'output> {
    /// Everything to the log; a state dump is taken out and put here.
    Log(&'output Spool, &'output mut Option<Vec<u8>>),
    /// Everything to memory, cut when it is long.
    Capture(&'output mut Vec<u8>),
    /// Standard output to a file, errors to memory.
    File(File, &'output mut Vec<u8>),
}

/// Runs a process to its end. It is not started when a stop was requested.
pub(crate) fn run(
    shared: &Shared,
    mut command: Command,
    output: Output<'_>,
    started: impl FnOnce(&mut Status),
) -> Result<Exit, Halt> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: io::Error| {
        let message = format!("The engine {program} cannot be started: {error}.");
        Halt::Failed(Failure::new(FailureReason::Engine, message))
    };
    let (reader, writer) = io::pipe().map_err(failed)?;
    // Closed by us at the process's end: others may hold the output open for as long as they like.
    let (ended, alive) = io::pipe().map_err(failed)?;
    command.stdin(Stdio::null());
    let sink = match output {
        Output::Log(spool, dump) => {
            command.stdout(writer.try_clone().map_err(failed)?);
            Sink::Log(spool, DumpFilter::default(), dump)
        }
        Output::Capture(buffer) => {
            command.stdout(writer.try_clone().map_err(failed)?);
            Sink::Capture(buffer)
        }
        Output::File(file, buffer) => {
            command.stdout(Stdio::from(file));
            Sink::Capture(buffer)
        }
    };
    command.stderr(writer);
    let pid = {
        let mut status = shared.status();
        if status.stop.is_some() {
            return Err(Halt::Stopped);
        }
        let pid = shared.children.spawn(&mut command).map_err(failed)?;
        status.process = Some(pid);
        pid
    };
    // The command holds the writing end of the pipe.
    drop(command);
    shared.change(started);
    std::thread::scope(|scope| {
        scope.spawn(|| drain(&reader, &ended, sink));
        let exit = shared.children.wait(pid);
        shared.change(|status| status.process = None);
        kill_everything(shared, Some(pid));
        drop(alive);
        Ok(exit)
    })
}

enum Sink<'output> {
    Log(&'output Spool, DumpFilter, &'output mut Option<Vec<u8>>),
    Capture(&'output mut Vec<u8>),
}

impl Sink<'_> {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Log(spool, filter, _) => {
                let mut out = Vec::with_capacity(bytes.len());
                filter.push(bytes, &mut out);
                if !out.is_empty() {
                    spool.append(&out);
                }
            }
            Self::Capture(buffer) => {
                let room = CAPTURED.saturating_sub(buffer.len());
                buffer.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
        }
    }

    fn finish(self) {
        if let Self::Log(spool, filter, dump) = self {
            let mut out = Vec::new();
            *dump = filter.finish(&mut out);
            spool.append(&out);
            spool.flush();
        }
    }
}

/// Reads output until its end, or until the process has ended and the pipe is empty.
fn drain(mut reader: &PipeReader, ended: &PipeReader, mut sink: Sink<'_>) {
    let mut buffer = vec![0; 64 << 10];
    let mut left = usize::MAX;
    while left > 0 {
        if left == usize::MAX {
            let mut ends = [
                PollFd::new(reader, PollFlags::IN),
                PollFd::new(ended, PollFlags::IN),
            ];
            let _ = poll(&mut ends, None);
            if !ends[1].revents().is_empty() {
                let _ = rustix::io::ioctl_fionbio(reader, true);
                left = LEFT_IN_PIPE;
            }
        }
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                sink.push(&buffer[..count]);
                if left < usize::MAX {
                    left = left.saturating_sub(count);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    sink.finish();
}
