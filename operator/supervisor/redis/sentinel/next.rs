//! The decisions of a Sentinel's supervisor: which order to accept, and what to do next. Pure.

use crate::supervisor::redis::sentinel::acts::{Verdict, judge};
use crate::supervisor::redis::sentinel::state::{Change, Durable, Seen, Step};
use crate::supervisor::redis::sentinel::view::View;
use crate::supervisor::redis::wire::{Server, Watch};

/// Polls in a row without an answer, one second each, after which a Sentinel is killed.
pub const SILENT: u32 = 5;
/// Time between the restarts of two Sentinels for new certificates, in milliseconds.
const APART_MS: u64 = 2_000;

/// Accepts an order. None is refused: the operator compares the one in every report with the one that it wants, and nothing in
/// it chooses a master.
pub fn accept(durable: &Durable, watch: &Watch) -> Durable {
    Durable { watch: Some(watch.clone()), ..durable.clone() }
}

/// Milliseconds that a Sentinel waits before it restarts for new certificates, which it reads at a start only. They restart one
/// after the other, so that a client finds one at any time.
pub fn wait_to_reload(watch: &Watch) -> u64 {
    let before = watch.sentinels.addresses.iter().take_while(|address| Some(**address) != watch.announce);
    APART_MS.saturating_mul(before.count() as u64)
}

/// Decides. A Sentinel with a file runs, whether there is an operator or not; one without a file waits for the order that
/// names the master.
pub fn next(seen: &Seen) -> Step {
    match seen.server {
        Server::Stopped if seen.terminating => Step::Exit,
        Server::Stopping => Step::Wait,
        _ if seen.terminating => Step::Stop,
        _ if seen.act.is_some() && seen.view.is_none() => Step::Answer(Some("the Sentinel does not answer".into())),
        Server::Stopped if has_file(seen) && seen.due => Step::Start,
        Server::Stopped if !has_file(seen) && seen.due && waits(seen).is_none() => {
            let master = seen.durable.watch.as_ref().and_then(|watch| watch.monitor);
            master.map_or(Step::Wait, Step::Render)
        }
        Server::Stopped => Step::Wait,
        _ if foreign(seen) => Step::Stop,
        _ if seen.silent >= SILENT => Step::Kill,
        _ => seen.view.as_ref().map_or(Step::Wait, |view| running(seen, view)),
    }
}

/// What a Sentinel without a file waits for, as text.
pub fn waits(seen: &Seen) -> Option<&'static str> {
    if seen.server != Server::Stopped || has_file(seen) {
        return None;
    }
    match &seen.durable.watch {
        Some(watch) if seen.ordered => match watch.monitor {
            None => Some("it has no file, and waits for an order that names the master"),
            Some(_) if !seen.credentials => Some("it waits for its passwords"),
            Some(_) => None,
        },
        _ => Some("it has no file, and waits for its first order"),
    }
}

/// The order is of another group than the file.
fn foreign(seen: &Seen) -> bool {
    seen.durable.watch.as_ref().is_some_and(|watch| seen.durable.group.as_ref() != Some(&watch.group))
}

fn has_file(seen: &Seen) -> bool {
    seen.file && !foreign(seen)
}

fn running(seen: &Seen, view: &View) -> Step {
    let Some(watch) = &seen.durable.watch else { return Step::Wait };
    if let Some((_, act)) = &seen.act {
        return match judge(act, watch, view) {
            _ if !seen.fresh => Step::Poll,
            Verdict::Send(words) => Step::Perform(words),
            Verdict::Done => Step::Answer(None),
            Verdict::Refuse(why) => Step::Answer(Some(why)),
        };
    }
    // Its file has all that it knows. A master that is down does not hold this up: old certificates may be the cause.
    if seen.restart && !view.failing_over() {
        return Step::Stop;
    }
    let changes =
        if seen.due && seen.credentials { changes(watch, view, seen.ordered, seen.passwords) } else { vec![] };
    if changes.is_empty() { Step::Wait } else { Step::Settle(changes) }
}

