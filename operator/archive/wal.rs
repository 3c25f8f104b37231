//! What a WAL segment says of itself, and its form in the archive.

use crate::archive::names::Segment;

/// Level of compression: fast, since a primary waits for nobody but its disk.
const LEVEL: i32 = 1;
/// Bytes of a WAL page.
const PAGE: u64 = 8192;
/// Flag of the first page of a segment: its header has the system identifier.
const LONG_HEADER: u16 = 2;

/// The file is not the segment that its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is shorter or longer than a segment.
    #[error("WAL segment {segment} has {bytes} bytes and not {size}")]
    Size {
        /// Its name.
        segment: Segment,
        /// Its bytes.
        bytes: u64,
        /// Those of a segment.
        size: u64,
    },
    /// Its first page has no header of a segment.
    #[error("WAL segment {segment} does not begin as a segment does")]
    NoHeader {
        /// Its name.
        segment: Segment,
    },
    /// It is of another cluster.
    #[error("WAL segment {segment} is of the cluster with system identifier {found} and not of {expected}")]
    System {
        /// Its name.
        segment: Segment,
        /// What it says.
        found: u64,
        /// This cluster's.
        expected: String,
    },
    /// It is another segment.
    #[error("WAL segment {segment} has the WAL of position {found:X} of timeline {timeline}")]
    Other {
        /// Its name.
        segment: Segment,
        /// Where its WAL begins.
        found: u64,
        /// Its timeline.
        timeline: u32,
    },
}

/// Checks the size and the header of a segment (`XLogLongPageHeaderData`; its layout has been the same since PostgreSQL 9.3).
pub fn check(segment: Segment, content: &[u8], size: u64, system_identifier: &str) -> Result<(), Wrong> {
    let bytes = content.len() as u64;
    if bytes != size {
        return Err(Wrong::Size { segment, bytes, size });
    }
    let number = |from: usize, length: usize| -> Option<u64> {
        let mut number = [0; 8];
        number[..length].copy_from_slice(content.get(from..from + length)?);
        Some(u64::from_le_bytes(number))
    };
    let header = (number(2, 2), number(4, 4), number(8, 8), number(24, 8), number(32, 4), number(36, 4));
    let (Some(info), Some(timeline), Some(at), Some(system), Some(length), Some(page)) = header else {
        return Err(Wrong::NoHeader { segment });
    };
    if info & u64::from(LONG_HEADER) == 0 || length != size || page != PAGE {
        return Err(Wrong::NoHeader { segment });
    }
    if system.to_string() != system_identifier {
        return Err(Wrong::System { segment, found: system, expected: system_identifier.to_owned() });
    }
    // The first segment of a timeline begins with a copy of what its ancestor wrote.
    let timeline = u32::try_from(timeline).unwrap_or(u32::MAX);
    if at != segment.start(size).0 || timeline > segment.timeline {
        return Err(Wrong::Other { segment, found: at, timeline });
    }
    Ok(())
}

/// A segment as it is stored: one zstd frame with a checksum.
pub fn compress(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.include_checksum(true)?;
    compressor.compress(content)
}

/// The content of a stored segment of at most `size` bytes.
pub fn decompress(stored: &[u8], size: u64) -> std::io::Result<Vec<u8>> {
    zstd::bulk::decompress(stored, usize::try_from(size).unwrap_or(usize::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::lsn::Lsn;

    const SIZE: u64 = 1 << 20;

    fn written(at: u64, timeline: u32, system: u64) -> Vec<u8> {
        let mut content = vec![0; usize::try_from(SIZE).unwrap()];
        content[2..4].copy_from_slice(&LONG_HEADER.to_le_bytes());
        content[4..8].copy_from_slice(&timeline.to_le_bytes());
        content[8..16].copy_from_slice(&at.to_le_bytes());
        content[24..32].copy_from_slice(&system.to_le_bytes());
        content[32..36].copy_from_slice(&u32::try_from(SIZE).unwrap().to_le_bytes());
        content[36..40].copy_from_slice(&8192_u32.to_le_bytes());
        content
    }

    #[test]
    fn only_the_segment_that_the_name_says_is_taken() {
        let segment = Segment::at(2, Lsn(3 * SIZE), SIZE);
        let said = |content: &[u8]| check(segment, content, SIZE, "77").map_err(|wrong| wrong.to_string());
        assert_eq!(said(&written(3 * SIZE, 2, 77)), Ok(()));
        assert_eq!(said(&written(3 * SIZE, 1, 77)), Ok(()), "begun by its ancestor");
        let shown = [
            said(&written(3 * SIZE, 2, 77)[1..]),
            said(&vec![0; usize::try_from(SIZE).unwrap()]),
            said(&written(3 * SIZE, 2, 78)),
            said(&written(2 * SIZE, 2, 77)),
            said(&written(3 * SIZE, 3, 77)),
        ];
        let shown: Vec<_> = shown.into_iter().map(Result::unwrap_err).collect();
        expect_test::expect![[r#"
            WAL segment 000000020000000000000003 has 1048575 bytes and not 1048576
            WAL segment 000000020000000000000003 does not begin as a segment does
            WAL segment 000000020000000000000003 is of the cluster with system identifier 78 and not of 77
            WAL segment 000000020000000000000003 has the WAL of position 200000 of timeline 2
            WAL segment 000000020000000000000003 has the WAL of position 300000 of timeline 3"#]]
        .assert_eq(&shown.join("\n"));
    }

    #[test]
    fn a_segment_comes_back_as_it_was_and_a_flipped_bit_is_found() {
        let content = written(0, 1, 7);
        let mut stored = compress(&content).unwrap();
        assert_eq!(decompress(&stored, SIZE).unwrap(), content);
        assert!(decompress(&stored, SIZE - 1).is_err());
        let middle = stored.len() / 2;
        stored[middle] ^= 1;
        assert!(decompress(&stored, SIZE).is_err());
    }
}
