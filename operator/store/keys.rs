//! The files with the keys that seal Secrets: a given one first, then the operator's own, which is created if no other is
//! given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::private_file;
use super::seal::{self, KeyError, Seal};

/// The files with keys.
#[derive(Debug)]
pub struct KeyFiles {
    given: Option<PathBuf>,
    own: PathBuf,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {doing} the key file {}", path.display())]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("the key file {} cannot be used", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The operators that a node joins keep their keys in a file of the user's.
    #[error(
        "the operators there seal Secrets with a key file of their own; give this node the same file by --encryption-key-file"
    )]
    NotSent,
    /// The keys are in a file that this program does not write.
    #[error(
        "the keys are in {0}: put a new key on its first line (head -c 32 /dev/urandom | base64), keep the others, and restart the operator; it seals everything with the new key when it starts, and then you can remove the others"
    )]
    Given(PathBuf),
}

impl KeyFiles {
    /// The files of a data directory and a file of the user's.
    pub fn new(data_dir: &Path, given: Option<PathBuf>) -> Self {
        Self { given, own: data_dir.join("pki/secrets.key") }
    }

    /// The file whose first key seals.
    pub fn first(&self) -> &Path {
        self.given.as_deref().unwrap_or(&self.own)
    }

    /// Reads the keys; makes the first one if none was given.
    pub fn read_or_make(&self) -> Result<Seal, Error> {
        if self.given.is_none() && is_missing(&read(&self.own)) {
            self.write(&seal::new_key())?;
        }
        self.read()
    }

    /// Reads the keys. Keys of the own file still open when a file is given, so that it can be given at any time.
    pub fn read(&self) -> Result<Seal, Error> {
        self.read_with(read(&self.own))
    }

    /// The keys of a node that joins and will have this text in its own file.
    pub fn joining(&self, own: Option<&str>) -> Result<Seal, Error> {
        self.read_with(own.map(str::to_owned).ok_or(Error::NotSent))
    }

    fn read_with(&self, own: Result<String, Error>) -> Result<Seal, Error> {
        let given = self.given.as_deref().map(|path| read(path).and_then(|text| parse(path, &text)));
        let own = match own {
            missing if given.is_some() && is_missing(&missing) => None,
            text => Some(parse(&self.own, &text?)?),
        };
        let all = given.transpose()?.into_iter().chain(own);
        Ok(all.reduce(Seal::and).expect("one of them was read"))
    }

    /// Whether this program makes new keys; else they are in a file of the user's.
    pub fn renews(&self) -> bool {
        self.given.is_none()
    }

    /// Puts a new key on the first line of the own file; the others still open.
    pub fn renew(&self) -> Result<(), Error> {
        match &self.given {
            Some(path) => Err(Error::Given(path.clone())),
            None => self.write(&(seal::new_key() + &read(&self.own)?)),
        }
    }

    /// Keeps only the first key of the own file.
    pub fn forget(&self) -> Result<(), Error> {
        let text = read(&self.own)?;
        self.write(&format!("{}\n", text.lines().next().unwrap_or_default()))
    }

    fn write(&self, text: &str) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "write", path: self.own.clone(), source };
        private_file::write(&self.own, text).map_err(failed)
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::File { doing: "read", path: path.to_owned(), source })
}

fn is_missing(text: &Result<String, Error>) -> bool {
    match text {
        Err(Error::File { source, .. }) => source.kind() == io::ErrorKind::NotFound,
        Err(Error::NotSent) => true,
        _ => false,
    }
}

fn parse(path: &Path, text: &str) -> Result<Seal, Error> {
    Seal::parse(text).map_err(|source| Error::Keys { path: path.to_owned(), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_own_key_is_made_once_and_private_and_none_is_made_beside_a_given_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pki")).unwrap();
        let (given, own) = (folder.path().join("given"), folder.path().join("pki/secrets.key"));
        fs::write(&given, seal::new_key()).unwrap();
        let with_given = KeyFiles::new(folder.path(), Some(given));
        assert_eq!(with_given.read_or_make().unwrap().ids().len(), 1);
        assert!(!own.exists());

        let files = KeyFiles::new(folder.path(), None);
        assert!(files.read().is_err() && !own.exists(), "who only looks makes no key");
        let ids = files.read_or_make().unwrap().ids();
        assert_eq!(files.read_or_make().unwrap().ids(), ids);
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
        let all = with_given.read().unwrap().ids();
        assert_eq!((all.len(), all.last()), (2, ids.first()), "the given one seals, both open");
    }

    #[test]
    fn a_renewed_key_is_the_first_and_the_old_one_stays_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pki")).unwrap();
        let files = KeyFiles::new(folder.path(), None);
        let old = files.read_or_make().unwrap().ids();
        files.renew().unwrap();
        let both = files.read().unwrap().ids();
        assert!(both.len() == 2 && both[0] != old[0] && both[1] == old[0]);
        files.forget().unwrap();
        assert_eq!(files.read().unwrap().ids(), both[..1]);
        let given = KeyFiles::new(folder.path(), Some("/etc/kek".into())).renew().unwrap_err().to_string();
        assert!(given.starts_with("the keys are in /etc/kek: put a new key on its first line"), "{given}");
    }
}
