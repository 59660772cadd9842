//! Frames on a blocking stream.
//!
//! [`terrapool_protocol::frame`] holds whole frames in memory; here bodies pass through, so that a bundle or a state of
//! any size costs one buffer.

use std::fs::File;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use terrapool_protocol::frame::{self, MAX_BODY};

/// Reads a frame's header. Its body of the returned size has to be read from the stream next.
///
/// # Errors
/// Of the stream, at its end too; [`io::ErrorKind::InvalidData`] when it carries no frame or a header above `longest`.
pub fn read_header<M: DeserializeOwned>(stream: &mut impl Read, longest: u32) -> io::Result<(M, u32)> {
    let mut lengths = [0; 8];
    stream.read_exact(&mut lengths)?;
    let [h0, h1, h2, h3, b0, b1, b2, b3] = lengths;
    let header = u32::from_be_bytes([h0, h1, h2, h3]);
    let body = u32::from_be_bytes([b0, b1, b2, b3]);
    if header > longest || body > MAX_BODY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            frame::FrameError::TooLarge { header, body },
        ));
    }
    let mut bytes = vec![0; header as usize];
    stream.read_exact(&mut bytes)?;
    let message = serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, frame::FrameError::Header(error)))?;
    Ok((message, body))
}

/// Reads a body piece by piece.
///
/// # Errors
/// Of the stream.
pub fn read_body(stream: &mut impl Read, size: u32, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; (size as usize).min(frame::CHUNK)];
    let mut rest = size as usize;
    while rest > 0 {
        let most = rest.min(buffer.len());
        let count = match stream.read(&mut buffer[..most]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        take(&buffer[..count]);
        rest -= count;
    }
    Ok(())
}

/// Writes a frame whose body is in memory.
///
/// # Errors
/// Of the stream; [`io::ErrorKind::InvalidData`] when the message is above the limits.
pub fn write<M: serde::Serialize>(stream: &mut impl Write, message: &M, body: &[u8]) -> io::Result<()> {
    let bytes =
        frame::encode(message, body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    stream.write_all(&bytes)
}

/// Writes a frame whose body is the first `size` bytes of a file.
///
/// # Errors
/// Of the stream and the file.
pub fn write_file<M: serde::Serialize>(
    stream: &mut impl Write,
    message: &M,
    file: &mut File,
    size: u64,
) -> io::Result<()> {
    let too_large = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "a state is larger than a frame can be",
        )
    };
    let size = u32::try_from(size).map_err(|_| too_large())?;
    if size > MAX_BODY {
        return Err(too_large());
    }
    let mut head =
        frame::encode(message, b"").map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    head[4..8].copy_from_slice(&size.to_be_bytes());
    stream.write_all(&head)?;
    let copied = io::copy(&mut file.take(u64::from(size)), stream)?;
    if copied < u64::from(size) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}
