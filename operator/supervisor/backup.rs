//! A base backup of the local server, into the archive: tar, frames, index, and `backup.info` last.
//!
//! The server is asked not to wait for its archiver: on a standby it would wait for the leader to switch its WAL, and nobody
//! could see that, nor bound it. Instead the store is asked for the segments, which is the proof that counts: they may have
//! been pushed by another member. Meanwhile the phase is `WaitingForWal`, and the leader switches its WAL.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::watch;

use super::beside::Trouble;
use super::walsender::{self, Part, Request, Walsender};
use super::wire::{BackupOrder, BackupPhase, BackupSpan, BackupState};
use crate::api::chain::chain;
use crate::api::lsn::Lsn;
use crate::archive::catalog::Intent;
use crate::archive::cipher::Cipher;
use crate::archive::frames::{Index, Writer};
use crate::archive::info::{BackupInfo, INFO};
use crate::archive::names::{SEGMENT_SIZES, Segment, base_key, history_key, is_backup_id};
use crate::archive::store::{self, Kind, Put, Store};
use crate::archive::survey::{DATA_FILE, FRAMES_FILE, INFO_FILE, INTENT_FILE, first_missing};
use crate::archive::tarball::{self, Damaged, Members};

/// The manifest, which the archive has as its last member too.
const MANIFEST: &str = "backup_manifest";
/// A larger manifest, that of 400,000 files, is left out: it would have to be kept in memory.
const MANIFEST_LIMIT: usize = 64 << 20;
/// Time-out of the wait for the WAL to be in the store.
const WAL: Duration = Duration::from_secs(600);
/// Pause between two looks for it.
const LOOK: Duration = Duration::from_secs(2);
/// Looks that show later WAL and not the wanted one, after which that is given up.
const PASSED: u32 = 5;

/// Inputs of a base backup.
#[derive(Debug, Clone)]
pub struct Backup {
    /// The archive.
    pub store: Store,
    /// What was ordered.
    pub order: BackupOrder,
    /// The folder of the archive.
    pub archive: String,
    /// The name of this member.
    pub member: String,
    /// The server's unix socket.
    pub socket: PathBuf,
    /// The time of day.
    pub now: fn() -> Timestamp,
}

/// A base backup failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order is unusable.
    #[error("{0:?} is not the ID of a backup")]
    Id(String),
    /// The session with the server failed.
    #[error("reading the data directory")]
    Server(#[from] walsender::Error),
    /// The data directory is damaged.
    #[error(
        "the data directory of this member is corrupted: {0}; take the backup of another member, and replace this one"
    )]
    Corrupted(String),
    /// There are tablespaces outside the data directory.
    #[error("tablespaces outside the data directory cannot be backed up: {0}; move their tables into pg_default")]
    Tablespaces(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The server's archive is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The leader changed meanwhile.
    #[error("the timeline changed from {0} to {1} during the backup; it has to begin anew")]
    Timeline(u32, u32),
    /// The WAL that it needs did not come.
    #[error("the data is stored, but {missing} was not in the archive after {WAL:?}: {said}")]
    Wal {
        /// The file that is missing.
        missing: String,
        /// What the store said last.
        said: String,
    },
    /// The WAL that it needs will never come.
    #[error("the data is stored, but {missing} is not in the archive and later WAL is: it was never archived")]
    Never {
        /// The file that is missing.
        missing: String,
    },
    /// Another attempt has begun meanwhile.
    #[error("another attempt of the backup {0} has begun meanwhile")]
    Overtaken(String),
    /// Another backup has this ID.
    #[error("the archive has another complete backup {0}; choose another ID")]
    Taken(String),
}

impl Backup {
    /// Takes it. `progress` gets how far it is. When the returned future is dropped, the session and the upload end; `.running`
    /// stays in the store then, for retention to find what was left.
    pub async fn take(self, progress: &watch::Sender<BackupState>) -> Result<(), Trouble> {
        let Err(error) = self.run(progress).await else { return Ok(()) };
        // What remains is found by retention, if the store does not answer now.
        let left = match error {
            Error::Taken(_) => &[INTENT_FILE][..],
            Error::Overtaken(_) => &[],
            _ => &[DATA_FILE, FRAMES_FILE, INTENT_FILE],
        };
        let content = |file: &str| matches!(file, DATA_FILE | FRAMES_FILE);
        let key = |file: &&str| match content(file) {
            true => self.store.content_key(&self.key(file)),
            false => self.key(file),
        };
        let keys: Vec<String> = left.iter().map(key).collect();
        let _ = self.store.delete(&keys).await;
        Err(Trouble { words: chain(&error), lasting: matches!(error, Error::Tablespaces(_)) })
    }

    fn key(&self, file: &str) -> String {
        base_key(&self.order.id, file)
    }

