//! Snapshots of Redis in a store: what they are called there, what is known of each, and the check of a stream that is one. Pure.
//!
//! A server writes a snapshot as it does for a replica (the format of its `dump.rdb`): a magic word with a version, fields about the
//! server, the data, a mark of the end, and a checksum of all before.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The folder of all snapshots.
pub const FOLDER: &str = "rdb";
/// Describes a snapshot. It is written last: a snapshot without it is none.
pub const INFO_FILE: &str = "rdb.json";
/// The index of the frames of its data.
pub const FRAMES_FILE: &str = "frames.json";
/// Its data.
pub const DATA_FILE: &str = "dump.rdb.zst";
/// Bytes of a `rdb.json` at most.
pub const INFO: u64 = 64 << 10;

/// Bytes at the begin that are searched for fields about the server.
const HEAD: usize = 16 << 10;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 8;
/// The mark of the end of the data.
const END: u8 = 0xFF;
/// The mark of a field about the server.
const FIELD: u8 = 0xFA;
/// Longest text that is taken over from a field.
const LONGEST: usize = 100;
/// Fields that are read at most.
const FIELDS: usize = 64;

/// The key of a file of a snapshot.
pub fn rdb_key(id: &str, file: &str) -> String {
    format!("{FOLDER}/{id}/{file}")
}

/// The ID of the newest complete snapshot among these keys below `rdb/`.
pub fn newest<'a>(keys: impl IntoIterator<Item = &'a String>) -> Option<&'a str> {
    let complete = keys.into_iter().filter_map(|key| {
        let (id, file) = key.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
        (file == INFO_FILE && crate::api::backup_id::is_backup_id(id)).then_some(id)
    });
    complete.max()
}

/// A complete snapshot: its `rdb.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RdbInfo {
    /// Its ID.
    pub id: String,
    /// The member that was read.
    pub member: String,
    /// What the stream says of itself.
    pub header: Header,
    /// Keys in all databases, about: they were counted shortly before.
    pub keys: u64,
    /// Whether the member kept its data in an append-only file.
    pub appends: bool,
    /// When it was complete, by the clock of the member's host.
    pub ended: Timestamp,
    /// Bytes of the data.
    pub size: u64,
    /// Bytes of it in the store.
    pub stored: u64,
    /// SHA-256 of `frames.json`, which has those of all frames.
    pub frames_sha256: String,
    /// The fingerprint of the key that it is encrypted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_fingerprint: Option<String>,
}

/// What a snapshot says of itself at its begin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Header {
    /// Version of the format.
    pub format: u32,
    /// Version of the server.
    pub server: String,
    /// Seconds since 1970 when the data was so.
    pub time: i64,
    /// The history of the data: `master_replid`.
    pub replid: String,
    /// The position in it: `master_repl_offset`.
    pub offset: u64,
}

/// A stream is no complete snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Its first bytes.
    #[error("it does not begin as a snapshot of Redis does")]
    Begin,
    /// Its last bytes.
    #[error("it ends before the mark of its end: it is cut off")]
    Cut,
    /// Its content.
    #[error("its checksum is {found:016x}, and that of its content is {content:016x}: it is damaged")]
    Checksum {
        /// What it says.
        found: u64,
        /// What it should say.
        content: u64,
    },
}

/// Checks a stream while it passes by.
#[derive(Debug, Clone, Default)]
pub struct Checker {
    head: Vec<u8>,
    /// The last bytes, which may be the checksum.
    tail: Vec<u8>,
    /// Of all before these.
    sum: u64,
    /// The byte before these.
    last: u8,
}

