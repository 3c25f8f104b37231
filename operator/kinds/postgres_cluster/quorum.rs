//! The commit and election sets: their arithmetic, and the only safe way to change them. Pure.
//!
//! Invariant **I4**: every commit set A (w voters of G) meets every election set B (re voters of E). It holds because
//! every G that may be in force is a subset of E with no smaller w, and re = |E| - w + 1. So E grows before G, and
//! shrinks after the barrier of the new G; w falls in E before it falls in G, and rises in E after it rose in G (and G
//! passed its barrier).

use crate::api::postgres_cluster::{Quorum, Voter};
use crate::supervisor::wire::Rule;

/// Promises that an election must collect from E.
pub fn promises_needed(election: &Quorum) -> usize {
    match election.w {
        0 => 1,
        w => (election.voters.len() + 1).saturating_sub(w as usize).max(1),
    }
}

/// Voters of E that must confirm a serving primary, so that no other member can have won an election: |E| - re + 1.
pub fn confirmations_needed(election: &Quorum) -> usize {
    (election.voters.len() + 1).saturating_sub(promises_needed(election))
}

/// The commit rule of a quorum on the leader; with w = 0 it names no voter.
pub fn commit_rule(commit: &Quorum) -> Rule {
    if commit.w == 0 { Rule::default() } else { Rule { names: names(commit), count: commit.w } }
}

/// The voters of E that confirm the leader, and how many of them must do so.
pub fn confirm_rule(election: &Quorum) -> Rule {
    Rule { names: names(election), count: confirmations_needed(election) as u32 }
}

fn names(quorum: &Quorum) -> Vec<String> {
    let mut names: Vec<_> = quorum.voters.iter().map(|voter| voter.incarnation.clone()).collect();
    names.sort();
    names
}

/// The recorded sets, and whether the leader has G in force with its barrier passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sets {
    /// E: the voters that an election asks.
    pub election: Quorum,
    /// G: the rule that was last sent to the leader.
    pub commit: Quorum,
}

