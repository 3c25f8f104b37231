//! The one writer: commits waiting writes with one sync, notifies watches, answers callers.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use serde_json::Value;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{backend, json, signed, unsigned};
use crate::store::{Change, Error, Expect, Key, rules, stamp};

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
    changes: broadcast::Sender<Arc<Change>>,
    window: u64,
    counters: Counters,
    _lock: File,
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
        mut connection: SqliteConnection,
        changes: broadcast::Sender<Arc<Change>>,
        window: u64,
        lock: File,
    ) -> Result<Self, Error> {
        let counters = Counters::read(&mut connection).await.map_err(backend("reading its counters"))?;
        Ok(Self { connection, changes, window, counters, _lock: lock })
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
            drop(self._lock);
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

    /// Answers every caller of a batch that was not written, and reads the counters again.
    async fn fail(&mut self, replies: Vec<oneshot::Sender<Result<Value, Error>>>, error: sqlx::Error) {
        if let Ok(counters) = Counters::read(&mut self.connection).await {
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
        for deed in deeds {
            let answer = match deed {
                Deed::Put { key, expect, value } => {
                    put(&mut transaction, &mut counters, &mut done.changes, key, expect, value).await?
                }
                Deed::Delete { key, revision } => {
                    delete(&mut transaction, &mut counters, &mut done.changes, key, revision).await?
                }
                Deed::Compact { through } => {
                    counters.compacted = counters.compacted.max(through.min(counters.revision));
                    Ok(Value::Null)
                }
                Deed::Close => Ok(Value::Null),
            };
            done.answers.push(answer);
        }
        let oldest = counters.revision.saturating_sub(self.window);
        counters.compacted = counters.compacted.max(oldest);
        if counters.revision != self.counters.revision || counters.compacted != self.counters.compacted {
            counters.write(&mut transaction).await?;
        }
        transaction.commit().await?;
        self.counters = counters;
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

type Answer = Result<Result<Value, Error>, sqlx::Error>;

async fn put(
    connection: &mut SqliteConnection,
    counters: &mut Counters,
    changes: &mut Vec<Change>,
    key: Key,
    expect: Expect,
    value: Value,
) -> Answer {
    let revision = counters.revision + 1;
    let value = match stamp(&key, value, revision) {
        Ok(value) => value,
        Err(error) => return Ok(Err(error)),
    };
    let found = find(connection, &key).await?;
    let old = match (expect, found) {
        (Expect::Absent, None) => None,
        (Expect::Absent, Some(_)) => return Ok(Err(Error::AlreadyExists { key })),
        (Expect::Revision(_), None) => return Ok(Err(Error::NotFound { key })),
        (Expect::Revision(expected), Some((found, _))) if found != expected => {
            return Ok(Err(Error::Conflict { key, expected, found: Some(found) }));
        }
        (Expect::Revision(_), Some((_, text))) => match json(&text) {
            Ok(old) => Some((text, old)),
            Err(error) => return Ok(Err(error)),
        },
    };
    let (old_text, old) = old.unzip();
    let text = value.to_string();
    sqlx::query(
        "INSERT INTO objects (resource, namespace, name, revision, value) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET revision = excluded.revision, value = excluded.value",
    )
    .bind(&key.resource)
    .bind(&key.namespace)
    .bind(&key.name)
    .bind(signed(revision))
    .bind(&text)
    .execute(&mut *connection)
    .await?;
    index_owners(connection, &key, old.as_ref(), Some(&value)).await?;
    remember(connection, &key, revision, old_text.as_deref(), Some(&text)).await?;
    counters.revision = revision;
    changes.push(Change { key, revision, old, new: Some(value.clone()) });
    Ok(Ok(value))
}

async fn delete(
    connection: &mut SqliteConnection,
    counters: &mut Counters,
    changes: &mut Vec<Change>,
    key: Key,
    expected: u64,
) -> Answer {
    let Some((found, text)) = find(connection, &key).await? else {
        return Ok(Err(Error::NotFound { key }));
    };
    if found != expected {
        return Ok(Err(Error::Conflict { key, expected, found: Some(found) }));
    }
    let revision = counters.revision + 1;
    let (old, last) = match json(&text).and_then(|old| Ok((old.clone(), stamp(&key, old, revision)?))) {
        Ok(both) => both,
        Err(error) => return Ok(Err(error)),
    };
    sqlx::query("DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")
        .bind(&key.resource)
        .bind(&key.namespace)
        .bind(&key.name)
        .execute(&mut *connection)
        .await?;
    index_owners(connection, &key, Some(&old), None).await?;
    remember(connection, &key, revision, Some(&text), None).await?;
    counters.revision = revision;
    changes.push(Change { key, revision, old: Some(old), new: None });
    Ok(Ok(last))
}

/// The revision and text of the object at `key`.
async fn find(connection: &mut SqliteConnection, key: &Key) -> Result<Option<(u64, String)>, sqlx::Error> {
    let row = sqlx::query("SELECT revision, value FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")
        .bind(&key.resource)
        .bind(&key.namespace)
        .bind(&key.name)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| (unsigned(&row, "revision"), row.get("value"))))
}

/// Updates the index of owners; most writes do not change it.
async fn index_owners<'a>(
    connection: &mut SqliteConnection,
    key: &Key,
    old: Option<&'a Value>,
    new: Option<&'a Value>,
) -> Result<(), sqlx::Error> {
    const ADD: &str = "INSERT INTO owners (uid, resource, namespace, name) VALUES (?1, ?2, ?3, ?4)";
    const REMOVE: &str = "DELETE FROM owners WHERE uid = ?1 AND resource = ?2 AND namespace = ?3 AND name = ?4";
    let owners = |side: Option<&'a Value>| -> BTreeSet<&'a str> { side.into_iter().flat_map(rules::owners).collect() };
    let (old, new) = (owners(old), owners(new));
    let removed = old.difference(&new).map(|uid| (REMOVE, *uid));
    let added = new.difference(&old).map(|uid| (ADD, *uid));
    for (statement, uid) in removed.chain(added) {
        sqlx::query(statement)
            .bind(uid)
            .bind(&key.resource)
            .bind(&key.namespace)
            .bind(&key.name)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn remember(
    connection: &mut SqliteConnection,
    key: &Key,
    revision: u64,
    old: Option<&str>,
    new: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO changes (revision, resource, namespace, name, old, new) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .bind(signed(revision))
        .bind(&key.resource)
        .bind(&key.namespace)
        .bind(&key.name)
        .bind(old)
        .bind(new)
        .execute(connection)
        .await?;
    Ok(())
}
