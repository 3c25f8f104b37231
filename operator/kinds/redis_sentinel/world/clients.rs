//! Clients that write to every master that they reach, and remember what was acknowledged; and the invariants.

use super::{World, is_sentinel};
use crate::supervisor::redis::wire::Role;

/// Bytes of one write in the replication stream.
const BYTES: u64 = 10;

impl World {
    /// Every master takes one write, if it takes any.
    pub fn write(&mut self) {
        if !self.writers {
            return;
        }
        let names: Vec<String> = self.boxes.keys().filter(|name| !is_sentinel(name)).cloned().collect();
        for name in names {
            if !self.takes_writes(&name) || self.isolated.contains(&Self::member(&name)) {
                continue;
            }
            self.next_write += 1;
            let (write, ms) = (self.next_write, self.ms);
            if let Some(server) = self.redis_mut(&name) {
                server.writes.push(write);
                server.offset += BYTES;
                server.wrote_at = Some(ms);
            }
            self.acknowledged.insert(write, (Self::member(&name), ms));
        }
        self.run_servers();
    }

    /// The running masters that take writes.
    pub fn masters(&self) -> Vec<String> {
        let masters = self.boxes.keys().filter(|name| !is_sentinel(name) && self.takes_writes(name));
        masters.map(|name| Self::member(name)).collect()
    }

    /// Acknowledged writes that the master does not have.
    pub fn lost(&self) -> Vec<u64> {
        let Some(master) = self.redis(&self.container(&self.master())) else { return Vec::new() };
        self.acknowledged.keys().filter(|write| !master.writes.contains(write)).copied().collect()
    }

    /// What must hold after every turn.
    pub fn check(&mut self) {
        let servers: Vec<(String, Role, bool)> = self
            .boxes
            .keys()
            .filter(|name| !is_sentinel(name))
            .filter_map(|name| Some((name.clone(), self.redis(name)?)))
            .map(|(name, server)| (name, server.role, server.writes.is_empty()))
            .collect();
        let empty = servers.iter().find(|(_, role, empty)| *role == Role::Master && *empty);
        let had = self.disks.iter().any(|(_, disk)| !disk.data.writes.is_empty())
            || servers.iter().any(|(_, _, empty)| !empty);
        if let Some((name, ..)) = empty.filter(|_| had) {
            self.broken.insert(format!("{} is an empty master, and another has data", Self::member(name)));
        }
    }

    /// A Sentinel is about to forget: everybody who stays must come back to it.
    pub fn check_reset(&mut self, name: &str) {
        let Some(watched) = self.boxes[name].watcher.running().and_then(|one| one.master.clone()) else { return };
        let master = self.at(watched.address).filter(|there| self.reaches(name, there));
        let leads = master.as_ref().and_then(|there| self.redis(there)).is_some_and(|one| one.role == Role::Master);
        let forgetting = self.boxes.iter().filter(|(other, one)| {
            other.as_str() != name
                && one
                    .watcher
                    .running()
                    .is_some_and(|one| one.master.as_ref().is_some_and(|one| one.replicas.is_empty()))
        });
        let several = self.object.spec.replicas > 1 && forgetting.count() > 0;
        if !leads || watched.failover.is_some() || several {
            self.broken.insert(format!("{} forgets while that is not safe", Self::member(name)));
        }
    }
}
