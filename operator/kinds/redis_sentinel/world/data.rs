//! Data members: a supervisor with the real decisions, and a Redis server.

use super::{Ablation, World, is_sentinel};
use crate::engine::ContainerState;
use crate::supervisor::redis::next;
use crate::supervisor::redis::state::{Act, Durable, Named, Pause, Said, Seen};
use crate::supervisor::redis::wire::{
    ALONE_MS, Address, BackupState, Command, HUNG_MS, Link, Order, Position, RedisSeen, Replica, Report, Role, Server,
    Task,
};

/// Time that a server needs to start.
const START_MS: u64 = 100;
/// A replica whose link is down for this long is cut off.
const CUT_MS: u64 = 3_000;
/// `min-replicas-max-lag`.
const MAX_LAG_S: u64 = 3;
/// Time between two snapshots.
const SNAPSHOT_MS: u64 = 2_000;
/// Most acts of one supervisor in one turn.
const ACTS: usize = 8;

/// The supervisor of a data member, in memory.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Data {
    pub heard_at: u64,
    pub runs: u32,
    pub server: Option<Redis>,
    pub restart: bool,
    pub doubt: bool,
    pub lifted: Option<String>,
    pub named: Option<Named>,
    pub hopeless_since: Option<u64>,
    /// It stands still: nobody gets an answer.
    pub hung: bool,
    /// What opens the stores, and the restore that runs, with its end.
    pub held: Option<String>,
    pub restore: Option<(BackupState, u64)>,
}

/// What is on its volume.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct DataDisk {
    pub durable: Durable,
    pub position: Option<Position>,
    pub demoted: Option<Position>,
    /// The restore that its data comes from.
    pub restored: Option<BackupState>,
    /// Writes, oldest first.
    pub writes: Vec<u64>,
}

/// A running Redis server.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Redis {
    pub role: Role,
    pub follows: Option<Address>,
    ready_at: u64,
    pub writes: Vec<u64>,
    pub offset: u64,
    pub replid: String,
    pub priority: u32,
    pub link_up: bool,
    pub link_down_since: u64,
    pub synced: bool,
    was: Role,
    promoted: Option<u64>,
    promoted_offset: u64,
    promoted_replid: Option<String>,
    /// The history before it was promoted, and where that ended.
    second: (String, u64),
    settled: (u64, Option<Address>),
    confirmed: Option<u64>,
    pub paused: Option<Pause>,
    answered_at: u64,
    directives: std::collections::BTreeMap<String, String>,
    /// Its port has TLS, and it connects with TLS.
    pub tls: bool,
    /// When that changed last.
    tls_at: u64,
    /// The last time a write of an application succeeded.
    pub wrote_at: Option<u64>,
}

fn key(order: Option<&Order>) -> (u64, Option<Address>) {
    let master = order.and_then(|order| match order.task {
        Task::Follow { address, .. } => Some(address),
        _ => None,
    });
    (order.map_or(0, |order| order.epoch), master)
}

impl Redis {
    pub fn answers(&self, ms: u64) -> bool {
        ms >= self.ready_at
    }

    /// The priority that it shall have; `kept`: its volume has data.
    fn wanted(&self, order: &Order, kept: bool) -> u32 {
        let has_data = kept || !self.writes.is_empty();
        next::priority(order.config.priority, self.role == Role::Master, has_data, self.synced)
    }
}

impl World {
    pub fn run_of(&self, name: &str) -> String {
        let one = &self.boxes[name];
        format!("{}-{}-{}", one.id, one.boot, one.data.runs)
    }

    /// The server of a container that is running, if it answers.
    pub fn redis(&self, name: &str) -> Option<&Redis> {
        let one = self.boxes.get(name).filter(|one| one.state == ContainerState::Running && !one.data.hung)?;
        one.data.server.as_ref().filter(|server| server.answers(self.ms))
    }

    pub fn redis_mut(&mut self, name: &str) -> Option<&mut Redis> {
        self.redis(name)?;
        self.boxes.get_mut(name)?.data.server.as_mut()
    }

    fn persistent(&self, name: &str) -> bool {
        let order = self.disks.get(name).and_then(|disk| disk.data.durable.order.as_ref());
        order.is_none_or(|order| order.config.directives.get("appendonly").is_some_and(|value| value == "yes"))
    }

    /// Its data is in snapshots.
    fn snapshots(&self, name: &str) -> bool {
        let order = self.disks.get(name).and_then(|disk| disk.data.durable.order.as_ref());
        order.is_some_and(|order| order.config.directives.get("save").is_some_and(|save| !save.is_empty()))
    }

