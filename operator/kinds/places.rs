//! Decides on which hosts the members of an object live, with which ports, and which member another one takes the place of, for all
//! kinds whose members have data. Pure.
//!
//! On a Docker network all members are on one host. On the hosts' networks each member is on the host that was chosen for it
//! once: its host is a part of its identity. It never moves; it is replaced by a member with another ordinal, which is ready
//! before the old one leaves.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::containers::{DockerSeen, HOME};
use super::hosts::{Declared, DeclaredHosts, apart};
use super::loss::{self, Silent};
use super::placement::{self, Candidate, Wants};
use super::ports::{self, PortStep, Reserved};
use crate::api::placement::{Network, NetworkMode, Placement, ReplaceAfter, Replacement, ReplacementCause};
use crate::api::port_reservation::PortOwner;

/// The highest ordinal that is adopted from the name of a volume. Ordinals are not used again, so they grow; a volume beyond this
/// was not made by Evenkeel.
const ADOPTED: u32 = 9_999;

/// The place of a member, as a kind records it.
pub trait Place: Clone {
    /// A new one on the network of its host, without an address.
    fn new(name: String, ordinal: u32, host: String) -> Self;
    /// Name of the member.
    fn name(&self) -> &str;
    /// Its ordinal.
    fn ordinal(&self) -> u32;
    /// Its host.
    fn host(&self) -> &str;
    /// The network that its container is on.
    fn network(&self) -> Network;
    /// Its address.
    fn address(&self) -> Option<Ipv4Addr>;
    /// The ports that it has on the network of its host, one for each purpose of its group.
    fn ports(&self) -> Vec<Option<u16>>;
    /// Puts it on the network of its host, with this address and these ports.
    fn put(&mut self, address: Option<Ipv4Addr>, ports: &[Option<u16>]);
}

/// What is known of the hosts, and of the object.
pub struct Ground<'a> {
    /// `spec.placement`.
    pub placement: &'a Placement,
    /// What the DockerHosts declare.
    pub declared: &'a DeclaredHosts,
    /// The reserved ports.
    pub reserved: &'a Reserved,
    /// What was observed on the hosts.
    pub hosts: &'a BTreeMap<String, DockerSeen>,
    /// Hosts of members that do not answer, with the time that this operator has waited.
    pub silent: &'a Silent,
    /// The object, as its reservations name it.
    pub owner: PortOwner,
    /// The name of the container of a member.
    pub container: &'a dyn Fn(&str) -> String,
}

/// The ordinal of the member that has a volume of this name.
pub type Adopted<'a> = &'a dyn Fn(&str) -> Option<u32>;

/// What a kind says of members that are spread over the hosts together.
pub struct Rules<'a> {
    /// The number of members that the spec asks for.
    pub wanted: usize,
    /// The name of the member with this ordinal.
    pub name: &'a dyn Fn(u32) -> String,
    /// The member that must not be replaced: it leads, so that another one has to lead first.
    pub leads: &'a dyn Fn(&str) -> bool,
    /// The member does its work, so that another one may leave for it.
    pub ready: &'a dyn Fn(&str) -> bool,
    /// Its supervisor says that another program has its port.
    pub taken: &'a dyn Fn(&str) -> bool,
    /// A replacement may begin.
    pub calm: bool,
    /// Before the first decision: the ordinal of the member that has a volume of this name.
    pub adopted: Option<Adopted<'a>>,
    /// No host may have two of them.
    pub alone: bool,
    /// What each member needs a port for.
    pub purposes: &'a [&'a str],
    /// The port that a person named, for every member.
    pub fixed: Option<u16>,
}

/// Members that are spread over the hosts together, as recorded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group<P> {
    /// The members.
    pub members: Vec<P>,
    /// The highest ordinal that a member ever had.
    pub last_ordinal: u32,
    /// A member that another one takes the place of.
    pub replacement: Option<Replacement>,
}

