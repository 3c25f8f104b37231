//! Every decision of the supervisor of a data member. Pure and total.
//!
//! A server starts only by an order that names its run, or, without an operator, because a majority of the Sentinels names
//! another master. So the end of a server or of a container is the fence.

use crate::supervisor::redis::state::{Act, Durable, Named, Pause, Said, Seen};
use crate::supervisor::redis::wire::{Address, Order, Role, Server, Task};

/// An order is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Another epoch has begun.
    #[error("the order of epoch {asked} is older than the one in force, of epoch {known}")]
    Epoch {
        /// Of the order.
        asked: u64,
        /// Of the order in force.
        known: u64,
    },
    /// The decisions have changed.
    #[error("the order of revision {asked} is older than the one in force, of revision {known}")]
    Revision {
        /// Of the order.
        asked: u64,
        /// Of the order in force.
        known: u64,
    },
}

/// Judges an order. What is returned must be durable before anything follows from it.
pub fn accept(durable: &Durable, order: &Order) -> Result<Durable, Refused> {
    if let Some(known) = &durable.order {
        if order.epoch < known.epoch {
            return Err(Refused::Epoch { asked: order.epoch, known: known.epoch });
        }
        if order.epoch == known.epoch && order.revision < known.revision {
            return Err(Refused::Revision { asked: order.revision, known: known.revision });
        }
    }
    Ok(Durable { order: Some(order.clone()), ..durable.clone() })
}

/// What a majority of all Sentinels says, by the answers that came. `all`: how many Sentinels there are.
pub fn majority(all: usize, said: &[Said]) -> Option<Named> {
    let needed = all / 2 + 1;
    let named = |master: Address| said.iter().filter(move |one| one.master == master);
    let master = said.iter().map(|one| one.master).find(|master| named(*master).count() >= needed)?;
    let mut epochs: Vec<u64> = named(master).map(|one| one.config_epoch).collect();
    epochs.sort_unstable_by(|one, other| other.cmp(one));
    let hopeless = named(master).filter(|one| !one.promotable).count() >= needed;
    Some(Named { master, config_epoch: *epochs.get(needed - 1)?, hopeless })
}

/// Whether the Sentinels are asked who is master.
pub fn asks(seen: &Seen) -> bool {
    let waits = seen.server == Server::Stopped || seen.role == Some(Role::Master) || seen.cut;
    seen.durable.order.is_some() && seen.credentials && !seen.terminating && waits && (seen.alone || seen.doubt)
}

/// What to do next.
pub fn next(seen: &Seen) -> Act {
    if seen.terminating {
        return match seen.server {
            Server::Stopped => Act::Exit,
            Server::Stopping => Act::Wait,
            _ => Act::Stop,
        };
    }
    let Some(order) = &seen.durable.order else { return Act::Wait };
    match seen.server {
        Server::Stopped => start(seen, order),
        Server::Stopping => Act::Wait,
        _ if order.task == Task::Stop || seen.restart => Act::Stop,
        // It has taken no write yet. A replica can be pointed elsewhere when it has read its data.
        Server::Starting | Server::Loading if seen.role == Some(Role::Master) && wanted(seen, order).is_some() => {
            Act::Kill
        }
        Server::Hung if seen.halted || wanted(seen, order).is_some() => Act::Kill,
        Server::Starting | Server::Loading | Server::Hung => Act::Wait,
        Server::Running => run(seen, order),
    }
}

fn start(seen: &Seen, order: &Order) -> Act {
    if !seen.credentials || !seen.due || order.task == Task::Stop {
        return Act::Wait;
    }
    // Invariant: only this permits a master, beside the case below in which nobody else can be one.
    if order.run == seen.run {
        match &order.task {
            Task::Lead { .. } => return Act::Start(None),
            Task::Follow { address, .. } => return Act::Start(Some(*address)),
            Task::Wait | Task::Stop => {}
        }
    }
    let Some(named) = seen.named.filter(|_| seen.alone) else { return Act::Wait };
    match order.config.announce {
        Some(own) if own == named.master && named.hopeless && seen.has_data => Act::Start(None),
        Some(own) if own != named.master => Act::Start(Some(named.master)),
        _ => Act::Wait,
    }
}

