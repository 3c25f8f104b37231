//! Secrets in the files of the store: no value is readable there, in any moment of their life, and no row can be exchanged.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use evenkeel::store::seal::new_key;
use evenkeel::store::{Error, Expect, Key, KeyFiles, Seal, SqliteStore, Store, revision_of};
use futures::StreamExt as _;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

/// Base64 of values that no file may hold; in a Secret they are written like this.
const CANARIES: [&str; 3] = ["Y2FuYXJ5LW9uZQ==", "Y2FuYXJ5LXR3bw==", "Y2FuYXJ5LXRocmVl"];

fn secret(name: &str, value: &str) -> (Key, Value) {
    let object = json!({"kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "data": {"p": value}});
    (Key::new("secrets", "default", name), object)
}

fn seal(key: &str) -> Seal {
    Seal::parse(key).unwrap()
}

/// Files below the folder that hold one of the canaries.
fn readable(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let bytes = fs::read(entry.path()).unwrap();
        let holds = |word: &&str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
        found.extend(CANARIES.iter().filter(|word| holds(word)).map(|word| format!("{:?}: {word}", entry.file_name())));
    }
    found
}

/// Opens the file as it is, as a thief or the version before does.
async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

async fn execute(path: &Path, statement: &'static str) {
    let mut connection = raw(path).await;
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Creates, changes and deletes Secrets; the last canary stays. Returns the revision before.
async fn live(store: &SqliteStore) -> u64 {
    let before = store.revision().await.unwrap();
    let (key, object) = secret("gone", CANARIES[0]);
    let first = store.put(&key, Expect::Absent, object).await.unwrap();
    let (_, changed) = secret("gone", CANARIES[1]);
    let second = store.put(&key, Expect::Revision(revision_of(&first).unwrap()), changed).await.unwrap();
    store.delete(&key, revision_of(&second).unwrap()).await.unwrap();
    let (key, object) = secret("kept", CANARIES[2]);
    store.put(&key, Expect::Absent, object).await.unwrap();
    before
}

/// Regression 181: the values of Secrets stood in base64 in `store.db` and its log, those of deleted Secrets up to 10,000
/// revisions longer. They are sealed with a key outside the file, and a deletion keeps no value.
#[tokio::test]
async fn no_file_of_the_store_holds_a_value_of_a_secret_in_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("store.db"), new_key());
    let store = SqliteStore::open(&path, seal(&key)).await.unwrap();
    let before = live(&store).await;
    assert_eq!(readable(folder.path()), [""; 0], "while it is open, with the log");

    let mut watch = store.watch("secrets", None, before).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..4 {
        let change = watch.next().await.unwrap().unwrap();
        let value = |side: Option<std::sync::Arc<Value>>| side.map(|value| value["data"]["p"].clone());
        told.push((value(change.old), value(change.new)));
    }
    let [one, two, three] = CANARIES.map(|word| Some(json!(word)));
    let expected = [(None, one.clone()), (one, two), (Some(Value::Null), None), (None, three.clone())];
    assert_eq!(told, expected, "a watch that reads the file gets the values, but none of what was deleted");
    store.close().await;
    assert_eq!(readable(folder.path()), [""; 0], "closed");

    let store = SqliteStore::open(&path, seal(&key)).await.unwrap();
    assert_eq!(store.get(&secret("kept", "").0).await.unwrap().map(|value| value["data"]["p"].clone()), three);
    store.close().await;
}

