//! Copies the volume into a store: tar, frames, index, and `volume.json` last.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::api::chain::chain;
use crate::api::hash::short_hash;
use crate::archive::cipher::Cipher;
use crate::archive::frames::Writer;
use crate::archive::store::{self, Kind, Put, Store};
use crate::archive::volumes::{DATA_FILE, FRAMES_FILE, INFO_FILE, Tally, VolumeInfo};
use crate::supervisor::beside::Trouble;
use crate::supervisor::clock::wall_seconds;
use crate::supervisor::pace::Pace;
use crate::supervisor::porter::pack::{self, count, pack};
use crate::supervisor::porter::{VOLUME, pipe};
use crate::supervisor::wire::BackupState;

/// One copy.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The folder of the copy.
    pub store: Store,
    /// The ID of the Backup.
    pub id: String,
    /// The claim.
    pub claim: String,
    /// Where the volume is.
    pub root: PathBuf,
}

/// A copy failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volume.
    #[error(transparent)]
    Pack(#[from] pack::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The thread that reads the volume.
    #[error("the volume is not read any more: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// There is another copy.
    #[error("the store has another complete copy {0} of this volume")]
    Taken(String),
}

impl Error {
    /// For people, and whether another attempt would fail as well.
    pub fn trouble(&self) -> Trouble {
        let lasting = match self {
            Self::Pack(_) | Self::Taken(_) => true,
            Self::Store(error) => error.kind != Kind::Unreachable,
            Self::Thread(_) => false,
        };
        Trouble { words: chain(self), lasting }
    }
}

impl Copy {
    /// Whether it will be possible, as far as that can be seen: bytes of all files.
    pub async fn attempt(&self) -> Result<u64, Error> {
        if self.store.head(INFO_FILE).await?.is_some() {
            return Err(Error::Taken(self.id.clone()));
        }
        // What is written now is no part of a copy, and it may stay.
        self.store.put_content(FRAMES_FILE, Bytes::from_static(b"{}")).await?;
        let root = self.root.clone();
        Ok(tokio::task::spawn_blocking(move || count(&root)).await??.bytes)
    }

    /// Makes it. When the returned future is dropped, the upload ends.
    pub async fn take(self, progress: &watch::Sender<BackupState>) -> Result<Tally, Error> {
        match self.run(progress).await {
            Ok(tally) => Ok(tally),
            Err(error) => {
                if !matches!(error, Error::Taken(_)) {
                    // What remains is no copy, for want of the file that is written last.
                    let _ = self.store.delete(&[DATA_FILE, FRAMES_FILE].map(|file| self.store.content_key(file))).await;
                }
                Err(error)
            }
        }
    }

    async fn run(&self, progress: &watch::Sender<BackupState>) -> Result<Tally, Error> {
        let expected = progress.borrow().total;
        let writer = Writer::new(self.store.upload(DATA_FILE, expected).await?);
        let (pieces, packed) = pipe::pipe();
        let root = self.root.clone();
        let reading = tokio::task::spawn_blocking(move || pack(&root, pipe::Writer::new(pieces)));
        let (stored, read) = tokio::join!(upload(writer, packed, progress), reading);
        // The volume's own words say more than that the stream broke off.
        let (tally, index) = match (read?, stored) {
            (Ok(tally), stored) => (tally, stored?.finish().await?),
            (Err(error), Ok(_)) => return Err(error.into()),
            (Err(_), Err(error)) => return Err(error.into()),
        };
        progress.send_modify(|state| (state.bytes, state.stored) = (index.size, index.stored));
        let frames = index.render();
        let info = VolumeInfo {
            id: self.id.clone(),
            claim: self.claim.clone(),
            ended: Timestamp::from_second(wall_seconds()).unwrap_or_default(),
            tally,
            size: index.size,
            stored: index.stored,
            frames_sha256: short_hash(&frames, 64),
            age_fingerprint: self.store.cipher().map(Cipher::fingerprint).map(str::to_owned),
        };
        self.store.put_content(FRAMES_FILE, frames).await?;
        // Plain data always has a JSON form.
        let text = Bytes::from(serde_json::to_vec_pretty(&info).unwrap_or_default());
        match self.store.put_new(INFO_FILE, text.clone(), &[], |found| found == text).await? {
            Put::Written | Put::Same => Ok(tally),
            Put::Other => Err(Error::Taken(self.id.clone())),
        }
    }
}

/// Uploads what is packed. The writer is not finished: whether the archive is whole, its reader knows.
async fn upload(
    mut writer: Writer,
    mut packed: mpsc::Receiver<Vec<u8>>,
    progress: &watch::Sender<BackupState>,
) -> Result<Writer, store::Error> {
    let pace = Pace::new(None);
    while let Some(piece) = packed.recv().await {
        writer.write(&piece).await?;
        pace.keep(writer.progress(), progress).await;
    }
    Ok(writer)
}

/// The volume of this container.
pub fn root() -> &'static Path {
    Path::new(VOLUME)
}
