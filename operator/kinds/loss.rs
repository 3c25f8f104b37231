//! Decides which hosts are lost, so that what ran there is replaced elsewhere. Pure.
//!
//! Silence is never death. A silent host is lost once this operator itself has waited [`LOST_AFTER`]: one that has just
//! started, or has just begun to lead, waits anew. Many hosts that fall silent together are no loss: more likely it is this
//! operator that is cut off. A person can say at once that a host is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::hosts::DeclaredHosts;

/// The condition while too many hosts are silent for anything of them to be replaced.
pub const MANY_SILENT: &str = "ManyHostsSilent";
/// The condition while something cannot leave a host that is drained.
pub const DRAIN_BLOCKED: &str = "DrainBlocked";

/// A host that has been silent for this long is lost. Hosts that fall silent within this time fall silent together.
pub const LOST_AFTER: Duration = Duration::from_secs(60);

/// The silent hosts, with the time that this operator has waited for each.
pub type Silent = BTreeMap<String, Duration>;

/// What is known of the silent hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Losses {
    /// Hosts whose pods are replaced elsewhere.
    pub lost: BTreeSet<String>,
    /// Hosts that fell silent together and are too many: nothing of them is replaced.
    pub many: BTreeSet<String>,
    /// Hosts that have been silent for so long that nobody waits for a word from them.
    pub mute: BTreeSet<String>,
}

impl Losses {
    /// Why nothing is replaced, as text for people, while too many hosts are silent.
    pub fn brake(&self) -> Option<String> {
        let names: Vec<_> = self.many.iter().map(String::as_str).collect();
        (!names.is_empty()).then(|| {
            format!(
                "hosts {} fell silent together, more than a third of all: nothing of them is replaced, because this operator \
                 may be the one that is cut off. Set spec.outOfService on a host that is off",
                names.join(", ")
            )
        })
    }
}

/// Judges the silent hosts.
pub fn judge(declared: &DeclaredHosts, silent: &Silent) -> Losses {
    let certified = |host: &str| declared.get(host).is_some_and(|one| one.lost);
    let all = declared.keys().filter(|host| !certified(host)).count();
    let suspected = || silent.iter().filter(|(host, _)| declared.contains_key(*host) && !certified(host));
    let mut losses = Losses::default();
    for (host, waited) in silent.iter().filter(|(host, _)| declared.contains_key(*host)) {
        let together = suspected().filter(|(_, other)| waited.abs_diff(**other) <= LOST_AFTER).count();
        let late = *waited >= LOST_AFTER;
        if certified(host) {
            losses.lost.insert(host.clone());
        } else if together >= 2 && together * 3 > all {
            losses.many.insert(host.clone());
        } else if late {
            losses.lost.insert(host.clone());
        }
        if late || certified(host) {
            losses.mute.insert(host.clone());
        }
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::hosts::Declared;

    /// What is lost and what is too many, of hosts `a`, `b`, … that were declared; `off`: those that a person says are off.
    fn told(hosts: &str, off: &str, silent: &[(&str, u64)]) -> String {
        let host = |name: char| (name.to_string(), Declared { lost: off.contains(name), ..Default::default() });
        let silent = silent.iter().map(|(name, seconds)| ((*name).to_owned(), Duration::from_secs(*seconds))).collect();
        let Losses { lost, many, mute } = judge(&hosts.chars().map(host).collect(), &silent);
        let join = |names: BTreeSet<String>| names.into_iter().collect::<String>();
        format!("lost {}, many {}, mute {}\n", join(lost), join(many), join(mute))
    }

    #[test]
    fn a_host_is_lost_after_a_minute_unless_many_fell_silent_with_it() {
        let told = [
            told("abc", "", &[("a", 59)]),
            told("abc", "", &[("a", 60)]),
            told("ab", "", &[("a", 60)]),
            told("ab", "", &[("a", 600), ("b", 600)]),
            told("abc", "", &[("a", 600), ("b", 550)]),
            told("abc", "", &[("a", 600), ("b", 70)]),
            told("abcdef", "", &[("a", 600), ("b", 600)]),
            told("abcde", "", &[("a", 600), ("b", 600)]),
            told("abc", "a", &[("a", 1)]),
            told("abc", "a", &[("a", 600), ("b", 600)]),
            told("abc", "", &[("z", 600)]),
        ];
        expect_test::expect![[r#"
            lost , many , mute 
            lost a, many , mute a
            lost a, many , mute a
            lost , many ab, mute ab
            lost , many ab, mute ab
            lost ab, many , mute ab
            lost ab, many , mute ab
            lost , many ab, mute ab
            lost a, many , mute a
            lost ab, many , mute ab
            lost , many , mute 
        "#]]
        .assert_eq(&told.concat());
    }
}
