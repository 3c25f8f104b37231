//! The input of the decisions: the members, what each says, and who owns which slots. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::api::redis_cluster::{ClusterDecisions, ClusterNode, RedisCluster};
use crate::api::redis_status::RedisPlace;
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::links::LinkSeen;
use crate::kinds::waits::Waited;
use crate::supervisor::redis::cluster::wire::{Address, Known, Node, Report, SLOTS};
use crate::supervisor::redis::wire::Server;

/// A member, and everything that was observed of it.
pub struct Member<'a> {
    /// Its name, host and address.
    pub place: &'a RedisPlace,
    /// Its container; `None` if it is known not to exist.
    pub container: Option<&'a ContainerSeen>,
    /// The containers of its host are known.
    pub container_known: bool,
    /// A person says that its host is out of service.
    pub out_of_service: bool,
    /// Its host is drained or restarted soon.
    pub host_closes: bool,
    /// The link to its supervisor.
    pub link: Option<&'a LinkSeen<Report>>,
    /// What was last known of its node.
    pub record: Option<&'a ClusterNode>,
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
        let link = self.link.filter(|link| link.live())?;
        let running = self.container.is_none_or(|container| container.state == ContainerState::Running);
        (running || !self.container_known).then_some(&link.report)
    }

    /// Its report, if its server answers.
    pub fn serving(&self) -> Option<&'a Report> {
        self.live().filter(|report| report.server == Server::Running && report.node.is_some())
    }

    /// Its node, as it runs or as its file has it.
    pub fn node(&self) -> Option<&'a Node> {
        self.live()?.node.as_ref()
    }

    /// Its node, if its server answers.
    pub fn running(&self) -> Option<&'a Node> {
        self.serving()?.node.as_ref()
    }

    /// The id of its node: the present one, or the last one known of a member that cannot be asked.
    pub fn id(&self) -> Option<&'a str> {
        match self.live() {
            Some(report) => report.node.as_ref().map(|node| node.own.id.as_str()),
            None => self.record.map(|record| record.id.as_str()),
        }
    }

    /// The id of the master that it replicates.
    pub fn master(&self) -> Option<&'a str> {
        match self.node() {
            Some(node) => node.own.master.as_deref(),
            None => self.record.and_then(|record| record.master.as_deref()),
        }
    }

    /// Why its server certainly does not run, and cannot start without a new order.
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
    pub object: &'a RedisCluster,
    /// The decisions before this reconcile.
    pub before: &'a ClusterDecisions,
    /// The members, by ordinal.
    pub members: Vec<Member<'a>>,
    /// Who owns which slots.
    pub slots: Slots,
    /// How long this operator has known of the recorded moments.
    pub waited: &'a Waited,
    /// Now.
    pub now: Timestamp,
}

impl<'a> View<'a> {
    /// The member whose node has this id.
    pub fn by_id(&self, id: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|one| one.id() == Some(id))
    }

    /// The members that replicate the node with this id.
    pub fn replicas<'v>(&'v self, id: &'v str) -> impl Iterator<Item = &'v Member<'a>> {
        self.members.iter().filter(move |one| one.master() == Some(id))
    }

    /// The ids that have a member.
    pub fn ids(&self) -> BTreeSet<&'a str> {
        let recorded = |one: &Member<'a>| one.live().is_none().then_some(one.record?.id.as_str());
        self.members.iter().flat_map(|one| one.id().into_iter().chain(recorded(one))).collect()
    }

    /// Members that serve and are to stay.
    pub fn staying(&self) -> impl Iterator<Item = &Member<'a>> {
        self.members.iter().filter(|one| !one.leaving && one.running().is_some())
    }
}

/// Who owns which slots: of all who claim one, the node with the highest config epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slots {
    owners: BTreeMap<String, Vec<u16>>,
}

impl Slots {
    /// By what all nodes say of themselves and of each other.
    pub fn of<'n>(nodes: impl Iterator<Item = &'n Node> + Clone) -> Self {
        let own = nodes.clone().map(|node| &node.own);
        let ids: BTreeSet<&str> = own.clone().map(|one| one.id.as_str()).collect();
        let (here, others): (Vec<&Known>, Vec<&Known>) =
            nodes.flat_map(|node| &node.known).partition(|one| ids.contains(one.id.as_str()));
        // A node knows its own slots best. One that has just received a slot may not have said so yet: the one that gave it has.
        let mut owner: Vec<Option<(u64, &str)>> = vec![None; usize::from(SLOTS)];
        for said in [own.chain(others).collect(), here] {
            let mut more = vec![None; usize::from(SLOTS)];
            for one in said {
                for (from, to) in &one.slots {
                    for slot in more.iter_mut().skip((*from).into()).take(usize::from(to.saturating_sub(*from)) + 1) {
                        *slot = (*slot).max(Some((one.epoch, one.id.as_str())));
                    }
                }
            }
            owner.iter_mut().zip(more).for_each(|(owner, more)| *owner = owner.or(more));
        }
        let mut owners: BTreeMap<String, Vec<u16>> = BTreeMap::new();
        for (slot, (_, id)) in (0..SLOTS).zip(owner).filter_map(|(slot, owner)| Some((slot, owner?))) {
            owners.entry(id.to_owned()).or_default().push(slot);
        }
        Self { owners }
    }

    /// The slots of a node.
    pub fn at(&self, id: &str) -> &[u16] {
        self.owners.get(id).map_or(&[], Vec::as_slice)
    }

    /// The ids of the nodes with slots.
    pub fn owners(&self) -> impl Iterator<Item = &str> {
        self.owners.keys().map(String::as_str)
    }

    /// The owner of a slot.
    pub fn owner(&self, slot: u16) -> Option<&str> {
        self.owners.iter().find(|(_, slots)| slots.binary_search(&slot).is_ok()).map(|(id, _)| id.as_str())
    }

    /// Number of slots that have an owner.
    pub fn count(&self) -> usize {
        self.owners.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 443: while slots were moved, those whose receiver had not reported yet counted as served by nobody: with each
    /// batch Ready became False for a moment.
    #[test]
    fn a_slot_that_was_just_given_away_is_at_its_receiver() {
        let known = |id: &str, epoch, slots| Known { id: id.into(), epoch, slots: vec![slots], ..Known::default() };
        let node = |own, known| Node { own, known: vec![known], ..Node::default() };
        let giver = node(known("a", 1, (0, 9)), known("b", 2, (10, 19)));
        let receiver = node(known("b", 2, (11, 19)), known("a", 1, (0, 10)));
        let slots = Slots::of([&giver, &receiver].into_iter());
        assert_eq!((slots.owner(10), slots.owner(9), slots.count()), (Some("b"), Some("a"), 20));
        // What only others say of a node that speaks, and somebody else owns by his own word, is old.
        let old = node(known("c", 3, (5, 5)), known("a", 1, (0, 9)));
        assert_eq!(Slots::of([&giver, &receiver, &old].into_iter()).owner(5), Some("c"));
    }
}
