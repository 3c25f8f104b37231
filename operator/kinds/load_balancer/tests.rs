//! The planner by example: what is told to balancers and people, in words.
#![allow(clippy::unwrap_used)]

use expect_test::{Expect, expect};

use super::fixture::{WEB_AND_DATABASE, World, at};
use super::render::{Inputs, assemble, skeleton};
use super::seen::Health;
use super::wanted::Admin;
use super::{Fact, Step, haproxy, text, wanted, workload};
use crate::engine::ContainerState;

fn settled() -> World {
    let mut world = World::new(WEB_AND_DATABASE);
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready")]);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming", "pg-3 streaming"]);
    world.settle();
    world.plan();
    world
}

fn check(said: &str, expected: Expect) {
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
    check(&world.settle(), expect![[""]]);
    check(&world.told(), expect![[""]]);
}

#[test]
fn a_configuration_of_haproxy_reads_like_this() {
    let mut world = settled();
    world.plan();
    let balancer = &world.observed.balancers["default.edge-1"];
    check(&balancer.file.known().unwrap().0, expect![[""]]);
}

#[test]
fn a_configuration_of_nginx_reads_like_this() {
    let spec = WEB_AND_DATABASE.replace("replicas: 2", "engine: nginx").replace("stick: {by: cookie}, ", "");
    let mut world = World::new(&spec.replace("path: /ping, ", ""));
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "")]);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming"]);
    let mut d = world.object.status.clone().unwrap_or_default().decisions.unwrap_or_default();
    let routes = wanted::routes(&world.object, &world.observed, &mut d, world.now);
    let engine = world.object.spec.engine;
    let servers = routes
        .iter()
        .map(|route| (route.backend.name.clone(), wanted::at_balancer(route, engine, &Default::default(), world.now)))
        .collect();
    let certificates = [("cert".to_owned(), "c0ffee".to_owned())].into();
    let inputs = Inputs::new(&world.object, &certificates, Some("secret"));
    check(&assemble(&world.object.spec, &skeleton(&inputs), &servers).text, expect![[r##"
        # evenkeel e0a6f0484d86
        daemon off;
        user root;
        worker_processes 2;
        worker_shutdown_timeout 30000ms;
        pid /run/evenkeel/nginx.pid;
        error_log stderr notice;
        events {
            worker_connections 16000;
        }
        http {
            access_log off;
            server_tokens off;
            default_type text/plain;
            client_max_body_size 0;
            client_body_temp_path /etc/evenkeel/body;
            proxy_temp_path /etc/evenkeel/proxy;
            fastcgi_temp_path /etc/evenkeel/fastcgi;
            uwsgi_temp_path /etc/evenkeel/uwsgi;
            scgi_temp_path /etc/evenkeel/scgi;
            map $http_upgrade $connection_upgrade {
                default upgrade;
                '' '';
            }
            # What a client says of itself is not believed.
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Forwarded '';
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port $server_port;
            ssl_protocols TLSv1.2 TLSv1.3;
            server {
                listen unix:/run/evenkeel/admin.sock;
                keepalive_timeout 1h;
                keepalive_requests 1000000000;
                location = /state {
                    # begin evenkeel-state
                    return 200 "hash e0a6f0484d86\nbackend db\nserver db pg-1 10.2.0.1:5432 ready\nserver db pg-2 10.2.0.2:5432 maint\nbackend ro\nserver ro pg-1 10.2.0.1:5432 maint\nserver ro pg-2 10.2.0.2:5432 ready\nbackend web\nserver web web-a 10.1.0.1:8052 ready\n";
                    # end evenkeel-state
                }
                location = /connections {
                    stub_status;
                }
            }
            upstream web {
                zone web 256k;
                # begin web
                server 10.1.0.1:8052 max_fails=3 fail_timeout=1000ms;
                # end web
            }
            upstream fixed {
                zone fixed 256k;
                hash $remote_addr consistent;
                # 10.9.0.1-80
                server 10.9.0.1:80 max_fails=3 fail_timeout=2000ms;
                # api.example.com-80
                server api.example.com:80 max_fails=3 fail_timeout=2000ms;
            }
            server {
                listen 443 ssl http2;
                ssl_certificate /etc/evenkeel/c0ffee.pem;
                ssl_certificate_key /etc/evenkeel/c0ffee.pem;
                client_header_timeout 10000ms;
                client_body_timeout 60000ms;
                send_timeout 60000ms;
                keepalive_timeout 60000ms;
                error_page 418 = @upgrade;
                recursive_error_pages on;
                location / {
                    if ($connection_upgrade) {
                        return 418;
                    }
                    proxy_pass http://web;
                    proxy_connect_timeout 2000ms;
                    proxy_read_timeout 60000ms;
                    proxy_send_timeout 60000ms;
                    proxy_next_upstream error timeout;
                    proxy_next_upstream_tries 3;
                }
                location @upgrade {
                    proxy_pass http://web;
                    proxy_connect_timeout 2000ms;
                    proxy_read_timeout 3600000ms;
                    proxy_send_timeout 3600000ms;
                    proxy_next_upstream error timeout;
                    proxy_next_upstream_tries 3;
                }
            }
            server {
                listen 80;
                client_header_timeout 10000ms;
                client_body_timeout 60000ms;
                send_timeout 60000ms;
                keepalive_timeout 60000ms;
                set $status 308;
                if ($request_method ~ ^(GET|HEAD)$) {
                    set $status 301;
                }
                if ($status = 301) {
                    return 301 https://$host$request_uri;
                }
                return 308 https://$host$request_uri;
            }
            server {
                listen 8000;
                client_header_timeout 10000ms;
                client_body_timeout 300000ms;
                send_timeout 300000ms;
                keepalive_timeout 60000ms;
                error_page 418 = @upgrade;
                recursive_error_pages on;
                location / {
                    if ($connection_upgrade) {
                        return 418;
                    }
                    proxy_pass http://fixed;
                    proxy_connect_timeout 2000ms;
                    proxy_read_timeout 60000ms;
                    proxy_send_timeout 60000ms;
                    proxy_next_upstream error timeout;
                    proxy_next_upstream_tries 3;
                }
                location @upgrade {
                    proxy_pass http://fixed;
                    proxy_connect_timeout 2000ms;
                    proxy_read_timeout 3600000ms;
                    proxy_send_timeout 3600000ms;
                    proxy_next_upstream error timeout;
                    proxy_next_upstream_tries 3;
                }
            }
            server {
                listen 8404;
                auth_basic evenkeel;
                auth_basic_user_file /etc/evenkeel/stats.htpasswd;
                location / {
                    stub_status;
                }
            }
        }
        stream {
            upstream db {
                zone db 256k;
                least_conn;
                # begin db
                server 10.2.0.1:5432 max_fails=0;
                # end db
            }
            upstream ro {
                zone ro 256k;
                least_conn;
                # begin ro
                server 10.2.0.2:5432 max_fails=0;
                # end ro
            }
            server {
                listen 5432 so_keepalive=on;
                proxy_pass db;
                proxy_connect_timeout 2000ms;
                proxy_timeout 3600000ms;
                proxy_socket_keepalive on;
            }
            server {
                listen 5433 so_keepalive=on;
                proxy_pass ro;
                proxy_connect_timeout 2000ms;
                proxy_timeout 3600000ms;
                proxy_socket_keepalive on;
            }
        }
    "##]]);
}

#[test]
fn a_new_pod_is_checked_before_it_gets_anything_and_needs_no_reload() {
    let mut world = settled();
    world.pods(&[("web-a", 1, "ready"), ("web-b", 2, "ready"), ("web-c", 3, "ready"), ("web-d", 4, "")]);
    check(&world.round(), expect![[""]]);
    world.plan();
    check(&world.told(), expect![[""]]);
    check(&world.round(), expect![[""]]);
    world.checks(Health::Up);
    check(&world.round(), expect![[""]]);
    world.plan();
    check(&world.told(), expect![[""]]);
}

#[test]
fn a_pod_that_leaves_is_drained_and_then_forgotten() {
    let mut world = settled();
    world.answer("default.edge-1").servers.get_mut(&("web".into(), "web-a".into())).unwrap().sessions = 2;
    world.pods(&[("web-a", 1, "ready leaving"), ("web-b", 2, "ready")]);
    check(&world.round(), expect![[""]]);
    world.plan();
    check(&world.told(), expect![[""]]);
    world.answer("default.edge-1").servers.get_mut(&("web".into(), "web-a".into())).unwrap().sessions = 0;
    check(&world.round(), expect![[""]]);
    world.plan();
    check(&world.told(), expect![[""]]);
    world.pods(&[("web-b", 2, "ready")]);
    check(&world.settle(), expect![[""]]);
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
    check(&world.round(), expect![[r#"
        tell default.edge-1: web/web-a maint, cut web/web-a
    "#]]);
}

#[test]
fn a_writer_moves_when_its_successor_is_confirmed_and_in_between_there_is_none() {
    let mut world = settled();
    world.cluster(4, "Electing", "pg-1", &["pg-1 stopped", "pg-2 streaming", "pg-3 streaming"]);
    check(&world.round(), expect![[""]]);
    world.cluster(4, "Establishing", "pg-2", &["pg-1 stopped", "pg-2 promoting", "pg-3 streaming"]);
    check(&world.round(), expect![[""]]);
    world.cluster(4, "Steady", "pg-2", &["pg-1 stopped", "pg-2 gated", "pg-3 streaming"]);
    check(&world.round(), expect![[""]]);
    world.cluster(4, "Steady", "pg-2", &["pg-1 rewinding", "pg-2 running", "pg-3 streaming"]);
    check(&world.round(), expect![[""]]);
    world.cluster(4, "Steady", "pg-2", &["pg-1 streaming", "pg-2 unknown", "pg-3 streaming"]);
    check(&world.round(), expect![[""]]);
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
    world.observed.deployments.clear();
    world.cluster(3, "Steady", "pg-1", &["pg-1 running", "pg-2 streaming", "pg-3 stopped"]);
    check(&world.round(), expect![[""]]);
    world.plan();
    check(&world.told(), expect![[""]]);
}

#[test]
fn a_refused_configuration_is_not_tried_again_and_the_last_good_one_follows_its_servers() {
    let mut world = settled();
    world.object.spec.max_connections = 7;
    let plan = world.plan();
    let Some(Step::Configure { config, reload: true, .. }) = plan.steps.first() else { panic!("{:?}", plan.steps) };
    let refused = Some((config.skeleton.clone(), "line 7: no".to_owned()));
    world.observed.balancers.values_mut().for_each(|balancer| balancer.refused = refused.clone());
    assert_eq!(world.round(), "");
    world.plan();
    check(&world.told(), expect![[""]]);
    world.pods(&[("web-a", 1, "ready leaving"), ("web-b", 2, "ready")]);
    check(&world.settle(), expect![[""]]);
    let file = &world.observed.balancers["default.edge-1"].file.known().unwrap().0;
    assert!(file.contains("maxconn 10000") && file.contains("web-a 10.1.0.1:8052"), "{file}");
    // Another one is tried.
    world.object.spec.max_connections = 8;
    assert!(world.round().contains("reload"), "a changed spec is tried");
}

#[test]
fn a_bad_certificate_leaves_the_last_good_one_in_use() {
    let mut world = settled();
    world.observed.certificates.insert("cert".into(), Err("tls.key of Secret cert holds no private key in PEM".into()));
    assert_eq!(world.round(), "");
    world.plan();
    check(&world.told(), expect![[""]]);
    let mut fresh = World::new(WEB_AND_DATABASE);
    fresh.observed.certificates.insert("cert".into(), Err("Secret cert is not there".into()));
    fresh.settle();
    let file = &fresh.observed.balancers["default.edge-1"].file.known().unwrap().0;
    assert!(!file.contains("frontend https\n") && file.contains("frontend pg-rw\n"), "{file}");
}

#[test]
fn a_balancer_that_does_not_answer_makes_its_servers_unknown_and_nothing_disruptive_is_done() {
    let mut world = settled();
    world.observed.balancers.get_mut("default.edge-2").unwrap().answer = Fact::Unknown("no answer within 1s".into());
    world.pods(&[("web-a", 1, "ready leaving"), ("web-b", 2, "ready")]);
    check(&world.round(), expect![[""]]);
    world.plan();
    check(&world.told(), expect![[""]]);
}

#[test]
fn balancers_are_replaced_one_at_a_time_and_only_while_all_others_balance() {
    let mut world = settled();
    world.object.spec.image = Some("haproxy:2.8".into());
    check(&world.round(), expect![[""]]);
    world.observed.balancers.insert("default.edge-1".into(), super::fixture::bootstrapped());
    let said = world.plan().steps.iter().map(|step| format!("{step}\n")).collect::<String>();
    assert!(!said.contains("remove container default.edge-2"), "{said}");
    if let Fact::Known(containers) = &mut world.observed.containers {
        containers.get_mut("default.edge-1").unwrap().state = ContainerState::Exited;
    }
    let said = world.plan().steps.iter().map(|step| format!("{step}\n")).collect::<String>();
    assert!(!said.contains("remove"), "{said}");
}

#[test]
fn what_is_missing_is_made_and_what_is_too_much_goes() {
    let mut world = World::new(ONE);
    world.pods(&[]);
    world.observed.containers = Fact::Known(Default::default());
    world.observed.balancers.clear();
    world.observed.volumes = Fact::Known(["default.edge-2".to_owned()].into());
    world.observed.networks = Fact::Known([("evenkeel-default".to_owned(), false)].into());
    world.observed.image = Fact::Known(false);
    check(&world.round(), expect![[r#"
        remove volume default.edge-2
        get image haproxy:2.6
        create network evenkeel-default
        create volume default.edge-1
        create container default.edge-1
        start container default.edge-1
    "#]]);
    world.plan();
    check(&world.told(), expect![[r#"
        Pending 0/0
        web: 
        Ready=False NoBalancer: 0 of 1 balancers balance
        Progressing=True Working: something is being changed
    "#]]);
    world.observed.containers = Fact::Unknown("away".into());
    assert_eq!(world.round(), "");
}

#[test]
fn a_deleted_balancer_takes_everything_with_it() {
    let mut world = settled();
    world.object.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    check(&world.round(), expect![[""]]);
    world.observed.containers = Fact::Known(Default::default());
    world.observed.volumes = Fact::Known(Default::default());
    assert!(world.plan().finished);
    world.observed.volumes = Fact::Unknown("away".into());
    assert!(!world.plan().finished);
}

#[test]
fn a_balancer_is_in_the_networks_of_its_namespace_and_of_the_databases_it_routes_to() {
    let mut world = World::new(WEB_AND_DATABASE);
    world.cluster(3, "Steady", "pg-1", &["pg-1 running"]);
    let spec = workload::container_spec(&world.object, &world.observed, 2).unwrap();
    let networks: Vec<_> = spec.networks.iter().map(|one| one.network.as_str()).collect();
    assert_eq!((spec.network.as_str(), networks, spec.aliases.join(" ")), (
        "evenkeel-default",
        vec!["default.pg"],
        "edge edge-2".to_owned()
    ));
    let ports: Vec<_> = spec.ports.iter().map(|(address, host, inside)| format!("{address}:{host}->{inside}")).collect();
    assert_eq!(ports, ["127.0.0.1:8081->80", "127.0.0.1:18405->8404"]);
    // Leaving the network lets a cluster that is deleted take it away.
    world.observed.clusters.get_mut("pg").unwrap().metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    assert!(workload::container_spec(&world.object, &world.observed, 2).unwrap().networks.is_empty());
    world.observed.networks = Fact::Unknown("away".into());
    assert!(workload::container_spec(&world.object, &world.observed, 2).is_none());
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
