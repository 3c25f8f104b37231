//! The promises of every store, tested on each of them; and SQLite against the model with random histories.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use evenkeel::store::{Change, Error, Expect, Key, MemoryStore, Seal, SqliteStore, Store, Watch, revision_of};
use futures::StreamExt;
use futures::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Number of changes that the stores under test remember.
const WINDOW: u64 = 600;

/// Runs each test on each store.
macro_rules! contract {
    ($($sentence:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $sentence() {
                super::$sentence(&super::MemoryStore::with_window(super::WINDOW)).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $sentence() {
                let folder = tempfile::tempdir().unwrap();
                let store = super::open(&folder).await;
                super::$sentence(&store).await;
                store.close().await;
            })*
        }
    };
}

contract! {
    a_new_store_is_empty_at_revision_0
    a_write_stamps_the_next_revision
    creating_twice_is_refused
    writing_over_a_newer_state_is_refused
    writing_or_deleting_nothing_is_refused
    a_deletion_returns_the_last_state_at_its_own_revision
    a_list_is_ordered_and_true_at_its_revision
    a_list_of_an_earlier_revision_is_as_it_was_then
    what_cannot_be_stored_is_refused_and_counts_no_revision
    of_many_writers_of_one_state_one_wins
    a_watch_tells_what_was_then_what_comes
    a_watch_sees_one_resource_and_one_namespace
    a_watch_that_starts_amid_writes_misses_none_and_repeats_none
    a_reader_that_is_far_behind_still_gets_every_change
    a_compacted_revision_cannot_be_watched_from
    the_window_forgets_the_oldest_changes
    a_reader_overtaken_by_compaction_is_told_and_ends
    a_future_revision_cannot_be_watched_from
    all_is_everything_in_order_of_keys
    what_an_owner_owns_is_found_as_it_is_now
}

async fn open(folder: &TempDir) -> SqliteStore {
    SqliteStore::open_with_window(folder.path().join("store.db"), seal(), WINDOW).await.unwrap()
}