/// `replica-priority`: as ordered, but 0 while a replica has no data and was never in sync.
///
/// Invariant: no Sentinel promotes such a replica. To Sentinels a link that never was up is not down for long, so that they
/// would, when they reach neither the master nor another replica.
pub fn priority(ordered: u32, leads: bool, has_data: bool, synced: bool) -> u32 {
    if leads || has_data || synced { ordered } else { 0 }
}

/// The master that the server must follow, and does not.
fn wanted(seen: &Seen, order: &Order) -> Option<Address> {
    let own = order.config.announce;
    // Sentinels that heard of a promotion by a hello point nobody at the new master before failover-timeout.
    let named = seen.named.filter(|_| seen.alone && seen.cut && seen.role == Some(Role::Replica));
    let elsewhere = |master: &Address| Some(*master) != own && Some(*master) != seen.follows;
    if let Some(master) = named.map(|named| named.master).filter(elsewhere) {
        return Some(master);
    }
    match seen.role {
        Some(Role::Master) => match &order.task {
            // Invariant: what a Sentinel has promoted in the epoch of this order, only a newer order demotes.
            Task::Follow { address, .. } if order.epoch > seen.promoted.unwrap_or(0) => Some(*address),
            _ => deposed(seen).filter(|master| own.is_some_and(|own| own != *master)),
        },
        // A Sentinel may have pointed it at another master since; that must not be undone.
        Some(Role::Replica) if !seen.settled => match &order.task {
            Task::Follow { address, .. } => Some(*address).filter(|address| seen.follows != Some(*address)),
            _ => None,
        },
        _ => None,
    }
}

/// The master that a majority of the Sentinels names, if there is nobody else to ask, and if it is newer than this one: until
/// the Sentinels have heard of a promotion they name the former master.
fn deposed(seen: &Seen) -> Option<Address> {
    let named = seen.named.filter(|_| seen.alone || seen.doubt)?;
    let newer = match seen.confirmed {
        Some(confirmed) => named.config_epoch > confirmed,
        None => seen.promoted.is_none(),
    };
    newer.then_some(named.master)
}

fn run(seen: &Seen, order: &Order) -> Act {
    if let Some(master) = wanted(seen, order) {
        return Act::Follow(master);
    }
    let pause = pause(seen, order);
    match (&seen.paused, pause) {
        (paused, Some(pause)) if paused.as_ref() != Some(&pause) => Act::Pause(pause),
        (Some(_), None) => Act::Resume,
        _ if !seen.tuned && seen.credentials && seen.due => Act::Tune,
        _ => Act::Wait,
    }
}

/// Why writes must be paused now.
fn pause(seen: &Seen, order: &Order) -> Option<Pause> {
    if seen.role != Some(Role::Master) {
        return None;
    }
    let confirmed = seen.named.is_some_and(|named| Some(named.master) == order.config.announce);
    match &order.task {
        Task::Lead { pause: Some(id) } if seen.lifted.as_ref() != Some(id) && !(seen.alone && confirmed) => {
            Some(Pause::Switchover(id.clone()))
        }
        _ => Some(Pause::Doubt).filter(|_| seen.doubt && !confirmed),
    }
}

