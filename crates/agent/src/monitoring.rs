//! `/healthz` and `/metrics` on a loopback address, for load balancers, container engines and Prometheus on this host.
//!
//! Two GETs without a body need no HTTP library of their own. Nothing here is secret, but nobody is asked who they are
//! either: addresses that other hosts reach are refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use terrapool_protocol::job::Phase;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::control::{Question, Request, Status};

/// Connections at once; further ones wait.
const CONNECTIONS: usize = 8;
/// Longest head of a request, in bytes.
const LONGEST: usize = 8 << 10;
/// Whoever is slower is cut off; an agent whose loop does not answer in this time hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// A sync is held for less than a minute. Without an answer for this long the agent is cut off.
const CUT_OFF_MS: u64 = 90_000;

/// Answers on `address` from now on. The running agent is asked through `questions`.
///
/// # Errors
/// When the address cannot be used.
pub async fn listen(address: SocketAddr, questions: mpsc::Sender<Question>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            // Without descriptors accepting fails at once, again and again.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let questions = questions.clone();
            tokio::spawn(async move {
                let _ = tokio::time::timeout(2 * PATIENCE, answer(stream, questions)).await;
                drop(permit);
            });
        }
    });
    Ok(bound)
}

async fn answer(mut stream: TcpStream, questions: mpsc::Sender<Question>) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let asked = ask(questions);
    let (code, kind, body) = match target(&head) {
        Some("/healthz") => match asked.await.map(|status| troubles(&status)) {
            Some(troubles) if troubles.is_empty() => ("200 OK", TEXT, "ok\n".to_owned()),
            Some(troubles) => (UNAVAILABLE, TEXT, troubles.join("\n") + "\n"),
            None => (UNAVAILABLE, TEXT, "the agent starts, or hangs\n".to_owned()),
        },
        Some("/metrics") => match asked.await {
            Some(status) => ("200 OK", METRICS, metrics(&status)),
            None => (UNAVAILABLE, TEXT, "the agent starts, or hangs\n".to_owned()),
        },
        Some(_) => (
            "404 Not Found",
            TEXT,
            "there are /healthz and /metrics\n".to_owned(),
        ),
        None => (
            "405 Method Not Allowed",
            TEXT,
            "only GET is answered\n".to_owned(),
        ),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {code}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

const UNAVAILABLE: &str = "503 Service Unavailable";
const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 1024];
        let count = stream.read(&mut piece).await?;
        if count == 0 || head.len() > LONGEST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        head.extend_from_slice(&piece[..count]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The path of a GET.
fn target(head: &str) -> Option<&str> {
    let rest = head.strip_prefix("GET ")?;
    let target = rest.split_whitespace().next()?;
    target.split('?').next()
}

async fn ask(questions: mpsc::Sender<Question>) -> Option<Status> {
    let (reply, status) = oneshot::channel();
    let asked = async {
        questions.send((Request::Status, reply)).await.ok()?;
        status.await.ok()
    };
    tokio::time::timeout(PATIENCE, asked).await.ok()?
}

/// What keeps the agent from taking jobs, other than that somebody wants it so.
pub fn troubles(status: &Status) -> Vec<String> {
    let mut troubles = Vec::new();
    let silent = status.last_contact_ms.is_none_or(|ms| ms > CUT_OFF_MS);
    if silent {
        let why = status.trouble.as_deref().unwrap_or("not registered yet");
        troubles.push(format!("the control plane {} does not answer: {why}", status.url));
    }
    if !status.engine_answers {
        troubles.push("the container engine does not answer".to_owned());
    }
    troubles
}

/// A status as Prometheus reads it. Sizes are in bytes and times in seconds, as is usual there.
pub fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(&str, f64)]| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (labels, value) in values {
            text.push_str(&format!("{name}{labels} {value}\n"));
        }
    };
    let info = format!(
        "{{version=\"{}\",name=\"{}\",pool=\"{}\"}}",
        label(&status.version),
        label(&status.name),
        label(status.pool.as_deref().unwrap_or_default())
    );
    let flag = |is: bool| f64::from(u8::from(is));
    let mebibytes = |mb: u64| count(mb) * 1_048_576.0;
    let gauge = "gauge";
    family(
        "terrapool_agent_info",
        gauge,
        "Which agent this is.",
        &[(&info, 1.0)],
    );
    family(
        "terrapool_agent_healthy",
        gauge,
        "Whether the control plane and the container engine answer.",
        &[("", flag(troubles(status).is_empty()))],
    );
    family(
        "terrapool_agent_container_engine_up",
        gauge,
        "Whether the container engine answers.",
        &[("", flag(status.engine_answers))],
    );
    if let Some(ms) = status.last_contact_ms {
        family(
            "terrapool_agent_last_contact_seconds",
            gauge,
            "Time since the control plane answered last.",
            &[("", count(ms) / 1000.0)],
        );
    }
    family(
        "terrapool_agent_draining",
        gauge,
        "Whether no new jobs are taken because somebody wants it so.",
        &[("", flag(status.draining.is_some()))],
    );
    family(
        "terrapool_agent_slots",
        gauge,
        "Jobs at once that fit, those that are held included.",
        &[("", f64::from(status.capacity.slots))],
    );
    family(
        "terrapool_agent_free_slots",
        gauge,
        "Jobs that could be taken now.",
        &[("", f64::from(status.capacity.free_slots))],
    );
    family(
        "terrapool_agent_memory_bytes",
        gauge,
        "Memory for jobs, that of held ones included.",
        &[("", mebibytes(status.capacity.memory_mb))],
    );
    family(
        "terrapool_agent_free_memory_bytes",
        gauge,
        "Memory for jobs that could be taken now.",
        &[("", mebibytes(status.capacity.free_memory_mb))],
    );
    let jobs = |phase: Phase| status.jobs.iter().filter(|job| job.phase == phase).count();
    family(
        "terrapool_agent_jobs",
        gauge,
        "Jobs that are held.",
        &[
            ("{phase=\"plan\"}", count(jobs(Phase::Plan) as u64)),
            ("{phase=\"apply\"}", count(jobs(Phase::Apply) as u64)),
        ],
    );
    family(
        "terrapool_agent_offers_total",
        "counter",
        "Jobs that were offered and that this process tried to take.",
        &[("", count(status.counters.offers))],
    );
    family(
        "terrapool_agent_failed_calls_total",
        "counter",
        "Registrations and syncs that were not answered as they should be.",
        &[("", count(status.counters.failed_calls))],
    );
    if let Some(seconds) = status.clock_ahead_seconds {
        family(
            "terrapool_agent_clock_ahead_seconds",
            gauge,
            "By how much this host's clock is ahead of the control plane's.",
            &[("", seconds as f64)],
        );
    }
    if let Some(bytes) = resident() {
        family(
            "process_resident_memory_bytes",
            gauge,
            "Resident memory of the agent itself.",
            &[("", count(bytes))],
        );
    }
    text
}

