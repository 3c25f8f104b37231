//! The members of etcd as a cluster: who they are and how they do; adding, promoting and removing one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{DeleteOptions, GetOptions, Member, MemberAddOptions, StatusResponse};
use futures::future::join_all;
use tokio::time::timeout;

use super::failures::{Failure, Kind};
use super::layout::Layout;
use super::members::{self, Members, Repeat, Services};
use super::{EtcdConfig, EtcdStore, EtcdTls, versions};
use crate::api::cluster::{MemberStatus, Role};
use crate::store::Error;

/// Limit of one member's answer about itself.
const STATUS: Duration = Duration::from_millis(1200);

/// The members of an etcd. Cheap to clone.
#[derive(Clone)]
pub struct EtcdCluster {
    members: Arc<Members>,
}

/// A member that was asked how it does.
pub(super) struct Reached {
    /// What it says of itself.
    pub(super) member: MemberStatus,
    /// The address where it has answered, if it has.
    pub(super) url: Option<String>,
}

/// Why a member was not added, promoted or removed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another one is added right now; one at a time.
    #[error(
        "another node ({learner}) is joining; wait until it has joined, or remove it with `evenkeel cluster remove {learner}`"
    )]
    Busy {
        /// The address of that one.
        learner: String,
    },
    /// etcd changes its members only when it has heard of all others for some seconds.
    #[error(
        "etcd adds and removes no member while another one is down or has joined just now; see `evenkeel cluster status`, and try \
         again in some seconds"
    )]
    Unsettled,
    /// A member has run at this address before.
    #[error(
        "the node {name} has a member of etcd at {peer} already; remove that node first: evenkeel cluster remove {name}"
    )]
    Taken {
        /// Its name.
        name: String,
        /// Its address.
        peer: String,
    },
    /// etcd does not do that.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// etcd does not answer, or has no quorum.
    #[error(transparent)]
    Store(#[from] Error),
}

impl EtcdStore {
    /// The members of this store's etcd.
    pub fn cluster(&self) -> EtcdCluster {
        EtcdCluster { members: self.shared.members.clone() }
    }
}

impl EtcdCluster {
    /// The members at these addresses; connects when the first request is made.
    pub async fn connect(config: &EtcdConfig) -> Result<Self, Error> {
        Ok(Self { members: Members::new(&config.endpoints, config.tls.clone()).await? })
    }

    /// From now on the members are asked at these addresses, with these files.
    pub async fn renew(&self, endpoints: &[String], tls: Option<EtcdTls>) -> Result<(), Error> {
        self.members.renew(endpoints, tls).await
    }

