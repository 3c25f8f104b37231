//! The test world: real decisions, and a model of the nodes of a Redis Cluster: gossip, epochs, votes, replication, files.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::decide::{Decided, decide, start};
use super::view::{Member, Slots, View};
use super::workload::leaving;
use crate::api::redis_cluster::{ClusterDecisions, ClusterStage, RedisCluster};
use crate::api::redis_status::RedisPlace;
use crate::kinds::links::LinkSeen;
use crate::kinds::waits;
use crate::supervisor::redis::cluster::wire::{Act, Address, Known, Node, PORT, Report, SLOTS, Start};
use crate::supervisor::redis::wire::{Link, Server};

/// One turn, in milliseconds.
const TURN_MS: i64 = 500;

/// A node, in memory or in its file.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Redis {
    pub id: String,
    pub master: Option<String>,
    pub epoch: u64,
    pub slots: BTreeSet<u16>,
    pub migrating: BTreeMap<u16, String>,
    pub importing: BTreeMap<u16, String>,
    pub known: BTreeMap<String, Known>,
    /// Keys by slot.
    pub keys: BTreeMap<u16, u32>,
    pub address: Option<Address>,
}

/// A member: its volume, and its server if that runs.
#[derive(Clone, Default)]
pub struct Place {
    pub up: Option<Redis>,
    pub disk: Option<Redis>,
    pub run: u32,
    pub synced: bool,
    pub link_up: bool,
    /// Its supervisor cannot be reached.
    pub silent: bool,
    /// Its replication hangs.
    pub stalled: bool,
    /// It has a copy and says so, and its master sends it nothing yet.
    pub unfed: bool,
    /// It may start, by the last order.
    pub wants: Option<Start>,
}

#[derive(Clone)]
pub struct World {
    pub object: RedisCluster,
    pub decisions: ClusterDecisions,
    pub places: BTreeMap<String, Place>,
    pub ms: i64,
    pub log: Vec<String>,
    /// Data is on disk.
    pub durable: bool,
    /// A migration ends after this many steps, each time.
    pub crash: Option<u32>,
    ids: u32,
    /// The hosts of the members, in turn; empty: one host.
    pub hosts: Vec<&'static str>,
    /// Hosts that are drained or restarted soon, and those that a person gave up.
    pub closed: BTreeSet<String>,
    pub lost: BTreeSet<String>,
}

pub fn address(ordinal: u32) -> Address {
    Address { ip: [10, 0, 0, u8::try_from(ordinal).unwrap()].into(), port: PORT }
}

impl World {
    pub fn new(spec: &str) -> Self {
        let spec = serde_saphyr::from_str(&format!("image: redis:7\n{spec}")).unwrap();
        let object = RedisCluster::new("c", spec);
        let (decisions, places) = Default::default();
        let (hosts, closed, lost) = Default::default();
        let (log, durable, crash) = (vec![], true, None);
        Self { object, decisions, places, ms: 0, log, durable, crash, ids: 0, hosts, closed, lost }
    }

    pub fn spec(&mut self, change: impl Fn(&mut crate::api::redis_cluster::RedisClusterSpec)) {
        change(&mut self.object.spec);
    }

    pub fn at(&mut self, ordinal: u32) -> &mut Place {
        self.places.get_mut(&format!("c-{ordinal}")).unwrap()
    }

    /// The server dies; what is durable stays.
    pub fn kill(&mut self, ordinal: u32) {
        let durable = self.durable;
        let place = self.at(ordinal);
        place.disk = place.up.take().map(|mut redis| {
            if !durable {
                redis.keys.clear();
            }
            redis
        });
        (place.run, place.synced, place.link_up, place.wants) = (place.run + 1, false, false, None);
    }

    /// The volume is lost, too.
    pub fn wipe(&mut self, ordinal: u32) {
        self.kill(ordinal);
        self.at(ordinal).disk = None;
    }