impl Checker {
    /// The next bytes.
    pub fn write(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        if bytes.len() >= CHECKSUM {
            let (body, tail) = bytes.split_at(bytes.len() - CHECKSUM);
            let before = std::mem::replace(&mut self.tail, tail.to_vec());
            self.pass(&before);
            self.pass(body);
        } else {
            self.tail.extend_from_slice(bytes);
            let before: Vec<u8> = self.tail.drain(..self.tail.len().saturating_sub(CHECKSUM)).collect();
            self.pass(&before);
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.sum = bytes.iter().fold(self.sum, |sum, byte| {
            // The index is one byte.
            TABLE[usize::from((sum as u8) ^ byte)] ^ (sum >> 8)
        });
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    /// What the stream says of itself; or why it is no complete snapshot. A checksum of 0 means that the server makes none.
    pub fn finish(self) -> Result<Header, Wrong> {
        let header = header(&self.head).ok_or(Wrong::Begin)?;
        let sum: [u8; CHECKSUM] = self.tail.try_into().map_err(|_| Wrong::Cut)?;
        if self.last != END {
            return Err(Wrong::Cut);
        }
        match u64::from_le_bytes(sum) {
            0 => Ok(header),
            found if found == self.sum => Ok(header),
            found => Err(Wrong::Checksum { found, content: self.sum }),
        }
    }
}

/// Reads `REDIS` or `VALKEY`, the version, and the fields that follow; `None`: it is no snapshot.
fn header(head: &[u8]) -> Option<Header> {
    let (version, mut rest) = match (head.strip_prefix(b"REDIS"), head.strip_prefix(b"VALKEY")) {
        (Some(rest), _) => rest.split_at_checked(4)?,
        (_, Some(rest)) => rest.split_at_checked(3)?,
        (None, None) => return None,
    };
    let mut header = Header { format: std::str::from_utf8(version).ok()?.parse().ok()?, ..Header::default() };
    for _ in 0..FIELDS {
        let Some((&FIELD, after)) = rest.split_first() else { break };
        let Some((name, after)) = text(after) else { break };
        let Some((value, after)) = text(after) else { break };
        rest = after;
        match name.as_str() {
            "redis-ver" | "valkey-ver" => header.server = value,
            "ctime" => header.time = value.parse().unwrap_or_default(),
            "repl-id" => header.replid = value,
            "repl-offset" => header.offset = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    Some(header)
}

/// A text or a number, and what follows it; `None` if it is compressed or not whole.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let low = usize::from(first & 0x3F);
    let number = |length: usize| {
        let (bytes, rest) = rest.split_at_checked(length)?;
        let value = match bytes {
            [one] => i64::from(one.cast_signed()),
            [one, two] => i64::from(i16::from_le_bytes([*one, *two])),
            [one, two, three, four] => i64::from(i32::from_le_bytes([*one, *two, *three, *four])),
            _ => return None,
        };
        Some((value.to_string(), rest))
    };
    let (length, rest) = match first >> 6 {
        0 => (low, rest),
        1 => (low << 8 | usize::from(*rest.first()?), &rest[1..]),
        2 if first == 0x80 => {
            let (length, rest) = rest.split_at_checked(4)?;
            (usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?, rest)
        }
        3 => {
            return match low {
                0 => number(1),
                1 => number(2),
                2 => number(4),
                _ => None,
            };
        }
        _ => return None,
    };
    let (text, rest) = rest.split_at_checked(length)?;
    let text = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    Some((text, rest))
}

/// CRC-64 of Redis: the polynomial of Jones, reflected.
const POLYNOMIAL: u64 = 0x95AC_9329_AC4B_C9B5;

const TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut sum, mut bit) = (at as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        table[at] = sum;
        at += 1;
    }
    table
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What `redis-cli --rdb` got of a Redis 7.0 with one key.
    fn snapshot() -> Vec<u8> {
        let mut bytes = b"REDIS0010\xfa\x09redis-ver\x067.0.15\xfa\x0aredis-bits\xc0\x40\xfa\x05ctime\xc2".to_vec();
        bytes.extend(1_800_000_000_i32.to_le_bytes());
        bytes.extend(b"\xfa\x07repl-id\x28");
        bytes.extend([b'a'; 40]);
        bytes.extend(b"\xfa\x0brepl-offset\xc1\x39\x30\xfe\x00\xfb\x01\x00\x00\x01k\x01v\xff");
        let mut checker = Checker::default();
        checker.pass(&bytes);
        bytes.extend(checker.sum.to_le_bytes());
        bytes
    }

    fn check(bytes: &[u8], piece: usize) -> Result<Header, Wrong> {
        let mut checker = Checker::default();
        bytes.chunks(piece).for_each(|piece| checker.write(piece));
        checker.finish()
    }

    #[test]
    fn the_checksum_is_that_of_redis() {
        let mut checker = Checker::default();
        checker.pass(b"123456789");
        assert_eq!(checker.sum, 0xe9c6_d914_c4b8_d9ca, "the value in crc64.c of Redis");
    }

    #[test]
    fn a_snapshot_tells_the_server_the_time_and_the_position_however_it_comes_in_pieces() {
        let wanted =
            Header { format: 10, server: "7.0.15".into(), time: 1_800_000_000, replid: "a".repeat(40), offset: 12_345 };
        for piece in [1, 2, 7, 8, 9, 64, 4096] {
            assert_eq!(check(&snapshot(), piece), Ok(wanted.clone()), "{piece}");
        }
        let mut without = snapshot();
        let end = without.len() - CHECKSUM;
        without[end..].fill(0);
        assert_eq!(check(&without, 3), Ok(wanted), "a server that makes no checksums writes 0");
        let valkey = b"VALKEY080\xff\0\0\0\0\0\0\0\0";
        assert_eq!(check(valkey, 5), Ok(Header { format: 80, ..Header::default() }));
    }

    #[test]
    fn what_is_cut_off_damaged_or_something_else_is_no_snapshot() {
        let good = snapshot();
        for length in 0..good.len() {
            assert!(check(&good[..length], 16).is_err(), "the first {length} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(check(&bad, 16).is_err(), "byte {at}");
        }
        let said = |bytes: &[u8]| check(bytes, 16).unwrap_err().to_string();
        assert_eq!(said(b"-ERR no"), "it does not begin as a snapshot of Redis does");
        assert_eq!(said(&good[..good.len() - 3]), "it ends before the mark of its end: it is cut off");
        let mut bad = good.clone();
        bad[60] ^= 1;
        assert!(said(&bad).ends_with("it is damaged"), "{}", said(&bad));
    }

    #[test]
    fn the_newest_complete_snapshot_is_found_among_the_keys() {
        let keys = [
            "rdb/20261129T030000/rdb.json",
            "rdb/20261130T030000/dump.rdb.zst",
            "rdb/20261128T030000/rdb.json",
            "rdb/notes/rdb.json",
            "dumps/20261201T030000/rdb.json",
        ]
        .map(str::to_owned);
        assert_eq!((newest(&keys), newest(&keys[1..2])), (Some("20261129T030000"), None));
    }
}
