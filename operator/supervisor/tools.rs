//! PostgreSQL's own programs, run until they end: pg_controldata, pg_waldump, `postgres -C`.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::place::Place;
use super::process::{self, Reaper};
use crate::api::lsn::Lsn;
use crate::api::postgres_settings::standby_minima;

/// Bytes kept of a program's output: its end, which has the error message.
const KEPT: usize = 16 * 1024;

/// A program failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started or read.
    #[error("running {program}")]
    Run {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It exited with an error.
    #[error("{program} failed ({status}): {words}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        words: String,
        /// The kept part of its output.
        output: String,
    },
    /// It took too long.
    #[error("{program} took longer than {limit:?}")]
    TooLong {
        /// The program.
        program: String,
        /// The time-out.
        limit: Duration,
    },
}

/// Runs a program until it ends; returns its output (the last 16 KiB of stdout and stderr) if it succeeds.
pub async fn run(reaper: &Reaper, command: Command) -> Result<String, Error> {
    let path = std::path::Path::new(command.get_program());
    let program = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let failed = |source| Error::Run { program: program.clone(), source };
    let child = reaper.spawn(command, None).map_err(failed)?;
    let output = read_end(pipe::Receiver::from_owned_fd(child.output).map_err(failed)?).await.map_err(failed)?;
    let status = child.exit.await.map_err(|_| failed(std::io::ErrorKind::BrokenPipe.into()))?;
    match status {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(output),
        status => Err(Error::Failed { program, status: process::describe(status), words: last_words(&output), output }),
    }
}

/// [`run`] with a time-out; kills the program after `limit`.
pub async fn run_within(reaper: &Reaper, command: Command, limit: Duration) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    tokio::time::timeout(limit, run(reaper, command)).await.unwrap_or(Err(Error::TooLong { program, limit }))
}

async fn read_end(mut pipe: pipe::Receiver) -> std::io::Result<String> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match pipe.read(&mut chunk).await? {
            0 => return Ok(String::from_utf8_lossy(&kept).into_owned()),
            read => kept.extend_from_slice(&chunk[..read]),
        }
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
}

/// The last two non-empty lines, in one.
fn last_words(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(2)..].join("; ")
}

/// The output of pg_controldata.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Control {
    /// System identifier.
    pub system_identifier: String,
    /// `Some` if the server was shut down cleanly: a primary with a shutdown checkpoint that starts here.
    pub shutdown_checkpoint: Option<Lsn>,
    /// Timeline of the last checkpoint.
    pub timeline: u32,
    /// `Some` if a standby was shut down cleanly: its timeline and the end of what it replayed.
    pub standby_end: Option<(u32, Lsn)>,
    /// Settings with minimum values on a hot standby.
    pub minima: BTreeMap<String, u64>,
    /// Bytes per WAL segment.
    pub segment: u64,
    /// Pages have checksums.
    pub checksums: bool,
}

/// Reads the control file of a data directory.
pub async fn control(place: &Place, reaper: &Reaper) -> Result<Control, Error> {
    let mut command = place.tool("pg_controldata");
    command.arg("-D").arg(place.pgdata());
    run_within(reaper, command, Duration::from_secs(5)).await.map(|text| parse_control(&text))
}

pub fn parse_control(text: &str) -> Control {
    let fields: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim())).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let number = |name: &str| field(name).parse::<u64>().unwrap_or_default();
    let timeline = |name: &str| field(name).parse::<u32>().unwrap_or_default();
    let lsn = |name: &str| field(name).parse::<Lsn>().unwrap_or_default();
    let checkpoint = timeline("Latest checkpoint's TimeLineID");
    let state = field("Database cluster state");
    let minimum = |name: &str| Some((name.to_owned(), field(&format!("{name} setting")).parse().ok()?));
    Control {
        system_identifier: field("Database system identifier").to_owned(),
        shutdown_checkpoint: (state == "shut down").then(|| lsn("Latest checkpoint location")),
        timeline: checkpoint,
        standby_end: (state == "shut down in recovery").then(|| {
            (timeline("Min recovery ending loc's timeline").max(checkpoint), lsn("Minimum recovery ending location"))
        }),
        minima: standby_minima().filter_map(|(name, _)| minimum(name)).collect(),
        segment: number("Bytes per WAL segment"),
        checksums: number("Data page checksum version") > 0,
    }
}

/// Bytes of a shutdown checkpoint record in PostgreSQL 14 to 17, in case pg_waldump does not show it.
const CHECKPOINT_RECORD: u64 = 114;
const PAGE: u64 = 8192;

