//! Tests of the planner by example: the steps and the status, as text.
#![allow(clippy::unwrap_used)]

use expect_test::{Expect, expect};

use super::fixture::{WEB_AND_DATABASE, World, at, web_and_redis};
use super::seen::{Admin, Health};
use super::{Fact, Refusal, Step, haproxy, text, workload};
use crate::api::endpoints::{EndpointRole, Routable};
use crate::api::load_balancer::EngineKind;
use crate::engine::ContainerState;

pub(super) fn settled() -> World {
    settled_with(WEB_AND_DATABASE)
}

fn settled_with(spec: &str) -> World {
    let mut world = World::new(spec);
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready")]);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming", "pg-3 streaming"]);
    world.settle();
    world.plan();
    world
}

pub(super) fn check(said: &str, expected: Expect) {
    expected.assert_eq(said);
}

const ONE: &str = r"
frontends: [{name: web, port: 80, backend: web}]
backends: [{name: web, deployment: {name: web, port: 8052}, drainTimeout: 10s}]
";

#[test]
fn the_first_configuration_goes_to_every_balancer_and_then_nothing_is_to_be_done() {
    let mut world = World::new(WEB_AND_DATABASE);
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready")]);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming", "pg-3 streaming"]);
    check(
        &world.settle(),
        expect![[r#"
            give default.edge-1 configuration d0d433c413ac
            give default.edge-2 configuration d0d433c413ac
            reload default.edge-1 with configuration d0d433c413ac
            reload default.edge-2 with configuration d0d433c413ac
            keep the configuration of default.edge-1 as the last good one
            keep the configuration of default.edge-2 as the last good one
        "#]],
    );
    check(
        &world.told(),
        expect![[r#"
        Healthy 2/2
        web: web-a Ready, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
    "#]],
    );
}

#[test]
fn a_new_pod_is_checked_before_it_gets_anything_and_needs_no_reload() {
    let mut world = settled();
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready"), ("web-c", 3, "ready"), ("web-d", 4, "")]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: web/web-c is at 10.1.0.3:8052, check web/web-c, web/web-c drain, cookies of web
        write the servers into the configuration of default.edge-1
        tell default.edge-2: web/web-c is at 10.1.0.3:8052, check web/web-c, web/web-c drain, cookies of web
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Healthy 2/2
        web: web-a Ready, web-b Ready, web-c Starting, web-d Starting
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
    "#]],
    );
    check(&world.round(), expect![[""]]);
    world.checks(Health::Up);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: web/web-c ready
        write the servers into the configuration of default.edge-1
        tell default.edge-2: web/web-c ready
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Healthy 2/2
        web: web-a Ready, web-b Ready, web-c Ready, web-d Starting
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
    "#]],
    );
}

#[test]
fn a_pod_that_leaves_is_drained_and_then_forgotten() {
    let mut world = settled();
    world.answer("default.edge-1").servers.get_mut(&("web".into(), "web-a".into())).unwrap().sessions = 2;
    world.pods(&[("web-a", 1, "ready leaving"), ("web-b", 2, "ready")]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: web/web-a drain
        write the servers into the configuration of default.edge-1
        tell default.edge-2: web/web-a drain
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Progressing 2/2
        web: web-a Draining, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
        Progressing=True Working: something is being changed
    "#]],
    );
    world.answer("default.edge-1").servers.get_mut(&("web".into(), "web-a".into())).unwrap().sessions = 0;
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: web/web-a maint
        tell default.edge-2: web/web-a maint
    "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Healthy 2/2
        web: web-a Drained, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
    "#]],
    );
    world.pods(&[("web-b", 2, "ready")]);
    check(
        &world.settle(),
        expect![[r#"
        tell default.edge-1: forget web/web-a
        write the servers into the configuration of default.edge-1
        tell default.edge-2: forget web/web-a
        write the servers into the configuration of default.edge-2
    "#]],
    );
}

#[test]
fn sessions_of_a_pod_that_leaves_are_cut_when_its_time_is_over() {
    let mut world = World::new(ONE);
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready")]);
    world.settle();
    world.pods(&[("web-a", 1, "leaving"), ("web-b", 2, "ready")]);
    world.round();
    let since = world.object.status.as_ref().unwrap().decisions.as_ref().unwrap().leaving["web/web-a"];
    world.answer("default.edge-1").servers.get_mut(&("web".into(), "web-a".into())).unwrap().sessions = 1;
    world.now = at(since.as_second() + 9);
    assert!(!world.round().contains("cut"));
    world.now = at(since.as_second() + 10);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: web/web-a maint, cut web/web-a
    "#]],
    );
}

#[test]
fn a_writer_moves_when_its_successor_is_confirmed_and_in_between_there_is_none() {
    for spec in [WEB_AND_DATABASE.to_owned(), web_and_redis()] {
        a_writer_moves(settled_with(&spec));
    }
}

fn a_writer_moves(mut world: World) {
    world.cluster(4, "Electing", "pg-1", &["pg-1 stopped", "pg-2 streaming", "pg-3 streaming"]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: db/pg-1 maint, cut db/pg-1
        write the servers into the configuration of default.edge-1
        tell default.edge-2: db/pg-1 maint, cut db/pg-1
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.cluster(4, "Establishing", "pg-2", &["pg-1 stopped", "pg-2 promoting", "pg-3 streaming"]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: ro/pg-2 maint
        write the servers into the configuration of default.edge-1
        tell default.edge-2: ro/pg-2 maint
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.cluster(4, "Steady", "pg-2", &["pg-1 stopped", "pg-2 gated", "pg-3 streaming"]);
    check(&world.round(), expect![[""]]);
    world.cluster(4, "Steady", "pg-2", &["pg-1 rewinding", "pg-2 running", "pg-3 streaming"]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: db/pg-2 ready
        write the servers into the configuration of default.edge-1
        tell default.edge-2: db/pg-2 ready
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.cluster(4, "Steady", "pg-2", &["pg-1 streaming", "pg-2 unknown", "pg-3 streaming"]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: ro/pg-1 ready
        write the servers into the configuration of default.edge-1
        tell default.edge-2: ro/pg-1 ready
        write the servers into the configuration of default.edge-2
    "#]],
    );
}

/// An operator that was away misses the moment without a writer. The sessions of the old master end before the new one gets
/// any: clients of the old one would go on writing what vanishes when it follows.
#[test]
fn a_master_that_was_replaced_unseen_is_cut_before_its_successor_is_opened() {
    let mut world = settled_with(&web_and_redis());
    world.cluster(4, "Steady", "pg-2", &["pg-1 streaming", "pg-2 running", "pg-3 streaming"]);
    check(
        &world.round(),
        expect![[r#"
            tell default.edge-1: db/pg-1 maint, cut db/pg-1, ro/pg-2 maint, db/pg-2 ready, ro/pg-1 ready
            write the servers into the configuration of default.edge-1
            tell default.edge-2: db/pg-1 maint, cut db/pg-1, ro/pg-2 maint, db/pg-2 ready, ro/pg-1 ready
            write the servers into the configuration of default.edge-2
        "#]],
    );
    world.settle();
    world.plan();
    assert!(world.told().contains("db: pg-1 Drained, pg-2 Ready, pg-3 Drained"), "{}", world.told());
}

/// Regression 330: `role: replica` of a RedisSentinel was no role. Reads go to the master while no replica is in sync.
#[test]
fn reads_of_a_redis_go_to_its_master_while_no_replica_is_in_sync() {
    let mut world = settled_with(&web_and_redis());
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 stopped", "pg-3 stopped"]);
    world.settle();
    world.plan();
    assert!(world.told().contains("db: pg-1 Ready, pg-2 Drained, pg-3 Drained"), "{}", world.told());
    assert!(world.told().contains("ro: pg-1 Ready, pg-2 Drained, pg-3 Drained"), "{}", world.told());
}

#[test]
fn nobody_is_made_writer_on_a_word_that_is_unknown() {
    let mut world = World::new(WEB_AND_DATABASE);
    world.pods(&[]);
    world.cluster(4, "Steady", "pg-2", &["pg-1 streaming", "pg-2 unknown"]);
    world.settle();
    let writers = world.object.status.as_ref().unwrap().decisions.as_ref().unwrap().writers.clone();
    assert!(writers.is_empty(), "{writers:?}");
    let ready = |seen: &super::seen::AtBalancer| seen.admin == Admin::Ready;
    assert!(!world.answer("default.edge-1").of("db").any(|(_, seen)| ready(seen)));
}

#[test]
fn a_backend_that_is_not_there_stays_as_it_was_and_the_rest_goes_on() {
    let mut world = settled();
    world.observed.targets.retain(|named, _| named.kind != "Deployment");
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming", "pg-3 stopped"]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: ro/pg-3 maint
        write the servers into the configuration of default.edge-1
        tell default.edge-2: ro/pg-3 maint
        write the servers into the configuration of default.edge-2
    "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Degraded 2/2
        web: web-a Ready, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Drained
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
        BackendsResolved=False BackendNotFound: Deployment web does not exist: the servers of backend web stay as they are
        Degraded=True BackendNotFound: Deployment web does not exist: the servers of backend web stay as they are
    "#]],
    );
}

#[test]
fn a_refused_configuration_is_not_tried_again_and_the_last_good_one_follows_its_servers() {
    let mut world = settled();
    world.object.spec.max_connections = 7;
    let plan = world.plan();
    let Some(Step::Write { config, runs: false, .. }) = plan.steps.first() else { panic!("{:?}", plan.steps) };
    let refused = Some(Refusal { skeleton: config.skeleton.clone(), words: "line 7: no".into() });
    for name in ["default.edge-1", "default.edge-2"] {
        world.files(name).refused = refused.clone();
    }
    assert_eq!(world.round(), "");
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Degraded 2/2
        web: web-a Ready, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
        ConfigValid=False ConfigRefused: default.edge-1 refuses the configuration, the last good configuration stays in use: line 7: no
        Degraded=True ConfigRefused: default.edge-1 refuses the configuration, the last good configuration stays in use: line 7: no
    "#]],
    );
    world.pods(&[("web-a", 1, "ready leaving"), ("web-b", 2, "ready")]);
    check(
        &world.settle(),
        expect![[r#"
            tell default.edge-1: web/web-a drain
            write the last good configuration of default.edge-1
            tell default.edge-2: web/web-a drain
            write the last good configuration of default.edge-2
            tell default.edge-1: web/web-a maint
            tell default.edge-2: web/web-a maint
        "#]],
    );
    let file = world.files("default.edge-1").current.0.clone();
    assert!(!file.contains("maxconn 7\n") && file.contains("web-a 10.1.0.1:8052"), "{file}");
    // Another configuration is tried.
    world.object.spec.max_connections = 8;
    assert!(world.round().contains("give default.edge-1 configuration"), "a changed spec is tried");
}

#[test]
fn a_configuration_that_no_process_takes_up_is_refused_and_the_last_good_one_lies_there_again() {
    let mut world = settled();
    world.object.spec.frontends[0].port = 667;
    check(
        &world.settle(),
        expect![[r#"
            give default.edge-1 configuration cb6a16e4400d
            give default.edge-2 configuration cb6a16e4400d
            reload default.edge-1 with configuration cb6a16e4400d
            reload default.edge-2 with configuration cb6a16e4400d
            note that default.edge-1 did not take up configuration cb6a16e4400d
            note that default.edge-2 did not take up configuration cb6a16e4400d
            write the last good configuration of default.edge-1
            write the last good configuration of default.edge-2
            reload default.edge-1 with configuration d0d433c413ac
            reload default.edge-2 with configuration d0d433c413ac
        "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Degraded 2/2
        web: web-a Ready, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
        ConfigValid=False ConfigRefused: default.edge-1 refuses the configuration, the last good configuration stays in use: no process took it up
        Degraded=True ConfigRefused: default.edge-1 refuses the configuration, the last good configuration stays in use: no process took it up
    "#]],
    );
    let file = world.files("default.edge-1").current.0.clone();
    assert!(file.contains("bind :443 "), "{file}");
}

#[test]
fn a_paused_balancer_is_shown_and_not_changed_until_it_goes_on() {
    let mut world = settled();
    world.object.metadata.annotations = Some([("evenkeel.dev/reconcile".to_owned(), "paused".to_owned())].into());
    world.pods(&[("web-b", 2, "ready"), ("web-c", 3, "ready")]);
    let decisions = world.object.status.as_ref().unwrap().decisions.clone();
    assert_eq!(world.round(), "");
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Paused 2/2
        web: web-b Ready, web-c Starting
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
    "#]],
    );
    assert_eq!(world.object.status.as_ref().unwrap().decisions, decisions);
    world.object.metadata.annotations = None;
    assert_ne!(world.round(), "");
}

#[test]
fn a_bad_certificate_leaves_the_last_good_one_in_use() {
    let mut world = settled();
    world.observed.certificates.insert("cert".into(), Err("tls.key of Secret cert holds no private key in PEM".into()));
    assert_eq!(world.round(), "");
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Degraded 2/2
        web: web-a Ready, web-b Ready
        db: pg-1 Ready, pg-2 Drained, pg-3 Drained
        ro: pg-1 Drained, pg-2 Ready, pg-3 Ready
        fixed: 10.9.0.1-80 Ready, api.example.com-80 Ready
        CertificatesValid=False CertificateInvalid: tls.key of Secret cert holds no private key in PEM; the last good certificate stays, a frontend that never had one is left out
        Degraded=True CertificateInvalid: tls.key of Secret cert holds no private key in PEM; the last good certificate stays, a frontend that never had one is left out
    "#]],
    );
    let mut fresh = World::new(WEB_AND_DATABASE);
    fresh.observed.certificates.insert("cert".into(), Err("Secret cert is not there".into()));
    fresh.settle();
    let file = fresh.files("default.edge-1").current.0.clone();
    assert!(!file.contains("frontend https\n") && file.contains("frontend pg-rw\n"), "{file}");
}

#[test]
fn a_balancer_that_does_not_answer_makes_its_servers_unknown_and_nothing_disruptive_is_done() {
    let mut world = settled();
    world.observed.balancers.get_mut("default.edge-2").unwrap().answer = Fact::Unknown("no answer within 1s".into());
    world.pods(&[("web-a", 1, "ready leaving"), ("web-b", 2, "ready")]);
    check(
        &world.round(),
        expect![[r#"
        tell default.edge-1: web/web-a drain
        write the servers into the configuration of default.edge-1
    "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
        Degraded 1/2
        web: web-a Unknown, web-b Unknown
        db: pg-1 Unknown, pg-2 Unknown, pg-3 Unknown
        ro: pg-1 Unknown, pg-2 Unknown, pg-3 Unknown
        fixed: 10.9.0.1-80 Unknown, api.example.com-80 Unknown
        Ready=False BalancersNotReady: 1 of 2 balancers balance
        Degraded=True BalancersNotReady: 1 of 2 balancers balance
        Progressing=True Working: something is being changed
    "#]],
    );
}

#[test]
fn balancers_are_replaced_one_at_a_time_and_only_while_all_others_balance() {
    let mut world = settled();
    world.object.spec.image = Some("haproxy:2.8".into());
    check(
        &world.settle(),
        expect![[r#"
            remove container default.edge-1: image haproxy:2.8 instead of haproxy:2.6
            create container default.edge-1 on local
            start container default.edge-1
            give default.edge-1 configuration d0d433c413ac
            reload default.edge-1 with configuration d0d433c413ac
            keep the configuration of default.edge-1 as the last good one
            remove container default.edge-2: image haproxy:2.8 instead of haproxy:2.6
            create container default.edge-2 on local
            start container default.edge-2
            give default.edge-2 configuration d0d433c413ac
            reload default.edge-2 with configuration d0d433c413ac
            keep the configuration of default.edge-2 as the last good one
        "#]],
    );
    world.object.spec.image = Some("haproxy:2.6".into());
    if let Fact::Known(containers) = &mut world.docker().containers {
        containers.get_mut("default.edge-1").unwrap().state = ContainerState::Exited;
    }
    let said = world.plan().steps.iter().map(|step| format!("{step}\n")).collect::<String>();
    assert_eq!(said, "remove container default.edge-1: image haproxy:2.6 instead of haproxy:2.8\n");
}

/// Regression 34: an outage of all balancers was shown as Unavailable in one status and after that as Pending, not
/// degraded: whether they had ever balanced was read from the last condition.
#[test]
fn an_outage_of_all_balancers_stays_an_outage() {
    let mut world = settled();
    world.observed.balancers.values_mut().for_each(|one| one.answer = Fact::Unknown("no answer within 1s".into()));
    for _ in 0..3 {
        world.plan();
        assert!(world.told().starts_with("Unavailable 0/2"), "{}", world.told());
        assert!(world.told().contains("Degraded=True"), "{}", world.told());
    }
}

#[test]
fn what_is_missing_is_made_and_what_is_too_much_goes() {
    let mut world = World::new(ONE);
    world.pods(&[]);
    world.docker().containers = Fact::Known(Default::default());
    world.observed.balancers.clear();
    world.docker().volumes = Fact::Known(["default.edge-2".to_owned()].into());
    world.docker().networks = Fact::Known(Default::default());
    world.docker().images = Fact::Known(Default::default());
    check(
        &world.round(),
        expect![[r#"
            remove volume default.edge-2
            get image haproxy:2.6 on local
            create network evenkeel-default on local
        "#]],
    );
    world.plan();
    check(
        &world.told(),
        expect![[r#"
            Pending 0/0
            web: 
            Ready=False NoBalancer: 0 of 1 balancers balance
            Progressing=True Working: something is being changed
        "#]],
    );
    world.docker().containers = Fact::Unknown("away".into());
    world.observed.balancers.clear();
    assert_eq!(world.round(), "");
}

#[test]
fn a_deleted_balancer_takes_everything_with_it() {
    let mut world = settled();
    world.object.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    check(
        &world.round(),
        expect![[r#"
            remove container default.edge-1: loadbalancers.evenkeel.dev edge is deleted
            remove container default.edge-2: loadbalancers.evenkeel.dev edge is deleted
        "#]],
    );
    world.docker().containers = Fact::Known(Default::default());
    world.docker().volumes = Fact::Known(Default::default());
    assert!(world.plan().finished);
    world.docker().volumes = Fact::Unknown("away".into());
    assert!(!world.plan().finished);
}

#[test]
fn a_balancer_is_in_the_networks_of_its_namespace_and_of_the_databases_it_routes_to() {
    let mut world = World::new(WEB_AND_DATABASE);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running"]);
    let spec = workload::container_spec(&world.object, &world.observed, &world.place(2), "binary").unwrap();
    let networks: Vec<_> = spec.networks.iter().map(|one| one.network.as_str()).collect();
    assert_eq!(
        (spec.network.as_str(), networks, spec.aliases.join(" ")),
        ("evenkeel-default", vec!["default.pg"], "edge edge-2".to_owned())
    );
    let ports: Vec<_> =
        spec.ports.iter().map(|(address, host, inside)| format!("{address}:{host}->{inside}")).collect();
    assert_eq!(ports, ["127.0.0.1:8081->80", "127.0.0.1:18405->8404"]);
    // The balancer leaves the network of a cluster that is being deleted, so that the cluster can remove it.
    let database = |world: &mut World, change: &dyn Fn(&mut Routable)| {
        world
            .observed
            .targets
            .iter_mut()
            .filter(|(named, _)| named.kind == "PostgresCluster")
            .for_each(|(_, one)| change(one))
    };
    let time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1));
    database(&mut world, &|one| one.metadata.deletion_timestamp = Some(time.clone()));
    assert!(
        workload::container_spec(&world.object, &world.observed, &world.place(2), "binary")
            .unwrap()
            .networks
            .is_empty()
    );
    // Until the database reports its network, no container is created and none counts as outdated.
    database(&mut world, &|one| *one = Routable { status: Some(Default::default()), ..Default::default() });
    assert!(workload::container_spec(&world.object, &world.observed, &world.place(2), "binary").is_none());
    world.docker().networks = Fact::Unknown("away".into());
    assert!(workload::container_spec(&world.object, &world.observed, &world.place(2), "binary").is_none());
}

#[test]
fn a_status_of_a_version_without_endpoint_sets_changes_nothing() {
    let mut world = settled();
    world.target("PostgresCluster", "pg", None);
    world.target("Deployment", "web", None);
    check(&world.settle(), expect![[""]]);
    assert!(world.told().starts_with("Healthy 2/2\nweb: web-a Ready, web-b Ready\ndb: pg-1 Ready"), "{}", world.told());
}

#[test]
fn a_set_with_two_writers_is_not_believed() {
    let mut world = settled();
    let mut set = world.cluster_set(4, "Steady", "pg-2", &["pg-1 running", "pg-2 running"]);
    set.endpoints.iter_mut().for_each(|one| one.roles.extend([EndpointRole::Primary]));
    world.target("PostgresCluster", "pg", Some(set));
    check(&world.settle(), expect![[""]]);
    assert!(world.told().contains("db: pg-1 Ready, pg-2 Starting"), "{}", world.told());
}

#[test]
fn no_secret_is_in_a_container_or_in_words() {
    let mut world = World::new(WEB_AND_DATABASE);
    world.pods(&[]);
    let plan = world.plan();
    let said = format!("{:?} {:?}", plan, world.observed);
    assert!(!said.contains("secret") && !said.contains("PEM"), "{said}");
    assert!(text::hash_in(haproxy::BOOTSTRAP).is_some());
}

/// Regression 79: each reload under long requests left a process behind, for an hour and without a bound: eight changes,
/// eight processes. Now a reload ends the oldest first, and in a crowd reloads are rarer.
#[test]
fn a_reload_ends_the_oldest_processes_when_too_many_would_be_left() {
    let mut world = settled();
    world.answer("default.edge-1").old = vec![7, 9, 11, 13];
    world.answer("default.edge-2").old = vec![8, 10, 12];
    world.object.spec.max_connections = 100;
    check(
        &world.settle(),
        expect![[r#"
            give default.edge-1 configuration 3b8f6e4aa450
            give default.edge-2 configuration 3b8f6e4aa450
            end old process 7 of default.edge-1: reloads may leave at most 4
            reload default.edge-1 with configuration 3b8f6e4aa450
            reload default.edge-2 with configuration 3b8f6e4aa450
            keep the configuration of default.edge-1 as the last good one
            keep the configuration of default.edge-2 as the last good one
        "#]],
    );
    world.answer("default.edge-1").old = vec![9, 11, 13, 20];
    world.plan();
    assert_eq!(world.object.status.as_ref().unwrap().old_processes, 4);
    world.object.spec.reload.old_processes = Some(2);
    world.object.spec.max_connections = 101;
    let steps = world.settle();
    assert!(steps.contains("end old process 9, 11, 13 of default.edge-1: reloads may leave at most 2\n"), "{steps}");
}

/// Regression 78: nginx answered 502 to an answer's head of 8 kB and 400 to a request's of 12 kB, and HAProxy to both from
/// 15 kB on: single sign-on makes such cookies. The real engines are asked in `tests/it/balancers_docker.rs`.
#[test]
fn both_engines_take_heads_of_the_same_size() {
    let mut spec = settled().object.spec;
    let mut text = |engine| {
        spec.engine = engine;
        let world = World { object: super::LoadBalancer::new("edge", spec.clone()), ..settled() };
        super::render::skeleton(&super::inputs::Inputs::new(&world.object, &Default::default(), Some("secret")))
    };
    let haproxy = text(EngineKind::Haproxy);
    assert!(haproxy.contains("tune.bufsize 40960\n    tune.maxrewrite 4096\n    tune.http.maxhdr 256\n"), "{haproxy}");
    let nginx = text(EngineKind::Nginx);
    assert!(nginx.contains("large_client_header_buffers 2 33k;\n    proxy_buffer_size 33k;\n"), "{nginx}");
}

/// Regression 76: the check said `Host: localhost`, whatever the application wants to hear.
#[test]
fn a_check_names_the_host_that_the_spec_names() {
    let mut world = settled();
    world.object.spec.backends[0].health_check.as_mut().unwrap().host = Some("app.example.com:8443".into());
    world.settle();
    let file = &world.files("default.edge-1").current.0;
    assert!(file.contains("http-check send meth GET uri /ping ver HTTP/1.1 hdr Host app.example.com:8443\n"), "{file}");
}

/// Regression 113: a balancer that was disconnected from its network was left so: it showed Healthy, and nobody reached
/// it. It is connected again while it runs.
#[test]
fn a_balancer_that_lost_a_network_is_connected_again_and_is_not_ready_meanwhile() {
    for network in ["evenkeel-default", "default.pg"] {
        let mut world = settled();
        let Fact::Known(containers) = &mut world.docker().containers else { panic!("unknown") };
        containers.get_mut("default.edge-1").unwrap().networks.remove(network);
        let plan = world.plan();
        let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        let why = format!("it is not connected to network {network}");
        assert_eq!(steps, [format!("connect container default.edge-1 to network {network}: {why}")]);
        assert_eq!(plan.status.ready_replicas, 1);
        let message = plan.status.pods[0].message.clone();
        assert_eq!(message, Some(format!("{why}; Evenkeel connects it again")));
        let degraded = plan.status.conditions.iter().find(|one| one.type_ == "Degraded").unwrap();
        assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "NetworkLost"));
        world.settle();
        assert!(world.told().starts_with("Healthy 2/2"), "{}", world.told());
    }
}
