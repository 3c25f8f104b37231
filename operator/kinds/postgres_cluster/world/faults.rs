//! The faults of the world, one method each.

use std::sync::Arc;

use super::{Box, Disk, World, network_name, peers_network_name};
use crate::engine::{Attachment, ContainerState};
use crate::supervisor::state::Gate;
use crate::supervisor::wire::{Data, Postgres, Proof};

impl World {
    fn running(&mut self, member: &str) -> Option<&mut Box> {
        let name = self.container(member);
        self.boxes.get_mut(&name).filter(|one| one.runs())
    }

    /// kill -9 of the postmaster.
    pub fn kill_postgres(&mut self, member: &str) {
        if let Some(one) = self.running(member) {
            one.process.restart_asked = false;
            one.process.down();
        }
        self.drop_broken_streams();
    }

    /// docker kill; a supervisor that dies ends its container.
    pub fn kill_container(&mut self, member: &str) {
        let name = self.container(member);
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state != ContainerState::Created) {
            one.end(ContainerState::Exited);
        }
        self.drop_broken_streams();
    }

    /// docker rm that was interrupted: the container exists and never starts again.
    pub fn half_remove(&mut self, member: &str) {
        self.kill_container(member);
        let name = self.container(member);
        if let Some(one) = self.boxes.get_mut(&name) {
            one.state = ContainerState::Dead;
        }
    }

    /// docker pause.
    pub fn pause(&mut self, member: &str) {
        if let Some(one) = self.running(member) {
            one.state = ContainerState::Paused;
        }
    }

    /// New sessions get no answer from this server any more, and its supervisor reports so: that it hangs, or that it is
    /// slow. In truth it serves on, because no evidence may be needed for safety.
    pub fn stall(&mut self, member: &str, hung: bool) {
        if let Some(one) = self.running(member) {
            let failing = Some("a new session gets no answer".into());
            one.process.proof = Some(Proof { proven_ms: Some(2_600), failing, hung });
        }
    }

    /// docker unpause; the supervisor notices the gap in time and treats nothing as confirmed.
    pub fn unpause(&mut self, member: &str) {
        let name = self.container(member);
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Paused) {
            one.state = ContainerState::Running;
            one.process.confirmed = None;
            one.process.renewed = None;
            one.process.operator = None;
        }
    }

    /// The data volume is emptied while nothing runs on it.
    pub fn wipe(&mut self, member: &str) {
        self.kill_container(member);
        let name = self.container(member);
        self.promised.remove(&name);
        self.disks.insert(name, Disk::empty());
    }

    /// The data volume is emptied while processes run on it; the supervisor keeps its memory.
    pub fn empty(&mut self, member: &str) {
        let name = self.container(member);
        if let Some(disk) = self.disks.get_mut(&name).filter(|_| self.boxes.get(&name).is_some_and(Box::runs)) {
            *disk = Disk { durable: disk.durable.clone(), ..Disk::empty() };
        }
        self.end_receiver(&name);
    }

    /// The container is removed; its volume stays.
    pub fn forget(&mut self, member: &str) {
        let name = self.container(member);
        self.boxes.remove(&name);
        for operator in &mut self.operators {
            operator.heard.remove(member);
        }
        self.drop_broken_streams();
    }

    /// The operator cannot reach this member any more; `closed`: the stream reports it.
    pub fn cut(&mut self, member: &str, closed: bool) {
        self.cut.insert(member.into(), closed);
    }

    /// No data passes from one member to the other; the opposite direction is not changed.
    pub fn part(&mut self, from: &str, to: &str) {
        let path = (self.container(from), self.container(to));
        self.parted.insert(path);
    }

    /// The machine of all members dies.
    pub fn kill_host(&mut self) {
        let members: Vec<_> = self.boxes.keys().map(|name| Self::member(name)).collect();
        members.iter().for_each(|member| self.kill_container(member));
    }

    /// A member is cut off from all others and from the operators; no stream closes.
    pub fn isolate(&mut self, member: &str) {
        self.cut(member, false);
        self.part_from_all(member);
    }

    /// Somebody takes the container of a member off this network. Its streams end if it replicates by it.
    pub fn disconnect(&mut self, member: &str, network: &str) {
        self.away.insert((self.container(member), network.to_owned()));
        if network == self.replicates_by(member) {
            self.part_from_all(member);
        }
    }

    /// Members as the release before left them: without a network of their own.
    pub fn without_peers(&mut self) {
        self.networks.remove(&peers_network_name(&self.object));
        for one in self.boxes.values_mut() {
            Arc::make_mut(&mut one.spec).chosen.networks.clear();
        }
    }

    /// The container is connected to this network, again or for the first time.
    pub fn reconnect(&mut self, container: &str, to: &Attachment) {
        if let Some(one) = self.boxes.get_mut(container)
            && !one.spec.attachments().contains(to)
        {
            Arc::make_mut(&mut one.spec).chosen.networks = vec![to.clone()];
        }
        if self.away.remove(&(container.to_owned(), to.network.clone())) {
            self.parted.retain(|(from, to)| from != container && to != container);
        }
    }

    /// The network by which a member replicates, as recorded.
    fn replicates_by(&self, member: &str) -> String {
        let places = self.status().decisions.unwrap_or_default().members;
        let secure = places.iter().any(|place| place.name == member && place.peer.is_some());
        if secure { peers_network_name(&self.object) } else { network_name(&self.object) }
    }

    fn part_from_all(&mut self, member: &str) {
        let others: Vec<_> = self.boxes.keys().map(|name| Self::member(name)).filter(|other| other != member).collect();
        for other in others {
            self.part(member, &other);
            self.part(&other, member);
        }
    }

    /// All connections work again.
    pub fn join_all(&mut self) {
        self.cut.clear();
        self.parted.clear();
        self.drop_broken_streams();
    }

    /// An operator ends and another one starts, which has received no report yet.
    pub fn restart_operator(&mut self, operator: usize) {
        self.operators[operator] = Default::default();
    }

    /// A person runs `pg_ctl promote`.
    pub fn promote_by_hand(&mut self, member: &str) {
        let name = self.container(member);
        let (Some(one), Some(disk)) = (self.boxes.get_mut(&name), self.disks.get_mut(&name)) else { return };
        if one.runs() && one.process.postgres == Postgres::Standby {
            disk.data = Data::Primary;
            disk.write(disk.timeline() + 1, super::instance::Author::Server(&name, one.process.run));
            one.process.postgres = Postgres::Primary;
            one.process.receiver = None;
            one.process.opened = false;
            one.process.session = one.process.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open);
        }
        self.drop_broken_streams();
    }
}
