//! The first data of a member, made from a backup before any server has run: downloaded, checked by its hashes, by its own checksum
//! and by the image's own program, and only then put in its place, as `dump.rdb`.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::sys::wait::WaitStatus;
use tokio::sync::watch;

use crate::api::backup_id::is_backup_id;
use crate::api::chain::chain;
use crate::archive::cipher::is_fingerprint;
use crate::archive::frames::{Index, Reader};
use crate::archive::rdb::{Checker, DATA_FILE, FOLDER, FRAMES_FILE, INFO, INFO_FILE, RdbInfo, Wrong, newest, rdb_key};
use crate::archive::store::{self, Kind, Store};
use crate::supervisor::beside::Trouble;
use crate::supervisor::durable;
use crate::supervisor::process::{Reaper, describe};
use crate::supervisor::redis::kept::SNAPSHOT;
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::wire::{BackupState, RdbState, RestoreOrder};
use crate::supervisor::running::{Lost, Running};

/// Where the snapshot is until it is whole. A server that starts removes files of such a name.
const UNFINISHED: &str = "temp-restore.rdb";
/// Under this name the server checks a snapshot and ends, both that of Redis and that of Valkey.
const CHECK: &str = "redis-check-rdb";
/// Keys that are listed at most.
const KEYS: usize = 100_000;
/// Words of the image's program that are told at most.
const WORDS: usize = 300;

/// Inputs of a restore.
pub struct Restore {
    /// The folder with the backup.
    pub store: Store,
    /// What was ordered.
    pub order: RestoreOrder,
    /// Where the data goes.
    pub place: Place,
    /// Reaps the program that checks.
    pub reaper: Reaper,
}

/// A restore failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order is unusable.
    #[error("{0:?} is not the ID of a backup")]
    Id(String),
    /// There is nothing to restore.
    #[error("there is no complete backup in {0:?}")]
    Nothing(Store),
    /// The store failed, or what it holds is damaged.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// `rdb.json` cannot be read.
    #[error("{key} in the store is not understood")]
    Info {
        /// Its key.
        key: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The data has another checksum, although each frame is as it was written.
    #[error("{key} in the store: {wrong}")]
    Wrong {
        /// Its key.
        key: String,
        /// What is wrong.
        wrong: Wrong,
    },
    /// The volume is too small.
    #[error("the snapshot has {needed} MiB, and the volume has {free} MiB free")]
    Space {
        /// MiB of it.
        needed: u64,
        /// MiB free.
        free: u64,
    },
    /// A file.
    #[error("{doing} {path}")]
    File {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// How a program ended is not known.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The image's server cannot read it.
    #[error("the server of this image cannot read {key}, which a server of version {theirs} wrote: {words}")]
    Unreadable {
        /// Its key.
        key: String,
        /// The version of the server that wrote it.
        theirs: String,
        /// The words of the program.
        words: String,
    },
}

impl Error {
    /// Whether another attempt would fail as well.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error.kind, Kind::Broken | Kind::NotFound),
            Self::Id(_) | Self::Info { .. } | Self::Wrong { .. } | Self::Unreadable { .. } => true,
            Self::Nothing(_) | Self::Space { .. } | Self::File { .. } | Self::Lost(_) => false,
        }
    }
}

impl Restore {
    /// Makes the data. `progress` gets how far it is. When the returned future is dropped, what was begun does not count.
    pub async fn make(self, progress: &watch::Sender<BackupState>) -> Result<(), Trouble> {
        let unfinished = self.unfinished();
        let made = self.run(&unfinished, progress).await;
        if made.is_err() {
            // A server that starts removes it, too.
            let _ = self.place.theirs().remove(&unfinished);
        }
        made.map_err(|error| Trouble { words: chain(&error), lasting: error.is_lasting() })
    }

    fn unfinished(&self) -> PathBuf {
        self.place.data().join(UNFINISHED)
    }

    async fn run(&self, unfinished: &Path, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
        let id = self.choose().await?;
        let (info, index) = described(&self.store, &id).await?;
        progress.send_modify(|state| {
            state.total = index.size;
            state.rdb = Some(RdbState {
                backup: id.clone(),
                server: info.header.server.clone(),
                replid: info.header.replid.clone(),
                offset: info.header.offset,
                time: info.header.time,
                keys: info.keys,
            });
        });
        let free = self.place.disk_free();
        if free < index.size + index.size / 10 {
            return Err(Error::Space { needed: index.size >> 20, free: free >> 20 });
        }
        self.download(&id, index, unfinished, progress).await?;
        self.check(&id, &info, unfinished).await?;
        self.finish(unfinished)?;
        tracing::info!(backup = id, bytes = info.size, "the data of the backup is in its place");
        Ok(())
    }

