//! Brings what the file holds in line with the keys: seals what is plain or sealed with an old key, or opens everything for
//! the version before; then no old byte stays in any file of the store.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{backend, key, signed, unsigned};
use crate::store::seal::{SEALED, Seal, key_id};
use crate::store::{Error, Key};

/// The columns with values.
const COLUMNS: [(&str, &str); 3] = [("objects", "value"), ("changes", "old"), ("changes", "new")];
/// Number of rows that are read at once.
const PAGE: usize = 100;
/// `user_version` of a file in which no byte from before the last rewriting is left; 0 before that.
pub(super) const CLEAN: i64 = 1;

/// Seals every Secret with the first key, unless it is already.
pub(super) async fn settle(connection: &mut SqliteConnection, seal: &Seal) -> Result<(), Error> {
    let rows = rewrite(connection, &seal.prefix(), |key, stored| seal.renewed(key, stored)).await?;
    if rows > 0 {
        tracing::info!(rows, key = seal.ids().first(), "Secrets were sealed in the store");
    }
    clean(connection).await
}

/// Writes every Secret in plain and takes the file back to the tables of the version before.
pub(super) async fn undo(connection: &mut SqliteConnection, seal: &Seal) -> Result<u64, Error> {
    let rows = rewrite(connection, "{", |key, stored| Ok(seal.open(key, stored)?.into_owned())).await?;
    for statement in
        ["PRAGMA user_version = 0", "DROP TABLE origin", "DELETE FROM _sqlx_migrations WHERE version IN (4, 5)"]
    {
        let done = sqlx::query(statement).execute(&mut *connection).await;
        done.map_err(backend("taking its tables back"))?;
    }
    Ok(rows)
}

/// How many values of Secrets are sealed with each key, by its id; empty: not sealed.
pub(super) async fn count(connection: &mut SqliteConnection) -> Result<BTreeMap<String, u64>, Error> {
    let mut found = BTreeMap::new();
    for (table, column) in COLUMNS {
        let read =
            format!("SELECT substr({column}, 1, 40) AS head FROM {table} WHERE resource = ?1 AND {column} NOT NULL");
        let rows = sqlx::query(AssertSqlSafe(read)).bind(SEALED).fetch_all(&mut *connection).await;
        for row in rows.map_err(backend("reading its Secrets"))? {
            *found.entry(key_id(row.get("head")).unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    Ok(found)
}

/// Writes anew each value of a Secret that does not begin with `done`; returns their number.
async fn rewrite(
    connection: &mut SqliteConnection,
    done: &str,
    renewed: impl Fn(&Key, &str) -> Result<String, Error>,
) -> Result<u64, Error> {
    let failed = backend("sealing its Secrets");
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    let mut written = 0;
    for (table, column) in COLUMNS {
        let read = format!(
            "SELECT resource, namespace, name, revision, {column} AS value FROM {table}
             WHERE resource = ?1 AND substr({column}, 1, ?2) <> ?3 LIMIT {PAGE}"
        );
        let write = format!(
            "UPDATE {table} SET {column} = ?1 WHERE resource = ?2 AND namespace = ?3 AND name = ?4 AND revision = ?5"
        );
        loop {
            let length = i64::try_from(done.len()).unwrap_or(i64::MAX);
            let query = sqlx::query(AssertSqlSafe(read.clone())).bind(SEALED).bind(length).bind(done);
            let rows = query.fetch_all(&mut *transaction).await.map_err(&failed)?;
            for row in &rows {
                let key = key(row);
                let value = renewed(&key, row.get("value"))?;
                let query = sqlx::query(AssertSqlSafe(write.clone())).bind(value);
                let query = query.bind(&key.resource).bind(&key.namespace).bind(&key.name);
                let query = query.bind(signed(unsigned(row, "revision")));
                query.execute(&mut *transaction).await.map_err(&failed)?;
                written += 1;
            }
            if rows.len() < PAGE {
                break;
            }
        }
    }
    if written > 0 {
        // Committed together: after a crash the next start knows that old bytes may be left.
        sqlx::query("PRAGMA user_version = 0").execute(&mut *transaction).await.map_err(&failed)?;
    }
    transaction.commit().await.map_err(&failed)?;
    Ok(written)
}

/// Removes the bytes of overwritten values from the file and from its write-ahead log.
async fn clean(connection: &mut SqliteConnection) -> Result<(), Error> {
    let failed = backend("removing plain Secrets from its files");
    let version = sqlx::query_scalar::<_, i64>("PRAGMA user_version").fetch_one(&mut *connection).await;
    if version.map_err(&failed)? == CLEAN {
        return Ok(());
    }
    sqlx::query("VACUUM").execute(&mut *connection).await.map_err(&failed)?;
    let log = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await.map_err(&failed)?;
    if log.get::<i64, _>(0) != 0 {
        tracing::warn!("the store's log is in use and was not emptied; the next start does it");
        return Ok(());
    }
    let set = AssertSqlSafe(format!("PRAGMA user_version = {CLEAN}"));
    sqlx::query(set).execute(&mut *connection).await.map_err(&failed)?;
    Ok(())
}
