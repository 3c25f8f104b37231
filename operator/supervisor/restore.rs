//! The job that makes a data directory from an archive: download, recovery by PostgreSQL, promotion, roles. If it is asked for, the
//! data is checked on the way (`checks.rs`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::wait::WaitStatus;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::jobs::{Failure, Site, chain};
use super::running::{Lost, Running, last};
use super::wire::{Reached, RecoveryPart, RecoveryState};
use super::{durable, process, sql, tools};
use crate::api::lsn::Lsn;
use crate::archive::fetch::Fetcher;
use crate::archive::frames::{Index, Reader};
use crate::archive::history::History;
use crate::archive::names::base_key;
use crate::archive::recovery::{self, Plan};
use crate::archive::store::{self, Store};
use crate::archive::survey::{DATA_FILE, FRAMES_FILE, INFO_FILE, survey};
use crate::archive::target::Recovery;

/// Time-out of `postgres --version`.
const VERSION: Duration = Duration::from_secs(10);

mod checks;

/// Inputs of a restore.
#[derive(Debug, Clone)]
pub struct Restore {
    /// The archive to read from.
    pub store: Store,
    /// How far.
    pub recovery: Recovery,
    /// `restore_command`: gets `%f` and `%p`; exits with 0, with 1 if the archive does not have the file, and with 126 if that
    /// is not known.
    pub command: String,
    /// The configuration with the settings that the recovery needs, such as `shared_preload_libraries`; `None`: defaults.
    pub configuration: Option<PathBuf>,
}

impl Failure {
    /// A failure of the store or the plan says nothing about the old directory.
    fn of(error: &dyn std::error::Error) -> Self {
        Self::new(chain(error))
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        Self { unreached: error.kind == store::Kind::Unreachable, ..Self::of(&error) }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::of(&lost)
    }
}

/// The restore goes on.
fn goes_on(progress: &watch::Sender<RecoveryState>) {
    progress.send_modify(|state| state.steps += 1);
}

/// A part of the restore begins.
fn begin(progress: &watch::Sender<RecoveryState>, phase: RecoveryPart) {
    progress.send_modify(|state| {
        state.phase = phase;
        state.doing.clear();
        state.steps += 1;
    });
}

/// What is asked for while the recovery runs: given to who answers the command.
pub type Serve<'a> = &'a (dyn Fn(Fetcher) + Sync);

impl Site {
    /// Makes a data directory from an archive, recovered and promoted to a new timeline, with the supervisor's roles, shut down
    /// cleanly. `serve` gets what answers `restore_command`.
    pub async fn restore(
        self,
        restore: Restore,
        serve: Serve<'_>,
        progress: &watch::Sender<RecoveryState>,
    ) -> Result<(), Failure> {
        let catalog = survey(&restore.store).await?;
        let plan = recovery::plan(&catalog, &restore.recovery).map_err(|error| Failure::of(&error))?;
        self.is_same_major(&plan).await?;
        let info = base_key(&plan.backup.id, INFO_FILE);
        restore.store.opens(&info, plan.backup.age_fingerprint.as_deref())?;
        let index = Index::load(&restore.store, &base_key(&plan.backup.id, FRAMES_FILE)).await?;
        progress.send_modify(|state| {
            state.backup.clone_from(&plan.backup.id);
            state.path = plan.path.iter().map(|(timeline, _)| *timeline).collect();
            (state.bytes, state.total) = (0, index.size);
            (state.wal, state.last_wal) = (None, plan.last.to_string());
        });
        let new = self.clear_new().await?;
        let free = self.place.disk_free();
        if free < index.size + index.size / 10 {
            let (needed, free) = (index.size >> 20, free >> 20);
            return Err(Failure::new(format!("the base backup has {needed} MiB, and the volume has {free} MiB free")));
        }
        begin(progress, RecoveryPart::Downloading);
        self.download(&restore.store, &plan, index, &new, progress).await?;
        let verify = restore.recovery.verify;
        if verify {
            begin(progress, RecoveryPart::Checking);
            self.check_manifest(&new, progress).await?;
        }
        begin(progress, RecoveryPart::Replaying);
        let fetcher = Fetcher::new(
            restore.store.clone(),
            plan.backup.segment_size,
            plan.backup.system_identifier.parse().map_err(|_| {
                Failure::new(format!("the backup has the system identifier {:?}", plan.backup.system_identifier))
            })?,
        );
        serve(fetcher.clone());
        let recovered = self.recover_from_archive(&restore, &plan, &new, progress).await;
        let last_commit = recovered.map_err(|failure| match fetcher.failure() {
            Some(why) => Failure { words: format!("{why}; {}", failure.words), ..failure },
            None => failure,
        })?;
        let (timeline, left) = self.where_it_ended(&plan, &new).await?;
        let reached = Reached { lsn: left.1, timeline: left.0, last_commit };
        progress.send_modify(|state| state.reached = Some(reached));
        if verify {
            begin(progress, RecoveryPart::Checking);
            self.check_pages(&new, progress).await?;
        }
        self.make_roles(&new).await?;
        if verify {
            self.check_structures(&new, restore.configuration.as_deref(), progress).await?;
        }
        self.swap_in(&new).await?;
        tracing::info!(backup = plan.backup.id, timeline, left = %left.1, "recovered from the archive");
        Ok(())
    }