/// The members of now, and what has to be done and told about their places.
pub struct Placed<P> {
    /// The members.
    pub group: Group<P>,
    /// Reservations of ports.
    pub steps: Vec<PortStep>,
    /// Why a member has no place, or keeps one that it should leave: reason and message.
    pub problem: Option<(&'static str, String)>,
}

/// The hosts that are observed for an object whose members are on `hosts`. `spread`: others may get or have members.
pub fn hosts(hosts: impl Iterator<Item = String>, declared: &DeclaredHosts, spread: bool) -> BTreeSet<String> {
    let others = declared.iter().filter(|(_, host)| spread && host.address.is_some()).map(|(name, _)| name.clone());
    let home = Some(HOME.to_owned()).filter(|home| declared.is_empty() || declared.contains_key(home));
    hosts.chain(others).chain(home).collect()
}

/// The hosts that can be cleaned up, or that a deletion has to wait for: not one that a person says is out of service, while it
/// does not answer.
pub fn reachable(hosts: &BTreeMap<String, DockerSeen>, declared: &DeclaredHosts) -> BTreeMap<String, DockerSeen> {
    let lost = |host: &str| declared.get(host).is_some_and(|host| host.lost);
    let hosts = hosts.iter().filter(|(name, seen)| seen.containers.known().is_some() || !lost(name));
    hosts.map(|(name, seen)| (name.clone(), seen.clone())).collect()
}

/// The network of the members: decided when the object is made (`new`: it has no members yet), and changed only from one host
/// to several.
pub fn network(placement: &Placement, declared: &DeclaredHosts, before: Network, new: bool) -> Network {
    let addressed = declared.values().filter(|host| host.address.is_some()).count();
    let alone = !declared.is_empty() && !declared.contains_key(HOME);
    match (placement.network, before) {
        (_, Network::Host) | (NetworkMode::Host, _) => Network::Host,
        (NetworkMode::Auto, _) if new && (addressed > 1 || alone) => Network::Host,
        (NetworkMode::Auto | NetworkMode::Bridge, Network::Bridge) => Network::Bridge,
    }
}

/// The silent hosts without those from which the supervisor of a member answers. `live`: that of this member does.
pub fn silent<'p, P: Place + 'p>(
    silent: &Silent,
    members: impl Iterator<Item = &'p P> + Clone,
    live: impl Fn(&str) -> bool,
) -> Silent {
    let heard = |host: &str| members.clone().any(|place| place.host() == host && live(place.name()));
    silent.iter().filter(|(host, _)| !heard(host)).map(|(host, waited)| (host.clone(), *waited)).collect()
}

/// Places the members of a group on the hosts' networks. `bridged` gives a member that is still on a Docker network its address
/// there.
pub fn placed<P: Place>(ground: &Ground, rules: &Rules, before: Group<P>, bridged: impl Fn(&mut P)) -> Placed<P> {
    let mut placed = Placed { group: before, steps: Vec::new(), problem: None };
    placed.end_replacement(ground, rules);
    placed.add_missing(ground, rules);
    placed.replace(ground, rules);
    placed.refresh(ground, rules, bridged);
    placed
}

/// The place as its container has to be: on its host's network as soon as it has its ports there.
pub fn wanted<P: Place>(
    declared: &DeclaredHosts,
    reserved: &Reserved,
    owner: &PortOwner,
    purposes: &[&str],
    place: &P,
) -> P {
    let mut wanted = place.clone();
    let address = declared.get(place.host()).and_then(|host| host.address);
    let held = |purpose: &&str| ports::held(reserved, owner, place.name(), purpose, place.host());
    let held: Vec<Option<u16>> = purposes.iter().map(held).collect();
    if place.network().is_bridge() && address.is_some() && held.iter().all(Option::is_some) {
        wanted.put(address, &held);
    }
    wanted
}

/// The steps that release the ports of an object that none of these members has.
pub fn released<'p, P: Place + 'p>(ground: &Ground, members: impl Iterator<Item = &'p P>) -> Vec<PortStep> {
    let kept: Vec<_> = members.map(|place| (place.name(), place.host())).collect();
    ports::release(ground.reserved, &ground.owner, |spec| kept.contains(&(spec.member.as_str(), spec.host.as_str())))
}

/// The request of the switchover that takes the leader away from its host, and the members it may go to; `None` if it may stay.
pub fn leaves_its_host<P: Place>(
    declared: &DeclaredHosts,
    members: &[P],
    leader: &str,
) -> Option<(String, Vec<String>)> {
    let leader = members.iter().find(|place| place.name() == leader)?;
    let host = declared.get(leader.host())?;
    let request = match (host.drains, host.maintained) {
        (true, _) => format!("drain of host {}", leader.host()),
        (_, true) => format!("maintenance of host {}", leader.host()),
        _ => return None,
    };
    let stays =
        |place: &&P| declared.get(place.host()).is_some_and(|host| !(host.drains || host.maintained || host.lost));
    let others = members.iter().filter(|place| place.name() != leader.name()).filter(stays);
    Some((request, others.map(|place| place.name().to_owned()).collect()))
}

/// The hosts as candidates for one more member of these, which maybe takes the place of one that leaves.
fn candidates<'a, P: Place>(ground: &Ground<'a>, members: &[P], leaver: Option<&str>) -> Vec<Candidate<'a>> {
    let answers = |host: &str| ground.hosts.get(host).is_some_and(|seen| seen.containers.known().is_some());
    // A host that is dead is not reached either, and that must not stop the replacement of what it had.
    let alive = |host: &str| answers(host) && ground.declared.get(host).is_some_and(|host| !host.lost);
    let others = || members.iter().filter(|place| Some(place.name()) != leaver && alive(place.host()));
    let candidate = |(name, host): (&'a String, &'a Declared)| Candidate {
        name,
        host,
        answers: answers(name),
        own: members.iter().filter(|place| place.host() == name).count(),
        apart: others().any(|place| apart(ground.declared, name, place.host())),
    };
    ground.declared.iter().map(candidate).collect()
}

