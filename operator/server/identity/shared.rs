//! What the operators over one store have in common: read for a node that joins, and written on that node, completely or not
//! at all.

use std::fs;
use std::io;
use std::path::Path;

use super::{Authority, Error, private_file, private_folder, write_private};
use crate::api::join::{Bundle, CA, ETCD, ETCD_CA, ETCD_CA_KEY, FILES};

/// The folder that the files are written into first.
const NEW: &str = "pki.new";

impl Authority {
    /// The files that every operator has; `None` if this one shares its store with nobody.
    pub fn bundle(&self) -> Result<Option<Bundle>, Error> {
        let _turn = crate::api::sync::lock(&self.nodes);
        if self.pki.read(ETCD)?.is_none() {
            return Ok(None);
        }
        let mut bundle = Bundle { files: Default::default(), members: None };
        for name in FILES {
            if let Some(text) = self.pki.read(name)? {
                bundle.files.insert(name.to_owned(), text);
            }
        }
        Ok(Some(bundle))
    }
}

/// Writes the files of an operator that has none yet.
pub fn install(dir: &Path, bundle: &Bundle) -> Result<(), Error> {
    let (new, pki) = (dir.join(NEW), dir.join("pki"));
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { doing, path, source }
    };
    // An attempt that was interrupted may have left it.
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &new)(error)),
        _ => {}
    }
    private_folder(&new)?;
    for (name, text) in &bundle.files {
        write_private(&new.join(name), text)?;
    }
    fs::rename(&new, &pki).map_err(failed("write", &pki))?;
    private_file::sync(dir).map_err(failed("write", dir))
}

/// What each operator makes anew if it is missing: all of its keys and certificates but that of the Secrets, and its token.
const RENEWED: [&str; 13] = [
    "token",
    "token.old",
    "nodes.json",
    "ca.key",
    CA,
    "client-ca.key",
    "client-ca.crt",
    "server.key",
    "server.crt",
    ETCD_CA_KEY,
    ETCD_CA,
    "etcd.key",
    "etcd.crt",
];

/// Removes the identity of a stopped operator: the next start makes another one. A key goes before its certificate: after an
/// interruption, none of the old keys is taken for a new one.
pub fn remove(dir: &Path) -> Result<(), Error> {
    for name in RENEWED {
        let path = dir.join("pki").join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(|source| Error::File { doing: "remove", path, source })?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::prepare;
    use super::*;
    use crate::api::join::CA;
    use crate::runtime::SystemClock;

    #[test]
    fn a_second_operator_has_the_first_ones_authorities_and_token_and_a_certificate_of_its_own() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |address: &str| address.parse().unwrap();
        let first = prepare(one.path(), at("10.0.0.1:7443"), &[], &SystemClock).unwrap().authority;
        assert!(first.bundle().unwrap().is_none(), "its store is its own");
        fs::write(one.path().join("pki").join(ETCD), "{}").unwrap();
        let bundle = first.bundle().unwrap().unwrap();
        assert_eq!(bundle.problem(), None);

        // What an interrupted attempt has left does not matter.
        fs::create_dir(other.path().join(NEW)).unwrap();
        fs::write(other.path().join(NEW).join("rubbish"), "").unwrap();
        install(other.path(), &bundle).unwrap();
        let second = prepare(other.path(), at("10.0.0.2:7443"), &[], &SystemClock).unwrap();
        let read = |dir: &tempfile::TempDir, name: &str| fs::read_to_string(dir.path().join("pki").join(name)).unwrap();
        for name in [CA, "ca.key", "client-ca.key", "token"] {
            assert_eq!(read(&one, name), read(&other, name), "{name}");
        }
        assert!(read(&one, "server.key") != read(&other, "server.key"), "a key of its own");
        assert_eq!(second.authority.reached().as_deref(), Some("10.0.0.2:7443"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&other.path().join("pki")), 0o700);
        let names = fs::read_dir(other.path().join("pki")).unwrap().map(|entry| entry.unwrap().path());
        assert!(names.map(|path| mode(&path)).all(|mode| mode == 0o600));
        assert!(!other.path().join(NEW).exists() && !other.path().join("pki/rubbish").exists());
    }

    /// Regression 448, found before its release: files written one after the other could leave a folder with the CA's certificate
    /// and without its key, and the next start made another key. A folder that is there already is not written to.
    #[test]
    fn nothing_is_written_over_an_identity_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path(), "10.0.0.1:7443".parse().unwrap(), &[], &SystemClock).unwrap();
        let ca = fs::read_to_string(dir.path().join("pki/ca.key")).unwrap();
        let bundle = Bundle { files: [("ca.key".to_owned(), "another".to_owned())].into(), members: None };
        assert!(install(dir.path(), &bundle).is_err());
        assert_eq!(fs::read_to_string(dir.path().join("pki/ca.key")).unwrap(), ca);
    }
}
