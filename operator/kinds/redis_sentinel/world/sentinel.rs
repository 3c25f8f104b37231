//! Sentinels: a supervisor with the real decisions, and a Sentinel by the rules of Redis 7.

use std::collections::BTreeMap;

use super::{Ablation, World, is_sentinel};
use crate::engine::ContainerState;
use crate::supervisor::redis::sentinel::next;
use crate::supervisor::redis::sentinel::state::{Change, Durable, Seen, Step};
use crate::supervisor::redis::sentinel::view::{Master, Replica, View};
use crate::supervisor::redis::wire::{
    Act, Address, Answer, Command, KnownReplica, KnownSentinel, MasterSeen, Report, Role, SentinelSeen, Server, Watch,
};

/// Intervals of Sentinel, in milliseconds.
const INFO_MS: u64 = 10_000;
const INFO_HURRIED_MS: u64 = 1_000;
const HELLO_MS: u64 = 2_000;
const ACTS: usize = 8;

/// The supervisor of a Sentinel, in memory, and the Sentinel.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Watcher {
    pub ordered: bool,
    pub running: bool,
    pub sentinel: Option<Sentinel>,
    pub act: Option<(String, Act)>,
    pub answer: Option<Answer>,
}

impl Watcher {
    /// The Sentinel, if it runs.
    pub fn running(&self) -> Option<&Sentinel> {
        self.sentinel.as_ref().filter(|_| self.running)
    }
}

/// What is on its volume.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct SentinelDisk {
    pub durable: Durable,
    /// sentinel.conf.
    pub file: Option<Sentinel>,
}

/// A Sentinel.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Sentinel {
    pub id: String,
    pub announce: Option<Address>,
    pub epoch: u64,
    /// The epoch in which it last voted.
    voted: u64,
    pub master: Option<Watched>,
}

impl Sentinel {
    /// It was asked to fail over, and does.
    pub fn fails_over_on_request(&self) -> bool {
        let failover = self.master.as_ref().and_then(|master| master.failover.as_ref());
        failover.is_some_and(|failover| failover.forced)
    }

    /// It has asked all replicas within the last so many milliseconds.
    pub fn has_asked(&self, ms: u64, within: u64) -> bool {
        self.master.as_ref().is_some_and(|master| master.replicas.values().all(|one| ms - one.info_at <= within))
    }
}

/// The master as a Sentinel knows it.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Watched {
    pub address: Address,
    pub config_epoch: u64,
    pub quorum: u32,
    pub down_after: u64,
    pub failover_timeout: u64,
    pub parallel_syncs: u32,
    pub master: Instance,
    pub replicas: BTreeMap<Address, Instance>,
    pub sentinels: BTreeMap<String, Peer>,
    pub failover: Option<Failover>,
    pub tried_at: Option<u64>,
}

/// A server as a Sentinel knows it.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Instance {
    ok_at: u64,
    info_at: u64,
    pub priority: u32,
    offset: u64,
    link_up: bool,
    role: Option<Role>,
    role_since: u64,
    follows: Option<Address>,
    follows_since: u64,
    link_down_ms: u64,
}

impl Instance {
    fn new(ms: u64) -> Self {
        Self {
            ok_at: ms,
            info_at: 0,
            priority: 100,
            offset: 0,
            link_up: false,
            role: None,
            role_since: ms,
            follows: None,
            follows_since: ms,
            link_down_ms: 0,
        }
    }

    pub fn down(&self, ms: u64, down_after: u64) -> bool {
        ms.saturating_sub(self.ok_at) > down_after
    }
}

/// Another Sentinel.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Peer {
    pub address: Address,
    ok_at: u64,
}

/// A failover that this Sentinel leads.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Failover {
    pub epoch: u64,
    forced: bool,
    begun: u64,
    asked: bool,
    pub promoted: Option<Address>,
    promoted_at: u64,
}

impl Watched {
    /// Since when this Sentinel takes the master for down: it is silent, or has said for long that it is a replica. Both count for
    /// its own failover and for what it answers others.
    ///
    /// Regression 432: only silence counted for the others. So a promoted master that came back as a replica, because it died before
    /// the operator heard of its promotion, stayed one for ever in this world, and not in a real one.
    pub fn down_since(&self, ms: u64) -> Option<u64> {
        let silent = Some(self.master.ok_at + self.down_after).filter(|since| ms > *since);
        let replica = || {
            let since = self.master.role_since + self.down_after + 2 * INFO_MS;
            Some(since).filter(|since| self.master.role == Some(Role::Replica) && ms > *since)
        };
        silent.or_else(replica)
    }