    /// The backup that is meant.
    async fn choose(&self) -> Result<String, Error> {
        if let Some(id) = &self.order.backup {
            return if is_backup_id(id) { Ok(id.clone()) } else { Err(Error::Id(id.clone())) };
        }
        let keys: Vec<String> =
            self.store.list(FOLDER, None, KEYS).await?.into_iter().map(|listed| listed.key).collect();
        newest(&keys).map(str::to_owned).ok_or_else(|| Error::Nothing(self.store.clone()))
    }

    async fn download(
        &self,
        id: &str,
        index: Index,
        unfinished: &Path,
        progress: &watch::Sender<BackupState>,
    ) -> Result<(), Error> {
        let file = |doing| move |source| Error::File { doing, path: unfinished.to_owned(), source };
        let theirs = self.place.theirs();
        theirs.remove(unfinished).map_err(file("removing"))?;
        let mut target = theirs.create(unfinished).map_err(file("creating"))?;
        let key = rdb_key(id, DATA_FILE);
        let (mut frames, mut checker) = (Reader::new(self.store.clone(), &key, index), Checker::default());
        while let Some(content) = frames.next().await? {
            let length = content.len() as u64;
            let passed = tokio::task::spawn_blocking(move || {
                checker.write(&content);
                target.write_all(&content).map(|()| (target, checker))
            });
            let passed = passed.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
            (target, checker) = passed.map_err(file("writing"))?;
            progress.send_modify(|state| state.bytes += length);
        }
        let synced = tokio::task::spawn_blocking(move || target.sync_all()).await;
        synced.unwrap_or_else(|panic| Err(std::io::Error::other(panic))).map_err(file("writing"))?;
        checker.finish().map(drop).map_err(|wrong| Error::Wrong { key, wrong })
    }

    /// Lets the server of the image read it, without serving anything: whether it can, only that one knows.
    async fn check(&self, id: &str, info: &RdbInfo, unfinished: &Path) -> Result<(), Error> {
        let mut command = self.place.server();
        command.arg0(CHECK).arg(unfinished);
        let started = Running::start(&self.reaper, command);
        let mut running =
            started.map_err(|source| Error::File { doing: "checking", path: unfinished.to_owned(), source })?;
        let (status, lines) = running.end(|_| false).await?;
        match status {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(Error::Unreadable {
                key: rdb_key(id, DATA_FILE),
                theirs: info.header.server.clone(),
                words: words(&lines).unwrap_or_else(|| describe(status)),
            }),
        }
    }

    /// Puts it in its place. Nothing waits here, so that nobody cuts it in two.
    fn finish(&self, unfinished: &Path) -> Result<(), Error> {
        let (theirs, folder) = (self.place.theirs(), self.place.data());
        let file = |doing| {
            let path = folder.clone();
            move |source| Error::File { doing, path, source }
        };
        theirs.rename(unfinished, &folder.join(SNAPSHOT)).map_err(file("renaming the snapshot in"))?;
        durable::sync_folder(&folder).map_err(file("syncing"))
    }
}

/// What is known of a backup, and the index of its frames.
async fn described(store: &Store, id: &str) -> Result<(RdbInfo, Index), Error> {
    let key = rdb_key(id, INFO_FILE);
    let text = store.get(&key, INFO).await?.ok_or_else(|| store.missing(&key))?;
    let info: RdbInfo = serde_json::from_slice(&text).map_err(|source| Error::Info { key: key.clone(), source })?;
    store.opens(&key, info.age_fingerprint.as_deref().filter(|text| is_fingerprint(text)))?;
    let index = Index::load_checked(store, &rdb_key(id, FRAMES_FILE), &info.frames_sha256).await?;
    Ok((info, index))
}

/// The words of the program that checks, about what is wrong.
fn words(lines: &[String]) -> Option<String> {
    let after = lines.iter().skip_while(|line| !line.contains("ERROR")).nth(1)?;
    let words = after.strip_prefix('[').and_then(|rest| Some(rest.split_once("] ")?.1)).unwrap_or(after);
    Some(words.chars().filter(|c| !c.is_control()).take(WORDS).collect())
}

/// The file in the supervisor's folder about the restore that is complete.
pub const FILE: &str = "restore.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_the_image_says_why_it_cannot_read_a_snapshot() {
        let lines = [
            "[offset 0] Checking RDB file x.rdb",
            "--- RDB ERROR DETECTED ---",
            "[offset 9] Can't handle RDB format version 99",
            "[info] 0 keys read",
        ];
        let lines = lines.map(str::to_owned);
        assert_eq!(words(&lines).as_deref(), Some("Can't handle RDB format version 99"));
        assert_eq!(words(&lines[..2]), None);
    }
}
