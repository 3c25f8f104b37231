//! Invariants of every change of the decisions, whatever caused it. Pure. If the new decisions would break one, the
//! planner keeps the old ones and reports it: that is a fault of Evenkeel.

use super::orders::basis;
use crate::api::postgres_cluster::{Decisions, Quorum, Stage};

/// The invariants that the change from `before` to `after` breaks; empty if `after` may be recorded.
pub fn violations(before: &Decisions, after: &Decisions) -> Vec<&'static str> {
    let led = |decisions: &Decisions| matches!(decisions.stage, Stage::Establishing | Stage::Steady);
    let same_term = after.term == before.term;
    let serves_on = same_term && (before.stage, after.stage) == (Stage::Steady, Stage::Steady);
    let same_sets = before.election == after.election && before.commit == after.commit;
    let same_revision = after.revision == before.revision;
    let rules = [
        (after.term < before.term, "the term went back"),
        (after.revision < before.revision, "the revision went back"),
        (same_revision && basis(before) != basis(after), "other orders follow from the same revision"),
        // I1: at most one leader per term.
        (same_term && led(before) && led(after) && !same_leader(before, after), "a term got a second leader (I1)"),
        (same_term && led(before) && after.stage == Stage::Electing, "an election began without a new term (I1)"),
        (after.stage == Stage::Steady && after.leader.is_none(), "a settled cluster has no leader"),
        (after.next.is_some() && after.stage != Stage::Establishing, "the voters change without a grant"),
        // I2: an election asks the voters that may have acknowledged a commit before it.
        (same_term && before.stage == Stage::Electing && !same_sets, "the sets changed in an election (I2)"),
        // I4: every commit set meets every election set, because G is a subset of E with no smaller w.
        (!within(&after.commit, &after.election), "a commit could be acknowledged that no election would ask for (I4)"),
        // The old commit rule is in force until the leader has passed the barrier of the new one.
        (
            serves_on && !within(&before.commit, &after.election),
            "a commit may have been acknowledged that no election would ask for (I4)",
        ),
    ];
    rules.into_iter().filter_map(|(broken, words)| broken.then_some(words)).collect()
}

/// The first leader of a cluster gets its incarnation once it has made its data directory.
fn same_leader(before: &Decisions, after: &Decisions) -> bool {
    match (&before.leader, &after.leader) {
        (Some(before), Some(after)) => {
            before.member == after.member && (before.incarnation.is_empty() || before.incarnation == after.incarnation)
        }
        (before, after) => before == after,
    }
}

/// Whether every election over E sees every commit under this rule.
fn within(commit: &Quorum, election: &Quorum) -> bool {
    commit.w == 0 || commit.voters.iter().all(|voter| election.voters.contains(voter)) && commit.w >= election.w
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::api::postgres_cluster::Voter;

    fn voter(member: &str) -> Voter {
        Voter { member: member.into(), incarnation: member.into() }
    }

    fn decisions(term: u64, leader: &str) -> Decisions {
        let quorum = Quorum { voters: vec![voter("a"), voter("b")], w: 1 };
        Decisions {
            term,
            revision: term,
            stage: Stage::Steady,
            leader: Some(voter(leader)),
            election: quorum.clone(),
            commit: quorum,
            ..super::super::protocol::begin(Timestamp::UNIX_EPOCH)
        }
    }

    /// The invariants that a change from the first decisions to these breaks, in the next revision.
    fn step(after: Decisions) -> Vec<&'static str> {
        violations(&decisions(1, "a"), &Decisions { revision: 2, ..after })
    }

    #[test]
    fn what_a_step_breaks_is_told() {
        assert!(violations(&decisions(1, "a"), &decisions(2, "b")).is_empty());
        assert_eq!(step(decisions(1, "b")), ["a term got a second leader (I1)"]);
        let told = ["the term went back", "the revision went back"];
        assert_eq!(violations(&decisions(2, "a"), &decisions(1, "a")), told);
        let electing = Decisions { stage: Stage::Electing, ..decisions(1, "a") };
        assert_eq!(step(electing.clone()), ["an election began without a new term (I1)"]);
        let mut first = decisions(1, "a");
        first.leader = Some(Voter { incarnation: String::new(), ..voter("a") });
        assert_eq!(violations(&first, &decisions(1, "a")), ["other orders follow from the same revision"]);
        assert!(violations(&first, &Decisions { revision: 2, ..decisions(1, "a") }).is_empty());
        let mut smaller = decisions(1, "a");
        smaller.election.voters.pop();
        smaller.commit.voters.pop();
        assert_eq!(
            violations(&electing, &Decisions { stage: Stage::Electing, revision: 2, ..smaller.clone() }),
            ["the sets changed in an election (I2)"]
        );
        assert_eq!(step(smaller), ["a commit may have been acknowledged that no election would ask for (I4)"]);
        let mut strange = decisions(1, "a");
        strange.commit.voters.push(voter("c"));
        assert_eq!(step(strange), ["a commit could be acknowledged that no election would ask for (I4)"]);
    }
}