    fn new(address: Address, watch: &Watch, ms: u64) -> Self {
        Self {
            address,
            config_epoch: 0,
            quorum: watch.quorum,
            down_after: watch.sentinels.down_after_ms,
            failover_timeout: watch.sentinels.failover_timeout_ms,
            parallel_syncs: watch.parallel_syncs,
            master: Instance::new(ms),
            replicas: BTreeMap::new(),
            sentinels: BTreeMap::new(),
            failover: None,
            tried_at: None,
        }
    }

    /// Another master, in a config epoch; all others are its replicas.
    fn switch(&mut self, to: Address, epoch: u64, ms: u64) {
        let others: Vec<Address> =
            self.replicas.keys().copied().chain([self.address]).filter(|one| *one != to).collect();
        let before = std::mem::take(&mut self.replicas);
        self.replicas = others
            .into_iter()
            .map(|one| (one, before.get(&one).cloned().unwrap_or_else(|| Instance::new(ms))))
            .collect();
        self.master = before.get(&to).cloned().unwrap_or_else(|| Instance::new(ms));
        (self.address, self.config_epoch) = (to, epoch);
        self.replicas.values_mut().for_each(|one| (one.role_since, one.follows_since) = (ms, ms));
        (self.master.role, self.master.role_since) = (Some(Role::Master), ms);
        (self.failover, self.tried_at) = (None, None);
    }
}

impl World {
    pub fn order_sentinel(&mut self, name: &str, command: Command) {
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        match command {
            Command::Watch(watch) => {
                (disk.sentinel.durable, one.watcher.ordered) = (next::accept(&disk.sentinel.durable, &watch), true);
            }
            Command::Act { id, act } => {
                let known = one.watcher.answer.as_ref().is_some_and(|answer| answer.id == id)
                    || one.watcher.act.as_ref().is_some_and(|(known, _)| *known == id);
                if !known {
                    one.watcher.act = Some((id, act));
                }
            }
            _ => {}
        }
    }

    /// What a Sentinel's supervisor reads.
    fn view(&self, name: &str) -> Option<View> {
        let sentinel = self.boxes[name].watcher.running()?;
        let ms = self.ms;
        let master = sentinel.master.as_ref();
        let replica = |(address, one): (&Address, &Instance), watched: &Watched| Replica {
            seen: KnownReplica { address: *address, down: one.down(ms, watched.down_after), priority: one.priority },
            info_age_ms: ms - one.info_at,
            link_up: one.link_up,
            turning: false,
        };
        Some(View {
            id: sentinel.id.clone(),
            tilt: false,
            announce: sentinel.announce,
            master: master.map(|watched| Master {
                seen: MasterSeen {
                    address: watched.address,
                    config_epoch: watched.config_epoch,
                    quorum: watched.quorum,
                    down: watched.down_since(ms).is_some(),
                    failing_over: watched.failover.is_some(),
                    not_master: watched.master.role == Some(Role::Replica),
                },
                down_after_ms: watched.down_after,
                failover_timeout_ms: watched.failover_timeout,
                parallel_syncs: watched.parallel_syncs,
            }),
            replicas: master
                .map(|watched| watched.replicas.iter().map(|one| replica(one, watched)).collect())
                .unwrap_or_default(),
            sentinels: master
                .map(|watched| {
                    let peers = watched.sentinels.iter().map(|(id, peer)| KnownSentinel {
                        id: id.clone(),
                        address: peer.address,
                        down: ms.saturating_sub(peer.ok_at) > watched.down_after,
                    });
                    peers.collect()
                })
                .unwrap_or_default(),
            no_quorum: master.and_then(|watched| {
                let usable = self.usable(watched);
                let majority = watched.sentinels.len().div_ceil(2) + usize::from(watched.sentinels.len() % 2 == 0);
                let enough = usable >= majority.max(watched.quorum as usize);
                (!enough).then(|| format!("NOQUORUM {usable} usable Sentinels"))
            }),
        })
    }

