//! What must hold of every step from one set of decisions to the next, whatever led to it. Pure.
//! A planner that would break one of these does nothing and says so: it is a fault of this program.

use crate::api::postgres_cluster::{Decisions, Quorum, Stage};

/// What the step from `before` to `after` breaks; empty if it may be recorded.
pub fn violations(before: &Decisions, after: &Decisions) -> Vec<&'static str> {
    let led = |decisions: &Decisions| matches!(decisions.stage, Stage::Establishing | Stage::Steady);
    let rules = [
        (after.term < before.term, "the term went back"),
        (after.revision < before.revision, "the revision went back"),
        // I1: at most one leader a term.
        (
            after.term == before.term && led(before) && led(after) && !same_leader(before, after),
            "a term got a second leader (I1)",
        ),
        (
            after.term == before.term && led(before) && after.stage == Stage::Electing,
            "an election began without a new term (I1)",
        ),
        (after.stage == Stage::Steady && after.leader.is_none(), "a settled cluster has no leader"),
        (after.next.is_some() && after.stage != Stage::Establishing, "voters are being changed by nobody's grant"),
        // I4: every commit set meets every election set, for the one is a part of the other with no smaller w.
        (!within(&after.commit, &after.election), "a commit could be acknowledged that no election would ask for (I4)"),
        // The old commit rule is in force until the leader has passed the barrier of the new one.
        (
            after.term == before.term
                && (before.stage, after.stage) == (Stage::Steady, Stage::Steady)
                && !within(&before.commit, &after.election),
            "a commit may have been acknowledged that no election would ask for (I4)",
        ),
    ];
    rules.into_iter().filter_map(|(broken, words)| broken.then_some(words)).collect()
}

/// The first leader of a cluster gets its incarnation when it has made its data directory.
fn same_leader(before: &Decisions, after: &Decisions) -> bool {
    match (&before.leader, &after.leader) {
        (Some(before), Some(after)) => {
            before.member == after.member && (before.incarnation.is_empty() || before.incarnation == after.incarnation)
        }
        (before, after) => before == after,
    }
}

/// Every commit under this rule is seen by every election over these voters.
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
            stage: Stage::Steady,
            leader: Some(voter(leader)),
            election: quorum.clone(),
            commit: quorum,
            ..super::super::protocol::begin(Timestamp::UNIX_EPOCH)
        }
    }

    #[test]
    fn what_a_step_breaks_is_told() {
        assert!(violations(&decisions(1, "a"), &decisions(2, "b")).is_empty());
        assert_eq!(violations(&decisions(1, "a"), &decisions(1, "b")), ["a term got a second leader (I1)"]);
        assert_eq!(violations(&decisions(2, "a"), &decisions(1, "a")), ["the term went back"]);
        let electing = Decisions { stage: Stage::Electing, ..decisions(1, "a") };
        assert_eq!(violations(&decisions(1, "a"), &electing), ["an election began without a new term (I1)"]);
        let mut first = decisions(1, "a");
        first.leader = Some(Voter { incarnation: String::new(), ..voter("a") });
        assert!(violations(&first, &decisions(1, "a")).is_empty());
        let mut smaller = decisions(1, "a");
        smaller.election.voters.pop();
        smaller.commit.voters.pop();
        let told = ["a commit may have been acknowledged that no election would ask for (I4)"];
        assert_eq!(violations(&decisions(1, "a"), &smaller), told);
        let mut strange = decisions(1, "a");
        strange.commit.voters.push(voter("c"));
        let told = ["a commit could be acknowledged that no election would ask for (I4)"];
        assert_eq!(violations(&decisions(1, "a"), &strange), told);
    }
}
