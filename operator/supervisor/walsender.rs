//! A replication session on the unix socket that takes a base backup. The server's user may not open one, so this is no work
//! for `pg_basebackup`; and only here may the backup end without waiting for the server's archiver.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{backend, frontend};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::sql::ROLE;
use crate::api::lsn::Lsn;

/// Time-out of the server's next message: its checkpoint may take minutes.
const SILENCE: Duration = Duration::from_secs(600);
/// Warnings that are kept.
const WARNINGS: usize = 32;
/// From this major version on, one stream has everything.
const ONE_STREAM: u32 = 15;

/// A session failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be opened, or was lost.
    #[error("the session with the server")]
    Io(#[from] std::io::Error),
    /// The server refused something, in its words.
    #[error("{0}")]
    Refused(String),
    /// The server sent nothing for [`SILENCE`].
    #[error("the server sent nothing for {SILENCE:?}")]
    Silent,
    /// The server answered something else than expected.
    #[error("the server's answer is not understood: {0}")]
    Answer(&'static str),
}

/// What a base backup consists of, in this order; there may be any number of `Tar` and `Manifest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// It begins here.
    Begin {
        /// Where its WAL begins.
        lsn: Lsn,
        /// On this timeline.
        timeline: u32,
        /// About its bytes.
        size: u64,
        /// Directories of tablespaces outside the data directory.
        tablespaces: Vec<String>,
    },
    /// The next bytes of the tar archive.
    Tar(Bytes),
    /// The next bytes of the manifest.
    Manifest(Bytes),
    /// It ends here.
    End {
        /// Where its WAL ends.
        lsn: Lsn,
        /// On this timeline.
        timeline: u32,
    },
}

/// How a base backup is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its label.
    pub label: &'a str,
    /// Bytes a second at most.
    pub max_rate: Option<u64>,
    /// Major version of the server.
    pub major: u32,
}

impl Request<'_> {
    /// The command. It does not wait for the server's archiver: see [`super::backup`].
    fn command(&self) -> String {
        let label = self.label.replace('\'', "''");
        // kB a second, within the server's bounds.
        let rate = self.max_rate.map(|rate| (rate / 1024).clamp(32, 1 << 20));
        if self.major < ONE_STREAM {
            let rate = rate.map(|rate| format!(" MAX_RATE {rate}")).unwrap_or_default();
            return format!(
                "BASE_BACKUP LABEL '{label}' PROGRESS FAST NOWAIT{rate} MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
            );
        }
        let rate = rate.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
        format!(
            "BASE_BACKUP (LABEL '{label}', PROGRESS, CHECKPOINT 'fast', WAIT false{rate}, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        )
    }
}

/// A session. When it is dropped, the server ends what it does for it.
pub struct Walsender<S> {
    stream: S,
    input: BytesMut,
    /// The server's warnings.
    pub warnings: Vec<String>,
}

/// The columns of a row; `None` is NULL.
type Row = Vec<Option<String>>;