    async fn run(&self, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
        if !is_backup_id(&self.order.id) {
            return Err(Error::Id(self.order.id.clone()));
        }
        let begun = (self.now)();
        if self.store.head(&self.key(INFO_FILE)).await?.is_some() {
            return Err(Error::Taken(self.order.id.clone()));
        }
        self.intend(None).await?;
        let mut session = Walsender::open(&self.socket).await?;
        let server = Server::ask(&mut session).await?;
        let (index, span) = self.copy(session, &server, progress).await?;
        self.store.put_content(&self.key(FRAMES_FILE), index.render()).await?;
        progress.send_modify(|state| state.phase = BackupPhase::WaitingForWal);
        wal_is_there(&self.store, &span, server.segment_size).await?;
        self.not_overtaken().await?;
        let info = BackupInfo {
            id: self.order.id.clone(),
            time: (begun, (self.now)()),
            lsn: (span.begin, span.end),
            timeline: span.timeline,
            segment_size: server.segment_size,
            size: index.size,
            system_identifier: server.system_identifier,
            version: server.version,
            pgdata: server.data,
            server: self.archive.rsplit('/').next().unwrap_or_default().to_owned(),
            age_fingerprint: self.store.cipher().map(Cipher::fingerprint).map(str::to_owned),
        };
        let text = Bytes::from(info.render());
        match self.store.put_new(&self.key(INFO_FILE), text.clone(), &[], |found| found == text).await? {
            Put::Written | Put::Same => {}
            Put::Other => return Err(Error::Taken(self.order.id.clone())),
        }
        // It is complete already.
        let _ = self.store.delete(&[self.key(INTENT_FILE)]).await;
        Ok(())
    }

    /// Says in the store that it runs, so that retention keeps the WAL that it needs.
    async fn intend(&self, begin: Option<(u32, Lsn)>) -> Result<(), Error> {
        let intent = Intent {
            id: String::new(),
            attempt: self.order.attempt,
            member: self.member.clone(),
            timeline: begin.map(|(timeline, _)| timeline),
            begin: begin.map(|(_, lsn)| lsn),
        };
        // Plain data always has a JSON form.
        let text = serde_json::to_vec(&intent).unwrap_or_default();
        Ok(self.store.put(&self.key(INTENT_FILE), text.into()).await?)
    }

    /// Another member may have begun the same backup, when this one was not heard of: its data are in the place of ours.
    async fn not_overtaken(&self) -> Result<(), Error> {
        let found = self.store.get(&self.key(INTENT_FILE), INFO).await?.unwrap_or_default();
        let intent: Intent = serde_json::from_slice(&found).unwrap_or_default();
        match (intent.attempt, &intent.member) == (self.order.attempt, &self.member) {
            true => Ok(()),
            false => Err(Error::Overtaken(self.order.id.clone())),
        }
    }

    /// Reads the data directory and stores it.
    async fn copy(
        &self,
        session: Walsender<tokio::net::UnixStream>,
        server: &Server,
        progress: &watch::Sender<BackupState>,
    ) -> Result<(Index, BackupSpan), Error> {
        let label = format!("evenkeel {}", self.order.id);
        let request = Request { label: &label, max_rate: self.order.max_rate, major: server.version / 10_000 };
        let mut backup = session.base_backup(&request).await?;
        let (mut writer, mut begin, mut end) = (None, None, None);
        let (mut members, mut passed, mut manifest) = (Members::default(), Vec::new(), Some(Vec::new()));
        loop {
            let part = match backup.next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(error) => return Err(corruption(&backup.session.warnings, error)),
            };
            match part {
                Part::Begin { lsn, timeline, size, tablespaces } => {
                    if !tablespaces.is_empty() {
                        return Err(Error::Tablespaces(tablespaces.join(", ")));
                    }
                    self.intend(Some((timeline, lsn))).await?;
                    progress.send_modify(|state| state.total = size);
                    writer = Some(Writer::new(self.store.upload(&self.key(DATA_FILE), size).await?));
                    begin = Some((lsn, timeline));
                }
                Part::Tar(bytes) => {
                    let writer = writer.as_mut().ok_or(walsender::Error::Answer("data comes early"))?;
                    passed.clear();
                    members.pass(&bytes, &mut passed)?;
                    writer.write(&passed).await?;
                    let now = writer.progress();
                    progress.send_if_modified(|state| {
                        let steps = (state.bytes >> 23) != (now.0 >> 23);
                        (state.bytes, state.stored) = now;
                        steps
                    });
                }
                Part::Manifest(bytes) => {
                    manifest = manifest.filter(|kept| kept.len() + bytes.len() <= MANIFEST_LIMIT);
                    if let Some(kept) = &mut manifest {
                        kept.extend_from_slice(&bytes);
                    }
                }
                Part::End { lsn, timeline } => end = Some((lsn, timeline)),
            }
        }
        let (Some(mut writer), Some(begin), Some(end)) = (writer, begin, end) else {
            return Err(walsender::Error::Answer("a part of it is missing").into());
        };
        if !members.is_whole() {
            return Err(walsender::Error::Answer("its archive is cut off").into());
        }
        if begin.1 != end.1 {
            return Err(Error::Timeline(begin.1, end.1));
        }
        let modified = (self.now)().as_second();
        let last = manifest.as_deref().map(|manifest| (MANIFEST, manifest, modified));
        writer.write(&tarball::last(last)).await?;
        let index = writer.finish().await?;
        let span = BackupSpan {
            timeline: end.1,
            begin: begin.0,
            end: end.0,
            begin_wal: Segment::at(end.1, begin.0, server.segment_size).to_string(),
            end_wal: Segment::before(end.1, end.0, server.segment_size).to_string(),
        };
        progress.send_modify(|state| {
            (state.bytes, state.stored, state.span) = (index.size, index.stored, Some(span.clone()));
        });
        Ok((index, span))
    }
}

