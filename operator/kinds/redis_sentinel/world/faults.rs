//! Faults, and what Docker and users do. One method each.

use super::data::Data;
use super::sentinel::Watcher;
use super::{Disk, World, is_sentinel};
use crate::api::redis_sentinel::RedisSentinelSpec;
use crate::api::switchover::SWITCHOVER_ANNOTATION;
use crate::engine::ContainerState;

impl World {
    pub fn start_container(&mut self, name: &str) {
        let (ms, network) = (self.ms, self.network);
        let Some(one) = self.boxes.get_mut(name).filter(|one| one.state != ContainerState::Running) else { return };
        one.state = ContainerState::Running;
        one.boot += 1;
        one.at = network.zip(one.spec.address);
        (one.data, one.watcher) = (Data { heard_at: ms, ..Data::default() }, Watcher::default());
        self.disks.entry(name.to_owned()).or_default();
    }

    pub fn remove_container(&mut self, name: &str, _grace: bool) {
        self.end_server(name);
        self.boxes.remove(name);
    }

    /// The container dies, and Docker leaves it so (`docker kill`).
    pub fn kill_container(&mut self, member: &str) {
        let name = self.container(member);
        self.end_server(&name);
        if let Some(one) = self.boxes.get_mut(&name) {
            one.state = ContainerState::Exited;
        }
        self.tell(format!("--- the container of {member} is killed"));
    }

    /// The container dies, and Docker starts it again at once.
    pub fn crash_container(&mut self, member: &str) {
        self.kill_container(member);
        let name = self.container(member);
        self.start_container(&name);
    }

    /// The server's process dies.
    pub fn kill_server(&mut self, member: &str) {
        let name = self.container(member);
        self.end_server(&name);
        self.tell(format!("--- the server of {member} is killed"));
    }

    /// `docker pause`: it stands still. What clients see is a server that does not answer.
    pub fn pause_container(&mut self, member: &str) {
        let name = self.container(member);
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Running) {
            one.state = ContainerState::Paused;
        }
        self.tell(format!("--- the container of {member} is paused"));
    }

    /// `docker unpause`: its supervisor sees that the clock has jumped.
    pub fn unpause_container(&mut self, member: &str) {
        let name = self.container(member);
        let leads = |one: &super::Box| {
            one.data.server.as_ref().is_some_and(|server| server.role == crate::supervisor::redis::wire::Role::Master)
        };
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Paused) {
            one.state = ContainerState::Running;
            one.data.doubt = leads(one);
        }
        self.tell(format!("--- the container of {member} goes on"));
    }

    /// The network between it and the other data members is cut.
    pub fn sever(&mut self, member: &str) {
        self.severed.insert(member.to_owned(), self.ms);
        self.tell(format!("--- {member} hears of no other data member"));
    }

    /// The network between it and all Sentinels is cut.
    pub fn unwatch(&mut self, member: &str) {
        let sentinels: Vec<String> = self.boxes.keys().filter(|name| is_sentinel(name)).cloned().collect();
        self.unwatched.extend(sentinels.iter().map(|name| (Self::member(name), member.to_owned())));
        self.tell(format!("--- no Sentinel reaches {member}"));
    }

    /// All members reach each other and the operator, and nobody stands still.
    pub fn undo_faults(&mut self) {
        (self.away, self.isolated, self.unwatched, self.slow, self.cut, self.severed) = Default::default();
        let paused = self.boxes.iter().filter(|(_, one)| one.state == ContainerState::Paused);
        let paused: Vec<String> = paused.map(|(name, _)| Self::member(name)).collect();
        paused.iter().for_each(|member| self.unpause_container(member));
    }

    /// Its volume and its container are lost.
    pub fn wipe(&mut self, member: &str) {
        let name = self.container(member);
        self.remove_container(&name, false);
        self.disks.remove(&name);
        self.tell(format!("--- {member} is lost with its volume"));
    }

    /// All containers of the host stop, and Docker starts them again.
    pub fn reboot(&mut self) {
        let members: Vec<String> = self.boxes.keys().map(|name| Self::member(name)).collect();
        members.iter().for_each(|member| self.crash_container(member));
    }

    /// The network is removed and made again, in another subnet.
    pub fn remake_network(&mut self, subnet: u8) {
        (self.network, self.subnet) = (None, subnet);
        self.tell("--- the network is gone");
    }

    /// A volume with data that an earlier object left.
    pub fn leave_volume(&mut self, ordinal: u32, writes: &[u64], epoch: u64, offset: u64) {
        let name = self.container(&format!("cache-{ordinal}"));
        let position =
            (epoch > 0).then(|| crate::supervisor::redis::wire::Position { epoch, offset, replid: "old".into() });
        let mut disk = Disk::default();
        (disk.data.writes, disk.data.position) = (writes.to_vec(), position);
        self.disks.insert(name, disk);
        self.next_write = self.next_write.max(writes.iter().copied().max().unwrap_or(0));
    }

    pub fn change_spec(&mut self, change: impl FnOnce(&mut RedisSentinelSpec)) {
        change(&mut self.object.spec);
        self.object.metadata.generation = self.object.metadata.generation.map(|generation| generation + 1);
    }

    /// `evenkeel switchover`.
    pub fn ask_switchover(&mut self, to: &str) {
        let (now, slash) = (self.now(), if to.is_empty() { "" } else { "/" });
        let annotations = self.object.metadata.annotations.get_or_insert_default();
        annotations.insert(SWITCHOVER_ANNOTATION.into(), format!("{now}{slash}{to}"));
        self.tell(format!("--- a switchover is asked: {to}"));
    }
}
