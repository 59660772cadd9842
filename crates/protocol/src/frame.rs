//! Frames on the stream between agent and runner.
//!
//! A frame is a JSON header and a body of raw bytes: `u32` header length, `u32` body length (both big-endian), header,
//! body. Encoding and decoding do no IO, so the runner's blocking sockets and the agent's asynchronous stream share
//! them.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest header in bytes. A job's description with all its variables fits.
pub const MAX_HEADER: u32 = 16 << 20;

/// Longest body in bytes. States are the largest thing that travels whole.
pub const MAX_BODY: u32 = 512 << 20;

/// Body size that senders of long streams use.
pub const CHUNK: usize = 128 << 10;

/// The stream does not carry frames (any more); it has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A length above the limits.
    #[error("a frame announces a header of {header} bytes and a body of {body} bytes, more than is allowed")]
    TooLarge {
        /// Announced header length.
        header: u32,
        /// Announced body length.
        body: u32,
    },
    /// The header is no message that this side knows.
    #[error("a frame's header cannot be read")]
    Header(#[source] serde_json::Error),
}

/// Puts a message and its body into bytes for the stream.
///
/// # Errors
/// [`FrameError::Header`] when the message cannot be serialized, [`FrameError::TooLarge`] when it is above the limits.
pub fn encode<M: Serialize>(message: &M, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let header = serde_json::to_vec(message).map_err(FrameError::Header)?;
    let header_length = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let body_length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    check(header_length, body_length)?;
    let mut bytes = Vec::with_capacity(8 + header.len() + body.len());
    bytes.extend_from_slice(&header_length.to_be_bytes());
    bytes.extend_from_slice(&body_length.to_be_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(body);
    Ok(bytes)
}

fn check(header: u32, body: u32) -> Result<(), FrameError> {
    if header > MAX_HEADER || body > MAX_BODY {
        return Err(FrameError::TooLarge { header, body });
    }
    Ok(())
}

/// Takes frames out of the bytes of a stream, however they are cut.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were handed out already.
    consumed: usize,
}

impl Decoder {
    /// An empty decoder, for a new stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they came from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes are no frame; the stream is of no use after that.
    #[expect(
        clippy::should_implement_trait,
        reason = "generic over the message, so it cannot be an iterator"
    )]
    pub fn next<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Vec<u8>)>, FrameError> {
        let pending = &self.buffer[self.consumed..];
        let Some((lengths, rest)) = pending.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let [h0, h1, h2, h3, b0, b1, b2, b3] = *lengths;
        let header_length = u32::from_be_bytes([h0, h1, h2, h3]);
        let body_length = u32::from_be_bytes([b0, b1, b2, b3]);
        check(header_length, body_length)?;
        let (header_length, body_length) = (header_length as usize, body_length as usize);
        let Some(header) = rest.get(..header_length) else {
            return Ok(None);
        };
        let Some(body) = rest.get(header_length..header_length + body_length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(header).map_err(FrameError::Header)?;
        let body = body.to_vec();
        self.consumed += 8 + header_length + body_length;
        if self.consumed == self.buffer.len() {
            self.buffer = Vec::new();
            self.consumed = 0;
        }
        Ok(Some((message, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let mut stream = encode(&"first", b"body").unwrap();
        stream.extend(encode(&"second", b"").unwrap());
        for cut in 1..stream.len() {
            let mut decoder = Decoder::new();
            let mut frames: Vec<(String, Vec<u8>)> = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(
                frames,
                [
                    ("first".to_owned(), b"body".to_vec()),
                    ("second".to_owned(), Vec::new())
                ]
            );
        }
    }

    #[test]
    fn a_frame_above_the_limits_is_refused_before_it_is_buffered() {
        let mut decoder = Decoder::new();
        decoder.push(&[0xff; 8]);
        assert!(matches!(
            decoder.next::<String>(),
            Err(FrameError::TooLarge { .. })
        ));
    }
}
