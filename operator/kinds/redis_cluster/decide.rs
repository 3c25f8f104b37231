//! Every decision about the nodes of a Redis Cluster: which servers may start, who takes over, who meets, replicates, moves
//! slots and is forgotten. Pure and total.
//!
//! Nothing of it is a plan that is carried out step by step: each reconcile compares what the nodes say with what is wanted,
//! and does the first thing that is missing. So a crash of anybody at any step changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::view::{Member, View};
use crate::api::redis_cluster::{ClusterDecisions, ClusterFailover, ClusterMigration, ClusterNode, ClusterStage};
use crate::kinds::waits;
use crate::supervisor::redis::cluster::wire::{Act, BATCH, Known, SLOTS, Start};
use crate::supervisor::redis::wire::{Link, Server};

/// A link of a replica that broke no longer ago than this, in seconds, lost nothing but what came since.
const FRESH_S: u64 = 5;
/// Time that a failover may take before the dead master is started instead, if it has its data.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was decided.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decided {
    /// The next decisions.
    pub decisions: ClusterDecisions,
    /// What nodes are asked to do, by member.
    pub acts: Vec<(String, Act)>,
    /// Failovers that have ended.
    pub ended: Option<ClusterFailover>,
    /// The member that is removed now: nothing of it is needed any more.
    pub gone: Option<String>,
    /// Everything is as wanted: a member may be changed.
    pub settled: bool,
    /// Why it does not go on.
    pub blocker: Option<(&'static str, String)>,
}

/// Decides.
pub fn decide(view: &View) -> Decided {
    let mut decided = Decided { decisions: view.before.clone(), ..Decided::default() };
    decided.decisions.nodes = remembered(view);
    match view.before.stage {
        ClusterStage::New => begin(view, &mut decided),
        ClusterStage::Creating => create(view, &mut decided),
        ClusterStage::Steady => steady(view, &mut decided),
    }
    decided
}

/// What is known of each node after this reconcile.
fn remembered(view: &View) -> Vec<ClusterNode> {
    let of = |one: &Member| {
        let before = one.record.cloned();
        let Some((report, node)) = one.serving().zip(one.running()) else { return before };
        let was = before.as_ref().is_some_and(|before| before.in_sync && before.master == node.own.master);
        let master =
            node.own.master.as_deref().and_then(|id| view.by_id(id)).filter(|master| master.running().is_some());
        let in_sync = match (&report.link, master) {
            // What a replica without a master has does not grow.
            (_, None) => was,
            (Some(link), Some(_)) => {
                let fresh = !link.syncing && link.down_s < FRESH_S;
                link.synced && (in_sync(view, one) || was && fresh)
            }
            (None, Some(_)) => false,
        };
        let (id, master) = (node.own.id.clone(), node.own.master.clone());
        Some(ClusterNode { member: one.name().to_owned(), id, master, in_sync })
    };
    view.members.iter().filter_map(of).collect()
}

fn enter(view: &View, decided: &mut Decided, stage: ClusterStage) {
    (decided.decisions.stage, decided.decisions.since) = (stage, view.now);
}

/// Looks for data: an existing cluster is taken over, else a new one is made.
fn begin(view: &View, decided: &mut Decided) {
    if let Some(silent) = view.members.iter().find(|one| one.live().is_none()) {
        decided.blocker = Some(("Starting", format!("the supervisor of {} does not answer yet", silent.name())));
    } else if view.slots.count() > 0 {
        enter(view, decided, ClusterStage::Steady);
    } else if view.members.iter().any(|one| one.live().is_some_and(|report| report.has_data)) {
        let message = "a volume has data, but no node has slots: remove the volumes, or the object".to_owned();
        decided.blocker = Some(("DataWithoutSlots", message));
    } else {
        enter(view, decided, ClusterStage::Creating);
    }
}

