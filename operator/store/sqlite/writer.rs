//! The one writer: commits waiting writes with one sync, changes the objects in memory, notifies watches, answers callers.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection, Row};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{backend, load, signed, unsigned};
use crate::api::sync::lock;
use crate::store::seal::emptied;
use crate::store::state::{self, State};
use crate::store::{Change, Error, Expect, Key, Seal, WINDOW_BYTES};

/// Limit of writes in one commit, so that the first of them does not wait long.
const BATCH: usize = 32;

/// One write that a caller requests.
#[derive(Debug)]
pub(super) enum Deed {
    Put { key: Key, expect: Expect, value: Value },
    Delete { key: Key, revision: u64 },
    Compact { through: u64 },
    Close,
}

/// A write and the caller that waits for it.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) deed: Deed,
    pub(super) reply: oneshot::Sender<Result<Value, Error>>,
}

/// Owns the writing connection, the counters and the lock on the file.
pub(super) struct Writer {
    connection: SqliteConnection,
    /// How the connection was opened.
    options: SqliteConnectOptions,
    seal: Seal,
    changes: broadcast::Sender<Arc<Change>>,
    window: u64,
    counters: Counters,
    sizes: Sizes,
    state: Arc<Mutex<State>>,
    lock: File,
}

/// The bytes of each change in the file, the oldest first.
#[derive(Debug, Default)]
struct Sizes {
    each: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Sizes {
    async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let bytes = "SELECT revision, ifnull(octet_length(old), 0) + ifnull(octet_length(new), 0) AS bytes FROM changes ORDER BY revision";
        let rows = sqlx::query(bytes).fetch_all(connection).await?;
        let mut sizes = Self::default();
        rows.iter().for_each(|row| sizes.add(unsigned(row, "revision"), row.get::<i64, _>("bytes").unsigned_abs()));
        Ok(sizes)
    }

    fn add(&mut self, revision: u64, bytes: u64) {
        self.each.push_back((revision, bytes));
        self.sum += bytes;
    }

    fn forget(&mut self, through: u64) {
        while let Some((_, bytes)) = self.each.pop_front_if(|(revision, _)| *revision <= through) {
            self.sum -= bytes;
        }
    }

    /// The newest change that has to go so that the others are no more bytes than this; 0 if none has to.
    fn surplus(&self, most: u64) -> u64 {
        let mut sum = self.sum;
        let mut through = 0;
        for (revision, bytes) in &self.each {
            if sum <= most {
                break;
            }
            (sum, through) = (sum - bytes, *revision);
        }
        through
    }
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    revision: u64,
    compacted: u64,
}

/// The result of a transaction: answers and changes, sent after the commit.
#[derive(Default)]
struct Done {
    answers: Vec<Result<Value, Error>>,
    changes: Vec<Change>,
}

impl Writer {
    pub(super) async fn new(
        (mut connection, options): (SqliteConnection, SqliteConnectOptions),
        seal: Seal,
        changes: broadcast::Sender<Arc<Change>>,
        window: u64,
        lock: File,
    ) -> Result<Self, Error> {
        let counters = Counters::read(&mut connection).await.map_err(backend("reading its counters"))?;
        let sizes = Sizes::read(&mut connection).await.map_err(backend("reading the sizes of its changes"))?;
        let state = State::new(load(&mut connection, &seal).await?, counters.revision);
        let state = Arc::new(Mutex::new(state));
        Ok(Self { connection, options, seal, changes, window, counters, sizes, state, lock })
    }

    /// The objects as they are now.
    pub(super) fn state(&self) -> Arc<Mutex<State>> {
        self.state.clone()
    }

