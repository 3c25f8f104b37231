//! Gives a recovery the WAL files that PostgreSQL asks for, and reads ahead.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::api::chain::chain;
use crate::api::sync::lock;
use crate::archive::history::HISTORY;
use crate::archive::names::{Segment, WalFile, history_key};
use crate::archive::store::{Error, Kind, Store};
use crate::archive::wal;

/// Segments that are read ahead.
const AHEAD: usize = 4;
/// Seconds between attempts while the store does not answer.
const PAUSES: [u64; 14] = [1, 2, 4, 8, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15];
/// Bytes that a compressed segment may have more than its content.
const SLACK: u64 = 1 << 20;

/// A segment that is read.
type Read = JoinHandle<Result<Option<Bytes>, Error>>;

/// Reads the WAL of one archive, with segments of one size. A clone shares what was read ahead.
#[derive(Debug, Clone)]
pub struct Fetcher {
    store: Store,
    segment_size: u64,
    system_identifier: u64,
    /// The form of the segment that was found last: the next one most likely has it, too.
    sealed: Arc<AtomicBool>,
    ahead: Arc<Mutex<BTreeMap<Segment, Read>>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Fetcher {
    /// Of this archive. The system identifier is that of its cluster.
    pub fn new(store: Store, segment_size: u64, system_identifier: u64) -> Self {
        let sealed = Arc::new(AtomicBool::new(store.cipher().is_some()));
        Self { store, segment_size, system_identifier, sealed, ahead: Arc::default(), failure: Arc::default() }
    }

    /// The content of a file; `None` if the archive does not have it, which for PostgreSQL is the end of the way. An error is
    /// no such end: the command has to exit with 126 then, and the recovery begins anew. So it is tried for minutes before.
    ///
    /// # Errors
    /// `Broken`: the segment is not what its name says. `KeyMissing`: it is encrypted for another key. Others as of [`Store::get`].
    pub async fn fetch(&self, file: WalFile) -> Result<Option<Bytes>, Error> {
        let mut pause = PAUSES.iter();
        loop {
            match (self.once(file).await, pause.next()) {
                (Err(error), Some(seconds)) if error.kind == Kind::Unreachable => {
                    tracing::warn!(reason = %error, "a WAL file cannot be read now");
                    tokio::time::sleep(Duration::from_secs(*seconds)).await;
                }
                (found, _) => {
                    if let Err(error) = &found {
                        *lock(&self.failure) = Some(chain(error));
                    }
                    return found;
                }
            }
        }
    }

    /// Why a file could not be read. PostgreSQL only says that its command failed.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    async fn once(&self, file: WalFile) -> Result<Option<Bytes>, Error> {
        match file {
            WalFile::History(timeline) => self.store.get(&history_key(timeline), HISTORY).await,
            // A label is of no use for a recovery, and the beginning of a segment is no segment.
            WalFile::Label(_) | WalFile::Partial(_) => Ok(None),
            WalFile::Segment(segment) => self.segment(segment).await,
        }
    }

    async fn segment(&self, segment: Segment) -> Result<Option<Bytes>, Error> {
        let read = lock(&self.ahead).remove(&segment);
        let read = match read {
            Some(read) => read.await.ok().and_then(Result::ok).flatten(),
            None => None,
        };
        // What was not found or not read ahead may be there now.
        let found = if read.is_some() { read } else { self.read(segment).await? };
        if found.is_some() {
            self.read_ahead(segment);
        }
        Ok(found)
    }

    /// Begins to read what follows, and forgets what was read in vain.
    fn read_ahead(&self, segment: Segment) {
        let mut ahead = lock(&self.ahead);
        let mut wanted = Vec::new();
        let mut next = segment;
        for _ in 0..AHEAD {
            next = next.next(self.segment_size);
            wanted.push(next);
        }
        ahead.retain(|known, read| {
            let keep = wanted.contains(known);
            if !keep {
                read.abort();
            }
            keep
        });
        for segment in wanted {
            let this = self.clone();
            ahead.entry(segment).or_insert_with(|| tokio::spawn(async move { this.read(segment).await }));
        }
    }

