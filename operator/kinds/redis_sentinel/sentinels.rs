//! Decides the membership of the Sentinels: who joins, the quorum, and when one forgets what does not exist any more. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::view::{Member, View};
use crate::api::redis_sentinel::{RedisDecisions, RedisReset, RedisStage};
use crate::supervisor::redis::wire::{Act, Address, Role, SentinelSeen, Sentinels, Watch};

/// Time for a Sentinel that has forgotten to know all members and Sentinels again.
const RELEARN: Duration = Duration::from_secs(30);
/// Wait after a refused request to forget.
const AGAIN: Duration = Duration::from_secs(10);

/// The standing order of a Sentinel; `None` while it has no address.
pub fn watch(view: &View, decisions: &RedisDecisions, member: &Member) -> Option<Watch> {
    let spec = &view.object.spec;
    Some(Watch {
        group: decisions.group.clone(),
        announce: Some(member.address()?),
        monitor: monitor(view, decisions, member),
        sentinels: common(view),
        quorum: quorum(view),
        parallel_syncs: spec.parallel_syncs,
        username: spec.auth.username.clone(),
        tls: tls(view, member),
    })
}

/// Whether a Sentinel uses TLS: as the spec says, once every server that answers does. Until then it stays as it is.
fn tls(view: &View, member: &Member) -> bool {
    let wanted = view.object.spec.tls.enabled;
    let done =
        |one: &Member| one.serving().is_none() || one.live().is_some_and(|report| report.tls.is_some() == wanted);
    let before = member.live().and_then(|report| Some(report.sentinel.as_ref()?.watch.as_ref()?.tls));
    before.filter(|_| !view.members.iter().all(done)).unwrap_or(wanted)
}

/// The Sentinels and their settings, for all members.
pub fn common(view: &View) -> Sentinels {
    let spec = &view.object.spec;
    let staying = view.sentinels.iter().filter(|member| !member.leaving);
    Sentinels {
        addresses: staying.filter_map(Member::address).collect(),
        master_name: spec.master_name.clone(),
        down_after_ms: spec.down_after.as_millis(),
        failover_timeout_ms: spec.failover_timeout.as_millis(),
    }
}

/// The master for a Sentinel that does not know the name. At the founding all learn it at once; later one joins at a time,
/// after all others know each other: a majority of few that know each other must not decide for many.
fn monitor(view: &View, decisions: &RedisDecisions, member: &Member) -> Option<Address> {
    let master = view.member(decisions.master.as_deref()?)?;
    let seen = member.sentinel();
    let knows = seen.is_some_and(|seen| seen.master.is_some());
    if knows || master.role() != Some(Role::Master) || decisions.change.is_some() || member.leaving {
        return None;
    }
    let joining = view.sentinels.iter().filter(|one| one.sentinel().is_none_or(|seen| seen.master.is_none()));
    let first = joining.filter(|one| !one.leaving).map(Member::name).next();
    let others_know = view.watching().all(|(_, seen, _)| {
        let known: BTreeSet<Address> = seen.sentinels.iter().map(|one| one.address).collect();
        view.watching()
            .filter(|(one, other, _)| other.id != seen.id && !one.leaving)
            .all(|(one, ..)| one.address().is_some_and(|address| known.contains(&address)))
    });
    let founding = decisions.stage == RedisStage::Founding
        && view.named().is_none_or(|(address, epoch, _)| Some(address) == master.address() && epoch == 0);
    (founding || first == Some(member.name()) && others_know).then(|| master.address()).flatten()
}

/// The quorum in force: that of the spec, but never more than a majority of the Sentinels that know the master.
pub fn quorum(view: &View) -> u32 {
    let knowing = u32::try_from(view.watching().filter(|(member, ..)| !member.leaving).count()).unwrap_or(u32::MAX);
    let wanted = view.object.spec.quorum();
    // A Sentinel that is away for a while changes nothing: only those that never knew the master lower it.
    let new = view.sentinels.iter().filter(|one| one.sentinel().is_some_and(|seen| seen.master.is_none())).count();
    if new == 0 { wanted } else { wanted.min(knowing / 2 + 1).max(1) }
}

