//! `backup.info`: what a base backup is, in the words of barman-cloud. Its existence says that the backup is complete. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::hash::short_hash;
use crate::api::lsn::Lsn;
use crate::archive::names::{SEGMENT_SIZES, Segment};

/// Bytes of a `backup.info` at most.
pub const INFO: u64 = 1 << 20;
/// The name of the fingerprint: that of a comment, for barman ends at a name that it does not know.
const AGE_FINGERPRINT: &str = "# age_fingerprint";
/// The first line: the hash of all others, which is a comment, too.
const SHA256: &str = "# sha256=";
/// Its digits.
const DIGITS: usize = 64;
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
    /// The fingerprint of the key that it is encrypted for.
    pub age_fingerprint: Option<String>,
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
        let lines = self.age_fingerprint.iter().map(|key| (AGE_FINGERPRINT, key.clone())).chain(lines);
        let text: String = lines.map(|(key, value)| format!("{key}={}\n", value.replace(['\n', '\r'], " "))).collect();
        format!("{SHA256}{}\n{text}", short_hash(&text, DIGITS))
    }

    /// Reads the file of the backup with this ID; also one that barman-cloud has written.
    ///
    /// # Errors
    /// It is not of a complete backup, or a value that is needed is missing or impossible.
    pub fn parse(id: &str, text: &str) -> Result<Self, NotInfo> {
        let wrong = |what: String| NotInfo { id: id.to_owned(), what };
        if is_changed(text) {
            return Err(wrong("its content does not have the hash of its first line".to_owned()));
        }
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
            age_fingerprint: value(AGE_FINGERPRINT).ok().map(short),
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

/// Whether the first line is a hash, of ours or damaged, and not that of the lines after it. The files of barman have none.
fn is_changed(text: &str) -> bool {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let is_hash = first.starts_with(SHA256)
        || first.chars().count() == SHA256.len() + DIGITS && !first.starts_with("backup_label");
    is_hash && first.strip_prefix(SHA256) != Some(&short_hash(rest, DIGITS))
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
            age_fingerprint: None,
        }
    }

    #[test]
    fn a_backup_is_told_in_the_words_of_barman_and_read_back() {
        expect![[r#"
            # sha256=dac3a467bf2021b01e616c311bd54e89212bffc54f08ff714568cbf52b81de02
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
        // barman writes no hash, and leaves out a fraction of zero.
        let theirs = info().render().split_once('\n').unwrap().1.replace(".000000", "");
        assert_eq!(BackupInfo::parse("20261128T010000", &theirs), Ok(info()));
    }

    #[test]
    fn every_changed_bit_is_found() {
        let good = info().render().into_bytes();
        for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let read = BackupInfo::parse("20261128T010000", &String::from_utf8_lossy(&changed));
            assert!(read.is_err(), "bit {bit} of byte {at}");
        }
    }

    /// Regression 460: barman 3.19 ended with an error at the field `age_fingerprint`, as it does at any name that it does not know, and
    /// listed no base backup of the archive any more. Comments it passes over.
    #[test]
    fn the_fingerprint_of_the_key_is_a_comment_for_barman() {
        let encrypted = BackupInfo { age_fingerprint: Some("00c0ffee00c0ffee".into()), ..info() };
        let after = |text: String| text.split_once('\n').unwrap().1.to_owned();
        assert_eq!(
            after(encrypted.render()),
            format!("# age_fingerprint=00c0ffee00c0ffee\n{}", after(info().render()))
        );
        assert_eq!(BackupInfo::parse("20261128T010000", &encrypted.render()), Ok(encrypted));
    }

    #[test]
    fn what_is_no_complete_backup_is_refused() {
        let said = |from: &str, to: &str| {
            let text = info().render().split_once('\n').unwrap().1.replace(from, to);
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
