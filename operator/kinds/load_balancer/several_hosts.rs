//! Balancers on several hosts: where they are, what they reach from there, and what happens when a host is silent or drained.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::time::Duration;

use expect_test::expect;

use super::fixture::World;
use super::seen::Health;
use super::tests::check;
use super::{Fact, workload};
use crate::api::endpoints::{Endpoint, EndpointRole, EndpointSet, EndpointState, PublishedPort};
use crate::kinds::containers::DockerSeen;

const TWO: &str = r"
replicas: 2
frontends: [{name: web, port: 80, backend: web, hostPort: 8080}]
backends: [{name: web, deployment: {name: web, port: 8052}, drainTimeout: 10s}]
";

/// Sets the pods of Deployment `web`: name, host, and the port of the host's address at which others reach it (0: none).
fn pods(world: &mut World, pods: &[(&str, &str, u16)]) {
    let endpoint = |(name, host, host_port): &(&str, &str, u16)| {
        let address = world.observed.declared[*host].address.unwrap();
        let published = PublishedPort { port: 8052, address, host_port: *host_port };
        Endpoint {
            name: (*name).into(),
            host: (*host).into(),
            // The same on every host: each host chooses its own subnet.
            address: Some(Ipv4Addr::new(10, 1, 0, 1)),
            published: (*host_port > 0).then_some(published).into_iter().collect(),
            state: EndpointState::Serving,
            ..Default::default()
        }
    };
    let endpoints = pods.iter().map(endpoint).collect();
    let set = EndpointSet { network: "evenkeel-default".into(), epoch: 0, endpoints };
    world.target("Deployment", "web", Some(set));
}

/// Where each balancer is, and where it reaches its servers.
fn reached(world: &mut World) -> String {
    let mut told = String::new();
    for (container, balancer) in &world.observed.balancers {
        let Fact::Known(answer) = &balancer.answer else { panic!("{container} does not answer") };
        let server = |((backend, name), seen): (&(String, String), &super::seen::AtBalancer)| {
            format!(" {backend}/{name} {}:{} {:?}", seen.address.unwrap(), seen.port, seen.admin)
        };
        let servers: String = answer.servers.iter().map(server).collect();
        told.push_str(&format!("{container} on {}:{servers}\n", balancer.host));
    }
    told
}

fn settled(hosts: &[&str]) -> World {
    let mut world = World::on_hosts(TWO, hosts);
    pods(&mut world, &[("web-a", "h1", 20001), ("web-b", "h2", 20001)]);
    world.settle();
    world
}

fn silence(world: &mut World, host: &str, seconds: u64) {
    world.observed.hosts.insert(host.into(), DockerSeen::unknown("host does not answer"));
    world.observed.silent.insert(host.into(), Duration::from_secs(seconds));
    world.observed.balancers.retain(|_, balancer| balancer.host != host);
}

fn places(world: &World) -> String {
    let decisions = world.object.status.as_ref().unwrap().decisions.as_ref().unwrap();
    decisions.places.iter().map(|(name, host)| format!("{name} {host}\n")).collect()
}

