//! Writes all files of a volume as a tar archive. What changes while it is read is noticed.
//!
//! It has files, directories, symlinks and hard links with owner, group, mode and time of change to the second. Sockets, FIFOs and
//! devices are left out and counted; extended attributes and ACLs are left out. Holes of a file are written as zeros.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use tar::{Builder, EntryType, Header};

use crate::archive::volumes::Tally;
use crate::supervisor::porter::MARKER;

/// The longest target of a symlink that is in a header as it is.
const SHORT: usize = 100;

/// A volume cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something in it could not be read, or the archive could not be written.
    #[error("{}: {source}", .path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody writes.
    #[error("{} changed while it was read: something still writes into the volume", .0.display())]
    Changed(PathBuf),
    /// A restore has not ended.
    #[error("the volume has the file {MARKER}: a restore into it has not ended")]
    Partial,
}

/// Counts what is in the volume, without reading it.
pub fn count(root: &Path) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    walk(root, |_, _, metadata| {
        add(&mut tally, metadata);
        Ok(())
    })?;
    Ok(tally)
}

/// Writes the archive of the volume at `root`.
pub fn pack(root: &Path, out: impl Write) -> Result<Tally, Error> {
    let (mut tally, mut builder) = (Tally::default(), Builder::new(out));
    // By device and number, the first name of each file that has several.
    let mut linked: HashMap<(u64, u64), PathBuf> = HashMap::new();
    walk(root, |path, name, metadata| {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        add(&mut tally, metadata);
        let (kind, mut header) = (metadata.file_type(), header(metadata));
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, name.join(""), io::empty()).map_err(failed)
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            let target = std::fs::read_link(path).map_err(failed)?;
            match target.as_os_str().len() <= SHORT {
                true => header
                    .set_link_name_literal(target.as_os_str().as_bytes())
                    .and_then(|()| builder.append_data(&mut header, name, io::empty())),
                false => builder.append_link(&mut header, name, &target),
            }
            .map_err(failed)
        } else if kind.is_file() {
            let id = (metadata.dev(), metadata.ino());
            if let Some(first) = linked.get(&id) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return builder.append_link(&mut header, name, first).map_err(failed);
            }
            if metadata.nlink() > 1 {
                linked.insert(id, name.to_owned());
            }
            file(&mut builder, header, path, name, metadata)
        } else {
            Ok(())
        }
    })?;
    let end = |source| Error::Read { path: root.to_owned(), source };
    builder.into_inner().and_then(|mut out| out.flush()).map_err(end)?;
    Ok(tally)
}

/// Whether the archive has it.
fn is_kept(metadata: &Metadata) -> bool {
    let kind = metadata.file_type();
    !(kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device())
}

fn add(tally: &mut Tally, metadata: &Metadata) {
    if !is_kept(metadata) {
        tally.left_out += 1;
        return;
    }
    tally.entries += 1;
    tally.bytes += if metadata.is_file() { metadata.len() } else { 0 };
}

fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or_default());
    header
}

/// Calls `each` for everything below `root`, a directory before what is in it: with its path, its name in the archive, and what it
/// is.
fn walk(root: &Path, mut each: impl FnMut(&Path, &Path, &Metadata) -> Result<(), Error>) -> Result<(), Error> {
    if root.join(MARKER).symlink_metadata().is_ok() {
        return Err(Error::Partial);
    }
    let mut left = vec![PathBuf::from(".")];
    while let Some(name) = left.pop() {
        let path = if name == Path::new(".") { root.to_owned() } else { root.join(&name) };
        let failed = |source| Error::Read { path: path.clone(), source };
        let metadata = path.symlink_metadata().map_err(failed)?;
        each(&path, &name, &metadata)?;
        if metadata.is_dir() {
            let names: io::Result<Vec<_>> = path.read_dir().map_err(failed)?.map(|one| Ok(one?.file_name())).collect();
            let mut names = names.map_err(failed)?;
            names.sort_by(|one, other| other.cmp(one));
            let inside = |inner: &OsStr| if name == Path::new(".") { PathBuf::from(inner) } else { name.join(inner) };
            left.extend(names.iter().map(|inner| inside(inner)));
        }
    }
    Ok(())
}

/// Appends a file, exactly as long as it was found.
fn file(
    builder: &mut Builder<impl Write>,
    mut header: Header,
    path: &Path,
    name: &Path,
    found: &Metadata,
) -> Result<(), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    // Never through a symlink that has come into its place.
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let look = |file: &File| file.metadata().map_err(failed);
    let same = |now: &Metadata| {
        let of = |one: &Metadata| (one.dev(), one.ino(), one.len(), one.mtime(), one.mtime_nsec());
        now.is_file() && of(now) == of(found)
    };
    if !same(&look(&file)?) {
        return Err(Error::Changed(path.to_owned()));
    }
    header.set_entry_type(EntryType::Regular);
    header.set_size(found.len());
    let mut content = Exactly { file: &file, left: found.len(), short: false };
    let appended = builder.append_data(&mut header, name, &mut content);
    if content.short || !same(&look(&file)?) {
        return Err(Error::Changed(path.to_owned()));
    }
    appended.map_err(failed)
}

/// So many bytes of a file, or an error.
struct Exactly<'a> {
    file: &'a File,
    left: u64,
    short: bool,
}

impl Read for Exactly<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let read = self.file.read(&mut out[..most])?;
        self.short = read == 0 && most > 0;
        self.left -= read as u64;
        if self.short { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(read) }
    }
}
