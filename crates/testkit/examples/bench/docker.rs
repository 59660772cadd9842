//! The container engine's API, as far as the other side of each comparison needs it.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// The limits of a default sandbox.
pub(crate) fn limits() -> Value {
    json!({
        "Memory": 512 << 20, "MemorySwap": 512 << 20, "NanoCpus": 1_000_000_000, "PidsLimit": 512,
        "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"], "ReadonlyRootfs": true, "IpcMode": "private",
        "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=64m,mode=1777"},
    })
}

/// A running container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Docker {
    socket: PathBuf,
}

impl Docker {
    pub(crate) fn connect() -> Self {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let socket = host.strip_prefix("unix://").unwrap_or("/var/run/docker.sock");
        Self {
            socket: socket.into(),
        }
    }

    async fn open(&self, method: &str, path: &str, body: &str, headers: &str) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket)
            .await
            .expect("the engine answers");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\n{headers}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the engine listens");
        stream
    }

    /// A call: status and body.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Vec<u8>) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let mut stream = self.open(method, path, &body, "Connection: close\r\n").await;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("the engine answers");
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .expect("an answer has a head");
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let body = &answer[end + 4..];
        let body = if head.contains("transfer-encoding: chunked") {
            unchunked(body)
        } else {
            body.to_vec()
        };
        (status, body)
    }

    /// Makes a container and returns its id.
    pub(crate) async fn create(&self, body: Value) -> String {
        let (status, answer) = self.call("POST", "/containers/create", Some(body)).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(status, 201, "{text}");
        let answer: Value = serde_json::from_str(&text).expect("the engine answers in JSON");
        answer["Id"].as_str().expect("a container has an id").to_owned()
    }

    pub(crate) async fn start(&self, id: &str) {
        let (status, answer) = self.call("POST", &format!("/containers/{id}/start"), None).await;
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&answer));
    }

    pub(crate) async fn remove(&self, id: &str) {
        self.call("DELETE", &format!("/containers/{id}?force=1&v=1"), None)
            .await;
    }

    /// What a container has written until it ended.
    pub(crate) async fn output(&self, id: &str) -> String {
        self.call("POST", &format!("/containers/{id}/wait"), None).await;
        let (_, bytes) = self
            .call("GET", &format!("/containers/{id}/logs?stdout=1&stderr=1"), None)
            .await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Running containers with a label.
    pub(crate) async fn running(&self, label: &str) -> Vec<Container> {
        let filters = format!("%7B%22label%22%3A%5B%22{label}%22%5D%2C%22status%22%3A%5B%22running%22%5D%7D");
        let (_, body) = self
            .call("GET", &format!("/containers/json?filters={filters}"), None)
            .await;
        let found: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
        found
            .iter()
            .filter_map(|container| {
                Some(Container {
                    id: container["Id"].as_str()?.to_owned(),
                    name: container["Names"][0].as_str()?.to_owned(),
                })
            })
            .collect()
    }

    /// Whether a command was executed in a container, as agents do it to reach their runner.
    pub(crate) async fn is_listened_to(&self, id: &str) -> bool {
        let (_, body) = self.call("GET", &format!("/containers/{id}/json"), None).await;
        let found: Value = serde_json::from_slice(&body).unwrap_or_default();
        found["ExecIDs"].as_array().is_some_and(|ids| !ids.is_empty())
    }

    /// Joins a container's input and outputs.
    pub(crate) async fn attach(&self, id: &str) -> Shell {
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let stream = self
            .open("POST", &path, "", "Connection: Upgrade\r\nUpgrade: tcp\r\n")
            .await;
        Shell {
            stream,
            output: Vec::new(),
        }
    }
}

/// A shell that says nothing for so long will not.
const SILENCE: Duration = Duration::from_secs(60);

/// A shell inside a container.
pub(crate) struct Shell {
    stream: UnixStream,
    output: Vec<u8>,
}

impl Shell {
    pub(crate) async fn write(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("the shell listens");
    }

    /// Reads until a text appears; what came until then is forgotten.
    pub(crate) async fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = find(&self.output, text.as_bytes()) {
                let rest = self.output.split_off(at + text.len());
                let read = std::mem::replace(&mut self.output, rest);
                return String::from_utf8_lossy(&read).into_owned();
            }
            let mut buffer = [0; 65536];
            let count = tokio::time::timeout(SILENCE, self.stream.read(&mut buffer))
                .await
                .unwrap_or_else(|_| {
                    let said = String::from_utf8_lossy(&self.output);
                    panic!("the shell says nothing any more while {text:?} is waited for: {said}")
                })
                .expect("the shell answers");
            assert!(
                count > 0,
                "the shell has ended: {}",
                String::from_utf8_lossy(&self.output)
            );
            self.output.extend_from_slice(&buffer[..count]);
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    while let Some(end) = find(body, b"\r\n") {
        let size = String::from_utf8_lossy(&body[..end]);
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let from = end + 2;
        if size == 0 || from + size > body.len() {
            break;
        }
        plain.extend_from_slice(&body[from..from + size]);
        body = &body[(from + size + 2).min(body.len())..];
    }
    plain
}