/// A key that is the same each time.
fn seal() -> Seal {
    Seal::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

fn object(text: impl Into<Value>) -> Value {
    json!({"metadata": {}, "text": text.into()})
}

async fn create(store: &impl Store, key: &Key, text: &str) -> u64 {
    revision_of(&store.put(key, Expect::Absent, object(text)).await.unwrap()).unwrap()
}

async fn next(watch: &mut Watch) -> Option<Result<Change, Error>> {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("the watch says something in time")
}

/// The next change as text: revision, name, text before, text after.
async fn told(watch: &mut Watch) -> String {
    let change = next(watch).await.unwrap().unwrap();
    let text =
        |side: Option<Arc<Value>>| side.map_or("-".to_owned(), |value| value["text"].as_str().unwrap().to_owned());
    format!("{} {} {} {}", change.revision, change.key, text(change.old), text(change.new))
}

async fn a_new_store_is_empty_at_revision_0(store: &impl Store) {
    assert_eq!(store.revision().await.unwrap(), 0);
    assert_eq!(store.list("secrets", None).await.unwrap(), (vec![], 0));
    assert_eq!(store.get(&key("secrets", "a", "b")).await.unwrap(), None);
}

async fn a_write_stamps_the_next_revision(store: &impl Store) {
    let key = key("secrets", "default", "a");
    let first = store.put(&key, Expect::Absent, object("one")).await.unwrap();
    assert_eq!(first, json!({"metadata": {"resourceVersion": "1"}, "text": "one"}));
    let second = store.put(&key, Expect::Revision(1), object("two")).await.unwrap();
    assert_eq!(revision_of(&second), Some(2));
    assert_eq!(store.get(&key).await.unwrap(), Some(second));
    assert_eq!(store.revision().await.unwrap(), 2);
}

async fn creating_twice_is_refused(store: &impl Store) {
    let key = key("secrets", "default", "a");
    create(store, &key, "one").await;
    let error = store.put(&key, Expect::Absent, object("two")).await.unwrap_err();
    assert_eq!(error.to_string(), "secrets/default/a already exists");
    assert_eq!(store.get(&key).await.unwrap().unwrap()["text"], "one");
}

async fn writing_over_a_newer_state_is_refused(store: &impl Store) {
    let key = key("secrets", "default", "a");
    create(store, &key, "one").await;
    store.put(&key, Expect::Revision(1), object("two")).await.unwrap();
    let refused = "secrets/default/a was changed by someone else (expected resourceVersion 1, found 2)";
    let error = store.put(&key, Expect::Revision(1), object("three")).await.unwrap_err();
    assert_eq!(error.to_string(), refused);
    let error = store.delete(&key, 1).await.unwrap_err();
    assert_eq!(error.to_string(), refused);
    assert_eq!(store.get(&key).await.unwrap().unwrap()["text"], "two");
}

async fn writing_or_deleting_nothing_is_refused(store: &impl Store) {
    let key = key("secrets", "default", "a");
    let error = store.put(&key, Expect::Revision(1), object("one")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = store.delete(&key, 1).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

async fn a_deletion_returns_the_last_state_at_its_own_revision(store: &impl Store) {
    let key = key("secrets", "default", "a");
    create(store, &key, "one").await;
    let removed = store.delete(&key, 1).await.unwrap();
    assert_eq!(removed, json!({"metadata": {"resourceVersion": "2"}, "text": "one"}));
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert_eq!(create(store, &key, "again").await, 3);
}

async fn a_list_is_ordered_and_true_at_its_revision(store: &impl Store) {
    for (namespace, name) in [("b", "x"), ("a", "y"), ("a", "x"), ("", "z")] {
        create(store, &key("secrets", namespace, name), &format!("{namespace}/{name}")).await;
    }
    create(store, &key("secretsx", "a", "x"), "another resource").await;
    let texts = |list: Vec<Arc<Value>>| list.iter().map(|value| value["text"].as_str().unwrap().to_owned()).collect();
    let (everywhere, revision) = store.list("secrets", None).await.unwrap();
    let everywhere: Vec<String> = texts(everywhere);
    assert_eq!((everywhere.join(" "), revision), ("/z a/x a/y b/x".to_owned(), 5));
    let (one, revision) = store.list("secrets", Some("a")).await.unwrap();
    let one: Vec<String> = texts(one);
    assert_eq!((one.join(" "), revision), ("a/x a/y".to_owned(), 5));
    assert_eq!(store.list("secrets", Some("none")).await.unwrap(), (vec![], 5));
}

async fn a_list_of_an_earlier_revision_is_as_it_was_then(store: &impl Store) {
    let key = |name| key("secrets", "a", name);
    create(store, &key("kept"), "old").await;
    create(store, &key("gone"), "old").await;
    let then = create(store, &self::key("secrets", "b", "elsewhere"), "old").await;
    let before = store.list("secrets", None).await.unwrap();
    store.put(&key("kept"), Expect::Revision(1), object("new")).await.unwrap();
    store.put(&key("kept"), Expect::Revision(4), object("newer")).await.unwrap();
    store.delete(&key("gone"), 2).await.unwrap();
    create(store, &key("late"), "new").await;
    let at = async |namespace, revision| {
        let (found, at) = store.list_at(&["secrets"], namespace, Some(revision)).await?;
        Ok::<_, Error>((found.into_iter().map(|(_, value)| value).collect::<Vec<_>>(), at))
    };
    assert_eq!(at(None, then).await.unwrap(), before);
    assert_eq!(at(Some("a"), then).await.unwrap().0, before.0[..2]);
    assert_eq!(at(None, 7).await.unwrap(), store.list("secrets", None).await.unwrap());
    assert!(matches!(at(None, 8).await, Err(Error::Future { newest: 7, .. })));
    store.compact(4).await.unwrap();
    assert!(matches!(at(None, then).await, Err(Error::Compacted { oldest: 4, .. })));
    assert_eq!(at(None, 4).await.unwrap().0.len(), 3);
}

async fn what_cannot_be_stored_is_refused_and_counts_no_revision(store: &impl Store) {
    let good = key("secrets", "default", "a");
    for (key, value) in [
        (&good, json!("text")),
        (&good, json!({"text": "no metadata"})),
        (&key("secrets", "default", ""), object("no name")),
        (&key("", "default", "a"), object("no resource")),
    ] {
        let error = store.put(key, Expect::Absent, value.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{value}: {error}");
    }
    assert_eq!(store.revision().await.unwrap(), 0);
}

async fn of_many_writers_of_one_state_one_wins(store: &impl Store) {
    let key = key("secrets", "default", "a");
    create(store, &key, "zero").await;
    let write = |writer: usize| store.put(&key, Expect::Revision(1), object(writer.to_string()));
    let outcomes = join_all((0..20).map(write)).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    for error in lost {
        assert!(matches!(error, Err(Error::Conflict { expected: 1, found: Some(2), .. })), "{error:?}");
    }
    assert_eq!(store.get(&key).await.unwrap(), won.into_iter().next().unwrap().ok());
}

async fn a_watch_tells_what_was_then_what_comes(store: &impl Store) {
    let (a, b) = (key("secrets", "default", "a"), key("secrets", "default", "b"));
    create(store, &a, "one").await;
    store.put(&a, Expect::Revision(1), object("two")).await.unwrap();
    let mut from_the_start = store.watch("secrets", None, 0).await.unwrap();
    let mut from_the_middle = store.watch("secrets", None, 1).await.unwrap();
    store.delete(&a, 2).await.unwrap();
    create(store, &b, "three").await;
    assert_eq!(told(&mut from_the_start).await, "1 secrets/default/a - one");
    for watch in [&mut from_the_start, &mut from_the_middle] {
        assert_eq!(told(watch).await, "2 secrets/default/a one two");
        assert_eq!(told(watch).await, "3 secrets/default/a two -");
        assert_eq!(told(watch).await, "4 secrets/default/b - three");
    }
}

async fn a_watch_sees_one_resource_and_one_namespace(store: &impl Store) {
    let mut wide = store.watch("secrets", None, 0).await.unwrap();
    let mut narrow = store.watch("secrets", Some("b"), 0).await.unwrap();
    for (resource, namespace) in [("events", "b"), ("secrets", "a"), ("secrets", "b")] {
        create(store, &key(resource, namespace, "x"), "one").await;
    }
    assert_eq!(told(&mut wide).await, "2 secrets/a/x - one");
    assert_eq!(told(&mut wide).await, "3 secrets/b/x - one");
    assert_eq!(told(&mut narrow).await, "3 secrets/b/x - one");
    let mut later = store.watch("secrets", Some("b"), 0).await.unwrap();
    assert_eq!(told(&mut later).await, "3 secrets/b/x - one");
}

async fn a_watch_that_starts_amid_writes_misses_none_and_repeats_none(store: &impl Store) {
    let keys: Vec<Key> = (0..400).map(|index| key("secrets", "default", &format!("s{index:03}"))).collect();
    let writes = join_all(keys.iter().map(|key| store.put(key, Expect::Absent, object("x"))));
    let watch = async {
        while store.revision().await.unwrap() < 50 {
            tokio::task::yield_now().await;
        }
        let mut watch = store.watch("secrets", None, 10).await.unwrap();
        let mut seen = Vec::new();
        while seen.last() != Some(&400) {
            seen.push(next(&mut watch).await.unwrap().unwrap().revision);
        }
        seen
    };
    let (outcomes, seen) = tokio::join!(writes, watch);
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(seen, (11..=400).collect::<Vec<u64>>());
}

async fn a_reader_that_is_far_behind_still_gets_every_change(store: &impl Store) {
    let mut watch = store.watch("secrets", None, 0).await.unwrap();
    write_many(store, 500).await;
    for revision in 1..=500 {
        assert_eq!(next(&mut watch).await.unwrap().unwrap().revision, revision);
    }
}

async fn a_compacted_revision_cannot_be_watched_from(store: &impl Store) {
    write_many(store, 5).await;
    store.compact(3).await.unwrap();
    let error = store.watch("secrets", None, 2).await.err().unwrap();
    assert_eq!(error.to_string(), "resourceVersion 2 is too old; the oldest that can be watched from is 3");
    let mut watch = store.watch("secrets", None, 3).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().unwrap().revision, 4);
    // The compaction never goes back, and never beyond the newest revision.
    store.compact(1).await.unwrap();
    store.compact(99).await.unwrap();
    let error = store.watch("secrets", None, 4).await.err().unwrap();
    assert!(matches!(error, Error::Compacted { oldest: 5, .. }), "{error}");
    assert_eq!(store.list("secrets", None).await.unwrap().0.len(), 5);
}

async fn the_window_forgets_the_oldest_changes(store: &impl Store) {
    write_many(store, WINDOW + 7).await;
    let error = store.watch("secrets", None, 6).await.err().unwrap();
    assert!(matches!(error, Error::Compacted { oldest: 7, .. }), "{error}");
    let mut watch = store.watch("secrets", None, 7).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().unwrap().revision, 8);
}

async fn a_reader_overtaken_by_compaction_is_told_and_ends(store: &impl Store) {
    let mut watch = store.watch("secrets", None, 0).await.unwrap();
    write_many(store, 300).await;
    store.compact(299).await.unwrap();
    let error = next(&mut watch).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Compacted { since: 0, oldest: 299 }), "{error}");
    assert!(next(&mut watch).await.is_none());
}

