//! Queries over a replication session on the unix socket. It opens no database, so it is ready in a few milliseconds,
//! and it is the only way to learn which timeline a standby without a WAL receiver replayed last. (The control file
//! lags behind: it has the timeline of the last restartpoint.)

use std::io;
use std::path::Path;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{backend, frontend};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// The timeline of the last replayed record.
pub async fn replayed_timeline(socket: &Path, user: &str) -> io::Result<u32> {
    // Columns: systemid, timeline, xlogpos, dbname.
    let columns = ask(UnixStream::connect(socket).await?, user, "IDENTIFY_SYSTEM").await?;
    columns.get(1).ok_or(io::ErrorKind::InvalidData)?.parse().map_err(io::Error::other)
}

/// A setting as the postmaster has it now: a new session inherits it.
pub async fn setting(socket: &Path, user: &str, name: &str) -> io::Result<String> {
    let columns = ask(UnixStream::connect(socket).await?, user, &format!("SHOW {name}")).await?;
    Ok(columns.into_iter().next().ok_or(io::ErrorKind::InvalidData)?)
}

/// The first row of the result.
pub async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    user: &str,
    question: &str,
) -> io::Result<Vec<String>> {
    let mut out = BytesMut::new();
    frontend::startup_message([("user", user), ("replication", "true")], &mut out)?;
    frontend::query(question, &mut out)?;
    frontend::terminate(&mut out);
    stream.write_all(&out).await?;
    let mut input = BytesMut::with_capacity(1024);
    loop {
        while let Some(message) = backend::Message::parse(&mut input)? {
            match message {
                backend::Message::DataRow(row) => return columns(&row),
                backend::Message::ErrorResponse(error) => return Err(io::Error::other(words(&error)?)),
                _ => {}
            }
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn columns(row: &backend::DataRowBody) -> io::Result<Vec<String>> {
    let text = |range: Option<std::ops::Range<usize>>| {
        let bytes = range.and_then(|range| row.buffer().get(range)).unwrap_or_default();
        Ok(String::from_utf8_lossy(bytes).into_owned())
    };
    row.ranges().map(text).collect()
}

fn words(error: &backend::ErrorResponseBody) -> io::Result<String> {
    let message = error.fields().find(|field| Ok(field.type_() == b'M'))?;
    Ok(message.map_or_else(String::new, |field| String::from_utf8_lossy(field.value_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_column_by_column() {
        let mut body = BytesMut::new();
        body.extend_from_slice(&4u16.to_be_bytes());
        for column in ["7412", "3", "0/5000148"] {
            body.extend_from_slice(&u32::try_from(column.len()).unwrap_or_default().to_be_bytes());
            body.extend_from_slice(column.as_bytes());
        }
        body.extend_from_slice(&(-1i32).to_be_bytes());
        let mut message = BytesMut::from(&b"D"[..]);
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or_default().to_be_bytes());
        message.extend_from_slice(&body);
        let Ok(Some(backend::Message::DataRow(row))) = backend::Message::parse(&mut message) else {
            panic!("a data row");
        };
        assert!(message.is_empty());
        assert_eq!(columns(&row).ok(), Some(["7412", "3", "0/5000148", ""].map(String::from).to_vec()));
    }
}
