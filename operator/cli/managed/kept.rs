//! What a data directory keeps about this node's member of etcd: one file.

use std::path::{Path, PathBuf};

use crate::cli::error::{Error, failed};
use crate::etcd::member::Member;
use crate::store::private_file;

/// The file, in the folder `pki`.
pub const FILE: &str = "etcd-member.json";

/// The member of this data directory, if it has one.
pub fn read(dir: &Path) -> Result<Option<Member>, Error> {
    let path = file(dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(failed(|| format!("{} is damaged", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { doing: format!("read {}", path.display()), source }),
    }
}

/// Keeps it.
pub fn write(dir: &Path, member: &Member) -> Result<(), Error> {
    let path = file(dir);
    let written = private_file::write(&path, &text(member)?);
    written.map_err(|source| Error::Io { doing: format!("write {}", path.display()), source })
}

/// The text of the file.
pub fn text(member: &Member) -> Result<String, Error> {
    serde_json::to_string(member).map_err(failed(|| "cannot keep the member of etcd".to_owned()))
}

fn file(dir: &Path) -> PathBuf {
    dir.join("pki").join(FILE)
}