async fn what_an_owner_owns_is_found_as_it_is_now(store: &impl Store) {
    let owned = |uids: &[&str]| {
        let references: Vec<Value> = uids.iter().map(|uid| json!({"uid": uid})).collect();
        json!({"metadata": {"ownerReferences": references}})
    };
    let found = async |uid: &str| {
        let found = store.owned_by(uid).await.unwrap();
        found.iter().map(|(key, value)| format!("{key}@{}", revision_of(value).unwrap())).collect::<Vec<_>>().join(" ")
    };
    let (a, b) = (key("toys", "n", "a"), key("secrets", "n", "b"));
    store.put(&a, Expect::Absent, owned(&["one", "two", "one"])).await.unwrap();
    store.put(&b, Expect::Absent, owned(&["one"])).await.unwrap();
    create(store, &key("toys", "n", "free"), "of nobody").await;
    let odd = json!({"metadata": {"ownerReferences": {"uid": "one"}}});
    store.put(&key("toys", "n", "odd"), Expect::Absent, odd).await.unwrap();
    assert_eq!(found("one").await, "secrets/n/b@2 toys/n/a@1");
    assert_eq!((found("two").await, found("on").await), ("toys/n/a@1".to_owned(), String::new()));
    store.put(&a, Expect::Revision(1), owned(&["two", "three"])).await.unwrap();
    assert_eq!((found("one").await, found("three").await), ("secrets/n/b@2".to_owned(), "toys/n/a@5".to_owned()));
    // A refused write changes nothing.
    store.put(&a, Expect::Revision(1), owned(&["one"])).await.unwrap_err();
    store.delete(&b, 2).await.unwrap();
    assert_eq!((found("one").await, found("two").await), (String::new(), "toys/n/a@5".to_owned()));
    store.delete(&a, 5).await.unwrap();
    assert_eq!((found("two").await, found("three").await), (String::new(), String::new()));
}

