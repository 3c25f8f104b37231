//! Reads what an archive holds: lists and small objects.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};

use crate::archive::catalog::{Catalog, Intent};
use crate::archive::history::{HISTORY, History};
use crate::archive::info::{BackupInfo, INFO};
use crate::archive::names::{self, Segment};
use crate::archive::store::{Error, Listed, Store};

/// Objects of an archive at most: 16 TiB of WAL.
const OBJECTS: usize = 4_000_000;
/// Keys of one list.
const PAGE: usize = 10_000;
/// Small objects that are read at the same time.
const PARALLEL: usize = 8;
/// The data directory of a base backup, as a compressed tar in frames; and their index.
pub const DATA_FILE: &str = "data.tar.zst";
/// See [`DATA_FILE`].
pub const FRAMES_FILE: &str = "frames.json";
/// The file of a base backup that says that it is complete, and that it was begun.
pub const INFO_FILE: &str = "backup.info";
/// See [`INFO_FILE`].
pub const INTENT_FILE: &str = ".running";
/// It is kept whatever the retention says; barman's file of this meaning.
pub const KEEP_FILE: &str = "annotations/keep";
/// The key of [`crate::archive::catalog::Latest`].
pub const LATEST: &str = "latest.json";

/// Reads the whole archive. What is unusable in it becomes a problem of the catalog and no error.
pub async fn survey(store: &Store) -> Result<Catalog, Error> {
    let mut catalog = Catalog::default();
    let (mut infos, mut intents) = (Vec::new(), Vec::new());
    each_object(store, "base", |found| {
        let Some((id, file)) = found.key.strip_prefix("base/").and_then(|rest| rest.split_once('/')) else { return };
        match file {
            INFO_FILE => infos.push(id.to_owned()),
            INTENT_FILE => intents.push(id.to_owned()),
            KEEP_FILE => drop(catalog.kept.insert(id.to_owned())),
            _ => {}
        }
    })
    .await?;
    for (id, text) in texts(store, &infos, |id| names::base_key(id, INFO_FILE), INFO).await? {
        match BackupInfo::parse(&id, &text) {
            Ok(info) => catalog.add_backup(info),
            Err(error) => catalog.problems.push(error.to_string()),
        }
    }
    for (id, text) in texts(store, &intents, |id| names::base_key(id, INTENT_FILE), INFO).await? {
        let intent: Intent = serde_json::from_str(&text).unwrap_or_default();
        catalog.running.push(Intent { id, ..intent });
    }
    each_object(store, "timelines", |found| catalog.add_key(&found.key)).await?;
    let mut timelines = Vec::new();
    each_object(store, "wals", |found| match names::history_of_key(&found.key) {
        Some(timeline) => timelines.push(timeline),
        None => catalog.add_key(&found.key),
    })
    .await?;
    for (timeline, text) in texts(store, &timelines, |timeline| names::history_key(*timeline), HISTORY).await? {
        match History::parse(timeline, &text) {
            Ok(history) => drop(catalog.histories.insert(timeline, history)),
            Err(error) => catalog.problems.push(error.to_string()),
        }
    }
    let latest = store.get(LATEST, INFO).await?;
    catalog.latest = latest.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(catalog)
}

/// The terms in which each timeline was begun, ascending, as far as anyone has claimed it.
pub async fn claims(store: &Store) -> Result<BTreeMap<u32, Vec<u64>>, Error> {
    let mut catalog = Catalog::default();
    each_object(store, "timelines", |found| catalog.add_key(&found.key)).await?;
    Ok(catalog.claims)
}

/// All objects of a folder, in the order of their keys.
pub async fn each_object(store: &Store, folder: &str, mut each: impl FnMut(&Listed)) -> Result<(), Error> {
    let mut after: Option<String> = None;
    for _ in 0..OBJECTS / PAGE {
        let page = store.list(folder, after.as_deref(), PAGE).await?;
        page.iter().for_each(&mut each);
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => return Ok(()),
        }
    }
    Err(store.broken(folder, &format!("it has more than {OBJECTS} objects")))
}

/// The texts of these objects; those that have vanished meanwhile are left out.
async fn texts<T: Clone>(
    store: &Store,
    of: &[T],
    key: impl Fn(&T) -> String,
    limit: u64,
) -> Result<Vec<(T, String)>, Error> {
    let reads = futures::stream::iter(of.iter().map(|one| (one.clone(), key(one))).collect::<Vec<_>>()).map(
        |(one, key)| async move {
            let text = store.get(&key, limit).await?;
            Ok::<_, Error>(text.map(|text| (one, String::from_utf8_lossy(&text).into_owned())))
        },
    );
    reads.buffered(PARALLEL).try_filter_map(|found| async move { Ok(found) }).try_collect().await
}

