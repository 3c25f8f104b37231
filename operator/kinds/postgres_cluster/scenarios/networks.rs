//! Scenarios of instances that lost their network, or their streams.

use std::net::Ipv4Addr;

use expect_test::expect;

use super::{THREE, check, heals, settled};
use crate::kinds::containers::{HOME, Work};
use crate::kinds::postgres_cluster::world::World;
use crate::runtime::companions::{Heard, Standing};

/// The network of clients, and that of the members.
const CLIENTS: &str = "default.db";
const PEERS: &str = "default.db_peers";

/// Docker refused to connect the member's container with its address.
fn refuses_to_connect(world: &mut World, member: &str, network: &str) {
    let decisions = world.status().decisions.unwrap_or_default();
    let place = decisions.members.iter().find(|place| place.name == member).unwrap_or_else(|| panic!("no {member}"));
    // The next addresses are taken too.
    let own = if network == PEERS { place.peer } else { place.address }.map_or(0, u32::from);
    for address in (0..3).map(|number| Ipv4Addr::from(own + number * 32)) {
        let work = Work::Connect {
            host: HOME.into(),
            container: format!("default.{member}"),
            network: network.into(),
            address: Some(address),
        };
        let state = Standing::Failed { why: "Address already in use".into(), failures: 1, retry: false };
        world.work.insert(work, Heard { value: None, silent_ms: 0, state });
    }
}

fn told(world: &World, kind: &str) -> String {
    let conditions = world.status().conditions;
    conditions
        .into_iter()
        .find(|one| one.type_ == kind)
        .map(|one| format!("{}: {}", one.reason, one.message))
        .unwrap_or_default()
}

/// Regression 107: a container that was taken off its network stayed off it: with two instances writes waited for ever,
/// and a primary cost 38 s and was never whole again. It is connected again while it runs, without a failover.
#[test]
fn an_instance_that_was_taken_off_its_network_is_connected_again_without_a_failover() {
    const TWO: &str = "{image: 'postgres:15', instances: 2}";
    for (spec, member, network) in [
        (THREE, "db-1", CLIENTS),
        (THREE, "db-1", PEERS),
        (THREE, "db-2", CLIENTS),
        (THREE, "db-2", PEERS),
        (TWO, "db-2", PEERS),
    ] {
        let mut world = settled(spec);
        world.disconnect(member, network);
        let steps = world.turn(0);
        let step = format!(
            "connect container default.{member} to network {network}: it is not connected to network {network}"
        );
        assert!(steps.contains(&step), "{steps:?}");
        let degraded = told(&world, "Degraded");
        assert_eq!(
            degraded,
            format!("NetworkLost: {member}: it is not connected to network {network}; Evenkeel connects it again")
        );
        heals(&mut world);
        assert_eq!((world.status().term, world.primary()), (1, "db-1".into()));
    }
}

/// Regression 108: after 30 s of waiting commits a cut-off standby of two instances was promoted and the good primary
/// was stopped, so that nothing served. An election must leave a primary with enough standbys that can be reached.
#[test]
fn a_standby_that_is_off_its_network_is_not_promoted_instead_of_a_primary_that_serves() {
    let mut world = settled("{image: 'postgres:15', instances: 2, durability: {mode: required}}");
    world.disconnect("db-2", PEERS);
    refuses_to_connect(&mut world, "db-2", PEERS);
    for _ in 0..500 {
        world.write();
        world.turn(0);
    }
    assert_eq!((world.status().term, world.primary()), (1, "db-1".into()));
    assert_eq!(told(&world, "Ready"), "CommitsWait: commits need 1 standbys and 0 stream: writes wait");
    world.work.clear();
    heals(&mut world);
    check(&world, expect!["Healthy term 1: db-1 primary running, db-2 standby streaming"]);
}

/// As above, but the standby is on its network, and only its connection to the primary is broken.
#[test]
fn one_standby_without_a_stream_is_not_promoted_because_nobody_could_follow_it() {
    let mut world = settled("{image: 'postgres:15', instances: 2, durability: {mode: required}}");
    world.part("db-1", "db-2");
    world.part("db-2", "db-1");
    for _ in 0..500 {
        world.write();
        world.turn(0);
    }
    assert_eq!((world.status().term, world.primary()), (1, "db-1".into()));
    let ready = told(&world, "Ready");
    assert!(
        ready.contains("no standby is promoted: 1 could take over, and without the primary 2 are needed"),
        "{ready}"
    );
    world.join_all();
    heals(&mut world);
}

/// With three instances the two standbys can take writes without the primary that lost them.
#[test]
fn two_standbys_without_a_stream_take_over() {
    let mut world = settled(THREE);
    for standby in ["db-2", "db-3"] {
        world.part("db-1", standby);
        world.part(standby, "db-1");
    }
    for _ in 0..500 {
        world.write();
        world.turn(0);
    }
    assert_eq!(world.status().term, 2, "{}", world.summary());
    world.join_all();
    heals(&mut world);
}

/// Regression 109: a primary that was off its network counted as alive, because its supervisor answered; writes waited
/// until the standbys had missed it for 30 s. If Docker refuses to connect it, that is evidence for an election.
#[test]
fn a_primary_that_docker_does_not_connect_again_is_replaced_at_once() {
    for network in [CLIENTS, PEERS] {
        let mut world = settled(THREE);
        world.disconnect("db-1", network);
        refuses_to_connect(&mut world, "db-1", network);
        for _ in 0..30 {
            world.write();
            world.turn(0);
        }
        assert_eq!((world.status().term, world.status().phase == "Degraded"), (2, true), "{}", world.summary());
        let cause = world.status().last_failover.map(|failover| failover.cause).unwrap_or_default();
        assert_eq!(cause, format!("db-1: it is not connected to network {network}, and Docker refuses to connect it"));
        world.work.clear();
        heals(&mut world);
    }
}

#[test]
fn a_paused_cluster_tells_about_a_lost_network_and_connects_nothing() {
    let mut world = settled(THREE);
    world.object.metadata.annotations = Some([("evenkeel.dev/reconcile".to_owned(), "paused".to_owned())].into());
    world.disconnect("db-2", CLIENTS);
    assert_eq!(world.turn(0), Vec::<String>::new());
    let instance = world.status().instances.into_iter().find(|instance| instance.name == "db-2");
    assert_eq!(
        instance.and_then(|instance| instance.message).unwrap_or_default(),
        "it is not connected to network default.db; nothing is done while reconciliation is paused"
    );
}