    fn usable(&self, watched: &Watched) -> usize {
        let up = watched.sentinels.values().filter(|peer| self.ms.saturating_sub(peer.ok_at) <= watched.down_after);
        1 + up.count()
    }

    pub fn supervise_sentinel(&mut self, name: &str) {
        let member = Self::member(name);
        for _ in 0..ACTS {
            let mut view = self.view(name);
            match (self.ablation, &mut view) {
                (Some(Ablation::ResetConditions), Some(view)) => self.look_well(view),
                (Some(Ablation::FreshInfo), Some(view)) => {
                    view.replicas.iter_mut().for_each(|one| one.info_age_ms = 5_000);
                }
                _ => {}
            }
            let (one, disk) = (&self.boxes[name], self.disks.get(name).cloned().unwrap_or_default());
            let seen = Seen {
                ordered: one.watcher.ordered,
                credentials: disk.credentials,
                file: disk.sentinel.file.is_some(),
                server: if one.watcher.running { Server::Running } else { Server::Stopped },
                due: true,
                passwords: true,
                act: one.watcher.act.clone(),
                fresh: true,
                view,
                durable: disk.sentinel.durable.clone(),
                ..Seen::default()
            };
            let step = next::next(&seen);
            if matches!(step, Step::Wait | Step::Poll) {
                break;
            }
            self.tell(format!("  {member} {step:?}"));
            self.perform_sentinel(name, &seen, step);
        }
        let sentinel = self.boxes[name].watcher.sentinel.clone();
        if let Some(disk) = self.disks.get_mut(name).filter(|_| sentinel.is_some()) {
            disk.sentinel.file = sentinel;
        }
    }

    fn perform_sentinel(&mut self, name: &str, seen: &Seen, step: Step) {
        let (ms, own, member) = (self.ms, self.address(name), Self::member(name));
        let watch = seen.durable.watch.clone().unwrap_or_default();
        self.made += 1;
        let id = format!("id{}", self.made);
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        let watcher = &mut one.watcher;
        match step {
            Step::Wait | Step::Poll | Step::Exit => {}
            Step::Render(master) => {
                let master = Some(Watched::new(master, &watch, ms));
                disk.sentinel.file = Some(Sentinel { id, announce: own, epoch: 0, voted: 0, master });
                disk.sentinel.durable.group = Some(watch.group);
            }
            Step::Start => {
                watcher.running = true;
                watcher.sentinel.clone_from(&disk.sentinel.file);
                // What it knew of failovers and of who answers is not in its file.
                if let Some(watched) = watcher.sentinel.as_mut().and_then(|one| one.master.as_mut()) {
                    (watched.failover, watched.tried_at) = (None, None);
                    watched.master = Instance { ..Instance::new(ms) };
                    watched.replicas.values_mut().for_each(|one| *one = Instance::new(ms));
                    watched.sentinels.values_mut().for_each(|one| one.ok_at = ms);
                }
            }
            Step::Stop | Step::Kill => {
                disk.sentinel.file.clone_from(&watcher.sentinel);
                (watcher.running, watcher.sentinel) = (false, None);
            }
            Step::Settle(changes) => {
                let Some(sentinel) = watcher.sentinel.as_mut() else { return };
                for change in changes {
                    match (change, &mut sentinel.master) {
                        (Change::Announce(address), _) => sentinel.announce = Some(address),
                        (Change::Monitor(master), known @ None) => *known = Some(Watched::new(master, &watch, ms)),
                        (Change::Monitor(_), Some(_)) => {
                            self.broken.insert(format!("MONITOR of a name that {member} knows"));
                            return;
                        }
                        (Change::Set("quorum", value), Some(known)) => known.quorum = value as u32,
                        (Change::Set("down-after-milliseconds", value), Some(known)) => known.down_after = value,
                        (Change::Set("failover-timeout", value), Some(known)) => known.failover_timeout = value,
                        (Change::Set(..), Some(known)) => known.parallel_syncs = watch.parallel_syncs,
                        (Change::Set(..) | Change::Passwords, _) => {}
                    }
                }
            }
            Step::Answer(refused) => {
                if let Some((id, _)) = watcher.act.take() {
                    watcher.answer = Some(Answer { id, refused });
                }
            }
            Step::Perform(words) => {
                let Some((id, act)) = watcher.act.take() else { return };
                self.commands.push(format!("supervisor of {member}: {}", words[..2].join(" ")));
                let refused = self.act_of_sentinel(name, &act);
                if let Some(one) = self.boxes.get_mut(name) {
                    one.watcher.answer = Some(Answer { id, refused });
                }
            }
        }
    }