async fn a_future_revision_cannot_be_watched_from(store: &impl Store) {
    write_many(store, 2).await;
    for since in [3, u64::MAX] {
        let error = store.watch("secrets", None, since).await.err().unwrap();
        assert!(matches!(error, Error::Future { newest: 2, .. }), "{error}");
    }
}

async fn all_is_everything_in_order_of_keys(store: &impl Store) {
    for (resource, namespace, name) in [("secrets", "b", "x"), ("events", "z", "x"), ("hosts", "", "x")] {
        create(store, &key(resource, namespace, name), name).await;
    }
    let keys: Vec<String> = store.all().await.unwrap().iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys.join(" "), "events/z/x hosts/x secrets/b/x");
}

async fn write_many(store: &impl Store, count: u64) {
    let keys: Vec<Key> = (0..count).map(|index| key("secrets", "default", &format!("s{index}"))).collect();
    for outcome in join_all(keys.iter().map(|key| store.put(key, Expect::Absent, object("x")))).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn what_sqlite_was_told_is_there_after_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    write_many(&store, 5).await;
    store.delete(&key("secrets", "default", "s0"), 1).await.unwrap();
    store.compact(4).await.unwrap();
    let before = (store.all().await.unwrap(), store.revision().await.unwrap());
    store.close().await;

    let store = open(&folder).await;
    assert_eq!((store.all().await.unwrap(), store.revision().await.unwrap()), before);
    let mut watch = store.watch("secrets", None, 4).await.unwrap();
    assert_eq!(told(&mut watch).await, "5 secrets/default/s4 - x");
    assert_eq!(told(&mut watch).await, "6 secrets/default/s0 x -");
    let error = store.watch("secrets", None, 3).await.err().unwrap();
    assert!(matches!(error, Error::Compacted { oldest: 4, .. }), "{error}");
    assert_eq!(create(&store, &key("secrets", "default", "new"), "x").await, 7);
    store.close().await;
}

#[tokio::test]
async fn a_closed_sqlite_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let mut watch = store.watch("secrets", None, 0).await.unwrap();
    store.close().await;
    let error = store.put(&key("secrets", "default", "a"), Expect::Absent, object("x")).await.unwrap_err();
    assert!(matches!(error, Error::Backend { doing: "writing", .. }), "{error}");
    drop(store);
    assert!(next(&mut watch).await.is_none());
}

#[tokio::test]
async fn a_second_operator_on_the_same_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let error = SqliteStore::open(folder.path().join("store.db"), seal()).await.unwrap_err();
    assert!(error.to_string().contains("is in use by another evenkeel operator"), "{error}");
    store.close().await;
    open(&folder).await.close().await;
}