    /// The addresses that are asked.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.endpoints()
    }

    /// The addresses where a member answers, with or without a majority.
    pub async fn answering(&self) -> Vec<String> {
        let (endpoints, tls) = (self.endpoints(), self.members.tls());
        let asked = endpoints.into_iter().map(|url| {
            let tls = tls.clone();
            async move {
                let mut services = members::services_of(&url, tls.as_ref()).await.ok()?;
                timeout(STATUS, services.maintenance.status()).await.ok()?.ok().map(|_| url)
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// The members as one of them knows them, by name.
    pub async fn list(&self) -> Result<Vec<MemberStatus>, Error> {
        let request = |mut services: Services| async move { services.cluster.member_list().await };
        match self.members.call(Repeat::Harmless, request).await {
            Ok(answer) => {
                let mut list: Vec<_> = answer.members().iter().map(unasked).collect();
                list.sort_by(|one, other| (&one.name, &one.peer).cmp(&(&other.name, &other.peer)));
                Ok(list)
            }
            Err(failure) => Err(self.members.explained("asking for the members of etcd", failure).await),
        }
    }

    /// The members as a majority of them knows them.
    pub async fn agreed(&self) -> Result<Vec<MemberStatus>, Error> {
        let request = |mut services: Services| async move {
            // A member that answers this has heard of every change of the members before.
            services.kv.get("/", Some(GetOptions::new().with_keys_only())).await?;
            services.cluster.member_list().await
        };
        match self.members.call(Repeat::Harmless, request).await {
            Ok(answer) => Ok(answer.members().iter().map(unasked).collect()),
            Err(failure) => Err(self.members.explained("asking for the members of etcd", failure).await),
        }
    }

    /// The members, each asked how it does.
    pub async fn survey(&self) -> Result<Vec<MemberStatus>, Error> {
        Ok(self.reached().await?.into_iter().map(|one| one.member).collect())
    }

    /// The same, with the address where each has answered: one that is configured here, or the one that etcd knows.
    pub(super) async fn reached(&self) -> Result<Vec<Reached>, Error> {
        let (list, tls) = (self.list().await?, self.members.tls());
        let mut urls = self.endpoints();
        urls.extend(list.iter().filter_map(|member| member.client.clone()));
        let mut known = BTreeSet::new();
        urls.retain(|url| known.insert(url.clone()));
        let asked = urls.into_iter().map(|url| {
            let tls = tls.clone();
            async move {
                let mut services = members::services_of(&url, tls.as_ref()).await.ok()?;
                Some((url, timeout(STATUS, services.maintenance.status()).await.ok()?.ok()?))
            }
        });
        let asked: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        let newest = asked.iter().map(|(_, status)| status.raft_index()).max().unwrap_or_default();
        let with = |mut member: MemberStatus| {
            let id = |status: &StatusResponse| status.header().map_or(0, |header| header.member_id());
            let Some((url, status)) = asked.iter().find(|(_, status)| hex(id(status)) == member.id) else {
                return Reached { member, url: None };
            };
            member.version = Some(status.version().to_owned());
            member.db_size = Some(status.db_size());
            member.lag = Some(newest.saturating_sub(status.raft_applied_index()));
            member.role = match (status.leader(), member.role) {
                (_, role @ (Role::Learner | Role::Joining)) => role,
                (0, _) => Role::Down,
                (leader, _) if leader == id(status) => Role::Leader,
                _ => Role::Follower,
            };
            Reached { member, url: Some(url.clone()) }
        };
        Ok(list.into_iter().map(with).collect())
    }

    /// Lets the leader of etcd, which answers at this address, give its place to the member with this ID.
    pub(super) async fn move_leader(&self, url: &str, to: &str) -> Result<(), Failure> {
        let mut services = members::services_of(url, self.members.tls().as_ref()).await?;
        match timeout(STATUS, services.maintenance.move_leader(number(to))).await {
            Ok(moved) => Ok(moved.map(|_| ())?),
            Err(_) => Err(Failure::silence()),
        }
    }

    /// Adds the member at this address as a learner, or finds it if it was added and has never run. Returns its ID and all
    /// members.
    pub async fn admit(&self, peer: &str) -> Result<(String, Vec<MemberStatus>), ChangeError> {
        let list = self.agreed().await?;
        if let Some(known) = list.iter().find(|member| member.peer == peer) {
            if known.role == Role::Joining {
                return Ok((known.id.clone(), list.clone()));
            }
            return Err(ChangeError::Taken { name: known.name.clone(), peer: peer.to_owned() });
        }
        if let Some(learner) = list.iter().find(|member| !member.voter) {
            return Err(ChangeError::Busy { learner: crate::api::cluster::named(learner) });
        }
        let request = |mut services: Services| {
            let options = MemberAddOptions::new().with_is_learner();
            async move { services.cluster.member_add([peer.to_owned()], Some(options)).await }
        };
        let added = match self.members.call(Repeat::IfUnsent, request).await {
            Ok(added) => added,
            Err(failure) if failure.says("too many learner") => {
                return Err(ChangeError::Busy { learner: "another one".to_owned() });
            }
            Err(failure) if failure.says("unhealthy cluster") => return Err(ChangeError::Unsettled),
            Err(failure) => return Err(self.failed("adding a member to etcd", failure).await),
        };
        let id = added.member().map_or(0, Member::id);
        Ok((hex(id), added.member_list().iter().map(unasked).collect()))
    }

    /// From now on the other members reach this one at this address.
    pub async fn set_peer(&self, id: &str, peer: &str) -> Result<(), ChangeError> {
        let id = number(id);
        let request =
            |mut services: Services| async move { services.cluster.member_update(id, [peer.to_owned()]).await };
        match self.members.call(Repeat::Harmless, request).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.failed("changing the address of a member of etcd", failure).await),
        }
    }

    /// Makes a learner a member that votes. `false`: it has not caught up yet.
    pub async fn promote(&self, id: &str) -> Result<bool, ChangeError> {
        let id = number(id);
        let request = |mut services: Services| async move { services.cluster.member_promote(id).await };
        match self.members.call(Repeat::IfUnsent, request).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.says("in sync with leader") => Ok(false),
            Err(failure) if failure.says("can only promote a learner") => Ok(true),
            Err(failure) => Err(self.failed("promoting a member of etcd", failure).await),
        }
    }

    /// Removes a member. Success if it is gone.
    pub async fn remove(&self, id: &str) -> Result<(), ChangeError> {
        let id = number(id);
        let request = |mut services: Services| async move { services.cluster.member_remove(id).await };
        match self.members.call(Repeat::IfUnsent, request).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.says("member not found") => Ok(()),
            Err(failure) if failure.says("unhealthy cluster") => Err(ChangeError::Unsettled),
            Err(failure) => Err(self.failed("removing a member of etcd", failure).await),
        }
    }

    /// Forgets which operators ran, below this prefix of keys: all of them have ended.
    pub async fn forget_nodes(&self, prefix: &str) -> Result<(), Error> {
        let span = Layout::new(prefix).nodes();
        let request = |mut services: Services| {
            let (start, options) = (span.start.clone(), DeleteOptions::new().with_range(span.end.clone()));
            async move { services.kv.delete(start, Some(options)).await }
        };
        match self.members.call(Repeat::Harmless, request).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.members.explained("forgetting the other operators", failure).await),
        }
    }

    async fn failed(&self, doing: &'static str, failure: Failure) -> ChangeError {
        if failure.kind == Kind::Refused {
            return ChangeError::Refused(failure.cause.to_string());
        }
        ChangeError::Store(self.members.explained(doing, failure).await)
    }
}

