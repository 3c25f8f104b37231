//! Keeps the leader of etcd off the machine of the operator that leads. The loss of a machine with both costs two elections, one
//! after the other: etcd's, and then ours, since a new leader of etcd begins every lease anew.

use std::time::Duration;

use super::cluster::{EtcdCluster, Reached};
use crate::api::cluster::{Role, host};

/// Interval between two looks, and before the first.
const LOOK: Duration = Duration::from_secs(10);
/// How many entries of etcd's log a member may be behind that is to lead.
const BEHIND: u64 = 100;

/// Looks again and again while this operator leads. `address`: that of its API, with the port.
pub(super) async fn keep(cluster: &EtcdCluster, address: &str) {
    regularly(|| look(cluster, address)).await;
}

/// Not at once: an operator that has just begun to lead may have a failover to do, and while etcd changes its leader nothing can
/// be read.
async fn regularly<F: Future<Output = ()>>(look: impl Fn() -> F) {
    loop {
        tokio::time::sleep(LOOK).await;
        look().await;
    }
}

async fn look(cluster: &EtcdCluster, address: &str) {
    // Without a majority nothing can be moved.
    let seen = cluster.reached().await.unwrap_or_default();
    let Some((from, to)) = unwanted(&seen, address) else { return };
    match cluster.move_leader(from, to).await {
        Ok(()) => {
            tracing::info!("another member leads etcd now, on a machine where this operator does not run")
        }
        Err(failure) => tracing::debug!(error = %failure.cause, "the leader of etcd stays where it is"),
    }
}

/// The address of the member that leads etcd, if it is on this operator's machine, and the ID of another one that can lead. Pure.
fn unwanted<'a>(seen: &'a [Reached], address: &str) -> Option<(&'a str, &'a str)> {
    let own = format!("https://{address}");
    let own = host(&own)?;
    let at = |one: &Reached| one.url.as_deref().and_then(host).map(|host| host == own);
    let leader = seen.iter().find(|one| one.member.role == Role::Leader && at(one) == Some(true))?;
    let able = |one: &&Reached| {
        let keeps_up = one.member.lag.is_some_and(|lag| lag < BEHIND);
        one.member.role == Role::Follower && at(one) == Some(false) && keeps_up
    };
    Some((leader.url.as_deref()?, &seen.iter().find(able)?.member.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::cluster::MemberStatus;

    fn member(at: usize, role: Role) -> Reached {
        let (id, name, peer) = (at.to_string(), at.to_string(), String::new());
        let (client, version, db_size) = (None, None, None);
        let member = MemberStatus { id, name, peer, client, role, voter: true, version, db_size, lag: Some(0) };
        Reached { member, url: Some(format!("https://10.0.0.{at}:2379")) }
    }

    #[test]
    fn etcd_is_led_by_another_machine_than_the_operator_that_leads() {
        let seen = [member(1, Role::Leader), member(2, Role::Follower), member(3, Role::Follower)];
        assert_eq!(unwanted(&seen, "10.0.0.1:7443"), Some(("https://10.0.0.1:2379", "2")));
        assert_eq!(unwanted(&seen, "10.0.0.2:7443"), None, "it is elsewhere");
        assert_eq!(unwanted(&seen, "10.0.0.10:7443"), None, "no member is on this machine");
    }

    #[test]
    fn only_a_member_that_votes_and_keeps_up_is_to_lead() {
        let (leader, other) = (
            || member(1, Role::Leader),
            |change: &dyn Fn(&mut Reached)| {
                let mut other = member(2, Role::Follower);
                change(&mut other);
                other
            },
        );
        for unfit in [
            other(&|one| one.member.role = Role::Learner),
            other(&|one| one.member.role = Role::Down),
            other(&|one| one.member.lag = Some(100)),
            other(&|one| one.member.lag = None),
            other(&|one| one.url = Some("https://10.0.0.1:3379".into())),
        ] {
            let seen = [leader(), unfit];
            assert_eq!(unwanted(&seen, "10.0.0.1:7443"), None, "{:?} {:?}", seen[1].member, seen[1].url);
        }
        assert!(unwanted(&[leader(), other(&|_| ())], "10.0.0.1:7443").is_some());
        assert_eq!(unwanted(&[leader()], "10.0.0.1:7443"), None, "it is the only one");
    }

    /// Regression 313: an address without a host was the same machine as another one without a host, and etcd was led back and forth.
    /// What cannot be read is no machine.
    #[test]
    fn an_address_that_cannot_be_read_is_on_no_machine() {
        let mut seen = [member(1, Role::Leader), member(2, Role::Follower)];
        seen[0].url = Some("rubbish".into());
        assert_eq!(unwanted(&seen, "rubbish"), None);
        seen[0].url = None;
        assert_eq!(unwanted(&seen, ""), None);
    }

    /// Regression 327: a new leader moved the leader of etcd 0.3 s after it had begun to lead, in the middle of the failover that it
    /// had to do. The first reads took 0.8 s then, and writes stood still for 7.6 and 9.2 s, where the medians were 6.3 and 5.3 s.
    #[tokio::test(start_paused = true)]
    async fn a_new_leader_leaves_etcd_alone_until_it_has_led_for_a_while() {
        let looks = std::cell::Cell::new(0);
        let looking = regularly(|| async { looks.set(looks.get() + 1) });
        assert!(tokio::time::timeout(LOOK * 5 / 2, looking).await.is_err());
        assert_eq!(looks.get(), 2);
        assert!(
            tokio::time::timeout(LOOK / 2, regularly(|| async { panic!("it has just begun to lead") })).await.is_err()
        );
    }
}
