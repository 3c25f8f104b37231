//! The Sentinel's folder on the volume: its file is written once; one of another group is kept beside it.

use std::io;
use std::path::PathBuf;

use crate::supervisor::theirs::Theirs;

/// The Sentinel's file.
const FILE: &str = "sentinel.conf";
/// Files of other groups that are kept.
const KEPT: usize = 2;

/// The folder. It belongs to the server's user, because a Sentinel replaces its file by a new one.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Its path.
    pub path: PathBuf,
    /// The rights of the server's user.
    pub theirs: Theirs,
}

impl Folder {
    /// The path of sentinel.conf.
    pub fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Whether there is a sentinel.conf with something in it. One that cannot be read is there.
    pub fn has_file(&self) -> bool {
        match self.theirs.read(&self.file()) {
            Ok(content) => !content.trim_ascii().is_empty(),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Writes the first file. Only a missing file is written.
    pub fn write(&self, text: &str) -> io::Result<()> {
        if self.has_file() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a sentinel.conf"));
        }
        self.theirs.write(&self.file(), text)
    }

    /// Puts sentinel.conf aside as `sentinel.conf.old-N`, and removes all but the newest of these.
    pub fn set_aside(&self) -> io::Result<()> {
        if !self.has_file() {
            return Ok(());
        }
        let prefix = format!("{FILE}.old-");
        let names = self.theirs.names(&self.path);
        let number = |name: &std::ffi::OsString| name.to_str()?.strip_prefix(&prefix)?.parse::<u64>().ok();
        let mut old: Vec<u64> = names.iter().filter_map(number).collect();
        old.sort_unstable();
        let next = old.last().map_or(1, |last| last.saturating_add(1));
        let text = self.theirs.read(&self.file())?;
        self.theirs.write(&self.path.join(format!("{prefix}{next}")), &String::from_utf8_lossy(&text))?;
        self.theirs.remove(&self.file())?;
        for number in old.iter().rev().skip(KEPT - 1) {
            self.theirs.remove(&self.path.join(format!("{prefix}{number}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use nix::unistd::{Gid, Uid};

    use super::*;

    /// Regression 386: a file that could not be read was taken for none, and a new one was written over the Sentinel's id and
    /// its epochs. An empty one, as a full disk leaves it, is none.
    #[test]
    fn a_file_that_cannot_be_read_is_there_and_an_empty_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = Theirs { uid: Uid::current(), gid: Gid::current() };
        let of = Folder { path: folder.path().to_owned(), theirs };
        std::fs::write(of.file(), " \n").unwrap();
        assert!(!of.has_file());
        std::fs::write(of.file(), vec![b'x'; 2 << 20]).unwrap();
        assert!(of.has_file() && of.write("new").is_err() && of.set_aside().is_err());
        assert_eq!(std::fs::metadata(of.file()).unwrap().len(), 2 << 20);
    }

    #[test]
    fn a_file_is_written_once_and_two_of_other_groups_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = Theirs { uid: Uid::current(), gid: Gid::current() };
        let folder_of = Folder { path: folder.path().to_owned(), theirs };
        assert!(!folder_of.has_file());
        folder_of.set_aside().unwrap();
        for group in ["a", "b", "c", "d"] {
            folder_of.write(group).unwrap();
            assert!(folder_of.has_file());
            assert!(folder_of.write("again").is_err(), "it is never written over");
            folder_of.set_aside().unwrap();
        }
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["sentinel.conf.old-3", "sentinel.conf.old-4"]);
        assert_eq!(std::fs::read_to_string(folder.path().join("sentinel.conf.old-4")).unwrap(), "d");
    }
}
