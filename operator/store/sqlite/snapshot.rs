//! Snapshots: a store in one file that was written at once from the objects of any store, and is read without being changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::sealing::CLEAN;
use super::{MIGRATIONS, PATIENCE, backend, load, migrations, private_file, signed, unsigned};
use crate::api::hash::short_hash_of_parts;
use crate::store::events::EVENTS;
use crate::store::{Error, Key, Seal, Store, private_file as files, stamp};

/// All objects of a store at one moment, except Events.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The objects, ordered by key.
    pub objects: Vec<(Key, Arc<Value>)>,
    /// The generation of the store.
    pub generation: u64,
    /// When it was taken, if that is known.
    pub taken: Option<String>,
    /// A hash of what was in the store, if that is known: two snapshots of the same objects have the same.
    pub content: Option<String>,
}

impl Snapshot {
    /// The objects of a store of this generation as they are now.
    pub async fn of(store: &dyn Store, generation: u64, taken: jiff::Timestamp) -> Result<Self, Error> {
        let objects: Vec<_> = store.all().await?.into_iter().filter(|(key, _)| key.resource != EVENTS).collect();
        let content = objects.iter().flat_map(|(key, value)| {
            let revision = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            [key.to_string().into_bytes(), revision.as_bytes().to_vec()]
        });
        let content = short_hash_of_parts(content, 32);
        Ok(Self { objects, generation, taken: Some(taken.to_string()), content: Some(content) })
    }

    /// Reads the file of a store, also one of an older version, and changes nothing there. Secrets must open with these keys.
    pub async fn read(path: &Path, seal: &Seal) -> Result<Self, Error> {
        let damaged = |error: sqlx::Error| Error::Damaged { problem: error.to_string() };
        let mut connection = reading(path).await?;
        let version = sqlx::query_scalar::<_, Option<i64>>("SELECT MAX(version) FROM _sqlx_migrations");
        let version = version.fetch_one(&mut connection).await.map_err(damaged)?.unwrap_or_default();
        if version > MIGRATIONS[MIGRATIONS.len() - 1].0 {
            return Err(Error::Newer { version });
        }
        let checked = sqlx::query_scalar::<_, String>("PRAGMA integrity_check(1)").fetch_one(&mut connection).await;
        let checked = checked.map_err(damaged)?;
        if checked != "ok" {
            return Err(Error::Damaged { problem: checked });
        }
        let origin = match version {
            5.. => Some(sqlx::query("SELECT * FROM origin").fetch_one(&mut connection).await.map_err(damaged)?),
            _ => None,
        };
        let objects = load(&mut connection, seal).await?;
        connection.close().await.map_err(damaged)?;
        Ok(Self {
            objects: objects.into_iter().filter(|(key, _)| key.resource != EVENTS).collect(),
            generation: origin.as_ref().map_or(0, |row| unsigned(row, "generation")),
            taken: origin.as_ref().and_then(|row| row.get("taken")),
            content: origin.as_ref().and_then(|row| row.get("content")),
        })
    }

    /// What was in the store that the snapshot in this file was taken of; `None`: that is not known.
    pub async fn content_of(path: &Path) -> Option<String> {
        let mut connection = reading(path).await.ok()?;
        sqlx::query_scalar("SELECT content FROM origin").fetch_one(&mut connection).await.ok()?
    }

    /// Writes it as a store of its own, completely or not at all: to another name first. What has that name is replaced.
    pub async fn write(&self, path: &Path, seal: &Seal) -> Result<(), Error> {
        let (snapshot, path, seal, runtime) = (self.clone(), path.to_owned(), seal.clone(), Handle::current());
        // Many objects take a while: not on a thread that others wait for.
        let written = spawn_blocking(move || runtime.block_on(snapshot.written(&path, &seal))).await;
        written.map_err(backend("writing a copy of its objects"))?
    }

    async fn written(&self, path: &Path, seal: &Seal) -> Result<(), Error> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = Path::new(&beside);
        let written = async {
            // A crash may have left this one.
            remove(beside)?;
            let file = private_file(beside).map_err(backend("creating its file"))?;
            self.fill(beside, seal).await?;
            file.sync_all().map_err(backend("writing its file to the disk"))?;
            std::fs::rename(beside, path).map_err(backend("giving its file its name"))
        };
        if let Err(error) = written.await {
            // The first error tells more.
            let _ = remove(beside);
            return Err(error);
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        files::sync(folder).map_err(backend("writing the name of its file to the disk"))
    }