/// Makes a new cluster: the nodes meet, the first ones get the slots, the others replicate them.
fn create(view: &View, decided: &mut Decided) {
    if let Some(silent) = view.members.iter().find(|one| one.running().is_none()) {
        decided.blocker = Some(("Starting", format!("{} does not run yet", silent.name())));
        return;
    }
    for (number, member) in (1..).zip(&view.members) {
        if member.running().is_some_and(|node| node.own.epoch == 0 && node.known.is_empty()) {
            decided.acts.push((member.name().to_owned(), Act::Epoch(number)));
        }
    }
    if !decided.acts.is_empty() {
        return;
    }
    meet(view, decided);
    let masters = view.object.spec.masters;
    let ranges = (0..masters).map(|number| {
        let bound = |number: u32| u16::try_from(number * u32::from(SLOTS) / masters).unwrap_or(SLOTS);
        (bound(number), bound(number + 1) - 1)
    });
    for ((from, to), member) in ranges.zip(&view.members) {
        // Only slots that nobody has, so that an operator that begins again takes nothing from anybody.
        if (from..=to).all(|slot| view.slots.owner(slot).is_none()) {
            decided.acts.push((member.name().to_owned(), Act::AddSlots(from, to)));
        }
    }
    if decided.acts.is_empty() && view.slots.count() == usize::from(SLOTS) && agreed(view).is_none() {
        replicate(view, decided);
        if decided.acts.is_empty() && view.members.iter().all(|one| in_sync(view, one)) {
            enter(view, decided, ClusterStage::Steady);
        }
    }
}

/// Keeps a cluster as it should be.
fn steady(view: &View, decided: &mut Decided) {
    fail_over(view, decided);
    if let Some(owner) = lost(view) {
        let message = format!(
            "slots of the node {} have no member that has their data: bring its volume back, or delete the object",
            owner
        );
        decided.blocker = Some(("SlotsLost", message));
        return;
    }
    meet(view, decided);
    forget(view, decided);
    if let Some(one) = view.members.iter().find(|one| one.running().is_none() && !given_up(view, one)) {
        decided.blocker = Some(match (at_risk(view, one), waits_for_votes(view)) {
            (Some(why), _) => ("DataAtRisk", why),
            (None, Some(why)) => ("NoMajority", why),
            (None, None) => ("MembersNotReady", format!("{} does not answer", one.name())),
        });
    }
    if !decided.acts.is_empty() || decided.decisions.failover.is_some() || decided.blocker.is_some() {
        return;
    }
    if let Some(why) = agreed(view) {
        decided.blocker = Some(("NotAgreed", why));
        return;
    }
    adopt(view, decided);
    replicate(view, decided);
    if !decided.acts.is_empty() {
        return;
    }
    // No slot moves while a second copy is missing: its target might be the next to die.
    if let Some(one) = view.members.iter().find(|one| !one.leaving && !in_sync(view, one)) {
        decided.blocker = Some(("MembersNotReady", format!("{} is not in sync", one.name())));
        return;
    }
    if vacate(view, decided) || migrate(view, decided) {
        return;
    }
    decided.decisions.migration = None;
    if leave(view, decided) {
        return;
    }
    decided.settled = decided.acts.is_empty();
}

// ---- Failover

/// The dead masters whose slots nobody has taken over yet, with the evidence.
fn dead_masters<'v, 'a>(view: &'v View<'a>) -> impl Iterator<Item = (&'v Member<'a>, &'v str, String)> {
    view.slots.owners().filter_map(|id| {
        let owner = view.members.iter().find(|one| owns(one, id))?;
        Some((owner, id, owner.dead().or_else(|| wiped(owner, id))?))
    })
}

/// Whether this member has, or had, the node with this id.
fn owns(member: &Member, id: &str) -> bool {
    member.id() == Some(id) || member.record.is_some_and(|record| record.id == id)
}

fn wiped(member: &Member, id: &str) -> Option<String> {
    (member.live().is_some() && member.id() != Some(id)).then(|| "its volume is new".to_owned())
}

