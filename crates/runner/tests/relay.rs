//! What a sandbox asks the control plane for, and how the answers come back.

#![allow(clippy::unwrap_used)]

mod common;

use common::scripted_plan;
use terrapool_protocol::job::Outcome;
use terrapool_protocol::relay::MOST_OPEN;
use terrapool_protocol::runner::ToRunner;

/// Asks for something in the name of the run, as a configuration's processes can.
const ASK: &str = r#"RELAY=$(sed -n 's,.*"tfe.v2" = "http://\(127.0.0.1:[0-9]*\)/.*,\1,p' $TF_CLI_CONFIG_FILE)
ask() { python3 - $RELAY "$1" <<'P'
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], timeout=100)
connection.request("GET", sys.argv[2])
answer = connection.getresponse()
print("answer", answer.status, answer.getheader("content-type"), answer.read().decode())
P
}
"#;

#[test]
fn a_request_that_was_not_answered_is_asked_again_on_the_next_connection() {
    let (sandbox, job) = scripted_plan(&format!("{ASK}ask '/api/v2/ping?a=b'; exit 0\n"));
    let mut first = sandbox.begin(&job);
    assert!(first.until(|agent| !agent.requests.is_empty()));
    let mut agent = sandbox.connect(0);
    assert!(agent.until(|agent| !agent.requests.is_empty()));
    let (request, path) = agent.requests[0].clone();
    assert_eq!(
        (request, path.as_str()),
        (first.requests[0].0, "/api/v2/ping?a=b")
    );
    agent.send(&ToRunner::Answer {
        request,
        status: 203,
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        length: Some(10),
    });
    agent.send_body(&ToRunner::AnswerPart { request, last: false }, b"first");
    assert!(agent.until(|agent| agent.more == [request]));
    agent.send_body(&ToRunner::AnswerPart { request, last: true }, b" last");
    let ended = agent.finish();
    assert_eq!(ended.outcome, Outcome::Succeeded { changes: false });
    assert!(
        agent.text().contains("answer 203 text/plain first last"),
        "{}",
        agent.text()
    );
    assert_eq!(agent.closed, [request]);
}

#[test]
fn who_asks_for_too_much_at_once_is_told_so_and_disturbs_nobody() {
    let (sandbox, job) = scripted_plan(&format!(
        "{ASK}for i in $(seq {MOST_OPEN}); do ask /api/v2/ping & done; while [ ! -e go ]; do sleep 0.05; done; ask /api/v2/ping; exit 0\n"
    ));
    let mut agent = sandbox.begin(&job);
    assert!(agent.until(|agent| agent.requests.len() == MOST_OPEN));
    std::fs::write(sandbox.paths.configuration().join("go"), "").unwrap();
    assert_eq!(agent.finish().outcome, Outcome::Succeeded { changes: false });
    assert!(agent.text().contains("answer 429"), "{}", agent.text());
}