    /// What a Sentinel says, as if nothing were amiss.
    pub fn all_well(&self, seen: &mut SentinelSeen) {
        let addresses: Vec<Address> = self.boxes.keys().filter_map(|name| self.address(name)).collect();
        let exists = |address: &Address| addresses.contains(address);
        let Some(master) = &mut seen.master else { return };
        (master.down, master.failing_over, master.not_master) = (false, false, false);
        let known: Vec<Address> = seen.replicas.iter().map(|one| one.address).collect();
        for (name, address) in self.boxes.keys().filter_map(|name| Some((name, self.address(name)?))) {
            if !is_sentinel(name) && address != master.address && !known.contains(&address) {
                seen.replicas.push(KnownReplica { address, down: false, priority: 100 });
            }
        }
        seen.replicas.iter_mut().filter(|one| exists(&one.address)).for_each(|one| one.down = false);
        seen.sentinels.iter_mut().filter(|one| exists(&one.address)).for_each(|one| one.down = false);
    }

    /// The same for its supervisor.
    fn look_well(&self, view: &mut View) {
        let Some(master) = &mut view.master else { return };
        let mut seen = SentinelSeen {
            master: Some(master.seen.clone()),
            replicas: view.replicas.iter().map(|one| one.seen.clone()).collect(),
            sentinels: view.sentinels.clone(),
            ..SentinelSeen::default()
        };
        self.all_well(&mut seen);
        master.seen = seen.master.unwrap_or_else(|| master.seen.clone());
        let replica = |seen| Replica { seen, info_age_ms: 5_000, link_up: true, turning: false };
        (view.replicas, view.sentinels) = (seen.replicas.into_iter().map(replica).collect(), seen.sentinels);
    }

    /// A command of its supervisor; the error, if it refuses.
    fn act_of_sentinel(&mut self, name: &str, act: &Act) -> Option<String> {
        let ms = self.ms;
        if let Act::Failover { .. } = act {
            self.check_alone(name);
        }
        if let Act::Reset { .. } = act {
            self.check_reset(name);
        }
        let refuses = self.refuses.get(&Self::member(name)).cloned();
        let sentinel = self.boxes.get_mut(name)?.watcher.sentinel.as_mut()?;
        let watched = sentinel.master.as_mut()?;
        match act {
            Act::Failover { .. } => {
                if refuses.is_some() {
                    return refuses;
                }
                if watched.failover.is_some() {
                    return Some("INPROG Failover already in progress".into());
                }
                if select(watched, ms).is_none() {
                    return Some("NOGOODSLAVE No suitable replica to promote".into());
                }
                sentinel.epoch += 1;
                sentinel.voted = sentinel.epoch;
                let (epoch, forced) = (sentinel.epoch, true);
                watched.failover =
                    Some(Failover { epoch, forced, begun: ms, asked: false, promoted: None, promoted_at: 0 });
                watched.tried_at = Some(ms);
            }
            Act::Announce { to, epoch, .. } => {
                sentinel.epoch = sentinel.epoch.max(*epoch);
                if watched.config_epoch < *epoch {
                    watched.switch(*to, *epoch, ms);
                }
            }
            Act::Reset { .. } => {
                (watched.failover, watched.tried_at) = (None, None);
                watched.sentinels.clear();
                self.forget_replicas(name);
            }
        }
        None
    }

    /// A Sentinel knows no replica, and asks the master for them 10 s later.
    pub fn forget_replicas(&mut self, name: &str) {
        let ms = self.ms;
        let sentinel = self.boxes.get_mut(name).and_then(|one| one.watcher.sentinel.as_mut());
        if let Some(watched) = sentinel.and_then(|one| one.master.as_mut()) {
            watched.replicas.clear();
            watched.master.info_at = ms;
        }
    }

    // The Sentinels themselves.

    pub fn run_sentinels(&mut self) {
        let names: Vec<String> = self.boxes.keys().filter(|name| is_sentinel(name)).cloned().collect();
        names.iter().for_each(|name| self.run_sentinel(name, self.ms.is_multiple_of(HELLO_MS)));
    }

