//! Paths and ids in the container: the volume, the server's user, its binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, User};

use super::theirs::Theirs;
use super::{durable, wire};
use crate::api::postgres_settings::SOCKETS;

/// Paths and ids, determined once at the start.
#[derive(Debug, Clone)]
pub struct Place {
    volume: PathBuf,
    binaries: PathBuf,
    /// User `postgres`.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

/// The container is unusable for the supervisor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no user `postgres`.
    #[error("there is no user postgres in this image: choose an image that follows the conventions of postgres:15")]
    NoUser,
    /// PostgreSQL is not installed.
    #[error(
        "no PostgreSQL binaries on PATH or under /usr/lib/postgresql: choose an image that follows the conventions of postgres:15"
    )]
    NoBinaries,
    /// A directory could not be prepared.
    #[error("preparing {path}")]
    Prepare {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Place {
    /// Determines user and binaries.
    pub fn find() -> Result<Self, Error> {
        let user = User::from_name("postgres").ok().flatten().ok_or(Error::NoUser)?;
        let binaries = binaries().ok_or(Error::NoBinaries)?;
        Ok(Self { volume: PathBuf::from(wire::VOLUME), binaries, uid: user.uid, gid: user.gid })
    }

    /// For a volume without a server.
    #[cfg(test)]
    pub fn at(volume: &Path) -> Self {
        Self { volume: volume.into(), binaries: PathBuf::new(), uid: Uid::current(), gid: Gid::current() }
    }

    /// Creates the supervisor's directories with the right owners. The server's user may traverse the volume's root and
    /// read the supervisor's folder, but change neither: it must not be able to rename a promise.
    pub fn prepare(&self) -> Result<(), Error> {
        self.directory(&self.volume, Uid::from_raw(0), 0o750)?;
        self.directory(&self.own(), Uid::from_raw(0), 0o750)?;
        // The promise in it must be durable, so the folder must be, too.
        let synced = durable::sync_folder(&self.volume);
        synced.map_err(|source| Error::Prepare { path: self.volume.clone(), source })?;
        self.directory(Path::new(SOCKETS), self.uid, 0o2775)?;
        let run = self.configuration();
        self.directory(run.parent().unwrap_or(&run), Uid::from_raw(0), 0o711)?;
        self.directory(&run, Uid::from_raw(0), 0o750)
    }

    /// Creates a directory with this owner and mode if it is missing.
    pub fn directory(&self, path: &Path, owner: Uid, mode: u32) -> Result<(), Error> {
        use std::os::unix::fs::PermissionsExt;
        let make = || {
            std::fs::create_dir_all(path)?;
            std::os::unix::fs::chown(path, Some(owner.as_raw()), Some(self.gid.as_raw()))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        make().map_err(|source| Error::Prepare { path: path.to_owned(), source })
    }

    /// Makes the server's user the owner of a socket of the supervisor, so that it may connect.
    pub fn hand_over(&self, socket: &Path) -> std::io::Result<()> {
        std::os::unix::fs::chown(socket, Some(self.uid.as_raw()), None)
    }

    /// Access to files with the rights of the server's user.
    pub fn theirs(&self) -> Theirs {
        Theirs { uid: self.uid, gid: self.gid }
    }

    /// The data directory.
    pub fn pgdata(&self) -> PathBuf {
        self.volume.join("pgdata")
    }

    /// A data directory that is being created.
    pub fn pgdata_new(&self) -> PathBuf {
        self.volume.join("pgdata.new")
    }

    /// Where a dry start puts its throw-away data directory and its socket. On the volume, so that the file system is the same.
    pub fn scratch(&self) -> PathBuf {
        self.volume.join("pgdata.try")
    }

    /// The supervisor's own folder: state that must survive, and that no copy of a data directory overwrites.
    pub fn own(&self) -> PathBuf {
        self.volume.join("evenkeel")
    }

    /// Whether a part of the supervisor's folder is missing that always exists after the start.
    pub fn own_gone(&self) -> bool {
        [durable::LOCK, durable::FILE].iter().any(|name| is_gone(&self.own().join(name)))
    }

    /// Folder of the server's configuration. It is rendered before each start, so it need not be durable, and a reload
    /// during a failover does not wait for the volume's file system.
    pub fn configuration(&self) -> PathBuf {
        Path::new(wire::SOCKET).with_file_name("postgres")
    }

    /// Writes a file into that folder, which the server's user can read.
    pub fn write_configuration(&self, name: &str, text: &str) -> Result<(), String> {
        self.write(name, text, 0o640, Uid::from_raw(0))
    }

    /// Writes the key of a certificate into that folder. An older libpq refuses a key that another user owns.
    pub fn write_key(&self, name: &str, text: &str) -> Result<(), String> {
        self.write(name, text, 0o600, self.uid)
    }

    fn write(&self, name: &str, text: &str, mode: u32, owner: Uid) -> Result<(), String> {
        use std::io::Write;
        use std::os::unix::fs::{OpenOptionsExt, chown};
        let path = self.configuration().join(name);
        let beside = self.configuration().join(format!("{name}.new"));
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).truncate(true).write(true).mode(mode).open(&beside)?;
            file.write_all(text.as_bytes())?;
            chown(&beside, Some(owner.as_raw()), Some(self.gid.as_raw()))?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|error| format!("writing {}: {error}", path.display()))
    }

    /// The password file of the server's operating system user.
    pub fn passfile(&self) -> PathBuf {
        self.own().join("pgpass")
    }

    /// A program of PostgreSQL, run as its user, in its own process group, without stdin and with messages in English.
    pub fn tool(&self, name: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.binaries.join(name));
        command.uid(self.uid.as_raw()).gid(self.gid.as_raw()).process_group(0);
        command.stdin(std::process::Stdio::null()).current_dir("/");
        command.env("LC_MESSAGES", "C").env("LC_ALL", "C").env("HOME", "/var/lib/postgresql");
        for variable in ["PGDATA", "PGPASSWORD", "POSTGRES_PASSWORD", "PGHOST", "PGPORT", "PGUSER"] {
            command.env_remove(variable);
        }
        command
    }

    /// Bytes free on the volume; 0 if unknown.
    pub fn disk_free(&self) -> u64 {
        self.volume_bytes().map_or(0, |(_, free)| free)
    }

    /// The size of the volume in bytes, and what is free of it for users; `None`: it does not say.
    pub fn volume_bytes(&self) -> Option<(u64, u64)> {
        let fs = nix::sys::statvfs::statvfs(&self.volume).ok()?;
        Some((fs.blocks() * fs.fragment_size(), fs.blocks_available() * fs.fragment_size()))
    }
}

/// Whether the path certainly does not exist: a disk that does not answer has lost nothing yet.
pub fn is_gone(path: &Path) -> bool {
    path.try_exists().is_ok_and(|exists| !exists)
}

/// The folder that holds `postgres`: the first on PATH, else the newest under /usr/lib/postgresql.
fn binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("postgres"));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut packaged: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin/postgres"))))
        .collect();
    packaged.sort();
    let packaged = packaged.into_iter().rev().map(|(_, path)| path);
    let server = on_path.chain(packaged).find(|file| file.is_file())?;
    // A link in /usr/bin leads to the folder with initdb and the others.
    Some(std::fs::canonicalize(&server).ok()?.parent()?.to_owned())
}