    fn grow(&mut self) {
        let mut ordinals: BTreeSet<u32> = self.decisions.members.iter().map(|place| place.ordinal).collect();
        let mut next = 1;
        while ordinals.len() < self.object.spec.members() as usize {
            ordinals.insert(next);
            next += 1;
        }
        let host = |ordinal: u32| match self.hosts.len() {
            0 => "local",
            count => self.hosts[(ordinal as usize - 1) % count],
        };
        let place = |ordinal: u32| RedisPlace {
            name: format!("c-{ordinal}"),
            ordinal,
            host: host(ordinal).into(),
            network: crate::api::placement::Network::Bridge,
            address: Some(address(ordinal).ip),
            port: PORT,
            bus_port: None,
        };
        let had = std::mem::take(&mut self.decisions.members);
        let had = |ordinal: u32| had.iter().find(|one| one.ordinal == ordinal).cloned();
        self.decisions.members =
            ordinals.into_iter().map(|ordinal| had(ordinal).unwrap_or_else(|| place(ordinal))).collect();
        for place in &self.decisions.members {
            self.places.entry(place.name.clone()).or_default();
        }
        let names: BTreeSet<&String> = self.decisions.members.iter().map(|place| &place.name).collect();
        self.places.retain(|name, _| names.contains(name));
    }

    /// One member more, on the next host.
    pub fn add(&mut self, ordinal: u32) {
        let host = self.hosts[(ordinal as usize - 1) % self.hosts.len()].to_owned();
        let before = self.decisions.members[0].clone();
        let place =
            RedisPlace { name: format!("c-{ordinal}"), ordinal, host, address: Some(address(ordinal).ip), ..before };
        self.places.entry(place.name.clone()).or_default();
        self.decisions.members.push(place);
    }

    fn report(&self, name: &str) -> Report {
        let place = &self.places[name];
        let redis = place.up.as_ref().or(place.disk.as_ref());
        let node = redis.map(|redis| Node {
            own: known(redis, redis.address),
            ok: true,
            migrating: redis.migrating.clone().into_iter().collect(),
            importing: redis.importing.clone().into_iter().collect(),
            known: redis.known.values().cloned().collect(),
        });
        let master = redis.and_then(|redis| redis.known.get(redis.master.as_ref()?)).and_then(|known| known.address);
        let keys = redis.map_or(0, |redis| redis.keys.values().sum::<u32>().into());
        let fed = redis.map(|own| {
            let follows = |redis: &&Redis| redis.master.as_ref() == Some(&own.id);
            let fed = self.places.values().filter(|one| one.link_up && !one.unfed);
            fed.filter_map(|one| one.up.as_ref()).filter(follows).filter_map(|redis| redis.address).collect()
        });
        Report {
            fed: fed.filter(|_| place.up.is_some()),
            run: place.run.to_string(),
            server: if place.up.is_some() { Server::Running } else { Server::Stopped },
            has_data: keys > 0,
            keys,
            offset: keys,
            link: place.up.as_ref().and(master).map(|master| Link {
                master,
                up: place.link_up,
                syncing: false,
                down_s: 0,
                synced: place.synced,
            }),
            node,
            ..Report::default()
        }
    }

    /// What is decided now.
    pub fn plan(&self) -> (Decided, BTreeMap<String, Start>) {
        let names = || self.decisions.members.iter().map(|place| place.name.clone());
        let links: BTreeMap<String, LinkSeen<Report>> = names()
            .map(|name| {
                let connected = !self.places[&name].silent;
                let report = self.report(&name);
                (name, LinkSeen { report, connected, silent_ms: 0 })
            })
            .collect();
        let leaving = match self.decisions.stage {
            ClusterStage::Steady => {
                leaving(&self.decisions.members, self.object.spec.members(), self.decisions.replacement.as_ref())
            }
            _ => BTreeSet::new(),
        };
        let member = |place| {
            let place: &RedisPlace = place;
            Member {
                place,
                container: None,
                container_known: false,
                out_of_service: self.lost.contains(&place.host),
                host_closes: self.closed.contains(&place.host),
                link: links.get(&place.name),
                record: self.decisions.nodes.iter().find(|node| node.member == place.name),
                leaving: leaving.contains(place.name.as_str()),
            }
        };
        let members: Vec<Member> = self.decisions.members.iter().map(member).collect();
        let slots = Slots::of(members.iter().filter_map(Member::node).collect::<Vec<_>>().into_iter());
        let now = Timestamp::from_millisecond(self.ms).unwrap();
        let failover = self.decisions.failover.as_ref().map(|failover| failover.detected_at);
        let waited = &waits::by_the_clock(now, failover);
        let view = View { object: &self.object, before: &self.decisions, members, slots, waited, now };
        let stopped = |one: &&Member| one.live().is_some_and(|report| report.server == Server::Stopped);
        let may = |one: &Member| match self.decisions.stage {
            ClusterStage::New => Start::No,
            _ => start(&view, one),
        };
        let starts: BTreeMap<String, Start> =
            view.members.iter().filter(stopped).map(|one| (one.name().to_owned(), may(one))).collect();
        (decide(&view), starts)
    }