    pub fn order_data(&mut self, name: &str, member: &str, command: Command) {
        let run = self.run_of(name);
        let ms = self.ms;
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        one.data.heard_at = ms;
        match command {
            Command::Order(order) => match next::accept(&disk.data.durable, &order) {
                Ok(durable) => disk.data.durable = durable,
                Err(why) => self.tell(format!("  {member}: {why}")),
            },
            Command::Restart { run: asked } => one.data.restart |= asked == run,
            Command::Archives(archives) => one.data.held = Some(archives.hash),
            Command::Restore(order) => self.restore_data(name, &order),
            _ => {}
        }
    }

    pub fn seen_data(&self, name: &str) -> Seen {
        let (one, disk) = (&self.boxes[name], self.disks.get(name).cloned().unwrap_or_default());
        let (data, order) = (&one.data, disk.data.durable.order.clone());
        let server = data.server.as_ref();
        let state = match server {
            None => Server::Stopped,
            Some(server) if !server.answers(self.ms) => Server::Starting,
            Some(server) if data.hung && self.ms - server.answered_at >= HUNG_MS => Server::Hung,
            Some(_) => Server::Running,
        };
        let kept = !disk.data.writes.is_empty() && (self.persistent(name) || self.snapshots(name));
        let blind = self.ablation == Some(Ablation::EmptyMember);
        let tuned = server.zip(order.as_ref()).is_none_or(|(server, order)| {
            server.priority == server.wanted(order, kept || blind) && server.tls == order.config.tls
        });
        Seen {
            run: self.run_of(name),
            credentials: disk.credentials,
            server: state,
            halted: false,
            due: true,
            terminating: false,
            restart: data.restart,
            role: server.map(|server| server.role),
            follows: server.and_then(|server| server.follows),
            promoted: server.and_then(|server| server.promoted),
            settled: server.is_some_and(|server| server.settled == key(order.as_ref())),
            tuned,
            paused: server.and_then(|server| server.paused.clone()),
            lifted: data.lifted.clone(),
            alone: self.ms.saturating_sub(data.heard_at) >= ALONE_MS,
            doubt: data.doubt,
            has_data: kept,
            named: data.named,
            confirmed: server.and_then(|server| server.confirmed),
            cut: server.is_some_and(|one| {
                one.role == Role::Replica && !one.link_up && self.ms - one.link_down_since >= CUT_MS
            }),
            durable: disk.data.durable,
        }
    }

    pub fn supervise_data(&mut self, name: &str) {
        self.restore_goes_on(name);
        self.watch_server(name);
        self.ask_sentinels(name);
        for _ in 0..ACTS {
            let mut seen = self.seen_data(name);
            if self.ablation == Some(Ablation::StartRule)
                && let Some(order) = &mut seen.durable.order
            {
                order.run.clone_from(&seen.run);
            }
            let act = next::next(&seen);
            if act == Act::Wait {
                return;
            }
            self.tell(format!("  {} {act:?}", Self::member(name)));
            self.perform_data(name, act);
        }
    }

    /// What the supervisor reads in INFO.
    fn watch_server(&mut self, name: &str) {
        let (ms, order) = (self.ms, self.disks.get(name).and_then(|disk| disk.data.durable.order.clone()));
        let snapshot = self.snapshots(name) && ms.is_multiple_of(SNAPSHOT_MS);
        let written = self.persistent(name) || snapshot;
        let mut demoted = None;
        let Some(one) = self.boxes.get_mut(name) else { return };
        let data = &mut one.data;
        let Some(server) = data.server.as_mut().filter(|server| !data.hung && server.answers(ms)) else { return };
        server.answered_at = ms;
        if server.role == Role::Replica {
            (server.promoted, server.promoted_replid) = (None, None);
            server.synced |= server.link_up;
            server.paused = None;
            data.doubt = false;
            if server.was == Role::Master {
                server.synced = server.link_up;
                demoted = (!server.link_up).then(|| server.end(order.as_ref()));
            }
            if server.follows == key(order.as_ref()).1 {
                server.settled = key(order.as_ref());
            }
        } else if server.was == Role::Replica {
            server.promoted = Some(key(order.as_ref()).0);
            server.promoted_offset = server.second.1;
            server.promoted_replid = Some(server.second.0.clone());
        }
        server.was = server.role;
        if let Some(disk) = self.disks.get_mut(name) {
            disk.data.demoted = demoted.or(disk.data.demoted.take());
            if server.role == Role::Master || server.synced {
                let (offset, replid) = (server.offset, server.replid.clone());
                disk.data.position = Some(Position { epoch: key(order.as_ref()).0, offset, replid });
            }
            if written {
                disk.data.writes.clone_from(&server.writes);
            }
        }
    }

