//! Whether a Sentinel may do an act now. Pure.

use crate::supervisor::redis::sentinel::view::{Replica, View};
use crate::supervisor::redis::wire::{Act, Address, Watch};

/// Sentinel asks a replica for INFO before it selects one, if what it has is older than this, in milliseconds.
const INFO_MS: u64 = 1_000;

/// The judgement of an act.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Send the command of these words.
    Send(Vec<String>),
    /// It is done already.
    Done,
    /// Do not do it.
    Refuse(String),
}

/// Judges an act by what the Sentinel knows now.
pub fn judge(act: &Act, watch: &Watch, view: &View) -> Verdict {
    let name = &watch.sentinels.master_name;
    let words = |words: [&str; 3]| words.map(str::to_owned).into();
    let judged = match act {
        Act::Failover { from, fresh } => failover(*from, *fresh, view).map(|()| words(["SENTINEL", "FAILOVER", name])),
        Act::Announce { to, epoch, leader } => {
            hello(*to, *epoch, *leader, watch, view).map(|hello| words(["PUBLISH", "__sentinel__:hello", &hello]))
        }
        Act::Reset { keep } => match reset(keep, watch, view) {
            Ok(()) if known(view).all(|(address, _)| keep.contains(&address)) => return Verdict::Done,
            judged => judged.map(|()| words(["SENTINEL", "RESET", name])),
        },
    };
    judged.map_or_else(Verdict::Refuse, Verdict::Send)
}

fn failover(from: Address, fresh: bool, view: &View) -> Result<(), String> {
    let master = view.master.as_ref().ok_or("this Sentinel does not know the master's name")?;
    if master.seen.address != from {
        return Err(format!("this Sentinel takes {} for the master, not {from}", master.seen.address));
    }
    if master.seen.failing_over {
        return Err("a failover is in progress on this Sentinel".into());
    }
    if view.tilt {
        return Err("this Sentinel is in TILT mode and would do nothing".into());
    }
    // INFO that tells of a broken link has the replica's last offset.
    let young = |replica: &&Replica| !replica.seen.down && replica.link_up && replica.info_age_ms <= INFO_MS;
    match view.replicas.iter().find(young).filter(|_| fresh) {
        Some(Replica { seen, info_age_ms, .. }) => Err(format!(
            "this Sentinel has asked {} {info_age_ms} ms ago and would not ask it again before it selects",
            seen.address
        )),
        None => Ok(()),
    }
}

/// The hello that the leader of a failover sends a second later. Its sender is the leader, or to the leader another one: a
/// Sentinel that hears itself would take itself for one more.
fn hello(to: Address, epoch: u64, leader: Address, watch: &Watch, view: &View) -> Result<String, String> {
    let master = view.master.as_ref().ok_or("this Sentinel does not know the master's name")?;
    if master.seen.config_epoch >= epoch {
        return Err(format!("this Sentinel knows epoch {} already", master.seen.config_epoch));
    }
    if !view.replicas.iter().any(|replica| replica.seen.address == to) {
        return Err(format!("this Sentinel knows no replica {to}"));
    }
    let peers =
        || view.sentinels.iter().filter(|peer| peer.address.port != 0 && !peer.id.is_empty() && peer.id != view.id);
    let sender = peers().find(|peer| peer.address == leader).or_else(|| peers().find(|peer| !peer.down));
    let sender = sender.ok_or("this Sentinel knows no other one")?;
    let Address { ip, port } = sender.address;
    let (id, name, at) = (&sender.id, &watch.sentinels.master_name, to.port);
    Ok(format!("{ip},{port},{id},{epoch},{name},{},{at},{epoch}", to.ip))
}

/// After a RESET, a Sentinel knows the master only. Replicas come back from the master's INFO within 10 s, Sentinels by
/// their messages within 2 s. Without that, nothing can be promoted: so nothing may be amiss now.
fn reset(keep: &[Address], watch: &Watch, view: &View) -> Result<(), String> {
    let master = view.master.as_ref().ok_or("this Sentinel does not know the master's name")?;
    if view.tilt {
        return Err("this Sentinel is in TILT mode".into());
    }
    if master.seen.down {
        return Err(format!("the master {} is down to this Sentinel", master.seen.address));
    }
    if master.seen.not_master {
        return Err(format!("{} does not say that it is a master", master.seen.address));
    }
    if view.failing_over() {
        return Err("a failover is in progress on this Sentinel".into());
    }
    let kept = |address: &Address| keep.contains(address);
    for (address, down) in known(view) {
        match (kept(&address), down) {
            (true, true) => return Err(format!("{address} is wanted and is down to this Sentinel")),
            (false, false) => return Err(format!("{address} is not wanted, but is not down to this Sentinel")),
            _ => {}
        }
    }
    let others: Vec<Address> = others(keep, watch, view).collect();
    if let Some(unknown) = others.iter().find(|address| !known(view).any(|(known, _)| known == **address)) {
        return Err(format!("{unknown} is wanted and is not known to this Sentinel yet"));
    }
    let broken = |replica: &&Replica| kept(&replica.seen.address) && !replica.link_up;
    if let Some(replica) = view.replicas.iter().find(broken) {
        return Err(format!("the link of the replica {} to its master is not up", replica.seen.address));
    }
    let sentinels = 1 + view.sentinels.iter().filter(|sentinel| kept(&sentinel.address)).count();
    if sentinels < usize::try_from(watch.quorum).unwrap_or(usize::MAX) {
        return Err(format!("{sentinels} Sentinels would be left, and the quorum is {}", watch.quorum));
    }
    Ok(())
}