impl<P: Place> Placed<P> {
    /// Members until there are enough for the spec, and, before the first decision, also every one whose volume exists.
    fn add_missing(&mut self, ground: &Ground, rules: &Rules) {
        let Group { members, last_ordinal, .. } = &mut self.group;
        if let Some(adopted) = rules.adopted {
            for (host, seen) in ground.hosts {
                let found = seen.volumes.known().into_iter().flatten().filter_map(|one| adopted(one));
                for ordinal in found.filter(|ordinal| (1..=ADOPTED).contains(ordinal)) {
                    if !members.iter().any(|place| place.ordinal() == ordinal) {
                        members.push(P::new((rules.name)(ordinal), ordinal, host.clone()));
                    }
                }
            }
            members.sort_by_key(Place::ordinal);
        }
        *last_ordinal = members.iter().map(Place::ordinal).chain([*last_ordinal]).max().unwrap_or_default();
        if self.moves() {
            return;
        }
        let replaced = usize::from(self.group.replacement.is_some());
        while self.group.members.len() < rules.wanted + replaced {
            if !self.add(ground, rules, false, None) {
                return;
            }
        }
    }

    /// Members are still on the Docker network of one host, where no member on another host can reach them.
    fn moves(&self) -> bool {
        self.group.members.iter().any(|place| place.network().is_bridge())
    }

    /// Adds a member on the host that is best for it; `alone`: only on a host without another one. `leaver`: the member whose
    /// place it takes.
    fn add(&mut self, ground: &Ground, rules: &Rules, alone: bool, leaver: Option<&str>) -> bool {
        let Group { members, last_ordinal, .. } = &mut self.group;
        let candidates = candidates(ground, members, leaver);
        let selector = Some(&ground.placement.node_selector);
        let wants = Wants { selector, address: true, alone: alone || rules.alone };
        match placement::choose(&candidates, &wants, &ground.owner.uid) {
            Some(host) => {
                *last_ordinal += 1;
                members.push(P::new((rules.name)(*last_ordinal), *last_ordinal, host.to_owned()));
                true
            }
            None => {
                self.problem = Some(("NoPlace", placement::nowhere(&candidates, &wants)));
                false
            }
        }
    }

    fn place(&self, name: &str) -> Option<&P> {
        self.group.members.iter().find(|place| place.name() == name)
    }

    /// Ends a replacement that is done, and turns around one that is not needed any more.
    fn end_replacement(&mut self, ground: &Ground, rules: &Rules) {
        let Some(Replacement { member, by, cause }) = self.group.replacement.clone() else { return };
        let (Some(old), Some(_)) = (self.place(&member), self.place(&by)) else {
            self.group.replacement = None;
            return;
        };
        let holds = holds(ground, &self.group.members, old, cause);
        // A leader leaves only if it has to switch over first; another one that became the leader meanwhile stays.
        let yields = holds && !matches!(cause, ReplacementCause::SharedHost | ReplacementCause::NotNeeded);
        let stays = match (rules.leads)(&member) {
            true => !yields,
            false => !holds && !(rules.ready)(&by) && (rules.ready)(&member),
        };
        if stays {
            let cause = ReplacementCause::NotNeeded;
            self.group.replacement = Some(Replacement { member: by, by: member, cause });
        }
    }

    /// Names a member that another one has to take the place of. One at a time, and only while nothing else is added or removed.
    fn replace(&mut self, ground: &Ground, rules: &Rules) {
        if !rules.calm || self.moves() || self.group.replacement.is_some() || self.group.members.len() != rules.wanted {
            return;
        }
        let Some((leaver, cause)) = leaver(ground, rules, &self.group.members) else { return };
        let (member, why) = (leaver.name().to_owned(), in_words(leaver.host(), cause));
        let shares = cause == ReplacementCause::SharedHost;
        let before = self.group.clone();
        if self.add(ground, rules, shares, Some(&member)) {
            let by = self.group.members.last().map(|place| place.name().to_owned()).unwrap_or_default();
            self.group.replacement = Some(Replacement { member, by, cause });
        } else {
            let nowhere = self.problem.take().map(|(_, text)| text).unwrap_or_default();
            let reason = if cause == ReplacementCause::Drain { "DrainBlocked" } else { "ReplacementBlocked" };
            self.problem =
                Some((reason, format!("{member} stays where it is: {why}, but {nowhere}"))).filter(|_| !shares);
            self.group = before;
        }
    }

