//! The checks of a data directory that was restored: files against their manifest, pages against their checksums, indexes and
//! tables by amcheck. What fails one of them is not used.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use tokio::sync::watch;

use crate::supervisor::durable;
use crate::supervisor::jobs::{Failure, Site};
use crate::supervisor::process;
use crate::supervisor::restore::goes_on;
use crate::supervisor::running::{Running, last};
use crate::supervisor::tools;
use crate::supervisor::wire::RecoveryState;

/// Time-out of pg_controldata.
const CONTROL: Duration = Duration::from_secs(10);
/// The line of a database whose checks came to their end.
const ALL: &str = "checked_all = \"yes\"";
/// Asks for the databases, by their names in hexadecimal, and whether there is amcheck. Printed twice: what a server writes to its
/// log may break one line of its output, but not two.
const DATABASES: &str = "\
SELECT encode(textsend(datname::text), 'hex') AS database FROM pg_database WHERE datconnlimit <> -2
SELECT encode(textsend(datname::text), 'hex') AS database FROM pg_database WHERE datconnlimit <> -2
SELECT count(*) AS databases FROM pg_database WHERE datconnlimit <> -2
SELECT 'yes' AS has_amcheck FROM pg_available_extensions, generate_series(1, 2) WHERE name = 'amcheck'
";
/// Checks one database. A single-user server takes each line as a statement. Nothing of it remains: it is rolled back. Only
/// numbers are printed of what is sound, so that no name looks like an error.
const STRUCTURES: &str = "\
BEGIN READ WRITE
SET LOCAL statement_timeout = 0
SET LOCAL lock_timeout = 0
SET LOCAL log_min_messages = error
SET LOCAL search_path = pg_catalog
DROP EXTENSION IF EXISTS amcheck CASCADE
CREATE SCHEMA evenkeel_amcheck
CREATE EXTENSION amcheck SCHEMA evenkeel_amcheck
SELECT i.indexrelid::oid AS checked, evenkeel_amcheck.bt_index_check(i.indexrelid, true) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND i.indisvalid AND i.indisready AND c.relkind = 'i' AND c.relpersistence <> 't'
SELECT c.oid AS checked, CASE WHEN v.msg IS NOT NULL THEN format('%s, block %s: %s', c.oid::regclass, v.blkno, v.msg) END AS damage FROM pg_class c JOIN pg_am a ON a.oid = c.relam LEFT JOIN LATERAL evenkeel_amcheck.verify_heapam(c.oid, true, true) v ON true WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't'
SELECT 'yes' AS checked_all FROM generate_series(1, 2)
ROLLBACK
";
/// Settings of a single-user server whose output is read.
const READABLE: [(&str, &str); 9] = [
    ("log_min_messages", "error"),
    ("log_min_error_statement", "panic"),
    ("log_line_prefix", ""),
    ("log_checkpoints", "off"),
    ("log_destination", "stderr"),
    ("logging_collector", "off"),
    ("lc_messages", "C"),
    ("client_encoding", "SQL_ASCII"),
    // The directory is synced as a whole before it gets its name.
    ("fsync", "off"),
];

impl Site {
    /// Compares all files with the manifest of the base backup, as it was downloaded.
    pub(super) async fn check_manifest(
        &self,
        new: &Path,
        progress: &watch::Sender<RecoveryState>,
    ) -> Result<(), Failure> {
        let command = self.place.tool("pg_verifybackup");
        if !self.place.theirs().exists(Path::new(command.get_program())) {
            leave_out(progress, "pg_verifybackup is not in the image");
            return Ok(());
        }
        if self.place.theirs().is_gone(&new.join("backup_manifest")) {
            leave_out(progress, "the base backup has no manifest");
            return Ok(());
        }
        let mut command = command;
        command.args(["--no-parse-wal", "--exit-on-error"]).arg(new);
        let doing = "comparing all files with the manifest of the base backup";
        self.program(command, (doing, "the files differ from the manifest of the base backup"), progress).await?;
        pass(progress, "manifest");
        Ok(())
    }

