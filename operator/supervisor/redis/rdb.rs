//! A snapshot of the local server, into the store: the server writes it as for a replica, the supervisor checks it and passes it on in
//! frames, and `rdb.json` comes last.
//!
//! It asks as `redis-cli --rdb` does, over the local socket: a client that wants nothing but the snapshot counts for neither
//! `min-replicas-to-write` nor `WAIT`, and one without an IP address is no replica to Sentinels. It does not announce that it takes
//! a snapshot from a pipe. So the server writes a file first and is done with it, however slow the store is: a snapshot through a pipe
//! holds up every other replica that waits for one, and the rewrite of the append-only file.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::api::backup_id::is_backup_id;
use crate::api::chain::chain;
use crate::api::hash::short_hash;
use crate::archive::cipher::Cipher;
use crate::archive::dumps::{SNAPSHOTS, expired};
use crate::archive::frames::{Index, Writer};
use crate::archive::rdb::{Checker, DATA_FILE, FOLDER, FRAMES_FILE, Header, INFO_FILE, RdbInfo, Wrong, rdb_key};
use crate::archive::retention::Policy;
use crate::archive::store::{self, Put, Store};
use crate::supervisor::beside::Trouble;
use crate::supervisor::pace::Pace;
use crate::supervisor::redis::wire::{ADMIN, BackupOrder, BackupState, RdbState};
use crate::supervisor::wire::Retention;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// A server that says nothing for this long, not even that it is at work, does not go on. It says so each ten seconds.
const SILENCE: Duration = Duration::from_secs(120);
/// Most bytes of a line of the server.
const LINE: u64 = 4 << 10;
/// Bytes of the mark that ends a stream of unknown length.
const MARK: usize = 40;
/// Keys that are listed, and deleted, at most.
const KEYS: usize = 100_000;

/// Inputs of a snapshot.
pub struct Rdb {
    /// The folder of the object.
    pub store: Store,
    /// What was ordered.
    pub order: BackupOrder,
    /// The name of this member.
    pub member: String,
    /// The server's socket.
    pub socket: PathBuf,
    /// The password of [`ADMIN`].
    pub password: String,
    /// Bytes of memory that the data uses, and keys in it.
    pub data: (u64, u64),
    /// The member has an append-only file.
    pub appends: bool,
    /// What is deleted afterwards; `None`: nothing.
    pub retention: Option<Retention>,
    /// The time of day.
    pub now: fn() -> Timestamp,
}

/// A snapshot failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order is unusable.
    #[error("{0:?} is not the ID of a backup")]
    Id(String),
    /// The connection to the server.
    #[error("{0}")]
    Server(&'static str, #[source] std::io::Error),
    /// The server refused, in its words.
    #[error("the server refuses: {0}")]
    Refused(String),
    /// The server said nothing any more.
    #[error("the server has said nothing for {} s", SILENCE.as_secs())]
    Silent,
    /// The end came too early.
    #[error("the server ended its connection before the snapshot was complete: its log says why")]
    Short,
    /// It is no whole snapshot.
    #[error("what the server sent is no snapshot: {0}")]
    Wrong(#[from] Wrong),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Another snapshot has this ID.
    #[error("the store has another complete snapshot {0}")]
    Taken(String),
}

/// How the server says that a snapshot ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Length {
    /// After so many bytes.
    Bytes(u64),
    /// With this mark.
    Mark([u8; MARK]),
}

impl Rdb {
    /// Takes it. `progress` gets how far it is. When the returned future is dropped, the connection and the upload end.
    pub async fn take(self, progress: &watch::Sender<BackupState>) -> Result<(), Trouble> {
        let Err(error) = self.run(progress).await else { return Ok(()) };
        if !matches!(error, Error::Taken(_) | Error::Id(_)) {
            // What remains is found by retention, if the store does not answer now.
            let _ =
                self.store.delete(&[DATA_FILE, FRAMES_FILE].map(|file| self.store.content_key(&self.key(file)))).await;
        }
        Err(Trouble { words: chain(&error), lasting: false })
    }

