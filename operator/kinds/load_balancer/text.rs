//! A configuration text with two kinds of holes, its servers and its own hash: fills them in and empties them again.
//! Pure.

use std::collections::BTreeMap;

use crate::api::hash::short_hash;

/// Placeholder for the hash.
pub const HASH: &str = "@HASH@";
/// The beginning of the first line of every configuration; the hash follows.
const TITLE: &str = "# evenkeel ";
const BEGIN: &str = "# begin ";
const END: &str = "# end ";

/// The short hash of a text.
pub fn hash(text: &str) -> String {
    short_hash(text, 12)
}

/// The first line of a configuration.
pub fn title() -> String {
    format!("{TITLE}{HASH}\n")
}

/// An empty hole in a skeleton.
pub fn hole(indent: &str, name: &str) -> String {
    format!("{indent}{BEGIN}{name}\n{indent}{END}{name}\n")
}

/// The skeleton with these lines in its holes, and with its hash.
pub fn fill(skeleton: &str, holes: &BTreeMap<String, Vec<String>>, hash: &str) -> String {
    let mut text = String::with_capacity(skeleton.len());
    for line in skeleton.lines() {
        text.push_str(line);
        text.push('\n');
        let Some(name) = line.trim_start().strip_prefix(BEGIN) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        for filling in holes.get(name).into_iter().flatten() {
            text.push_str(indent);
            text.push_str(filling);
            text.push('\n');
        }
    }
    text.replace(HASH, hash)
}

/// The skeleton of a filled text; `None` if Evenkeel did not write the text.
pub fn skeleton(text: &str) -> Option<String> {
    let hash = hash_in(text)?;
    let mut skeleton = String::with_capacity(text.len());
    let mut inside = false;
    for line in text.lines() {
        inside &= !line.trim_start().starts_with(END);
        if !inside {
            skeleton.push_str(line);
            skeleton.push('\n');
        }
        inside |= line.trim_start().starts_with(BEGIN);
    }
    Some(skeleton.replace(hash, HASH))
}

/// The hash in the first line of a text.
pub fn hash_in(text: &str) -> Option<&str> {
    let hash = text.lines().next()?.strip_prefix(TITLE)?;
    (!hash.is_empty()).then_some(hash)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_emptied_again() {
        let empty = format!("{}global\n    description {HASH}\nbackend a\n{}", title(), hole("    ", "a"));
        let holes = BTreeMap::from([("a".to_owned(), vec!["server x".to_owned(), "server y".to_owned()])]);
        let filled = fill(&empty, &holes, "abc123");
        assert_eq!(
            filled,
            "# evenkeel abc123\nglobal\n    description abc123\nbackend a\n    # begin a\n    server x\n    server y\n    # end a\n"
        );
        assert_eq!(skeleton(&filled).unwrap(), empty);
        assert_eq!((hash_in(&filled), hash_in("global\n"), skeleton("")), (Some("abc123"), None, None));
    }
}