    fn ask_sentinels(&mut self, name: &str) {
        let seen = self.seen_data(name);
        let asks = next::asks(&seen);
        let own = seen.durable.order.as_ref().and_then(|order| order.config.announce);
        let said: Vec<Said> = match &seen.durable.order {
            Some(order) if asks => {
                let ask = |address: &Address| {
                    let sentinel = self.at(*address).filter(|sentinel| self.reaches(name, sentinel))?;
                    let watch = self.boxes[&sentinel].watcher.running()?.master.as_ref()?;
                    let promotable = watch.replicas.values().any(|one| !one.down(self.ms, watch.down_after));
                    Some(Said { master: watch.address, config_epoch: watch.config_epoch, promotable })
                };
                order.sentinels.addresses.iter().filter_map(ask).collect()
            }
            _ => Vec::new(),
        };
        let order = seen.durable.order.clone();
        let ms = self.ms;
        let Some(one) = self.boxes.get_mut(name) else { return };
        if !asks {
            (one.data.named, one.data.hopeless_since) = (None, None);
            return;
        }
        let Some(order) = order else { return };
        let sentinels = &order.sentinels;
        let mut named = next::majority(sentinels.addresses.len(), &said);
        if named.is_some_and(|named| named.hopeless) {
            let since = *one.data.hopeless_since.get_or_insert(ms);
            let long = 3 * (sentinels.down_after_ms + sentinels.failover_timeout_ms);
            named = named.map(|named| Named { hopeless: ms - since >= long, ..named });
        } else {
            one.data.hopeless_since = None;
        }
        if let (Some(named), Some(server)) = (named.filter(|named| Some(named.master) == own), &mut one.data.server) {
            server.confirmed = server.confirmed.max(Some(named.config_epoch));
        }
        one.data.named = named;
    }

    fn perform_data(&mut self, name: &str, act: Act) {
        let (ms, member, snapshots) = (self.ms, Self::member(name), self.snapshots(name));
        let persistent = self.persistent(name) || snapshots;
        let blind = self.ablation == Some(Ablation::EmptyMember);
        let order = self.disks.get(name).and_then(|disk| disk.data.durable.order.clone());
        let run = self.run_of(name);
        if let Act::Follow(master) = act {
            self.commands.push(format!("supervisor of {member}: REPLICAOF {}", master.ip));
        }
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        let data = &mut one.data;
        match act {
            Act::Wait | Act::Exit => {}
            Act::Start(master) => {
                if !persistent {
                    disk.data.writes.clear();
                }
                let writes = disk.data.writes.clone();
                let role = if master.is_some() { Role::Replica } else { Role::Master };
                let permitted = order.as_ref().is_some_and(|order| order.run == run);
                data.server = Some(Redis {
                    role,
                    follows: master,
                    ready_at: ms + START_MS,
                    writes,
                    // A server with a log knows no offset of its data.
                    offset: 0,
                    replid: run,
                    priority: order.as_ref().map_or(100, |order| {
                        let has_data = !disk.data.writes.is_empty() || blind;
                        next::priority(order.config.priority, master.is_none(), has_data, false)
                    }),
                    link_up: false,
                    link_down_since: ms,
                    synced: false,
                    was: role,
                    promoted: (master.is_none() && !permitted).then(|| order.as_ref().map_or(0, |order| order.epoch)),
                    promoted_offset: 0,
                    promoted_replid: None,
                    second: (String::new(), 0),
                    settled: key(order.as_ref()),
                    confirmed: None,
                    paused: None,
                    answered_at: ms,
                    directives: order.as_ref().map(|order| order.config.directives.clone()).unwrap_or_default(),
                    tls: order.as_ref().is_some_and(|order| order.config.tls),
                    tls_at: 0,
                    wrote_at: None,
                });
            }
            Act::Stop | Act::Kill => {
                if let Some(server) = data.server.as_ref().filter(|_| snapshots && act == Act::Stop) {
                    disk.data.writes.clone_from(&server.writes);
                }
                self.end_server(name);
            }
            Act::Follow(master) => {
                data.doubt = false;
                if let Some(server) = &mut data.server {
                    if server.role == Role::Master {
                        disk.data.demoted = Some(server.end(order.as_ref()));
                    }
                    server.follow(master, ms);
                    (server.settled, server.paused, server.promoted) = (key(order.as_ref()), None, None);
                }
            }
            Act::Pause(pause) => {
                if let Some(server) = &mut data.server {
                    server.paused = Some(pause);
                }
            }
            Act::Resume => {
                data.doubt = false;
                if let Some(server) = &mut data.server {
                    let pause = server.paused.take();
                    if let Some(Pause::Switchover(id)) = pause
                        && ms.saturating_sub(data.heard_at) >= ALONE_MS
                    {
                        data.lifted = Some(id);
                    }
                }
            }
            Act::Tune => {
                if let (Some(server), Some(order)) = (&mut data.server, order) {
                    server.priority = server.wanted(&order, blind || persistent && !disk.data.writes.is_empty());
                    if server.tls != order.config.tls {
                        (server.tls, server.tls_at) = (order.config.tls, ms);
                        // What is connected stays so, but the link of a replica.
                        if server.role == Role::Replica {
                            (server.link_up, server.link_down_since) = (false, ms);
                        }
                    }
                }
            }
        }
    }