    /// A data directory is of one major version.
    async fn is_same_major(&self, plan: &Plan) -> Result<(), Failure> {
        let mut command = self.place.tool("postgres");
        command.arg("--version");
        let said = tools::run_within(&self.reaper, command, VERSION).await?;
        let major = major(&said).ok_or_else(|| Failure::new(format!("postgres --version says {said:?}")))?;
        match (major, plan.backup.major()) {
            (ours, theirs) if ours == theirs => Ok(()),
            (ours, theirs) => Err(Failure::new(format!(
                "the base backup {} is of PostgreSQL {theirs}, and this image has {ours}: choose an image of {theirs}",
                plan.backup.id
            ))),
        }
    }

    /// Unpacks the base backup, with the rights of the server's user.
    async fn download(
        &self,
        store: &Store,
        plan: &Plan,
        index: Index,
        new: &Path,
        progress: &watch::Sender<RecoveryState>,
    ) -> Result<(), Failure> {
        let mut command = self.place.tool("/bin/tar");
        command.args(["-x", "-f", "-", "-C"]).arg(new);
        let (stdin, input) = std::io::pipe().map_err(|error| Failure::io("unpacking into", new, &error))?;
        command.stdin(Stdio::from(stdin));
        let unpack = |error: std::io::Error| Failure::io("unpacking into", new, &error);
        let mut input = pipe::Sender::from_owned_fd(input.into()).map_err(unpack)?;
        let mut running = Running::start(&self.reaper, command).map_err(unpack)?;
        let mut frames = Reader::new(store.clone(), &base_key(&plan.backup.id, DATA_FILE), index);
        let mut written = Ok(());
        while let Some(content) = frames.next().await? {
            written = input.write_all(&content).await;
            if written.is_err() {
                break;
            }
            progress.send_modify(|state| {
                state.bytes += content.len() as u64;
                state.steps += 1;
            });
        }
        drop(input);
        let (status, lines) = running.end(|_| false).await?;
        match (status, written) {
            (WaitStatus::Exited(_, 0), Ok(())) => Ok(()),
            (WaitStatus::Exited(_, 0), Err(error)) => Err(unpack(error)),
            (status, _) => Err(Failure::new(format!("tar failed ({}): {}", process::describe(status), last(&lines)))),
        }
    }

    /// Runs PostgreSQL until it is promoted; its words about the last transaction.
    async fn recover_from_archive(
        &self,
        restore: &Restore,
        plan: &Plan,
        new: &Path,
        progress: &watch::Sender<RecoveryState>,
    ) -> Result<Option<Timestamp>, Failure> {
        let theirs = self.place.theirs();
        for (name, wanted) in [("standby.signal", false), ("recovery.signal", true)] {
            let path = new.join(name);
            let done = if wanted { theirs.write(&path, "") } else { theirs.remove(&path) };
            done.map_err(|error| Failure::io("preparing", &path, &error))?;
        }
        // Nobody can connect: not over the network, and by the socket nobody is let in.
        let sockets = self.place.scratch();
        super::jobs::remove_tree(&sockets).await?;
        self.place.directory(&sockets, self.place.uid, 0o700).map_err(|error| Failure::of(&error))?;
        for (file, text) in [
            ("restore.conf", "fsync = off\n"),
            ("restore_hba.conf", "local all all reject\n"),
            ("restore_ident.conf", ""),
        ] {
            self.place.write_configuration(file, text).map_err(Failure::new)?;
        }
        let own = |file: &str| self.place.configuration().join(file).display().to_string();
        let configuration = restore.configuration.as_ref().map(|path| path.display().to_string());
        let mut settings = vec![
            ("config_file", configuration.unwrap_or_else(|| own("restore.conf"))),
            ("hba_file", own("restore_hba.conf")),
            ("ident_file", own("restore_ident.conf")),
            ("unix_socket_directories", sockets.display().to_string()),
            ("listen_addresses", String::new()),
            ("restore_command", restore.command.clone()),
            ("log_line_prefix", String::new()),
        ];
        settings.extend(ALWAYS.map(|(name, value)| (name, value.to_owned())));
        settings.extend(plan.settings());
        let mut command = self.place.tool("postgres");
        command.arg("-D").arg(new).current_dir(new);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let start = |error: std::io::Error| Failure::io("starting the recovery of", new, &error);
        let mut running = Running::start(&self.reaper, command).map_err(start)?;
        let mut last_commit = None;
        let (status, lines) = running
            .end_watched(
                self.place.uid,
                || goes_on(progress),
                |line| {
                    if let Some(segment) = restored(line) {
                        progress.send_modify(|state| {
                            state.wal = Some(segment.to_owned());
                            state.steps += 1;
                        });
                    }
                    last_commit = committed(line).or(last_commit);
                    line.contains("database system is ready to accept connections")
                },
            )
            .await?;
        super::jobs::remove_tree(&sockets).await?;
        match status {
            WaitStatus::Exited(_, 0) if running.stopped => Ok(last_commit),
            status => Err(Failure::new(format!(
                "PostgreSQL could not recover the base backup {} ({}): {}",
                plan.backup.id,
                process::describe(status),
                last(&lines)
            ))),
        }
    }