    /// One Sentinel asks, is heard, and decides.
    pub fn run_sentinel(&mut self, name: &str, hello: bool) {
        if self.boxes[name].state != ContainerState::Running {
            return;
        }
        let Some(mut sentinel) = self.boxes[name].watcher.running().cloned() else { return };
        self.poll(name, &mut sentinel);
        if let Some(one) = self.boxes.get_mut(name) {
            one.watcher.sentinel = Some(sentinel);
        }
        if hello {
            self.hello(name);
        }
        self.lead_failover(name);
    }

    /// PING and INFO.
    fn poll(&self, name: &str, sentinel: &mut Sentinel) {
        let Some(watched) = sentinel.master.as_mut() else { return };
        let ms = self.ms;
        let hurried = watched.failover.is_some() || watched.down_since(ms).is_some();
        let ask = |address: Address, one: &mut Instance, every: u64| {
            let there = self.at(address).filter(|there| self.reaches(name, there));
            let Some((there, server)) = there.and_then(|there| Some((there.clone(), self.redis(&there)?))) else {
                one.link_up = false;
                return None;
            };
            one.ok_at = ms;
            let every = if one.link_up || server.role == Role::Master { every } else { INFO_HURRIED_MS };
            if one.info_at != 0 && ms - one.info_at < every {
                return None;
            }
            (one.info_at, one.priority, one.offset) = (ms, server.priority, server.offset);
            one.link_up = server.link_up;
            one.link_down_ms = if server.link_up { 0 } else { ms - server.link_down_since };
            if one.role != Some(server.role) {
                (one.role, one.role_since) = (Some(server.role), ms);
            }
            if one.follows != server.follows {
                (one.follows, one.follows_since) = (server.follows, ms);
            }
            Some(there)
        };
        let found = ask(watched.address, &mut watched.master, if hurried { INFO_HURRIED_MS } else { INFO_MS });
        if let Some(master) = found.filter(|_| watched.master.role == Some(Role::Master)) {
            for (replica, online) in self.replicas(&master) {
                if let Some(address) = self.address(&replica).filter(|_| online) {
                    watched.replicas.entry(address).or_insert_with(|| Instance::new(ms));
                }
            }
        }
        let asked = watched.failover.as_ref().is_some_and(|failover| failover.forced && !failover.asked);
        for (address, one) in &mut watched.replicas {
            let every = if hurried || asked { INFO_HURRIED_MS } else { INFO_MS };
            ask(*address, one, every);
        }
        for peer in watched.sentinels.values_mut() {
            let there = self.at(peer.address).filter(|there| self.reaches(name, there));
            if there.is_some_and(|there| self.boxes[&there].watcher.running) {
                peer.ok_at = ms;
            }
        }
    }

    /// A message to all other Sentinels that watch a common server.
    fn hello(&mut self, name: &str) {
        let Some(sentinel) = self.boxes[name].watcher.running().cloned() else { return };
        let (Some(watched), Some(address)) = (&sentinel.master, sentinel.announce) else { return };
        let servers: Vec<Address> = watched.replicas.keys().copied().chain([watched.address]).collect();
        let servers: Vec<String> = servers
            .into_iter()
            .filter_map(|at| self.at(at))
            .filter(|server| self.reaches(name, server) && self.redis(server).is_some())
            .collect();
        let others: Vec<String> =
            self.boxes.keys().filter(|other| is_sentinel(other) && *other != name).cloned().collect();
        let ms = self.ms;
        for other in others {
            let Some(hearer) = self.boxes[&other].watcher.running().and_then(|one| one.master.clone()) else {
                continue;
            };
            let watches = |server: &String| {
                let known =
                    self.address(server).is_some_and(|at| at == hearer.address || hearer.replicas.contains_key(&at));
                known && self.reaches(&other, server)
            };
            if !servers.iter().any(watches) {
                continue;
            }
            let Some(hearer) = self.boxes.get_mut(&other).and_then(|one| one.watcher.sentinel.as_mut()) else {
                continue;
            };
            hearer.epoch = hearer.epoch.max(sentinel.epoch);
            let Some(known) = hearer.master.as_mut() else { continue };
            known.sentinels.retain(|id, peer| *id == sentinel.id || peer.address != address);
            let peer = known.sentinels.entry(sentinel.id.clone()).or_insert(Peer { address, ok_at: ms });
            peer.address = address;
            if watched.config_epoch > known.config_epoch {
                if known.address == watched.address {
                    known.config_epoch = watched.config_epoch;
                } else {
                    known.switch(watched.address, watched.config_epoch, ms);
                }
            }
        }
    }

