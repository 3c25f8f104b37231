//! Names of WAL files, and the keys of what an archive holds, in the layout of barman-cloud. Pure.

use std::fmt;
use std::str::FromStr;

pub use crate::api::backup_id::is_backup_id;
use crate::api::lsn::Lsn;

/// The ending of a WAL segment in the archive.
const COMPRESSED: &str = ".zst";
/// The ending of an object that is encrypted.
const SEALED: &str = ".age";
/// The folder of [`fingerprint_key`].
pub const KEYS: &str = "keys";
/// Smallest and largest size of a WAL segment, in bytes; every size is a power of two.
pub const SEGMENT_SIZES: (u64, u64) = (1 << 20, 1 << 30);

/// A WAL segment, by its name. Segments of one timeline are in the order of their WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// Its timeline.
    pub timeline: u32,
    /// The upper 32 bits of its positions.
    log: u32,
    /// Its number below these.
    part: u32,
}

impl Segment {
    /// The segment of this timeline that has the WAL from `at` on, with segments of `size` bytes.
    pub fn at(timeline: u32, at: Lsn, size: u64) -> Self {
        // Both are 32 bits by construction.
        let (log, part) = ((at.0 >> 32) as u32, ((at.0 & 0xFFFF_FFFF) / size.max(1)) as u32);
        Self { timeline, log, part }
    }

    /// The segment that has the last byte before `end`.
    pub fn before(timeline: u32, end: Lsn, size: u64) -> Self {
        Self::at(timeline, Lsn(end.0.saturating_sub(1)), size)
    }

    /// Where its WAL begins.
    pub fn start(&self, size: u64) -> Lsn {
        Lsn((u64::from(self.log) << 32) + u64::from(self.part) * size)
    }

    /// The end of its WAL.
    pub fn end(&self, size: u64) -> Lsn {
        Lsn(self.start(size).0.saturating_add(size))
    }

    /// The next one of its timeline.
    pub fn next(&self, size: u64) -> Self {
        Self::at(self.timeline, self.end(size), size)
    }

    /// The number of segments from the first WAL of all, which begins at 0.
    pub fn number(&self, size: u64) -> u64 {
        self.start(size).0 / size.max(1)
    }

    /// Its key in an archive, unless it is encrypted.
    pub fn key(&self) -> String {
        format!("{}/{self}{COMPRESSED}", self.folder())
    }

    /// The folder of its key.
    pub fn folder(&self) -> String {
        format!("wals/{:08X}{:08X}", self.timeline, self.log)
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.part)
    }
}

/// A file that PostgreSQL asks to archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalFile {
    /// A complete segment.
    Segment(Segment),
    /// The last segment of a timeline that ended within it: a copy of it begins the next timeline.
    Partial(Segment),
    /// The history of a timeline.
    History(u32),
    /// The label of a base backup that began in this segment.
    Label(Segment),
}

/// This is no name of a file that PostgreSQL archives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a WAL file")]
pub struct NotWal(String);

impl FromStr for WalFile {
    type Err = NotWal;

