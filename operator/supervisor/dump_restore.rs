//! The restore of a dump into a new database of the local server, which leads: frames, `pg_restore`, and the name last.
//!
//! The database is made under a name of its own, which no client may connect to, and gets its wanted name in one transaction when it
//! is whole. So a half restore is never seen under that name, and what is left of one is known by its own.

use std::io;

use nix::sys::wait::WaitStatus;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::beside::Trouble;
use super::dump::{connection, program};
use super::jobs::Site;
use super::process;
use super::running::{Lost, Running, last};
use super::sql::dumps::{DUPLICATE, code};
use super::sql::{self, Session};
use super::wire::{BackupState, RestoreOrder};
use crate::api::backup_id::UNFINISHED;
use crate::api::chain::chain;
use crate::archive::dumps::{DETAILS_FILE, DumpInfo, FRAMES_FILE, INFO, INFO_FILE, data_file, dump_key};
use crate::archive::frames::{Index, Reader};
use crate::archive::store::{self, Store};

/// Inputs of a restore.
#[derive(Debug, Clone)]
pub struct DumpRestore {
    /// The archive with the dump.
    pub store: Store,
    /// What programs need to run.
    pub site: Site,
    /// What was ordered.
    pub order: RestoreOrder,
}

/// A restore failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such dump.
    #[error("the archive has no complete dump {0}")]
    NoDump(String),
    /// Nothing is overwritten.
    #[error("there is a database {0:?} already, and nothing is overwritten: choose another name, or drop it first")]
    Exists(String),
    /// A server reads dumps of its own and of earlier versions.
    #[error("the dump is of PostgreSQL {0}, and this cluster has {1}: restore it into a cluster of {0} or later")]
    Version(u32, u32),
    /// Roles are missing.
    #[error(
        "the dump needs roles that this cluster does not have: {0}; create them, as globals.sql.zst of the dump says, or give spec.owner, \
         a role that everything is to belong to"
    )]
    Roles(String),
    /// The wanted owner is missing.
    #[error("the role {0:?} of spec.owner does not exist: create it, or name another one")]
    Owner(String),
    /// The volume is too full.
    #[error("the dump has {0} MiB, and the volume has {1} MiB free")]
    Space(u64, u64),
    /// The server refused a statement.
    #[error(transparent)]
    Sql(#[from] sql::Error),
    /// `pg_restore` could not be started or written to.
    #[error("running pg_restore")]
    Run(#[from] io::Error),
    /// How it ended is not known.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// It failed, in its words.
    #[error("pg_restore failed ({status}): {words}")]
    Failed {
        /// Its exit status.
        status: String,
        /// The end of what it said.
        words: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether another attempt would fail as well.
    fn is_lasting(&self) -> bool {
        match self {
            Self::NoDump(_) | Self::Exists(_) | Self::Version(..) | Self::Roles(_) | Self::Owner(_) => true,
            Self::Store(error) => matches!(error.kind, store::Kind::Broken | store::Kind::KeyMissing),
            _ => false,
        }
    }
}

impl DumpRestore {
    /// The name of the database until it is whole.
    pub fn unfinished(&self) -> String {
        let uid = self.order.id.chars().filter(char::is_ascii_hexdigit).take(8).collect::<String>();
        format!("{UNFINISHED}{}_{}", uid.to_lowercase(), self.order.attempt)
    }

    /// Restores it. `progress` gets how far it is. When the returned future is dropped, `pg_restore` ends, and the unfinished database
    /// stays for [`Session::drop_unfinished`].
    pub async fn take(self, progress: &watch::Sender<BackupState>) -> Result<(), Trouble> {
        let Err(error) = self.run(progress).await else { return Ok(()) };
        let dropped = async { Session::open().await?.drop_unfinished().await }.await;
        if let Err(problem) = dropped {
            tracing::warn!(problem = %chain(&problem), "an unfinished database is dropped later");
        }
        Err(Trouble { words: chain(&error), lasting: error.is_lasting() })
    }

    async fn run(&self, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
        let info = self.info().await?;
        let mut session = Session::open().await?;
        let comment = format!("restored from dump {} of {} ({})", info.id, info.database, self.order.id);
        match session.database(&self.order.database).await? {
            // An attempt before was not heard of any more.
            Some(found) if found.comment.as_ref() == Some(&comment) => return Ok(()),
            Some(_) => return Err(Error::Exists(self.order.database.clone())),
            None => {}
        }
        let owner = self.order.owner.as_ref().unwrap_or(&info.owner);
        let version = self.is_receivable(&mut session, &info).await?;
        let index = Index::load_checked(&self.store, &dump_key(&info.id, FRAMES_FILE), &info.frames_sha256).await?;
        progress.send_modify(|state| state.total = index.size);
        let free = self.site.place.disk_free();
        if free < index.size {
            return Err(Error::Space(index.size >> 20, free >> 20));
        }
        session.drop_unfinished().await?;
        let unfinished = self.unfinished();
        session.create_unfinished(&unfinished, owner, &info.locale, version).await?;
        self.data(&unfinished, &info, index, progress).await?;
        session.finish_database(&unfinished, &self.order.database, &comment).await.map_err(|error| {
            match code(&error).as_deref() {
                Some(DUPLICATE) => Error::Exists(self.order.database.clone()),
                _ => error.into(),
            }
        })
    }

    /// What the dump is.
    async fn info(&self) -> Result<DumpInfo, Error> {
        let key = dump_key(&self.order.dump, INFO_FILE);
        let text = self.store.get(&key, INFO).await?.ok_or_else(|| Error::NoDump(self.order.dump.clone()))?;
        let parse = |key: &str, text: &[u8]| {
            serde_json::from_slice(text).map_err(|error| self.store.broken(key, &format!("no dump: {error}")))
        };
        let mut info: DumpInfo = parse(&key, &text)?;
        if let Some(fingerprint) = info.age_fingerprint.as_deref() {
            self.store.opens(&key, Some(fingerprint))?;
            let key = dump_key(&self.order.dump, DETAILS_FILE);
            let details = self.store.get_content(&key, INFO, true).await?.ok_or_else(|| self.store.missing(&key))?;
            info = parse(&key, &details.0)?;
        }
        match info.id == self.order.dump {
            true => Ok(info),
            false => Err(self.store.broken(&key, &format!("it describes the dump {:?}", info.id)).into()),
        }
    }

    /// Whether this server can have it; its `server_version_num`.
    async fn is_receivable(&self, session: &mut Session, info: &DumpInfo) -> Result<u32, Error> {
        let needed = match &self.order.owner {
            Some(owner) => vec![owner.clone()],
            None => info.roles.iter().chain([&info.owner]).cloned().collect(),
        };
        let receives = session.receives(&needed).await?;
        if receives.version / 10_000 < info.major() {
            return Err(Error::Version(info.major(), receives.version / 10_000));
        }
        match (receives.missing.is_empty(), &self.order.owner) {
            (true, _) => Ok(receives.version),
            (false, Some(owner)) => Err(Error::Owner(owner.clone())),
            (false, None) => Err(Error::Roles(receives.missing.join(", "))),
        }
    }

    /// Gives the frames, each verified, to `pg_restore`.
    async fn data(
        &self,
        unfinished: &str,
        info: &DumpInfo,
        index: Index,
        progress: &watch::Sender<BackupState>,
    ) -> Result<(), Error> {
        let mut command = program(&self.site, "pg_restore");
        command.args(["--format=custom", "--exit-on-error", "--no-tablespaces"]).arg(connection(unfinished));
        if let Some(owner) = &self.order.owner {
            command.args(["--no-owner", "--no-privileges"]).arg(format!("--role={owner}"));
        }
        let (stdin, input) = io::pipe()?;
        command.stdin(stdin);
        let input = pipe::Sender::from_owned_fd(input.into())?;
        let mut running = Running::start(&self.site.reaper, command)?;
        let frames = Reader::new(self.store.clone(), &dump_key(&info.id, &data_file(&info.database)), index);
        // Both at once: what it says must not hold up what it reads.
        let (fed, ended) = tokio::join!(feed(frames, input, progress), running.end(|_| false));
        let (status, lines) = ended?;
        match (status, fed) {
            // It ended because its input did.
            (_, Err(Error::Store(error))) => Err(error.into()),
            (WaitStatus::Exited(_, 0), fed) => fed,
            (status, _) => Err(Error::Failed { status: process::describe(status), words: last(&lines) }),
        }
    }
}

/// Writes all frames. The input ends with this.
async fn feed(mut frames: Reader, mut input: pipe::Sender, progress: &watch::Sender<BackupState>) -> Result<(), Error> {
    while let Some(content) = frames.next().await? {
        input.write_all(&content).await?;
        progress.send_modify(|state| state.bytes += content.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
