//! Dumps of single databases: what they are called in an archive, what is known of each, and which are deleted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::api::backup_id::began;
use crate::api::lsn::Lsn;
use crate::archive::names::clear;
use crate::archive::rdb;
use crate::archive::retention::{Batch, LONGEST, Policy};

/// The folder of all dumps.
pub const FOLDER: &str = "dumps";
/// Describes a dump. It is written last: a dump without it is none.
pub const INFO_FILE: &str = "dump.json";
/// The index of the frames of its data.
pub const FRAMES_FILE: &str = "frames.json";
/// Of a dump that is encrypted: all of [`DumpInfo`], encrypted; [`INFO_FILE`] has only what names nothing of the database.
pub const DETAILS_FILE: &str = "details.json";
/// The roles and tablespaces of the server, as SQL and without passwords.
pub const GLOBALS_FILE: &str = "globals.sql.zst";
/// Bytes of a `dump.json` at most.
pub const INFO: u64 = 1 << 20;
/// The ending of the data.
const DATA: &str = ".dump.zst";

/// The key of a file of a dump.
pub fn dump_key(id: &str, file: &str) -> String {
    format!("{FOLDER}/{id}/{file}")
}

/// The file with the data of a dump of this database, in the custom format of `pg_dump`. Letters, digits, `-`, `_` and `.` stay as
/// they are, but for a dot at the begin; every other byte is `=` with two hexadecimal digits.
pub fn data_file(database: &str) -> String {
    let mut name = String::new();
    for (at, byte) in database.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => name.push_str("=2E"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(char::from(byte)),
            other => name.push_str(&format!("={other:02X}")),
        }
    }
    name + DATA
}

/// A complete dump of a database: its `dump.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpInfo {
    /// Its ID.
    pub id: String,
    /// The member that was read.
    pub member: String,
    /// The database.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub database: String,
    /// `server_version_num`.
    pub version: u32,
    /// The data is as of this position.
    pub lsn: Lsn,
    /// The time of that.
    pub time: Timestamp,
    /// When it was complete, by the clock of the member's host.
    pub ended: Timestamp,
    /// How the database sorts and stores text.
    #[serde(default, skip_serializing_if = "Locale::is_unsaid")]
    pub locale: Locale,
    /// The role that owns the database.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// The roles that own something in it, or have privileges there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Bytes of the data.
    pub size: u64,
    /// Bytes of it in the store.
    pub stored: u64,
    /// SHA-256 of `frames.json`, which has those of all frames. If it is encrypted, of its content.
    pub frames_sha256: String,
    /// SHA-256 of the globals as they are stored.
    pub globals_sha256: String,
    /// The fingerprint of the key that it is encrypted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_fingerprint: Option<String>,
}

/// How a database sorts and stores text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Locale {
    /// Its encoding, such as `UTF8`.
    pub encoding: String,
    /// LC_COLLATE.
    pub collate: String,
    /// LC_CTYPE.
    pub ctype: String,
    /// `c`: libc, `i`: ICU, `b`: built in.
    pub provider: String,
    /// The locale of ICU or of the built-in provider.
    pub locale: Option<String>,
}

impl Locale {
    fn is_unsaid(&self) -> bool {
        *self == Self::default()
    }
}

impl DumpInfo {
    /// What anyone may read of it who can read the store: nothing that names a database or a role.
    pub fn public(&self) -> Self {
        let (database, owner) = (String::new(), String::new());
        Self { database, owner, locale: Locale::default(), roles: Vec::new(), ..self.clone() }
    }

    /// Major version of the server.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

/// Backups that each are whole in one folder, and need nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Whole {
    /// What one is called.
    pub what: &'static str,
    /// The folder of all.
    pub folder: &'static str,
    /// The file that makes one complete.
    pub info: &'static str,
    /// The ending of the file with the data.
    pub data: &'static str,
}

/// Dumps of databases.
pub const DUMPS: Whole = Whole { what: "dump", folder: FOLDER, info: INFO_FILE, data: DATA };
/// Snapshots of Redis.
pub const SNAPSHOTS: Whole =
    Whole { what: "snapshot", folder: rdb::FOLDER, info: rdb::INFO_FILE, data: rdb::DATA_FILE };