    fn from_str(name: &str) -> Result<Self, NotWal> {
        let wrong = || NotWal(name.chars().take(64).collect());
        let hex = |from: usize| -> Option<u32> {
            let digits = name.get(from..from + 8)?;
            let upper = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
            upper.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let timeline = hex(0).filter(|timeline| *timeline > 0).ok_or_else(wrong)?;
        if &name[8..] == ".history" {
            return Ok(Self::History(timeline));
        }
        let (Some(log), Some(part)) = (hex(8), hex(16)) else { return Err(wrong()) };
        let segment = Segment { timeline, log, part };
        match &name[24..] {
            "" => Ok(Self::Segment(segment)),
            ".partial" => Ok(Self::Partial(segment)),
            label if label.len() == 16 && label.starts_with('.') && label.ends_with(".backup") && hex(25).is_some() => {
                Ok(Self::Label(segment))
            }
            _ => Err(wrong()),
        }
    }
}

/// The key of a timeline's history.
pub fn history_key(timeline: u32) -> String {
    format!("wals/{timeline:08X}.history")
}

/// The key of a gap: of segments that are given up.
pub fn gap_key(first: Segment, last: Segment) -> String {
    format!("gaps/{first}-{last}.json")
}

/// The key of the same object if it is encrypted.
pub fn sealed(key: &str) -> String {
    format!("{key}{SEALED}")
}

/// Whether the object with this key is encrypted.
pub fn is_sealed(key: &str) -> bool {
    key.ends_with(SEALED)
}

/// The key of the same object if it is not encrypted.
pub fn clear(key: &str) -> &str {
    key.strip_suffix(SEALED).unwrap_or(key)
}

/// The key of the note that objects are encrypted for the key with this fingerprint.
pub fn fingerprint_key(fingerprint: &str) -> String {
    format!("{KEYS}/{fingerprint}.json")
}

/// The segment with this key, encrypted or not, if it is one.
pub fn segment_of_key(key: &str) -> Option<Segment> {
    let (folder, file) = clear(key).rsplit_once('/')?;
    match file.strip_suffix(COMPRESSED)?.parse().ok()? {
        WalFile::Segment(segment) if segment.folder() == folder => Some(segment),
        _ => None,
    }
}

/// The timeline whose history has this key, if it is one.
pub fn history_of_key(key: &str) -> Option<u32> {
    match key.strip_prefix("wals/")?.parse().ok()? {
        WalFile::History(timeline) => Some(timeline),
        _ => None,
    }
}

/// The key of the claim of a timeline: the leader of this term began it.
pub fn claim_key(timeline: u32, term: u64) -> String {
    format!("timelines/{timeline:08X}-{term:016X}.json")
}

/// The timeline and the term of a claim with this key, if it is one.
pub fn claim_of_key(key: &str) -> Option<(u32, u64)> {
    let (timeline, term) = key.strip_prefix("timelines/")?.strip_suffix(".json")?.split_once('-')?;
    Some((u32::from_str_radix(timeline, 16).ok()?, u64::from_str_radix(term, 16).ok()?))
        .filter(|(timeline, term)| claim_key(*timeline, *term) == key)
}

/// Where the objects of a lineage that was given up are kept: `term` is the one that it began in.
pub fn orphan_key(key: &str, term: u64) -> String {
    format!("orphans/{term:016X}/{key}")
}

/// The key of a file of a base backup.
pub fn base_key(id: &str, file: &str) -> String {
    format!("base/{id}/{file}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn segment(name: &str) -> Segment {
        match name.parse() {
            Ok(WalFile::Segment(segment)) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_segment_has_the_name_that_postgresql_gives_it() {
        let first = Segment::at(1, Lsn(0x100_0028), 16 * MIB);
        assert_eq!(first.to_string(), "000000010000000000000001");
        // 4 MiB: 1024 segments in each 4 GiB.
        let last = Segment::at(0x1F, Lsn(0x1_FFFF_FFFF), 4 * MIB);
        assert_eq!(last.to_string(), "0000001F00000001000003FF");
        assert_eq!(last.next(4 * MIB).to_string(), "0000001F0000000200000000");
        assert_eq!((last.start(4 * MIB), last.number(4 * MIB)), (Lsn(0x1_FFC0_0000), 2047));
        // The byte at a border belongs to the next segment.
        assert_eq!(Segment::at(1, Lsn(0x40_0000), 4 * MIB).to_string(), "000000010000000000000001");
        assert_eq!(Segment::before(1, Lsn(0x40_0000), 4 * MIB).to_string(), "000000010000000000000000");
    }

    #[test]
    fn the_files_that_postgresql_archives_are_known_and_nothing_else() {
        let one = segment("000000020000000A000000FF");
        assert_eq!("000000020000000A000000FF.partial".parse(), Ok(WalFile::Partial(one)));
        assert_eq!("000000020000000A000000FF.00000028.backup".parse(), Ok(WalFile::Label(one)));
        assert_eq!("00000002.history".parse(), Ok(WalFile::History(2)));
        for wrong in [
            "",
            "../../etc/passwd",
            "000000020000000A000000F",
            "000000020000000a000000ff",
            "000000000000000A000000FF",
            "000000020000000A000000FF.zst",
            "000000020000000A000000FF.0000002.backup",
            "+0000002.history",
            "00000002.historyy",
            "0000000é.history",
        ] {
            assert!(wrong.parse::<WalFile>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_those_of_barman_cloud_and_lead_back_to_what_they_name() {
        let one = segment("000000020000000A000000FF");
        assert_eq!(one.key(), "wals/000000020000000A/000000020000000A000000FF.zst");
        assert_eq!(segment_of_key(&one.key()), Some(one));
        assert_eq!(segment_of_key("wals/000000020000000B/000000020000000A000000FF.zst"), None);
        let encrypted = sealed(&one.key());
        assert_eq!(encrypted, "wals/000000020000000A/000000020000000A000000FF.zst.age");
        assert_eq!((segment_of_key(&encrypted), clear(&encrypted)), (Some(one), one.key().as_str()));
        assert!(is_sealed(&encrypted) && !is_sealed(&one.key()) && segment_of_key(&sealed(&encrypted)).is_none());
        assert_eq!(history_of_key(&sealed(&history_key(2))), None, "a history is not encrypted");
        assert_eq!(history_of_key(&history_key(0x2A)), Some(0x2A));
        assert_eq!(claim_key(3, 7), "timelines/00000003-0000000000000007.json");
        assert_eq!(claim_of_key(&claim_key(3, 7)), Some((3, 7)));
        assert_eq!(claim_of_key("timelines/3-7.json"), None);
        assert_eq!(orphan_key(&one.key(), 7), format!("orphans/0000000000000007/{}", one.key()));
    }
}