    async fn read(&self, segment: Segment) -> Result<Option<Bytes>, Error> {
        let key = segment.key();
        let first = self.sealed.load(Ordering::Relaxed);
        let found = self.store.get_content(&key, self.segment_size + SLACK, first).await?;
        let Some((compressed, sealed)) = found else { return Ok(None) };
        self.sealed.store(sealed, Ordering::Relaxed);
        let (size, system_identifier) = (self.segment_size, self.system_identifier);
        let checked = tokio::task::spawn_blocking(move || unpack(&compressed, segment, size, system_identifier)).await;
        match checked {
            Ok(Ok(content)) => Ok(Some(content)),
            Ok(Err(said)) => Err(self.store.broken(&key, &said)),
            Err(panic) => Err(self.store.broken(&key, &panic.to_string())),
        }
    }
}

/// The content of a segment, if it is that segment.
fn unpack(compressed: &[u8], segment: Segment, size: u64, system_identifier: u64) -> Result<Bytes, String> {
    let content = wal::decompress(compressed, size)
        .map_err(|error| format!("it cannot be decompressed to {size} bytes: {error}"))?;
    wal::check(segment, &content, size, &system_identifier.to_string()).map_err(|wrong| wrong.to_string())?;
    Ok(content.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::lsn::Lsn;
    use crate::archive::access::{Identities, Store as Where, StoreAccess};
    use crate::archive::tests::{ONE, TWO};

    const SIZE: u64 = 1 << 20;

    /// The content of a segment with a valid first header.
    fn content(segment: Segment, timeline: u32) -> Vec<u8> {
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        content[..4].copy_from_slice(&[0x10, 0xD1, 2, 0]);
        content[4..8].copy_from_slice(&timeline.to_le_bytes());
        content[8..16].copy_from_slice(&segment.start(SIZE).0.to_le_bytes());
        content[24..32].copy_from_slice(&7_u64.to_le_bytes());
        content[32..36].copy_from_slice(&u32::try_from(SIZE).unwrap().to_le_bytes());
        content[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        content
    }

    fn wal(number: u64) -> Segment {
        Segment::at(2, Lsn(number * SIZE), SIZE)
    }

    async fn put(store: &Store, segment: Segment, content: &[u8]) {
        store.put(&segment.key(), zstd::bulk::compress(content, 1).unwrap().into()).await.unwrap();
    }

    #[tokio::test]
    async fn segments_come_in_their_order_and_what_is_missing_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let store =
            Store::open(&StoreAccess { hash: String::new(), store: Where::Directory { path }, encryption: None })
                .unwrap();
        // The first one was begun on the timeline before.
        for (number, timeline) in [(1, 1), (2, 2), (3, 2)] {
            put(&store, wal(number), &content(wal(number), timeline)).await;
        }
        store.put(&history_key(2), "1\t0/100028\tx".into()).await.unwrap();
        let fetcher = Fetcher::new(store.clone(), SIZE, 7);
        for number in 1..=3 {
            let found = fetcher.fetch(WalFile::Segment(wal(number))).await.unwrap().unwrap();
            assert!(found.starts_with(&content(wal(number), if number == 1 { 1 } else { 2 })[..36]));
        }
        assert_eq!(fetcher.fetch(WalFile::Segment(wal(4))).await, Ok(None));
        assert_eq!(fetcher.fetch(WalFile::History(3)).await, Ok(None));
        assert!(fetcher.fetch(WalFile::History(2)).await.unwrap().is_some());
        assert_eq!(fetcher.fetch(WalFile::Partial(wal(3))).await, Ok(None));
        // What was read ahead before it was there is asked for again later.
        put(&store, wal(4), &content(wal(4), 2)).await;
        assert!(fetcher.fetch(WalFile::Segment(wal(4))).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_file_that_is_not_the_segment_of_its_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let store =
            Store::open(&StoreAccess { hash: String::new(), store: Where::Directory { path }, encryption: None })
                .unwrap();
        let fetcher = Fetcher::new(store.clone(), SIZE, 7);
        let said = async |content: &[u8]| {
            put(&store, wal(1), content).await;
            let error = fetcher.fetch(WalFile::Segment(wal(1))).await.unwrap_err();
            assert_eq!(error.kind, Kind::Broken);
            error.said
        };
        let good = content(wal(1), 2);
        assert_eq!(said(&good[..8192]).await, "WAL segment 000000020000000000000001 has 8192 bytes and not 1048576");
        assert!(said(&content(wal(2), 2)).await.contains("has the WAL of position 200000 of timeline 2"));
        assert!(said(&vec![0; good.len()]).await.ends_with("does not begin as a segment does"));
        assert!(said(&[&good[..], &[0]].concat()).await.starts_with("it cannot be decompressed to 1048576 bytes"));
        store.put(&wal(1).key(), Bytes::from_static(b"no frame")).await.unwrap();
        assert!(fetcher.fetch(WalFile::Segment(wal(1))).await.is_err());
    }

    /// Encryption was switched on, its key was changed, and it was switched off again. An archive that is read without a key must not look
    /// as if it ended there: PostgreSQL would end the recovery without an error.
    #[tokio::test]
    async fn segments_of_both_forms_are_read_and_one_without_its_key_is_an_error_and_no_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = |keys: Option<&str>| {
            let store = Where::Directory { path: folder.path().to_str().unwrap().to_owned() };
            let encryption = keys.map(|keys| Identities(keys.to_owned()));
            Store::open(&StoreAccess { hash: String::new(), store, encryption }).unwrap()
        };
        for (number, keys) in [(1, None), (2, Some(ONE)), (3, Some(TWO)), (4, None)] {
            let compressed = zstd::bulk::compress(&content(wal(number), 2), 1).unwrap();
            store(keys).put_content(&wal(number).key(), compressed.into()).await.unwrap();
        }
        let both = format!("{TWO}\n{ONE}");
        for keys in [Some(both.as_str()), Some(TWO), None] {
            let fetcher = Fetcher::new(store(keys), SIZE, 7);
            let mut told = Vec::new();
            for number in 1..=5 {
                told.push(match fetcher.fetch(WalFile::Segment(wal(number))).await {
                    Ok(Some(found)) => (found == content(wal(number), 2)).to_string(),
                    Ok(None) => "none".to_owned(),
                    Err(error) => error.kind.reason().to_owned(),
                });
            }
            let expected = match keys {
                Some(TWO) => ["true", "KeyMissing", "true", "true", "none"],
                Some(_) => ["true", "true", "true", "true", "none"],
                None => ["true", "KeyMissing", "KeyMissing", "true", "none"],
            };
            assert_eq!(told, expected, "{keys:?}");
        }
    }

    /// Regression 500: the status of a recovery from an archive with a damaged segment only had PostgreSQL's words, "could not restore
    /// file ...: command not executable". Which object is damaged was in the log of the supervisor alone.
    #[tokio::test]
    async fn a_recovery_can_tell_which_object_of_the_archive_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let store =
            Store::open(&StoreAccess { hash: String::new(), store: Where::Directory { path }, encryption: None })
                .unwrap();
        let fetcher = Fetcher::new(store.clone(), SIZE, 7);
        assert_eq!((fetcher.fetch(WalFile::Segment(wal(1))).await, fetcher.failure()), (Ok(None), None));
        store.put(&wal(1).key(), Bytes::from_static(b"no frame")).await.unwrap();
        assert!(fetcher.clone().fetch(WalFile::Segment(wal(1))).await.is_err());
        let told = fetcher.failure().unwrap();
        assert!(told.contains(&wal(1).key()), "{told}");
    }
}