    /// The new timeline, and the end of the one that it comes from. PostgreSQL ends a recovery without an error where it finds
    /// no more WAL, so this is compared with the plan.
    async fn where_it_ended(&self, plan: &Plan, new: &Path) -> Result<(u32, (u32, Lsn)), Failure> {
        let mut command = self.place.tool("pg_controldata");
        command.arg("-D").arg(new);
        let control = tools::parse_control(&tools::run_within(&self.reaper, command, VERSION).await?);
        if control.system_identifier != plan.backup.system_identifier {
            let found = control.system_identifier;
            return Err(Failure::new(format!("the restored data directory has the system identifier {found}")));
        }
        let path = new.join(format!("pg_wal/{:08X}.history", control.timeline));
        let text = self.place.theirs().text(&path);
        let history = History::parse(control.timeline, &text).map_err(|error| Failure::of(&error))?;
        let left = history.ancestors.last().copied();
        let left = left.ok_or_else(|| Failure::new("the recovery ended without a new timeline".to_owned()))?;
        plan.check(left.0, left.1).map_err(Failure::new)?;
        Ok((control.timeline, left))
    }

    /// Makes the supervisor's roles, before any client can connect.
    async fn make_roles(&self, new: &Path) -> Result<(), Failure> {
        let statements = self.place.own().join("bootstrap.sql");
        durable::write(&statements, sql::bootstrap_again().as_bytes())
            .map_err(|error| Failure::io("writing", &statements, &error))?;
        let input = File::open(&statements).map_err(|error| Failure::io("opening", &statements, &error))?;
        let configuration = self.place.configuration().join("restore.conf");
        let output = self.single(new, "template1", Stdio::from(input), Some(&configuration)).await?;
        match output.lines().find(|line| line.contains("ERROR:") && !line.contains("already exists")) {
            Some(line) => Err(Failure::new(format!("making the roles: {line}"))),
            None => Ok(()),
        }
    }
}

/// Settings of every recovery.
const ALWAYS: [(&str, &str); 18] = [
    // A hot standby would refuse smaller settings than those of the server that was backed up.
    ("hot_standby", "off"),
    ("archive_mode", "off"),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("ssl", "off"),
    ("autovacuum", "off"),
    ("huge_pages", "off"),
    // The new directory is synced as a whole before it gets its name.
    ("fsync", "off"),
    ("full_page_writes", "on"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_min_messages", "warning"),
    ("lc_messages", "C"),
    ("log_timezone", "UTC"),
    // The time of the last transaction is told in this one.
    ("timezone", "UTC"),
];

/// `restored log file "000000010000000000000016" from archive`: the name.
fn restored(line: &str) -> Option<&str> {
    line.split_once("restored log file \"")?.1.split_once('"').map(|(name, _)| name)
}

/// `last completed transaction was at log time 2026-11-28 03:14:15.123456+00`: the time.
fn committed(line: &str) -> Option<Timestamp> {
    let (_, time) = line.split_once("last completed transaction was at log time ")?;
    time.trim().strip_suffix("+00").and_then(|time| format!("{time}Z").parse().ok())
}

/// `postgres (PostgreSQL) 15.18 (Debian ...)`: 15.
fn major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests;
