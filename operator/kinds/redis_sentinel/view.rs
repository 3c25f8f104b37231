//! The input of the decisions: the decisions before, the members, and what is known of each. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::redis_sentinel::{RedisDecisions, RedisPlace, RedisSentinel};
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::links::{LinkSeen, SUSPECT_MS};
use crate::kinds::waits::{self, Waited};
use crate::supervisor::redis::wire::{Address, MasterSeen, Position, RedisSeen, Report, Role, SentinelSeen, Server};

/// A data member or a Sentinel, and everything that was observed of it.
pub struct Member<'a> {
    /// Its name, host and address.
    pub place: &'a RedisPlace,
    /// Its container; `None` if it is known not to exist.
    pub container: Option<&'a ContainerSeen>,
    /// The containers of its host are known.
    pub container_known: bool,
    /// A person says that its host is out of service.
    pub out_of_service: bool,
    /// The link to its supervisor.
    pub link: Option<&'a LinkSeen<Report>>,
    /// The offset that it last reported, and how many milliseconds ago, if it was heard.
    pub offset: Option<(u64, u64)>,
    /// The spec asks for fewer, or another one takes its place: this one is removed.
    pub leaving: bool,
}

impl<'a> Member<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.place.name
    }

    /// The address that it announces, once it has one.
    pub fn address(&self) -> Option<Address> {
        Some(Address { ip: self.place.address?, port: self.place.port })
    }

    /// Its supervisor's report, if the supervisor can be reached now.
    pub fn live(&self) -> Option<&'a Report> {
        let link = self.link.filter(|link| link.connected && link.silent_ms < SUSPECT_MS)?;
        let running = self.container.is_none_or(|container| container.state == ContainerState::Running);
        (running || !self.container_known).then_some(&link.report)
    }

    /// The data member that it is, if its supervisor can be reached.
    pub fn redis(&self) -> Option<&'a RedisSeen> {
        self.live()?.redis.as_ref()
    }

    /// The Sentinel that it is, if its supervisor can be reached and the Sentinel answers.
    pub fn sentinel(&self) -> Option<&'a SentinelSeen> {
        let report = self.live().filter(|report| report.server == Server::Running)?;
        report.sentinel.as_ref()
    }

    /// The data member, if its server answers.
    pub fn serving(&self) -> Option<&'a RedisSeen> {
        self.redis().filter(|_| self.live().is_some_and(|report| report.server == Server::Running))
    }

    /// The role of its server, if that answers.
    pub fn role(&self) -> Option<Role> {
        self.serving()?.role
    }

    /// Why its server certainly does not run, and cannot start without a new order. That is the fence: a supervisor starts
    /// a server only by an order that names the very run.
    pub fn dead(&self) -> Option<String> {
        if let Some(report) = self.live() {
            return (report.server == Server::Stopped).then(|| match &report.problem {
                Some(problem) => format!("its server ended: {problem}"),
                None => "its server ended".to_owned(),
            });
        }
        if !self.container_known {
            return self.out_of_service.then(|| format!("host {} is out of service", self.place.host));
        }
        match self.container.map(|container| container.state) {
            None => Some("its container is gone".into()),
            Some(ContainerState::Exited | ContainerState::Dead) => Some("its container died".into()),
            Some(ContainerState::Created) => Some("its container was never started".into()),
            Some(ContainerState::Running | ContainerState::Paused | ContainerState::Restarting) => None,
        }
    }
}

/// The whole input of a decision.
pub struct View<'a> {
    /// The object.
    pub object: &'a RedisSentinel,
    /// The decisions before this reconcile.
    pub before: &'a RedisDecisions,
    /// The data members, by ordinal.
    pub members: Vec<Member<'a>>,
    /// The Sentinels, by ordinal.
    pub sentinels: Vec<Member<'a>>,
    /// How long this operator has known of the recorded moments.
    pub waited: &'a Waited,
    /// Now.
    pub now: Timestamp,
}

impl<'a> View<'a> {
    /// Whether this operator has known for that time that something is so since then.
    pub fn past(&self, since: Timestamp, time: Duration) -> bool {
        waits::waited(self.waited, since) >= time
    }