    fn key(&self, file: &str) -> String {
        rdb_key(&self.order.id, file)
    }

    async fn run(&self, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
        if !is_backup_id(&self.order.id) {
            return Err(Error::Id(self.order.id.clone()));
        }
        if self.store.head(&self.key(INFO_FILE)).await?.is_some() {
            return Err(Error::Taken(self.order.id.clone()));
        }
        progress.send_modify(|state| state.total = self.data.0);
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| Error::Server("connecting", error))?;
        let mut stream = BufReader::with_capacity(CHUNK, stream);
        let length = within(ask(&mut stream, &self.password)).await?;
        if let Length::Bytes(bytes) = length {
            progress.send_modify(|state| state.total = bytes);
        }
        // The memory of the container is that of the server.
        let mut writer = Writer::lean(self.store.upload_lean(&self.key(DATA_FILE), self.data.0).await?);
        let header = self.copy(stream, length, &mut writer, progress).await?;
        let index = writer.finish().await?;
        progress.send_modify(|state| {
            (state.bytes, state.stored, state.total) = (index.size, index.stored, index.size);
            state.rdb = Some(RdbState {
                backup: self.order.id.clone(),
                server: header.server.clone(),
                replid: header.replid.clone(),
                offset: header.offset,
                time: header.time,
                keys: self.data.1,
            });
        });
        let frames = index.render();
        let info = self.info(header, &index, &frames);
        self.store.put_content(&self.key(FRAMES_FILE), frames).await?;
        // Plain data always has a JSON form.
        let text = Bytes::from(serde_json::to_vec_pretty(&info).unwrap_or_default());
        match self.store.put_new(&self.key(INFO_FILE), text.clone(), &[], |found| found == text).await? {
            Put::Written | Put::Same => {}
            Put::Other => return Err(Error::Taken(self.order.id.clone())),
        }
        if let Err(error) = self.expire().await {
            tracing::warn!(problem = %chain(&error), "old snapshots are not deleted now: the next backup does it");
        }
        Ok(())
    }

    /// Moves the whole snapshot, not faster than is allowed; what it says of itself.
    async fn copy(
        &self,
        mut stream: impl AsyncRead + Unpin,
        length: Length,
        writer: &mut Writer,
        progress: &watch::Sender<BackupState>,
    ) -> Result<Header, Error> {
        let (pace, mut checker, mut chunk) = (Pace::new(self.order.max_rate), Checker::default(), vec![0; CHUNK]);
        let mut rest = Rest::new(length);
        while !rest.is_over() {
            let room = rest.room(chunk.len());
            let read = within(async {
                stream.read(&mut chunk[..room]).await.map_err(|error| Error::Server("reading", error))
            });
            let read = read.await?;
            if read == 0 {
                return Err(Error::Short);
            }
            for piece in rest.take(&chunk[..read]) {
                checker.write(&piece);
                writer.write(&piece).await?;
            }
            pace.keep(writer.progress(), progress).await;
        }
        Ok(checker.finish()?)
    }

    fn info(&self, header: Header, index: &Index, frames: &Bytes) -> RdbInfo {
        RdbInfo {
            id: self.order.id.clone(),
            member: self.member.clone(),
            header,
            keys: self.data.1,
            appends: self.appends,
            ended: (self.now)(),
            size: index.size,
            stored: index.stored,
            frames_sha256: short_hash(frames, 64),
            age_fingerprint: self.store.cipher().map(Cipher::fingerprint).map(str::to_owned),
        }
    }

    /// Deletes what is too old. Only one backup of an object runs at a time, so there is one deleter.
    async fn expire(&self) -> Result<(), store::Error> {
        let Some(retention) = self.retention else { return Ok(()) };
        let policy = Policy::new(retention.window_seconds, retention.minimum, KEYS);
        let files: Vec<String> =
            self.store.list(FOLDER, None, KEYS).await?.into_iter().map(|listed| listed.key).collect();
        for batch in expired(SNAPSHOTS, &files, &policy, (self.now)()) {
            tracing::info!(what = batch.what, keys = batch.keys.len(), "retention deletes");
            self.store.delete(&batch.keys).await?;
        }
        Ok(())
    }
}