/// The replica that can take over from the dead node with this id: it was in sync when its master was last seen to serve,
/// and has its data still; the one with the most.
fn heir<'v, 'a>(view: &'v View<'a>, id: &'v str) -> Option<&'v Member<'a>> {
    let ready = |one: &&Member| {
        let has = one.serving().is_some_and(|report| {
            report.keys > 0 || report.link.as_ref().is_some_and(|link| link.synced && !link.syncing)
        });
        has && one.record.is_some_and(|record| record.in_sync && record.master.as_deref() == Some(id))
    };
    view.replicas(id).filter(ready).max_by_key(|one| {
        let staying = u8::from(!one.leaving);
        (one.serving().map_or(0, |report| report.offset), staying)
    })
}

/// Lets replicas of dead masters take over, and ends the record of a failover that is done.
fn fail_over(view: &View, decided: &mut Decided) {
    if let Some(failover) = &view.before.failover
        && !dead_masters(view).any(|(owner, ..)| owner.name() == failover.from)
    {
        let seconds = view.now.duration_since(failover.detected_at).as_secs_f64();
        decided.ended = Some(ClusterFailover { outage: Some((seconds * 1000.0).round() / 1000.0), ..failover.clone() });
        decided.decisions.failover = None;
    }
    let no_vote = no_vote(view);
    for (owner, id, cause) in dead_masters(view) {
        let Some(heir) = heir(view, id) else { continue };
        // Not while the dead master is started instead: nobody could vote for it against the heir.
        let take = no_vote && start(view, owner) == Start::No;
        let act = if take { Act::TakeOver } else { Act::Failover { force: true } };
        decided.acts.push((heir.name().to_owned(), act));
        decided.decisions.failover.get_or_insert_with(|| ClusterFailover {
            cause,
            from: owner.name().to_owned(),
            to: heir.name().to_owned(),
            detected_at: view.now,
            outage: None,
        });
    }
}

/// Whether nobody can be elected any more, neither by order nor by the nodes alone: half of the masters or more are proved dead.
///
/// Invariant: only then does a replica take over without a vote. So no second replica can be elected for the same slots.
fn no_vote(view: &View) -> bool {
    dead_masters(view).count() * 2 >= view.slots.owners().count()
}

/// Why a failover waits for masters that are silent and not proved dead, if too few are left to vote.
fn waits_for_votes(view: &View) -> Option<String> {
    let (owner, ..) = dead_masters(view).find(|(_, id, _)| heir(view, id).is_some())?;
    let masters = view.slots.owners().filter_map(|id| view.members.iter().find(|one| owns(one, id)));
    let masters: Vec<&Member> = masters.collect();
    let votes = masters.iter().filter(|one| one.running().is_some()).count();
    if no_vote(view) || votes * 2 > masters.len() {
        return None;
    }
    let silent = masters.iter().filter(|one| one.running().is_none() && one.dead().is_none());
    let silent: Vec<&str> = silent.map(|one| one.name()).collect();
    Some(format!(
        "the replica of {} needs the votes of most masters, and {votes} of {} can vote: let the silent ones run again, or end \
         their containers: {}",
        owner.name(),
        masters.len(),
        silent.join(", ")
    ))
}

/// Whether the server of a stopped member may start.
///
/// Invariant: the node that has slots starts only if it has their data, or nobody has; and not while a replica takes over.
/// An empty one would make its replicas empty, too.
pub fn start(view: &View, member: &Member) -> Start {
    let Some(report) = member.live() else { return Start::No };
    let Some(node) = &report.node else {
        // A new volume at the address of a node with slots: replicas of that one would copy nothing from it.
        let others = view.members.iter().filter_map(Member::node).flat_map(|node| &node.known);
        let mut here = others.filter(|known| known.address.is_some() && known.address == member.address());
        let recorded = member.record.is_some_and(|record| !view.slots.at(&record.id).is_empty());
        let replaced = recorded || here.any(|known| !view.slots.at(&known.id).is_empty());
        return if replaced { Start::No } else { Start::Lead };
    };
    let id = node.own.id.as_str();
    if view.slots.at(id).is_empty() {
        return Start::Yield;
    }
    let waits = view
        .before
        .failover
        .as_ref()
        .is_some_and(|failover| waits::waited(view.waited, failover.detected_at) < PATIENCE || !report.has_data);
    if heir(view, id).is_some() && (waits || view.before.failover.is_none()) {
        return Start::No;
    }
    // A replica that cannot be asked may have data.
    let others = || view.replicas(id).filter(|one| one.name() != member.name());
    let has_more = others().any(|one| one.live().is_none_or(|report| report.has_data || report.keys > 0));
    if report.has_data || !has_more { Start::Lead } else { Start::No }
}