    /// Ports and addresses of members that are on their hosts' networks, or will be.
    fn refresh(&mut self, ground: &Ground, rules: &Rules, bridged: impl Fn(&mut P)) {
        let owner = &ground.owner;
        // What is reserved in this very plan counts too: two members on one host do not try for the same port.
        let mut reserved = Cow::Borrowed(ground.reserved);
        for place in &mut self.group.members {
            let Some(declared) = ground.declared.get(place.host()) else { continue };
            let (name, host, had) = (place.name().to_owned(), place.host().to_owned(), place.ports());
            let mut held = Vec::new();
            for (purpose, had) in rules.purposes.iter().zip(had.iter().copied().chain(std::iter::repeat(None))) {
                let mut port = ports::held(&reserved, owner, &name, purpose, &host);
                // A port that a person named is not another one.
                let taken = had.filter(|had| port == Some(*had) && rules.fixed.is_none() && (rules.taken)(&name));
                if let Some(port) = taken {
                    self.steps.push(PortStep::Foreign { host: host.clone(), port });
                }
                port = port.filter(|_| taken.is_none());
                if port.is_none() && declared.address.is_some() {
                    match ports::reserve(&reserved, owner, (&name, purpose), (&host, declared), rules.fixed) {
                        Ok(spec) => {
                            ports::note(reserved.to_mut(), &spec);
                            self.steps.push(PortStep::Reserve(Box::new(spec)));
                        }
                        Err(why) => self.problem = Some(("PortConflict", why)),
                    }
                }
                held.push(port);
            }
            let containers = ground.hosts.get(&host).and_then(|seen| seen.containers.known());
            let gone = containers.is_some_and(|all| !all.contains_key(&(ground.container)(&name)));
            if place.network().is_bridge() && !(gone && held.iter().all(Option::is_some)) {
                // It is where it was until its container is removed, to be made anew on the host's network.
                bridged(place);
                continue;
            }
            let had = if place.network().is_bridge() { Vec::new() } else { had };
            let had = had.into_iter().chain(std::iter::repeat(None));
            let ports: Vec<Option<u16>> = held.into_iter().zip(had).map(|(held, had)| held.or(had)).collect();
            let complete = ports.iter().all(Option::is_some);
            place.put(declared.address.or(place.address()).filter(|_| complete), &ports);
        }
    }
}

/// The member that has to leave its host, and why. Never the leader: it switches over first, or fails.
fn leaver<'p, P: Place>(ground: &Ground, rules: &Rules, members: &'p [P]) -> Option<(&'p P, ReplacementCause)> {
    use ReplacementCause::{Drain, HostSilent, OutOfService, SharedHost};
    [OutOfService, HostSilent, Drain, SharedHost].into_iter().find_map(|cause| {
        let mut followers = members.iter().rev().filter(|place| !(rules.leads)(place.name()));
        Some((followers.find(|place| holds(ground, members, place, cause))?, cause))
    })
}

/// Whether a member has to leave its host for this cause.
fn holds<P: Place>(ground: &Ground, members: &[P], place: &P, cause: ReplacementCause) -> bool {
    let declared = ground.declared.get(place.host());
    match cause {
        ReplacementCause::OutOfService => declared.is_some_and(|host| host.lost),
        ReplacementCause::HostSilent => match ground.placement.replace_after.unwrap_or_default() {
            ReplaceAfter::Never => false,
            // Of hosts that fell silent together nothing is replaced: this operator may be the one that is cut off.
            ReplaceAfter::Time(after) => {
                let waited = ground.silent.get(place.host()).is_some_and(|waited| *waited >= after.get());
                waited && !loss::judge(ground.declared, ground.silent).many.contains(place.host())
            }
        },
        ReplacementCause::Drain => declared.is_some_and(|host| host.drains),
        ReplacementCause::SharedHost => {
            let spread = |other: &&P| other.host() == place.host() && other.network() == Network::Host;
            members.iter().filter(spread).count() > 1
        }
        ReplacementCause::NotNeeded => true,
    }
}

fn in_words(host: &str, cause: ReplacementCause) -> String {
    match cause {
        ReplacementCause::OutOfService => format!("host {host} is out of service"),
        ReplacementCause::HostSilent => format!("host {host} does not answer"),
        ReplacementCause::Drain => format!("host {host} is being drained"),
        ReplacementCause::SharedHost => format!("another member is on host {host}, too"),
        ReplacementCause::NotNeeded => "it is not needed".to_owned(),
    }
}
