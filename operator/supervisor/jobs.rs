//! Jobs on the data directory: initdb, pg_basebackup, crash recovery, pg_rewind. Each results in a complete
//! directory or a failure.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::conf;
use super::durable::{self, sync_folder};
use super::leftovers;
use super::place::Place;
use super::process::Reaper;
use super::sql;
use super::theirs;
use super::tools;
use super::wire::{Follow, Init};
pub use crate::api::chain::chain;

/// Inputs of a job.
#[derive(Debug, Clone)]
pub struct Site {
    /// Paths and ids.
    pub place: Place,
    /// Starts and reaps children.
    pub reaper: Reaper,
}

/// The result of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A new data directory by initdb.
    New,
    /// A clone of the leader's.
    Copy,
    /// The old directory, recovered; the end of its WAL is known.
    Recovered,
    /// The old directory, rewound onto a leader of this timeline.
    Rewound(u32),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error message.
    pub words: String,
    /// The old directory was changed in part and is unusable.
    pub spoiled: bool,
    /// The leader could not be connected to: the failure says nothing about the directory.
    pub unreached: bool,
}

impl Failure {
    pub(super) fn new(words: String) -> Self {
        // libpq's messages when it gets no connection.
        let unreached = ["connection to server", "could not connect", "could not translate host name"]
            .iter()
            .any(|phrase| words.contains(phrase));
        Self { words, spoiled: false, unreached }
    }

    pub(super) fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(format!("{doing} {}: {error}", path.display()))
    }
}

/// Delay of work that follows a promotion, so that the first clients of the new primary have processor and disk alone.
pub const CLIENTS_FIRST: Duration = Duration::from_millis(250);
/// Message of pg_rewind when it finds nothing to do.
const SAME_TIMELINE: &str = "source and target cluster are on the same timeline";

impl From<tools::Error> for Failure {
    fn from(error: tools::Error) -> Self {
        Self::new(chain(&error))
    }
}

impl Site {
    /// Runs initdb and creates the roles for replication and for the supervisor, before any client can connect.
    pub async fn init(self, init: Init) -> Result<Made, Failure> {
        let new = self.clear_new().await?;
        let mut command = self.place.tool("initdb");
        command.arg("-D").arg(&new).args(["-U", "postgres", "--auth-local=peer", "--auth-host=reject"]);
        command.arg(format!("--encoding={}", init.encoding)).arg(format!("--locale={}", init.locale));
        command.args(["--no-instructions", "--no-sync"]);
        // A promotion writes and fsyncs one whole segment: 4 MiB take some 20 ms less than PostgreSQL's usual 16 MiB.
        command.arg("--wal-segsize=4");
        if init.data_checksums {
            command.arg("--data-checksums");
        }
        tools::run(&self.reaper, command).await?;
        let statements = self.place.own().join("bootstrap.sql");
        durable::write(&statements, sql::bootstrap().as_bytes())
            .map_err(|error| Failure::io("writing", &statements, &error))?;
        let input = File::open(&statements).map_err(|error| Failure::io("opening", &statements, &error))?;
        let output = self.single(&new, "postgres", Stdio::from(input), None).await?;
        if let Some(line) = output.lines().find(|line| line.contains("ERROR:")) {
            return Err(Failure::new(format!("making the roles: {line}")));
        }
        self.swap_in(&new).await?;
        Ok(Made::New)
    }

    /// A base backup of the leader, as a standby.
    pub async fn clone_leader(self, follow: Follow) -> Result<Made, Failure> {
        self.clear_tablespaces().await?;
        let new = self.clear_new().await?;
        self.make_room(&new).await?;
        let mut command = self.place.tool("pg_basebackup");
        command.arg("-D").arg(&new).args([
            "-X",
            "stream",
            "-c",
            "fast",
            "--no-sync",
            "--no-password",
            "-S",
            &follow.slot,
        ]);
        command.arg("-d").arg(self.source(&follow));
        tools::run(&self.reaper, command).await?;
        self.standby_signal(&new)?;
        self.swap_in(&new).await?;
        Ok(Made::Copy)
    }

    /// Connection string to the leader.
    fn source(&self, follow: &Follow) -> String {
        conf::leader(&follow.into(), &self.place.passfile(), &self.place.configuration())
    }

    /// Crash recovery of the old directory, with the last written configuration. If interrupted, it is repeated.
    pub async fn recover(self) -> Result<Made, Failure> {
        tokio::time::sleep(CLIENTS_FIRST).await;
        let pgdata = self.place.pgdata();
        // A single-user server starts neither in standby mode nor with the pid file of a killed server.
        for leftover in ["standby.signal", "postmaster.pid"] {
            let path = pgdata.join(leftover);
            self.place.theirs().remove(&path).map_err(|error| Failure::io("removing", &path, &error))?;
        }
        let configuration = self.place.configuration().join("postgresql.conf");
        self.single(&pgdata, "template1", Stdio::null(), Some(&configuration)).await?;
        Ok(Made::Recovered)
    }

