//! The client on a directory.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::archive::access;

fn at(folder: &std::path::Path) -> Store {
    let path = folder.to_str().unwrap().to_owned();
    Store::open(&StoreAccess { hash: String::new(), store: access::Store::Directory { path }, encryption: None })
        .unwrap()
}

#[tokio::test]
async fn an_object_is_not_replaced_by_one_that_must_be_new() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path()).at("default.db/7412-a");
    let put = async |bytes: &'static [u8]| {
        store.put_new("wals/x", Bytes::from_static(bytes), &[("term", "1".into())], |found| found == bytes).await
    };
    assert_eq!(put(b"one").await, Ok(Put::Written));
    assert_eq!(put(b"one").await, Ok(Put::Same));
    assert_eq!(put(b"two").await, Ok(Put::Other));
    assert_eq!(store.get("wals/x", 3).await.unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(store.probe("1").await, Ok(Probe { conditional: true }));
    assert!(folder.path().join("default.db/7412-a/wals/x").is_file());
    assert!(!folder.path().join("default.db/7412-a/probe/1").exists());
}

#[tokio::test]
async fn objects_are_listed_by_folder_in_the_order_of_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path()).at("a");
    for key in ["wals/3", "wals/1", "wals/2", "walsx/1", "base/ID/.running"] {
        store.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    let keys = async |folder: &str, after: Option<&str>, limit: usize| {
        let listed = store.list(folder, after, limit).await.unwrap();
        listed.into_iter().map(|object| object.key).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys("wals", None, 10).await, "wals/1 wals/2 wals/3");
    assert_eq!(keys("wals", Some("wals/1"), 1).await, "wals/2");
    assert_eq!(keys("", None, 10).await, "base/ID/.running wals/1 wals/2 wals/3 walsx/1");
    store.delete(&["wals/1".into(), "wals/9".into()]).await.unwrap();
    store.copy("wals/2", "orphans/2").await.unwrap();
    assert_eq!(keys("", Some("m"), 10).await, "orphans/2 wals/2 wals/3 walsx/1");
    assert_eq!(keys("nothing", None, 10).await, "");
}

#[tokio::test]
async fn a_directory_that_does_not_exist_is_named() {
    let access = StoreAccess {
        hash: String::new(),
        store: access::Store::Directory { path: "/nowhere/backups".into() },
        encryption: None,
    };
    let error = Store::open(&access).unwrap_err();
    assert_eq!(error.kind, Kind::NoBucket);
    assert_eq!(
        error.to_string(),
        "opening the store in directory /nowhere/backups: the directory does not exist; create it, or correct its name"
    );
}

#[tokio::test]
async fn what_is_not_there_or_too_large_or_too_short_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path());
    store.put("x", Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(store.get("y", 10).await, Ok(None));
    assert_eq!(store.head("y").await, Ok(None));
    assert_eq!(store.head("x").await.unwrap().unwrap().size, 10);
    assert_eq!(store.get("x", 9).await.unwrap_err().kind, Kind::Broken);
    assert_eq!(store.get_range("x", 2..5).await.unwrap().as_ref(), b"234");
    assert_eq!(store.get_range("x", 8..12).await.unwrap_err().kind, Kind::Broken);
    assert_eq!(store.get_range("y", 0..1).await.unwrap_err().kind, Kind::NotFound);
}

#[tokio::test]
async fn an_upload_is_there_when_it_is_finished_and_nothing_is_left_of_one_that_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let store = at(folder.path());
    let mut upload = store.upload("large", 0).await.unwrap();
    let piece: Vec<u8> = (0..=250_u8).cycle().take(5 << 20).collect();
    for _ in 0..8 {
        upload.write(piece.clone().into()).await.unwrap();
    }
    assert_eq!((upload.stored(), store.get("large", 1).await), (40 << 20, Ok(None)));
    assert_eq!(upload.finish().await, Ok(40 << 20));
    let found = store.get("large", 1 << 30).await.unwrap().unwrap();
    assert!(found.chunks(piece.len()).all(|chunk| chunk == piece) && found.len() == 40 << 20);

    let mut upload = store.upload("given-up", 0).await.unwrap();
    upload.write(vec![0; 20 << 20].into()).await.unwrap();
    drop(upload);
    let names = || std::fs::read_dir(folder.path()).unwrap().count();
    while names() > 1 {
        tokio::task::yield_now().await;
    }
}
