//! The store in one SQLite file: a task that owns the only writing connection, and a few readers.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Row, SqlSafeStr};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{Change, Error, Expect, Key, Store, WINDOW, Watch};

mod tail;
mod writer;

use tail::Tail;
use writer::{Deed, Write, Writer};

/// Read connections beside the writer: enough for a few lists at once.
const READERS: u32 = 4;
/// Time-out of a wait for a read connection, and of SQLite's wait for a lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// Length of the writer's queue; when it is full, callers wait.
const QUEUE: usize = 256;
/// Number of changes kept in memory for live watches; a watch that is further behind reads from the file.
const LIVE: usize = 256;
/// Size limit of the write-ahead log after a checkpoint, in bytes.
const WAL_BYTES: &str = "8388608";

/// The objects of an owner, by the index of owner references.
const OWNED_BY: &str = "SELECT objects.* FROM owners JOIN objects USING (resource, namespace, name)
     WHERE owners.uid = ?1 ORDER BY resource, namespace, name";

/// A [`Store`] in a SQLite file (WAL, every commit synced). Open it with [`SqliteStore::open`].
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    writes: mpsc::Sender<Write>,
    changes: broadcast::Sender<Arc<Change>>,
}

impl SqliteStore {
    /// Opens the store in the file at `path`; creates it (mode 0600) if it is missing; its folder must exist.
    /// [`Error::InUse`] if another process has it open.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with_window(path, WINDOW).await
    }

    /// Like [`SqliteStore::open`], keeping only the last `window` changes for watches.
    pub async fn open_with_window(path: impl AsRef<Path>, window: u64) -> Result<Self, Error> {
        let path = path.as_ref();
        let lock = lock(path)?;
        private_file(path).map_err(backend("creating its file"))?;
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE).disable_statement_logging();
        let mut connection = options
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("journal_size_limit", WAL_BYTES)
            .connect()
            .await
            .map_err(backend("opening its file"))?;
        migrations().run(&mut connection).await.map_err(backend("bringing its tables up to date"))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(1)
            .acquire_timeout(PATIENCE)
            .test_before_acquire(false)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(backend("opening its file to read"))?;
        let (changes, _) = broadcast::channel(LIVE);
        let (writes, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(connection, changes.clone(), window, lock).await?;
        tokio::spawn(writer.run(queue));
        Ok(Self { readers, writes, changes })
    }

    /// Finishes writes under way and closes the file. Every later call fails.
    pub async fn close(&self) {
        // An error means that it is already closed.
        let _ = self.write(Deed::Close).await;
        self.readers.close().await;
    }

    /// Sends a write to the writer. The write is performed even if the caller stops waiting.
    async fn write(&self, deed: Deed) -> Result<Value, Error> {
        let closed = || backend("writing")(std::io::Error::other("the store is closed"));
        let (reply, outcome) = oneshot::channel();
        self.writes.send(Write { deed, reply }).await.map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let row = sqlx::query("SELECT value FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")
            .bind(&key.resource)
            .bind(&key.namespace)
            .bind(&key.name)
            .fetch_optional(&self.readers)
            .await
            .map_err(backend("reading an object"))?;
        row.map(|row| json(row.get("value"))).transpose()
    }

    async fn list_of(&self, resources: &[&str], namespace: Option<&str>) -> Result<(Vec<(Key, Value)>, u64), Error> {
        // One statement, so the objects and the revision are of one snapshot.
        let rows = sqlx::query(
            "SELECT counters.revision AS newest, objects.* FROM counters
             LEFT JOIN objects ON objects.resource IN (SELECT value FROM json_each(?1))
                              AND (?2 IS NULL OR objects.namespace = ?2)
             ORDER BY objects.resource, objects.namespace, objects.name",
        )
        .bind(names(resources))
        .bind(namespace)
        .fetch_all(&self.readers)
        .await
        .map_err(backend("listing objects"))?;
        let newest = rows.first().map_or(0, |row| unsigned(row, "newest"));
        let found = rows.iter().filter_map(|row| Some((row, row.get::<Option<&str>, _>("value")?)));
        Ok((found.map(|(row, text)| Ok((key(row), json(text)?))).collect::<Result<_, _>>()?, newest))
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        let rows = sqlx::query(OWNED_BY).bind(uid).fetch_all(&self.readers).await;
        let rows = rows.map_err(backend("reading what an object owns"))?;
        rows.iter().map(|row| Ok((key(row), json(row.get("value"))?))).collect()
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        self.write(Deed::Put { key: key.clone(), expect, value }).await
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        self.write(Deed::Delete { key: key.clone(), revision }).await
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        let live = self.changes.subscribe();
        let tail = Tail::start(self.readers.clone(), live, resources, namespace, since).await?;
        Ok(tail.stream())
    }

    async fn revision(&self) -> Result<u64, Error> {
        let row = sqlx::query("SELECT revision FROM counters").fetch_one(&self.readers).await;
        Ok(unsigned(&row.map_err(backend("reading the revision"))?, "revision"))
    }

    async fn all(&self) -> Result<Vec<(Key, Value)>, Error> {
        let rows =
            sqlx::query("SELECT resource, namespace, name, value FROM objects ORDER BY resource, namespace, name")
                .fetch_all(&self.readers)
                .await
                .map_err(backend("reading all objects"))?;
        rows.iter().map(|row| Ok((key(row), json(row.get("value"))?))).collect()
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        self.write(Deed::Compact { through }).await.map(|_| ())
    }
}

