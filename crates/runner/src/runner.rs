//! Putting the parts together: what `terrapool-runner run` does.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::process::DumpableBehavior;

use crate::children;
use crate::error::RunnerError;
use crate::link;
use crate::paths::Paths;
use crate::remains;
use crate::shared::Shared;
use crate::stop::{self, DeadMan};

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The sandbox's folders.
    pub paths: Paths,
    /// Whether this process is PID 1: it then reaps orphans, and kills every process of its namespace where one has to
    /// end.
    pub init: bool,
    /// Whether the process protects its memory and obeys SIGTERM. Off in tests, which share their process.
    pub own_process: bool,
}

impl Options {
    /// For the program itself.
    pub fn for_process() -> Self {
        Self {
            paths: Paths::default(),
            init: std::process::id() == 1,
            own_process: true,
        }
    }
}

/// Serves one job and returns when the agent releases it.
///
/// # Errors
/// [`RunnerError`] when there is nothing to serve from.
pub fn run(options: &Options) -> Result<(), RunnerError> {
    serve(options, |_| {})
}

/// Serves what a sandbox that is gone has left on its volumes. No engine is started.
///
/// # Errors
/// [`RunnerError`] when there is nothing to serve from.
pub fn serve_remains(options: &Options) -> Result<(), RunnerError> {
    serve(options, remains::load)
}

fn serve(options: &Options, load: impl FnOnce(&Shared)) -> Result<(), RunnerError> {
    let kernel = |what| move |source: io::Error| RunnerError::Kernel { what, source };
    if options.own_process {
        protect_memory()?;
    }
    let paths = &options.paths;
    make_folders(paths)?;
    let shared = Arc::new(Shared::new(paths.clone(), options.init));
    load(&shared);
    let dead_man = Arc::new(DeadMan::new().map_err(kernel("make a timer"))?);
    children::start_reaper(&shared);
    if options.own_process {
        let (signals, on_signal) = UnixStream::pair().map_err(kernel("make a socket pair"))?;
        // SIGINT too: a program that is started by one that ignores it would ignore it as well, and engines are stopped
        // by it. A signal that is caught here is at its default there.
        let on_interrupt = on_signal.try_clone().map_err(kernel("duplicate a socket"))?;
        signal_hook::low_level::pipe::register(SIGTERM, on_signal).map_err(kernel("catch SIGTERM"))?;
        signal_hook::low_level::pipe::register(SIGINT, on_interrupt).map_err(kernel("catch SIGINT"))?;
        let shared = Arc::clone(&shared);
        thread::spawn(move || stop::obey_sigterm(&shared, signals));
    }
    let listener = listen(&paths.socket())?;
    let sequence = Arc::clone(&shared);
    thread::spawn(move || stop::run_sequence(&sequence));
    let (watcher, watched) = (Arc::clone(&dead_man), Arc::clone(&shared));
    thread::spawn(move || watcher.watch(&watched));
    let closing = listener.try_clone().map_err(kernel("duplicate the socket"))?;
    let acceptor = Arc::clone(&shared);
    thread::spawn(move || link::accept(&acceptor, &dead_man, &listener));
    let mut status = shared.status();
    while !status.released {
        status = shared.wait_control(status);
    }
    drop(status);
    let _ = rustix::net::shutdown(&closing, rustix::net::Shutdown::Both);
    Ok(())
}

/// Closes this process's memory, environment and open files to processes of the same user, which must not read the agent's
/// key and the variables there.
///
/// # Errors
/// [`RunnerError::Kernel`].
pub(crate) fn protect_memory() -> Result<(), RunnerError> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| {
        RunnerError::Kernel {
            what: "protect the runner's memory",
            source: error.into(),
        }
    })
}

const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;

fn make_folders(paths: &Paths) -> Result<(), RunnerError> {
    let folders = [
        paths.bundle(),
        paths.artifacts(),
        paths.state_copies(),
        paths.plan(),
        paths.home(),
        paths.job.join("tmp"),
        paths.work.clone(),
        paths.backend_workspaces(),
    ];
    for path in folders {
        fs::create_dir_all(&path).map_err(|source| RunnerError::Folder { path, source })?;
    }
    Ok(())
}

fn listen(path: &Path) -> Result<UnixListener, RunnerError> {
    let failed = |source| RunnerError::Listen {
        path: path.to_owned(),
        source,
    };
    // Left by a runner before, whose job volume this was.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
