//! A dump of one database of the local server, into the archive: `pg_dump` of a snapshot, frames, the globals, and `dump.json` last.
//!
//! The programs run as the server's user, whose sessions end with those of clients. A dump that a standby takes may be canceled by
//! the replay of WAL, in the server's words; the operator lets the primary take the next attempt.

use std::process::Command;

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::wait::WaitStatus;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::beside::Trouble;
use super::jobs::Site;
use super::listen::listen;
use super::pace::Pace;
use super::process;
use super::running::{Lost, Running, last};
use super::sql::dumps::{Exported, NO_DATABASE, code};
use super::sql::{self, Session};
use super::wire::{BackupOrder, BackupState, Snapshot};
use crate::api::chain::chain;
use crate::api::hash::short_hash;
use crate::api::postgres_settings::SOCKETS;
use crate::archive::cipher::Cipher;
use crate::archive::dumps::{DETAILS_FILE, DumpInfo, FRAMES_FILE, GLOBALS_FILE, INFO_FILE, data_file, dump_key};
use crate::archive::frames::{Index, Writer};
use crate::archive::names::is_backup_id;
use crate::archive::store::{self, Put, Store};

/// The role of the server's user.
pub const ROLE: &str = "postgres";
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// Bytes of the globals at most: those of some 100,000 roles.
const GLOBALS: usize = 64 << 20;
/// Compresses text well enough.
const LEVEL: i32 = 3;

/// Inputs of a dump.
#[derive(Debug, Clone)]
pub struct Dump {
    /// The archive.
    pub store: Store,
    /// What programs need to run.
    pub site: Site,
    /// The database.
    pub database: String,
    /// What was ordered.
    pub order: BackupOrder,
    /// The name of this member.
    pub member: String,
    /// The time of day.
    pub now: fn() -> Timestamp,
}