/// Why a server that is down does not start, if only a person can decide.
fn at_risk(view: &View, member: &Member) -> Option<String> {
    let shut = member.live().is_some_and(|report| report.server == Server::Stopped) && start(view, member) == Start::No;
    let id = member.id().filter(|id| shut && heir(view, id).is_none())?;
    let others: Vec<&str> = view.replicas(id).map(|one| one.name()).collect();
    Some(format!(
        "{} has slots and no data; its replicas {} may have some, but were not in sync: it stays shut, so that they keep it",
        member.name(),
        others.join(", ")
    ))
}

/// Gives slots that no node has to a master: where every node answers, nobody has data in them.
fn adopt(view: &View, decided: &mut Decided) {
    let free = |slot: &u16| view.slots.owner(*slot).is_none();
    if view.slots.count() == usize::from(SLOTS) {
        return;
    }
    let poorest = view.staying().filter(|one| one.master().is_none());
    let poorest = poorest.min_by_key(|one| view.slots.at(one.id().unwrap_or_default()).len());
    if let (Some(member), Some(from)) = (poorest, (0..SLOTS).find(free)) {
        let to = (from..SLOTS).take_while(free).last().unwrap_or(from);
        decided.acts.push((member.name().to_owned(), Act::AddSlots(from, to)));
    }
}

/// A node with slots of which no member has the data, and nobody can take over.
fn lost<'v>(view: &'v View) -> Option<&'v str> {
    view.slots.owners().find(|id| {
        let owner = view.members.iter().find(|one| owns(one, id));
        let gone = owner.is_none_or(|owner| wiped(owner, id).is_some());
        gone && heir(view, id).is_none() && !view.replicas(id).any(|one| one.running().is_none())
    })
}

// ---- Membership

/// One node that is well, and that all others are to know.
fn anchor<'v, 'a>(view: &'v View<'a>) -> Option<&'v Member<'a>> {
    let serving = view.members.iter().filter(|one| one.running().is_some() && !one.leaving);
    serving.max_by_key(|one| {
        (!view.slots.at(one.id().unwrap_or_default()).is_empty(), std::cmp::Reverse(one.place.ordinal))
    })
}

/// Lets one node meet all that it does not know, or knows at another address.
fn meet(view: &View, decided: &mut Decided) {
    let Some((anchor, node)) = anchor(view).and_then(|one| Some((one, one.running()?))) else { return };
    for other in view.members.iter().filter(|one| one.name() != anchor.name()) {
        let (Some(id), Some(address)) = (other.running().map(|node| node.own.id.as_str()), other.address()) else {
            continue;
        };
        // A node that others forget must not come back.
        if departs(view, other) {
            continue;
        }
        let knows = |known: &&Known| known.id == id && known.address == Some(address) && known.linked;
        if !node.known.iter().any(|known| knows(&known)) {
            let act = match other.place.bus_port {
                Some(bus) => Act::MeetAt { to: address, bus },
                None => Act::Meet(address),
            };
            decided.acts.push((anchor.name().to_owned(), act));
        }
    }
}

/// A member that leaves and has no task any more. Others may have forgotten it, or never have met it.
fn departs(view: &View, member: &Member) -> bool {
    member.leaving && member.master().is_none() && view.slots.at(member.id().unwrap_or_default()).is_empty()
}

