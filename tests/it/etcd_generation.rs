//! Stores on etcd that objects are copied into and taken out of: epochs, and what may lead meanwhile. Runs only with
//! EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use evenkeel::runtime::clock::instant;
use evenkeel::store::etcd::Closed;
use evenkeel::store::sqlite::Snapshot;
use evenkeel::store::{Candidate, Key, Leases as _, Store as _};
use jiff::Timestamp;
use serde_json::json;

use crate::etcd;

fn who(node: &str) -> Candidate {
    Candidate { node: node.to_owned(), address: format!("{node}:7443") }
}

/// So many objects of 4 KiB.
fn snapshot(count: usize) -> Snapshot {
    let object = |at: usize| {
        let (name, text) = (format!("toy{at:04}"), "x".repeat(4096));
        let value = json!({"metadata": {"name": name, "uid": name}, "status": {"text": text}});
        (Key::new("toys", "default", &name), Arc::new(value))
    };
    Snapshot { objects: (0..count).map(object).collect(), content: Some("a".into()), ..Snapshot::default() }
}

/// Regression 478: an etcd that was restored gave epochs below those that supervisors had heard, and they refused its operators
/// for ever. The generation is above all of the store that the objects come from.
#[tokio::test]
async fn operators_of_a_restored_store_have_higher_epochs_and_none_leads_while_it_is_restored() {
    let Some(bench) = etcd::shared("operators_of_a_restored_store").await else { return };
    let store = bench.store().await;
    let old = store.leases().acquire(&who("a")).await.unwrap().unwrap();
    assert!(old.tenure().epoch() < 1 << 40, "a store that was never copied: {old:?}");
    let all = snapshot(3);
    let refused = all.import_into(&store, 1).await.unwrap_err().to_string();
    assert!(refused.contains("an operator leads over this store"), "{refused}");
    let before = old.tenure().epoch();
    old.release().await.unwrap();

    // Interrupted after the first object.
    store.close(all.copying()).await.unwrap();
    let (key, value) = all.objects[0].clone();
    store.put(&key, evenkeel::store::Expect::Absent, Arc::unwrap_or_clone(value)).await.unwrap();
    for refused in [
        store.leases().acquire(&who("a")).await.unwrap_err(),
        store.generation().await.unwrap_err(),
        Snapshot { content: Some("b".into()), ..all.clone() }.import_into(&store, 1).await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("run the same command again"), "{refused}");
    }
    assert_eq!(all.import_into(&store, 1).await.unwrap(), 2);
    assert_eq!((store.generation().await.unwrap(), store.all().await.unwrap().len()), (1, 3));
    let new = store.leases().acquire(&who("a")).await.unwrap().unwrap();
    assert!(new.tenure().epoch() > before + (1 << 39) && new.tenure().epoch() > 1 << 40, "{new:?}");
    assert_eq!(store.leases().leader().await.unwrap().unwrap().epoch, new.tenure().epoch());
    let key = Key::new("toys", "default", "new");
    new.store().put(&key, evenkeel::store::Expect::Absent, json!({"metadata": {}})).await.unwrap();
}

/// Regression 479, found before its release: after the way back to one operator another one could still lead over the etcd that
/// was left, with the old objects.
#[tokio::test]
async fn nobody_leads_over_a_store_that_was_left() {
    let Some(bench) = etcd::shared("nobody_leads_over_a_store_that_was_left").await else { return };
    let store = bench.store().await;
    snapshot(1).import_into(&store, 4).await.unwrap();
    let left = Closed::Left { node: "one".into() };
    assert_eq!(store.close(left.clone()).await.unwrap(), 4);
    assert_eq!(store.close(left.clone()).await.unwrap(), 4, "what was interrupted is repeated");
    assert!(store.is_closed(&left).await.unwrap());
    let refused = store.leases().acquire(&who("b")).await.unwrap_err().to_string();
    assert!(refused.contains("the operator of the node one has taken the objects out"), "{refused}");
    let refused = snapshot(2).import_into(&store, 9).await.unwrap_err().to_string();
    assert!(refused.contains("start with an empty etcd"), "{refused}");
}

#[tokio::test]
async fn two_thousand_objects_are_written_to_a_snapshot_and_back_into_etcd() {
    let Some(bench) = etcd::shared("two_thousand_objects").await else { return };
    let (store, folder) = (bench.store().await, tempfile::tempdir().unwrap());
    let began = instant();
    snapshot(2000).import_into(&store, 1).await.unwrap();
    let (copied, began) = (began.elapsed(), instant());
    let taken = Snapshot::of(&store, 1, Timestamp::UNIX_EPOCH).await.unwrap();
    let (read, began) = (began.elapsed(), instant());
    let path = folder.path().join("a.db");
    taken.write(&path, &etcd::seal()).await.unwrap();
    let bytes = std::fs::metadata(&path).unwrap().len();
    println!("into etcd {copied:?}; read {read:?}; written {:?}, {bytes} bytes", began.elapsed());
    assert_eq!(Snapshot::read(&path, &etcd::seal()).await.unwrap().objects.len(), 2000);
}
