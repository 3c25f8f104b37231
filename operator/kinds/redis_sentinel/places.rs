//! Decides on which hosts the data members and the Sentinels live: what a RedisSentinel says to the mechanism that places members
//! for all kinds. Pure.

use std::collections::BTreeSet;

use super::definition::Part;
use super::view::View;
use super::{Observed, Step, bridge, container_name, sentinels};
use crate::api::placement::{Network, NetworkMode};
use crate::api::redis_sentinel::{RedisDecisions, RedisPlace, RedisSentinel, RedisStage};
use crate::kinds::hosts::DeclaredHosts;
use crate::kinds::loss::Silent;
use crate::kinds::places::{self, Ground, Group, Rules};
use crate::kinds::ports;

/// The members of now, and what has to be done and told about their places.
pub struct Placed {
    /// The decisions before, with these members.
    pub decisions: RedisDecisions,
    /// Reservations of ports.
    pub steps: Vec<Step>,
    /// Why a member has no place, or keeps one that it should leave: reason and message.
    pub problem: Option<(&'static str, String)>,
}

/// What a member needs a port for.
fn purposes(part: Part) -> &'static [&'static str] {
    match part {
        Part::Data => &["redis"],
        Part::Sentinel => &["sentinel"],
    }
}

/// The hosts that are observed.
pub fn hosts(object: &RedisSentinel, declared: &DeclaredHosts) -> BTreeSet<String> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref()).next();
    let places = decisions.into_iter().flat_map(|decisions| decisions.members.iter().chain(&decisions.sentinels));
    let spread = decisions.is_none_or(|decisions| decisions.stage == RedisStage::New || !decisions.network.is_bridge())
        || object.spec.placement.network == NetworkMode::Host;
    places::hosts(places.map(|place| place.host.clone()), declared, spread)
}

/// The network of the members.
pub fn network(object: &RedisSentinel, observed: &Observed, before: &RedisDecisions) -> Network {
    let new = before.stage == RedisStage::New && before.members.is_empty() && before.sentinels.is_empty();
    places::network(&object.spec.placement, &observed.declared, before.network, new)
}

/// Places the members. `view`: by the places of before.
pub fn placed(view: &View, observed: &Observed) -> Placed {
    let (object, before) = (view.object, view.before);
    let new = before.stage == RedisStage::New;
    let network = network(object, observed, before);
    let mut decisions = RedisDecisions { network, ..before.clone() };
    if network.is_bridge() {
        decisions.members = bridge::bridged(object, observed, before, Part::Data);
        decisions.sentinels = bridge::bridged(object, observed, before, Part::Sentinel);
        return Placed { decisions, steps: Vec::new(), problem: None };
    }
    let silent = silent(observed, before);
    let ground = Ground {
        placement: &object.spec.placement,
        declared: &observed.declared,
        reserved: &observed.reserved,
        hosts: &observed.hosts,
        silent: &silent,
        owner: ports::owner_of(object),
        container: &|member| container_name(object, member),
    };
    let (mut steps, mut problem) = (Vec::new(), None);
    for part in [Part::Data, Part::Sentinel] {
        let adopted = |volume: &str| bridge::ordinal_of(object, volume);
        let rules = Rules {
            wanted: match part {
                Part::Data => object.spec.replicas,
                Part::Sentinel => object.spec.sentinels,
            } as usize,
            name: &|ordinal| bridge::name(object, part, ordinal),
            leads: &|name| before.master.as_deref() == Some(name),
            ready: &|name| match part {
                Part::Data => view.follows(name) || before.master.as_deref() == Some(name),
                Part::Sentinel => sentinels::is_known(view, name),
            },
            taken: &|name| observed.links.get(name).is_some_and(|link| link.live() && link.report.port_taken),
            calm: before.stage == RedisStage::Steady && before.change.is_none(),
            // A Sentinel without its volume is another one, and loses nothing.
            adopted: if new && part == Part::Data { Some(&adopted) } else { None },
            alone: false,
            purposes: purposes(part),
            fixed: None,
        };
        let group = match part {
            Part::Data => Group {
                members: before.members.clone(),
                last_ordinal: before.last_ordinal,
                replacement: before.replacement.clone(),
            },
            Part::Sentinel => Group {
                members: before.sentinels.clone(),
                last_ordinal: before.last_sentinel_ordinal,
                replacement: before.sentinel_replacement.clone(),
            },
        };
        let bridging = |place: &mut RedisPlace| place.address = bridge::address(object, observed, place, part);
        let placed = places::placed(&ground, &rules, group, bridging);
        steps.extend(placed.steps);
        problem = problem.or(placed.problem);
        let Group { members, last_ordinal, replacement } = placed.group;
        match part {
            Part::Data => {
                (decisions.members, decisions.last_ordinal, decisions.replacement) =
                    (members, last_ordinal, replacement);
            }
            Part::Sentinel => {
                (decisions.sentinels, decisions.last_sentinel_ordinal) = (members, last_ordinal);
                decisions.sentinel_replacement = replacement;
            }
        }
    }
    steps.extend(places::released(&ground, decisions.members.iter().chain(&decisions.sentinels)));
    Placed { decisions, steps: steps.into_iter().map(Step::Port).collect(), problem }
}

fn silent(observed: &Observed, before: &RedisDecisions) -> Silent {
    let live = |name: &str| observed.links.get(name).is_some_and(|link| link.live());
    let members = before.members.iter().chain(&before.sentinels);
    places::silent(&observed.silent, members, live)
}

/// The member as its container has to be: on its host's network as soon as it has a port there.
pub fn wanted(object: &RedisSentinel, observed: &Observed, place: &RedisPlace, part: Part) -> RedisPlace {
    // An object that stays on its Docker network has no reservation.
    places::wanted(&observed.declared, &observed.reserved, &ports::owner_of(object), purposes(part), place)
}

/// The request of the switchover that takes the master away from its host, and the member that it is to go to (empty: any);
/// `None` if it may stay, or nobody can take over.
pub fn leaves_its_host(view: &View, observed: &Observed, can: impl Fn(&str) -> bool) -> Option<(String, String)> {
    let master = view.before.master.as_deref()?;
    let (request, others) = places::leaves_its_host(&observed.declared, &view.before.members, master)?;
    let able: Vec<&String> = others.iter().filter(|name| can(name)).collect();
    let all = able.len() + 1 == view.before.members.len();
    // With a choice the Sentinels must learn it first, which takes them some seconds.
    let to = able.first().map(|first| if all { String::new() } else { (*first).clone() })?;
    Some((request, to))
}
