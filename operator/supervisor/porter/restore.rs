//! Restores a copy into the volume, which must be empty. A file marks the volume from before the first byte until everything is on
//! the disk: a volume that has it is not whole.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use tokio::sync::{mpsc, watch};

use crate::api::chain::chain;
use crate::archive::cipher::is_fingerprint;
use crate::archive::frames::{Index, Reader};
use crate::archive::store::{self, Kind, Store};
use crate::archive::volumes::{DATA_FILE, FRAMES_FILE, INFO, INFO_FILE, VolumeInfo};
use crate::supervisor::beside::Trouble;
use crate::supervisor::pace::Pace;
use crate::supervisor::porter::unpack::{self, unpack};
use crate::supervisor::porter::{MARKER, pipe};
use crate::supervisor::wire::BackupState;

/// What a file system makes by itself at its top.
const LOST: &str = "lost+found";

/// One restore.
#[derive(Debug, Clone)]
pub struct Restore {
    /// The folder of the copy.
    pub store: Store,
    /// The UID of the VolumeRestore.
    pub id: String,
    /// Where the volume is.
    pub root: PathBuf,
}

/// A restore failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The volume has data.
    #[error("the volume is not empty: it has {0}; restore into another claim, or remove the volume first")]
    NotEmpty(String),
    /// The volume is too small.
    #[error("the volume has {free} bytes free, and the copy has {needed}")]
    Full {
        /// Bytes that are free.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// The copy does not exist, or is not complete.
    #[error("the store has no complete copy there: it has no {INFO_FILE}")]
    Missing,
    /// The copy has other entries than it says.
    #[error("the copy has {found} entries, and says that it has {wanted}")]
    Entries {
        /// Those that came.
        found: u64,
        /// Those that it says.
        wanted: u64,
    },
    /// The volume cannot be read or written.
    #[error("the volume: {0}")]
    Volume(#[from] io::Error),
    /// The archive.
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The thread that writes the volume.
    #[error("the volume is not written any more: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl Error {
    /// For people, and whether another attempt would fail as well.
    pub fn trouble(&self) -> Trouble {
        let lasting = match self {
            Self::Store(error) => error.kind != Kind::Unreachable,
            Self::Volume(_) | Self::Thread(_) => false,
            _ => true,
        };
        Trouble { words: chain(self), lasting }
    }
}

impl Restore {
    /// Whether it will be possible, as far as that can be seen: bytes of all files.
    pub async fn attempt(&self) -> Result<u64, Error> {
        self.empty()?;
        let info = self.info().await?;
        let free = nix::sys::statvfs::statvfs(&self.root).map_err(io::Error::from)?;
        #[allow(clippy::unnecessary_cast)]
        let free = (free.blocks_available() as u64).saturating_mul(free.fragment_size() as u64);
        match free < info.tally.bytes {
            true => Err(Error::Full { free, needed: info.tally.bytes }),
            false => Ok(info.tally.bytes),
        }
    }

    /// Makes it. Nothing of a failed one is taken for whole: the mark stays.
    pub async fn run(self, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
        self.empty()?;
        let info = self.info().await?;
        progress.send_modify(|state| state.total = info.size);
        let index = Index::load_checked(&self.store, FRAMES_FILE, &info.frames_sha256).await?;
        self.begin()?;
        let (pieces, packed) = pipe::pipe();
        let reader = Reader::new(self.store.clone(), DATA_FILE, index);
        let root = self.root.clone();
        let writing = tokio::task::spawn_blocking(move || unpack(&root, pipe::Reader::new(packed)));
        let (read, written) = tokio::join!(download(reader, pieces, progress), writing);
        // If the thread has ended first, nobody has read the rest; if the store failed, the archive broke off.
        let written = written?;
        read?;
        let found = written?;
        if found != info.tally.entries {
            return Err(Error::Entries { found, wanted: info.tally.entries });
        }
        self.end()
    }

    async fn info(&self) -> Result<VolumeInfo, Error> {
        let text = self.store.get(INFO_FILE, INFO).await?.ok_or(Error::Missing)?;
        let info: VolumeInfo =
            serde_json::from_slice(&text).map_err(|error| self.store.broken(INFO_FILE, &error.to_string()))?;
        self.store.opens(INFO_FILE, info.age_fingerprint.as_deref().filter(|text| is_fingerprint(text)))?;
        Ok(info)
    }

    /// The volume has nothing, or what an earlier attempt of this restore has left.
    fn empty(&self) -> Result<(), Error> {
        if fs::read_to_string(self.root.join(MARKER)).is_ok_and(|mark| mark == self.id) {
            return Ok(());
        }
        for entry in self.root.read_dir()? {
            let name = entry?.file_name();
            if name != LOST {
                return Err(Error::NotEmpty(name.to_string_lossy().into_owned()));
            }
        }
        Ok(())
    }

    /// Marks the volume, and removes what an earlier attempt has left.
    fn begin(&self) -> Result<(), Error> {
        let mut mark = fs::File::create(self.root.join(MARKER))?;
        mark.write_all(self.id.as_bytes())?;
        mark.sync_all()?;
        fs::File::open(&self.root)?.sync_all()?;
        for entry in self.root.read_dir()? {
            let entry = entry?;
            match entry.file_name() {
                name if name == MARKER || name == LOST => {}
                _ if entry.file_type()?.is_dir() => fs::remove_dir_all(entry.path())?,
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Everything is on the disk before the mark is removed.
    fn end(&self) -> Result<(), Error> {
        let root = fs::File::open(&self.root)?;
        nix::unistd::syncfs(&root).map_err(io::Error::from)?;
        let changed = root.metadata()?.modified()?;
        fs::remove_file(self.root.join(MARKER))?;
        root.set_modified(changed)?;
        Ok(root.sync_all()?)
    }
}

/// Reads all frames; each is checked before any of it is passed on.
async fn download(
    mut reader: Reader,
    pieces: mpsc::Sender<Vec<u8>>,
    progress: &watch::Sender<BackupState>,
) -> Result<(), store::Error> {
    let (pace, mut bytes) = (Pace::new(None), 0);
    while let Some(content) = reader.next().await? {
        bytes += content.len() as u64;
        if pieces.send(content).await.is_err() {
            // The thread says why.
            return Ok(());
        }
        pace.keep((bytes, 0), progress).await;
    }
    Ok(())
}
