//! What a data directory that is not in use has of its past: logical slots of a former primary, links to tablespaces.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::place::Place;

/// Names of the logical slots of a directory that was a primary's: nothing advances them on a standby, and each holds back
/// WAL and dead rows for ever. A standby's own slots are left alone.
pub fn logical_slots(place: &Place) -> Vec<String> {
    let (theirs, pgdata) = (place.theirs(), place.pgdata());
    if theirs.exists(&pgdata.join("standby.signal")) {
        return Vec::new();
    }
    let slots = pgdata.join("pg_replslot");
    let state = |slot: &OsString| theirs.read(&slots.join(slot).join("state"));
    let names = theirs.names(&slots).into_iter().filter(|slot| state(slot).is_ok_and(|state| is_logical(&state)));
    let mut names: Vec<String> = names.map(|slot| slot.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The file of a slot: four words, 64 bytes of name, then the id of the slot's database. A physical slot has none.
fn is_logical(state: &[u8]) -> bool {
    state.get(80..84).is_some_and(|database| database != [0; 4])
}

/// The directories of tablespaces, by the links to them.
pub fn tablespaces(place: &Place, data: &Path) -> Vec<PathBuf> {
    place.theirs().links(&data.join("pg_tblspc"))
}

/// The directory of a tablespace that replay misses, in the server's last words.
pub fn missing_directory(fatal: &str) -> Option<&Path> {
    let path = fatal.strip_prefix("directory \"")?.strip_suffix("\" does not exist")?;
    path.starts_with('/').then(|| Path::new(path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 121: a former primary kept its logical slots as a standby. Nothing advanced them there, so WAL and dead
    /// rows were kept until the disk was full, and nobody was told that the new primary has no such slot.
    #[test]
    fn the_logical_slots_of_a_former_primary_are_found_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        for (name, database) in [("cdc", 16_384_u32), ("evenkeel_2", 0), ("archive", 0)] {
            let slot = folder.path().join("pgdata/pg_replslot").join(name);
            std::fs::create_dir_all(&slot).unwrap();
            let mut state = vec![1; 80];
            state.extend(database.to_ne_bytes());
            std::fs::write(slot.join("state"), state).unwrap();
        }
        let place = Place::at(folder.path());
        assert_eq!(logical_slots(&place), ["cdc"]);
        std::fs::write(folder.path().join("pgdata/standby.signal"), "").unwrap();
        assert_eq!(logical_slots(&place), Vec::<String>::new());
    }

    /// Regression 122: a tablespace was made in a directory of the primary's container. The standbys ended at its replay,
    /// again and again, and commits waited for ever.
    #[test]
    fn the_directory_that_replay_misses_is_read_from_the_last_words() {
        assert_eq!(missing_directory("directory \"/srv/fast\" does not exist"), Some(Path::new("/srv/fast")));
        assert_eq!(missing_directory("directory \"relative\" does not exist"), None);
        assert_eq!(missing_directory("could not access file \"x\": No such file or directory"), None);
    }
}