/// A member that leaves, does not answer, and has no slots any more: nothing waits for it.
fn given_up(view: &View, member: &Member) -> bool {
    let slots = |id: &str| !view.slots.at(id).is_empty();
    let recorded = member.record.is_some_and(|record| slots(&record.id));
    member.leaving && member.live().is_none() && !recorded && !member.id().is_some_and(slots)
}

/// Whether a member has slots of which nobody else has a copy that is in sync.
pub fn is_last_copy(view: &View, name: &str) -> bool {
    let id = view.members.iter().find(|one| one.name() == name).and_then(Member::id).unwrap_or_default();
    !view.slots.at(id).is_empty() && !view.replicas(id).any(|one| in_sync(view, one))
}

/// Whether a member has slots, or is a replica in sync.
pub fn has_task(view: &View, name: &str) -> bool {
    let member = view.members.iter().find(|one| one.name() == name);
    let slots = |one: &Member| one.id().is_some_and(|id| !view.slots.at(id).is_empty());
    member.is_some_and(|one| in_sync(view, one) && (one.master().is_some() || slots(one)))
}

/// Whether two members are on different hosts.
fn apart(one: &Member, other: &Member) -> bool {
    one.place.host != other.place.host
}

/// Takes slots away from a host that is drained or restarted, and from one that has more masters than another one would have:
/// by a replica elsewhere that has everything. One at a time. Whether there is one.
fn vacate(view: &View, decided: &mut Decided) -> bool {
    let owners = || view.slots.owners().filter_map(|id| view.by_id(id));
    let on = |host: &str| owners().filter(|one| one.place.host == host).count();
    let heir = |owner: &Member, fits: &dyn Fn(&Member) -> bool| {
        let id = owner.id().unwrap_or_default();
        let able = view.replicas(id).filter(|one| !one.leaving && !one.host_closes && in_sync(view, one));
        able.filter(|one| fits(one)).min_by_key(|one| on(&one.place.host)).map(Member::name)
    };
    let closing = owners().filter(|one| one.host_closes).find_map(|one| heir(one, &|to| apart(one, to)));
    let level = || {
        owners().find_map(|one| {
            let here = on(&one.place.host);
            heir(one, &|to| apart(one, to) && on(&to.place.host) + 2 <= here)
        })
    };
    let Some(heir) = closing.or_else(level) else { return false };
    decided.acts.push((heir.to_owned(), Act::Failover { force: false }));
    true
}

/// The ids that nodes know and that no member has.
pub fn stale<'a>(view: &View<'a>) -> BTreeSet<&'a str> {
    let ids = view.ids();
    let known = view.members.iter().filter_map(Member::running).flat_map(|node| &node.known);
    known.map(|known| known.id.as_str()).filter(|id| !ids.contains(id)).collect()
}

/// Lets every node forget what does not exist any more, all of them at once: each refuses to hear of it for 60 s only. Never a
/// node that has slots.
fn forget(view: &View, decided: &mut Decided) {
    let replicated: BTreeSet<&str> = view.members.iter().filter_map(Member::master).collect();
    let stale: Vec<&str> =
        stale(view).into_iter().filter(|id| view.slots.at(id).is_empty() && !replicated.contains(id)).collect();
    for member in view.members.iter() {
        let Some(node) = member.running() else { continue };
        let knows = node.known.iter().filter(|known| stale.contains(&known.id.as_str()));
        decided.acts.extend(knows.map(|known| (member.name().to_owned(), Act::Forget(known.id.clone()))));
    }
}

