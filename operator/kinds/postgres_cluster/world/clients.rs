//! The clients of the world: they write to every server that lets them in, and remember which commits were
//! acknowledged.

use super::instance::Author;
use super::{Box, World, grant};
use crate::supervisor::wire::Postgres;

/// A commit that a client waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Waiting {
    id: u64,
    lsn: u64,
    /// The server, and the run of its postmaster.
    server: (String, u32),
}

impl World {
    /// Servers that take a client's write now.
    pub fn writable(&self) -> Vec<String> {
        let open = |one: &&Box| one.runs() && one.process.writable();
        self.boxes.values().filter(open).map(|one| one.spec.name.clone()).collect()
    }

    /// A client writes to every server that lets it in.
    pub fn write(&mut self) {
        for name in self.writable() {
            self.write_to(&name);
        }
    }

    pub fn write_to(&mut self, name: &str) {
        let (Some(one), Some(disk)) = (self.boxes.get(name), self.disks.get_mut(name)) else { return };
        self.writes += 1;
        let id = disk.write(disk.timeline(), Author::Client(self.writes));
        self.waiting.push(Waiting { id, lsn: disk.end().0, server: (name.into(), one.process.run) });
    }

    /// Whether a client waits for a commit at this server.
    pub fn waits_at(&self, name: &str) -> bool {
        self.waiting.iter().any(|one| one.server.0 == name)
    }

    pub fn acknowledge_all(&mut self) {
        let names: Vec<_> = self.boxes.keys().cloned().collect();
        for name in names {
            self.acknowledge(&name);
        }
    }

    /// Acknowledges the commits that fulfil this server's commit rule; those that died with it are never acknowledged.
    pub fn acknowledge(&mut self, name: &str) -> bool {
        let lives = |server: &(String, u32)| {
            self.boxes.get(&server.0).is_some_and(|one| {
                one.process.run == server.1 && matches!(one.process.postgres, Postgres::Primary | Postgres::Stopping)
            })
        };
        let before = self.waiting.len();
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|one| lives(&one.server));
        let Some(one) = self.boxes.get(name).filter(|one| one.runs()) else {
            self.waiting = waiting;
            return self.waiting.len() != before;
        };
        let rule = one.process.applied.as_ref().map(|applied| applied.commit.clone()).unwrap_or_default();
        let durable = &self.disks[name].durable;
        // A primary that steps down for a new term still acknowledges commits, under the grant that it had before.
        let term = grant(durable).map_or(durable.promised.saturating_sub(1), |grant| grant.0);
        let opened = one.process.opened;
        let replicas = self.replicas(name);
        let enough = |lsn: u64| {
            let flushed = replicas.iter().filter(|r| rule.names.contains(&r.incarnation) && r.lsn.0 >= lsn);
            flushed.count() >= rule.count as usize
        };
        let (told, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|one| one.server.0 == name && enough(one.lsn));
        for one in told {
            if !opened {
                self.broken.insert("I8 nobody is told of a commit before the gate was opened");
            }
            self.acknowledged.insert(one.id, term);
        }
        self.waiting = waiting;
        self.waiting.len() != before
    }

    /// I2: a server that takes writes has every commit that was ever acknowledged.
    pub fn lost(&self) -> Vec<u64> {
        let status = self.status();
        let Some(primary) = status.primary.filter(|_| !status.endpoints.read_write.is_empty()) else {
            return Vec::new();
        };
        self.missing(&self.container(&primary), u64::MAX)
    }

    /// Commits acknowledged in terms before this one that a server does not have.
    pub fn missing(&self, name: &str, term: u64) -> Vec<u64> {
        let Some(disk) = self.disks.get(name) else { return Vec::new() };
        let has = |id: &u64| disk.wal.iter().any(|record| record.id == *id);
        self.acknowledged.iter().filter(|(id, of)| **of < term && !has(id)).map(|(id, _)| *id).collect()
    }
}
