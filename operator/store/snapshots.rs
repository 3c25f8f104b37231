//! The snapshots that an operator keeps of its store: when one is written, how it is called, and which ones are removed.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::sqlite::Snapshot;
use super::{Error, Seal, Store};

/// The end of all their names.
pub const END: &str = ".db";
/// The newest ones that are kept.
const LAST: usize = 6;
/// The last days of which one each is kept: the newest.
const DAYS: usize = 7;

/// The snapshots of one store, in a folder.
pub struct Snapshots {
    store: Arc<dyn Store>,
    seal: Seal,
    folder: PathBuf,
    /// One is written at a time.
    turn: Mutex<()>,
}

impl Snapshots {
    /// Snapshots of this store, in a folder of the data directory.
    pub fn new(store: Arc<dyn Store>, seal: Seal, data_dir: &Path) -> Self {
        Self { store, seal, folder: folder(data_dir), turn: Mutex::new(()) }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes one, if anything changed since the newest one, and removes old ones. Returns its file.
    pub async fn take(&self, now: Timestamp) -> Result<Option<PathBuf>, Error> {
        let _turn = self.turn.lock().await;
        let snapshot = self.now(now).await?;
        let mut names = self.names()?;
        if let Some(newest) = names.last()
            && Snapshot::content_of(&self.folder.join(newest)).await == snapshot.content
        {
            return Ok(None);
        }
        let name = now.strftime("store-%Y%m%dT%H%M%SZ.db").to_string();
        let path = self.folder.join(&name);
        snapshot.write(&path, &self.seal).await?;
        names.push(name);
        for old in superseded(&names) {
            std::fs::remove_file(self.folder.join(old)).map_err(failed("removing an old snapshot"))?;
        }
        Ok(Some(path))
    }

    /// The newest one, with its name.
    pub async fn newest(&self) -> Result<Option<(String, Vec<u8>)>, Error> {
        let _turn = self.turn.lock().await;
        let Some(name) = self.names()?.pop() else { return Ok(None) };
        let bytes = tokio::fs::read(self.folder.join(&name)).await.map_err(failed("reading a snapshot"))?;
        Ok(Some((name, bytes)))
    }

    /// One as it would be written now, as the bytes of its file.
    pub async fn bytes(&self, now: Timestamp) -> Result<Vec<u8>, Error> {
        let _turn = self.turn.lock().await;
        let path = self.folder.join("backup.db");
        self.now(now).await?.write(&path, &self.seal).await?;
        let bytes = tokio::fs::read(&path).await.map_err(failed("reading a snapshot"));
        std::fs::remove_file(&path).map_err(failed("removing a snapshot"))?;
        bytes
    }

    async fn now(&self, now: Timestamp) -> Result<Snapshot, Error> {
        make(&self.folder).map_err(failed("making the folder of the snapshots"))?;
        Snapshot::of(&*self.store, self.store.generation().await?, now).await
    }

    /// The names of the snapshots in the folder, the oldest first.
    fn names(&self) -> Result<Vec<String>, Error> {
        let listed = std::fs::read_dir(&self.folder).and_then(|entries| {
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect::<io::Result<Vec<_>>>()
        });
        let mut names = listed.map_err(failed("listing the snapshots"))?;
        names.retain(|name| parse(name).is_some_and(|(_, rest)| rest == END));
        names.sort();
        Ok(names)
    }
}

/// The folder of the snapshots in a data directory.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

/// Makes the folder, for its owner alone.
pub fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Backend { doing, source: Box::new(source) }
}

/// The day of a snapshot, as its name says, and what follows the time; `None`: this is no name of one.
pub fn parse(name: &str) -> Option<(&str, &str)> {
    let (time, rest) = name.strip_prefix("store-")?.split_once('Z')?;
    let (day, clock) = time.split_once('T')?;
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(day, 8) && digits(clock, 6) && rest.ends_with(END)).then_some((day, rest))
}

/// Those of the snapshots, the oldest first, that are not kept.
pub fn superseded(names: &[String]) -> Vec<&String> {
    let mut days = BTreeSet::new();
    let mut old: Vec<_> = names
        .iter()
        .rev()
        .enumerate()
        .filter(|(place, name)| {
            let is_newest_of_day = days.len() < DAYS && days.insert(parse(name).map(|(day, _)| day));
            *place >= LAST && !is_newest_of_day
        })
        .map(|(_, name)| name)
        .collect();
    old.reverse();
    old
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{Expect, Key, MemoryStore};

    #[test]
    fn the_last_six_are_kept_and_the_newest_of_each_of_seven_days() {
        let day = |day: u32, times: u32| (0..times).map(move |at| format!("store-202611{day:02}T{at:02}0000Z.db"));
        let names: Vec<_> = (1..=9).flat_map(|at| day(at, 2)).chain(day(10, 8)).collect();
        let old = superseded(&names);
        let kept: Vec<_> = names.iter().filter(|name| !old.contains(name)).map(|name| &name[12..17]).collect();
        assert_eq!(
            kept,
            [
                "04T01", "05T01", "06T01", "07T01", "08T01", "09T01", "10T02", "10T03", "10T04", "10T05", "10T06",
                "10T07"
            ]
        );
        assert!(superseded(&names[..2]).is_empty());
    }

    #[tokio::test]
    async fn one_is_written_only_when_something_changed_and_files_of_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        let start = || {
            let seal = Seal::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
            Snapshots::new(store.clone(), seal, dir.path())
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = start().take(at(0)).await.unwrap().unwrap();
        assert_eq!(first.file_name().unwrap(), "store-19700101T000000Z.db");
        std::fs::write(start().folder().join("mine.db"), "x").unwrap();
        // Also after a restart.
        assert_eq!(start().take(at(600)).await.unwrap(), None);
        for minute in 2..10 {
            let key = Key::new("toys", "n", &format!("a{minute}"));
            store.put(&key, Expect::Absent, json!({"metadata": {}})).await.unwrap();
            assert!(start().take(at(minute * 600)).await.unwrap().is_some());
        }
        assert_eq!(start().names().unwrap().len(), LAST);
        assert!(start().bytes(at(9000)).await.unwrap().starts_with(b"SQLite format 3\0"));
        assert_eq!(std::fs::read_dir(start().folder()).unwrap().count(), LAST + 1);
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_written_is_an_error_and_the_next_one_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let snapshots = Snapshots::new(Arc::new(MemoryStore::new()), seal, dir.path());
        std::fs::write(snapshots.folder(), "x").unwrap();
        assert!(snapshots.take(Timestamp::UNIX_EPOCH).await.is_err());
        std::fs::remove_file(snapshots.folder()).unwrap();
        assert!(snapshots.take(Timestamp::UNIX_EPOCH).await.unwrap().is_some());
    }
}