    /// pg_rewind of the old directory, which was shut down cleanly, onto the leader, as a standby.
    pub async fn rewind(self, follow: Follow) -> Result<Made, Failure> {
        let pgdata = self.place.pgdata();
        let timeline = follow.lineage.as_ref().map_or(0, |lineage| lineage.timeline);
        let mut command = self.place.tool("pg_rewind");
        command.arg("--target-pgdata").arg(&pgdata).args(["--no-ensure-shutdown", "--no-sync"]);
        let source = format!("{} dbname=postgres", self.source(&follow));
        command.arg("--source-server").arg(source);
        let ran = tools::run(&self.reaper, command).await;
        if ran.as_ref().is_ok_and(|output| output.contains(SAME_TIMELINE)) {
            // pg_rewind changed nothing and exits with 0. But a former primary on its leader's own timeline
            // has diverged.
            return Err(Failure {
                spoiled: true,
                ..Failure::new("it is on its leader's timeline, but not the leader".into())
            });
        }
        if let Err(error) = ran {
            let output = if let tools::Error::Failed { output, .. } = &error { output.clone() } else { String::new() };
            // pg_rewind prints this after it has read everything and before it changes the first byte.
            let spoiled = output.contains("rewinding from last common checkpoint");
            return Err(Failure { spoiled, ..Failure::from(error) });
        }
        self.sync_all(&pgdata).await?;
        self.standby_signal(&pgdata)?;
        Ok(Made::Rewound(timeline))
    }

    /// A single-user server with statements on its stdin; it first recovers a crashed directory.
    pub(super) async fn single(
        &self,
        data: &Path,
        database: &str,
        input: Stdio,
        config: Option<&Path>,
    ) -> Result<String, Failure> {
        let mut command: Command = self.place.tool("postgres");
        command.arg("--single").arg("-D").arg(data);
        if let Some(config) = config {
            command.arg("-c").arg(format!("config_file={}", config.display()));
        }
        command.arg(database).stdin(input);
        Ok(tools::run(&self.reaper, command).await?)
    }

    /// An empty directory for the new data.
    pub(super) async fn clear_new(&self) -> Result<std::path::PathBuf, Failure> {
        let new = self.place.pgdata_new();
        remove_tree(&new).await?;
        let made = self.place.directory(&new, self.place.uid, 0o700);
        made.map_err(|error| Failure::new(chain(&error)))?;
        Ok(new)
    }

    /// Empties the directories of the old directory's tablespaces, with the rights of the server's user: pg_basebackup
    /// copies into empty ones only.
    async fn clear_tablespaces(&self) -> Result<(), Failure> {
        let links =
            [self.place.pgdata(), self.place.pgdata_new()].map(|data| leftovers::tablespaces(&self.place, &data));
        for directory in links.into_iter().flatten() {
            let names = self.place.theirs().names(&directory);
            for name in names.into_iter().filter(|name| name.to_string_lossy().starts_with("PG_")) {
                let mut command = self.place.tool("/bin/rm");
                command.args(["-rf", "--"]).arg(directory.join(name));
                tools::run(&self.reaper, command).await?;
            }
        }
        Ok(())
    }

    /// Removes the old directory before the copy if there is no room for both. It is unusable once a copy has begun.
    async fn make_room(&self, new: &Path) -> Result<(), Failure> {
        let old = self.place.pgdata();
        let (measured, theirs) = (old.clone(), self.place.theirs());
        let size = tokio::task::spawn_blocking(move || theirs.size(&measured)).await.unwrap_or_default();
        if self.place.disk_free() < size + size / 10 {
            tracing::info!(path = %old.display(), "removing the old data directory: there is no room for two");
            remove_tree(&old).await?;
            synced(new.parent())?;
        }
        Ok(())
    }

    /// Syncs a directory to disk: one call for the whole file system, whereas the tools would fsync each file.
    pub(super) async fn sync_all(&self, directory: &Path) -> Result<(), Failure> {
        let opened = File::open(directory).map_err(|error| Failure::io("opening", directory, &error))?;
        let synced = tokio::task::spawn_blocking(move || nix::unistd::syncfs(opened)).await;
        match synced {
            Ok(Ok(())) => Ok(()),
            Ok(Err(errno)) => Err(Failure::io("syncing", directory, &errno.into())),
            Err(panic) => Err(Failure::io("syncing", directory, &std::io::Error::other(panic))),
        }
    }

    /// Replaces the old directory by the new one, after the new one is on disk.
    pub(super) async fn swap_in(&self, new: &Path) -> Result<(), Failure> {
        self.sync_all(new).await?;
        let pgdata = self.place.pgdata();
        remove_tree(&pgdata).await?;
        std::fs::rename(new, &pgdata).map_err(|error| Failure::io("renaming", new, &error))?;
        synced(pgdata.parent())
    }

    fn standby_signal(&self, data: &Path) -> Result<(), Failure> {
        let path = data.join("standby.signal");
        self.place.theirs().write(&path, "").map_err(|error| Failure::io("writing", &path, &error))?;
        synced(Some(data))
    }
}

fn synced(folder: Option<&Path>) -> Result<(), Failure> {
    let folder = folder.unwrap_or(Path::new("/"));
    sync_folder(folder).map_err(|error| Failure::io("syncing", folder, &error))
}

/// Removes a directory tree, if it exists, in another thread than the loop's.
pub async fn remove_tree(path: &Path) -> Result<(), Failure> {
    let tree = path.to_owned();
    let removed = tokio::task::spawn_blocking(move || theirs::remove_directory(&tree)).await;
    let removed = removed.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    removed.map_err(|error| Failure::io("removing", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_is_not_reached_says_nothing_about_the_directory() {
        let words = "pg_rewind failed (exit code 1): pg_rewind: error: connection to server at \"172.30.0.2\", port 5432 failed: Connection refused";
        assert!(Failure::new(words.into()).unreached);
        assert!(!Failure::new("pg_rewind failed (exit code 1): could not find common ancestor".into()).unreached);
        // Counted as a failure, so that a clone follows (with Regression 10).
        let history = "pg_rewind failed (exit code 1): pg_rewind: connected to server; pg_rewind: error: could not fetch remote file \"pg_wal/0000000D.history\": ERROR:  could not open file \"pg_wal/0000000D.history\": No such file or directory";
        assert!(!Failure::new(history.into()).unreached);
    }
}