    /// Writes everything in one transaction; the caller writes the file to the disk.
    async fn fill(&self, path: &Path, seal: &Seal) -> Result<(), Error> {
        let failed = backend("writing a copy of its objects");
        let options = SqliteConnectOptions::new().filename(path).disable_statement_logging();
        let options = options.journal_mode(SqliteJournalMode::Memory).synchronous(SqliteSynchronous::Off);
        let mut connection = options.connect().await.map_err(&failed)?;
        migrations().run(&mut connection).await.map_err(backend("making its tables"))?;
        let mut transaction = connection.begin().await.map_err(&failed)?;
        let mut revision = 0;
        for (key, value) in &self.objects {
            revision += 1;
            let text = seal.seal(key, stamp(key, Value::clone(value), revision)?.to_string());
            let insert = "INSERT INTO objects (resource, namespace, name, revision, value) VALUES (?1, ?2, ?3, ?4, ?5)";
            let insert = sqlx::query(insert).bind(&key.resource).bind(&key.namespace).bind(&key.name);
            insert.bind(signed(revision)).bind(text).execute(&mut *transaction).await.map_err(&failed)?;
        }
        // There are no changes to watch.
        let counters = sqlx::query("UPDATE counters SET revision = ?1, compacted = ?1").bind(signed(revision));
        counters.execute(&mut *transaction).await.map_err(&failed)?;
        let origin = sqlx::query("UPDATE origin SET generation = ?1, taken = ?2, content = ?3");
        let origin = origin.bind(signed(self.generation)).bind(&self.taken).bind(&self.content);
        origin.execute(&mut *transaction).await.map_err(&failed)?;
        let clean = AssertSqlSafe(format!("PRAGMA user_version = {CLEAN}"));
        sqlx::query(clean).execute(&mut *transaction).await.map_err(&failed)?;
        transaction.commit().await.map_err(&failed)?;
        connection.close().await.map_err(failed)
    }

    /// How many objects of each resource it has.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        self.objects.iter().for_each(|(key, _)| *counts.entry(key.resource.as_str()).or_default() += 1);
        counts
    }
}

/// The generation of an open file.
pub(super) async fn generation(connection: &mut SqliteConnection) -> Result<u64, Error> {
    let row = sqlx::query("SELECT generation FROM origin").fetch_one(connection).await;
    Ok(unsigned(&row.map_err(backend("reading its generation"))?, "generation"))
}

/// Opens a file that nothing is written to.
async fn reading(path: &Path) -> Result<SqliteConnection, Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(PATIENCE);
    options.disable_statement_logging().connect().await.map_err(backend("opening the file"))
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(backend("removing an old file")(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;
    use crate::store::seal::new_key;
    use crate::store::{Expect, MemoryStore, SqliteStore};

    fn seal() -> Seal {
        Seal::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
    }

    async fn source(count: usize) -> MemoryStore {
        let store = MemoryStore::new();
        let object = |name: &str| json!({"metadata": {"name": name, "uid": name}, "data": {"p": "aHVudGVyMg=="}});
        store.put(&Key::new("secrets", "n", "app"), Expect::Absent, object("app")).await.unwrap();
        store.put(&Key::new(EVENTS, "n", "app.1"), Expect::Absent, object("app.1")).await.unwrap();
        for at in 0..count {
            let (name, padding) = (format!("toy{at}"), "x".repeat(4000));
            let toy = json!({"metadata": {"name": name, "uid": name}, "status": {"text": padding}});
            store.put(&Key::new("toys", "n", &name), Expect::Absent, toy).await.unwrap();
        }
        store
    }

    #[tokio::test]
    async fn a_snapshot_is_a_store_with_everything_but_events_and_secrets_are_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let store = source(2).await;
        let taken = Snapshot::of(&store, 4, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        taken.write(&path, &seal()).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("aHVudGVyMg"));
        let read = Snapshot::read(&path, &seal()).await.unwrap();
        assert_eq!((read.generation, read.taken.as_deref()), (4, Some("1970-01-01T00:00:00Z")));
        assert_eq!((read.counts(), &read.content), (BTreeMap::from([("secrets", 1), ("toys", 2)]), &taken.content));
        assert_eq!(Snapshot::content_of(&path).await, taken.content);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "reading leaves no file");
        let opened = SqliteStore::open(&path, seal()).await.unwrap();
        let secret = opened.get(&Key::new("secrets", "n", "app")).await.unwrap().unwrap();
        assert_eq!((secret["data"]["p"].as_str(), opened.generation().await.unwrap()), (Some("aHVudGVyMg=="), 4));
        let again = opened.put(&Key::new("toys", "n", "new"), Expect::Absent, json!({"metadata": {}})).await.unwrap();
        assert_eq!(again["metadata"]["resourceVersion"], "4");
        opened.close().await;
    }

    #[tokio::test]
    async fn what_is_no_whole_store_of_these_keys_is_refused_in_plain_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let refused = async |seal: &Seal| Snapshot::read(&path, seal).await.unwrap_err();
        let taken = Snapshot::of(&source(300).await, 0, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        taken.write(&path, &seal()).await.unwrap();
        assert!(matches!(refused(&Seal::parse(&new_key()).unwrap()).await, Error::KeyMissing { .. }));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(refused(&seal()).await, Error::Damaged { .. }));
        std::fs::write(&path, "no store at all, but some text that is longer than the head of a file".repeat(9))
            .unwrap();
        assert!(matches!(refused(&seal()).await, Error::Damaged { .. } | Error::Backend { .. }));
        std::fs::write(&path, whole).unwrap();
        let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        let later = "INSERT INTO _sqlx_migrations VALUES (999, 'later', 0, 1, x'00', 1)";
        sqlx::query(later).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        assert!(matches!(refused(&seal()).await, Error::Newer { version: 999 }));
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_written_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let good = Snapshot::of(&source(1).await, 0, jiff::Timestamp::UNIX_EPOCH).await.unwrap();
        good.write(&path, &seal()).await.unwrap();
        let bad = (Key::new("toys", "n", "bad"), Arc::new(json!("no object")));
        let bad = Snapshot { objects: vec![bad], ..Snapshot::default() };
        assert!(matches!(bad.write(&path, &seal()).await, Err(Error::Malformed { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(Snapshot::read(&path, &seal()).await.unwrap().objects.len(), 2);
    }
}
