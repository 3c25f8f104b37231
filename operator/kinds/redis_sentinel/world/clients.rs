//! Clients that write to every master that they reach, and remember what was acknowledged; and the invariants.

use super::sentinel::Sentinel;
use super::{World, is_sentinel};
use crate::supervisor::redis::wire::{Address, Report, Role};

/// Bytes of one write in the replication stream.
const BYTES: u64 = 10;
/// Longest time that two masters may take writes: `down-after`, a message of a Sentinel, and an order of the operator.
const TWO_MS: u64 = 20_000;

impl World {
    /// Every master takes one write, if it takes any.
    pub fn write(&mut self) {
        if !self.writers {
            return;
        }
        let names: Vec<String> = self.boxes.keys().filter(|name| !is_sentinel(name)).cloned().collect();
        for name in names {
            if !self.isolated.contains(&Self::member(&name)) {
                self.write_to(&name);
            }
        }
        self.run_servers();
    }

    /// A client writes to this member, if that takes it.
    pub fn write_to(&mut self, name: &str) {
        if !self.takes_writes(name) {
            return;
        }
        self.next_write += 1;
        let (write, ms) = (self.next_write, self.ms);
        if let Some(server) = self.redis_mut(name) {
            server.writes.push(write);
            server.offset += BYTES;
            server.wrote_at = Some(ms);
        }
        self.acknowledged.insert(write, (Self::member(name), ms));
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
            self.broken.insert(format!("I3 {} is an empty master, and another has data", Self::member(name)));
        }
        let restores = self.object.spec.bootstrap.recovery.is_some();
        let without = servers
            .iter()
            .filter(|(_, role, _)| restores && *role == Role::Master)
            .find(|(name, ..)| self.redis(name).is_some_and(|server| !server.writes.starts_with(&self.stored.writes)));
        if let Some((name, ..)) = without {
            self.broken.insert(format!("I10 {} leads without the data of the backup", Self::member(name)));
        }
        let two = self.masters().len() > 1;
        self.two_since = self.two_since.or(Some(self.ms)).filter(|_| two);
        if self.two_since.is_some_and(|since| self.ms - since > TWO_MS) {
            self.broken.insert(format!("I7 two masters take writes for longer than {TWO_MS} ms"));
        }
    }

    /// The operator asks a Sentinel to fail over: as it last heard, no other one does.
    pub fn check_request(&mut self, member: &str) {
        let busy = |(other, (report, ..)): &(&String, &(Report, (u32, u32), u64))| {
            let master = report.sentinel.as_ref().and_then(|seen| seen.master.as_ref());
            other.as_str() != member && master.is_some_and(|master| master.failing_over)
        };
        if let Some((other, _)) = self.heard.iter().find(busy) {
            self.broken.insert(format!("I4 {member} is asked to fail over while {other} does"));
        }
    }

    /// A Sentinel begins to fail over on request: no other one does that.
    pub fn check_alone(&mut self, name: &str) {
        let runs = |one: &super::Box| one.watcher.running().is_some_and(Sentinel::fails_over_on_request);
        if self.boxes.iter().any(|(other, one)| other != name && runs(one)) {
            self.broken.insert(format!("I4 {} fails over on request while another Sentinel does", Self::member(name)));
        }
    }

    /// A Sentinel has promoted a member. `asked`: on the operator's request. What it or the operator cannot reach, it cannot choose.
    pub fn check_promotion(&mut self, sentinel: &str, to: Address, asked: bool) {
        let Some(new) = self.at(to).filter(|_| asked) else { return };
        let missing = |other: &String| {
            let other = self.redis(other).filter(|other| other.role == Role::Master || other.link_up || other.synced);
            let (Some(other), Some(new)) = (other, self.redis(&new)) else { return false };
            other.writes.iter().any(|write| self.acknowledged.contains_key(write) && !new.writes.contains(write))
        };
        let others = || self.boxes.keys().filter(|other| !is_sentinel(other) && **other != new);
        let leads = |other: &&String| self.redis(other).is_some_and(|one| one.role == Role::Master);
        let switched = others().find(|other| leads(other) && (missing(other) || self.takes_writes(other))).cloned();
        let reached = |other: &&String| self.reaches(sentinel, other) && !self.cut.contains(&Self::member(other));
        let passed = others().find(|other| !leads(other) && reached(other) && missing(other)).cloned();
        if let Some(other) = switched {
            self.broken.insert(format!("I5 {} is replaced while it takes writes or has more", Self::member(&other)));
        }
        if let Some(other) = passed {
            self.broken.insert(format!("I8 {} has writes that the promoted member has not", Self::member(&other)));
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
            self.broken.insert(format!("I6 {} forgets while that is not safe", Self::member(name)));
        }
    }
}
