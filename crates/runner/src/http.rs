//! As much HTTP/1.1 as the clients of the relay speak: one request a connection.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;

use terrapool_protocol::relay::{LARGEST_BODY, PLACEHOLDER, REQUEST_HEADERS};
use terrapool_protocol::secret::Secret;

/// Longest head of a request in bytes.
const LONGEST_HEAD: u64 = 64 << 10;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The bearer token, unless it is the placeholder.
    pub(crate) credential: Option<Secret>,
    pub(crate) body: Vec<u8>,
}

/// Why a request is not handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no request.
    Malformed,
    /// Its body has no length.
    NoLength,
    /// Its body is too large.
    TooLarge,
    /// Too many are open.
    TooMany,
    /// Nobody answers.
    NoAnswer,
}

impl Refusal {
    fn status(self) -> (u16, &'static str) {
        match self {
            Self::Malformed => (400, "the request cannot be read"),
            Self::NoLength => (411, "the request has a body without Content-Length"),
            Self::TooLarge => (413, "the request's body is too large"),
            Self::TooMany => (
                429,
                "too many requests of this run are open: try again when one has ended",
            ),
            Self::NoAnswer => (
                504,
                "the agent of this run, or the control plane, does not answer",
            ),
        }
    }
}

/// Reads a request.
pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Result<Request, Refusal>> {
    let mut head = stream.take(LONGEST_HEAD);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) =
        (words.next(), words.next(), words.next())
    else {
        return Ok(Err(Refusal::Malformed));
    };
    let well_formed = path.starts_with('/') && method.bytes().all(|byte| byte.is_ascii_uppercase());
    if !well_formed {
        return Ok(Err(Refusal::Malformed));
    }
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        credential: None,
        body: Vec::new(),
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(Err(Refusal::Malformed));
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Ok(Err(Refusal::Malformed));
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "authorization" => {
                let token = value.split_once(' ').map_or(value, |(_, token)| token.trim());
                request.credential = (token != PLACEHOLDER).then(|| Secret::new(token));
            }
            "content-length" => match value.parse::<u32>() {
                Ok(number) => length = number,
                Err(_) => return Ok(Err(Refusal::Malformed)),
            },
            "transfer-encoding" => return Ok(Err(Refusal::NoLength)),
            name if REQUEST_HEADERS.contains(&name) => {
                request.headers.push((name.to_owned(), value.to_owned()));
            }
            _ => {}
        }
    }
    if length > LARGEST_BODY {
        return Ok(Err(Refusal::TooLarge));
    }
    stream.take(u64::from(length)).read_to_end(&mut request.body)?;
    if request.body.len() as u64 != u64::from(length) {
        return Ok(Err(Refusal::Malformed));
    }
    Ok(Ok(request))
}

/// Writes the head of an answer.
pub(crate) fn write_head(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(String, String)],
    length: Option<u64>,
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} .\r\nconnection: close\r\n");
    for (name, value) in headers {
        if !format!("{name}{value}").contains(['\r', '\n']) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if let Some(length) = length {
        head.push_str(&format!("content-length: {length}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())
}

/// Answers that a request is not handed on.
pub(crate) fn refuse(mut stream: &TcpStream, refusal: Refusal) -> io::Result<()> {
    let (status, detail) = refusal.status();
    let body = serde_json::json!({"errors": [{"status": status.to_string(), "title": "not handed on", "detail": detail}]});
    let body = body.to_string();
    let headers = [("content-type".to_owned(), "application/vnd.api+json".to_owned())];
    write_head(stream, status, &headers, Some(body.len() as u64))?;
    stream.write_all(body.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, Refusal> {
        read(&mut io::BufReader::new(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_request_is_read_with_the_headers_that_matter() {
        let text = "POST /api/v2/x?y=1 HTTP/1.1\r\nHost: localhost\r\nUser-Agent: go-tfe\r\nAuthorization: Bearer own\r\n\
                    Content-Length: 4\r\n\r\nbodyrest";
        let request = parse(text).unwrap();
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "/api/v2/x?y=1")
        );
        assert_eq!(request.headers, [("user-agent".to_owned(), "go-tfe".to_owned())]);
        assert_eq!(request.credential, Some(Secret::new("own")));
        assert_eq!(request.body, b"body");
        let text = format!("GET /api/v2/ping HTTP/1.1\r\nAuthorization: Bearer {PLACEHOLDER}\r\n\r\n");
        assert_eq!(parse(&text).unwrap().credential, None);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (text, refusal) in [
            ("", Refusal::Malformed),
            ("GET\r\n\r\n", Refusal::Malformed),
            ("GET http://x/ HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nx\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nx", Refusal::Malformed),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Refusal::NoLength,
            ),
            (
                "PUT / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
                Refusal::TooLarge,
            ),
        ] {
            assert_eq!(parse(text), Err(refusal), "{text}");
        }
        let endless = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(20_000));
        assert_eq!(parse(&endless), Err(Refusal::Malformed));
    }
}
