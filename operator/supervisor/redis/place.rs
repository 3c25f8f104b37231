//! Paths and ids in the containers of Redis and of Sentinels: the volume, the server's user, its binary.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, User};

use crate::supervisor::durable;
use crate::supervisor::redis::wire::{self, Tls};
use crate::supervisor::theirs::Theirs;

/// Users and servers of the images, in the order of preference.
const USERS: [&str; 2] = ["redis", "valkey"];
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];
/// Names of the files of certificates, in the folder of the configuration.
pub const CERTIFICATES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// Paths and ids, determined once at the start.
#[derive(Debug, Clone)]
pub struct Place {
    volume: PathBuf,
    binary: PathBuf,
    /// The server's user.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

/// The container is unusable for the supervisor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no user for the server.
    #[error(
        "there is no user redis or valkey in this image: choose an image that follows the conventions of redis:7 or valkey/valkey:8"
    )]
    NoUser,
    /// There is no server.
    #[error(
        "there is no redis-server or valkey-server on PATH: choose an image that follows the conventions of redis:7 or valkey/valkey:8"
    )]
    NoServer,
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
    /// Determines user and binary.
    pub fn find() -> Result<Self, Error> {
        let user = USERS.iter().find_map(|name| User::from_name(name).ok().flatten()).ok_or(Error::NoUser)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut servers = std::env::split_paths(&path).flat_map(|folder| SERVERS.map(|name| folder.join(name)));
        let binary = servers.find(|file| file.is_file()).ok_or(Error::NoServer)?;
        Ok(Self { volume: wire::VOLUME.into(), binary, uid: user.uid, gid: user.gid })
    }

    /// Creates the directories with the right owners; `servers` is the one on the volume that the server writes to. The
    /// server's user may change neither the volume's root nor the supervisor's folder.
    pub fn prepare(&self, servers: &Path) -> Result<(), Error> {
        let root = Uid::from_raw(0);
        directory(&self.volume, root, self.gid, 0o750)?;
        directory(&self.own(), root, self.gid, 0o750)?;
        directory(servers, self.uid, self.gid, 0o750)?;
        // The promise in it must be durable, so the folder must be, too.
        let synced = durable::sync_folder(&self.volume);
        synced.map_err(|source| Error::Prepare { path: self.volume.clone(), source })?;
        let run = self.configuration();
        directory(run.parent().unwrap_or(&run), root, self.gid, 0o711)?;
        directory(&run, self.uid, self.gid, 0o750)
    }

    /// Access to files with the rights of the server's user.
    pub fn theirs(&self) -> Theirs {
        Theirs { uid: self.uid, gid: self.gid }
    }

    /// The supervisor's own folder: state that must survive.
    pub fn own(&self) -> PathBuf {
        self.volume.join("evenkeel")
    }

    /// The folder of Redis' data.
    pub fn data(&self) -> PathBuf {
        self.volume.join("redis")
    }

    /// The folder of a Sentinel's file.
    pub fn sentinel(&self) -> PathBuf {
        self.volume.join("sentinel")
    }

    /// The folder of the configuration and of the socket. It belongs to the server's user, because a server replaces its file
    /// by a new one. What is in it is written anew before each start.
    pub fn configuration(&self) -> PathBuf {
        Path::new(wire::SOCKET).with_file_name("redis")
    }

    /// The server's socket, for its user and root only.
    pub fn socket(&self) -> PathBuf {
        self.configuration().join("redis.sock")
    }

    /// Writes [`CERTIFICATES`] into the folder of the configuration, each name with this prefix.
    pub fn write_certificates(&self, tls: &Tls, prefix: &str) -> std::io::Result<()> {
        for (name, text) in CERTIFICATES.iter().zip([&tls.ca, &tls.cert, &tls.key]) {
            self.theirs().write(&self.configuration().join(format!("{prefix}{name}")), text)?;
        }
        Ok(())
    }

    /// The server, run as its user, in its own process group, without stdin.
    pub fn server(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.uid(self.uid.as_raw()).gid(self.gid.as_raw()).process_group(0);
        command.stdin(std::process::Stdio::null()).current_dir("/").env("LC_ALL", "C").env("HOME", self.data());
        command
    }

    /// Bytes free on the volume; 0 if unknown.
    pub fn disk_free(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.volume).map_or(0, |fs| fs.blocks_available() * fs.fragment_size())
    }
}

/// Creates a directory with this owner and mode if it is missing. A link in its place, which the server of another container
/// may have made, is an error.
fn directory(path: &Path, owner: Uid, group: Gid, mode: u32) -> Result<(), Error> {
    let make = || {
        std::fs::create_dir_all(path)?;
        if path.is_symlink() {
            return Err(std::io::Error::other("it is a symbolic link"));
        }
        chown(path, Some(owner.as_raw()), Some(group.as_raw()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
    };
    make().map_err(|source| Error::Prepare { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 360: a link in the place of the supervisor's folder, made by the server of an earlier container on the same
    /// volume, gave the folder that it led to away.
    #[test]
    fn a_link_in_the_place_of_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("evenkeel"));
        std::fs::create_dir(&target).unwrap();
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let made = |path: &Path| directory(path, Uid::current(), Gid::current(), 0o755);
        assert!(made(&link).is_err());
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        made(&folder.path().join("new")).unwrap();
    }
}
