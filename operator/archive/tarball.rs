//! The tar archive of a base backup while it passes: where its members end, and one more member. Pure.

/// Bytes of a block of a tar archive.
const BLOCK: usize = 512;

/// The archive is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL sent no valid tar archive: {0}")]
pub struct Damaged(&'static str);

/// Passes the members of an archive on and keeps back the blocks that end it, so that more members can follow.
#[derive(Debug, Default)]
pub struct Members {
    /// Bytes of the current member's content, with padding, that are still to come.
    left: u64,
    header: Vec<u8>,
    ended: bool,
}

impl Members {
    /// Appends to `out` what of these bytes belongs to members.
    pub fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Damaged> {
        while !bytes.is_empty() && !self.ended {
            if self.left > 0 {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                let (content, later) = bytes.split_at(length);
                out.extend_from_slice(content);
                self.left -= length as u64;
                bytes = later;
                continue;
            }
            let (header, later) = bytes.split_at(bytes.len().min(BLOCK - self.header.len()));
            self.header.extend_from_slice(header);
            bytes = later;
            if self.header.len() == BLOCK {
                if self.header.iter().all(|byte| *byte == 0) {
                    self.ended = true;
                } else {
                    self.left = size(&self.header)?.next_multiple_of(BLOCK as u64);
                    out.extend_from_slice(&self.header);
                }
                self.header.clear();
            }
        }
        Ok(())
    }

    /// Whether the archive has ended, or may end here.
    pub fn is_whole(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }
}

/// The size in the header of a member: octal digits, or a binary number after a byte of 0x80.
fn size(header: &[u8]) -> Result<u64, Damaged> {
    let field = &header[124..136];
    let size = match field {
        [0x80, .., _] => field[4..].iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)),
        _ => {
            let digits = field.iter().take_while(|byte| !matches!(byte, 0 | b' '));
            digits.into_iter().try_fold(0_u64, |sum, digit| match digit {
                b'0'..=b'7' => Ok(sum << 3 | u64::from(digit - b'0')),
                _ => Err(Damaged("a size is no number")),
            })?
        }
    };
    match size {
        size if size > 1 << 50 => Err(Damaged("a size is larger than any file")),
        size => Ok(size),
    }
}

/// One member with this content, and the end of the archive. Without a member: the end alone.
pub fn last(member: Option<(&str, &[u8], i64)>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some((name, content, modified)) = member {
        let mut header = tar::Header::new_ustar();
        // Its callers give short names.
        let _ = header.set_path(name);
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(modified).unwrap_or_default());
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in [("backup_label", "START WAL"), ("empty", ""), ("base/1/2", &"x".repeat(1024))] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_member_can_follow_wherever_the_stream_is_cut() {
        for piece in [1, 7, 512, 513, 100_000] {
            let (mut members, mut out) = (Members::default(), Vec::new());
            for bytes in archive().chunks(piece) {
                members.pass(bytes, &mut out).unwrap();
            }
            assert!(members.is_whole());
            out.extend(last(Some(("backup_manifest", b"{}", 1_700_000_000))));
            let mut found = Vec::new();
            for entry in tar::Archive::new(out.as_slice()).entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut content = String::new();
                entry.read_to_string(&mut content).unwrap();
                found.push(format!("{} {}", entry.path().unwrap().display(), content.len()));
            }
            assert_eq!(found, ["backup_label 9", "empty 0", "base/1/2 1024", "backup_manifest 2"]);
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_or_damaged_is_noticed() {
        let (mut members, mut out) = (Members::default(), Vec::new());
        members.pass(&archive()[..600], &mut out).unwrap();
        assert!(!members.is_whole());
        let mut damaged = archive();
        damaged[124] = b'9';
        assert!(Members::default().pass(&damaged, &mut out).is_err());
        damaged[124] = 0x80;
        damaged[128] = 0xFF;
        assert!(Members::default().pass(&damaged, &mut out).is_err());
        // A binary size, as of a file of more than 8 GiB.
        let mut header = tar::Header::new_ustar();
        header.set_size(9 << 30);
        assert_eq!(size(header.as_bytes()), Ok(9 << 30));
    }
}