/// What a supervisor without an operator waits for.
pub fn waits(seen: &Seen) -> Option<&'static str> {
    if !asks(seen) || !seen.alone {
        return None;
    }
    let own = seen.durable.order.as_ref().and_then(|order| order.config.announce);
    let stopped = seen.server == Server::Stopped;
    match seen.named {
        None if stopped => Some("no operator speaks, and no majority of the Sentinels answers: the server stays shut"),
        None if seen.paused.is_some() => {
            Some("no operator speaks, and no majority of the Sentinels answers: writes stay paused")
        }
        None => Some("no operator speaks, and no majority of the Sentinels answers: the master goes on"),
        Some(named) if stopped && Some(named.master) == own => {
            Some("no operator speaks, and the Sentinels name this member: it stays shut until they choose another")
        }
        Some(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::redis::wire::Config;

    const OWN: u8 = 1;

    fn at(last: u8) -> Address {
        Address { ip: [10, 0, 0, last].into(), port: 6379 }
    }

    fn order(epoch: u64, run: &str, task: Task) -> Order {
        let config = Config { announce: Some(at(OWN)), ..Config::default() };
        Order { epoch, revision: 1, run: run.into(), task, config, sentinels: Default::default() }
    }

    fn lead() -> Task {
        Task::Lead { pause: None }
    }

    fn follow(last: u8) -> Task {
        Task::Follow { master: format!("cache-{last}"), address: at(last) }
    }

    fn seen(order: Order) -> Seen {
        Seen {
            durable: Durable { order: Some(order), ..Durable::default() },
            run: "b-0".into(),
            credentials: true,
            due: true,
            tuned: true,
            has_data: true,
            ..Seen::default()
        }
    }

    fn master(order: Order) -> Seen {
        Seen { server: Server::Running, role: Some(Role::Master), settled: true, ..seen(order) }
    }

    fn replica(of: u8, order: Order) -> Seen {
        Seen { server: Server::Running, role: Some(Role::Replica), follows: Some(at(of)), ..seen(order) }
    }

    fn named(last: u8, config_epoch: u64) -> Option<Named> {
        Some(Named { master: at(last), config_epoch, hopeless: false })
    }

    /// Regression 361: a master that came back with its old data took writes again until a Sentinel noticed, some 10 s later
    /// (M10), and one without persistence came back empty and its replicas copied that (M11).
    #[test]
    fn a_server_starts_only_by_an_order_for_its_very_run() {
        assert_eq!(next(&seen(order(1, "b-0", lead()))), Act::Start(None));
        assert_eq!(next(&seen(order(1, "b-0", follow(2)))), Act::Start(Some(at(2))));
        for task in [lead(), follow(2)] {
            let old = Seen { run: "b-1".into(), ..seen(order(1, "b-0", task)) };
            assert_eq!(next(&old), Act::Wait);
            assert_eq!(next(&Seen { alone: true, ..old.clone() }), Act::Wait, "no Sentinel answers");
            assert_eq!(next(&Seen { named: named(2, 3), ..old }), Act::Wait, "there is an operator");
        }
        for task in [Task::Wait, Task::Stop] {
            assert_eq!(next(&seen(order(1, "b-0", task))), Act::Wait);
        }
        assert_eq!(next(&Seen { credentials: false, ..seen(order(1, "b-0", lead())) }), Act::Wait);
        assert_eq!(next(&Seen { durable: Durable::default(), ..seen(order(1, "b-0", lead())) }), Act::Wait);
    }

    #[test]
    fn without_an_operator_it_starts_as_a_replica_of_the_master_that_a_majority_names() {
        let alone = Seen { alone: true, run: "b-1".into(), ..seen(order(1, "b-0", lead())) };
        assert_eq!(next(&Seen { named: named(2, 3), ..alone.clone() }), Act::Start(Some(at(2))));
        assert_eq!(next(&Seen { named: named(OWN, 3), ..alone.clone() }), Act::Wait);
        let hopeless = named(OWN, 3).map(|named| Named { hopeless: true, ..named });
        assert_eq!(next(&Seen { named: hopeless, ..alone.clone() }), Act::Start(None));
        assert_eq!(next(&Seen { named: hopeless, has_data: false, ..alone.clone() }), Act::Wait);
        assert_eq!(next(&Seen { named: hopeless, alone: false, ..alone }), Act::Wait);
        let stopped = Seen { alone: true, named: named(2, 3), ..seen(order(1, "", Task::Stop)) };
        assert_eq!(next(&stopped), Act::Wait);
    }

    #[test]
    fn a_majority_is_of_all_sentinels_and_shares_an_epoch() {
        let said = |last, config_epoch| Said { master: at(last), config_epoch, promotable: true };
        assert_eq!(majority(3, &[said(1, 4)]), None);
        assert_eq!(majority(3, &[said(1, 4), said(2, 5)]), None);
        assert_eq!(majority(3, &[said(1, 4), said(1, 5)]), named(1, 4));
        assert_eq!(majority(3, &[said(2, 6), said(2, 5), said(1, 4)]), named(2, 5));
        assert_eq!(majority(4, &[said(2, 6), said(2, 6)]), None);
        assert_eq!(majority(0, &[]), None);
        let none = |last| Said { promotable: false, ..said(last, 4) };
        assert!(majority(3, &[none(1), none(1)]).unwrap().hopeless);
        assert!(!majority(3, &[none(1), said(1, 4)]).unwrap().hopeless);
    }

    #[test]
    fn a_running_master_follows_by_an_order_and_stays_what_a_sentinel_has_made_it() {
        assert_eq!(next(&master(order(1, "b-0", lead()))), Act::Wait);
        assert_eq!(next(&master(order(2, "b-0", follow(2)))), Act::Follow(at(2)));
        // A Sentinel promoted it in the epoch of this order; the operator has not seen that yet.
        let promoted = Seen { promoted: Some(2), ..master(order(2, "b-0", follow(2))) };
        assert_eq!(next(&promoted), Act::Wait);
        let newer = Seen { promoted: Some(2), ..master(order(3, "b-0", follow(3))) };
        assert_eq!(next(&newer), Act::Follow(at(3)));
        assert_eq!(next(&replica(2, order(3, "b-0", lead()))), Act::Wait, "only a Sentinel makes a master");
        assert_eq!(next(&master(order(2, "b-0", Task::Wait))), Act::Wait);
        assert_eq!(next(&master(order(2, "b-0", Task::Stop))), Act::Stop);
    }

    /// Regression 362: a replica that a Sentinel had pointed at the new master was pointed back at the dead one, by the order
    /// that was still in force.
    #[test]
    fn what_a_sentinel_has_changed_since_the_order_is_not_undone() {
        assert_eq!(next(&replica(3, order(2, "b-0", follow(2)))), Act::Follow(at(2)));
        assert_eq!(next(&replica(2, order(2, "b-0", follow(2)))), Act::Wait);
        assert_eq!(next(&Seen { settled: true, ..replica(3, order(2, "b-0", follow(2))) }), Act::Wait);
    }

    /// Regression 388: the operator was killed after it had told the Sentinels of the new master, and before it had ordered the
    /// other replica to follow it. The leader of the failover took it for done, and the replica followed the dead master for
    /// 61 s (failover-timeout): with min-replicas-to-write 1 nothing was written for that long.
    #[test]
    fn a_replica_without_an_operator_and_without_its_master_follows_the_one_that_sentinels_name() {
        let cut = Seen { settled: true, cut: true, alone: true, ..replica(2, order(2, "b-0", follow(2))) };
        assert!(asks(&cut));
        assert_eq!(next(&Seen { named: named(3, 4), ..cut.clone() }), Act::Follow(at(3)));
        assert_eq!(next(&Seen { named: named(3, 4), settled: false, ..cut.clone() }), Act::Follow(at(3)));
        for other in [named(2, 4), named(OWN, 4), None] {
            assert_eq!(next(&Seen { named: other, ..cut.clone() }), Act::Wait);
        }
        // A Sentinel may have pointed it at the newest master before the others have heard of that.
        assert_eq!(next(&Seen { named: named(3, 4), cut: false, ..cut.clone() }), Act::Wait);
        assert_eq!(next(&Seen { named: named(3, 4), alone: false, ..cut }), Act::Wait);
    }

    #[test]
    fn a_server_that_hangs_or_loads_is_killed_if_another_role_is_wanted() {
        for server in [Server::Hung, Server::Loading, Server::Starting] {
            assert_eq!(next(&Seen { server, ..master(order(1, "b-0", lead())) }), Act::Wait);
            assert_eq!(next(&Seen { server, ..master(order(2, "b-0", follow(2))) }), Act::Kill);
            assert_eq!(next(&Seen { server, ..replica(2, order(2, "b-0", follow(2))) }), Act::Wait);
            let elsewhere = next(&Seen { server, ..replica(3, order(2, "b-0", follow(2))) });
            assert_eq!(elsewhere, if server == Server::Hung { Act::Kill } else { Act::Wait });
        }
    }

    /// Regression 456: a server that a signal had stopped was left to the Sentinels, and nobody wrote for 6 s (downAfter).
    /// Its end is proven. A server that is busy, or waits for its disk, may answer again: only the Sentinels judge that.
    #[test]
    fn a_server_that_a_signal_has_stopped_is_killed_and_one_that_is_busy_is_not() {
        let hung = Seen { server: Server::Hung, ..master(order(1, "b-0", lead())) };
        assert_eq!(next(&hung), Act::Wait);
        assert_eq!(next(&Seen { halted: true, ..hung }), Act::Kill);
    }

    #[test]
    fn without_an_operator_a_master_follows_only_a_newer_one() {
        let alone =
            |config_epoch| Seen { alone: true, named: named(2, config_epoch), ..master(order(1, "b-0", lead())) };
        assert_eq!(next(&alone(3)), Act::Follow(at(2)));
        // A Sentinel has just promoted it, and the others still name the former master.
        assert_eq!(next(&Seen { promoted: Some(1), ..alone(3) }), Act::Wait);
        assert_eq!(next(&Seen { promoted: Some(1), confirmed: Some(4), ..alone(3) }), Act::Wait);
        assert_eq!(next(&Seen { promoted: Some(1), confirmed: Some(4), ..alone(5) }), Act::Follow(at(2)));
        assert_eq!(next(&Seen { named: named(OWN, 3), ..alone(3) }), Act::Wait);
        assert_eq!(next(&Seen { alone: false, ..alone(3) }), Act::Wait);
        assert_eq!(next(&Seen { server: Server::Hung, ..alone(3) }), Act::Kill);
    }

    #[test]
    fn writes_are_paused_for_a_switchover_and_resumed_by_the_operator_or_the_sentinels() {
        let pause = || Task::Lead { pause: Some("r".into()) };
        let held = Pause::Switchover("r".into());
        let switching = master(order(1, "b-0", pause()));
        assert_eq!(next(&switching), Act::Pause(held.clone()));
        let paused = Seen { paused: Some(held.clone()), ..switching.clone() };
        assert_eq!(next(&paused), Act::Wait);
        assert_eq!(next(&Seen { paused: Some(held.clone()), ..master(order(1, "b-0", lead())) }), Act::Resume);
        let alone = Seen { alone: true, ..paused };
        assert_eq!(next(&alone), Act::Wait, "no Sentinel answers");
        assert_eq!(next(&Seen { named: named(OWN, 1), ..alone.clone() }), Act::Resume);
        assert_eq!(next(&Seen { named: named(2, 2), ..alone }), Act::Follow(at(2)));
        assert_eq!(next(&Seen { lifted: Some("r".into()), ..switching.clone() }), Act::Wait);
        assert_eq!(next(&Seen { paused: Some(Pause::Switchover("q".into())), ..switching }), Act::Pause(held));
        assert_eq!(next(&replica(2, order(1, "b-0", pause()))), Act::Wait);
    }

    #[test]
    fn a_master_that_stood_still_takes_no_write_until_somebody_confirms_it() {
        let doubt = Seen { doubt: true, ..master(order(1, "b-0", lead())) };
        assert_eq!(next(&doubt), Act::Pause(Pause::Doubt));
        let paused = Seen { paused: Some(Pause::Doubt), ..doubt };
        assert!(asks(&paused));
        assert_eq!(next(&paused), Act::Wait);
        assert_eq!(next(&Seen { named: named(OWN, 1), ..paused.clone() }), Act::Resume);
        assert_eq!(next(&Seen { named: named(2, 2), ..paused.clone() }), Act::Follow(at(2)));
        assert_eq!(next(&Seen { doubt: false, ..paused }), Act::Resume);
    }

    #[test]
    fn an_older_order_is_refused() {
        let durable = Durable { order: Some(Order { revision: 5, ..order(2, "r", lead()) }), ..Durable::default() };
        let refused = |order: Order| accept(&durable, &order).unwrap_err().to_string();
        let revision = refused(order(2, "r", lead()));
        assert_eq!(revision, "the order of revision 1 is older than the one in force, of revision 5");
        let epoch = refused(Order { revision: 9, ..order(1, "r", lead()) });
        assert_eq!(epoch, "the order of epoch 1 is older than the one in force, of epoch 2");
        assert!(accept(&durable, &order(3, "r", lead())).is_ok());
        let same = accept(&durable, &Order { revision: 5, ..order(2, "other", lead()) }).unwrap();
        assert_eq!(same.order.unwrap().run, "other");
    }

    #[test]
    fn sigterm_and_a_restart_stop_the_server() {
        let running = master(order(1, "b-0", lead()));
        assert_eq!(next(&Seen { terminating: true, ..running.clone() }), Act::Stop);
        assert_eq!(next(&Seen { terminating: true, server: Server::Stopping, ..running.clone() }), Act::Wait);
        assert_eq!(next(&Seen { terminating: true, server: Server::Stopped, ..running.clone() }), Act::Exit);
        assert_eq!(next(&Seen { restart: true, ..running.clone() }), Act::Stop);
        assert_eq!(next(&Seen { tuned: false, ..running }), Act::Tune);
    }
}
