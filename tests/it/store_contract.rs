//! The promises of every store, tested on each of them; and SQLite against the model with random histories.
//!
//! A revision grows with each write; it need not begin at 0 or be the next number, since other writers and other keys of an
//! etcd count, too. It is what the write returns, what a read shows, and what a watch tells. The stores on etcd need
//! EVENKEEL_TEST_DOCKER=1 and an etcd (`scripts/ensure-etcd.sh`).
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use evenkeel::store::{Change, Error, Expect, Key, MemoryStore, Seal, SqliteStore, Store, Watch, revision_of};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Number of changes that the stores under test remember.
const WINDOW: u64 = 600;

/// Runs each test on each store: `all` at the same time; those that `compact` alone, because an etcd is compacted for all its
/// users; `window`: not on etcd, which forgets by age.
macro_rules! contract {
    (all: [$($all:ident)*] compact: [$($compact:ident)*] window: [$($window:ident)*]) => {
        mod memory {
            $(#[tokio::test] async fn $all() {
                super::$all(&super::MemoryStore::with_window(super::WINDOW)).await;
            })*
            $(#[tokio::test] async fn $compact() {
                super::$compact(&super::MemoryStore::with_window(super::WINDOW)).await;
            })*
            $(#[tokio::test] async fn $window() {
                super::$window(&super::MemoryStore::with_window(super::WINDOW)).await;
            })*
        }
        mod sqlite {
            contract!(@sqlite $($all)* $($compact)* $($window)*);
        }
        mod etcd {
            $(#[tokio::test] async fn $all() {
                let Some(bench) = crate::etcd::shared(stringify!($all)).await else { return };
                super::$all(&bench.store().await).await;
            })*
            $(#[tokio::test] async fn $compact() {
                let Some(bench) = crate::etcd::alone(stringify!($compact)).await else { return };
                super::$compact(&bench.store().await).await;
            })*
        }
    };
    (@sqlite $($sentence:ident)*) => {
        $(#[tokio::test] async fn $sentence() {
            let folder = tempfile::tempdir().unwrap();
            let store = super::open(&folder).await;
            super::$sentence(&store).await;
            store.close().await;
        })*
    };
}