#[tokio::test]
async fn the_files_of_sqlite_are_readable_by_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    write_many(&store, 1).await;
    let mut modes: Vec<(String, u32)> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().permissions().mode() & 0o777))
        .collect();
    modes.sort();
    let names: Vec<&str> = modes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["store.db", "store.db-shm", "store.db-wal", "store.db.lock"]);
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
    store.close().await;
}

#[tokio::test]
async fn a_write_whose_caller_gave_up_is_still_told_to_watches() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let mut watch = store.watch("secrets", None, 0).await.unwrap();
    let abandoned = key("secrets", "default", "a");
    let put = store.put(&abandoned, Expect::Absent, object("x"));
    // Polled once, so that the writer has the request, and then dropped.
    assert!(futures::FutureExt::now_or_never(put).is_none());
    assert_eq!(told(&mut watch).await, "1 secrets/default/a - x");
    store.close().await;
}

/// One call of a random history. There are few keys and revisions, so that calls conflict.
#[derive(Debug, Clone)]
enum Call {
    Create(usize),
    /// Update at the key's revision, minus this number.
    Update(usize, u64),
    Delete(usize, u64),
    Compact(u64),
    List(Option<&'static str>),
    ListAt(u64),
    Watch(u64),
}

const KEYS: [(&str, &str, &str); 4] =
    [("secrets", "a", "x"), ("secrets", "a", "y"), ("secrets", "b", "x"), ("events", "a", "x")];

fn any_call() -> impl Strategy<Value = Call> {
    let stale = prop_oneof![4 => Just(0u64), 1 => 1..3u64];
    prop_oneof![
        4 => (0..KEYS.len()).prop_map(Call::Create),
        6 => (0..KEYS.len(), stale.clone()).prop_map(|(key, stale)| Call::Update(key, stale)),
        3 => (0..KEYS.len(), stale).prop_map(|(key, stale)| Call::Delete(key, stale)),
        1 => (0..30u64).prop_map(Call::Compact),
        1 => prop_oneof![Just(None), Just(Some("a"))].prop_map(Call::List),
        2 => (0..30u64).prop_map(Call::ListAt),
        2 => (0..30u64).prop_map(Call::Watch),
    ]
}

/// Makes the call; returns the result as text.
async fn make(store: &impl Store, call: &Call) -> String {
    let key_of = |index: usize| key(KEYS[index].0, KEYS[index].1, KEYS[index].2);
    let revision = async |index| match store.get(&key_of(index)).await.unwrap() {
        Some(value) => revision_of(&value).unwrap(),
        None => 1,
    };
    match *call {
        Call::Create(index) => format!("{:?}", store.put(&key_of(index), Expect::Absent, object("new")).await),
        Call::Update(index, stale) => {
            let expect = Expect::Revision(revision(index).await.saturating_sub(stale));
            format!("{:?}", store.put(&key_of(index), expect, object("changed")).await)
        }
        Call::Delete(index, stale) => {
            let expected = revision(index).await.saturating_sub(stale);
            format!("{:?}", store.delete(&key_of(index), expected).await)
        }
        Call::Compact(through) => format!("{:?}", store.compact(through).await),
        Call::List(namespace) => format!("{:?}", store.list("secrets", namespace).await),
        Call::ListAt(at) => format!("{:?}", store.list_at(&["secrets", "events"], None, Some(at)).await),
        Call::Watch(since) => {
            // The end mark is written first: if it were written later, it could push the watch out of the window.
            let mark = key("secrets", "", "mark");
            let revision = create(store, &mark, "mark").await;
            store.delete(&mark, revision).await.unwrap();
            match store.watch("secrets", None, since).await {
                Err(error) => format!("{error:?}"),
                Ok(watch) => replay(watch, since, revision + 1).await,
            }
        }
    }
}

/// All events of the watch up to a revision.
async fn replay(mut watch: Watch, since: u64, through: u64) -> String {
    let mut told = String::new();
    let mut at = since;
    while at < through {
        let change = next(&mut watch).await.unwrap().unwrap();
        told.push_str(&format!("{change:?}\n"));
        at = change.revision;
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn sqlite_does_what_the_model_does(calls in proptest::collection::vec(any_call(), 1..60), window in 3..20u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store.db");
            let sqlite = SqliteStore::open_with_window(&path, seal(), window).await.unwrap();
            let model = MemoryStore::with_window(window);
            for call in &calls {
                assert_eq!(make(&sqlite, call).await, make(&model, call).await, "{call:?}");
            }
            assert_eq!(sqlite.all().await.unwrap(), model.all().await.unwrap());
            assert_eq!(sqlite.revision().await.unwrap(), model.revision().await.unwrap());
            sqlite.close().await;
        });
    }
}
