//! Every decision of the supervisor of a Redis Cluster's member. Pure.

use crate::supervisor::redis::cluster::wire::{Act, Order, Start};
use crate::supervisor::redis::wire::Server;

/// What the supervisor sees.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The order in force.
    pub order: Option<Order>,
    /// Identifies the server that runs, or that will be started next.
    pub run: String,
    /// The server.
    pub server: Server,
    /// There are passwords.
    pub credentials: bool,
    /// The pause after a failure is over.
    pub due: bool,
    /// It takes itself for the master of slots, and has done so since its start.
    pub leads: bool,
    /// The configuration or the passwords of the order are not in force.
    pub other_config: bool,
    /// A restart of this run was asked for.
    pub restart: bool,
    /// SIGTERM was received.
    pub terminating: bool,
}

/// What the supervisor does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Start the server.
    Start,
    /// Stop it; it saves what its persistence says.
    Stop,
    /// Pause writes for a moment.
    Hold,
    /// Bring configuration and passwords into force.
    Configure,
    /// End: the server has ended.
    Exit,
}

/// What to do next.
pub fn next(seen: &Seen) -> Step {
    let start = seen.order.as_ref().filter(|order| order.run == seen.run).map(|order| order.start);
    match seen.server {
        Server::Stopped if seen.terminating => Step::Exit,
        // Invariant: a server starts only by an order that names its run. So the end of a server is the fence.
        Server::Stopped if seen.credentials && seen.due && start.is_some_and(|start| start != Start::No) => Step::Start,
        Server::Stopped | Server::Stopping => Step::Wait,
        _ if seen.terminating || seen.restart => Step::Stop,
        Server::Running | Server::Loading if start == Some(Start::Yield) && seen.leads => Step::Hold,
        Server::Running if seen.other_config && seen.due => Step::Configure,
        _ => Step::Wait,
    }
}

/// Why a node must not do an act now, by what it knows itself. `copy`: it has a complete copy of its master's data.
pub fn refusal(act: &Act, copy: bool) -> Option<&'static str> {
    let force = matches!(act, Act::Failover { force: true } | Act::TakeOver);
    (force && !copy).then_some("this replica has no complete copy of its master's data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::redis::wire::Config;

    fn seen(start: Start) -> Seen {
        let order = Order { run: "a-1".into(), start, config: Config::default() };
        Seen { order: Some(order), run: "a-1".into(), credentials: true, due: true, ..Seen::default() }
    }

    #[test]
    fn a_server_starts_only_by_an_order_that_names_its_run() {
        assert_eq!(next(&seen(Start::Lead)), Step::Start);
        assert_eq!(next(&seen(Start::Yield)), Step::Start);
        for other in [
            seen(Start::No),
            Seen { run: "a-2".into(), ..seen(Start::Lead) },
            Seen { order: None, ..seen(Start::Lead) },
            Seen { credentials: false, ..seen(Start::Lead) },
        ] {
            assert_eq!(next(&other), Step::Wait, "{other:?}");
        }
        assert_eq!(next(&Seen { terminating: true, ..seen(Start::Lead) }), Step::Exit);
    }

    /// Regression 400: a former master that was cut off from the others began with the slots of its own file, and took writes
    /// until it heard of the new one. Its writes are paused until it has given up the slots.
    #[test]
    fn a_former_master_takes_no_writes_with_slots_of_its_old_file() {
        let former = Seen { server: Server::Running, leads: true, ..seen(Start::Yield) };
        assert_eq!(next(&former), Step::Hold);
        assert_eq!(next(&Seen { leads: false, ..former.clone() }), Step::Wait);
        assert_eq!(next(&Seen { leads: true, server: Server::Running, ..seen(Start::Lead) }), Step::Wait);
        assert_eq!(next(&Seen { restart: true, ..former }), Step::Stop);
    }

    /// Regression 401: FORCE makes a replica master whatever it has; the supervisor knows best what that is.
    #[test]
    fn a_replica_without_a_copy_refuses_to_take_over() {
        for act in [Act::Failover { force: true }, Act::TakeOver] {
            assert_eq!((refusal(&act, false).is_some(), refusal(&act, true)), (true, None));
        }
        assert!(refusal(&Act::Failover { force: false }, false).is_none());
    }
}