    /// Checks the checksums of all pages, if the cluster has them.
    pub(super) async fn check_pages(&self, new: &Path, progress: &watch::Sender<RecoveryState>) -> Result<(), Failure> {
        let mut control = self.place.tool("pg_controldata");
        control.arg("-D").arg(new);
        if !tools::parse_control(&tools::run_within(&self.reaper, control, CONTROL).await?).checksums {
            return Ok(());
        }
        let mut command = self.place.tool("pg_checksums");
        if !self.place.theirs().exists(Path::new(command.get_program())) {
            leave_out(progress, "pg_checksums is not in the image");
            return Ok(());
        }
        command.args(["--check", "--progress", "-D"]).arg(new);
        self.program(command, ("checking the checksums of all pages", "pages have wrong checksums"), progress).await?;
        pass(progress, "checksums");
        Ok(())
    }

    /// Checks the indexes and tables of all databases by amcheck.
    pub(super) async fn check_structures(
        &self,
        new: &Path,
        configuration: Option<&Path>,
        progress: &watch::Sender<RecoveryState>,
    ) -> Result<(), Failure> {
        let own = self.place.configuration().join("restore.conf");
        let configuration = configuration.unwrap_or(&own);
        let (mut databases, mut count, mut has_amcheck) = (BTreeSet::new(), None, false);
        self.ask((new, configuration), "template1".into(), DATABASES, progress, |line| {
            databases.extend(field(line, "database").and_then(unhex));
            count = field(line, "databases").and_then(|count| count.parse::<usize>().ok()).or(count);
            has_amcheck |= field(line, "has_amcheck").is_some();
        })
        .await?;
        if count != Some(databases.len()) {
            let (found, count) = (databases.len(), count.unwrap_or_default());
            return Err(Failure::new(format!("amcheck: {found} of {count} databases could be read")));
        }
        if !has_amcheck {
            leave_out(progress, "amcheck is not in the image");
            return Ok(());
        }
        for (number, name) in (1..).zip(&databases) {
            let shown = String::from_utf8_lossy(name).into_owned();
            let doing = format!("amcheck of database {shown}, {number} of {}", databases.len());
            say(progress, &doing);
            let (mut complete, mut damage, mut checked) = (false, None, 0_u64);
            let database = OsString::from_vec(name.clone());
            let asked = self.ask((new, configuration), database, STRUCTURES, progress, |line| {
                complete |= line.contains(ALL);
                damage = damage.take().or_else(|| field(line, "damage").map(str::to_owned));
                if field(line, "checked").is_some() {
                    checked += 1;
                    say(progress, &format!("{doing}: {checked} indexes and tables checked"));
                }
            });
            asked.await.map_err(|failure| of(&shown, &failure.words))?;
            if let Some(damage) = damage {
                return Err(of(&shown, &damage));
            }
            if !complete {
                return Err(of(&shown, "it did not come to its end"));
            }
            tracing::info!(database = shown, checked, "amcheck found nothing");
        }
        pass(progress, "amcheck");
        Ok(())
    }

    /// Runs a program that checks. What it does and what its failure means are for people.
    async fn program(
        &self,
        command: Command,
        (doing, what): (&str, &str),
        progress: &watch::Sender<RecoveryState>,
    ) -> Result<(), Failure> {
        say(progress, doing);
        let failed = |words: String| Failure { unreached: false, ..Failure::new(format!("{what}: {words}")) };
        let mut running = Running::start(&self.reaper, command).map_err(|error| failed(error.to_string()))?;
        let mut wrong = Vec::new();
        let ended = running.end_watched(
            self.place.uid,
            || goes_on(progress),
            |line| {
                if line.contains("error:") && wrong.len() < 3 {
                    wrong.push(line.to_owned());
                }
                if let Some(part) = percent(line) {
                    say(progress, &format!("{doing}: {part}"));
                }
                false
            },
        );
        match ended.await? {
            (WaitStatus::Exited(_, 0), _) => Ok(()),
            (status, lines) if wrong.is_empty() => {
                Err(failed(format!("{} ({})", last(&lines), process::describe(status))))
            }
            _ => Err(failed(wrong.join("; "))),
        }
    }