async fn within<T>(exchange: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(SILENCE, exchange).await.map_err(|_| Error::Silent)?
}

/// Logs in and asks for a snapshot; how that will end. The server may take minutes to write it, and says a line break meanwhile.
async fn ask<S: AsyncRead + tokio::io::AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    password: &str,
) -> Result<Length, Error> {
    let words: [&[&str]; 3] = [&["AUTH", ADMIN, password], &["REPLCONF", "rdb-only", "1"], &["SYNC"]];
    for (at, words) in words.into_iter().enumerate() {
        let text: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let text = format!("*{}\r\n{text}", words.len());
        stream.write_all(text.as_bytes()).await.map_err(|error| Error::Server("asking", error))?;
        if at < 2 {
            let answer = line(stream).await?;
            if answer != "+OK" {
                return Err(Error::Refused(answer.trim_start_matches('-').to_owned()));
            }
        }
    }
    loop {
        // Each line is a sign of life.
        let answer = within(line(stream)).await?;
        match answer.strip_prefix('$') {
            None if answer.is_empty() => {}
            None => return Err(Error::Refused(answer.trim_start_matches('-').to_owned())),
            Some(rest) => return length(rest).ok_or(Error::Refused(answer)),
        }
    }
}

/// `LENGTH` or `EOF:MARK`.
fn length(text: &str) -> Option<Length> {
    match text.strip_prefix("EOF:") {
        Some(mark) => Some(Length::Mark(mark.as_bytes().try_into().ok()?)),
        None => Some(Length::Bytes(text.parse().ok()?)),
    }
}

/// One line without its end, and without characters that no line has.
async fn line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Result<String, Error> {
    let mut line = Vec::new();
    let read = stream.take(LINE).read_until(b'\n', &mut line).await.map_err(|error| Error::Server("reading", error))?;
    if read == 0 {
        return Err(Error::Short);
    }
    Ok(String::from_utf8_lossy(&line).chars().filter(|c| !c.is_control()).take(300).collect())
}

/// What is still to come of a snapshot.
#[derive(Debug)]
struct Rest {
    length: Length,
    /// Bytes that may be the mark.
    held: Vec<u8>,
    over: bool,
}

impl Rest {
    fn new(length: Length) -> Self {
        let over = length == Length::Bytes(0);
        Self { length, held: Vec::new(), over }
    }

    fn is_over(&self) -> bool {
        self.over
    }

