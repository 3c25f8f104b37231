//! Catalogs and keys for tests.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;

use crate::api::lsn::Lsn;
use crate::archive::catalog::{Catalog, Range};
use crate::archive::history::History;
use crate::archive::info::BackupInfo;
use crate::archive::names::{self, Segment};

pub(crate) const SIZE: u64 = 1 << 20;
/// Keys that everybody knows, as `age-keygen` of version 1.1.1 made them.
pub(crate) const ONE: &str = "AGE-SECRET-KEY-1VXCGKQ9LF4U2DLYP3TCJA2PYRZX7TFWJ2AQVARYG7YDY3F5JA8JQM7NUL3";
/// See [`ONE`].
pub(crate) const TWO: &str = "AGE-SECRET-KEY-1F5K3XH5HQ3FAX7PK7AXCZK93U85WNM8RHA8G5A6D82NW7WESJ0HQ67G932";

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// A backup of this timeline over these segments; it ends at this second.
pub(crate) fn backup(id: u32, timeline: u32, segments: Range, ended: i64) -> BackupInfo {
    BackupInfo {
        id: format!("20261128T{id:06}"),
        time: (at(ended - 10), at(ended)),
        lsn: (Lsn(segments.0 * SIZE + 0x28), Lsn(segments.1 * SIZE + 0x100)),
        timeline,
        segment_size: SIZE,
        size: 1,
        system_identifier: "7".into(),
        version: 150_018,
        pgdata: "/data".into(),
        server: "a".into(),
        age_fingerprint: None,
    }
}

/// A catalog with these backups, segments of timelines, histories and claims.
pub(crate) fn catalog(
    backups: Vec<BackupInfo>,
    wal: &[(u32, Range)],
    histories: &[(u32, &[(u32, u64)])],
    claims: &[(u32, u64)],
) -> Catalog {
    let mut catalog = Catalog { segment_size: SIZE, ..Catalog::default() };
    backups.into_iter().for_each(|info| catalog.add_backup(info));
    for (timeline, (first, last)) in wal {
        (*first..=*last).for_each(|number| catalog.add_key(&Segment::at(*timeline, Lsn(number * SIZE), SIZE).key()));
    }
    for (timeline, ancestors) in histories {
        let ancestors = ancestors.iter().map(|(ancestor, end)| (*ancestor, Lsn(*end)));
        catalog.histories.insert(*timeline, History { ancestors: ancestors.collect() });
    }
    claims.iter().for_each(|(timeline, term)| catalog.add_key(&names::claim_key(*timeline, *term)));
    catalog
}