/// Counts and sizes of one host are far below 2^53.
fn count(number: u64) -> f64 {
    number as f64
}

fn label(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Resident memory of this process, in bytes.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::status;

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_and_metrics_come_from_the_running_agent() {
        let (questions, mut inbox) = mpsc::channel::<Question>(4);
        tokio::spawn(async move {
            let connected = Status {
                last_contact_ms: Some(1500),
                ..status()
            };
            let mut answers = [connected, status()].into_iter().cycle();
            while let Some((_, reply)) = inbox.recv().await {
                reply.send(answers.next().unwrap()).unwrap();
            }
        });
        let address = listen("127.0.0.1:0".parse().unwrap(), questions).await.unwrap();
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        let answer = get(address, "/healthz?verbose").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("not registered yet"), "{answer}");
        let answer = get(address, "/metrics").await;
        assert!(
            answer.contains("\nterrapool_agent_last_contact_seconds 1.5\n"),
            "{answer}"
        );
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404 "));
    }

    #[test]
    fn every_metric_is_explained_and_labels_cannot_break_out() {
        let odd = Status {
            name: "a\"b\\c\nd".to_owned(),
            ..status()
        };
        let text = metrics(&odd);
        assert!(text.contains("name=\"a\\\"b\\\\c\\nd\""), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn an_agent_is_healthy_while_both_control_plane_and_engine_answer() {
        let well = Status {
            last_contact_ms: Some(0),
            ..status()
        };
        assert!(troubles(&well).is_empty());
        let silent = Status {
            last_contact_ms: Some(CUT_OFF_MS + 1),
            trouble: Some("connection refused".to_owned()),
            ..status()
        };
        assert_eq!(
            troubles(&silent),
            ["the control plane https://localhost:1 does not answer: connection refused"]
        );
        let engineless = Status {
            engine_answers: false,
            ..well
        };
        assert_eq!(troubles(&engineless), ["the container engine does not answer"]);
    }
}