    /// One turn: the nodes gossip, the operator decides, everybody does what it is told.
    pub fn turn(&mut self) {
        self.ms += TURN_MS;
        self.grow();
        self.gossip();
        self.replicate();
        let (decided, starts) = self.plan();
        for (name, start) in starts {
            if start != Start::No {
                self.start(&name);
            }
        }
        for (name, act) in &decided.acts {
            self.log.push(format!("{name}: {act}"));
            self.perform(name, act);
        }
        if let Some(ended) = &decided.ended {
            self.log.push(format!("{} took over from {}: {}", ended.to, ended.from, ended.cause));
        }
        if let Some((reason, message)) =
            decided.blocker.filter(|(reason, _)| !["Starting", "NotAgreed"].contains(reason))
        {
            let line = format!("{reason}: {message}");
            if self.log.last() != Some(&line) {
                self.log.push(line);
            }
        }
        self.log.extend(decided.gone.map(|name| format!("{name} is gone")));
        self.decisions = decided.decisions;
    }

    pub fn turns(&mut self, count: u32) {
        (0..count).for_each(|_| self.turn());
    }

    /// Replicas receive what their masters have, and nodes hear of each other.
    pub fn tell_each_other(&mut self) {
        self.gossip();
        self.replicate();
    }

    /// Turns until everything is as wanted.
    pub fn settle(&mut self) {
        for _ in 0..400 {
            self.turn();
            self.grow();
            if self.plan().0.settled {
                return;
            }
        }
        panic!("not settled: {:#?}\n{:?}", self.log.iter().rev().take(20).collect::<Vec<_>>(), self.plan().0);
    }

    /// The keys that clients can reach, and a check that no slot is served by two.
    pub fn reachable(&self) -> u32 {
        let mut best: BTreeMap<u16, (u64, u32)> = BTreeMap::new();
        for redis in self.places.values().filter_map(|place| place.up.as_ref()) {
            for slot in &redis.slots {
                let keys = redis.keys.get(slot).copied().unwrap_or_default();
                // A key that is on its way is found by ASK.
                let there = redis.migrating.get(slot).and_then(|id| self.by_id(id)?.keys.get(slot).copied());
                let entry = best.entry(*slot).or_default();
                *entry = (*entry).max((redis.epoch, keys.max(there.unwrap_or_default())));
            }
        }
        best.values().map(|(_, keys)| keys).sum()
    }

    /// One key in each slot.
    pub fn fill(&mut self) {
        for place in self.places.values_mut() {
            if let Some(redis) = &mut place.up {
                let slots = redis.slots.clone();
                redis.keys.extend(slots.into_iter().map(|slot| (slot, 1)));
            }
        }
        self.replicate();
    }

    fn by_id(&self, id: &str) -> Option<&Redis> {
        self.places.values().filter_map(|place| place.up.as_ref()).find(|redis| redis.id == *id)
    }

    fn start(&mut self, name: &str) {
        self.ids += 1;
        let (id, ordinal) = (format!("node-{:05}", self.ids), name[2..].parse().unwrap());
        let place = self.places.get_mut(name).unwrap();
        let fresh = Redis { id, ..Redis::default() };
        let redis = place.disk.take().unwrap_or(fresh);
        place.up = Some(Redis { address: Some(address(ordinal)), ..redis });
    }

