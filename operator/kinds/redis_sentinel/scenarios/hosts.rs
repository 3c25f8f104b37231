//! Scenarios over several hosts: places, loss, drain, return.

use super::super::world::World;
use super::{end, expect};

/// A RedisSentinel over three hosts that is healthy and has data.
fn spread(spec: &str) -> World {
    let mut world = World::over(spec, 3);
    world.settle(200);
    world.turns(30);
    world
}

/// The number of data members that are on the master's host, and that host.
fn host_of(world: &World, member: &str) -> String {
    let place = world.decisions().members.into_iter().find(|place| place.name == member);
    place.map(|place| place.host).unwrap_or_default()
}

/// Since when: steps and faults that tell the course.
fn course(world: &World, since: u64) -> String {
    let told = ["---", "create container", "remove container", "promote", "forget", "reserve", "release"];
    let story = world.story(since);
    let lines = story.lines().filter(|line| told.iter().any(|words| line.contains(words)));
    lines.map(|line| format!("{}\n", &line[7..])).collect()
}

#[test]
fn members_and_sentinels_are_spread_over_the_hosts_each_with_a_port_of_its_own() {
    let world = spread("");
    expect![[r#"
        1 on h3, 2 on h1, 3 on h2; sentinel-1 on h3, sentinel-2 on h1, sentinel-3 on h2
        master cache-1
    "#]]
    .assert_eq(&world.placed());
    let status = world.status();
    expect![[r#"
        RedisEndpoints { sentinels: ["10.99.0.13:26811", "10.99.0.11:26811", "10.99.0.12:26811"], master: ["10.99.0.13:25746"], replicas: ["10.99.0.11:25746", "10.99.0.12:25746"] }
        Some("")
        Some(ToleratedLosses { members: 1, hosts: 1 })
        Ready Serving: cache-1 takes writes; all members and Sentinels are ready
        Progressing Settled: everything is as declared
        Degraded Redundant: replication is asynchronous: a failover can lose what was acknowledged and the new master had not received; the master takes writes only while 1 replica acknowledged within 3s
        Unencrypted TlsOff: data, passwords and the words of the Sentinels pass between hosts without encryption: from clients and replicas to the data members, and between Sentinels and members; set spec.tls.enabled: true, or use a network that nobody else reads
    "#]].assert_eq(&format!(
        "{:?}\n{:?}\n{:?}\n{}\n",
        status.endpoints,
        status.endpoint_set.map(|set| set.network),
        status.tolerated_losses,
        status.conditions.iter().map(|one| format!("{} {}: {}", one.type_, one.reason, one.message)).collect::<Vec<_>>().join("\n")
    ));
    let set = world.secrets.facts.as_ref().map(|facts| (facts.master.to_string(), facts.sentinels.len()));
    expect![[r#"Some(("10.99.0.13:25746", 3))"#]].assert_eq(&format!("{set:?}"));
    end(&world);
}

#[test]
fn when_the_masters_host_loses_its_power_the_sentinels_promote_and_its_return_changes_nothing() {
    let mut world = spread("");
    let (old, since) = (world.master(), world.ms);
    let host = host_of(&world, &old);
    world.power_off(&host);
    world.turns(150);
    assert_ne!(world.master(), old);
    let lost = world.lost();
    expect![[r#"
        --- host h3 loses its power
        []
        1 on h3, 2 on h1, 3 on h2; sentinel-1 on h3, sentinel-2 on h1, sentinel-3 on h2
        master cache-2
    "#]]
    .assert_eq(&format!("{}{:?}\n{}", course(&world, since), lost, world.placed()));
    world.power_on(&host);
    world.settle(600);
    expect![[r#"
        1 on h3, 2 on h1, 3 on h2; sentinel-1 on h3, sentinel-2 on h1, sentinel-3 on h2
        master cache-2
    "#]]
    .assert_eq(&world.placed());
    end(&world);
}

/// Regression 367: a data member and a Sentinel of a lost host left one after the other. While the second was wanted and down no
/// Sentinel could forget the first, and without that the second was not removed. One that does not answer is not waited for.
#[test]
fn a_host_that_a_person_gives_up_is_left_at_once_and_what_returns_there_is_removed_but_for_its_volume() {
    let mut world = World::over("", 4);
    world.settle(200);
    world.turns(30);
    let (old, since) = (world.master(), world.ms);
    let host = host_of(&world, &old);
    world.power_off(&host);
    world.declare(&host, |host| host.lost = true);
    world.settle(900);
    expect![[r#"
        --- host h3 loses its power
        ask cache-sentinel-2 to promote a replica of 10.99.0.13:25746
        reserve port 26811 of h2 for cache-sentinel-4
        create container default.cache-sentinel-4 on h2
        reserve port 25746 of h2 for cache-4
        create container default.cache-4 on h2
        let cache-sentinel-2 forget members that do not exist any more
        release port 25746 of h3
        release port 26811 of h3
        let cache-sentinel-2 forget members that do not exist any more
        let cache-sentinel-3 forget members that do not exist any more
        2 on h1, 3 on h4, 4 on h2; sentinel-2 on h1, sentinel-3 on h4, sentinel-4 on h2
        master cache-2
    "#]]
    .assert_eq(&format!("{}{}", course(&world, since), world.placed()));
    let back = world.ms;
    world.power_on(&host);
    world.turns(300);
    world.settle(900);
    expect![[r#"
        --- host h3 has power again
        remove container default.cache-1: scaled down
        remove container default.cache-sentinel-1: scaled down
    "#]]
    .assert_eq(&course(&world, back));
    assert!(world.volumes()[&host].contains(&old));
    end(&world);
}

#[test]
fn a_drain_switches_over_first_and_every_successor_is_ready_before_a_member_leaves() {
    let mut world = World::over("", 4);
    world.settle(200);
    world.turns(30);
    let (old, since) = (world.master(), world.ms);
    let host = host_of(&world, &old);
    world.declare(&host, |host| host.drains = true);
    world.settle(1200);
    expect![[r#"
        reserve port 26811 of h2 for cache-sentinel-4
        ask cache-sentinel-1 to promote a replica of 10.99.0.13:25746
        create container default.cache-sentinel-4 on h2
        reserve port 25746 of h2 for cache-4
        create container default.cache-4 on h2
        remove container default.cache-1: scaled down
        let cache-sentinel-2 forget members that do not exist any more
        release port 25746 of h3
        let cache-sentinel-2 forget members that do not exist any more
        let cache-sentinel-3 forget members that do not exist any more
        let cache-sentinel-4 forget members that do not exist any more
        remove container default.cache-sentinel-1: scaled down
        let cache-sentinel-2 forget members that do not exist any more
        release port 26811 of h3
        let cache-sentinel-2 forget members that do not exist any more
        let cache-sentinel-3 forget members that do not exist any more
        let cache-sentinel-4 forget members that do not exist any more
        2 on h1, 3 on h4, 4 on h2; sentinel-2 on h1, sentinel-3 on h4, sentinel-4 on h2
        master cache-2
    "#]]
    .assert_eq(&format!("{}{}", course(&world, since), world.placed()));
    assert_eq!(world.lost(), Vec::<u64>::new());
    end(&world);
}

#[test]
fn a_silent_host_is_replaced_after_its_time_and_shared_hosts_part_again_when_it_is_back() {
    let mut world = spread("placement: {replaceAfter: 60s}");
    let host = host_of(&world, "cache-3");
    let since = world.ms;
    world.power_off(&host);
    world.turns(590);
    assert_eq!(world.decisions().replacement, None);
    world.turns(900);
    expect![[r#"
        --- host h2 loses its power
        reserve port 25747 of h3 for cache-4
        reserve port 26812 of h3 for cache-sentinel-4
        create container default.cache-4 on h3
        create container default.cache-sentinel-4 on h3
        let cache-sentinel-1 forget members that do not exist any more
        release port 25746 of h2
        release port 26811 of h2
        let cache-sentinel-1 forget members that do not exist any more
        let cache-sentinel-2 forget members that do not exist any more
        1 on h3, 2 on h1, 4 on h3; sentinel-1 on h3, sentinel-2 on h1, sentinel-4 on h3
        master cache-1
    "#]]
    .assert_eq(&format!("{}{}", course(&world, since), world.placed()));
    let told = |world: &World| {
        let problem = world.status().conditions.into_iter().find(|one| one.type_ == "PlacementProblem");
        problem.map(|one| one.message).unwrap_or_default()
    };
    expect!["the loss of host h3 stops elections: it has 2 of the Sentinels"].assert_eq(&told(&world));
    world.power_on(&host);
    world.turns(300);
    world.settle(900);
    expect![[r#"
        1 on h3, 2 on h1, 5 on h2; sentinel-1 on h3, sentinel-2 on h1, sentinel-5 on h2
        master cache-1
    "#]]
    .assert_eq(&format!("{}{}", world.placed(), told(&world)));
    end(&world);
}

/// Regression 368: two members on one host that were placed in the same moment tried for the same port; one failed, and with it
/// everything else that was due. What is reserved in a plan counts in it.
#[test]
fn two_hosts_have_what_three_would_and_say_which_one_must_not_be_lost() {
    let mut world = World::over("", 2);
    world.settle(200);
    let problem = world.status().conditions.into_iter().find(|one| one.type_ == "PlacementProblem");
    let told = problem.map(|one| format!("{}: {}\n", one.reason, one.message)).unwrap_or_default();
    expect![[r#"
        1 on h1, 2 on h2, 3 on h1; sentinel-1 on h1, sentinel-2 on h2, sentinel-3 on h1
        master cache-1
        SharedFate: the loss of host h1 stops elections: it has 2 of the Sentinels
        Some(ToleratedLosses { members: 1, hosts: 0 })
    "#]]
    .assert_eq(&format!("{}{told}{:?}\n", world.placed(), world.status().tolerated_losses));
    world.turns(100);
    assert_eq!((world.decisions().replacement, world.decisions().sentinel_replacement), (None, None));
    end(&world);
}

#[test]
fn members_of_a_docker_network_change_to_the_networks_of_their_hosts_one_after_the_other() {
    let mut world = World::new("");
    world.settle(200);
    world.turns(30);
    let before = world.decisions().members.iter().map(|place| place.name.clone()).collect::<Vec<_>>();
    let declared = World::over("", 2).declared.into_values().next().unwrap_or_default();
    world.declared.insert("local".into(), declared);
    world.change_spec(|spec| spec.placement.network = crate::api::placement::NetworkMode::Host);
    world.turns(900);
    let decisions = world.decisions();
    assert_eq!(decisions.members.iter().map(|place| place.name.clone()).collect::<Vec<_>>(), before);
    let all = decisions.members.iter().chain(&decisions.sentinels);
    let left: Vec<_> = all.filter(|place| place.network.is_bridge()).map(|place| &place.name).collect();
    assert_eq!(left, Vec::<&String>::new(), "{}", world.story(world.ms - 20_000));
    assert_eq!(world.status().phase.to_string(), "Healthy");
    assert_eq!(world.lost(), Vec::<u64>::new());
    end(&world);
}

#[test]
fn maintenance_takes_only_the_master_away() {
    let mut world = spread("");
    let old = world.master();
    let host = host_of(&world, &old);
    world.declare(&host, |host| host.maintained = true);
    world.turns(300);
    assert_ne!(world.master(), old);
    expect![[r#"
        1 on h3, 2 on h1, 3 on h2; sentinel-1 on h3, sentinel-2 on h1, sentinel-3 on h2
        master cache-2
    "#]]
    .assert_eq(&world.placed());
    assert_eq!(world.lost(), Vec::<u64>::new());
    end(&world);
}