contract! {
    all: [
        a_new_store_is_empty
        a_write_stamps_a_greater_revision
        creating_twice_is_refused
        writing_over_a_newer_state_is_refused
        writing_or_deleting_nothing_is_refused
        a_deletion_returns_the_last_state_at_its_own_revision
        a_list_is_ordered_and_true_at_its_revision
        a_list_of_an_earlier_revision_is_as_it_was_then
        a_list_of_several_resources_is_one_snapshot
        a_long_list_is_whole_and_ordered
        what_cannot_be_stored_is_refused_and_is_not_there
        of_many_writers_of_one_state_one_wins
        a_watch_tells_what_was_then_what_comes
        a_watch_sees_one_resource_and_one_namespace
        a_watch_of_several_resources_sees_them_in_order
        a_watch_that_starts_amid_writes_misses_none_and_repeats_none
        a_reader_that_is_far_behind_still_gets_every_change
        a_future_revision_cannot_be_watched_from
        all_is_everything_in_order_of_keys
        what_an_owner_owns_is_found_as_it_is_now
    ]
    compact: [
        a_compacted_revision_can_be_neither_listed_nor_watched_from
        a_reader_overtaken_by_compaction_is_told_and_ends
    ]
    window: [
        the_window_forgets_the_oldest_changes
    ]
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

/// The next change: its revision, and name, text before and text after.
async fn told(watch: &mut Watch) -> (u64, String) {
    let change = next(watch).await.unwrap().unwrap();
    let text =
        |side: Option<Arc<Value>>| side.map_or("-".to_owned(), |value| value["text"].as_str().unwrap().to_owned());
    (change.revision, format!("{} {} {}", change.key, text(change.old), text(change.new)))
}

/// [`told`] as it is expected.
fn tells(revision: u64, text: &str) -> (u64, String) {
    (revision, text.to_owned())
}

/// Writes a newer state; returns its revision.
async fn update(store: &impl Store, key: &Key, revision: u64, text: &str) -> u64 {
    revision_of(&store.put(key, Expect::Revision(revision), object(text)).await.unwrap()).unwrap()
}

/// Removes the object; returns the revision of the deletion.
async fn remove(store: &impl Store, key: &Key, revision: u64) -> u64 {
    revision_of(&store.delete(key, revision).await.unwrap()).unwrap()
}

async fn a_new_store_is_empty(store: &impl Store) {
    let before = store.revision().await.unwrap();
    let (found, revision) = store.list("secrets", None).await.unwrap();
    assert!(found.is_empty() && revision >= before, "{found:?} {revision} {before}");
    assert_eq!(store.get(&key("secrets", "a", "b")).await.unwrap(), None);
}

async fn a_write_stamps_a_greater_revision(store: &impl Store) {
    let key = key("secrets", "default", "a");
    let before = store.revision().await.unwrap();
    let mut watch = store.watch("secrets", None, before).await.unwrap();
    let first = store.put(&key, Expect::Absent, object("one")).await.unwrap();
    let at = revision_of(&first).unwrap();
    assert_eq!(first, json!({"metadata": {"resourceVersion": at.to_string()}, "text": "one"}));
    let second = store.put(&key, Expect::Revision(at), object("two")).await.unwrap();
    let then = revision_of(&second).unwrap();
    assert!(before < at && at < then && then <= store.revision().await.unwrap(), "{before} {at} {then}");
    assert_eq!(store.get(&key).await.unwrap(), Some(second));
    assert_eq!((told(&mut watch).await.0, told(&mut watch).await.0), (at, then));
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
    let one = create(store, &key, "one").await;
    let two = update(store, &key, one, "two").await;
    let refused =
        format!("secrets/default/a was changed by someone else (expected resourceVersion {one}, found {two})");
    let error = store.put(&key, Expect::Revision(one), object("three")).await.unwrap_err();
    assert_eq!(error.to_string(), refused);
    let error = store.delete(&key, one).await.unwrap_err();
    assert_eq!(error.to_string(), refused);
    assert_eq!(store.get(&key).await.unwrap().unwrap()["text"], "two");
}

async fn writing_or_deleting_nothing_is_refused(store: &impl Store) {
    let key = key("secrets", "default", "a");
    for revision in [0, 1] {
        let error = store.put(&key, Expect::Revision(revision), object("one")).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        let error = store.delete(&key, revision).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}

async fn a_deletion_returns_the_last_state_at_its_own_revision(store: &impl Store) {
    let key = key("secrets", "default", "a");
    let created = create(store, &key, "one").await;
    let removed = store.delete(&key, created).await.unwrap();
    let gone = revision_of(&removed).unwrap();
    assert!(gone > created, "{gone} {created}");
    assert_eq!(removed, json!({"metadata": {"resourceVersion": gone.to_string()}, "text": "one"}));
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(create(store, &key, "again").await > gone);
}

async fn a_list_is_ordered_and_true_at_its_revision(store: &impl Store) {
    for (namespace, name) in [("b", "x"), ("a", "y"), ("a-b", "x"), ("a", "x"), ("", "z")] {
        create(store, &key("secrets", namespace, name), &format!("{namespace}/{name}")).await;
    }
    let last = create(store, &key("secretsx", "a", "x"), "another resource").await;
    let texts = |list: Vec<Arc<Value>>| {
        list.iter().map(|value| value["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (namespace, expected) in
        [(None, "/z a/x a/y a-b/x b/x"), (Some("a"), "a/x a/y"), (Some(""), "/z"), (Some("none"), "")]
    {
        let (found, revision) = store.list("secrets", namespace).await.unwrap();
        assert_eq!(texts(found), expected);
        assert!(revision >= last, "{revision} {last}");
    }
}

async fn a_list_of_an_earlier_revision_is_as_it_was_then(store: &impl Store) {
    let key = |name| key("secrets", "a", name);
    let kept = create(store, &key("kept"), "old").await;
    let gone = create(store, &key("gone"), "old").await;
    let then = create(store, &self::key("secrets", "b", "elsewhere"), "old").await;
    let before = store.list("secrets", None).await.unwrap().0;
    let kept = update(store, &key("kept"), kept, "new").await;
    update(store, &key("kept"), kept, "newer").await;
    remove(store, &key("gone"), gone).await;
    let last = create(store, &key("late"), "new").await;
    let at = async |namespace, revision| listed(store, namespace, revision).await;
    assert_eq!(at(None, then).await.unwrap(), (before.clone(), then));
    assert_eq!(at(Some("a"), then).await.unwrap().0, before[..2]);
    assert_eq!(at(None, last).await.unwrap().0, store.list("secrets", None).await.unwrap().0);
    let future = last + FAR;
    assert!(
        matches!(at(None, future).await, Err(Error::Future { since, newest }) if since == future && newest >= last)
    );
}

/// Further than all other writers of an etcd get during a test.
const FAR: u64 = 1_000_000;

/// The Secrets at a revision.
async fn listed(store: &impl Store, namespace: Option<&str>, revision: u64) -> Result<(Vec<Arc<Value>>, u64), Error> {
    let (found, at) = store.list_at(&["secrets"], namespace, Some(revision)).await?;
    Ok((found.into_iter().map(|(_, value)| value).collect(), at))
}

async fn a_list_of_several_resources_is_one_snapshot(store: &impl Store) {
    for (resource, name) in [("toys", "a"), ("cars", "b"), ("boats", "c"), ("toys", "b")] {
        create(store, &key(resource, "n", name), name).await;
    }
    let names =
        |found: &[(Key, Arc<Value>)]| found.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>().join(" ");
    let (found, at) = store.list_of(&["toys", "cars", "toys"], None).await.unwrap();
    assert_eq!(names(&found), "cars/n/b toys/n/a toys/n/b");
    create(store, &key("cars", "n", "late"), "late").await;
    assert_eq!(store.list_at(&["toys", "cars"], None, Some(at)).await.unwrap(), (found, at));
}

/// More than the objects of one page of any store.
async fn a_long_list_is_whole_and_ordered(store: &impl Store) {
    write_many(store, 590).await;
    let found = store.list_of(&["secrets"], None).await.unwrap().0;
    assert_eq!(found.len(), 590);
    assert!(found.is_sorted_by(|one, other| one.0 < other.0));
}

async fn what_cannot_be_stored_is_refused_and_is_not_there(store: &impl Store) {
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
    assert_eq!(store.get(&good).await.unwrap(), None);
}

async fn of_many_writers_of_one_state_one_wins(store: &impl Store) {
    let key = key("secrets", "default", "a");
    let zero = create(store, &key, "zero").await;
    let write = |writer: usize| store.put(&key, Expect::Revision(zero), object(writer.to_string()));
    let outcomes = join_all((0..20).map(write)).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    let won = won.into_iter().next().unwrap().unwrap();
    for error in lost.into_iter().map(Result::unwrap_err) {
        let right =
            matches!(error, Error::Conflict { expected, found, .. } if expected == zero && found == revision_of(&won));
        assert!(right, "{error:?}");
    }
    assert_eq!(store.get(&key).await.unwrap(), Some(won));
}

async fn a_watch_tells_what_was_then_what_comes(store: &impl Store) {
    let (a, b) = (key("secrets", "default", "a"), key("secrets", "default", "b"));
    let before = store.revision().await.unwrap();
    let one = create(store, &a, "one").await;
    let two = update(store, &a, one, "two").await;
    let mut from_the_start = store.watch("secrets", None, before).await.unwrap();
    let mut from_the_middle = store.watch("secrets", None, one).await.unwrap();
    let gone = remove(store, &a, two).await;
    let three = create(store, &b, "three").await;
    assert_eq!(told(&mut from_the_start).await, tells(one, "secrets/default/a - one"));
    for watch in [&mut from_the_start, &mut from_the_middle] {
        assert_eq!(told(watch).await, tells(two, "secrets/default/a one two"));
        assert_eq!(told(watch).await, tells(gone, "secrets/default/a two -"));
        assert_eq!(told(watch).await, tells(three, "secrets/default/b - three"));
    }
}

async fn a_watch_sees_one_resource_and_one_namespace(store: &impl Store) {
    let before = store.revision().await.unwrap();
    let mut wide = store.watch("secrets", None, before).await.unwrap();
    let mut narrow = store.watch("secrets", Some("b"), before).await.unwrap();
    let mut written = Vec::new();
    for (resource, namespace) in [("events", "b"), ("secretsx", "b"), ("secrets", "a"), ("secrets", "b")] {
        written.push(create(store, &key(resource, namespace, "x"), "one").await);
    }
    assert_eq!(told(&mut wide).await, tells(written[2], "secrets/a/x - one"));
    assert_eq!(told(&mut wide).await, tells(written[3], "secrets/b/x - one"));
    assert_eq!(told(&mut narrow).await, tells(written[3], "secrets/b/x - one"));
    let mut later = store.watch("secrets", Some("b"), before).await.unwrap();
    assert_eq!(told(&mut later).await, tells(written[3], "secrets/b/x - one"));
}

async fn a_watch_of_several_resources_sees_them_in_order(store: &impl Store) {
    let before = store.revision().await.unwrap();
    let mut watch = store.watch_of(&["toys", "cars"], None, before).await.unwrap();
    let mut written = Vec::new();
    // The resource between the two is not watched.
    for resource in ["toys", "cars", "planes", "toys"] {
        written.push(create(store, &key(resource, "n", &format!("x{}", written.len())), "one").await);
    }
    let mut again = store.watch_of(&["toys", "cars"], None, before).await.unwrap();
    for watch in [&mut watch, &mut again] {
        assert_eq!(told(watch).await, tells(written[0], "toys/n/x0 - one"));
        assert_eq!(told(watch).await, tells(written[1], "cars/n/x1 - one"));
        assert_eq!(told(watch).await, tells(written[3], "toys/n/x3 - one"));
    }
}

async fn a_watch_that_starts_amid_writes_misses_none_and_repeats_none(store: &impl Store) {
    let before = store.revision().await.unwrap();
    let writes = write_many(store, 400);
    let watch = async {
        while store.list("secrets", None).await.unwrap().0.len() < 50 {
            tokio::task::yield_now().await;
        }
        let mut watch = store.watch("secrets", None, before).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 400 {
            seen.push(next(&mut watch).await.unwrap().unwrap().revision);
        }
        seen
    };
    let (mut written, seen) = tokio::join!(writes, watch);
    written.sort_unstable();
    assert_eq!(seen, written);
}

async fn a_reader_that_is_far_behind_still_gets_every_change(store: &impl Store) {
    let mut watch = store.watch("secrets", None, store.revision().await.unwrap()).await.unwrap();
    let mut written = write_many(store, 500).await;
    written.sort_unstable();
    for revision in written {
        assert_eq!(next(&mut watch).await.unwrap().unwrap().revision, revision);
    }
}

async fn a_compacted_revision_can_be_neither_listed_nor_watched_from(store: &impl Store) {
    let mut written = write_many(store, 5).await;
    written.sort_unstable();
    let before = listed(store, None, written[2]).await.unwrap();
    store.compact(written[2]).await.unwrap();
    let since = written[1];
    let error = store.watch("secrets", None, since).await.err().unwrap();
    let oldest = written[2];
    let refused = format!("resourceVersion {since} is too old; the oldest that can be watched from is {oldest}");
    assert_eq!(error.to_string(), refused);
    assert_eq!(listed(store, None, since).await.unwrap_err().to_string(), refused);
    assert_eq!(listed(store, None, oldest).await.unwrap(), before);
    let mut watch = store.watch("secrets", None, oldest).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().unwrap().revision, written[3]);
    // The compaction never goes back, and never beyond the newest revision.
    store.compact(written[0]).await.unwrap();
    store.compact(written[4] + FAR).await.unwrap();
    let error = store.watch("secrets", None, written[3]).await.err().unwrap();
    assert!(matches!(error, Error::Compacted { oldest, .. } if oldest >= written[4]), "{error}");
    assert_eq!(store.list("secrets", None).await.unwrap().0.len(), 5);
}

async fn the_window_forgets_the_oldest_changes(store: &impl Store) {
    write_many(store, WINDOW + 7).await;
    let error = store.watch("secrets", None, 6).await.err().unwrap();
    assert!(matches!(error, Error::Compacted { oldest: 7, .. }), "{error}");
    let mut watch = store.watch("secrets", None, 7).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().unwrap().revision, 8);
}

/// What already waits for the reader may come first, in order.
async fn a_reader_overtaken_by_compaction_is_told_and_ends(store: &impl Store) {
    let before = store.revision().await.unwrap();
    let mut watch = store.watch("secrets", None, before).await.unwrap();
    let mut written = write_many(store, 300).await;
    written.sort_unstable();
    let last = written[298];
    store.compact(last).await.unwrap();
    let mut came = 0;
    let error = loop {
        match next(&mut watch).await.unwrap() {
            Ok(change) => assert_eq!(change.revision, written[came]),
            Err(error) => break error,
        }
        came += 1;
    };
    let at = if came == 0 { before } else { written[came - 1] };
    assert!(
        matches!(error, Error::Compacted { since, oldest } if since == at && oldest == last),
        "{error} after {came}"
    );
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
    let put = async |key: &Key, expect, uids: &[&str]| {
        revision_of(&store.put(key, expect, owned(uids)).await.unwrap()).unwrap()
    };
    let a1 = put(&a, Expect::Absent, &["one", "two", "one"]).await;
    let b1 = put(&b, Expect::Absent, &["one"]).await;
    create(store, &key("toys", "n", "free"), "of nobody").await;
    let odd = json!({"metadata": {"ownerReferences": {"uid": "one"}}});
    store.put(&key("toys", "n", "odd"), Expect::Absent, odd).await.unwrap();
    assert_eq!(found("one").await, format!("secrets/n/b@{b1} toys/n/a@{a1}"));
    assert_eq!((found("two").await, found("on").await), (format!("toys/n/a@{a1}"), String::new()));
    let a2 = put(&a, Expect::Revision(a1), &["two", "three"]).await;
    assert_eq!((found("one").await, found("three").await), (format!("secrets/n/b@{b1}"), format!("toys/n/a@{a2}")));
    // A refused write changes nothing.
    store.put(&a, Expect::Revision(a1), owned(&["one"])).await.unwrap_err();
    remove(store, &b, b1).await;
    assert_eq!((found("one").await, found("two").await), (String::new(), format!("toys/n/a@{a2}")));
    remove(store, &a, a2).await;
    assert_eq!((found("two").await, found("three").await), (String::new(), String::new()));
}

async fn a_future_revision_cannot_be_watched_from(store: &impl Store) {
    let last = write_many(store, 2).await.into_iter().max().unwrap();
    for future in [last + FAR, u64::MAX] {
        let error = store.watch("secrets", None, future).await.err().unwrap();
        assert!(matches!(error, Error::Future { since, newest } if since == future && newest >= last), "{error}");
    }
}

async fn all_is_everything_in_order_of_keys(store: &impl Store) {
    for (resource, namespace, name) in [("secrets", "b", "x"), ("events", "z", "x"), ("hosts", "", "x")] {
        create(store, &key(resource, namespace, name), name).await;
    }
    let keys: Vec<String> = store.all().await.unwrap().iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(keys.join(" "), "events/z/x hosts/x secrets/b/x");
}

/// Writes many Secrets, some at the same time; returns the revisions in the order of their names.
async fn write_many(store: &impl Store, count: u64) -> Vec<u64> {
    let write = async |index: u64| create(store, &key("secrets", "default", &format!("s{index:03}")), "x").await;
    stream::iter(0..count).map(write).buffered(50).collect().await
}

#[tokio::test]
async fn what_sqlite_was_told_is_there_after_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    write_many(&store, 5).await;
    store.delete(&key("secrets", "default", "s000"), 1).await.unwrap();
    store.compact(4).await.unwrap();
    let before = (store.all().await.unwrap(), store.revision().await.unwrap());
    store.close().await;

    let store = open(&folder).await;
    assert_eq!((store.all().await.unwrap(), store.revision().await.unwrap()), before);
    let mut watch = store.watch("secrets", None, 4).await.unwrap();
    assert_eq!(told(&mut watch).await, tells(5, "secrets/default/s004 - x"));
    assert_eq!(told(&mut watch).await, tells(6, "secrets/default/s000 x -"));
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
    assert_eq!(told(&mut watch).await, tells(1, "secrets/default/a - x"));
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
