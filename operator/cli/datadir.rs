//! The operator's data directory: its path, its permissions, and the lock that allows one operator at a time.

use std::fs::{DirBuilder, DirEntry, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::Error;

/// The data directory of root.
const OF_ROOT: &str = "/var/lib/evenkeel";

/// The paths for the unix socket of an operator on this data directory; the first usable one counts.
pub fn sockets(dir: &Path) -> Vec<PathBuf> {
    let of_root = (dir == Path::new(OF_ROOT)).then(|| PathBuf::from("/run/evenkeel/api.sock"));
    of_root.into_iter().chain([dir.join("api.sock")]).collect()
}

/// `/var/lib/evenkeel` for root, else the XDG data folder's `evenkeel`.
pub fn default_dir(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return OF_ROOT.into();
    }
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| ".".into())
        .join("evenkeel")
}

const LOCK: &str = "operator.lock";

/// A data directory that is locked by this process until the value is dropped or the process ends in any way.
#[derive(Debug)]
pub struct DataDir {
    // Held, never read: the kernel releases the lock when the file is closed.
    _lock: File,
}

impl DataDir {
    /// Creates the directory (mode 0700) and locks it. If another operator holds the lock, the error names
    /// its process id.
    pub fn claim(path: &Path) -> Result<Self, Error> {
        let io = |doing: String| move |source| Error::Io { doing, source };
        let file = path.join(LOCK);
        // A folder with foreign files is refused, because its mode would become 0700.
        // One that only has `pki` is a backup of that, which somebody has brought back.
        let is_foreign = |entry: std::io::Result<DirEntry>| entry.is_ok_and(|entry| entry.file_name() != "pki");
        let foreign = path.read_dir().is_ok_and(|mut entries| entries.any(is_foreign)) && !file.exists();
        if foreign {
            return Err(Error::Failed(format!(
                "{} is neither empty nor an operator's data directory; choose another --data-dir",
                path.display()
            )));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io(format!("make the data directory {}", path.display())))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(io(format!("make the data directory {} private", path.display())))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(io(format!("open {}", file.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(taken(path, &mut lock)),
            Err(TryLockError::Error(source)) => return Err(io(format!("lock {}", file.display()))(source)),
        }
        let written =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| write!(lock, "{}", std::process::id()));
        written.map_err(io(format!("write {}", file.display())))?;
        Ok(Self { _lock: lock })
    }
}

fn taken(path: &Path, lock: &mut File) -> Error {
    let mut holder = String::new();
    // The holder may not have written its process id yet.
    let known = lock.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
    let who = if known { format!("process {}", holder.trim()) } else { "another process".to_owned() };
    Error::Failed(format!(
        "{who} is an operator on the data directory {} already; stop it or choose another --data-dir",
        path.display()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_has_one_operator_and_is_free_again_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let first = DataDir::claim(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = DataDir::claim(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::claim(&path).unwrap();
    }

    #[test]
    fn somebodys_own_folder_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        let refused = DataDir::claim(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("neither empty"), "{refused}");
        assert_eq!(std::fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o755);
    }
}
