//! Restores the files of a tar archive into a volume, and nothing outside of it, whatever the archive says.
//!
//! The volume has nothing that the archive did not bring, and nothing is ever replaced or followed: a name must be relative, all its
//! directories must be real ones, and it must be new. So no symlink is ever passed.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Archive, EntryType};

use crate::supervisor::porter::MARKER;

/// An archive cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is damaged.
    #[error("the archive is damaged: {0}")]
    Archive(#[source] io::Error),
    /// It has something that no copy of a volume has.
    #[error("the archive is none of a volume: {name} {what}")]
    Hostile {
        /// The name in it.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Something could not be written.
    #[error("{}: {source}", .path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Restores everything into the directory `root`; the number of its entries.
pub fn unpack(root: &Path, archive: impl Read) -> Result<u64, Error> {
    let mut unpacker = Unpacker { root, parent: PathBuf::new(), directories: Vec::new() };
    let mut entries = 0;
    for entry in Archive::new(archive).entries().map_err(Error::Archive)? {
        unpacker.one(&mut entry.map_err(Error::Archive)?)?;
        entries += 1;
    }
    // What is written into a directory changes its time.
    for (path, seconds) in unpacker.directories.iter().rev() {
        changed_at(path, *seconds)?;
    }
    Ok(entries)
}

struct Unpacker<'a> {
    root: &'a Path,
    /// The directory that was last found to be real all the way.
    parent: PathBuf,
    directories: Vec<(PathBuf, i64)>,
}

impl Unpacker<'_> {
    fn one(&mut self, entry: &mut tar::Entry<impl Read>) -> Result<(), Error> {
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        let header = entry.header().clone();
        let number = |field: io::Result<u64>| field.map_err(Error::Archive);
        let (uid, gid) = (number(header.uid())?, number(header.gid())?);
        let seconds = i64::try_from(number(header.mtime())?).unwrap_or(i64::MAX);
        let mode = header.mode().map_err(Error::Archive)? & 0o7777;
        let inside = self.inside(&name)?;
        let path = self.root.join(&inside);
        let failed = |source| Error::Write { path: path.clone(), source };
        let hostile = |what| Error::Hostile { name: name.display().to_string(), what };
        let ids = u32::try_from(uid).ok().zip(u32::try_from(gid).ok());
        let (uid, gid) = ids.ok_or_else(|| hostile("has an owner that no system has"))?;
        let owned = || std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(failed);
        let allowed = || fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(failed);
        if inside.as_os_str().is_empty() && header.entry_type() != EntryType::Directory {
            return Err(hostile("is the volume itself, and no directory"));
        }
        match header.entry_type() {
            EntryType::Directory => {
                if !inside.as_os_str().is_empty() {
                    fs::create_dir(&path).map_err(failed)?;
                }
                owned()?;
                allowed()?;
                self.directories.push((path, seconds));
                Ok(())
            }
            EntryType::Regular => {
                let wanted = number(header.size())?;
                let mut file = new_file(&path).map_err(failed)?;
                if io::copy(entry, &mut file).map_err(failed)? != wanted {
                    return Err(Error::Archive(io::ErrorKind::UnexpectedEof.into()));
                }
                drop(file);
                owned()?;
                allowed()?;
                changed_at(&path, seconds)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| hostile("is a symlink to nothing"))?;
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &path).map_err(failed)?;
                owned()?;
                changed_at(&path, seconds)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| hostile("is a link to nothing"))?;
                let target = self.inside(Path::new(std::ffi::OsStr::from_bytes(&target)))?;
                let target = self.root.join(target);
                let is_file = target.symlink_metadata().is_ok_and(|found| found.is_file());
                if !is_file {
                    return Err(hostile("is a link to something that is no file of the archive"));
                }
                fs::hard_link(&target, &path).map_err(failed)
            }
            _ => Err(hostile("is neither a file nor a directory nor a link")),
        }
    }

    /// The name below the volume, without `.`; its directories are real ones.
    fn inside(&mut self, name: &Path) -> Result<PathBuf, Error> {
        let hostile = |what| Error::Hostile { name: name.display().to_string(), what };
        let mut inside = PathBuf::new();
        for part in name.components() {
            match part {
                Component::CurDir => {}
                Component::Normal(part) => inside.push(part),
                _ => return Err(hostile("leads out of the volume")),
            }
        }
        if inside == Path::new(MARKER) {
            return Err(hostile("is a name of Evenkeel's"));
        }
        let parent = inside.parent().unwrap_or(Path::new(""));
        if parent != self.parent {
            let mut path = self.root.to_owned();
            for part in parent.components() {
                path.push(part);
                if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                    return Err(hostile("is in something that is no directory of the archive"));
                }
            }
            self.parent = parent.to_owned();
        }
        Ok(inside)
    }
}

/// A file that did not exist; nobody else can read it yet.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn changed_at(path: &Path, seconds: i64) -> Result<(), Error> {
    let time = TimeSpec::new(seconds, 0);
    let set = utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink);
    set.map_err(|errno| Error::Write { path: path.to_owned(), source: errno.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
