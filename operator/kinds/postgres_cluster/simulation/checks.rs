//! The checks after every step of a simulation.

use std::collections::BTreeSet;

use super::sim::State;
use crate::kinds::postgres_cluster::plan::violation;
use crate::kinds::postgres_cluster::world::grant;
use crate::supervisor::wire::Postgres;

impl State {
    /// Adds violations to `wrong`.
    pub fn check(&mut self) {
        self.wrong.extend(violation(&self.world.status()).map(str::to_owned));
        let broken = std::mem::take(&mut self.world.broken);
        if self.by_hand {
            // A standby that was promoted by hand acknowledges commits that only it has (docs/protocol.md).
            let rest = broken.into_iter().filter(|rule| !rule.starts_with("I8"));
            self.wrong.extend(rest.map(str::to_owned));
            return;
        }
        self.wrong.extend(broken.into_iter().map(str::to_owned));
        if !self.lossless {
            return;
        }
        // I2: a server that lets clients in has every commit that was acknowledged before its term.
        let open = self.world.boxes.values().filter(|one| {
            one.runs() && one.process.postgres == Postgres::Primary && one.process.opened && one.process.gate_open()
        });
        let open: Vec<_> = open.map(|one| one.spec.name.clone()).collect();
        for name in open {
            let term = grant(&self.world.disks[&name].durable).map_or(0, |grant| grant.0);
            let lost = self.lost(&name, term);
            if !lost.is_empty() {
                self.wrong.push(format!("I2 {name} opened in term {term} without the acknowledged commits {lost:?}"));
            }
        }
    }

    /// Commits acknowledged in terms before this one that a server does not have.
    pub fn lost(&self, name: &str, term: u64) -> Vec<u64> {
        let has: BTreeSet<u64> = self.world.disks[name].wal.iter().map(|record| record.id).collect();
        let earlier = self.world.acknowledged.iter().filter(|(_, of)| **of < term).map(|(id, _)| *id);
        earlier.filter(|id| !has.contains(id)).collect()
    }
}