/// Decides which of them to delete: those that are older than the window, but for so many of the newest of each database; one always
/// stays. `files`: the keys below the folder, as they were listed. One begins to vanish with the file that makes it complete,
/// so one that is deleted in part is none.
pub fn expired(whole: Whole, files: &[String], policy: &Policy, now: Timestamp) -> Vec<Batch> {
    let mut dumps: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for key in files {
        let below = key.strip_prefix(whole.folder).and_then(|rest| rest.strip_prefix('/'));
        let Some((id, _)) = below.and_then(|rest| rest.split_once('/')) else { continue };
        dumps.entry(id).or_default().push(key);
    }
    let is_info = |key: &&&String| key.rsplit('/').next() == Some(whole.info);
    // By the name of the data, which is that of the database. Newest first.
    let mut complete: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, keys) in dumps.iter().rev().filter(|(_, keys)| keys.iter().any(|key| is_info(&key))) {
        let data = keys.iter().filter_map(|key| clear(key).rsplit('/').next()).find(|file| file.ends_with(whole.data));
        complete.entry(data.unwrap_or_default()).or_default().push(id);
    }
    let newest: BTreeSet<&str> =
        complete.values().flat_map(|ids| ids.iter().take(policy.minimum.max(1))).copied().collect();
    let older = |id: &str, than: SignedDuration| began(id).is_some_and(|began| now.duration_since(began) > than);
    let mut batches = Vec::new();
    for (id, keys) in &dumps {
        let (info, rest): (Vec<&String>, Vec<&String>) = keys.iter().partition(is_info);
        let goes = match info.is_empty() {
            true => older(id, LONGEST),
            // Without a window the age of a complete one does not matter.
            false => (policy.window.is_zero() || older(id, policy.window)) && !newest.contains(id),
        };
        if goes {
            for keys in [info, rest].into_iter().filter(|keys| !keys.is_empty()) {
                let what = format!("{} {id}", whole.what);
                batches.push(Batch { what, keys: keys.into_iter().cloned().collect() });
            }
        }
    }
    batches
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_database_is_a_safe_name_of_a_file_and_no_two_are_the_same() {
        let names = ["app", "My.db-2_x", ".hidden", "../../etc", "a b", "a=20b", "größe", "%41"];
        expect_test::expect![[r#"
            app.dump.zst
            My.db-2_x.dump.zst
            =2Ehidden.dump.zst
            =2E.=2F..=2Fetc.dump.zst
            a=20b.dump.zst
            a=3D20b.dump.zst
            gr=C3=B6=C3=9Fe.dump.zst
            =2541.dump.zst
        "#]]
        .assert_eq(&names.map(|name| data_file(name) + "\n").concat());
        assert!(data_file(&"ä".repeat(31)).len() < 255, "the longest name of a database is a name of a file");
    }

    /// A dump of this day at noon, with `dump.json` unless it is not complete.
    fn dump(day: u32, database: &str, complete: bool) -> Vec<String> {
        let id = format!("202611{day:02}T120000");
        let data = data_file(database);
        let files = [data.as_str(), FRAMES_FILE, GLOBALS_FILE, INFO_FILE];
        files[..if complete { 4 } else { 1 }].iter().map(|file| dump_key(&id, file)).collect()
    }

    fn told(dumps: &[Vec<String>], minimum: usize) -> String {
        let policy = Policy { window: SignedDuration::from_hours(48), minimum, limit: usize::MAX };
        let short = |key: &String| key.trim_start_matches("dumps/202611").replace("T120000", "");
        let batches = expired(DUMPS, &dumps.concat(), &policy, "2026-11-20T12:00:00Z".parse().unwrap());
        batches
            .iter()
            .map(|batch| batch.keys.iter().map(short).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn dumps_older_than_the_window_go_and_the_newest_of_each_database_stay() {
        let dumps = [dump(1, "old", true), dump(10, "app", true), dump(17, "app", true), dump(19, "app", true)];
        let first = "10/dump.json; 10/app.dump.zst 10/frames.json 10/globals.sql.zst";
        let second = "17/dump.json; 17/app.dump.zst 17/frames.json 17/globals.sql.zst";
        assert_eq!(told(&dumps, 1), format!("{first}; {second}"));
        assert_eq!(told(&dumps, 2), first);
        assert_eq!(told(&dumps, 0), format!("{first}; {second}"), "the last one of a database stays");
        assert_eq!(told(&[dump(18, "app", true), dump(19, "app", true)], 1), "", "both are in the window");
    }

    #[test]
    fn encrypted_dumps_of_a_database_count_with_the_others() {
        let encrypted = |day| {
            dump(day, "app", true).into_iter().map(|key| match key.ends_with(INFO_FILE) {
                true => key,
                false => crate::archive::names::sealed(&key),
            })
        };
        let dumps = [dump(10, "app", true), encrypted(11).collect(), encrypted(12).collect()];
        let first = "10/dump.json; 10/app.dump.zst 10/frames.json 10/globals.sql.zst";
        assert_eq!(told(&dumps, 2), first);
        assert!(
            told(&dumps, 1).ends_with("11/dump.json; 11/app.dump.zst.age 11/frames.json.age 11/globals.sql.zst.age")
        );
    }

    #[test]
    fn what_anyone_may_read_of_an_encrypted_dump_names_nothing_of_the_database() {
        let time: Timestamp = "2026-11-28T03:00:00Z".parse().unwrap();
        let info = DumpInfo {
            id: "20261128T030000".into(),
            member: "db-2".into(),
            database: "payroll".into(),
            version: 150_018,
            lsn: Lsn(1),
            time,
            ended: time,
            locale: Locale { encoding: "UTF8".into(), ..Locale::default() },
            owner: "anna".into(),
            roles: vec!["boss".into()],
            size: 2,
            stored: 1,
            frames_sha256: "f".into(),
            globals_sha256: "g".into(),
            age_fingerprint: Some("ad225781efede36c".into()),
        };
        let text = serde_json::to_string(&info.public()).unwrap();
        assert_eq!(
            text,
            r#"{"id":"20261128T030000","member":"db-2","version":150018,"lsn":"0/1","time":"2026-11-28T03:00:00Z","ended":"2026-11-28T03:00:00Z","size":2,"stored":1,"framesSha256":"f","globalsSha256":"g","ageFingerprint":"ad225781efede36c"}"#
        );
        assert_eq!(serde_json::from_str::<DumpInfo>(&text).unwrap(), info.public());
    }

    #[test]
    fn snapshots_of_redis_go_by_the_same_rule_and_the_last_complete_one_stays() {
        let snapshot = |day: u32, complete: bool| {
            let files = [rdb::DATA_FILE, rdb::FRAMES_FILE, rdb::INFO_FILE];
            let id = format!("202611{day:02}T120000");
            files[..if complete { 3 } else { 1 }].iter().map(|file| rdb::rdb_key(&id, file)).collect::<Vec<_>>()
        };
        let told = |snapshots: &[Vec<String>], minimum| {
            let policy = Policy { window: SignedDuration::from_hours(48), minimum, limit: usize::MAX };
            let batches = expired(SNAPSHOTS, &snapshots.concat(), &policy, "2026-11-20T12:00:00Z".parse().unwrap());
            batches.iter().map(|batch| format!("{}\n", batch.keys.join(" "))).collect::<String>()
        };
        let all = [snapshot(1, true), snapshot(2, false), snapshot(3, true), snapshot(19, false)];
        expect_test::expect![[r#"
            rdb/20261101T120000/rdb.json
            rdb/20261101T120000/dump.rdb.zst rdb/20261101T120000/frames.json
            rdb/20261102T120000/dump.rdb.zst
        "#]]
        .assert_eq(&told(&all, 1));
        assert_eq!(told(&all[2..], 1), "", "the last complete one, which is too old");
    }

    /// Regression 433: of two snapshots that were taken within a second, the first one stayed although only one was to be kept: it was not
    /// older than no time at all.
    #[test]
    fn without_a_window_only_the_number_counts() {
        let policy = Policy { window: SignedDuration::ZERO, minimum: 1, limit: usize::MAX };
        let files = [dump(19, "app", true), dump(20, "app", true)].concat();
        let batches = expired(DUMPS, &files, &policy, "2026-11-19T12:00:00Z".parse().unwrap());
        assert_eq!(batches.iter().map(|batch| batch.what.as_str()).collect::<Vec<_>>(), ["dump 20261119T120000"; 2]);
    }

    #[test]
    fn what_an_attempt_has_left_goes_after_a_week_and_what_is_no_dump_stays() {
        let strange = vec!["dumps/notes/x".to_owned(), "dumps/x".to_owned(), "dumps/20261399T120000/dump.json".into()];
        let dumps = [dump(10, "app", false), dump(14, "app", false), strange];
        assert_eq!(told(&dumps, 1), "10/app.dump.zst");
    }
}