    fn gossip(&mut self) {
        let up: BTreeMap<String, Redis> =
            self.places.values().filter_map(|place| place.up.clone()).map(|redis| (redis.id.clone(), redis)).collect();
        for place in self.places.values_mut() {
            let Some(me) = &mut place.up else { continue };
            let had = me.slots.len();
            for other in up.values().filter(|other| other.id != me.id) {
                // Whoever knows me at my address, or whom I know at its, hears of me.
                let reach = me.known.get(&other.id).is_some_and(|known| known.address == other.address);
                let reached = other.known.get(&me.id).is_some_and(|known| known.address == me.address);
                if !(me.known.contains_key(&other.id) && (reach || reached)) {
                    continue;
                }
                me.known.insert(other.id.clone(), known(other, other.address));
                for (id, gossip) in &other.known {
                    if *id != me.id && up.contains_key(id) {
                        let known = me.known.entry(id.clone()).or_insert_with(|| gossip.clone());
                        // One that it does not reach may have moved.
                        if known.address != up[id].address {
                            known.address = gossip.address;
                        }
                    }
                }
                if other.master.is_none() && other.epoch > me.epoch {
                    me.slots.retain(|slot| !other.slots.contains(slot));
                }
                let all_theirs = had > 0 && me.slots.is_empty() && other.epoch > me.epoch && !other.slots.is_empty();
                let follows =
                    me.master.as_ref().and_then(|id| up.get(id)).is_some_and(|master| master.master.is_some());
                if all_theirs && me.master.is_none() && me.importing.is_empty() && other.known[&me.id].master.is_none()
                {
                    let moved = other.slots.len() >= had;
                    if moved && me.keys.len() >= had / 2 {
                        me.master = Some(other.id.clone());
                    }
                }
                if follows && up.get(me.master.as_ref().unwrap()).and_then(|m| m.master.as_ref()) == Some(&other.id) {
                    me.master = Some(other.id.clone());
                }
            }
            for known in me.known.values_mut() {
                let there = up.get(&known.id).is_some_and(|other| other.known.contains_key(&me.id));
                (known.down, known.linked) = (!there, there);
            }
        }
        // A replica of a dead master follows the one that has its slots now.
        let owners: Vec<(String, BTreeSet<u16>)> =
            up.values().filter(|one| one.master.is_none()).map(|one| (one.id.clone(), one.slots.clone())).collect();
        for place in self.places.values_mut() {
            let Some(me) = &mut place.up else { continue };
            let Some(master) = me.master.clone().filter(|id| !up.contains_key(id)) else { continue };
            let theirs: Option<u16> =
                me.known.get(&master).and_then(|known| known.slots.first().map(|(from, _)| *from));
            let heir = theirs.and_then(|slot| owners.iter().find(|(_, slots)| slots.contains(&slot)));
            if let Some((id, _)) = heir.filter(|(id, _)| *id != me.id) {
                me.master = Some(id.clone());
            }
        }
    }

    fn replicate(&mut self) {
        let up: BTreeMap<String, Redis> =
            self.places.values().filter_map(|place| place.up.clone()).map(|redis| (redis.id.clone(), redis)).collect();
        let at: BTreeMap<Address, String> =
            up.values().filter_map(|redis| Some((redis.address?, redis.id.clone()))).collect();
        for place in self.places.values_mut() {
            let Some(me) = &mut place.up else { continue };
            let Some(master) = me.master.clone() else { continue };
            // It copies from whoever is at the address.
            let there = me.known.get(&master).and_then(|known| known.address).and_then(|address| at.get(&address));
            match there.and_then(|id| up.get(id)).filter(|_| !place.stalled) {
                Some(master) => (place.synced, place.link_up, me.keys) = (true, true, master.keys.clone()),
                None => place.link_up = false,
            }
        }
    }

    fn highest(&self) -> u64 {
        self.places.values().filter_map(|place| place.up.as_ref()).map(|redis| redis.epoch).max().unwrap_or_default()
    }