    /// Everything that a Sentinel does about who is master.
    fn lead_failover(&mut self, name: &str) {
        let ms = self.ms;
        let Some(mut sentinel) = self.boxes[name].watcher.running().cloned() else { return };
        let (epoch, id) = (sentinel.epoch, sentinel.id.clone());
        let Some(watched) = sentinel.master.as_mut() else { return };
        let down = watched.down_since(ms);
        match watched.failover.clone() {
            None if down.is_some() => {
                let agree = 1 + self
                    .peers(name, watched)
                    .filter(|(_, peer)| {
                        peer.master
                            .as_ref()
                            .is_some_and(|one| one.address == watched.address && one.down_since(ms).is_some())
                    })
                    .count();
                // Each waits up to a second, so that they do not all begin at once.
                let jitter = 100 * (u64::from(id.bytes().last().unwrap_or(0)) % 10);
                let due = match watched.tried_at {
                    Some(at) => ms - at > 2 * watched.failover_timeout + jitter,
                    None => down.is_some_and(|since| ms - since > jitter),
                };
                if agree >= watched.quorum as usize && due {
                    let epoch = epoch + 1;
                    let known = watched.sentinels.len() + 1;
                    let needed = (known / 2 + 1).max(watched.quorum as usize);
                    let voters: Vec<String> = self
                        .peers(name, watched)
                        .filter(|(_, peer)| peer.voted < epoch && peer.epoch <= epoch)
                        .map(|(peer, _)| peer)
                        .collect();
                    watched.tried_at = Some(ms);
                    let elected = sentinel.voted < epoch && voters.len() + 1 >= needed;
                    (sentinel.epoch, sentinel.voted) = (epoch, epoch);
                    for voter in &voters {
                        if let Some(peer) = self.boxes.get_mut(voter).and_then(|one| one.watcher.sentinel.as_mut()) {
                            (peer.voted, peer.epoch) = (epoch, epoch);
                            if let Some(watched) = peer.master.as_mut() {
                                watched.tried_at = Some(ms);
                            }
                        }
                    }
                    if elected && let Some(watched) = sentinel.master.as_mut() {
                        let failover =
                            Failover { epoch, forced: false, begun: ms, asked: true, promoted: None, promoted_at: 0 };
                        watched.failover = Some(failover);
                        self.tell(format!("  {} leads a failover in epoch {epoch}", Self::member(name)));
                    }
                }
            }
            None => {
                // It imposes its view on servers that look otherwise, if the master looks sane.
                let sane = watched.master.role == Some(Role::Master) && ms - watched.master.ok_at < 1_000;
                let wrong: Vec<Address> = watched
                    .replicas
                    .iter()
                    .filter(|(_, one)| match one.role {
                        Some(Role::Master) => ms - one.role_since > 4 * HELLO_MS && ms - one.info_at < INFO_MS * 2,
                        Some(Role::Replica) => {
                            one.follows != Some(watched.address) && ms - one.follows_since > watched.failover_timeout
                        }
                        None => false,
                    })
                    .map(|(address, _)| *address)
                    .collect();
                let to = watched.address;
                for address in wrong.into_iter().filter(|_| sane) {
                    self.replicaof(name, address, Some(to));
                }
            }
            Some(failover) => match failover.promoted {
                None if !failover.asked => {
                    if let Some(failover) = watched.failover.as_mut() {
                        failover.asked = true;
                    }
                }
                None => match select(watched, ms) {
                    Some(to) if self.replicaof(name, to, None) => {
                        self.check_promotion(name, to, failover.forced);
                        if let Some(failover) = watched.failover.as_mut() {
                            (failover.promoted, failover.promoted_at) = (Some(to), ms);
                        }
                    }
                    Some(_) if ms - failover.begun < watched.failover_timeout => {}
                    _ => watched.failover = None,
                },
                Some(to) => {
                    let one = watched.replicas.get(&to);
                    let turned =
                        one.is_some_and(|one| one.role == Some(Role::Master) && one.info_at >= failover.promoted_at);
                    if turned {
                        let replicas: Vec<Address> = watched
                            .replicas
                            .keys()
                            .copied()
                            .chain([watched.address])
                            .filter(|one| *one != to)
                            .collect();
                        watched.switch(to, failover.epoch, ms);
                        for replica in replicas {
                            let old = self.at(replica).and_then(|there| self.redis(&there)).map(|one| one.role);
                            // The old master is turned only when it has been seen as a master for some time.
                            if old == Some(Role::Replica) {
                                self.replicaof(name, replica, Some(to));
                            }
                        }
                    } else if ms - failover.promoted_at > watched.failover_timeout {
                        watched.failover = None;
                    }
                }
            },
        }
        if let Some(one) = self.boxes.get_mut(name) {
            one.watcher.sentinel = Some(sentinel);
        }
    }

