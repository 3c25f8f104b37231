//! The store in one SQLite file: a task that owns the only writing connection, a few readers of the changes, and the
//! objects as they are now in memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection as _, Row, SqlSafeStr};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::seal::SEALED;
use super::state::{self, State};
use super::{Change, Error, Expect, Key, Listed, Seal, Store, WINDOW, Watch, revision_of};
use crate::api::sync::lock as locked;

mod sealing;
mod snapshot;
mod tail;
mod writer;

pub use snapshot::Snapshot;
use tail::Tail;
use writer::{Deed, Write, Writer};

/// Read connections beside the writer: they read pages of changes; objects are read from memory.
const READERS: u32 = 4;
/// Time-out of a wait for a read connection, and of SQLite's wait for a lock.
const PATIENCE: Duration = Duration::from_secs(5);
/// Length of the writer's queue; when it is full, callers wait.
const QUEUE: usize = 256;
/// Number of changes kept in memory for live watches; a watch that is further behind reads from the file.
const LIVE: usize = 256;
/// Size limit of the write-ahead log after a checkpoint, in bytes.
const WAL_BYTES: &str = "8388608";

/// A [`Store`] in a SQLite file (WAL, every commit synced). Open it with [`SqliteStore::open`].
#[derive(Debug)]
pub struct SqliteStore {
    /// What the file holds. The writer changes it after each commit.
    state: Arc<Mutex<State>>,
    seal: Seal,
    generation: u64,
    readers: SqlitePool,
    writes: mpsc::Sender<Write>,
    changes: broadcast::Sender<Arc<Change>>,
}

impl SqliteStore {
    /// Opens the store in the file at `path`; creates it (mode 0600) if it is missing; its folder must exist. Secrets are
    /// sealed with these keys. [`Error::InUse`] if another process has it open.
    pub async fn open(path: impl AsRef<Path>, seal: Seal) -> Result<Self, Error> {
        Self::open_with_window(path, seal, WINDOW).await
    }

    /// Like [`SqliteStore::open`], keeping only the last `window` changes for watches.
    pub async fn open_with_window(path: impl AsRef<Path>, seal: Seal, window: u64) -> Result<Self, Error> {
        let (lock, options, mut connection) = connect(path.as_ref()).await?;
        migrations().run(&mut connection).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => Error::Newer { version },
            error => backend("bringing its tables up to date")(error),
        })?;
        sealing::settle(&mut connection, &seal).await?;
        let generation = snapshot::generation(&mut connection).await?;
        let again = writing(&options);
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
        let writer = Writer::new((connection, again), seal.clone(), changes.clone(), window, lock).await?;
        let state = writer.state();
        tokio::spawn(writer.run(queue));
        Ok(Self { state, seal, generation, readers, writes, changes })
    }

    /// Writes every Secret of the closed store at `path` in plain, so that the version before can open it; returns how
    /// many values that were.
    pub async fn unseal(path: impl AsRef<Path>, seal: &Seal) -> Result<u64, Error> {
        let (_lock, _, mut connection) = connect(path.as_ref()).await?;
        let rows = sealing::undo(&mut connection, seal).await?;
        connection.close().await.map_err(backend("closing its file"))?;
        Ok(rows)
    }

    /// For each key id (empty: not sealed), how many values of Secrets in the store at `path` are sealed with it. Another
    /// process may have the store open.
    pub async fn sealed(path: impl AsRef<Path>) -> Result<BTreeMap<String, u64>, Error> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(PATIENCE);
        let failed = backend("reading its Secrets");
        let mut connection = options.disable_statement_logging().connect().await.map_err(&failed)?;
        sealing::count(&mut connection).await
    }

    /// Finishes writes under way and closes the file. Every later write and watch fails.
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

    /// What each object that has changed after `at`, up to `now`, was at `at`.
    async fn older(
        &self,
        at: u64,
        now: u64,
        resources: &[&str],
        namespace: Option<&str>,
    ) -> Result<Vec<(Key, Option<Arc<Value>>)>, Error> {
        // MIN makes each row that of the first change of its object.
        let rows = sqlx::query(
            "SELECT counters.compacted AS oldest, first.* FROM counters
             LEFT JOIN (SELECT resource, namespace, name, old, MIN(revision) FROM changes
                        WHERE revision > ?1 AND revision <= ?2
                          AND resource IN (SELECT value FROM json_each(?3)) AND (?4 IS NULL OR namespace = ?4)
                        GROUP BY resource, namespace, name) AS first",
        )
        .bind(signed(at))
        .bind(signed(now))
        .bind(names(resources))
        .bind(namespace)
        .fetch_all(&self.readers)
        .await
        .map_err(reading("reading the changes since a list"))?;
        let oldest = rows.first().map_or(0, |row| unsigned(row, "oldest"));
        if at < oldest {
            return Err(Error::Compacted { since: at, oldest });
        }
        let found = rows.iter().filter(|row| row.get::<Option<&str>, _>("resource").is_some());
        found.map(|row| Ok((key(row), side(&self.seal, row, "old")?))).collect()
    }
}