    fn perform(&mut self, name: &str, act: &Act) {
        let epoch = self.highest() + 1;
        let owners = |world: &Self, up: bool| {
            let all =
                world.places.values().filter_map(|place| place.up.as_ref().or(place.disk.as_ref().filter(|_| !up)));
            all.filter(|redis| !redis.slots.is_empty() && redis.master.is_none()).count()
        };
        let majority = owners(self, true) * 2 > owners(self, false);
        let peer = match act {
            Act::Meet(to) | Act::MeetAt { to, .. } => {
                self.places.values().filter_map(|place| place.up.clone()).find(|redis| redis.address == Some(*to))
            }
            _ => None,
        };
        let may_fail_over = {
            let place = &self.places[name];
            place.synced || place.up.as_ref().is_some_and(|redis| !redis.keys.is_empty())
        };
        if let Act::Migrate { slots, to, .. } = act {
            return self.migrate(name, slots, to);
        }
        let Some(me) = self.places.get_mut(name).and_then(|place| place.up.as_mut()) else { return };
        match act {
            Act::Epoch(epoch) => me.epoch = *epoch,
            Act::AddSlots(from, to) => me.slots.extend(*from..=*to),
            Act::Meet(_) | Act::MeetAt { .. } => {
                if let Some(mut peer) = peer {
                    me.known.insert(peer.id.clone(), known(&peer, peer.address));
                    peer.known.insert(me.id.clone(), known(me, me.address));
                    let place =
                        self.places.values_mut().find(|place| place.up.as_ref().is_some_and(|up| up.id == peer.id));
                    place.unwrap().up = Some(peer);
                }
            }
            Act::Replicate(master) => {
                assert!(me.slots.is_empty() && me.id != *master, "{name} has slots");
                me.master = Some(master.clone());
                let place = self.places.get_mut(name).unwrap();
                (place.synced, place.link_up) = (false, false);
            }
            Act::Failover { .. } | Act::TakeOver => {
                if !(majority || *act == Act::TakeOver) || !may_fail_over || me.master.is_none() {
                    return;
                }
                let old = me.master.take().unwrap();
                let slots: BTreeSet<u16> = expand(&me.known[&old]);
                (me.epoch, me.slots) = (epoch, slots);
                assert!(*act != Act::Failover { force: false } || self.by_id(&old).is_some());
            }
            Act::Forget(id) => {
                assert!(me.master.as_ref() != Some(id));
                me.known.remove(id);
            }
            Act::Stable(slot) => {
                me.migrating.remove(slot);
                me.importing.remove(slot);
            }
            Act::Reset => {
                assert!(me.slots.is_empty());
                (me.master, me.keys, me.known) = Default::default();
            }
            Act::Migrate { .. } => {}
        }
    }

    fn migrate(&mut self, name: &str, slots: &[u16], to: &str) {
        let mut steps = self.crash.unwrap_or(u32::MAX);
        let target = self.places.iter().find(|(_, place)| place.up.as_ref().is_some_and(|redis| redis.id == *to));
        let target = target.unwrap().0.clone();
        let mut epoch = self.highest() + 1;
        let mut step = |world: &mut Self, on: &str, change: &dyn Fn(&mut Redis)| {
            if steps > 0 {
                steps -= 1;
                change(world.places.get_mut(on).unwrap().up.as_mut().unwrap());
            }
            steps > 0
        };
        let source = self.places[name].up.as_ref().unwrap().id.clone();
        for slot in slots.iter().copied() {
            let done = step(self, &target, &|redis| drop(redis.importing.insert(slot, source.clone())))
                && step(self, name, &|redis| drop(redis.migrating.insert(slot, to.to_owned())))
                && {
                    let keys = self.places[name].up.as_ref().unwrap().keys.get(&slot).copied();
                    step(self, &target, &|redis| {
                        let entry = redis.keys.entry(slot).or_default();
                        *entry = (*entry).max(keys.unwrap_or_default());
                    }) | step(self, name, &|redis| {
                        redis.keys.remove(&slot);
                    })
                }
                && step(self, &target, &|redis| {
                    redis.importing.remove(&slot);
                    redis.slots.insert(slot);
                    redis.epoch = redis.epoch.max(epoch);
                })
                && step(self, name, &|redis| {
                    redis.migrating.remove(&slot);
                    redis.slots.remove(&slot);
                });
            if !done {
                return;
            }
            epoch = self.highest();
        }
    }
}

fn known(redis: &Redis, address: Option<Address>) -> Known {
    Known {
        id: redis.id.clone(),
        address,
        master: redis.master.clone(),
        epoch: redis.epoch,
        slots: ranges(&redis.slots),
        down: false,
        linked: true,
    }
}

fn ranges(slots: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for slot in slots {
        match ranges.last_mut() {
            Some((_, to)) if *to + 1 == *slot => *to = *slot,
            _ => ranges.push((*slot, *slot)),
        }
    }
    ranges
}

fn expand(known: &Known) -> BTreeSet<u16> {
    known.slots.iter().flat_map(|(from, to)| *from..=*to).collect()
}

/// All slots.
pub const ALL: u32 = SLOTS as u32;
