//! `durable.json`, which must survive every crash: written to a new file, fsynced, renamed over the old one,
//! the folder fsynced.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Names in the supervisor's folder on the volume: the lock, and the durable state.
pub const LOCK: &str = "lock";
pub const FILE: &str = "durable.json";

/// Reading or writing durable state failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// I/O.
    #[error("{doing} {path}")]
    File {
        /// The failed operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The file was not written by Evenkeel, or by a newer version.
    #[error("{path} is not understood; it holds this instance's promises, so nothing is started without it")]
    Content {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Another supervisor runs on this volume.
    #[error("another supervisor works on this volume (it holds {path}): one volume serves one container")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}

/// Locks the volume until the value is dropped.
pub fn lock(own: &Path) -> Result<Flock<File>, Error> {
    let path = own.join(LOCK);
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let opened = open.map_err(file("opening", &path))?;
    Flock::lock(opened, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Error::Locked { path: path.clone() },
        errno => Error::File { doing: "locking", path: path.clone(), source: errno.into() },
    })
}

/// The last saved state; the default if there is none.
pub fn load<Durable: DeserializeOwned + Default>(own: &Path) -> Result<Durable, Error> {
    load_file(&own.join(FILE))
}

/// What was last saved in another file of promises; the default if there is none.
pub fn load_file<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Error> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(source) => Err(file("reading", path)(source)),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::Content { path: path.into(), source }),
    }
}

/// Saves; after it returns, a power failure cannot undo it.
pub fn save(own: &Path, durable: &impl Serialize) -> Result<(), Error> {
    save_file(&own.join(FILE), durable)
}

/// Saves another file of promises in the same way.
pub fn save_file(path: &Path, kept: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(kept).map_err(|source| Error::Content { path: path.into(), source })?;
    write(path, &bytes).map_err(file("writing", path))
}

/// What is saved in another JSON file, if that is usable.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a file of mode 0600 atomically: it exists completely or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut new = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    new.write_all(bytes)?;
    new.sync_data()?;
    std::fs::rename(&beside, path)?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// Removes a file of the supervisor's folder that nothing follows from: if that fails, it stays.
pub fn remove(path: &Path) {
    let _ = std::fs::remove_file(path);
}

/// Syncs a folder, so that created, removed and renamed names are durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::lsn::{Fork, Lsn};
    use crate::supervisor::state::Durable;
    use crate::supervisor::wire::{JobKind, Order, Task};

    #[test]
    fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load::<Durable>(folder.path()).unwrap(), Durable::default());
        let order = Order {
            term: 7,
            revision: 2,
            task: Task::Prepare,
            settings: [("work_mem".into(), "8MB".into())].into(),
            access: None,
            archive: None,
        };
        let durable = Durable {
            timeline_terms: [(1, 7)].into(),
            incarnation: Some("5f0c".into()),
            promised: 7,
            order: Some(order),
            unfinished: Some(JobKind::Clone),
            rewound: Some(3),
            former_wal_end: Some(Fork { timeline: 2, ended_at: Lsn(0x700) }),
        };
        save(folder.path(), &durable).unwrap();
        assert_eq!(load::<Durable>(folder.path()).unwrap(), durable);
    }

    #[test]
    fn a_file_that_is_not_understood_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("durable.json"), "{").unwrap();
        let error = load::<Durable>(folder.path()).unwrap_err().to_string();
        assert!(error.contains("durable.json is not understood"), "{error}");
        assert_eq!(std::fs::read_to_string(folder.path().join("durable.json")).unwrap(), "{");
    }

    #[test]
    fn a_second_supervisor_on_the_same_volume_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let refused = lock(folder.path()).unwrap_err().to_string();
        assert!(refused.starts_with("another supervisor works on this volume"), "{refused}");
        drop(held);
        assert!(lock(folder.path()).is_ok());
    }
}