    /// Performs writes until the queue is closed or [`Deed::Close`] arrives.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Write>) {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            let last = batch.iter().position(|write| matches!(write.deed, Deed::Close));
            let closing = last.map(|last| batch.split_off(last)).and_then(|rest| rest.into_iter().next());
            self.commit(batch.drain(..)).await;
            let Some(closing) = closing else { continue };
            if let Err(error) = self.connection.close().await {
                tracing::warn!(%error, "the store's file did not close cleanly");
            }
            // To close the file is not enough: a process that was forked at this moment, and has not begun its program yet,
            // holds it too.
            if let Err(error) = self.lock.unlock() {
                tracing::warn!(%error, "the lock on the store's file is released only when its last user ends");
            }
            let _ = closing.reply.send(Ok(Value::Null));
            return;
        }
    }

    async fn commit(&mut self, batch: impl Iterator<Item = Write>) {
        let (deeds, replies): (Vec<_>, Vec<_>) = batch.map(|write| (write.deed, write.reply)).unzip();
        if deeds.is_empty() {
            return;
        }
        match self.transaction(deeds).await {
            Ok(done) => {
                done.changes.iter().for_each(|change| lock(&self.state).apply(change));
                for change in done.changes {
                    // An error means that there is no watch.
                    let _ = self.changes.send(Arc::new(change));
                }
                for (reply, answer) in replies.into_iter().zip(done.answers) {
                    let _ = reply.send(answer);
                }
            }
            Err(error) => self.fail(replies, error).await,
        }
    }

    /// Answers every caller of a batch that was not written, and reads the file again if it has the batch after all.
    async fn fail(&mut self, replies: Vec<oneshot::Sender<Result<Value, Error>>>, error: sqlx::Error) {
        // SQLite may have ended the transaction by itself, of which this connection knows nothing.
        if let Ok(connection) = self.options.connect().await {
            self.connection = connection;
        }
        if let Ok(counters) = Counters::read(&mut self.connection).await
            && counters.revision != self.counters.revision
            && let Ok(objects) = load(&mut self.connection, &self.seal).await
        {
            *lock(&self.state) = State::new(objects, counters.revision);
            self.counters = counters;
        }
        let error = Arc::new(error);
        for reply in replies {
            let _ = reply.send(Err(backend("writing")(Arc::clone(&error))));
        }
    }

    /// Performs the writes in order. A refused write changes nothing; a failure of the database fails the whole batch.
    async fn transaction(&mut self, deeds: Vec<Deed>) -> Result<Done, sqlx::Error> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
        let mut counters = self.counters;
        let mut done = Done::default();
        let mut sizes = Vec::new();
        for deed in deeds {
            let decided = match deed {
                Deed::Put { key, expect, value } => {
                    let found = found(&self.state, &done.changes, &key);
                    state::put(key, expect, value, found.as_ref(), counters.revision + 1).map(|change| {
                        let new = change.new.as_deref().cloned().unwrap_or_default();
                        (change, new)
                    })
                }
                Deed::Delete { key, revision } => {
                    let found = found(&self.state, &done.changes, &key);
                    state::delete(key, revision, found.as_ref(), counters.revision + 1)
                }
                Deed::Compact { through } => {
                    counters.compacted = counters.compacted.max(through.min(counters.revision));
                    done.answers.push(Ok(Value::Null));
                    continue;
                }
                Deed::Close => continue,
            };
            let answer = match decided {
                Ok((change, answer)) => {
                    sizes.push((change.revision, record(&mut transaction, &self.seal, &change).await?));
                    counters.revision = change.revision;
                    done.changes.push(change);
                    Ok(answer)
                }
                Err(error) => Err(error),
            };
            done.answers.push(answer);
        }
        let oldest = counters.revision.saturating_sub(self.window);
        counters.compacted = counters.compacted.max(oldest).max(self.sizes.surplus(WINDOW_BYTES));
        if counters.revision != self.counters.revision || counters.compacted != self.counters.compacted {
            counters.write(&mut transaction).await?;
        }
        transaction.commit().await?;
        self.counters = counters;
        sizes.into_iter().for_each(|(revision, bytes)| self.sizes.add(revision, bytes));
        self.sizes.forget(counters.compacted);
        Ok(done)
    }
}

impl Counters {
    async fn read(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query("SELECT revision, compacted FROM counters").fetch_one(connection).await?;
        Ok(Self { revision: unsigned(&row, "revision"), compacted: unsigned(&row, "compacted") })
    }

    /// Records the counters and deletes the changes that are outside the window.
    async fn write(self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE counters SET revision = ?1, compacted = ?2")
            .bind(signed(self.revision))
            .bind(signed(self.compacted))
            .execute(&mut *connection)
            .await?;
        sqlx::query("DELETE FROM changes WHERE revision <= ?1")
            .bind(signed(self.compacted))
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// The object at `key` after these changes of the same batch.
fn found(state: &Mutex<State>, batch: &[Change], key: &Key) -> Option<Arc<Value>> {
    match batch.iter().rev().find(|change| change.key == *key) {
        Some(change) => change.new.clone(),
        None => lock(state).get(key).cloned(),
    }
}

/// Writes the change to the tables; returns its bytes there.
async fn record(connection: &mut SqliteConnection, seal: &Seal, change: &Change) -> Result<u64, sqlx::Error> {
    let Change { key, revision, old, new } = change;
    let text = |value: &Value| seal.seal(key, value.to_string());
    let new = new.as_ref().map(|value| text(value));
    let old = old.as_ref().map(|old| if new.is_none() { text(&emptied(key, old)) } else { text(old) });
    let bytes = old.iter().chain(&new).map(|text| text.len() as u64).sum();
    let object = match &new {
        Some(new) => sqlx::query(
            "INSERT INTO objects (resource, namespace, name, revision, value) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET revision = excluded.revision, value = excluded.value",
        )
        .bind(&key.resource)
        .bind(&key.namespace)
        .bind(&key.name)
        .bind(signed(*revision))
        .bind(new),
        None => sqlx::query("DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")
            .bind(&key.resource)
            .bind(&key.namespace)
            .bind(&key.name),
    };
    object.execute(&mut *connection).await?;
    sqlx::query("INSERT INTO changes (revision, resource, namespace, name, old, new) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .bind(signed(*revision))
        .bind(&key.resource)
        .bind(&key.namespace)
        .bind(&key.name)
        .bind(&old)
        .bind(&new)
        .execute(connection)
        .await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 154: the window of changes was bounded in number only: 10,000 large objects, before and after, were 18 GB.
    #[test]
    fn the_oldest_changes_go_when_all_have_too_many_bytes() {
        let mut sizes = Sizes::default();
        (1..=5).for_each(|revision| sizes.add(revision, 10));
        assert_eq!((sizes.surplus(50), sizes.surplus(49), sizes.surplus(25), sizes.surplus(0)), (0, 1, 3, 5));
        sizes.forget(sizes.surplus(25));
        assert_eq!((sizes.sum, sizes.each.front()), (20, Some(&(4, 10))));
    }
}