/// Why the nodes do not agree, if they do not.
fn agreed(view: &View) -> Option<String> {
    let ids = view.ids();
    for member in view.members.iter().filter(|one| !departs(view, one)) {
        let Some(node) = member.running() else { continue };
        if !node.ok {
            return Some(format!("the cluster is not ok to {}", member.name()));
        }
        let left = |id: &str| view.by_id(id).is_some_and(|one| given_up(view, one));
        for id in ids.iter().filter(|id| **id != node.own.id && !left(id)) {
            let Some(known) = node.known.iter().find(|known| known.id == *id) else {
                if view.by_id(id).is_some_and(|one| departs(view, one)) {
                    continue;
                }
                return Some(format!("{} does not know {} yet", member.name(), name(view, id)));
            };
            if known.down || !known.linked {
                return Some(format!("{} does not reach {}", member.name(), name(view, id)));
            }
            let count = |slots: &[(u16, u16)]| slots.iter().map(|(from, to)| usize::from(to - from) + 1).sum::<usize>();
            if count(&known.slots) != view.slots.at(id).len() {
                return Some(format!("{} does not know the slots of {} yet", member.name(), name(view, id)));
            }
            let own = view.by_id(id).and_then(Member::running).and_then(|node| node.own.master.as_ref());
            if known.master.as_ref() != own {
                return Some(format!("{} does not know the role of {} yet", member.name(), name(view, id)));
            }
        }
    }
    None
}

fn name<'v>(view: &'v View, id: &'v str) -> &'v str {
    view.by_id(id).map_or(id, |one| one.name())
}

/// Whether a member is as it should be: a master, or a replica in sync.
pub fn in_sync(view: &View, member: &Member) -> bool {
    let Some((report, node)) = member.serving().zip(member.running()) else { return false };
    match &node.own.master {
        None => true,
        Some(id) => {
            let master = view.by_id(id);
            let linked = |link: &Link| link.up && Some(link.master) == master.and_then(Member::address);
            // Invariant: a replica that the master sends nothing yet has not what was acknowledged, whatever it says itself.
            let fed = master.and_then(Member::serving).and_then(|report| report.fed.as_ref());
            let fed = fed.is_none_or(|fed| member.address().is_some_and(|address| fed.contains(&address)));
            report.link.as_ref().is_some_and(linked) && fed
        }
    }
}

/// The ids of the masters that are to have slots: those that have some and stay, and new ones as far as they are missing.
fn masters(view: &View) -> (Vec<String>, Vec<String>) {
    let wanted = view.object.spec.masters as usize;
    let mut all: Vec<(bool, &Member)> = Vec::new();
    for member in view.members.iter().filter(|one| one.running().is_some_and(|node| node.own.master.is_none())) {
        all.push((!view.slots.at(member.id().unwrap_or_default()).is_empty(), member));
    }
    let ids = |members: Vec<&Member>| members.iter().filter_map(|one| one.id()).map(str::to_owned).collect();
    let mut keep: Vec<&Member> = all.iter().filter(|(has, _)| *has).map(|(_, one)| *one).collect();
    // The highest ordinals give up their slots first, and those that leave before all others.
    keep.sort_by_key(|one| (one.leaving, one.place.ordinal));
    let drain = keep.split_off(wanted.min(keep.len()));
    let fresh = all.iter().filter(|(has, one)| !has && !one.leaving).map(|(_, one)| *one);
    let missing = wanted - keep.len();
    keep.extend(fresh.take(missing));
    (ids(keep), ids(drain))
}

