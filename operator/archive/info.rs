//! `backup.info`: what a base backup is, in the words of barman-cloud. Its existence says that the backup is complete. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::lsn::Lsn;
use crate::archive::names::{SEGMENT_SIZES, Segment};

/// Bytes of a `backup.info` at most.
pub const INFO: u64 = 1 << 20;
/// The form of times.
const TIME: &str = "%Y-%m-%d %H:%M:%S%.6f%:z";

/// A complete base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    /// Its ID, which is not in the file but in its key.
    pub id: String,
    /// When it began and ended, by the clock of the host that took it.
    pub time: (Timestamp, Timestamp),
    /// Where its WAL begins and ends.
    pub lsn: (Lsn, Lsn),
    /// Its timeline.
    pub timeline: u32,
    /// Bytes of a WAL segment.
    pub segment_size: u64,
    /// Bytes of the data directory.
    pub size: u64,
    /// The system identifier.
    pub system_identifier: String,
    /// The version of PostgreSQL as a number: 150018.
    pub version: u32,
    /// The data directory.
    pub pgdata: String,
    /// The folder of the archive, which barman calls a server.
    pub server: String,
}

/// It is no `backup.info`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("base/{id}/backup.info: {what}")]
pub struct NotInfo {
    id: String,
    what: String,
}

impl BackupInfo {
    /// The major version of PostgreSQL.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// The first segment that it needs.
    pub fn first(&self) -> Segment {
        Segment::at(self.timeline, self.lsn.0, self.segment_size)
    }

    /// The last segment that it needs.
    pub fn last(&self) -> Segment {
        Segment::before(self.timeline, self.lsn.1, self.segment_size)
    }

    /// The file.
    pub fn render(&self) -> String {
        let offset = |lsn: Lsn, segment: Segment| (lsn.0 - segment.start(self.segment_size).0).to_string();
        let time = |time: Timestamp| time.to_zoned(TimeZone::UTC).strftime(TIME).to_string();
        let none = || "None".to_owned();
        let lines = [
            ("backup_label", none()),
            ("begin_offset", offset(self.lsn.0, self.first())),
            ("begin_time", time(self.time.0)),
            ("begin_wal", self.first().to_string()),
            ("begin_xlog", self.lsn.0.to_string()),
            ("compression", "zstd".to_owned()),
            ("config_file", none()),
            ("copy_stats", none()),
            ("deduplicated_size", none()),
            ("end_offset", offset(self.lsn.1, self.last())),
            ("end_time", time(self.time.1)),
            ("end_wal", self.last().to_string()),
            ("end_xlog", self.lsn.1.to_string()),
            ("error", none()),
            ("hba_file", none()),
            ("ident_file", none()),
            ("included_files", none()),
            ("mode", "concurrent".to_owned()),
            ("pgdata", self.pgdata.clone()),
            ("server_name", self.server.clone()),
            ("size", self.size.to_string()),
            ("status", "DONE".to_owned()),
            ("systemid", self.system_identifier.clone()),
            ("tablespaces", none()),
            ("timeline", self.timeline.to_string()),
            ("version", self.version.to_string()),
            ("xlog_segment_size", self.segment_size.to_string()),
        ];
        lines.into_iter().map(|(key, value)| format!("{key}={}\n", value.replace(['\n', '\r'], " "))).collect()
    }

