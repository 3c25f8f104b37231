//! Scenarios of the network of the members: who replicates by TLS, and from when on.

use expect_test::expect;

use super::{THREE, check, heals, programs, settled, upgraded};
use crate::kinds::postgres_cluster::world::World;
use crate::supervisor::state::Source;

/// By which way each standby streams: `plain` or `secure`.
fn ways(world: &World) -> Vec<&'static str> {
    let upstreams = world.boxes.values().filter_map(|one| one.process.applied.as_ref()?.upstream.as_ref());
    let way = |source: &Source| if matches!(source, Source::Secure { .. }) { "secure" } else { "plain" };
    upstreams.map(|upstream| way(&upstream.source)).collect()
}

/// The members that replicate by TLS, as recorded.
fn certified(world: &World) -> Vec<String> {
    let places = world.status().decisions.unwrap_or_default().members;
    places.into_iter().filter(|place| place.peer.is_some()).map(|place| place.name).collect()
}

/// How many addresses the primary admits with the password.
fn plain_addresses(world: &World) -> Vec<usize> {
    let accesses = world.boxes.values().filter_map(|one| one.process.applied.as_ref()?.access.as_ref());
    accesses.map(|access| access.plain.len()).collect()
}

/// Regression 132: replication used the network of the clients and a password. The members of a new cluster never
/// replicate in another way than by TLS, on a network that nobody else is on.
#[test]
fn a_new_cluster_replicates_by_tls_from_the_first_moment() {
    let mut world = World::new(THREE);
    for _ in 0..100 {
        world.turn(0);
        assert!(!ways(&world).contains(&"plain"), "{}", world.story());
    }
    check(&world, expect!["Healthy term 1: db-1 primary running, db-2 standby streaming, db-3 standby streaming"]);
    assert_eq!((ways(&world), certified(&world).len()), (vec!["secure"; 2], 3));
    assert_eq!(plain_addresses(&world), [0; 3]);
}

/// Regression 133: an upgrade must move the replication to TLS without another election than the one switchover, and
/// without a lost write.
#[test]
fn an_upgrade_from_the_release_before_ends_with_tls_after_one_switchover() {
    let mut world = upgraded(&[]);
    world.without_peers();
    for _ in 0..300 {
        world.write();
        world.turn(0);
        assert_eq!(world.lost(), Vec::<u64>::new(), "{}", world.story());
    }
    check(&world, expect!["Healthy term 2: db-1 standby streaming, db-2 primary running, db-3 standby streaming"]);
    assert_eq!(programs(&world), ["evenkeel-bin-2"; 3]);
    assert_eq!((ways(&world), certified(&world).len(), plain_addresses(&world)), (vec!["secure"; 2], 3, vec![0; 3]));
}

#[test]
fn an_update_that_is_deferred_connects_the_members_and_replicates_as_before() {
    let mut world = upgraded(&[("evenkeel.dev/defer-supervisor-update", "true")]);
    world.without_peers();
    heals(&mut world);
    for _ in 0..50 {
        assert_eq!(world.turn(0), Vec::<String>::new());
    }
    assert_eq!((ways(&world), certified(&world).len()), (vec!["plain"; 2], 0));
    world.kill_container("db-1");
    heals(&mut world);
    check(&world, expect!["Healthy term 2: db-1 standby streaming, db-2 primary running, db-3 standby streaming"]);
}

/// Regression 134: an instance whose certificates are not in force would have got an address that it cannot replicate by.
/// The update stops there, and the others go on as before.
#[test]
fn an_update_stops_at_an_instance_without_certificates() {
    let mut world = upgraded(&[]);
    world.uncertified.insert("db-2".into());
    for _ in 0..300 {
        world.write();
        world.turn(0);
    }
    assert_eq!(programs(&world), ["evenkeel-bin-released", "evenkeel-bin-2", "evenkeel-bin-released"]);
    assert_eq!((world.lost(), certified(&world)), (Vec::<u64>::new(), Vec::<String>::new()));
    check(&world, expect!["Healthy term 1: db-1 primary running, db-2 standby streaming, db-3 standby streaming"]);
    world.uncertified.clear();
    heals(&mut world);
    for _ in 0..300 {
        world.write();
        world.turn(0);
    }
    assert_eq!((ways(&world), certified(&world).len(), world.status().term), (vec!["secure"; 2], 3, 2));
}

#[test]
fn a_new_instance_without_certificates_does_not_replicate_at_all() {
    let mut world = World::new(THREE);
    world.uncertified.insert("db-3".into());
    world.turns(100);
    check(&world, expect!["Degraded term 1: db-1 primary running, db-2 standby streaming, db-3 none stopped"]);
    assert_eq!(certified(&world), ["db-1", "db-2"]);
}

/// The address stays when nobody answers, and follows the network when that was made again with another subnet.
#[test]
fn a_member_that_replicates_by_tls_never_goes_back_to_the_password() {
    let mut world = settled(THREE);
    world.uncertified = ["db-1", "db-2", "db-3"].map(String::from).into();
    world.restart_operator(0);
    world.kill_container("db-2");
    heals(&mut world);
    assert_eq!((ways(&world), certified(&world).len()), (vec!["secure"; 2], 3));
}