    /// The data member of this name.
    pub fn member(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.place.name == name)
    }

    /// The data member with this address.
    pub fn at(&self, address: Address) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.address() == Some(address))
    }

    /// Whether this data member has the master's data and follows it.
    pub fn follows(&self, name: &str) -> bool {
        let link = self.member(name).and_then(Member::serving).and_then(|seen| seen.link.as_ref());
        link.is_some_and(|link| link.up && Some(link.master) == self.master().and_then(Member::address))
    }

    /// The recorded master.
    pub fn master(&self) -> Option<&Member<'a>> {
        self.member(self.before.master.as_deref()?)
    }

    /// The number of Sentinels of which more than half is a majority.
    pub fn voters(&self) -> usize {
        self.sentinels.len()
    }

    /// What Sentinels that answer know of the master.
    pub fn watching(&self) -> impl Iterator<Item = (&Member<'a>, &'a SentinelSeen, &'a MasterSeen)> {
        self.sentinels.iter().filter_map(|member| {
            let seen = member.sentinel()?;
            Some((member, seen, seen.master.as_ref()?))
        })
    }

    /// The newest master of the Sentinels: that of the highest config epoch, and how many of them name it in that epoch.
    pub fn named(&self) -> Option<(Address, u64, usize)> {
        let mut votes: BTreeMap<(u64, Address), usize> = BTreeMap::new();
        for (_, _, master) in self.watching() {
            *votes.entry((master.config_epoch, master.address)).or_default() += 1;
        }
        let ((epoch, address), count) = votes.into_iter().next_back()?;
        Some((address, epoch, count))
    }

    /// Whether so many Sentinels take the master for down as they need for a failover, and can promote another.
    pub fn threatened(&self) -> bool {
        let Some(from) = self.master().and_then(Member::address) else { return false };
        let down = self.watching().filter(|(_, seen, one)| {
            // One that leads a failover names the promoted member already, with the flags of the old master.
            let promoted = seen.replicas.iter().any(|replica| replica.address == from);
            let able = seen.replicas.iter().any(|replica| !replica.down && replica.priority > 0);
            one.address == from && one.down && !promoted && able && !seen.tilt && seen.no_quorum.is_none()
        });
        let quorums: Vec<u32> = down.map(|(_, _, one)| one.quorum).collect();
        quorums.iter().max().is_some_and(|quorum| quorums.len() >= *quorum as usize)
    }

    /// Whether this many Sentinels are a majority.
    pub fn is_majority(&self, count: usize) -> bool {
        count > self.voters() / 2
    }
}

/// The position of a member's data: as its server says, or as last known of one that is down, or that has not received what
/// belongs to its order yet.
pub fn position(seen: &RedisSeen, server: Server) -> Position {
    let synced = seen.role == Some(Role::Master) || seen.link.as_ref().is_some_and(|link| link.synced);
    match &seen.last {
        Some(last) if server != Server::Running || !synced => last.clone(),
        _ => Position {
            epoch: seen.order.as_ref().map_or(0, |order| order.epoch),
            offset: seen.offset,
            replid: seen.replid.clone().unwrap_or_default(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::redis::wire::{Config, Link, Order, Sentinels, Task};

    /// Regression 423: a replica that was started from an old disk counted as having data of the epoch of its order, before
    /// it had received any. So it won against a member that is down and has newer data.
    #[test]
    fn data_that_is_older_than_the_order_counts_with_the_epoch_that_it_is_of() {
        let last = Position { epoch: 3, offset: 900, replid: "old".into() };
        let address = Address { ip: [10, 0, 0, 11].into(), port: 6379 };
        let order = Order {
            epoch: 5,
            revision: 1,
            run: "r".into(),
            task: Task::Wait,
            config: Config::default(),
            sentinels: Sentinels::default(),
        };
        let link = |synced| Some(Link { master: address, up: synced, syncing: false, down_s: 0, synced });
        let replica = |synced| RedisSeen {
            order: Some(order.clone()),
            role: Some(Role::Replica),
            last: Some(last.clone()),
            link: link(synced),
            offset: 7,
            ..RedisSeen::default()
        };
        assert_eq!(position(&replica(false), Server::Running), last);
        assert_eq!(position(&replica(true), Server::Running).epoch, 5);
        assert_eq!(position(&replica(true), Server::Stopped), last);
    }
}