/// Regression 332: a balancer was given the bridge address of a pod on any host, and sent the pod's connections to whatever
/// container had that address on its own host. Such an address is used on its own host only.
#[test]
fn a_balancer_reaches_a_pod_of_another_host_by_its_published_port_or_not_at_all() {
    let mut world = settled(&["h1", "h2"]);
    check(
        &reached(&mut world),
        expect![[r#"
            default.edge-1 on h2: web/web-a 192.0.2.1:20001 Ready web/web-b 10.1.0.1:8052 Ready
            default.edge-2 on h1: web/web-a 10.1.0.1:8052 Ready web/web-b 192.0.2.2:20001 Ready
        "#]],
    );
    pods(&mut world, &[("web-a", "h1", 20001), ("web-b", "h2", 20001), ("web-c", "h2", 0)]);
    world.settle();
    world.checks(Health::Up);
    world.settle();
    check(
        &reached(&mut world),
        expect![[r#"
            default.edge-1 on h2: web/web-a 192.0.2.1:20001 Ready web/web-b 10.1.0.1:8052 Ready web/web-c 10.1.0.1:8052 Ready
            default.edge-2 on h1: web/web-a 10.1.0.1:8052 Ready web/web-b 192.0.2.2:20001 Ready
        "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
            Degraded 2/2
            web: web-a Ready, web-b Ready, web-c Starting
            BackendsResolved=False BackendNotReached: web-c of backend web is on host h2 and has no address that other hosts reach, so the balancer on host h1 sends it nothing; set spec.address of the DockerHosts
            Degraded=True BackendNotReached: web-c of backend web is on host h2 and has no address that other hosts reach, so the balancer on host h1 sends it nothing; set spec.address of the DockerHosts
        "#]],
    );
    // Its published port goes: what it had is taken out at once.
    pods(&mut world, &[("web-a", "h1", 0), ("web-b", "h2", 20001)]);
    world.settle();
    check(
        &reached(&mut world),
        expect![[r#"
            default.edge-1 on h2: web/web-a 192.0.2.1:20001 Maint web/web-b 10.1.0.1:8052 Ready
            default.edge-2 on h1: web/web-a 10.1.0.1:8052 Ready web/web-b 192.0.2.2:20001 Ready
        "#]],
    );
}

#[test]
fn balancers_spread_one_a_host_with_the_same_port_on_each() {
    let mut world = settled(&["h1", "h2", "h3"]);
    let places = super::places::members(&world.object, &world.object.status.clone().unwrap().decisions.unwrap().places);
    let hosts: std::collections::BTreeSet<_> = places.iter().map(|place| place.host.clone()).collect();
    assert_eq!(hosts.len(), 2, "{places:?}");
    for place in &places {
        let spec = workload::container_spec(&world.object, &world.observed, place, "binary").unwrap();
        assert_eq!(spec.ports.iter().map(|port| port.1).collect::<Vec<_>>(), [8080]);
    }
    // With fewer hosts than balancers, a host has two, with different ports.
    world = settled(&["h1", "h2"]);
    world.object.spec.replicas = 3;
    world.settle();
    let places = super::places::members(&world.object, &world.object.status.clone().unwrap().decisions.unwrap().places);
    assert_eq!(places.iter().map(|place| place.above).sum::<u32>(), 1, "{places:?}");
}

#[test]
fn addresses_of_hosts_need_no_network_and_have_their_own_ports() {
    let spec = "frontends: [{name: db, port: 5432, mode: tcp, backend: db}]\nbackends: [{name: db, postgres: {name: pg, role: primary}}]";
    let mut world = World::on_hosts(spec, &["h1", "h2"]);
    let endpoint = |last: u8, roles: &[EndpointRole]| Endpoint {
        name: format!("pg-{last}"),
        host: format!("h{last}"),
        address: Some(Ipv4Addr::new(192, 0, 2, last)),
        port: Some(20_430 + u16::from(last)),
        roles: roles.iter().copied().collect(),
        state: EndpointState::Serving,
        ..Default::default()
    };
    let endpoints = vec![endpoint(1, &[EndpointRole::Primary]), endpoint(2, &[EndpointRole::Replica])];
    world.target("PostgresCluster", "pg", Some(EndpointSet { network: String::new(), epoch: 3, endpoints }));
    world.settle();
    let balancer = world.observed.balancers["default.edge-1"].host.clone();
    let networks = &world.observed.hosts[&balancer].container("default.edge-1").unwrap().networks;
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["evenkeel-default"]);
    let told = reached(&mut world).replace(&format!(" on {balancer}"), "");
    check(
        &told,
        expect![[r#"
            default.edge-1: db/pg-1 192.0.2.1:20431 Ready db/pg-2 192.0.2.2:20432 Maint
        "#]],
    );
}

/// Regression 333: while the host of one balancer was silent, nothing said of the others what they send, so no pod became
/// available and none was drained. After a minute that host is not waited for.
#[test]
fn a_balancer_on_a_silent_host_cannot_say_and_is_not_waited_for_after_a_minute() {
    let mut world = settled(&["h1", "h2", "h3"]);
    let host = world.observed.balancers["default.edge-1"].host.clone();
    let other = world.observed.balancers["default.edge-2"].host.clone();
    // The third host is closed, so the balancer has no other place.
    let third = world.observed.declared.keys().find(|name| **name != host && **name != other).unwrap().clone();
    world.observed.declared.get_mut(&third).unwrap().open = false;
    let mut told = String::new();
    for seconds in [0, 59, 60] {
        silence(&mut world, &host, seconds);
        let steps = world.round();
        world.plan();
        told.push_str(&format!("{seconds} s: {steps}{}", world.told()));
    }
    check(
        &told.replace(&host, "HOST"),
        expect![[r#"
            0 s: Degraded 1/2
            web: web-a Unknown, web-b Unknown
            Ready=False BalancersNotReady: 1 of 2 balancers balance
            Degraded=True BalancersNotReady: 1 of 2 balancers balance
            Progressing=True BalancersNotReady: 1 of 2 balancers balance
            59 s: Degraded 1/2
            web: web-a Unknown, web-b Unknown
            Ready=False BalancersNotReady: 1 of 2 balancers balance
            Degraded=True BalancersNotReady: 1 of 2 balancers balance
            Progressing=True BalancersNotReady: 1 of 2 balancers balance
            60 s: Degraded 1/2
            web: web-a Ready, web-b Ready
            Ready=False BalancersNotReady: 1 of 2 balancers balance
            Degraded=True BalancersNotReady: 1 of 2 balancers balance
            Progressing=True BalancersNotReady: 1 of 2 balancers balance
        "#]],
    );
}

#[test]
fn a_balancer_of_a_lost_host_moves_and_what_is_left_there_is_removed_when_the_host_is_back() {
    let mut world = settled(&["h1", "h2", "h3"]);
    let host = world.observed.balancers["default.edge-1"].host.clone();
    let before = world.observed.hosts[&host].clone();
    silence(&mut world, &host, 59);
    world.settle();
    assert!(places(&world).contains(&format!("edge-1 {host}")));
    silence(&mut world, &host, 60);
    world.settle();
    assert!(!places(&world).contains(&host), "{}", places(&world));
    world.observed.silent.clear();
    world.observed.hosts.insert(host.clone(), before);
    check(
        &world.settle().replace(&host, "HOST"),
        expect![[r#"
            remove container default.edge-1: scaled down
            remove volume default.edge-1
        "#]],
    );
}

#[test]
fn balancers_leave_a_drained_host_last_and_only_if_others_serve() {
    let mut world = settled(&["h1", "h2"]);
    let host = world.observed.balancers["default.edge-1"].host.clone();
    let declared = world.observed.declared.get_mut(&host).unwrap();
    (declared.open, declared.drains) = (false, true);
    // A pod is still there.
    assert_eq!(world.settle(), "");
    let other = if host == "h1" { "h2" } else { "h1" };
    pods(&mut world, &[("web-c", other, 20001)]);
    let told = world.settle();
    world.plan();
    check(
        &format!("{told}{}", world.told()).replace(&host, "HOST"),
        expect![[r#"
            release port 8080 of HOST
            tell default.edge-2: web/web-a maint, cut web/web-a, forget web/web-a, web/web-b maint, cut web/web-b, forget web/web-b, web/web-c is at 10.1.0.1:8052, check web/web-c, web/web-c drain
            write the servers into the configuration of default.edge-2
            remove container default.edge-1: scaled down
            tell default.edge-2: web/web-c ready
            write the servers into the configuration of default.edge-2
            remove volume default.edge-1
            Degraded 1/1
            web: web-c Ready
            Ready=False BalancersNotReady: 1 of 2 balancers balance
            Degraded=True NoHost: edge-1: no host will take it: 2 declared, 1 closed, 0 not answering, 1 with a member already
            Progressing=True BalancersNotReady: 1 of 2 balancers balance
        "#]],
    );
    // Alone, it stays.
    let mut world = World::on_hosts(&TWO.replace("replicas: 2", "replicas: 1"), &["h1"]);
    pods(&mut world, &[]);
    world.settle();
    let declared = world.observed.declared.get_mut("h1").unwrap();
    (declared.open, declared.drains) = (false, true);
    let told = world.settle();
    world.plan();
    check(
        &format!("{told}{}", world.told()),
        expect![[r#"
            Healthy 1/1
            web: 
        "#]],
    );
    let conditions = &world.object.status.as_ref().unwrap().conditions;
    let blocked = conditions.iter().find(|one| one.type_ == "DrainBlocked").map(|one| one.message.as_str());
    expect!["edge-1 stays on h1, which is drained: no host will take it: 1 declared, 1 closed, 0 not answering, 0 with a member already"].assert_eq(blocked.unwrap_or_default());
}

#[test]
fn a_balancer_of_a_version_without_a_record_stays_where_it_was() {
    let mut world = World::on_hosts(TWO, &["h1", "local", "h2"]);
    pods(&mut world, &[("web-a", "local", 0)]);
    world.settle();
    let status = world.object.status.as_mut().unwrap();
    let decisions = status.decisions.as_mut().unwrap();
    (decisions.places, decisions.started) = (Default::default(), true);
    world.observed.hosts.insert("local".into(), DockerSeen::unknown("host does not answer"));
    world.observed.hosts.values_mut().for_each(|host| {
        if let Fact::Known(all) = &mut host.containers {
            all.clear();
        }
    });
    world.plan();
    assert_eq!(places(&world), "edge-1 local\nedge-2 local\n");
}

/// A port that a person named is reserved like the ports that Evenkeel chooses, and no container is made while another member
/// has it.
#[test]
fn a_balancer_reserves_its_host_ports_and_waits_for_one_that_somebody_else_has() {
    let mut world = World::on_hosts(TWO, &["h1", "h2"]);
    pods(&mut world, &[]);
    let mut other = crate::api::port_reservation::PortReservationSpec {
        host: "h1".into(),
        port: 8080,
        owner: crate::kinds::ports::owner_of(&world.object),
        member: "db-1".into(),
        purpose: "postgres".into(),
        foreign: false,
        named: true,
    };
    (other.owner.kind, other.owner.name, other.owner.uid) = ("PostgresCluster".into(), "db".into(), "2".into());
    crate::kinds::ports::note(&mut world.observed.reserved, &other);
    let mut told = world.settle();
    world.plan();
    told += &world.told();
    world.observed.reserved.remove(&("h1".into(), 8080));
    told += "It is free now.\n";
    told += &world.settle();
    check(
        &told,
        expect![[r#"
            reserve port 8080 of h2 for edge-1
            create volume default.edge-1 on h2
            create container default.edge-1 on h2
            start container default.edge-1
            give default.edge-1 configuration 26c1737ee4e8
            reload default.edge-1 with configuration 26c1737ee4e8
            keep the configuration of default.edge-1 as the last good one
            Degraded 1/1
            web: 
            Ready=False BalancersNotReady: 1 of 2 balancers balance
            Degraded=True PortConflict: edge-2: port 8080 of host h1 is reserved for db-1 of PostgresCluster db
            Progressing=True BalancersNotReady: 1 of 2 balancers balance
            It is free now.
            reserve port 8080 of h1 for edge-2
            create volume default.edge-2 on h1
            create container default.edge-2 on h1
            start container default.edge-2
            give default.edge-2 configuration 26c1737ee4e8
            reload default.edge-2 with configuration 26c1737ee4e8
            keep the configuration of default.edge-2 as the last good one
        "#]],
    );
}

#[test]
fn a_balancer_that_binds_to_its_host_publishes_on_the_address_of_that_host_and_goes_to_no_host_without_one() {
    let mut world = World::on_hosts(TWO, &["h1", "h2", "h3"]);
    pods(&mut world, &[]);
    world.object.spec.bind_address = "Host".into();
    world.observed.declared.get_mut("h1").unwrap().address = None;
    world.settle();
    let decisions = world.object.status.clone().unwrap().decisions.unwrap();
    let published = |place| super::published::ports(&world.object, &world.observed, place).unwrap();
    let places = super::places::members(&world.object, &decisions.places);
    let mut at: Vec<_> =
        places.iter().flat_map(published).map(|(address, port, _)| format!("{address}:{port}")).collect();
    at.sort();
    assert_eq!(at, ["192.0.2.2:8080", "192.0.2.3:8080"]);
}