/// Why this version of etcd must not be used, if it must not: what `etcd --version` prints, or the version alone.
pub fn version_problem(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.trim().strip_prefix("etcd Version:"))?;
    match versions::judge(line) {
        versions::Verdict::Refused(why) => Some(format!("it has etcd {}: {why}", line.trim())),
        versions::Verdict::Good | versions::Verdict::Doubtful(_) => None,
    }
}

/// A member that was not asked how it does.
fn unasked(member: &Member) -> MemberStatus {
    let role = match (member.name().is_empty(), member.is_learner()) {
        (true, _) => Role::Joining,
        (false, true) => Role::Learner,
        (false, false) => Role::Down,
    };
    MemberStatus {
        id: hex(member.id()),
        name: member.name().to_owned(),
        peer: member.peer_urls().first().cloned().unwrap_or_default(),
        client: member.client_urls().first().cloned(),
        role,
        voter: !member.is_learner(),
        version: None,
        db_size: None,
        lag: None,
    }
}

fn hex(id: u64) -> String {
    format!("{id:x}")
}

fn number(id: &str) -> u64 {
    u64::from_str_radix(id, 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_loses_writes_is_told_before_it_runs() {
        let said = |version: &str| version_problem(&format!("etcd Version: {version}\nGit SHA: x\nGo Version: y\n"));
        assert_eq!((said("3.4.23"), said("3.5.21")), (None, None));
        assert!(said("3.5.3").is_some_and(|why| why.starts_with("it has etcd 3.5.3: etcd 3.5.0 to 3.5.4 can lose")));
        assert_eq!(version_problem("rubbish"), None);
    }
}