/// What differs from the order.
fn changes(watch: &Watch, view: &View, ordered: bool, passwords: bool) -> Vec<Change> {
    let mut changes = Vec::new();
    let wanted = &watch.sentinels;
    let rest = [("failover-timeout", wanted.failover_timeout_ms), ("parallel-syncs", watch.parallel_syncs.into())];
    let down_after = ("down-after-milliseconds", wanted.down_after_ms);
    let quorum = ("quorum", watch.quorum.into());
    let set = |(name, value): (&'static str, u64)| Change::Set(name, value);
    if let Some(announce) = watch.announce.filter(|announce| view.announce != Some(*announce)) {
        changes.push(Change::Announce(announce));
    }
    match &view.master {
        None => match watch.monitor.filter(|_| ordered) {
            Some(master) => {
                changes.push(Change::Monitor(master));
                changes.extend([down_after].into_iter().chain(rest).map(set));
                changes.push(Change::Passwords);
            }
            None if !passwords => changes.push(Change::Passwords),
            None => {}
        },
        Some(master) => {
            let known = [
                (quorum, master.seen.quorum.into()),
                (rest[0], master.failover_timeout_ms),
                (rest[1], master.parallel_syncs.into()),
            ];
            changes
                .extend(known.into_iter().filter(|(wanted, known)| wanted.1 != *known).map(|(wanted, _)| set(wanted)));
            // A late change shortens the time that Sentinel allows replicas to be without their master: none is good enough then.
            if master.down_after_ms != wanted.down_after_ms && view.calm() {
                changes.push(set(down_after));
            }
            if !passwords {
                changes.push(Change::Passwords);
            }
        }
    }
    changes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::redis::sentinel::view::Master;
    use crate::supervisor::redis::wire::{Act, Address, MasterSeen, Sentinels};

    fn at(last: u8) -> Address {
        Address { ip: [10, 0, 0, last].into(), port: 6379 }
    }

    fn watch(monitor: Option<Address>) -> Watch {
        let sentinels = Sentinels {
            master_name: "mymaster".into(),
            down_after_ms: 3_000,
            failover_timeout_ms: 60_000,
            ..Sentinels::default()
        };
        Watch {
            group: "one".into(),
            announce: Some(at(11)),
            monitor,
            sentinels,
            quorum: 2,
            parallel_syncs: 1,
            ..Watch::default()
        }
    }

    fn view() -> View {
        let seen = MasterSeen {
            address: at(1),
            config_epoch: 4,
            quorum: 2,
            down: false,
            failing_over: false,
            not_master: false,
        };
        let master = Master { seen, down_after_ms: 3_000, failover_timeout_ms: 60_000, parallel_syncs: 1 };
        View { announce: Some(at(11)), master: Some(master), ..View::default() }
    }

    /// A Sentinel that runs as ordered.
    fn steady() -> Seen {
        Seen {
            durable: Durable { watch: Some(watch(Some(at(1)))), group: Some("one".into()) },
            ordered: true,
            credentials: true,
            file: true,
            server: Server::Running,
            due: true,
            passwords: true,
            view: Some(view()),
            ..Seen::default()
        }
    }

    /// Regression 455: for renewed certificates all Sentinels restarted in the same moment. 7 of 132 clients that asked for the
    /// master found no Sentinel, and every subscriber lost its connection to all of them at once.
    #[test]
    fn sentinels_restart_one_after_the_other_for_new_certificates() {
        let of = |own: u8| {
            let sentinels = Sentinels { addresses: [11, 12, 13].map(at).into(), ..Sentinels::default() };
            wait_to_reload(&Watch { announce: Some(at(own)), sentinels, ..watch(None) })
        };
        assert_eq!([11, 12, 13].map(of), [0, 2_000, 4_000]);
    }

    fn down(file: bool) -> Seen {
        Seen { server: Server::Stopped, view: None, file, ..steady() }
    }

    #[test]
    fn a_sentinel_with_a_file_starts_without_an_order_and_is_left_alone_while_nothing_differs() {
        assert_eq!(next(&Seen { ordered: false, credentials: false, ..down(true) }), Step::Start);
        let unknown = Durable::default();
        assert_eq!(next(&Seen { durable: unknown, ordered: false, ..down(true) }), Step::Start);
        assert_eq!(next(&Seen { due: false, ..down(true) }), Step::Wait);
        assert_eq!(next(&steady()), Step::Wait);
    }

    #[test]
    fn one_without_a_file_waits_for_an_order_of_this_boot_that_names_the_master() {
        let wait = |seen: Seen, why: &str| {
            assert_eq!(next(&seen), Step::Wait);
            assert!(waits(&seen).unwrap().contains(why), "{:?}", waits(&seen));
        };
        wait(Seen { ordered: false, ..down(false) }, "first order");
        wait(Seen { durable: Durable::default(), ..down(false) }, "first order");
        wait(Seen { credentials: false, ..down(false) }, "passwords");
        let nobody = Durable { watch: Some(watch(None)), group: None };
        wait(Seen { durable: nobody, ..down(false) }, "names the master");
        assert_eq!(next(&down(false)), Step::Render(at(1)));
        assert_eq!(waits(&down(false)), None);
    }

    #[test]
    fn a_sentinel_of_another_group_is_stopped_and_gets_a_new_file() {
        let durable = Durable { group: Some("other".into()), ..steady().durable };
        assert_eq!(next(&Seen { durable: durable.clone(), ..steady() }), Step::Stop);
        assert_eq!(next(&Seen { durable: durable.clone(), ..down(true) }), Step::Render(at(1)));
        let nobody = Durable { watch: Some(watch(None)), ..durable };
        assert_eq!(next(&Seen { durable: nobody, ..down(true) }), Step::Wait);
    }

    #[test]
    fn what_differs_is_set_and_nothing_else() {
        let changed = |change: &dyn Fn(&mut Seen)| {
            let mut seen = steady();
            change(&mut seen);
            match next(&seen) {
                Step::Settle(changes) => changes,
                other => panic!("{other:?}"),
            }
        };
        let ordered = |seen: &mut Seen, change: &dyn Fn(&mut Watch)| change(seen.durable.watch.as_mut().unwrap());
        assert_eq!(changed(&|seen| ordered(seen, &|watch| watch.quorum = 3)), [Change::Set("quorum", 3)]);
        let timeout = changed(&|seen| ordered(seen, &|watch| watch.sentinels.failover_timeout_ms = 9));
        assert_eq!(timeout, [Change::Set("failover-timeout", 9)]);
        let announce = changed(&|seen| ordered(seen, &|watch| watch.announce = Some(at(12))));
        assert_eq!(announce, [Change::Announce(at(12))]);
        assert_eq!(changed(&|seen| seen.passwords = false), [Change::Passwords]);
    }

    /// Regression 384: down-after that is lowered while the master is down makes every replica unfit, for ever.
    #[test]
    fn down_after_is_set_only_while_the_master_is_up_and_no_failover_runs() {
        let mut seen = steady();
        seen.durable.watch.as_mut().unwrap().sentinels.down_after_ms = 500;
        assert_eq!(next(&seen), Step::Settle(vec![Change::Set("down-after-milliseconds", 500)]));
        let later = |change: &dyn Fn(&mut MasterSeen)| {
            let mut seen = seen.clone();
            change(&mut seen.view.as_mut().unwrap().master.as_mut().unwrap().seen);
            next(&seen)
        };
        assert_eq!(later(&|master| master.down = true), Step::Wait);
        assert_eq!(later(&|master| master.failing_over = true), Step::Wait);
        assert_eq!(later(&|master| master.not_master = true), Step::Wait);
    }

    #[test]
    fn the_master_is_named_only_to_a_sentinel_that_does_not_know_the_name_and_by_an_order_of_this_boot() {
        let ignorant = Seen { view: Some(View { master: None, ..view() }), ..steady() };
        let Step::Settle(changes) = next(&ignorant) else { panic!() };
        assert_eq!(changes[0], Change::Monitor(at(1)));
        assert_eq!(changes.last(), Some(&Change::Passwords));
        assert!(changes.contains(&Change::Set("down-after-milliseconds", 3_000)));
        assert_eq!(next(&Seen { ordered: false, ..ignorant.clone() }), Step::Wait);
        let nobody = Durable { watch: Some(watch(None)), ..ignorant.durable.clone() };
        assert_eq!(next(&Seen { durable: nobody, ..ignorant }), Step::Wait);
        // Another master than the order's is the Sentinels' own decision.
        let mut moved = steady();
        moved.view.as_mut().unwrap().master.as_mut().unwrap().seen.address = at(2);
        assert_eq!(next(&moved), Step::Wait);
    }

    #[test]
    fn an_act_is_judged_by_what_the_sentinel_says_after_it_came() {
        let act = |from| Some(("1".to_owned(), Act::Failover { from, fresh: false }));
        let seen = Seen { act: act(at(1)), ..steady() };
        assert_eq!(next(&seen), Step::Poll);
        let words = ["SENTINEL", "FAILOVER", "mymaster"].map(str::to_owned).into();
        assert_eq!(next(&Seen { fresh: true, ..seen.clone() }), Step::Perform(words));
        let refused = next(&Seen { fresh: true, act: act(at(2)), ..seen.clone() });
        assert!(matches!(refused, Step::Answer(Some(_))), "{refused:?}");
        for silent in [Seen { view: None, ..seen.clone() }, Seen { act: act(at(1)), ..down(true) }] {
            assert_eq!(next(&silent), Step::Answer(Some("the Sentinel does not answer".into())));
        }
    }

    #[test]
    fn a_hung_sentinel_is_killed_and_a_restart_waits_for_the_end_of_a_failover() {
        assert_eq!(next(&Seen { silent: SILENT - 1, ..steady() }), Step::Wait);
        assert_eq!(next(&Seen { silent: SILENT, view: None, server: Server::Hung, ..steady() }), Step::Kill);
        let mut restart = Seen { restart: true, ..steady() };
        assert_eq!(next(&restart), Step::Stop);
        let seen = |restart: &mut Seen, change: &dyn Fn(&mut MasterSeen)| {
            change(&mut restart.view.as_mut().unwrap().master.as_mut().unwrap().seen);
        };
        seen(&mut restart, &|master| master.down = true);
        assert_eq!(next(&restart), Step::Stop);
        seen(&mut restart, &|master| master.failing_over = true);
        assert_eq!(next(&restart), Step::Wait);
        assert_eq!(next(&Seen { terminating: true, ..steady() }), Step::Stop);
        assert_eq!(next(&Seen { terminating: true, server: Server::Stopping, ..steady() }), Step::Wait);
        assert_eq!(next(&Seen { terminating: true, ..down(true) }), Step::Exit);
    }
}