    /// The end of a server's process: what is in its memory is gone.
    pub fn end_server(&mut self, name: &str) {
        let Some(one) = self.boxes.get_mut(name) else { return };
        (one.data.restart, one.data.named, one.data.hopeless_since, one.data.doubt) = (false, None, None, false);
        if one.data.server.take().is_some() {
            one.data.runs += 1;
        }
        one.data.hung = false;
    }

    /// Replication: every replica takes over what its master has.
    pub fn run_servers(&mut self) {
        let names: Vec<String> = self.boxes.keys().filter(|name| !is_sentinel(name)).cloned().collect();
        names.iter().for_each(|name| self.flow(name));
    }

    /// A replica takes over what its master has.
    pub fn flow(&mut self, name: &str) {
        let Some(server) = self.redis(name).filter(|server| server.role == Role::Replica) else { return };
        let master = server.follows.and_then(|address| self.at(address)).filter(|master| master != name);
        let severed = master.as_ref().and_then(|master| self.severed_s(name, master));
        let (linked, tls, tls_at) = (server.link_up, server.tls, server.tls_at);
        let reached = master.filter(|master| self.reaches(name, master) && (severed.is_none() || linked));
        let from = reached.and_then(|master| self.redis(&master));
        // A new connection takes a turn, and both ends must be of the same kind.
        let from = from.filter(|master| linked || master.tls == tls && (tls_at == 0 || tls_at < self.ms));
        // Chains of replicas have what their source has.
        let copied = from.map(|from| (from.writes.clone(), from.offset, from.replid.clone()));
        let (slow, ms) = (self.slow.contains(&Self::member(name)) || severed.is_some(), self.ms);
        let Some(server) = self.redis_mut(name) else { return };
        match copied {
            Some((writes, offset, replid)) => {
                if !slow || !server.link_up {
                    (server.writes, server.offset, server.replid) = (writes, offset, replid);
                }
                server.link_up = true;
            }
            None if server.link_up => (server.link_up, server.link_down_since) = (false, ms),
            None => {}
        }
    }

    /// Seconds since two data members hear nothing of each other; `None`: they do.
    fn severed_s(&self, one: &str, other: &str) -> Option<u64> {
        let since = [one, other].into_iter().filter_map(|name| self.severed.get(&Self::member(name))).min();
        since.map(|since| (self.ms - since) / 1_000)
    }

    /// The replicas of a master, as it sees them: the member, and whether it receives what is written.
    pub fn replicas(&self, name: &str) -> Vec<(String, bool)> {
        let Some(address) = self.address(name) else { return Vec::new() };
        let fits = |other: &&String| {
            let linked = |server: &Redis| server.role == Role::Replica && server.follows == Some(address);
            other.as_str() != name && !is_sentinel(other) && self.redis(other).is_some_and(linked)
        };
        let names = self.boxes.keys().filter(fits);
        names
            .map(|other| (other.clone(), self.reaches(name, other) && self.redis(other).is_some_and(|one| one.link_up)))
            .collect()
    }

