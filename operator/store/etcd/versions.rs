//! Which versions of etcd keep what they acknowledged: pure judgement of the text that a member reports. Pure.

/// The judgement of one member's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is known against it.
    Good,
    /// It works, with a known fault; the text says which.
    Doubtful(&'static str),
    /// It is not used; the text says why.
    Refused(&'static str),
}

/// The oldest line that has all operations that the store uses.
const OLDEST: (u64, u64) = (3, 4);
/// The lines with a mended inconsistency of revisions, with the first good patch (etcd#14211).
const MENDED: [(u64, u64, u64); 2] = [(3, 4, 32), (3, 5, 14)];

/// Judges a version such as `3.5.14` or `3.6.0-rc.1`.
pub(super) fn judge(version: &str) -> Verdict {
    let Some((major, minor, patch)) = parse(version) else {
        return Verdict::Doubtful("its version is no number; 3.5.14 or newer is known to be good");
    };
    if (major, minor) < OLDEST {
        return Verdict::Refused("it is older than 3.4; use 3.5.14 or newer");
    }
    if (major, minor) == (3, 5) && patch <= 4 {
        return Verdict::Refused("etcd 3.5.0 to 3.5.4 can lose acknowledged writes in a crash; use 3.5.14 or newer");
    }
    let old = MENDED.iter().any(|line| (line.0, line.1) == (major, minor) && patch < line.2);
    if old {
        return Verdict::Doubtful("members can disagree on revisions after a crash; 3.4.32 and 3.5.14 mend that");
    }
    Verdict::Good
}

/// Major, minor and patch; what follows the patch does not count.
fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let mut parts = version.trim().trim_start_matches('v').splitn(3, '.');
    let mut number = || {
        let part = parts.next()?;
        let end = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse().ok()
    };
    Some((number()?, number()?, number()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_lose_writes_are_refused_and_old_patches_are_doubtful() {
        let word = |version: &str| match judge(version) {
            Verdict::Good => "good",
            Verdict::Doubtful(_) => "doubtful",
            Verdict::Refused(_) => "refused",
        };
        let versions = ["3.3.27", "3.4.23", "3.4.31", "3.4.32", "3.5.0", "3.5.4", "3.5.5", "3.5.13", "3.5.14", "3.6.0"];
        let judged = versions.map(|version| format!("{version} {}", word(version))).join(", ");
        assert_eq!(
            judged,
            "3.3.27 refused, 3.4.23 doubtful, 3.4.31 doubtful, 3.4.32 good, 3.5.0 refused, 3.5.4 refused, \
             3.5.5 doubtful, 3.5.13 doubtful, 3.5.14 good, 3.6.0 good"
        );
        let odd = ["v3.5.4", "3.5.4-rc.1", "4.0.0", "2.3.8", "", "three"].map(word);
        assert_eq!(odd, ["refused", "refused", "good", "refused", "doubtful", "doubtful"]);
    }
}