    /// Runs statements in a single-user server, which is the only one that needs no socket. An error of any of them is a failure.
    async fn ask(
        &self,
        (data, configuration): (&Path, &Path),
        database: OsString,
        statements: &str,
        progress: &watch::Sender<RecoveryState>,
        mut line: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let file = self.place.own().join("checks.sql");
        durable::write(&file, statements.as_bytes()).map_err(|error| Failure::io("writing", &file, &error))?;
        let input = File::open(&file).map_err(|error| Failure::io("opening", &file, &error))?;
        let mut command = self.place.tool("postgres");
        command.arg("--single").arg("-D").arg(data);
        command.arg("-c").arg(format!("config_file={}", configuration.display()));
        for (name, value) in READABLE {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // A database may have any name.
        command.arg("--").arg(database).stdin(Stdio::from(input));
        let start = |error: std::io::Error| Failure::io("starting a server on", data, &error);
        let mut running = Running::start(&self.reaper, command).map_err(start)?;
        let mut wrong = None;
        let ended = running.end_watched(
            self.place.uid,
            || goes_on(progress),
            |text| {
                wrong = wrong.take().or_else(|| error(text).map(str::to_owned));
                line(text);
                false
            },
        );
        match (ended.await?, wrong) {
            ((WaitStatus::Exited(_, 0), _), None) => Ok(()),
            ((status, lines), None) => Err(Failure::new(format!("{} ({})", last(&lines), process::describe(status)))),
            (_, Some(wrong)) => Err(Failure::new(wrong)),
        }
    }
}

/// A failure of amcheck, which says nothing about the store.
fn of(database: &str, words: &str) -> Failure {
    Failure { unreached: false, ..Failure::new(format!("amcheck of database {database}: {words}")) }
}

fn say(progress: &watch::Sender<RecoveryState>, what: &str) {
    progress.send_modify(|state| {
        what.clone_into(&mut state.doing);
        state.steps += 1;
    });
}

fn pass(progress: &watch::Sender<RecoveryState>, check: &str) {
    progress.send_modify(|state| state.checks.push(check.to_owned()));
}

/// Notes why a check is not made.
fn leave_out(progress: &watch::Sender<RecoveryState>, why: &str) {
    tracing::warn!(why, "a check of the restored data is left out");
    progress.send_modify(|state| state.unchecked.push(why.to_owned()));
}

/// ` 1: name = "value"`, a tab and `(typeid = ...)`: the value.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(": ")?;
    let rest = rest.strip_prefix(name)?.strip_prefix(" = \"")?;
    rest.rfind("\"\t(typeid = ").map(|end| &rest[..end])
}

/// `ERROR:  words`, wherever the line of the log begins.
fn error(line: &str) -> Option<&str> {
    let at = ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().filter_map(|word| line.find(word)).min()?;
    // A row that says so is no error of a statement.
    (!line.contains("\"\t(typeid = ")).then(|| &line[at..])
}

/// `27/100 MB (27%) computed`: the part that is done.
fn percent(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" MB (")?;
    rest.split_once(") computed").map(|(part, _)| part)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_single_user_server_prints_is_told_apart() {
        let row = "\t 1: damage = \"t, block 3: \"x\" is bad\"\t(typeid = 25, len = -1, typmod = -1, byval = f)";
        assert_eq!(
            (field(row, "damage"), field(row, "checked"), error(row)),
            (Some("t, block 3: \"x\" is bad"), None, None)
        );
        let head = "\t 1: damage\t(typeid = 25, len = -1, typmod = -1, byval = f)";
        assert_eq!((field(head, "damage"), error(head)), (None, None));
        // The log of the server comes in the middle of its output.
        assert_eq!(
            error("\t 1ERROR:  heap tuple (14,21) from table \"t\" lacks"),
            Some("ERROR:  heap tuple (14,21) from table \"t\" lacks")
        );
        assert_eq!(error("backend> LOG:  checkpoint starting: shutdown immediate"), None);
        assert_eq!(unhex("2d6f6464"), Some(b"-odd".to_vec()));
        assert_eq!(unhex("2d6"), Some(b"-\x06".to_vec()));
        assert_eq!(unhex("xx"), None);
        assert_eq!((percent("8/29 MB (27%) computed"), percent("Bad checksums:  0")), (Some("27%"), None));
    }
}
