//! The control plane as configurations reach it from inside: a listener on loopback.
//!
//! The CLI configuration's `host` block leads here. Each connection carries one request, which goes to the agent over
//! the stream that it holds with the runner, and whose answer comes back the same way: the sandbox needs neither network
//! nor credential. What may be asked is decided by the agent and by the control plane.
//!
//! Whoever asks may be hostile: nothing here waits for a client while it holds anything that the agent's stream needs.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use terrapool_protocol::relay::MOST_OPEN;
use terrapool_protocol::runner::FromRunner;

use crate::http::{self, Refusal, Request};
use crate::shared::Shared;

/// How long a client may take to send its request, or to take a piece of the answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer is waited for. An agent that was restarted is back by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// Connections that are served at once, those included whose request has not come yet.
const MOST_CONNECTIONS: usize = 64;

/// What comes back for a request.
enum Answer {
    Head {
        status: u16,
        headers: Vec<(String, String)>,
        length: Option<u64>,
    },
    Part {
        bytes: Vec<u8>,
        last: bool,
    },
}

/// A request that is open.
struct Open {
    answers: Sender<Answer>,
    /// To be sent again on a new connection: nothing of the answer has come, and repeating it is harmless.
    again: Option<(FromRunner, Vec<u8>)>,
}

#[derive(Default)]
struct Requests {
    last: u64,
    open: BTreeMap<u64, Open>,
    outgoing: VecDeque<(FromRunner, Vec<u8>)>,
}

/// The requests of a sandbox.
#[derive(Default)]
pub struct Relay {
    requests: Mutex<Requests>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Relay").finish_non_exhaustive()
    }
}

impl Relay {
    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message to the agent.
    pub fn next(&self) -> Option<(FromRunner, Vec<u8>)> {
        self.requests().outgoing.pop_front()
    }

    /// The agent has connected anew: what it had begun to answer is lost, what it had not is asked again.
    pub fn reconnected(&self) {
        let mut requests = self.requests();
        requests.outgoing.clear();
        requests.open.retain(|_, open| open.again.is_some());
        let again: Vec<_> = requests
            .open
            .values()
            .filter_map(|open| open.again.clone())
            .collect();
        requests.outgoing.extend(again);
    }

    /// The agent answers.
    pub fn head(&self, request: u64, status: u16, headers: Vec<(String, String)>, length: Option<u64>) {
        if let Some(open) = self.requests().open.get_mut(&request) {
            open.again = None;
            // Whoever asked may be gone; its end is told by the thread that serves it.
            let _ = open.answers.send(Answer::Head {
                status,
                headers,
                length,
            });
        }
    }

    /// A piece of an answer.
    pub fn part(&self, request: u64, bytes: Vec<u8>, last: bool) {
        if let Some(open) = self.requests().open.get(&request) {
            let _ = open.answers.send(Answer::Part { bytes, last });
        }
    }

    /// Puts a request on its way. `None` when too many are open.
    fn begin(&self, asked: Request) -> Option<(u64, Receiver<Answer>)> {
        let mut requests = self.requests();
        if requests.open.len() >= MOST_OPEN {
            return None;
        }
        requests.last += 1;
        let request = requests.last;
        let harmless = matches!(asked.method.as_str(), "GET" | "HEAD");
        let message = FromRunner::Request {
            request,
            method: asked.method,
            path: asked.path,
            headers: asked.headers,
            credential: asked.credential,
        };
        let (answers, inbox) = channel();
        let again = harmless.then(|| (message.clone(), asked.body.clone()));
        requests.open.insert(request, Open { answers, again });
        requests.outgoing.push_back((message, asked.body));
        Some((request, inbox))
    }

    fn tell(&self, message: FromRunner) {
        self.requests().outgoing.push_back((message, Vec::new()));
    }

    fn end(&self, request: u64) {
        let mut requests = self.requests();
        if requests.open.remove(&request).is_some() {
            requests
                .outgoing
                .push_back((FromRunner::Close { request }, Vec::new()));
        }
    }
}

/// Listens, and returns the port.
///
/// # Errors
/// When there is no loopback address to listen on.
pub fn start(shared: &Arc<Shared>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let shared = Arc::clone(shared);
    let served = Arc::new(());
    thread::Builder::new().spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                // Out of descriptors, most likely; it passes.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if Arc::strong_count(&served) > MOST_CONNECTIONS {
                continue;
            }
            let (shared, served) = (Arc::clone(&shared), Arc::clone(&served));
            // Without a thread the connection is closed, which its client sees.
            let _ = thread::Builder::new().spawn(move || {
                let _ = serve(&shared, &stream);
                let _ = stream.shutdown(Shutdown::Both);
                drop(served);
            });
        }
    })?;
    Ok(port)
}

fn serve(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
    let asked = match http::read(&mut BufReader::new(stream))? {
        Ok(asked) => asked,
        Err(refusal) => return http::refuse(stream, refusal),
    };
    let without_body = asked.method == "HEAD";
    let Some((request, answers)) = shared.relay.begin(asked) else {
        return http::refuse(stream, Refusal::TooMany);
    };
    shared.outgoing();
    let result = answer(shared, stream, request, &answers, without_body);
    shared.relay.end(request);
    shared.outgoing();
    result
}

/// Hands an answer on. Its body ends with the connection, and by its length.
fn answer(
    shared: &Shared,
    mut stream: &TcpStream,
    request: u64,
    answers: &Receiver<Answer>,
    without_body: bool,
) -> io::Result<()> {
    let Ok(Answer::Head {
        status,
        headers,
        length,
    }) = answers.recv_timeout(PATIENCE)
    else {
        return http::refuse(stream, Refusal::NoAnswer);
    };
    http::write_head(stream, status, &headers, length)?;
    if without_body {
        return Ok(());
    }
    loop {
        // A body that breaks off ends the connection early, and its length tells.
        let Ok(Answer::Part { bytes, last }) = answers.recv_timeout(PATIENCE) else {
            return Ok(());
        };
        stream.write_all(&bytes)?;
        if last {
            return Ok(());
        }
        shared.relay.tell(FromRunner::More { request });
        shared.outgoing();
    }
}