/// Gives every node without a task a master to replicate: the one with the fewest replicas; and evens the replicas out.
fn replicate(view: &View, decided: &mut Decided) {
    let (keep, drain) = masters(view);
    let mut counts: BTreeMap<&str, usize> = keep.iter().map(|id| (id.as_str(), 0)).collect();
    let mut free = Vec::new();
    for member in view.members.iter().filter(|one| !one.leaving) {
        match member.master() {
            Some(master) if counts.contains_key(master) => *counts.entry(master).or_default() += 1,
            // Its master gives its slots away first.
            Some(master) if drain.iter().any(|id| id == master) => {}
            None if member.id().is_none_or(|id| keep.iter().chain(&drain).any(|kept| kept == id)) => {}
            _ => free.push(member),
        }
    }
    let poorest = |counts: &BTreeMap<&str, usize>| {
        let poorest = keep.iter().min_by_key(|id| counts.get(id.as_str()).copied().unwrap_or_default());
        poorest.map(|id| (id.clone(), counts.get(id.as_str()).copied().unwrap_or_default()))
    };
    // Fewer masters than wanted and no node that is free: a replica too many becomes one.
    let lacks = view.object.spec.masters as usize > keep.len() && drain.is_empty();
    let elsewhere = |member: &Member, id: &str| view.by_id(id).is_some_and(|master| apart(master, member));
    let spare = |counts: &BTreeMap<&str, usize>, poor: &str| {
        let rich = counts.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > 0)?;
        let of = view.members.iter().rev().filter(|one| !one.leaving && one.master() == Some(*rich.0));
        of.min_by_key(|one| !elsewhere(one, poor))
    };
    if lacks && free.is_empty() {
        let surplus =
            counts.values().sum::<usize>() > (view.object.spec.masters * view.object.spec.replicas_per_master) as usize;
        if let Some(one) = spare(&counts, "").filter(|_| surplus) {
            decided.acts.push((one.name().to_owned(), Act::Reset));
            return;
        }
    }
    let wanted = view.object.spec.replicas_per_master as usize;
    for (number, member) in free.iter().enumerate() {
        let rest = free.get(number + 1..).unwrap_or_default();
        let load = |id: &&String| {
            let count = counts.get(id.as_str()).copied().unwrap_or_default();
            // Not on its master's host, if that is possible; and of equal masters the one that fewer of the others could have.
            let others = rest.iter().filter(|one| elsewhere(one, id)).count();
            (count >= wanted.max(1), !elsewhere(member, id), count, others)
        };
        let Some(master) = keep.iter().min_by_key(load).cloned() else { return };
        if let Some(count) = counts.get_mut(master.as_str()) {
            *count += 1;
        }
        decided.acts.push((member.name().to_owned(), Act::Replicate(master)));
    }
    // One at a time, and only while every other copy is there.
    let whole = decided.acts.is_empty() && view.members.iter().all(|one| one.leaving || in_sync(view, one));
    if !whole || lacks {
        return;
    }
    let Some((poor, least)) = poorest(&counts) else { return };
    let most = |one: &Member| one.master().and_then(|id| counts.get(id)).copied().unwrap_or_default();
    if let Some(one) = spare(&counts, &poor).filter(|one| most(one) >= least + 2) {
        decided.acts.push((one.name().to_owned(), Act::Replicate(poor)));
    } else if let Some((one, master)) = misplaced(view, &keep) {
        // Its former master gets one of the other's replicas as soon as this one is in sync.
        decided.acts.push((one, Act::Replicate(master)));
    }
}

/// A replica on its master's host, and another master that it can change to, because a replica of that one can take its place.
fn misplaced(view: &View, keep: &[String]) -> Option<(String, String)> {
    let staying = || view.members.iter().filter(|one| !one.leaving);
    let master = |one: &Member| one.master().and_then(|id| view.by_id(id));
    let together = staying().filter_map(|one| Some((one, master(one)?))).filter(|(one, own)| !apart(one, own));
    together.into_iter().find_map(|(one, own)| {
        let other = keep.iter().filter_map(|id| view.by_id(id)).find(|other| {
            let swap = staying().any(|two| master(two).is_some_and(|of| of.name() == other.name()) && apart(two, own));
            other.name() != own.name() && apart(one, other) && swap
        })?;
        Some((one.name().to_owned(), other.id()?.to_owned()))
    })
}

// ---- Slots