/// Waits until the store has the segments of this span, and the history of its timeline.
pub async fn wal_is_there(store: &Store, span: &BackupSpan, segment_size: u64) -> Result<(), Error> {
    let mut first = Segment::at(span.timeline, span.begin, segment_size);
    let last = Segment::before(span.timeline, span.end, segment_size);
    let (mut missing, mut said) = (first.to_string(), "it is not there".to_owned());
    let (mut passed, mut passed_at) = (0, first);
    let wait = async {
        loop {
            match look(store, &mut first, last, segment_size).await {
                Ok(None) => return Ok(()),
                Ok(Some(file)) => {
                    (missing, said) = (file, "it is not there".to_owned());
                    // WAL goes into the archive in its order, but for the few segments that are pushed together.
                    let later = store.list(&first.folder(), Some(&first.key()), 1).await;
                    passed =
                        if passed_at == first && later.is_ok_and(|later| !later.is_empty()) { passed + 1 } else { 0 };
                    passed_at = first;
                    if passed >= PASSED {
                        return Err(Error::Never { missing: missing.clone() });
                    }
                }
                Err(error) if error.kind == Kind::Unreachable => said = error.to_string(),
                Err(error) => return Err(Error::from(error)),
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = tokio::time::timeout(WAL, wait).await;
    waited.unwrap_or(Err(Error::Wal { missing, said }))
}

/// The name of a file that is missing. `first` advances past what is there.
async fn look(store: &Store, first: &mut Segment, last: Segment, size: u64) -> Result<Option<String>, store::Error> {
    if let Some(segment) = first_missing(store, *first, last, size).await? {
        *first = segment;
        return Ok(Some(segment.to_string()));
    }
    *first = last;
    let history = history_key(last.timeline);
    if last.timeline > 1 && store.head(&history).await?.is_none() {
        return Ok(Some(format!("{:08X}.history", last.timeline)));
    }
    Ok(None)
}

/// The server tells of damaged pages by warnings, and refuses at the end.
fn corruption(warnings: &[String], error: walsender::Error) -> Error {
    let of = |text: &str| text.contains("checksum verification fail");
    let files: Vec<&str> = warnings.iter().map(String::as_str).filter(|warning| of(warning)).take(3).collect();
    match &error {
        walsender::Error::Refused(words) if of(words) => {
            Error::Corrupted(if files.is_empty() { words.clone() } else { files.join("; ") })
        }
        _ => error.into(),
    }
}

/// What is asked of the server before.
struct Server {
    system_identifier: String,
    version: u32,
    segment_size: u64,
    data: String,
}

impl Server {
    async fn ask(session: &mut Walsender<tokio::net::UnixStream>) -> Result<Self, walsender::Error> {
        let mut first = async |command: &str| -> Result<String, walsender::Error> {
            Ok(session.ask(command).await?.into_iter().next().unwrap_or_default())
        };
        let system_identifier = first("IDENTIFY_SYSTEM").await?;
        let version = first("SHOW server_version_num").await?.parse();
        let segment_size = size(&first("SHOW wal_segment_size").await?);
        let data = first("SHOW data_directory").await?;
        Ok(Self {
            system_identifier,
            version: version.map_err(|_| walsender::Error::Answer("its version is no number"))?,
            segment_size: segment_size.ok_or(walsender::Error::Answer("the size of a WAL segment is none"))?,
            data,
        })
    }
}

/// `16MB` or `1GB`: the size of a WAL segment in bytes.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let unit = match unit {
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    let size = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (size.is_power_of_two() && (SEGMENT_SIZES.0..=SEGMENT_SIZES.1).contains(&size)).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_segment_is_read_as_the_server_shows_it() {
        assert_eq!([size("4MB"), size("1GB")], [Some(4 << 20), Some(1 << 30)]);
        assert_eq!([size("3MB"), size("16kB"), size("2GB"), size("16"), size("é")], [None; 5]);
    }

    #[test]
    fn damaged_pages_are_told_with_their_file() {
        let warnings = ["x".to_owned(), "checksum verification failed in file \"base/5/1259\", block 3".to_owned()];
        let refused = || walsender::Error::Refused("checksum verification failure during base backup".into());
        assert_eq!(
            corruption(&warnings, refused()).to_string(),
            "the data directory of this member is corrupted: checksum verification failed in file \"base/5/1259\", block 3; \
             take the backup of another member, and replace this one"
        );
        assert!(matches!(corruption(&warnings, walsender::Error::Silent), Error::Server(_)));
    }
}