/// The first segment from `first` to `last` that is not in the archive; `None` if all are there.
pub async fn first_missing(
    store: &Store,
    first: Segment,
    last: Segment,
    segment_size: u64,
) -> Result<Option<Segment>, Error> {
    let mut wanted = first;
    // A key that is just before that of the first segment.
    let mut after = first.key().trim_end_matches(|letter| letter != '/').to_owned();
    if first.number(segment_size) > 0 {
        let before = Segment::before(first.timeline, first.start(segment_size), segment_size);
        after = before.key();
    }
    loop {
        let page = store.list("wals", Some(&after), PAGE).await?;
        for segment in page.iter().filter_map(|object| names::segment_of_key(&object.key)) {
            if segment > wanted {
                return Ok(Some(wanted));
            }
            if segment == wanted {
                if wanted >= last {
                    return Ok(None);
                }
                wanted = wanted.next(segment_size);
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = last.key.clone(),
            _ => return Ok(Some(wanted)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::api::lsn::Lsn;
    use crate::archive::access::{Store as Where, StoreAccess};
    use crate::archive::tests::{SIZE, backup};

    async fn store(folder: &std::path::Path, keys: &[(String, String)]) -> Store {
        let path = folder.to_str().unwrap().to_owned();
        let store =
            Store::open(&StoreAccess { hash: String::new(), store: Where::Directory { path }, encryption: None })
                .unwrap();
        for (key, text) in keys {
            store.put(key, Bytes::from(text.clone())).await.unwrap();
        }
        store
    }

    fn wal(timeline: u32, number: u64) -> Segment {
        Segment::at(timeline, Lsn(number * SIZE), SIZE)
    }

    #[tokio::test]
    async fn an_archive_is_read_and_what_is_unusable_in_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let info = backup(1, 1, (1, 2), 100);
        let store = store(
            folder.path(),
            &[
                (names::base_key(&info.id, INFO_FILE), info.render()),
                (names::base_key("20261128T000002", INFO_FILE), "status=FAILED".into()),
                (names::base_key("20261128T000003", INTENT_FILE), r#"{"attempt":2,"begin":"0/200028"}"#.into()),
                (wal(1, 1).key(), String::new()),
                (wal(1, 2).key(), String::new()),
                (names::history_key(2), "1\t0/300000\tx".into()),
                (names::claim_key(2, 7), "{}".into()),
                (names::base_key(&info.id, KEEP_FILE), "full".into()),
                (LATEST.into(), r#"{"lsn":"0/2FFFFF","time":"2026-11-28T01:00:00Z"}"#.into()),
            ],
        )
        .await;
        let catalog = survey(&store).await.unwrap();
        assert_eq!((catalog.backups.as_slice(), &catalog.wal[&1]), (&[info.clone()][..], &vec![(1, 2)]));
        assert_eq!(catalog.problems, ["base/20261128T000002/backup.info: its status is \"FAILED\""]);
        assert_eq!((catalog.running[0].attempt, catalog.running[0].begin), (2, Some(Lsn(0x20_0028))));
        assert_eq!(catalog.kept, [info.id].into());
        assert_eq!((catalog.histories.len(), catalog.newest_timeline()), (1, Some(2)));
        assert_eq!(catalog.latest.unwrap().lsn, Lsn(0x2F_FFFF));
    }

    #[tokio::test]
    async fn the_first_segment_that_is_missing_is_found() {
        let folder = tempfile::tempdir().unwrap();
        // 4,096 segments of 1 MiB have one folder.
        let keys: Vec<_> = [0, 4094, 4095, 4096, 4098].map(|number| (wal(1, number).key(), String::new())).into();
        let store = store(folder.path(), &keys).await;
        store.put("wals/00000001.history", Bytes::new()).await.unwrap();
        let missing = async |from, to| first_missing(&store, wal(1, from), wal(1, to), SIZE).await.unwrap();
        assert_eq!(missing(4094, 4096).await, None);
        assert_eq!((missing(0, 0).await, missing(4098, 4098).await), (None, None));
        assert_eq!(missing(4094, 4098).await, Some(wal(1, 4097)));
        assert_eq!(missing(0, 1).await, Some(wal(1, 1)));
        assert_eq!(missing(5000, 5001).await, Some(wal(1, 5000)));
        assert_eq!(first_missing(&store, wal(2, 0), wal(2, 0), SIZE).await, Ok(Some(wal(2, 0))));
    }
}