/// The Sentinels that are to hear now who is master, instead of a second later: those that still name another one, after a
/// failover whose epoch its leader has told.
pub fn announce(view: &View, decisions: &RedisDecisions) -> Vec<(String, String, Act)> {
    let led = || {
        let leader = view.sentinels.iter().find(|one| Some(one.name()) == decisions.leader.as_deref())?;
        let master = view.member(decisions.master.as_deref()?)?;
        Some((leader.address()?, leader.sentinel()?.epoch, master.address()?))
    };
    // Invariant: only what a server itself has said is announced. One that has died since is announced too: before they name
    // it, no Sentinel can be asked to replace it.
    let role = decisions.master.as_deref().and_then(|name| view.member(name)?.role());
    let dead = decisions.change.as_ref().is_some_and(|change| change.request.is_none() && change.attempt == 0);
    let holds = role == Some(Role::Master) && decisions.change.is_none() || role.is_none() && dead;
    let Some((leader, epoch, to)) = led().filter(|_| holds) else {
        return Vec::new();
    };
    let behind = view.watching().filter(|(_, _, one)| one.address != to && one.config_epoch < epoch);
    let id = format!("announce-{}-{epoch}", decisions.epoch);
    behind.map(|(member, ..)| (member.name().to_owned(), id.clone(), Act::Announce { to, epoch, leader })).collect()
}

/// What a Sentinel knows that does not exist: addresses of no member, and ids that no Sentinel has any more.
pub fn stale(view: &View, seen: &SentinelSeen) -> BTreeSet<Address> {
    let expected = expected(view);
    let replicas = seen.replicas.iter().map(|one| one.address).filter(|address| !expected.contains(address));
    let ids: BTreeSet<&String> = view.sentinels.iter().filter_map(|one| one.sentinel()?.id.as_ref()).collect();
    let all_ids = ids.len() == view.sentinels.len();
    let gone =
        seen.sentinels.iter().filter(|one| !expected.contains(&one.address) || all_ids && !ids.contains(&one.id));
    replicas.chain(gone.map(|one| one.address)).collect()
}

/// The addresses of all members and Sentinels that exist, also of those that are to leave and have not left yet.
fn expected(view: &View) -> BTreeSet<Address> {
    view.members.iter().chain(&view.sentinels).filter_map(Member::address).collect()
}

/// Everything that Sentinels which stay know and that does not exist any more.
pub fn all_stale(view: &View) -> BTreeSet<Address> {
    let staying = view.watching().filter(|(member, ..)| !member.leaving);
    staying.flat_map(|(_, seen, _)| stale(view, seen)).collect()
}

/// One decision about forgetting: the new record, and the act that is due.
pub fn forget(view: &View, decisions: &RedisDecisions) -> (Option<RedisReset>, Option<(String, String, Act)>) {
    // One that leaves is not waited for.
    let stays = |name: &str| view.sentinels.iter().any(|one| !one.leaving && one.name() == name);
    let running = decisions.reset.clone().filter(|reset| stays(&reset.sentinel));
    let past = |reset: &RedisReset, time: Duration| view.past(reset.since, time);
    let keep: Vec<Address> = expected(view).into_iter().collect();
    let act =
        |reset: &RedisReset| Some((reset.sentinel.clone(), id(decisions, reset), Act::Reset { keep: keep.clone() }));
    if let Some(reset) = &running {
        let seen = view.sentinels.iter().find(|one| one.name() == reset.sentinel).and_then(Member::sentinel);
        let answer = seen.and_then(|seen| seen.answer.as_ref()).filter(|answer| answer.id == id(decisions, reset));
        match answer {
            // It is told again until it answers; it does each request once.
            None if !past(reset, RELEARN) && safe(view) => return (running.clone(), act(reset)),
            None if !past(reset, RELEARN) => return (running, None),
            Some(answer) if answer.refused.is_some() && !past(reset, AGAIN) => return (running, None),
            // The next one forgets only after this one knows everybody again.
            Some(answer)
                if answer.refused.is_none()
                    && !past(reset, RELEARN)
                    && !seen.is_some_and(|seen| knows_all(view, seen)) =>
            {
                return (running, None);
            }
            _ => {}
        }
    }
    // Invariant: no Sentinel forgets while that could leave the master without one that knows its replicas.
    if !safe(view) {
        return (None, None);
    }
    let next = view.watching().find(|(member, seen, _)| !member.leaving && !stale(view, seen).is_empty());
    let attempt = decisions.reset.as_ref().map_or(0, |reset| reset.attempt) + 1;
    let reset = next.map(|(member, ..)| RedisReset { sentinel: member.name().to_owned(), attempt, since: view.now });
    let due = reset.as_ref().and_then(act);
    (reset, due)
}