#[tokio::test]
async fn a_file_of_the_version_before_is_sealed_when_it_is_opened_and_nothing_of_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("store.db"), new_key());
    let store = SqliteStore::open(&path, seal(&key)).await.unwrap();
    live(&store).await;
    store.close().await;
    // As the version before has written it: also values on pages that are free now, and in the log.
    assert_eq!(SqliteStore::unseal(&path, &seal(&key)).await.unwrap(), 6);
    let mut before = raw(&path).await;
    for statement in [
        "PRAGMA secure_delete = OFF",
        "PRAGMA wal_autocheckpoint = 0",
        "CREATE TABLE old (text) STRICT",
        "INSERT INTO old WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999)
         SELECT 'Y2FuYXJ5LW9uZQ==' || i FROM n",
        "DROP TABLE old",
    ] {
        let statement = statement.replace("(text)", "(text TEXT)");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut before).await.unwrap();
    }
    assert!(readable(folder.path()).len() > 1, "the test sees what it looks for");
    // The version before was killed: its log is still there.
    let after = tempfile::tempdir().unwrap();
    let path = after.path().join("store.db");
    for file in ["store.db", "store.db-wal"] {
        fs::copy(folder.path().join(file), after.path().join(file)).unwrap();
    }
    assert!(readable(after.path()).iter().any(|found| found.contains("-wal")));

    let store = SqliteStore::open(&path, seal(&key)).await.unwrap();
    assert_eq!(readable(after.path()), [""; 0]);
    assert_eq!(store.list("secrets", None).await.unwrap().0.len(), 1);
    store.close().await;
    assert_eq!(SqliteStore::sealed(&path).await.unwrap().into_values().collect::<Vec<_>>(), [6]);
}

#[tokio::test]
async fn a_row_that_was_exchanged_or_taken_back_is_refused() {
    for (statement, said) in [
        ("UPDATE objects SET value = (SELECT value FROM objects WHERE name = 'b') WHERE name = 'a'", "default/a"),
        (
            "UPDATE objects SET value = (SELECT old FROM changes WHERE name = 'b' AND old NOT NULL) WHERE name = 'b'",
            "default/b",
        ),
        ("UPDATE objects SET value = substr(value, 1, 200) WHERE name = 'a'", "default/a"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("store.db"), new_key());
        let store = SqliteStore::open(&path, seal(&key)).await.unwrap();
        for name in ["a", "b"] {
            let (key, object) = secret(name, CANARIES[0]);
            let first = store.put(&key, Expect::Absent, object.clone()).await.unwrap();
            store.put(&key, Expect::Revision(revision_of(&first).unwrap()), object).await.unwrap();
        }
        store.close().await;
        execute(&path, statement).await;
        let refused = SqliteStore::open(&path, seal(&key)).await.unwrap_err();
        assert!(matches!(refused, Error::Tampered { .. }), "{statement}: {refused}");
        assert!(refused.to_string().contains(said), "{refused}");
    }
}

#[tokio::test]
async fn another_key_opens_nothing_and_the_refusal_names_both() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key, other) = (folder.path().join("store.db"), new_key(), new_key());
    let store = SqliteStore::open(&path, seal(&key)).await.unwrap();
    live(&store).await;
    store.close().await;
    let refused = SqliteStore::open(&path, seal(&other)).await.unwrap_err().to_string();
    let (id, known) = (&seal(&key).ids()[0], &seal(&other).ids()[0]);
    assert!(
        refused.contains(&format!("with the key {id}, and the operator has only: {known}; add that key")),
        "{refused}"
    );

    // With both, the first one seals everything, and the other one is needed no more.
    SqliteStore::open(&path, seal(&format!("{other}{key}"))).await.unwrap().close().await;
    assert_eq!(SqliteStore::sealed(&path).await.unwrap().into_iter().collect::<Vec<_>>(), [(known.clone(), 6)]);
    let store = SqliteStore::open(&path, seal(&other)).await.unwrap();
    assert_eq!(store.list("secrets", None).await.unwrap().0.len(), 1);
    store.close().await;
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    fs::create_dir(folder.path().join("pki")).unwrap();
    let keys = KeyFiles::new(folder.path(), None);
    SqliteStore::open(&path, keys.read_or_make().unwrap()).await.unwrap().close().await;
    execute(&path, "INSERT INTO _sqlx_migrations VALUES (999, 'later', 0, 1, x'00', 1)").await;
    let refused = SqliteStore::open(&path, keys.read().unwrap()).await.unwrap_err().to_string();
    assert!(refused.starts_with("a newer version of evenkeel has written it (tables of version 999)"), "{refused}");
}