impl Walsender<UnixStream> {
    /// Opens a session as the supervisor's role.
    pub async fn open(socket: &Path) -> Result<Self, Error> {
        let opened = async { Walsender::begin(UnixStream::connect(socket).await?).await };
        tokio::time::timeout(Duration::from_secs(10), opened).await.unwrap_or(Err(Error::Silent))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Walsender<S> {
    async fn begin(stream: S) -> Result<Self, Error> {
        let mut session = Self { stream, input: BytesMut::with_capacity(64 << 10), warnings: Vec::new() };
        let mut out = BytesMut::new();
        let settings = [
            ("user", ROLE),
            ("replication", "true"),
            ("application_name", "evenkeel backup"),
            ("options", "-c statement_timeout=0 -c idle_session_timeout=0 -c log_replication_commands=off"),
        ];
        frontend::startup_message(settings, &mut out)?;
        session.stream.write_all(&out).await?;
        session.rows_until_ready().await?;
        Ok(session)
    }

    async fn say(&mut self, command: &str) -> Result<(), Error> {
        let mut out = BytesMut::new();
        frontend::query(command, &mut out)?;
        Ok(self.stream.write_all(&out).await?)
    }

    /// The next message that matters.
    async fn message(&mut self) -> Result<backend::Message, Error> {
        loop {
            while let Some(message) = backend::Message::parse(&mut self.input)? {
                match message {
                    backend::Message::ErrorResponse(error) => return Err(Error::Refused(words(error.fields())?)),
                    backend::Message::NoticeResponse(notice) => {
                        if self.warnings.len() < WARNINGS {
                            self.warnings.push(words(notice.fields())?);
                        }
                    }
                    message => return Ok(message),
                }
            }
            let read = self.stream.read_buf(&mut self.input);
            if tokio::time::timeout(SILENCE, read).await.map_err(|_| Error::Silent)?? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn rows_until_ready(&mut self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        loop {
            match self.message().await? {
                backend::Message::DataRow(row) => rows.push(columns(&row)?),
                backend::Message::ReadyForQuery(_) => return Ok(rows),
                _ => {}
            }
        }
    }

    /// The columns of the first row that the server answers to this; `None` are empty.
    pub async fn ask(&mut self, command: &str) -> Result<Vec<String>, Error> {
        self.say(command).await?;
        let first = self.rows_until_ready().await?.into_iter().next().ok_or(Error::Answer("it has no row"))?;
        Ok(first.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// Begins a base backup. Its parts are given out one by one.
    pub async fn base_backup(mut self, request: &Request<'_>) -> Result<BaseBackup<S>, Error> {
        self.say(&request.command()).await?;
        let stage = Stage::Start;
        Ok(BaseBackup { session: self, one_stream: request.major >= ONE_STREAM, stage, rows: Vec::new(), streams: 0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The position where it begins comes next.
    Start,
    /// The list of tablespaces comes next.
    Tablespaces(Lsn, u32),
    /// The streams come, and then the position where it ends.
    Streams {
        /// In the one stream, the manifest has begun.
        manifest: bool,
    },
    /// Everything has come.
    Ended,
}

/// A base backup that comes in.
pub struct BaseBackup<S> {
    /// Its session.
    pub session: Walsender<S>,
    one_stream: bool,
    stage: Stage,
    rows: Vec<Row>,
    streams: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> BaseBackup<S> {
    /// The next part; `None` when the server has said that all of it was right.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        loop {
            let message = self.session.message().await?;
            match message {
                backend::Message::DataRow(row) => self.rows.push(columns(&row)?),
                backend::Message::CommandComplete(_) if !self.rows.is_empty() => {
                    if let Some(part) = self.result()? {
                        return Ok(Some(part));
                    }
                }
                backend::Message::CopyOutResponse(_) => self.streams += 1,
                backend::Message::CopyData(data) => {
                    if let Some(part) = self.data(data.into_bytes())? {
                        return Ok(Some(part));
                    }
                }
                backend::Message::ReadyForQuery(_) if self.stage == Stage::Ended => return Ok(None),
                backend::Message::ReadyForQuery(_) => return Err(Error::Answer("it ended early")),
                _ => {}
            }
        }
    }

    /// A result set is complete.
    fn result(&mut self) -> Result<Option<Part>, Error> {
        let rows = std::mem::take(&mut self.rows);
        match self.stage {
            Stage::Start => {
                let (lsn, timeline) = position(&rows)?;
                self.stage = Stage::Tablespaces(lsn, timeline);
                Ok(None)
            }
            Stage::Tablespaces(lsn, timeline) => {
                self.stage = Stage::Streams { manifest: false };
                let column = |row: &Row, at: usize| row.get(at).cloned().flatten();
                let outside = rows.iter().filter(|row| column(row, 0).is_some());
                let kilobytes = rows.iter().filter_map(|row| column(row, 2)?.parse::<u64>().ok());
                Ok(Some(Part::Begin {
                    lsn,
                    timeline,
                    size: kilobytes.fold(0_u64, u64::saturating_add).saturating_mul(1024),
                    tablespaces: outside.map(|row| column(row, 1).unwrap_or_default()).collect(),
                }))
            }
            Stage::Streams { .. } => {
                let (lsn, timeline) = position(&rows)?;
                self.stage = Stage::Ended;
                Ok(Some(Part::End { lsn, timeline }))
            }
            Stage::Ended => Ok(None),
        }
    }

    fn data(&mut self, mut data: Bytes) -> Result<Option<Part>, Error> {
        let Stage::Streams { manifest } = &mut self.stage else { return Err(Error::Answer("data comes early")) };
        if !self.one_stream {
            return match self.streams {
                1 => Ok(Some(Part::Tar(data))),
                2 => Ok(Some(Part::Manifest(data))),
                _ => Err(Error::Answer("there are more streams than one tablespace has")),
            };
        }
        if data.is_empty() {
            return Err(Error::Answer("a message is empty"));
        }
        match data.split_to(1)[0] {
            b'd' => Ok(Some(if *manifest { Part::Manifest(data) } else { Part::Tar(data) })),
            b'm' => {
                *manifest = true;
                Ok(None)
            }
            // A new archive, and progress.
            b'n' | b'p' => Ok(None),
            _ => Err(Error::Answer("a message is of no known kind")),
        }
    }
}

/// A row with a position and a timeline.
fn position(rows: &[Row]) -> Result<(Lsn, u32), Error> {
    let column = |at: usize| rows.first()?.get(at)?.as_deref();
    let read = || Some((column(0)?.parse().ok()?, column(1)?.parse().ok()?));
    read().ok_or(Error::Answer("a position is none"))
}

fn columns(row: &backend::DataRowBody) -> std::io::Result<Row> {
    let text = |range: std::ops::Range<usize>| {
        String::from_utf8_lossy(row.buffer().get(range).unwrap_or_default()).into_owned()
    };
    row.ranges().map(|range| Ok(range.map(text))).collect()
}

fn words(mut fields: backend::ErrorFields<'_>) -> std::io::Result<String> {
    let message = fields.find(|field| Ok(field.type_() == b'M'))?;
    Ok(message.map_or_else(String::new, |field| String::from_utf8_lossy(field.value_bytes()).into_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            let length = column.map_or(-1, |text| i32::try_from(text.len()).unwrap());
            body.extend(length.to_be_bytes());
            body.extend(column.unwrap_or_default().as_bytes());
        }
        [message(b'D', &body), message(b'C', b"SELECT\0")].concat()
    }

    fn stream(data: &[&[u8]]) -> Vec<u8> {
        let data: Vec<u8> = data.iter().flat_map(|data| message(b'd', data)).collect();
        [message(b'H', &[0, 0, 0]), data, message(b'c', b"")].concat()
    }

    async fn parts(major: u32, answer: &[Vec<u8>]) -> Result<Vec<Part>, Error> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        theirs.write_all(&message(b'Z', b"I")).await.unwrap();
        theirs.write_all(&answer.concat()).await.unwrap();
        let session = Walsender::begin(ours).await?;
        let mut backup = session.base_backup(&Request { label: "x", max_rate: None, major }).await?;
        drop(theirs);
        let mut parts = Vec::new();
        while let Some(part) = backup.next().await? {
            parts.push(part);
        }
        Ok(parts)
    }

    fn expected() -> Vec<Part> {
        vec![
            Part::Begin { lsn: Lsn(0x28), timeline: 2, size: 7 << 10, tablespaces: Vec::new() },
            Part::Tar(Bytes::from_static(b"tar")),
            Part::Manifest(Bytes::from_static(b"{}")),
            Part::End { lsn: Lsn(0x100), timeline: 2 },
        ]
    }

    #[tokio::test]
    async fn a_backup_of_either_protocol_comes_in_parts() {
        let begin = [row(&[Some("0/28"), Some("2")]), row(&[None, None, Some("7")])].concat();
        let end = [row(&[Some("0/100"), Some("2")]), message(b'C', b"BASE_BACKUP\0"), message(b'Z', b"I")].concat();
        let one = stream(&[b"nbase.tar\0\0", b"dtar", b"p12345678", b"m", b"d{}"]);
        assert_eq!(parts(15, &[begin.clone(), one.clone(), end.clone()]).await.unwrap(), expected());
        let two = [stream(&[b"tar"]), stream(&[b"{}"])].concat();
        assert_eq!(parts(14, &[begin.clone(), two, end]).await.unwrap(), expected());
        // Without the server's last word it is not complete.
        let error = parts(15, &[begin.clone(), one.clone()]).await.unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
        let refused = message(b'E', b"SERROR\0Mchecksum verification failure during base backup\0\0");
        let error = parts(15, &[begin, one, refused]).await.unwrap_err();
        assert_eq!(error.to_string(), "checksum verification failure during base backup");
    }

    #[test]
    fn the_command_is_of_the_servers_version_and_within_its_bounds() {
        let command = |major, max_rate| Request { label: "it's", max_rate, major }.command();
        assert_eq!(
            command(17, Some(50 << 20)),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, MAX_RATE 51200, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        );
        assert_eq!(
            command(14, Some(1)),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 32 MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert!(!command(15, None).contains("MAX_RATE"));
    }
}
