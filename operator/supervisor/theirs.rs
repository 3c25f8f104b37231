//! Files where the server's user may have put anything: data directories, tablespaces, sockets. Each is read and written with
//! the rights of that user, so that a link which it made leads only where it may go itself; and no read has no end.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOCTTY, O_NONBLOCK};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Most bytes of a file that is read.
const BYTES: u64 = 1 << 20;
/// Most names of a directory that are read.
const NAMES: usize = 10_000;
/// Levels of directories whose sizes are added; a data directory has six.
const LEVELS: u32 = 32;

/// The user whose rights are used.
#[derive(Debug, Clone, Copy)]
pub struct Theirs {
    /// User `postgres`.
    pub uid: Uid,
    /// Its group.
    pub gid: Gid,
}

/// The rights of this thread before; it has them again when this is dropped.
struct Before(Uid, Gid);

impl Drop for Before {
    fn drop(&mut self) {
        setfsuid(self.0);
        setfsgid(self.1);
    }
}

impl Theirs {
    /// Does this with the rights of the user.
    fn with_rights<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let gid = setfsgid(self.gid);
        let _before = Before(setfsuid(self.uid), gid);
        // Neither call tells of a failure. An ID that nobody has changes nothing, and the answer is the one in force.
        let nobody = u32::MAX;
        if (setfsuid(Uid::from_raw(nobody)), setfsgid(Gid::from_raw(nobody))) != (self.uid, self.gid) {
            return Err(io::Error::other("the supervisor may not take the rights of the server's user"));
        }
        work()
    }

    /// The content of a regular file of at most 1 MiB. A pipe or a device is an error and holds nothing up.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.read_at_most(path, BYTES)
    }

    /// The same of a file of at most `most` bytes.
    pub fn read_at_most(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.with_rights(|| {
            let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("not a regular file"));
            }
            let mut content = Vec::new();
            match file.take(most.saturating_add(1)).read_to_end(&mut content)? as u64 > most {
                true => Err(io::Error::other(format!("larger than {} MiB", most >> 20))),
                false => Ok(content),
            }
        })
    }

    /// The same as text; empty if there is none.
    pub fn text(&self, path: &Path) -> String {
        self.read(path).map(|content| String::from_utf8_lossy(&content).into_owned()).unwrap_or_default()
    }

    /// Puts a new file of that user in the place of whatever has this name; a link there is replaced, not followed.
    pub fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        let beside = path.with_extension("new");
        self.remove(&beside)?;
        self.with_rights(|| {
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, path)
        })
    }

    /// Makes a new file of that user for writing; one that exists, or a link, is an error.
    pub fn create(&self, path: &Path) -> io::Result<fs::File> {
        self.with_rights(|| OpenOptions::new().create_new(true).write(true).mode(0o600).open(path))
    }

    /// Gives a file another name, also that of another file, which it replaces.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.with_rights(|| fs::rename(from, to))
    }

    /// Removes a file or a link, if it exists.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        present(self.with_rights(|| fs::remove_file(path)))
    }

    /// Removes a folder with everything in it, if it exists.
    pub fn remove_folder(&self, path: &Path) -> io::Result<()> {
        present(self.with_rights(|| fs::remove_dir_all(path)))
    }

    /// Names in a folder; none if it cannot be read.
    pub fn names(&self, folder: &Path) -> Vec<OsString> {
        self.names_ending(folder, "", NAMES)
    }

    /// Names in a folder that end so, at most `most` of them; none if it cannot be read.
    pub fn names_ending(&self, folder: &Path, end: &str, most: usize) -> Vec<OsString> {
        let names = self.with_rights(|| {
            let names = fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
            Ok(names.filter(|name| name.as_encoded_bytes().ends_with(end.as_bytes())).take(most).collect::<Vec<_>>())
        });
        names.unwrap_or_default()
    }

    /// The targets of the links in a folder.
    pub fn links(&self, folder: &Path) -> Vec<PathBuf> {
        let target = |name| self.with_rights(|| fs::read_link(folder.join(name))).ok();
        self.names(folder).into_iter().filter_map(target).collect()
    }

    /// Whether the path exists, for that user.
    pub fn exists(&self, path: &Path) -> bool {
        self.with_rights(|| path.try_exists()).unwrap_or(false)
    }

    /// Whether the path certainly does not exist: a disk that does not answer has lost nothing yet.
    pub fn is_gone(&self, path: &Path) -> bool {
        self.with_rights(|| path.try_exists()).is_ok_and(|exists| !exists)
    }

    /// Bytes of a file; 0 if there is none.
    pub fn length(&self, path: &Path) -> u64 {
        self.with_rights(|| Ok(fs::symlink_metadata(path)?.len())).unwrap_or_default()
    }

    /// Bytes of the files below a directory.
    pub fn size(&self, path: &Path) -> u64 {
        self.with_rights(|| Ok(size_of(path, LEVELS))).unwrap_or_default()
    }
}

/// Removes a directory of the server, which lies in a folder of root. std opens each folder below without following links.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    present(fs::remove_dir_all(path))
}

/// What does not exist needs no removal.
fn present(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn size_of(path: &Path, levels: u32) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && levels > 0 => size_of(&entry.path(), levels - 1),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn own() -> (tempfile::TempDir, Theirs) {
        (tempfile::tempdir().unwrap(), Theirs { uid: Uid::current(), gid: Gid::current() })
    }

    /// Regression 150: the supervisor, which is root, wrote and chowned through a link that user postgres had made in its data
    /// directory, and so gave any file of the container away. `supervisor_docker.rs` has the attack.
    #[test]
    fn a_file_takes_the_place_of_a_link_and_the_target_stays() {
        let (folder, theirs) = own();
        let (target, link) = (folder.path().join("canary"), folder.path().join("standby.signal"));
        fs::write(&target, "untouched").unwrap();
        symlink(&target, &link).unwrap();
        symlink(&target, link.with_extension("new")).unwrap();
        theirs.write(&link, "ours").unwrap();
        assert_eq!((theirs.text(&link), theirs.text(&target)), ("ours".into(), "untouched".into()));
        theirs.remove_folder(&link).unwrap_err();
        theirs.remove(&link).unwrap();
        assert!(theirs.is_gone(&link) && theirs.exists(&target));
    }

    /// Regression 151: a named pipe in the place of a file of the data directory held the supervisor up for ever, and a huge
    /// file filled its memory.
    #[test]
    fn a_pipe_and_a_huge_file_are_refused_and_a_thread_gets_its_rights_back() {
        let (folder, theirs) = own();
        let (pipe, huge) = (folder.path().join("pipe"), folder.path().join("huge"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::File::create(&huge).unwrap().set_len(BYTES + 1).unwrap();
        let said = [&pipe, &huge, Path::new("/dev/zero")].map(|path| theirs.read(path).unwrap_err().to_string());
        assert_eq!(said, ["not a regular file", "larger than 1 MiB", "not a regular file"]);
        let before = setfsuid(Uid::from_raw(u32::MAX));
        assert_eq!(before, Uid::current());
    }
}
