//! IDENTIFY_SYSTEM over the unix socket: the one place where a standby without a WAL receiver says which timeline it
//! replayed last. (Its control file lags behind; EXP-6 of the studied facts.)

use std::io;
use std::path::Path;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{backend, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::api::lsn::Lsn;

/// The timeline of the last replayed record, and the position after it.
pub async fn replayed(socket: &Path, user: &str) -> io::Result<(u32, Lsn)> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut out = BytesMut::new();
    frontend::startup_message([("user", user), ("replication", "true")], &mut out)?;
    frontend::query("IDENTIFY_SYSTEM", &mut out)?;
    frontend::terminate(&mut out);
    stream.write_all(&out).await?;
    let mut input = BytesMut::with_capacity(1024);
    loop {
        while let Some(message) = backend::Message::parse(&mut input)? {
            match message {
                backend::Message::DataRow(row) => return answer(&row),
                backend::Message::ErrorResponse(error) => return Err(io::Error::other(words(&error)?)),
                _ => {}
            }
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Columns: systemid, timeline, xlogpos, dbname.
fn answer(row: &backend::DataRowBody) -> io::Result<(u32, Lsn)> {
    let mut columns = row.ranges();
    let mut text = || -> io::Result<String> {
        let range = columns.next()?.flatten().ok_or(io::ErrorKind::InvalidData)?;
        Ok(String::from_utf8_lossy(row.buffer().get(range).unwrap_or_default()).into_owned())
    };
    let (_, timeline, position) = (text()?, text()?, text()?);
    let timeline = timeline.parse().map_err(io::Error::other)?;
    Ok((timeline, position.parse().map_err(io::Error::other)?))
}

fn words(error: &backend::ErrorResponseBody) -> io::Result<String> {
    let message = error.fields().find(|field| Ok(field.type_() == b'M'))?;
    Ok(message.map_or_else(String::new, |field| String::from_utf8_lossy(field.value_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_read_from_a_data_row() {
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
        assert_eq!(answer(&row).ok(), Some((3, Lsn(0x500_0148))));
    }
}