/// Timeline and end of the WAL of a cleanly stopped server. A standby has all of it if its flushed position reaches the
/// end of the shutdown checkpoint's record (its start alone could be reached by the page before).
pub async fn clean_end(place: &Place, reaper: &Reaper, control: &Control) -> Option<(u32, Lsn)> {
    let Some(start) = control.shutdown_checkpoint else { return control.standby_end };
    let mut command = place.tool("pg_waldump");
    command.arg("-p").arg(place.pgdata().join("pg_wal")).args(["-n", "1", "-t", &control.timeline.to_string()]);
    command.args(["-s", &start.to_string()]);
    let said = run_within(reaper, command, Duration::from_secs(1)).await.ok();
    let length = said.as_deref().and_then(record_length).unwrap_or(CHECKPOINT_RECORD);
    Some((control.timeline, end_of_record(start, length, control.segment)))
}

/// More than any record of PostgreSQL has, in bytes.
const LONGEST_RECORD: u64 = 1 << 30;

/// `rmgr: XLOG len (rec/tot): 114/ 114, tx: ...`: the total.
pub fn record_length(dump: &str) -> Option<u64> {
    let (_, lengths) = dump.split_once("len (rec/tot):")?;
    lengths.split_once('/')?.1.split(',').next()?.trim().parse().ok().filter(|length| *length <= LONGEST_RECORD)
}

/// The end of a record that starts at `start`: page headers in between count, and it is aligned to 8 bytes.
pub fn end_of_record(start: Lsn, length: u64, segment: u64) -> Lsn {
    if start.0.checked_add(2 * LONGEST_RECORD).is_none() {
        return start; // The WAL of no server gets there.
    }
    let (mut at, mut left) = (start.0, length.next_multiple_of(8));
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return Lsn(at + left);
        }
        at += room;
        left -= room;
        at += if segment != 0 && at.is_multiple_of(segment) { 40 } else { 24 };
    }
}

/// Whether PostgreSQL would load this configuration file; otherwise its errors, one per line.
pub async fn check_configuration(place: &Place, reaper: &Reaper, file: &std::path::Path) -> Result<(), String> {
    let mut command = place.tool("postgres");
    let option = |name: &str, file: &std::path::Path| format!("{name}={}", file.display());
    command.arg("-D").arg(place.pgdata()).arg("-c").arg(option("config_file", file)).args(["-C", "port"]);
    match run_within(reaper, command, Duration::from_secs(5)).await {
        Ok(_) => Ok(()),
        Err(Error::Failed { output, .. }) => Err(output),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_file_of_a_stopped_primary_is_read() {
        let control = parse_control(
            "Database system identifier:           7412\n\
             Database cluster state:               shut down\n\
             Latest checkpoint location:           0/3000028\n\
             Latest checkpoint's TimeLineID:       2\n\
             Minimum recovery ending location:     0/0\n\
             max_connections setting:              200\n\
             Bytes per WAL segment:                16777216\n\
             Data page checksum version:           1\n",
        );
        let expected = Control {
            system_identifier: "7412".into(),
            shutdown_checkpoint: Some(Lsn(0x300_0028)),
            timeline: 2,
            standby_end: None,
            minima: [("max_connections".into(), 200)].into(),
            segment: 16 << 20,
            checksums: true,
        };
        assert_eq!(control, expected);
    }

    #[test]
    fn a_crashed_server_has_no_clean_end() {
        let control = parse_control("Database cluster state: in production\nLatest checkpoint location: 0/3000028\n");
        assert_eq!((control.shutdown_checkpoint, control.standby_end), (None, None));
    }

    #[test]
    fn a_record_ends_aligned_and_page_headers_count() {
        let end = |start| end_of_record(Lsn(start), 114, 16 << 20).0;
        assert_eq!(end(0x28), 0x28 + 120);
        assert_eq!(end(8192 - 8), 8192 + 24 + 112);
        assert_eq!(end((16 << 20) - 8), (16 << 20) + 40 + 112);
        assert_eq!(end(8192 - 120), 8192);
    }

    /// Regression 74: with a length or a position that no WAL has, the sum overflowed, or was taken page by page for hours.
    #[test]
    fn a_record_that_cannot_be_is_not_measured() {
        let dump = |length: u64| format!("rmgr: XLOG len (rec/tot): 1/ {length}, tx: 0");
        assert_eq!((record_length(&dump(1 << 30)), record_length(&dump(u64::MAX))), (Some(1 << 30), None));
        assert_eq!(end_of_record(Lsn(u64::MAX - 8), 114, 16 << 20), Lsn(u64::MAX - 8));
    }

    #[test]
    fn the_length_of_a_record_is_read() {
        let dump = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, prev 0/02000100";
        assert_eq!(record_length(dump), Some(114));
    }
}
