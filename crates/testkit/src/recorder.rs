//! What really happened, told by the steps of the configurations themselves to somebody who is never killed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

/// One line, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An apply began.
    Start {
        /// Its run.
        run: String,
    },
    /// A resource was made.
    Made {
        /// The run that made it.
        run: String,
        /// Its index in the workspace.
        index: u64,
    },
}

fn parse(line: &str) -> Option<Told> {
    let mut words = line.split_whitespace();
    let (kind, run) = (words.next()?, words.next()?.to_owned());
    match kind {
        "START" => Some(Told::Start { run }),
        "MADE" => Some(Told::Made {
            run,
            index: words.next()?.parse().ok()?,
        }),
        _ => None,
    }
}

/// Keeps everything that it is told, in order.
#[derive(Debug, Clone)]
pub struct Recorder {
    told: Arc<Mutex<Vec<Told>>>,
    /// Where it listens.
    pub address: String,
}

impl Recorder {
    /// Listens on an address; the answer to a line is `ok`, once it is kept.
    pub async fn listen(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0))
            .await
            .expect("the recorder listens");
        let address = listener
            .local_addr()
            .expect("a listener has an address")
            .to_string();
        let told = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&told);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let (input, mut output) = stream.split();
                    let mut line = String::new();
                    if BufReader::new(input).read_line(&mut line).await.is_ok()
                        && let Some(told) = parse(&line)
                    {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                        let _ = output.write_all(b"ok\n").await;
                    }
                });
            }
        });
        Self { told, address }
    }

    /// Everything so far.
    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a step's bash does to tell the recorder at an address something, and the log that it has.
pub fn tell(address: &str, words: &str) -> String {
    let (host, port) = address.split_once(':').unwrap_or_default();
    format!("exec 3<>/dev/tcp/{host}/{port} && echo {words} >&3 && read -r answer <&3 && echo told {words}")
}

/// Indexes of the resources called `step` in a state document.
pub fn steps_in(state: &Value) -> BTreeSet<u64> {
    state["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|resource| resource["name"] == json!("step"))
        .flat_map(|resource| resource["instances"].as_array().cloned().unwrap_or_default())
        .filter_map(|instance| instance["index_key"].as_u64())
        .collect()
}