/// A dump failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The order is unusable.
    #[error("{0:?} is not the ID of a backup")]
    Id(String),
    /// There is no such database.
    #[error("there is no database {0:?} in this cluster")]
    Missing(String),
    /// The server refused a statement.
    #[error(transparent)]
    Sql(#[from] sql::Error),
    /// A program could not be started or read.
    #[error("running {0}")]
    Run(&'static str, #[source] std::io::Error),
    /// How a program ended is not known.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// A program failed, in its words.
    #[error("{program} failed ({status}): {words}")]
    Failed {
        /// The program.
        program: &'static str,
        /// Its exit status.
        status: String,
        /// The end of what it said.
        words: String,
    },
    /// The globals are too many.
    #[error("the roles of the server are more than {} MiB of SQL", GLOBALS >> 20)]
    Globals,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Another dump has this ID.
    #[error("the archive has another complete dump {0}; choose another ID")]
    Taken(String),
}

impl Dump {
    /// Takes it. `progress` gets how far it is. When the returned future is dropped, the programs and the upload end.
    pub async fn take(self, progress: &watch::Sender<BackupState>) -> Result<(), Trouble> {
        let Err(error) = self.run(progress).await else { return Ok(()) };
        if !matches!(error, Error::Taken(_) | Error::Id(_)) {
            // What remains is found by retention, if the store does not answer now.
            let data = data_file(&self.database);
            let left = [data.as_str(), FRAMES_FILE, GLOBALS_FILE, DETAILS_FILE];
            let left = left.map(|file| self.store.content_key(&self.key(file)));
            let _ = self.store.delete(&left).await;
        }
        Err(Trouble { words: chain(&error), lasting: matches!(error, Error::Missing(_)) })
    }

    fn key(&self, file: &str) -> String {
        dump_key(&self.order.id, file)
    }

    async fn run(&self, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
        if !is_backup_id(&self.order.id) {
            return Err(Error::Id(self.order.id.clone()));
        }
        if self.store.head(&self.key(INFO_FILE)).await?.is_some() {
            return Err(Error::Taken(self.order.id.clone()));
        }
        let mut session = Session::open_in(&self.database).await.map_err(|error| match code(&error).as_deref() {
            Some(NO_DATABASE) => Error::Missing(self.database.clone()),
            _ => error.into(),
        })?;
        let of = session.export_snapshot().await?;
        progress.send_modify(|state| {
            (state.total, state.snapshot) = (of.size, Some(Snapshot { lsn: of.lsn, time: of.time }));
        });
        let index = self.data(&of, progress).await?;
        // Until here the snapshot lives by this session.
        drop(session);
        let globals = self.globals().await?;
        let frames = index.render();
        let globals = self.store.put_content(&self.key(GLOBALS_FILE), globals).await?;
        self.store.put_content(&self.key(FRAMES_FILE), frames.clone()).await?;
        let info = self.info(of, &index, &frames, &globals);
        // Plain data always has a JSON form.
        let text = |info: &DumpInfo| Bytes::from(serde_json::to_vec_pretty(info).unwrap_or_default());
        let text = match info.age_fingerprint {
            None => text(&info),
            Some(_) => {
                self.store.put_content(&self.key(DETAILS_FILE), text(&info)).await?;
                text(&info.public())
            }
        };
        match self.store.put_new(&self.key(INFO_FILE), text.clone(), &[], |found| found == text).await? {
            Put::Written | Put::Same => Ok(()),
            Put::Other => Err(Error::Taken(self.order.id.clone())),
        }
    }

    /// Stores the output of `pg_dump`.
    async fn data(&self, of: &Exported, progress: &watch::Sender<BackupState>) -> Result<Index, Error> {
        let mut command = program(&self.site, "pg_dump");
        command.args(["--format=custom", "--compress=0"]);
        command.arg(format!("--snapshot={}", of.snapshot)).arg(connection(&self.database));
        let mut writer = Writer::new(self.store.upload(&self.key(&data_file(&self.database)), of.size).await?);
        let (mut running, output) = start(&self.site, "pg_dump", command)?;
        // Both at once: what it says must not hold up what it writes.
        let (copied, ended) = tokio::join!(self.copy(output, &mut writer, progress), running.end(|_| false));
        finished("pg_dump", ended?, copied)?;
        let index = writer.finish().await?;
        progress.send_modify(|state| (state.bytes, state.stored) = (index.size, index.stored));
        Ok(index)
    }

    /// Moves all that comes, not faster than is allowed.
    async fn copy(
        &self,
        mut output: pipe::Receiver,
        writer: &mut Writer,
        progress: &watch::Sender<BackupState>,
    ) -> Result<(), Error> {
        let (pace, mut chunk) = (Pace::new(self.order.max_rate), vec![0; CHUNK]);
        loop {
            let read = output.read(&mut chunk).await.map_err(|error| Error::Run("pg_dump", error))?;
            if read == 0 {
                return Ok(());
            }
            writer.write(&chunk[..read]).await?;
            pace.keep(writer.progress(), progress).await;
        }
    }

    /// The roles and tablespaces of the server as SQL, compressed.
    async fn globals(&self) -> Result<Bytes, Error> {
        let mut command = program(&self.site, "pg_dumpall");
        command.args(["--globals-only", "--no-role-passwords"]);
        let (mut running, output) = start(&self.site, "pg_dumpall", command)?;
        let mut text = Vec::new();
        let mut output = output.take(GLOBALS as u64 + 1);
        let (read, ended) = tokio::join!(
            async {
                let read = output.read_to_end(&mut text).await;
                drop(output);
                read
            },
            running.end(|_| false)
        );
        if text.len() > GLOBALS {
            return Err(Error::Globals);
        }
        finished("pg_dumpall", ended?, read.map_err(|error| Error::Run("pg_dumpall", error)))?;
        let packed = zstd::bulk::compress(&text, LEVEL).map_err(|error| Error::Run("the compression", error))?;
        Ok(packed.into())
    }

    fn info(&self, of: Exported, index: &Index, frames: &Bytes, globals: &Bytes) -> DumpInfo {
        DumpInfo {
            id: self.order.id.clone(),
            member: self.member.clone(),
            database: self.database.clone(),
            version: of.version,
            lsn: of.lsn,
            time: Timestamp::from_second(of.time).unwrap_or_default(),
            ended: (self.now)(),
            locale: of.locale,
            owner: of.owner,
            roles: of.roles,
            size: index.size,
            stored: index.stored,
            frames_sha256: short_hash(frames, 64),
            globals_sha256: short_hash(globals, 64),
            age_fingerprint: self.store.cipher().map(Cipher::fingerprint).map(str::to_owned),
        }
    }
}

/// A program of PostgreSQL that connects to the local server as its user does.
pub fn program(site: &Site, name: &str) -> Command {
    let mut command = site.place.tool(name);
    command.arg("--no-password").arg(format!("--host={SOCKETS}")).arg(format!("--port={}", listen().port));
    command.arg(format!("--username={ROLE}"));
    // What users have set for their clients is not for these.
    command.env("PGOPTIONS", "-c default_transaction_read_only=off -c statement_timeout=0 -c log_statement=none");
    command
}

/// The argument for this database, whatever its name looks like.
pub fn connection(database: &str) -> String {
    format!("--dbname=dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn start(site: &Site, program: &'static str, command: Command) -> Result<(Running, pipe::Receiver), Error> {
    Running::start_for_data(&site.reaper, command).map_err(|error| Error::Run(program, error))
}

/// A program has succeeded; or its own words, which say more than that its output ended.
fn finished<T>(
    program: &'static str,
    (status, lines): (WaitStatus, Vec<String>),
    read: Result<T, Error>,
) -> Result<T, Error> {
    match (status, read) {
        (WaitStatus::Exited(_, 0), read) => read,
        // It ended because nobody read any more.
        (_, Err(Error::Store(error))) => Err(error.into()),
        (status, _) => Err(Error::Failed { program, status: process::describe(status), words: last(&lines) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_database_is_no_connection_string() {
        assert_eq!(connection("app"), "--dbname=dbname='app'");
        assert_eq!(connection("host=x 'y\\"), "--dbname=dbname='host=x \\'y\\\\'");
    }
}