    pub fn report_data(&self, name: &str, report: Report) -> Report {
        let (seen, disk) = (self.seen_data(name), self.disks.get(name).cloned().unwrap_or_default());
        let server = self.boxes[name].data.server.as_ref();
        let order = seen.durable.order.clone();
        let down = RedisSeen {
            order: order.clone(),
            has_data: seen.has_data,
            keys: disk.data.writes.len() as u64,
            last: disk.data.position.clone(),
            demoted: disk.data.demoted.clone(),
            ended_ms: (server.is_none() && self.boxes[name].data.runs > 0).then_some(1),
            config_pending: server.is_some(),
            alone: next::waits(&seen).map(str::to_owned),
            ..RedisSeen::default()
        };
        let redis = match server.filter(|server| server.answers(self.ms)) {
            None => down,
            Some(server) => {
                let replica = |(other, online): (String, bool)| {
                    let address = self.address(&other)?;
                    let offset = self.redis(&other).map_or(0, |one| one.offset);
                    let lag_s = self.severed_s(name, &other).unwrap_or(0);
                    Some(Replica { address, online, offset, lag_s })
                };
                let link = server.follows.filter(|_| server.role == Role::Replica).map(|master| Link {
                    master,
                    up: server.link_up,
                    syncing: false,
                    down_s: (self.ms - server.link_down_since) / 1000,
                    synced: server.synced,
                });
                let changed = order.as_ref().filter(|order| order.config.directives != server.directives);
                let differs = changed.map(|order| {
                    let differing =
                        order.config.directives.iter().filter(|(n, v)| server.directives.get(*n) != Some(*v));
                    differing.map(|(name, _)| name.clone()).collect()
                });
                RedisSeen {
                    role: Some(server.role).filter(|_| seen.server == Server::Running),
                    promoted: server.promoted,
                    promoted_offset: server.promoted_offset,
                    promoted_replid: server.promoted_replid.clone(),
                    has_data: !server.writes.is_empty()
                        || server.role == Role::Replica && !server.synced && seen.has_data,
                    keys: server.writes.len() as u64,
                    replid: Some(server.replid.clone()),
                    offset: server.offset,
                    link,
                    replicas: self.replicas(name).into_iter().filter_map(replica).collect(),
                    priority: server.priority,
                    paused: match &server.paused {
                        Some(Pause::Switchover(id)) => Some(id.clone()),
                        _ => None,
                    },
                    writable: Some(self.takes_writes(name)).filter(|_| server.role == Role::Master),
                    pending_restart: differs.unwrap_or_default(),
                    config_pending: !seen.tuned,
                    ..down
                }
            }
        };
        let tls = server.is_some_and(|server| server.tls).then(|| "certificates".to_owned());
        let data = &self.boxes[name].data;
        Report {
            run: seen.run,
            server: seen.server,
            tls,
            redis: Some(redis),
            archives: true,
            archives_held: data.held.clone(),
            restore: data.restore.as_ref().map(|(state, _)| state.clone()).or(disk.data.restored),
            ..report
        }
    }

    /// Whether a master takes the write of a client now.
    pub fn takes_writes(&self, name: &str) -> bool {
        let shut = |one: &&Redis| one.paused.is_some() && self.ablation != Some(Ablation::PausedWrites);
        let Some(server) = self.redis(name).filter(|one| one.role == Role::Master && !shut(one)) else { return false };
        let needed = server.directives.get("min-replicas-to-write").and_then(|text| text.parse().ok()).unwrap_or(0);
        let hears = |other: &str| self.severed_s(name, other).is_none_or(|lag| lag <= MAX_LAG_S);
        self.replicas(name).into_iter().filter(|(other, online)| *online && hears(other)).count() >= needed
    }
}

impl Redis {
    /// `REPLICAOF` another server.
    pub fn follow(&mut self, master: Address, ms: u64) {
        if self.role == Role::Replica && self.follows == Some(master) {
            return;
        }
        (self.role, self.follows, self.link_up, self.link_down_since) = (Role::Replica, Some(master), false, ms);
    }

    /// `REPLICAOF NO ONE`, which only a Sentinel sends.
    pub fn lead(&mut self, run: &str) {
        (self.role, self.follows, self.link_up) = (Role::Master, None, false);
        // A new history begins.
        let new = format!("{run} after {}", self.offset);
        self.second = (std::mem::replace(&mut self.replid, new), self.offset);
    }

    /// Where its data ends.
    fn end(&self, order: Option<&Order>) -> Position {
        Position { epoch: key(order).0, offset: self.offset, replid: self.replid.clone() }
    }
}