/// The next migration, if one is due. Slots that were left open come first.
fn migrate(view: &View, decided: &mut Decided) -> bool {
    if view.members.iter().filter_map(Member::serving).any(|report| report.acting.is_some()) {
        return true;
    }
    let (keep, drain) = masters(view);
    let mut left = 0;
    let mut next = None;
    for member in view.members.iter() {
        let Some(node) = member.running() else { continue };
        for (slot, _) in &node.importing {
            let owner = view.slots.owner(*slot).unwrap_or_default();
            let stays = owner == node.own.id || view.by_id(owner).is_none_or(|one| one.running().is_none());
            match view.by_id(owner).filter(|_| !stays) {
                Some(owner) => next = next.or_else(|| moved(view, owner.name(), vec![*slot], &node.own.id)),
                None => decided.acts.push((member.name().to_owned(), Act::Stable(*slot))),
            }
        }
        for (slot, other) in &node.migrating {
            let target = view.by_id(other).and_then(Member::running).filter(|target| target.own.master.is_none());
            match target.filter(|_| view.slots.owner(*slot) == Some(node.own.id.as_str())) {
                Some(target) => next = next.or_else(|| moved(view, member.name(), vec![*slot], &target.own.id)),
                None => decided.acts.push((member.name().to_owned(), Act::Stable(*slot))),
            }
        }
    }
    // Each master keeps its share; who has more gives to who has less.
    let share = |number: usize| {
        let (count, all) = (keep.len().max(1), usize::from(SLOTS));
        all / count + usize::from(number < all % count)
    };
    // The larger shares go to those that have the most, so that nothing moves for an even distribution.
    let mut order: Vec<&String> = keep.iter().collect();
    order.sort_by_key(|id| std::cmp::Reverse(view.slots.at(id).len()));
    let mut wants: Vec<(&String, usize)> = Vec::new();
    let mut gives: Vec<(&String, usize)> = drain.iter().map(|id| (id, view.slots.at(id).len())).collect();
    for (number, id) in order.into_iter().enumerate() {
        let has = view.slots.at(id).len();
        match has.checked_sub(share(number)) {
            Some(0) => {}
            Some(more) => gives.push((id, more)),
            None => wants.push((id, share(number) - has)),
        }
    }
    // One slot more or less is no reason to move anything.
    let total: usize = gives.iter().map(|(_, count)| count).sum();
    if total > keep.len() || !drain.is_empty() {
        left = total;
        if let (Some((from, more)), Some((to, fewer))) = (gives.first(), wants.first()) {
            let count = BATCH.min(*more).min(*fewer);
            let slots = view.slots.at(from).iter().rev().take(count).copied().collect();
            next = next.or_else(|| moved(view, name(view, from), slots, to));
        }
    }
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    let before = view.before.migration.clone();
    if left > 0 {
        let migration = before.unwrap_or(ClusterMigration { total: left, left, since: view.now });
        decided.decisions.migration = Some(ClusterMigration { left, total: migration.total.max(left), ..migration });
    }
    decided.acts.extend(next);
    !decided.acts.is_empty()
}

fn moved(view: &View, from: &str, slots: Vec<u16>, to: &str) -> Option<(String, Act)> {
    let address = view.by_id(to)?.address()?;
    Some((from.to_owned(), Act::Migrate { slots, to: to.to_owned(), address }))
}

/// Lets a member that leaves hand over what it has; the one that has nothing any more goes. Whether there is one.
fn leave(view: &View, decided: &mut Decided) -> bool {
    let leaving = || view.members.iter().filter(|one| one.leaving);
    for member in leaving() {
        let id = member.id().unwrap_or_default();
        if !view.slots.at(id).is_empty() {
            let heir = view.replicas(id).find(|one| !one.leaving && in_sync(view, one));
            match heir {
                Some(heir) => decided.acts.push((heir.name().to_owned(), Act::Failover { force: false })),
                None => {
                    let message = format!("{} has slots and no replica that stays", member.name());
                    decided.blocker = Some(("CannotLeave", message));
                }
            }
            return true;
        }
    }
    // Replicas first: the last master of a shard is the one that they copy from.
    let next = leaving().max_by_key(|one| (one.master().is_some(), one.place.ordinal));
    if let Some(member) = next {
        let replicas = view.replicas(member.id().unwrap_or_default()).count();
        if replicas == 0 {
            decided.gone = Some(member.name().to_owned());
            decided.decisions.members.retain(|place| place.name != member.name());
            decided.decisions.nodes.retain(|node| node.member != member.name());
        }
    }
    next.is_some()
}
