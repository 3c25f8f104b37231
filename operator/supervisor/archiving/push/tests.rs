//! Pushes into a directory that already has an object of the same name, in the clear or encrypted.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::archive::access::{ArchiveAccess, Identities, Store as Where, StoreAccess};
use crate::supervisor::archiving::decide::Lineage;
use crate::supervisor::place::Place;

/// Keys that everybody knows.
const ONE: &str = "AGE-SECRET-KEY-1VXCGKQ9LF4U2DLYP3TCJA2PYRZX7TFWJ2AQVARYG7YDY3F5JA8JQM7NUL3";
/// See [`ONE`].
const TWO: &str = "AGE-SECRET-KEY-1F5K3XH5HQ3FAX7PK7AXCZK93U85WNM8RHA8G5A6D82NW7WESJ0HQ67G932";
const KEY: &str = "wals/0000000100000000/000000010000000000000001.zst";

/// An archive whose timeline 1 this leader began in term 2.
struct Archive {
    folder: tempfile::TempDir,
}

impl Archive {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn access(&self, keys: Option<&str>) -> ArchiveAccess {
        let store = Where::Directory { path: self.folder.path().to_str().unwrap().to_owned() };
        let encryption = keys.map(|keys| Identities(keys.to_owned()));
        ArchiveAccess { access: StoreAccess { hash: String::new(), store, encryption }, path: "here.db/7-1".into() }
    }

    fn store(&self, keys: Option<&str>) -> Store {
        Store::open_archive(&self.access(keys)).unwrap()
    }

    /// An older leader, which is gone, began the timeline as well.
    async fn began_in_term_1(&self) {
        self.store(None).put(&names::claim_key(1, 1), "{}".into()).await.unwrap();
    }

    /// Pushes this content as a leader with these keys; what is told, and the keys of the archive afterwards.
    async fn push(&self, keys: Option<&str>, content: &'static str) -> String {
        let shared = Arc::new(Shared::new(Place::at(self.folder.path())));
        let lineage = Lineage { timeline: 1, terms: [(1, 2)].into(), ..Lineage::default() };
        let guard = Guard {
            ordered: true,
            archive: Some("here.db/7-1".into()),
            leads: true,
            term: 2,
            lineage: Some(lineage),
            ..Guard::default()
        };
        let archives = Arc::new(Archives::default().with_own(self.access(keys)));
        shared.guard.send_replace(guard.clone());
        shared.archives.send_replace(Some(archives.clone()));
        let mut leader = Leader { shared: &shared, guard, archives, store: self.store(keys), mixed: false };
        leader.mixed = leader.note_key().await.unwrap();
        let file =
            File { key: KEY.into(), timeline: 1, content: Bytes::from_static(content.as_bytes()), is_sealed: true };
        let done = leader.put(file, |found| found == content.as_bytes()).await;
        let mut there = Vec::new();
        for folder in ["orphans", "wals"] {
            for found in leader.store.list(folder, None, 9).await.unwrap() {
                let all = self.store(Some(&format!("{ONE}\n{TWO}")));
                let content = all.unsealed(&found.key, &all.get(&found.key, 9999).await.unwrap().unwrap()).unwrap();
                let name =
                    found.key.replace("wals/0000000100000000/0000000100000000", "").replace("0000000000000001.", "1.");
                there.push(format!("{name}: {}", String::from_utf8_lossy(&content)));
            }
        }
        let told = done.err().and_then(|error| error.problem()).map_or("pushed".to_owned(), |problem| problem.reason);
        format!("{told}; {}", there.join(", "))
    }
}

/// Encryption is switched on, its key is changed, it is switched off: what was pushed and not noted is offered again.
#[tokio::test]
async fn a_file_that_is_there_in_the_other_form_is_not_stored_again_and_stops_nothing() {
    let archive = Archive::new();
    assert_eq!(archive.push(None, "a").await, "pushed; 00000001.zst: a");
    assert_eq!(archive.push(Some(ONE), "a").await, "pushed; 00000001.zst: a");
    let archive = Archive::new();
    assert_eq!(archive.push(Some(ONE), "a").await, "pushed; 00000001.zst.age: a");
    assert_eq!(archive.push(Some(ONE), "a").await, "pushed; 00000001.zst.age: a");
    assert_eq!(archive.push(Some(&format!("{TWO}\n{ONE}")), "a").await, "pushed; 00000001.zst.age: a");
    // Whether it is the same is not known; its name is taken.
    assert_eq!(archive.push(Some(TWO), "a").await, "KeyMissing; 00000001.zst.age: a");
    // Without any key: the other name is free.
    assert_eq!(archive.push(None, "a").await, "pushed; 00000001.zst: a, 00000001.zst.age: a");
}

/// I17, for the name of a file in either form.
#[tokio::test]
async fn other_content_of_this_lineage_is_a_conflict_and_that_of_an_older_one_gives_way() {
    for (first, second) in [(None, Some(ONE)), (Some(ONE), Some(ONE)), (None, None)] {
        let archive = Archive::new();
        let before = archive.push(first, "old").await;
        assert_eq!(archive.push(second, "new").await, before.replace("pushed", "ArchiveConflict"));
        archive.began_in_term_1().await;
        let there = |keys: Option<&str>| if keys.is_some() { "1.zst.age" } else { "1.zst" };
        let expected = format!("pushed; orphans/1/0000000{}: old, 0000000{}: new", there(first), there(second));
        assert_eq!(archive.push(second, "new").await.replace("0000000000000001/", "1/"), expected);
    }
    // Not even its key is needed for that.
    let archive = Archive::new();
    archive.push(Some(ONE), "old").await;
    archive.began_in_term_1().await;
    assert!(archive.push(Some(TWO), "new").await.ends_with("00000001.zst.age: new"));
}
