//! Keeps the leader of etcd off the machine of the operator that leads. The loss of a machine with both costs two elections, one
//! after the other: etcd's, and then ours, since a new leader of etcd begins every lease anew.

use std::time::Duration;

use super::members::{MemberSeen, Members};

/// Interval between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// How many entries of etcd's log a member may be behind that is to lead.
const BEHIND: u64 = 100;

/// Looks again and again while this operator leads. `address`: that of its API, with the port.
pub(super) async fn keep(members: &Members, address: &str) {
    loop {
        let seen = members.seen().await;
        if let Some((from, to)) = unwanted(&seen, address) {
            match members.move_leader(from, to).await {
                Ok(()) => {
                    tracing::info!("another member leads etcd now, on a machine where this operator does not run")
                }
                Err(failure) => tracing::debug!(error = %failure.cause, "the leader of etcd stays where it is"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The place of the member that leads etcd, if it is on this operator's machine, and the id of another one that can lead. Pure.
fn unwanted(seen: &[MemberSeen], address: &str) -> Option<(usize, u64)> {
    let own = host(address);
    let leader = seen.iter().find(|one| one.id == one.leader && host(&one.url) == own)?;
    let able = |one: &&MemberSeen| {
        one.leader == leader.id && !one.learner && host(&one.url) != own && leader.index < one.index + BEHIND
    };
    Some((leader.at, seen.iter().find(able)?.id))
}

/// The host in an address like `https://HOST:PORT` or `HOST:PORT`.
fn host(address: &str) -> &str {
    let address = address.split_once("://").map_or(address, |(_, rest)| rest);
    let address = address.split_once('/').map_or(address, |(address, _)| address);
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(at: usize, leader: u64) -> MemberSeen {
        let url = format!("https://10.0.0.{}:2379", at + 1);
        MemberSeen { at, url, id: at as u64 + 1, leader, learner: false, index: 1000 }
    }

    #[test]
    fn etcd_is_led_by_another_machine_than_the_operator_that_leads() {
        let seen = [member(0, 1), member(1, 1), member(2, 1)];
        assert_eq!(unwanted(&seen, "10.0.0.1:7443"), Some((0, 2)));
        assert_eq!(unwanted(&seen, "10.0.0.2:7443"), None, "it is elsewhere");
        assert_eq!(unwanted(&seen, "10.0.0.10:7443"), None, "no member is on this machine");
    }

    #[test]
    fn only_a_member_that_votes_and_keeps_up_is_to_lead() {
        let (leader, other) = (member(0, 1), |change: &dyn Fn(&mut MemberSeen)| {
            let mut other = member(1, 1);
            change(&mut other);
            other
        });
        for unfit in [
            other(&|one| one.learner = true),
            other(&|one| one.index = 900),
            other(&|one| one.leader = 0),
            other(&|one| one.url = "https://10.0.0.1:3379".into()),
        ] {
            assert_eq!(unwanted(&[leader.clone(), unfit.clone()], "10.0.0.1:7443"), None, "{unfit:?}");
        }
        assert_eq!(unwanted(&[leader.clone(), other(&|_| ())], "10.0.0.1:7443"), Some((0, 2)));
        assert_eq!(unwanted(&[leader], "10.0.0.1:7443"), None, "it is the only one");
    }
}