    /// Bytes that may be read at once.
    fn room(&self, most: usize) -> usize {
        match &self.length {
            Length::Bytes(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(most),
            Length::Mark(_) => most,
        }
    }

    /// The parts of the snapshot among what was read.
    fn take(&mut self, read: &[u8]) -> Vec<Vec<u8>> {
        match &mut self.length {
            Length::Bytes(left) => {
                *left = left.saturating_sub(read.len() as u64);
                self.over = *left == 0;
                vec![read.to_vec()]
            }
            Length::Mark(mark) => {
                self.held.extend_from_slice(read);
                let sure = self.held.len().saturating_sub(MARK);
                self.over = self.held.get(sure..) == Some(mark.as_slice());
                vec![self.held.drain(..sure).collect()]
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncBufReadExt as _;

    use super::*;
    use crate::archive::access::{Store as Where, StoreAccess};

    /// A whole snapshot of an empty server without a checksum.
    const SNAPSHOT: &[u8] = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xff\0\0\0\0\0\0\0\0";

    /// A server that answers each line of a request, and then says this.
    fn server(folder: &std::path::Path, said: Vec<Vec<u8>>) -> PathBuf {
        let socket = folder.join("redis.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            for (words, answer) in [(3, b"+OK\r\n".as_slice()), (3, b"+OK\r\n"), (1, b"")] {
                for _ in 0..=2 * words {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                stream.write_all(answer).await.unwrap();
            }
            for piece in said {
                stream.write_all(&piece).await.unwrap();
                stream.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        socket
    }

    async fn take(said: Vec<Vec<u8>>) -> (Result<(), Trouble>, BackupState, Vec<String>) {
        let (folder, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let access = Where::Directory { path: path.path().to_str().unwrap().to_owned() };
        let store = Store::open(&StoreAccess { hash: String::new(), store: access, encryption: None }).unwrap();
        let order = BackupOrder { id: "20261130T030000".into(), attempt: 1, ..BackupOrder::default() };
        let rdb = Rdb {
            store: store.clone(),
            order,
            member: "cache-2".into(),
            socket: server(folder.path(), said),
            password: "p".into(),
            data: (1 << 20, 7),
            appends: true,
            retention: None,
            now: || Timestamp::UNIX_EPOCH,
        };
        let (progress, seen) = watch::channel(BackupState::default());
        let taken = rdb.take(&progress).await;
        let keys = store.list("", None, 10).await.unwrap().into_iter().map(|one| one.key).collect();
        (taken, seen.borrow().clone(), keys)
    }

    #[tokio::test]
    async fn a_snapshot_of_known_and_of_unknown_length_is_stored_whole() {
        let mark = [b'm'; MARK];
        let known = vec![b"\n\n".to_vec(), format!("${}\r\n", SNAPSHOT.len()).into_bytes(), SNAPSHOT.to_vec()];
        let begin = [b"$EOF:".as_slice(), &mark, b"\r\n"].concat();
        let (first, last) = SNAPSHOT.split_at(11);
        let unknown = vec![begin, first.to_vec(), [last, &mark[..13]].concat(), mark[13..].to_vec()];
        for said in [known, unknown] {
            let (taken, state, keys) = take(said).await;
            assert_eq!(taken, Ok(()));
            let all = [DATA_FILE, FRAMES_FILE, INFO_FILE].map(|file| rdb_key("20261130T030000", file));
            assert_eq!((keys, state.bytes), (all.into(), SNAPSHOT.len() as u64));
            let rdb = state.rdb.unwrap();
            assert_eq!((rdb.server.as_str(), rdb.keys), ("7.0.15", 7));
        }
    }

    /// Whatever a server says, a snapshot that is not whole never gets its `rdb.json`, and nothing of it is left.
    #[tokio::test]
    async fn a_snapshot_that_is_cut_off_or_refused_is_told_and_nothing_of_it_stays() {
        let length = format!("${}\r\n", SNAPSHOT.len()).into_bytes();
        let shorter = format!("${}\r\n", SNAPSHOT.len() - 4).into_bytes();
        let refused = b"-NOMASTERLINK Can't SYNC while not connected with my master\r\n".to_vec();
        let mut told = String::new();
        for said in [
            vec![length.clone(), SNAPSHOT[..20].to_vec()],
            vec![shorter, SNAPSHOT[..SNAPSHOT.len() - 4].to_vec()],
            vec![length, [b"X", &SNAPSHOT[1..]].concat()],
            vec![b"$EOF:short\r\n".to_vec()],
            vec![refused],
            vec![],
        ] {
            let (taken, _, keys) = take(said).await;
            assert_eq!(keys, Vec::<String>::new());
            told += &(taken.unwrap_err().words + "\n");
        }
        expect_test::expect![[r#"
            the server ended its connection before the snapshot was complete: its log says why
            what the server sent is no snapshot: it ends before the mark of its end: it is cut off
            what the server sent is no snapshot: it does not begin as a snapshot of Redis does
            the server refuses: $EOF:short
            the server refuses: NOMASTERLINK Can't SYNC while not connected with my master
            the server ended its connection before the snapshot was complete: its log says why
        "#]]
        .assert_eq(&told);
    }
}
