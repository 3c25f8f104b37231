//! A validation problem of an object: the field and the problem, for people; and the name that was probably meant.

/// One problem; all of them are reported at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// Path of the field, e.g. `spec.durability.synchronousReplicas`.
    pub path: String,
    /// The problem, and what would be right.
    pub message: String,
}

impl Invalid {
    /// A problem at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The most similar known name: at most a third of its letters differ.
pub fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &&str| strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase());
    // The comparison takes memory for each pair of letters.
    let comparable = known.filter(|candidate| name.len() <= 4 * candidate.len().max(3));
    let best = comparable.min_by_key(distance)?;
    (distance(&best) * 3 <= best.chars().count().max(3)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 342: an unknown field or directive with a name of one megabyte was compared letter by letter with each known
    /// name. That took hundreds of megabytes for each.
    #[test]
    fn a_name_that_is_far_too_long_is_compared_with_none() {
        let meant = |name: &str| closest(name, ["instances", "image"].into_iter());
        // Compared, this one would take more memory than there is.
        assert_eq!(meant(&"x".repeat(1 << 28)), None);
        assert_eq!([meant("instaces"), meant("imgae"), meant("other")], [Some("instances"), Some("image"), None]);
    }
}
