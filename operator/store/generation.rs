//! The generation of a store: how often the objects went over into another store. It is the upper part of the epochs of its
//! operators, so that those of a newer store are above all of an older one.

use std::io;
use std::path::Path;

use super::private_file;

/// Bits of an epoch below the generation: a revision of etcd.
const BITS: u32 = 40;
/// The file in the data directory with the highest generation that its operator has worked with.
const FILE: &str = "pki/generation";

/// The epoch of a leadership that began at this revision of a store.
pub fn epoch(generation: u64, revision: u64) -> u64 {
    generation.saturating_mul(1 << BITS).saturating_add(revision)
}

/// The generation of a store whose objects come from one of this generation, in this data directory: above both that and the
/// highest that was used here, because an old snapshot may be restored twice.
pub fn next(source: u64, dir: &Path) -> io::Result<u64> {
    Ok(source.max(noted(dir)?) + 1)
}

/// Remembers that this generation is used in a data directory.
pub fn note(dir: &Path, generation: u64) -> io::Result<()> {
    if generation <= noted(dir)? {
        return Ok(());
    }
    private_file::write(&dir.join(FILE), generation.to_string())
}

fn noted(dir: &Path) -> io::Result<u64> {
    match std::fs::read_to_string(dir.join(FILE)) {
        Ok(text) => text.trim().parse().map_err(|_| io::Error::other(format!("{FILE} is damaged: it holds no number"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 474: an epoch was a revision of etcd. Supervisors refused the operators over a new or restored etcd, whose
    /// revisions begin low again, and every single operator, for ever.
    #[test]
    fn every_epoch_of_a_newer_store_is_above_all_of_an_older_one() {
        assert_eq!((epoch(0, 0), epoch(0, 7)), (0, 7), "a store that was never copied has the epochs of before");
        assert!(epoch(1, 0) > epoch(0, (1 << BITS) - 1) && epoch(2, 1) > epoch(1, 1_000_000));
    }

    /// Regression 475, found before its release: a snapshot that was restored twice gave the same generation twice, and the second
    /// etcd began below the first one's epochs.
    #[test]
    fn a_generation_is_used_once_in_a_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        assert_eq!(next(0, dir.path()).unwrap(), 1);
        note(dir.path(), 1).unwrap();
        note(dir.path(), 0).unwrap();
        assert_eq!((next(0, dir.path()).unwrap(), next(5, dir.path()).unwrap()), (2, 6));
        std::fs::write(dir.path().join(FILE), "x").unwrap();
        assert!(next(0, dir.path()).is_err());
    }
}