fn id(decisions: &RedisDecisions, reset: &RedisReset) -> String {
    format!("reset-{}-{}-{}", decisions.epoch, reset.attempt, reset.since.as_millisecond())
}

/// Whether a Sentinel knows every member and every other Sentinel, and takes none for down.
pub fn knows_all(view: &View, seen: &SentinelSeen) -> bool {
    let known: BTreeSet<Address> = seen.replicas.iter().filter(|one| !one.down).map(|one| one.address).collect();
    let peers: BTreeSet<Address> = seen.sentinels.iter().filter(|one| !one.down).map(|one| one.address).collect();
    let master = seen.master.as_ref().map(|master| master.address);
    let own = seen.watch.as_ref().and_then(|watch| watch.announce);
    let members = view.members.iter().filter(|one| !one.leaving).filter_map(Member::address);
    let sentinels = view.sentinels.iter().filter(|one| !one.leaving).filter_map(Member::address);
    members.into_iter().all(|one| Some(one) == master || known.contains(&one))
        && sentinels.into_iter().all(|one| Some(one) == own || peers.contains(&one))
}

/// Whether this Sentinel knows the master, and it and every other one that answers and stays know each other.
pub fn is_known(view: &View, name: &str) -> bool {
    let all: Vec<_> = view.watching().collect();
    let Some((own, seen, _)) = all.iter().find(|(member, ..)| member.name() == name) else { return false };
    let knows = |seen: &SentinelSeen, other: &Member| {
        seen.sentinels.iter().any(|one| !one.down && Some(one.address) == other.address())
    };
    let mut others = all.iter().filter(|(member, ..)| member.name() != name && !member.leaving);
    others.all(|(other, theirs, _)| knows(theirs, own) && knows(seen, other))
}

/// Whether a Sentinel may forget now: nothing is down, nothing changes, and all that stays is known to all.
pub fn safe(view: &View) -> bool {
    let before = view.before;
    if before.stage != RedisStage::Steady || before.change.is_some() {
        return false;
    }
    let Some(master) = view.master().filter(|master| master.role() == Some(Role::Master)) else { return false };
    let Some(seen) = master.serving() else { return false };
    let staying = || view.members.iter().filter(|one| !one.leaving && one.name() != master.name());
    let online = staying().all(|member| {
        member.address().is_some_and(|address| seen.replicas.iter().any(|one| one.address == address && one.online))
    });
    let watching: Vec<_> = view.watching().filter(|(member, ..)| !member.leaving).collect();
    let all = watching.len() == view.sentinels.iter().filter(|one| !one.leaving).count();
    let agreed = watching.iter().all(|(_, seen, one)| {
        Some(one.address) == master.address() && !one.down && !one.failing_over && !one.not_master && !seen.tilt
    });
    // One that has forgotten and does not know the replicas again can promote none: never two of them.
    let knowing = watching.iter().all(|(_, seen, _)| knows_all(view, seen));
    online && all && agreed && knowing
}