/// All replicas and other Sentinels, and whether each is down.
fn known(view: &View) -> impl Iterator<Item = (Address, bool)> {
    let replicas = view.replicas.iter().map(|replica| (replica.seen.address, replica.seen.down));
    replicas.chain(view.sentinels.iter().map(|sentinel| (sentinel.address, sentinel.down)))
}

/// Those of `keep` that are neither the master nor this Sentinel.
fn others<'a>(keep: &'a [Address], watch: &'a Watch, view: &'a View) -> impl Iterator<Item = Address> + 'a {
    let master = view.master.as_ref().map(|master| master.seen.address);
    keep.iter().copied().filter(move |address| Some(*address) != master && Some(*address) != watch.announce)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::redis::sentinel::view::Master;
    use crate::supervisor::redis::wire::{KnownReplica, KnownSentinel, MasterSeen, Sentinels};

    fn at(last: u8) -> Address {
        Address { ip: [10, 0, 0, last].into(), port: if last > 10 { 26379 } else { 6379 } }
    }

    /// Master 1, replicas 2 and 3, Sentinels 11 (this one), 12 and 13.
    fn group() -> (Watch, View) {
        let seen = MasterSeen {
            address: at(1),
            config_epoch: 4,
            quorum: 2,
            down: false,
            failing_over: false,
            not_master: false,
        };
        let master = Master { seen, down_after_ms: 3_000, failover_timeout_ms: 60_000, parallel_syncs: 1 };
        let replica = |last| Replica {
            seen: KnownReplica { address: at(last), down: false, priority: 100 },
            info_age_ms: 4_000,
            link_up: true,
            turning: false,
        };
        let sentinel = |last: u8| KnownSentinel { id: last.to_string(), address: at(last), down: false };
        let view = View {
            master: Some(master),
            replicas: vec![replica(2), replica(3)],
            sentinels: vec![sentinel(12), sentinel(13)],
            ..View::default()
        };
        let sentinels = Sentinels { master_name: "mymaster".into(), ..Sentinels::default() };
        (Watch { announce: Some(at(11)), quorum: 2, sentinels, ..Watch::default() }, view)
    }

    fn sent(act: &Act, watch: &Watch, view: &View) -> String {
        match judge(act, watch, view) {
            Verdict::Send(words) => words.join(" "),
            other => panic!("{other:?}"),
        }
    }

    const FAILOVER: &str = "SENTINEL FAILOVER mymaster";
    const RESET: &str = "SENTINEL RESET mymaster";

    fn refused(act: &Act, watch: &Watch, view: &View) -> String {
        match judge(act, watch, view) {
            Verdict::Refuse(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn reset(keep: &[u8]) -> Act {
        Act::Reset { keep: keep.iter().map(|last| at(*last)).collect() }
    }

    const ALL: [u8; 6] = [1, 2, 3, 11, 12, 13];

    #[test]
    fn a_failover_of_another_master_is_refused() {
        let (watch, mut view) = group();
        let act = Act::Failover { from: at(1), fresh: true };
        assert_eq!(sent(&act, &watch, &view), FAILOVER);
        let why = refused(&Act::Failover { from: at(2), fresh: false }, &watch, &view);
        assert_eq!(why, "this Sentinel takes 10.0.0.1:6379 for the master, not 10.0.0.2:6379");
        view.tilt = true;
        assert!(refused(&act, &watch, &view).contains("TILT"));
        (view.tilt, view.master.as_mut().unwrap().seen.failing_over) = (false, true);
        assert_eq!(refused(&act, &watch, &view), "a failover is in progress on this Sentinel");
        view.master = None;
        assert_eq!(refused(&act, &watch, &view), "this Sentinel does not know the master's name");
    }

    /// Regression 381: a Sentinel selects by INFO that may be 10 s old, and asks again only if it is older than one second. So a
    /// replica that was ahead lost against one whose INFO was newer. Once the master is down, Sentinel asks every second;
    /// a rule by age alone refused each failover then.
    #[test]
    fn replicas_that_differ_are_asked_again_before_one_is_selected() {
        let (watch, mut view) = group();
        let act = |fresh| Act::Failover { from: at(1), fresh };
        view.replicas[1].info_age_ms = 900;
        assert!(refused(&act(true), &watch, &view).starts_with("this Sentinel has asked 10.0.0.3:6379 900 ms ago"));
        assert_eq!(sent(&act(false), &watch, &view), FAILOVER);
        view.replicas[1].link_up = false;
        assert_eq!(sent(&act(true), &watch, &view), FAILOVER);
        (view.replicas[1].link_up, view.replicas[1].seen.down) = (true, true);
        assert_eq!(sent(&act(true), &watch, &view), FAILOVER);
    }

    /// Regression 385: Sentinels name the new master only when the leader has asked it for INFO, up to 2 s after it took
    /// writes. A hello tells them at once, but a Sentinel that hears its own id takes itself for one more.
    #[test]
    fn a_hello_names_the_new_master_and_never_the_receiver_as_its_sender() {
        let (watch, mut view) = group();
        view.id = "11".into();
        let act = |leader| Act::Announce { to: at(2), epoch: 5, leader: at(leader) };
        let hello = |sender: u8| {
            format!("PUBLISH __sentinel__:hello 10.0.0.{sender},26379,{sender},5,mymaster,10.0.0.2,6379,5")
        };
        assert_eq!(sent(&act(13), &watch, &view), hello(13));
        assert_eq!(sent(&act(11), &watch, &view), hello(12));
        view.sentinels[0].address.port = 0;
        assert_eq!(sent(&act(11), &watch, &view), hello(13));
        view.sentinels[1].id = "11".into();
        assert_eq!(refused(&act(11), &watch, &view), "this Sentinel knows no other one");
        view.replicas.remove(0);
        assert_eq!(refused(&act(13), &watch, &view), "this Sentinel knows no replica 10.0.0.2:6379");
        view.master.as_mut().unwrap().seen.config_epoch = 5;
        assert_eq!(refused(&act(13), &watch, &view), "this Sentinel knows epoch 5 already");
    }

    #[test]
    fn a_reset_forgets_only_what_is_down_and_not_wanted() {
        let (watch, mut view) = group();
        assert_eq!(judge(&reset(&ALL), &watch, &view), Verdict::Done);
        let two = reset(&[1, 2, 11, 12, 13]);
        assert_eq!(refused(&two, &watch, &view), "10.0.0.3:6379 is not wanted, but is not down to this Sentinel");
        view.replicas[1].seen.down = true;
        assert_eq!(sent(&two, &watch, &view), RESET);
        assert_eq!(refused(&reset(&ALL), &watch, &view), "10.0.0.3:6379 is wanted and is down to this Sentinel");
        view.sentinels[1].down = true;
        assert_eq!(sent(&reset(&[1, 2, 11, 12]), &watch, &view), RESET);
        let why = refused(&reset(&[1, 2, 11]), &Watch { quorum: 1, ..watch.clone() }, &view);
        assert_eq!(why, "10.0.0.12:26379 is not wanted, but is not down to this Sentinel");
    }

    /// Regression 382: a Sentinel that another one has taken the address of keeps its entry, with port 0. It counts as a voter
    /// until it is forgotten, and the new Sentinel at its address is wanted.
    #[test]
    fn a_reset_forgets_a_sentinel_whose_address_another_one_has() {
        let (watch, mut view) = group();
        let lost = KnownSentinel { id: "lost".into(), address: Address { port: 0, ..at(13) }, down: true };
        view.sentinels.push(lost);
        assert_eq!(sent(&reset(&ALL), &watch, &view), RESET);
    }

    /// Regression 383: RESET while the master is down, or while a wanted replica is not known or not in sync, leaves a Sentinel
    /// that finds no replica to promote: no master for as long as it lasts (23 hours in a known case).
    #[test]
    fn a_reset_is_refused_unless_everything_wanted_comes_back() {
        let refusal = |change: &dyn Fn(&mut View)| {
            let (watch, mut view) = group();
            view.replicas[1].seen.down = true;
            change(&mut view);
            refused(&reset(&[1, 2, 11, 12, 13]), &watch, &view)
        };
        let seen = |view: &mut View, change: &dyn Fn(&mut MasterSeen)| change(&mut view.master.as_mut().unwrap().seen);
        assert!(refusal(&|view| seen(view, &|master| master.down = true)).contains("is down to this Sentinel"));
        assert!(refusal(&|view| seen(view, &|master| master.not_master = true)).contains("does not say"));
        assert!(refusal(&|view| seen(view, &|master| master.failing_over = true)).contains("in progress"));
        assert!(refusal(&|view| view.replicas[0].turning = true).contains("in progress"));
        assert!(refusal(&|view| view.tilt = true).contains("TILT"));
        assert!(refusal(&|view| view.master = None).contains("does not know"));
        assert!(refusal(&|view| view.replicas[0].link_up = false).contains("link of the replica 10.0.0.2:6379"));
        let unknown = refusal(&|view| {
            view.replicas.remove(0);
        });
        assert_eq!(unknown, "10.0.0.2:6379 is wanted and is not known to this Sentinel yet");
        assert!(refusal(&|view| drop(view.sentinels.remove(0))).contains("not known to this Sentinel yet"));
    }

    #[test]
    fn a_reset_is_refused_if_too_few_sentinels_would_be_left_for_the_quorum() {
        let (watch, mut view) = group();
        view.sentinels[1].down = true;
        let watch = Watch { quorum: 3, ..watch };
        assert_eq!(
            refused(&reset(&[1, 2, 3, 11, 12]), &watch, &view),
            "2 Sentinels would be left, and the quorum is 3"
        );
    }
}
