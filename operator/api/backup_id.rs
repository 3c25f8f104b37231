//! The ID of a base backup. Pure.

/// Whether this is the ID of a base backup: `YYYYMMDDTHHMMSS`.
pub fn is_backup_id(id: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    id.len() == 15 && id.is_ascii() && digits(&id[..8]) && &id[8..9] == "T" && digits(&id[9..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_time_without_signs() {
        assert!(is_backup_id("20261128T030000"));
        for wrong in ["", "20261128T03000", "20261128 030000", "2026-11-28T0300", "20261128T03000é"] {
            assert!(!is_backup_id(wrong), "{wrong}");
        }
    }
}
