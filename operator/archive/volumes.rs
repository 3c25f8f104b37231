//! The copy of a volume in a store: names of its files, and what it says of itself. Plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The tar archive with all files, compressed in frames.
pub const DATA_FILE: &str = "data.tar.zst";
/// Where the frames of [`DATA_FILE`] are, with their SHA-256.
pub const FRAMES_FILE: &str = "frames.json";
/// What the copy says of itself. It is written last: without it the copy is not complete.
pub const INFO_FILE: &str = "volume.json";
/// Bytes of [`INFO_FILE`] at most.
pub const INFO: u64 = 64 << 10;

/// What a copy says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeInfo {
    /// The ID of the Backup.
    pub id: String,
    /// The claim whose volume was copied.
    pub claim: String,
    /// When the copy was complete.
    pub ended: Timestamp,
    /// What is in it.
    pub tally: Tally,
    /// Bytes of the archive before compression.
    pub size: u64,
    /// Bytes of it in the store.
    pub stored: u64,
    /// SHA-256 of `frames.json`, which has those of all frames.
    pub frames_sha256: String,
    /// The fingerprint of the key that it is encrypted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_fingerprint: Option<String>,
}

/// What was found in a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tally {
    /// Everything that the archive has: files, directories, symlinks, hard links.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Sockets, FIFOs and devices, which are left out.
    pub left_out: u64,
}