    /// Other Sentinels that it knows and reaches.
    fn peers<'w>(&'w self, name: &'w str, watched: &'w Watched) -> impl Iterator<Item = (String, &'w Sentinel)> + 'w {
        watched.sentinels.iter().filter_map(move |(id, peer)| {
            let there = self.at(peer.address).filter(|there| self.reaches(name, there))?;
            let sentinel = self.boxes[&there].watcher.running().filter(|one| one.id == *id)?;
            Some((there, sentinel))
        })
    }

    /// `REPLICAOF` by a Sentinel. Whether the server took it.
    fn replicaof(&mut self, name: &str, address: Address, to: Option<Address>) -> bool {
        let Some(there) = self.at(address).filter(|there| self.reaches(name, there)) else { return false };
        let ms = self.ms;
        let (words, run) = (to.map_or("NO ONE".to_owned(), |to| to.ip.to_string()), self.run_of(&there));
        let Some(server) = self.redis_mut(&there) else { return false };
        match to {
            Some(to) => server.follow(to, ms),
            None => server.lead(&run),
        }
        let (member, there) = (Self::member(name), Self::member(&there));
        self.commands.push(format!("Sentinel {member}: REPLICAOF {words} to {there}"));
        self.tell(format!("  {member}: REPLICAOF {words} to {there}"));
        true
    }

    pub fn report_sentinel(&self, name: &str, report: Report) -> Report {
        let one = &self.boxes[name];
        let durable = self.disks.get(name).map(|disk| disk.sentinel.durable.clone()).unwrap_or_default();
        let view = self.view(name);
        let running = one.watcher.running;
        let view = view.unwrap_or_default();
        let seen = SentinelSeen {
            watch: durable.watch,
            id: Some(view.id).filter(|_| running),
            epoch: one.watcher.running().map_or(0, |sentinel| sentinel.epoch),
            tilt: false,
            master: view.master.map(|master| master.seen),
            replicas: view.replicas.into_iter().map(|replica| replica.seen).collect(),
            sentinels: view.sentinels,
            no_quorum: view.no_quorum,
            answer: one.watcher.answer.clone(),
        };
        let server = if running { Server::Running } else { Server::Stopped };
        Report { run: format!("{}-{}", one.id, one.boot), server, sentinel: Some(seen), ..report }
    }
}

/// The replica that a Sentinel promotes: it answers, INFO of it is new, it may be promoted, and its link did not break long
/// before the master was down. The lowest priority, then the highest offset.
fn select(watched: &Watched, ms: u64) -> Option<Address> {
    let master_down = watched.down_since(ms);
    let info_limit = if master_down.is_some() { 5_000 } else { 30_000 };
    let since_down = master_down.map_or(0, |since| ms - since);
    let fits = |one: &&(&Address, &Instance)| {
        let (_, one) = one;
        !one.down(ms, watched.down_after)
            && ms - one.ok_at <= 5_000
            && one.priority != 0
            && one.info_at != 0
            && ms - one.info_at <= info_limit
            && one.link_down_ms <= since_down + 10 * watched.down_after
    };
    let candidates: Vec<_> = watched.replicas.iter().collect();
    let best = candidates.iter().filter(fits);
    best.min_by_key(|(address, one)| (one.priority, u64::MAX - one.offset, **address)).map(|(address, _)| **address)
}
