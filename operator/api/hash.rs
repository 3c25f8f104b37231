//! Short hashes: the first digits of a SHA-256, for names, labels and comparisons.

use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// The first `digits` hexadecimal digits of the SHA-256 of `bytes`; at most 64.
pub fn short_hash(bytes: impl AsRef<[u8]>, digits: usize) -> String {
    hex(&Sha256::digest(bytes), digits)
}

/// Like [`short_hash`], of a value's JSON. The order of its fields must be fixed, as in structs and `BTreeMap`s.
pub fn short_hash_of_json(value: &impl Serialize, digits: usize) -> String {
    short_hash(serde_json::to_string(value).unwrap_or_default(), digits)
}

/// Like [`short_hash`], of several parts: moving bytes from one part to the next gives another hash.
pub fn short_hash_of_parts<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>, digits: usize) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex(&digest.finalize(), digits)
}

/// The first `digits` hexadecimal digits of bytes, in lower case.
pub fn hex(bytes: &[u8], digits: usize) -> String {
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(digits);
    halves.filter_map(|half| char::from_digit(u32::from(half), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_hash_is_the_beginning_of_the_sha_256() {
        assert_eq!(short_hash("abc", 64), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!((short_hash("abc", 5), short_hash("abc", 0)), ("ba781".to_owned(), String::new()));
    }

    #[test]
    fn parts_are_told_from_each_other() {
        assert_eq!(short_hash_of_parts(["ab", "c"], 16), "43ee655579de01ca");
        assert_ne!(short_hash_of_parts(["ab", "c"], 16), short_hash_of_parts(["a", "bc"], 16));
    }
}