#[async_trait::async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        Ok(locked(&self.state).get(key).map(|value| Value::clone(value)))
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        let (found, now) = {
            let state = locked(&self.state);
            (state.list(resources, namespace), state.revision())
        };
        match at {
            Some(at) if at > now => Err(Error::Future { since: at, newest: now }),
            Some(at) if at < now => Ok((state::undone(found, self.older(at, now, resources, namespace).await?), at)),
            _ => Ok((found, now)),
        }
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        Ok(locked(&self.state).owned_by(uid))
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        self.write(Deed::Put { key: key.clone(), expect, value }).await
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        self.write(Deed::Delete { key: key.clone(), revision }).await
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        let live = self.changes.subscribe();
        let tail = Tail::start(self.readers.clone(), self.seal.clone(), live, resources, namespace, since).await?;
        Ok(tail.stream())
    }

    async fn revision(&self) -> Result<u64, Error> {
        let row = sqlx::query("SELECT revision FROM counters").fetch_one(&self.readers).await;
        Ok(unsigned(&row.map_err(reading("reading the revision"))?, "revision"))
    }

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        Ok(locked(&self.state).all())
    }

    async fn generation(&self) -> Result<u64, Error> {
        Ok(self.generation)
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        self.write(Deed::Compact { through }).await.map(|_| ())
    }
}

/// Statements that create the tables, by version and name. A released one never changes: each file keeps its checksum.
/// They are listed by hand, because sqlx's macro that reads the folder would compile all of sqlx a second time.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "objects", include_str!("migrations/0001_objects.sql")),
    (2, "owners", include_str!("migrations/0002_owners.sql")),
    (3, "owners_in_memory", include_str!("migrations/0003_owners_in_memory.sql")),
    (4, "sealed", include_str!("migrations/0004_sealed.sql")),
    (5, "origin", include_str!("migrations/0005_origin.sql")),
];

fn migrations() -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.map(migration).into())
}

/// Locks the file and opens its writing connection.
async fn connect(path: &Path) -> Result<(File, SqliteConnectOptions, SqliteConnection), Error> {
    let lock = lock(path)?;
    private_file(path).map_err(backend("creating its file"))?;
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE).disable_statement_logging();
    let connection = writing(&options).connect().await.map_err(backend("opening its file"))?;
    Ok((lock, options, connection))
}

/// The options of the writing connection.
fn writing(options: &SqliteConnectOptions) -> SqliteConnectOptions {
    options
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("journal_size_limit", WAL_BYTES)
        // Deleted values are overwritten.
        .pragma("secure_delete", "ON")
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

/// All objects of the file. A sealed row of an earlier revision of the same object is refused too.
async fn load(connection: &mut SqliteConnection, seal: &Seal) -> Result<BTreeMap<Key, Arc<Value>>, Error> {
    let rows =
        sqlx::query("SELECT resource, namespace, name, revision, value FROM objects").fetch_all(connection).await;
    let rows = rows.map_err(backend("reading its objects"))?;
    let object = |row| {
        let (key, value) = (key(row), side(seal, row, "value")?.unwrap_or_default());
        let its_own = key.resource != SEALED || revision_of(&value) == Some(unsigned(row, "revision"));
        if its_own { Ok((key, value)) } else { Err(Error::Tampered { key }) }
    };
    rows.iter().map(object).collect()
}

/// The value in a column, opened; `None` if there is none.
fn side(seal: &Seal, row: &SqliteRow, column: &str) -> Result<Option<Arc<Value>>, Error> {
    let Some(stored) = row.get::<Option<&str>, _>(column) else { return Ok(None) };
    let text = seal.open(&key(row), stored)?;
    let value = serde_json::from_str(&text).map_err(backend("understanding a stored object"))?;
    Ok(Some(Arc::new(value)))
}

fn backend<E: std::error::Error + Send + Sync + 'static>(doing: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Backend { doing, source: Box::new(source) }
}

/// A failure of a reader: also none may have become free in time.
fn reading(doing: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |source| match source {
        sqlx::Error::PoolTimedOut => Error::Busy { doing },
        other => backend(doing)(other),
    }
}