    /// Reads the file of the backup with this ID; also one that barman-cloud has written.
    ///
    /// # Errors
    /// It is not of a complete backup, or a value that is needed is missing or impossible.
    pub fn parse(id: &str, text: &str) -> Result<Self, NotInfo> {
        let wrong = |what: String| NotInfo { id: id.to_owned(), what };
        let values: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let value = |key: &str| {
            let value = values.get(key).copied().filter(|value| !value.is_empty() && *value != "None");
            value.ok_or_else(|| wrong(format!("it has no {key}")))
        };
        let unread = |key: &str, found: &str| wrong(format!("{key} is {:?}", short(found)));
        let number = |key: &str| value(key).and_then(|found| found.parse().map_err(|_| unread(key, found)));
        let lsn = |key: &str| value(key).and_then(|found| found.parse::<Lsn>().map_err(|_| unread(key, found)));
        let time = |key: &str| {
            let found = value(key)?;
            // barman writes the offset as +00:00.
            let read = jiff::fmt::strtime::parse(TIME, found).and_then(|parsed| parsed.to_timestamp());
            read.map_err(|_| unread(key, found))
        };
        match value("status")? {
            "DONE" => {}
            other => return Err(wrong(format!("its status is {:?}", short(other)))),
        }
        let number32 =
            |key: &str| number(key).and_then(|n: u64| u32::try_from(n).map_err(|_| unread(key, "too large")));
        let info = Self {
            id: id.to_owned(),
            time: (time("begin_time")?, time("end_time")?),
            lsn: (lsn("begin_xlog")?, lsn("end_xlog")?),
            timeline: number32("timeline")?,
            segment_size: number("xlog_segment_size")?,
            size: number("size").unwrap_or_default(),
            system_identifier: value("systemid").unwrap_or_default().to_owned(),
            version: number32("version")?,
            pgdata: value("pgdata").unwrap_or_default().to_owned(),
            server: value("server_name").unwrap_or_default().to_owned(),
        };
        let (smallest, largest) = SEGMENT_SIZES;
        if !info.segment_size.is_power_of_two() || !(smallest..=largest).contains(&info.segment_size) {
            return Err(unread("xlog_segment_size", &info.segment_size.to_string()));
        }
        if info.timeline == 0 || info.lsn.1 < info.lsn.0 {
            return Err(wrong("it ends before it begins, or has no timeline".to_owned()));
        }
        Ok(info)
    }
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::expect;

    use super::*;

    pub(crate) fn info() -> BackupInfo {
        BackupInfo {
            id: "20261128T010000".into(),
            time: ("2026-11-28T01:00:00Z".parse().unwrap(), "2026-11-28T01:02:03.25Z".parse().unwrap()),
            lsn: (Lsn(0x200_0028), Lsn(0x280_0100)),
            timeline: 3,
            segment_size: 4 << 20,
            size: 12_345,
            system_identifier: "7412".into(),
            version: 150_018,
            pgdata: "/var/lib/postgresql/data/pgdata".into(),
            server: "7412-5f0c01aa".into(),
        }
    }

    #[test]
    fn a_backup_is_told_in_the_words_of_barman_and_read_back() {
        expect![[r#"
            backup_label=None
            begin_offset=40
            begin_time=2026-11-28 01:00:00.000000+00:00
            begin_wal=000000030000000000000008
            begin_xlog=0/2000028
            compression=zstd
            config_file=None
            copy_stats=None
            deduplicated_size=None
            end_offset=256
            end_time=2026-11-28 01:02:03.250000+00:00
            end_wal=00000003000000000000000A
            end_xlog=0/2800100
            error=None
            hba_file=None
            ident_file=None
            included_files=None
            mode=concurrent
            pgdata=/var/lib/postgresql/data/pgdata
            server_name=7412-5f0c01aa
            size=12345
            status=DONE
            systemid=7412
            tablespaces=None
            timeline=3
            version=150018
            xlog_segment_size=4194304
        "#]]
        .assert_eq(&info().render());
        assert_eq!(BackupInfo::parse("20261128T010000", &info().render()), Ok(info()));
        // barman leaves out a fraction of zero.
        assert_eq!(BackupInfo::parse("20261128T010000", &info().render().replace(".000000", "")), Ok(info()));
    }

    #[test]
    fn what_is_no_complete_backup_is_refused() {
        let said = |from: &str, to: &str| {
            let text = info().render().replace(from, to);
            BackupInfo::parse("20261128T010000", &text).unwrap_err().to_string()
        };
        assert_eq!(said("status=DONE", "status=FAILED"), "base/20261128T010000/backup.info: its status is \"FAILED\"");
        assert_eq!(said("timeline=3\n", ""), "base/20261128T010000/backup.info: it has no timeline");
        assert!(said("4194304", "4194305").ends_with("xlog_segment_size is \"4194305\""));
        assert!(said("0/2800100", "0/200").ends_with("it ends before it begins, or has no timeline"));
        assert!(said("2026-11-28 01:00:00.000000+00:00", "yesterday").ends_with("begin_time is \"yesterday\""));
        assert!(BackupInfo::parse("x", "\u{0}\u{ff}=").is_err());
    }
}