/// The next recorded sets on the way to `voters` with `w`; unchanged once they are reached or while they wait for
/// `confirmed` (the leader has exactly `sets.commit` in force, and w of it have flushed everything before it).
pub fn reconfigure(sets: &Sets, voters: &[Voter], w: u32, confirmed: bool) -> Sets {
    let mut next = sets.clone();
    if confirmed {
        // Nothing older than G can be in force any more: E may become G, with G's w.
        next.election = sets.commit.clone();
        if w == 0 && sets.commit.w == 0 {
            // With w = 0 G is empty; E is every voter that can be asked.
            next.election.voters.clear();
        }
    }
    for voter in voters {
        if !next.election.voters.contains(voter) {
            next.election.voters.push(voter.clone());
        }
    }
    next.election.voters.sort();
    next.election.w = next.election.w.min(w);
    let mut names: Vec<Voter> = if w == 0 { Vec::new() } else { voters.to_vec() };
    names.sort();
    next.commit = Quorum { voters: names, w };
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn voter(n: u8) -> Voter {
        Voter { member: format!("db-{n}"), incarnation: format!("i{n}") }
    }

    fn quorum(names: &[u8], w: u32) -> Quorum {
        Quorum { voters: names.iter().map(|n| voter(*n)).collect(), w }
    }

    fn check(sets: (&[u8], u32, &[u8], u32), to: (&[u8], u32), confirmed: bool) -> String {
        let sets = Sets { election: quorum(sets.0, sets.1), commit: quorum(sets.2, sets.3) };
        let voters: Vec<_> = to.0.iter().map(|n| voter(*n)).collect();
        let next = reconfigure(&sets, &voters, to.1, confirmed);
        let show = |q: &Quorum| {
            let names: Vec<_> = q.voters.iter().map(|v| v.member.trim_start_matches("db-")).collect();
            format!("{}/{}", names.join(","), q.w)
        };
        format!("E {} G {}", show(&next.election), show(&next.commit))
    }

    #[test]
    fn a_voter_enters_the_election_with_or_before_the_commit_rule() {
        assert_eq!(check((&[2], 1, &[2], 1), (&[2, 3], 1), false), "E 2,3/1 G 2,3/1");
    }

    #[test]
    fn a_voter_leaves_the_commit_rule_first_and_the_election_after_the_barrier() {
        assert_eq!(check((&[2, 3], 1, &[2, 3], 1), (&[2], 1), true), "E 2,3/1 G 2/1");
        assert_eq!(check((&[2, 3], 1, &[2], 1), (&[2], 1), false), "E 2,3/1 G 2/1");
        assert_eq!(check((&[2, 3], 1, &[2], 1), (&[2], 1), true), "E 2/1 G 2/1");
    }

    #[test]
    fn w_falls_in_the_election_at_once_and_rises_after_the_barrier() {
        assert_eq!(check((&[2], 1, &[2], 1), (&[], 0), true), "E 2/0 G /0");
        assert_eq!(check((&[2], 0, &[], 0), (&[2], 1), true), "E 2/0 G 2/1");
        assert_eq!(check((&[2], 0, &[2], 1), (&[2], 1), true), "E 2/1 G 2/1");
    }

    #[test]
    fn three_instances_need_both_standbys_to_elect_and_one_to_confirm() {
        let election = quorum(&[2, 3], 1);
        assert_eq!((promises_needed(&election), confirmations_needed(&election)), (2, 1));
        let alone = quorum(&[], 1);
        assert_eq!((promises_needed(&alone), confirmations_needed(&alone)), (1, 0));
        let lossy = quorum(&[2, 3], 0);
        assert_eq!((promises_needed(&lossy), confirmations_needed(&lossy)), (1, 2));
    }

    /// Whether every commit set of every G that may be in force meets every election set of E.
    fn overlaps(election: &Quorum, in_force: &[Quorum]) -> bool {
        let re = promises_needed(election) as u32;
        let electing: Vec<_> = subsets(&election.voters).into_iter().filter(|b| b.len() as u32 == re).collect();
        in_force.iter().filter(|g| g.w > 0).all(|g| {
            let committing = subsets(&g.voters).into_iter().filter(|a| a.len() as u32 == g.w);
            committing.into_iter().all(|a| election.w == 0 || electing.iter().all(|b| a.iter().any(|v| b.contains(v))))
        })
    }

    fn subsets(voters: &[Voter]) -> Vec<Vec<Voter>> {
        (0..1_u32 << voters.len())
            .map(|bits| voters.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, v)| v.clone()).collect())
            .collect()
    }

    proptest! {
        /// I4 after every interruption: the desired sets change at any time, the leader confirms at any time.
        #[test]
        fn i4_commit_and_election_sets_always_overlap(wishes in proptest::collection::vec((0_u8..16, 0_u32..3, any::<bool>()), 1..12)) {
            let mut sets = Sets { election: quorum(&[], 0), commit: quorum(&[], 0) };
            let mut in_force = vec![sets.commit.clone()];
            for (bits, w, confirms) in wishes {
                let voters: Vec<_> = (0..4).filter(|n| bits >> n & 1 == 1).map(voter).collect();
                if confirms {
                    in_force = vec![sets.commit.clone()];
                }
                sets = reconfigure(&sets, &voters, w, confirms);
                in_force.push(sets.commit.clone());
                prop_assert!(overlaps(&sets.election, &in_force), "{sets:?} {in_force:?}");
                for g in &in_force {
                    prop_assert!(g.w >= sets.election.w, "w of a commit rule below the election's: {sets:?} {in_force:?}");
                }
            }
        }

        /// With a leader that confirms, any sets reach the desired ones within three steps and then stay.
        #[test]
        fn it_settles(from in 0_u8..16, to in 0_u8..16, w in 0_u32..3) {
            let pick = |bits: u8| (0..4).filter(|n| bits >> n & 1 == 1).map(voter).collect::<Vec<_>>();
            let mut sets = Sets { election: Quorum { voters: pick(from), w: 1 }, commit: Quorum { voters: pick(from), w: 1 } };
            for _ in 0..3 {
                sets = reconfigure(&sets, &pick(to), w, true);
            }
            prop_assert_eq!(&reconfigure(&sets, &pick(to), w, true), &sets);
            prop_assert_eq!(sets.election, Quorum { voters: pick(to), w });
        }
    }
}
