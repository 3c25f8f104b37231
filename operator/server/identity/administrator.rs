//! The administrator's token, and the hashes of those that it has replaced. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::server::authn::tokens::{Hash, hash, parsed, shown};

/// How long a token stays valid after a newer one has replaced it.
const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Tokens of the administrator, each with its end if a newer one has replaced it.
pub type Admin = Vec<(Hash, Option<Timestamp>)>;

/// The administrator's token. No `Debug`: it is a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminToken {
    token: String,
    /// The ends of those that were replaced, by their hashes.
    #[serde(default)]
    replaced: BTreeMap<String, Timestamp>,
}

impl AdminToken {
    /// The token in a file, and those in the file of the replaced ones; a line that cannot be read there is none.
    pub fn parse(token: &str, old: &str) -> Self {
        let replaced = old.lines().filter_map(|line| {
            let (hash, end) = line.split_once(' ')?;
            parsed(hash)?;
            Some((hash.to_owned(), end.parse().ok()?))
        });
        Self { token: token.trim().to_owned(), replaced: replaced.collect() }
    }

    /// The text of the file of the replaced ones.
    pub fn old(&self) -> String {
        self.replaced.iter().map(|(hash, end)| format!("{hash} {end}\n")).collect()
    }

    /// The token itself.
    pub fn secret(&self) -> &str {
        &self.token
    }

    /// The tokens that are valid now.
    pub fn valid(&self, now: Timestamp) -> Admin {
        let current = (!self.token.is_empty()).then(|| (hash(&self.token), None));
        let replaced = self.replaced.iter().filter(|(_, end)| now < **end);
        current.into_iter().chain(replaced.filter_map(|(hash, end)| Some((parsed(hash)?, Some(*end))))).collect()
    }

    /// What follows when this token takes its place. `revoke`: it and those before it end at once; else it ends within the hour.
    pub fn replaced_by(self, token: String, now: Timestamp, revoke: bool) -> Self {
        let mut replaced = self.replaced;
        replaced.insert(shown(&hash(&self.token)), now + GRACE);
        replaced.retain(|_, end| now < *end && !revoke);
        Self { token, replaced }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_replaced_ends_within_the_hour_or_at_once() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let first = AdminToken::parse("a\n", "rubbish\n");
        let second = first.clone().replaced_by("b".into(), now, false);
        assert_eq!(second.valid(now), [(hash("b"), None), (hash("a"), Some(now + GRACE))]);
        assert_eq!(second.valid(now + GRACE), [(hash("b"), None)]);
        assert!(AdminToken::parse(second.secret(), &second.old()) == second);
        assert_eq!(second.replaced_by("c".into(), now, true).valid(now), [(hash("c"), None)]);
        assert!(AdminToken::parse("", "").valid(now).is_empty(), "no token is that of nobody");
    }
}