/// Resource names as one parameter of a statement.
fn names(resources: &[impl AsRef<str>]) -> String {
    Value::from_iter(resources.iter().map(AsRef::as_ref)).to_string()
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

    use super::*;

    #[test]
    fn every_migration_of_the_folder_is_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("operator/store/migrations");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<String> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into()).collect();
        files.sort();
        assert_eq!(MIGRATIONS.map(|(version, name, _)| format!("{version:04}_{name}.sql")).to_vec(), files);
    }

    fn seal() -> Seal {
        Seal::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap()
    }

    fn key(name: &str) -> Key {
        Key { resource: "toys".into(), namespace: "n".into(), name: name.into() }
    }

    /// Regression 492: a store that was closed could not be opened again for a moment: a process that another thread had just
    /// forked still held the file with the lock.
    #[tokio::test]
    async fn a_closed_store_is_free_although_a_forked_process_still_has_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        SqliteStore::open(&path, seal()).await.unwrap().close().await;
        let (lock, options, connection) = connect(&path).await.unwrap();
        let forked = lock.try_clone().unwrap();
        let (changes, _) = broadcast::channel(1);
        let writer = Writer::new((connection, options), seal(), changes, WINDOW, lock).await.unwrap();
        let (writes, queue) = mpsc::channel(1);
        let running = tokio::spawn(writer.run(queue));
        let (reply, closed) = tokio::sync::oneshot::channel();
        writes.send(Write { deed: Deed::Close, reply }).await.unwrap();
        closed.await.unwrap().unwrap();
        running.await.unwrap();
        SqliteStore::open(&path, seal()).await.unwrap();
        drop(forked);
    }

    /// Regression 61: lists took the four read connections, and under load the reads of the controllers waited 4.5 s for
    /// one and lists failed with 500 after 5 s. Objects are read from memory; no read of an object needs a connection.
    #[tokio::test]
    async fn objects_are_read_while_every_connection_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("store.db"), seal()).await.unwrap();
        let written = store.put(&key("a"), Expect::Absent, json!({"metadata": {}})).await.unwrap();
        let taken = futures::future::join_all((0..READERS).map(|_| store.readers.acquire())).await;
        assert!(store.readers.try_acquire().is_none());
        assert_eq!(store.get(&key("a")).await.unwrap(), Some(written.clone()));
        assert_eq!(store.list("toys", None).await.unwrap().0, [Arc::new(written)]);
        drop(taken);
        store.close().await;
    }

    /// Regression 128: a full disk ends SQLite's transaction by itself, and the connection went on counting it: every later
    /// write failed until the operator was restarted, and nothing was failed over meanwhile. A failed write gets a new
    /// connection now.
    #[tokio::test]
    async fn a_full_disk_stops_writes_only_while_it_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let (lock, options, mut connection) = connect(&folder.path().join("store.db")).await.unwrap();
        migrations().run(&mut connection).await.unwrap();
        // As if the disk were full after 64 more pages; a new connection finds it with room again.
        let pages = sqlx::query("PRAGMA page_count").fetch_one(&mut connection).await.unwrap().get::<i64, _>(0);
        let limit = format!("PRAGMA max_page_count = {}", pages + 64);
        sqlx::query(sqlx::AssertSqlSafe(limit)).execute(&mut connection).await.unwrap();
        let (changes, _) = broadcast::channel(LIVE);
        let (writes, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new((connection, writing(&options)), seal(), changes, WINDOW, lock).await.unwrap();
        tokio::spawn(writer.run(queue));
        let put = async |name: &str, bytes: usize| {
            let (reply, answer) = oneshot::channel();
            let value = json!({"metadata": {}, "text": "x".repeat(bytes)});
            let deed = Deed::Put { key: key(name), expect: Expect::Absent, value };
            writes.send(Write { deed, reply }).await.unwrap();
            answer.await.unwrap()
        };
        let full = put("large", 1 << 20).await.unwrap_err();
        assert!(crate::api::chain::chain(&full).contains("full"), "{full:?}");
        assert!(put("small", 1).await.is_ok());
    }

    #[tokio::test]
    async fn what_an_owner_owns_is_found_after_the_file_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let store = SqliteStore::open(&path, seal()).await.unwrap();
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

        let store = SqliteStore::open(&path, seal()).await.unwrap();
        for uid in ["one", "two"] {
            let owned = store.owned_by(uid).await.unwrap();
            assert_eq!(owned.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key("array")], "{uid}");
        }
        store.close().await;
    }
}