/// Statements that create the tables, by version and name. A released one never changes: each file keeps its checksum.
/// They are listed by hand, because sqlx's macro that reads the folder would compile all of sqlx a second time.
const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "objects", include_str!("migrations/0001_objects.sql")),
    (2, "owners", include_str!("migrations/0002_owners.sql")),
];

fn migrations() -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).into())
}

/// Locks the store for this process: the watches here would miss writes of another process.
fn lock(path: &Path) -> Result<File, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = private_file(Path::new(&name)).map_err(backend("creating its lock file"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(backend("locking its file")(error)),
    }
}

/// Opens the file, creates it with mode 0600; SQLite gives its other files the same mode.
fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn backend<E: std::error::Error + Send + Sync + 'static>(doing: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Backend { doing, source: Box::new(source) }
}

/// Resource names as one parameter of a statement.
fn names(resources: &[impl AsRef<str>]) -> String {
    Value::from_iter(resources.iter().map(AsRef::as_ref)).to_string()
}

fn json(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(backend("understanding a stored object"))
}

fn key(row: &SqliteRow) -> Key {
    Key { resource: row.get("resource"), namespace: row.get("namespace"), name: row.get("name") }
}

/// A revision column; revisions only count up from 0.
fn unsigned(row: &SqliteRow, column: &str) -> u64 {
    row.get::<i64, _>(column).unsigned_abs()
}

/// A revision as SQLite's integer; a larger one becomes the largest integer.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use sqlx::{Connection, Executor};

    use super::*;

    #[test]
    fn every_migration_of_the_folder_is_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("operator/store/migrations");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into()).collect();
        files.sort();
        assert_eq!(MIGRATIONS.map(|(version, name, _)| format!("{version:04}_{name}.sql")).to_vec(), files);
    }

    fn key(name: &str) -> Key {
        Key { resource: "toys".into(), namespace: "n".into(), name: name.into() }
    }

    #[tokio::test]
    async fn what_an_owner_owns_is_found_by_an_index() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("store.db")).await.unwrap();
        let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {OWNED_BY}")));
        let plan = plan.bind("uid").fetch_all(&store.readers).await;
        let plan: Vec<String> = plan.unwrap().iter().map(|row| row.get("detail")).collect();
        assert!(plan.iter().all(|line| !line.contains("SCAN")), "{plan:#?}");
        store.close().await;
    }

    #[tokio::test]
    async fn a_file_without_the_index_of_owners_gets_it_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = SqliteStore::open(&path).await.unwrap();
        let references = [
            ("array", json!([{"uid": "one"}, {"uid": "two"}, {"uid": "one"}, {"uid": 7}, {}, "one", null])),
            ("object", json!({"uid": "one"})),
            ("text", json!("one")),
            ("none", Value::Null),
        ];
        for (name, references) in references {
            let object = json!({"metadata": {"ownerReferences": references}});
            store.put(&key(name), Expect::Absent, object).await.unwrap();
        }
        store.put(&key("absent"), Expect::Absent, json!({"metadata": {}})).await.unwrap();
        store.close().await;

        let mut file = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        file.execute("DROP TABLE owners; DELETE FROM _sqlx_migrations WHERE version = 2").await.unwrap();
        file.close().await.unwrap();

        let store = SqliteStore::open(&path).await.unwrap();
        for uid in ["one", "two"] {
            let owned = store.owned_by(uid).await.unwrap();
            assert_eq!(owned.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key("array")], "{uid}");
        }
        store.close().await;
    }
}
