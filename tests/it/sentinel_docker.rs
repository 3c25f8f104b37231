//! The supervisor of Sentinels in real containers; the test plays the operator, and two plain servers are the master and its
//! replica. Runs only with EVENKEEL_TEST_DOCKER=1, and needs the image `redis:7`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::net::Ipv4Addr;

use evenkeel::supervisor::redis::wire::{
    Act, Address, Answer, Command, Credentials, MasterSeen, PORT, Report, SENTINEL_PORT, SOCKET, SentinelSeen,
    Sentinels, Server, Tls, VOLUME, Watch,
};
use rcgen::{CertificateParams, KeyPair};

use crate::supervised::{self, Bench, Link, docker};

fn bench(test: &str) -> Option<Bench> {
    Bench::new(test, &supervised::redis(), VOLUME)
}

fn ip(container: &str) -> Ipv4Addr {
    supervised::address(container).parse().unwrap()
}

/// A plain server.
fn server(bench: &mut Bench, name: &str, of: Option<Address>) -> (String, Address) {
    let mut words = vec!["server=redis-server; which $server >/dev/null || server=valkey-server; exec $server".into()];
    words.extend(["evenkeel_sentinel", "app"].map(|user| format!("--user {user} on '>{user}-1' '~*' '&*' +@all")));
    words.extend(["--masteruser app --masterauth app-1 --save ''".into(), "--user default off".into()]);
    words.extend(of.map(|Address { ip, port }| format!("--replicaof {ip} {port}")));
    let container = bench.run(name, &["--entrypoint", "sh"], &["-c", &words.join(" ")]);
    let address = Address { ip: ip(&container), port: PORT };
    (container, address)
}

/// A container of a Sentinel with an open link.
struct Sentinel {
    link: Link<Report>,
    acts: u32,
}

supervised::linked!(Sentinel, Report);

impl Sentinel {
    fn new(bench: &mut Bench, ordinal: usize) -> Self {
        Self::dial(bench.supervised("supervisor-sentinel", &format!("sentinel-{ordinal}")))
    }

    fn dial(container: String) -> Self {
        Self { link: Link::dial(container, SOCKET), acts: 0 }
    }

    fn watch(&mut self, group: &str, monitor: Option<Address>, change: impl Fn(&mut Watch)) {
        let sentinels = Sentinels {
            master_name: "mymaster".into(),
            down_after_ms: 1_000,
            failover_timeout_ms: 10_000,
            ..Sentinels::default()
        };
        let mut watch = Watch {
            group: group.into(),
            announce: Some(Address { ip: ip(&self.container), port: SENTINEL_PORT }),
            monitor,
            sentinels,
            quorum: 2,
            parallel_syncs: 1,
            username: "app".into(),
            ..Watch::default()
        };
        change(&mut watch);
        self.say(&Command::Watch(watch));
    }

    fn act(&mut self, act: Act) -> Option<String> {
        self.acts += 1;
        let id = format!("{}-{}", self.container, self.acts);
        self.say(&Command::Act { id: id.clone(), act });
        let answered = |seen: &SentinelSeen| seen.answer.as_ref().is_some_and(|answer| answer.id == id);
        let report = self.wait("the answer", |report| report.sentinel.as_ref().is_some_and(answered));
        let Answer { refused, .. } = report.sentinel.unwrap().answer.unwrap();
        refused
    }

    /// Waits until what the Sentinel knows fulfils the condition.
    fn sees(&mut self, what: &str, holds: impl Fn(&SentinelSeen, &MasterSeen) -> bool) -> Report {
        self.wait(what, |report| {
            let seen = report.sentinel.as_ref();
            seen.is_some_and(|seen| seen.master.as_ref().is_some_and(|master| holds(seen, master)))
        })
    }

    fn cli(&self, password: &str, command: &str) -> String {
        cli(&self.container, SENTINEL_PORT, password, command)
    }

    fn text(&self, file: &str) -> String {
        docker(&["exec", &self.container, "cat", &format!("{VOLUME}/sentinel/{file}")])
    }

    fn kill_server(&self, signal: &str) {
        let find = "for p in /proc/[0-9]*; do grep -qE '^(redis|valkey)-server' $p/cmdline 2>/dev/null && echo ${p#/proc/}; done";
        let find = find.replace("'^(redis|valkey)-server'", "'^[a-z/]*(redis|valkey)-server'");
        docker(&["exec", &self.container, "sh", "-c", &format!("kill -{signal} $({find})")]);
    }
}

fn credentials(hash: &str, app: &str) -> Command {
    Command::Credentials(with_tls(hash, app, None))
}

fn with_tls(hash: &str, app: &str, tls: Option<Tls>) -> Credentials {
    Credentials {
        hash: hash.into(),
        admin_password: format!("admin-{hash}"),
        replication_password: "replication".into(),
        sentinel_password: "evenkeel_sentinel-1".into(),
        app_password: app.into(),
        tls,
    }
}

/// Runs redis-cli as the application's user.
fn cli(container: &str, port: u16, password: &str, command: &str) -> String {
    let cli = "$(which redis-cli valkey-cli | head -1)";
    let shell = format!("{cli} -p {port} --user app --pass {password} --no-auth-warning {command} 2>&1 || true");
    docker(&["exec", container, "sh", "-c", &shell])
}

fn problem(report: &Report) -> &str {
    report.problem.as_deref().unwrap_or_default()
}

#[test]
fn sentinels_begin_by_order_go_on_by_their_own_file_and_do_only_safe_acts() {
    let Some(mut bench) = bench("sentinels") else { return };
    let (master_container, master) = server(&mut bench, "redis-1", None);
    let (replica_container, replica) = server(&mut bench, "redis-2", Some(master));

    let mut one = Sentinel::new(&mut bench, 1);
    one.wait("a report", |report| problem(report).contains("waits for its first order"));
    one.watch("first", None, |_| {});
    one.wait("the order", |report| problem(report).contains("waits for an order that names the master"));
    one.watch("first", Some(master), |_| {});
    one.wait("the order", |report| problem(report).contains("waits for its passwords"));
    one.say(&credentials("h1", "app-1"));
    one.wait("a running Sentinel", |report| report.server == Server::Running && report.credentials.is_some());
    let mut others = [Sentinel::new(&mut bench, 2), Sentinel::new(&mut bench, 3)];
    for other in &mut others {
        other.say(&credentials("h1", "app-1"));
        other.watch("first", Some(master), |_| {});
    }
    let [two, three] = &mut others;
    for sentinel in [&mut one, two, three] {
        let report = sentinel.sees("everybody", |seen, seen_master| {
            let all = seen.sentinels.len() == 2 && seen.replicas.len() == 1 && seen.no_quorum.is_none();
            all && seen_master.address == master && seen.replicas[0].address == replica
        });
        assert_eq!((report.problem, report.credentials.as_deref()), (None, Some("h1")));
    }

    // Settings and passwords change while it runs; what Sentinel wrote into its file stays.
    let id = one.last.sentinel.clone().unwrap().id.unwrap();
    one.watch("first", Some(master), |watch| (watch.quorum, watch.sentinels.failover_timeout_ms) = (3, 9_000));
    one.sees("the quorum", |_, master| master.quorum == 3);
    one.say(&credentials("h2", "app-2"));
    one.wait("the passwords", |report| report.credentials.as_deref() == Some("h2"));
    assert!(one.cli("app-1", "ping").contains("WRONGPASS"));
    assert_eq!(
        one.cli("app-2", "sentinel get-master-addr-by-name mymaster"),
        format!("{}\n{}", master.ip, master.port)
    );
    assert!(one.cli("app-2", "sentinel failover mymaster").contains("NOPERM"));
    let text = one.text("sentinel.conf");
    assert!(text.contains(&id) && text.contains("failover-timeout mymaster 9000"), "{text}");

    // A Sentinel that ends, hangs or comes back needs no order, and is the same one.
    let same = |report: &Report| {
        let seen = report.sentinel.as_ref().unwrap();
        let knows = seen.master.as_ref().is_some_and(|master| master.quorum == 3) && seen.sentinels.len() == 2;
        seen.id.as_ref() == Some(&id) && knows && report.credentials.as_deref() == Some("h2")
    };
    let run = one.last.run.clone();
    one.kill_server("KILL");
    one.wait("the end", |report| report.server == Server::Stopped && report.run != run);
    let run = one.wait("the same Sentinel", same).run;
    one.kill_server("STOP");
    one.wait("the hang", |report| report.server == Server::Hung && report.run == run);
    one.wait("the same Sentinel", |report| report.run != run && same(report));
    docker(&["restart", "-t", "5", &one.container]);
    let mut one = Sentinel::dial(one.container.clone());
    one.wait("the same Sentinel", same);

    // Acts.
    let reset = |keep: &[Address]| Act::Reset { keep: keep.to_vec() };
    let sentinels: Vec<Address> = [&one.container, &two.container, &three.container]
        .map(|container| Address { ip: ip(container), port: SENTINEL_PORT })
        .into();
    let all = [&sentinels[..], &[master, replica]].concat();
    let refused = two.act(Act::Failover { from: replica, fresh: false }).unwrap();
    assert!(refused.contains(&format!("takes {master} for the master")), "{refused}");
    let up = |seen: &SentinelSeen| seen.sentinels.len() == 2 && !seen.sentinels.iter().any(|known| known.down);
    two.sees("nobody down", |seen, _| up(seen));
    assert_eq!(two.act(reset(&all)), None);
    let refused = two.act(reset(&sentinels)).unwrap();
    assert!(refused.contains(&format!("{replica} is not wanted, but is not down")), "{refused}");
    // One leads a failover; the others, and itself, hear of its end before it tells them.
    assert_eq!(three.act(Act::Failover { from: master, fresh: false }), None);
    let epoch = three.wait("the epoch", |report| report.sentinel.as_ref().is_some_and(|seen| seen.epoch > 0));
    let epoch = epoch.sentinel.unwrap().epoch;
    while !cli(&replica_container, PORT, "app-1", "role").starts_with("master") {
        crate::poll::pause();
    }
    for sentinel in [&mut one, two, three] {
        let refused = sentinel.act(Act::Announce { to: replica, epoch, leader: sentinels[2] });
        assert!(refused.is_none() || refused.as_ref().unwrap().contains("knows epoch 1 already"), "{refused:?}");
        let report = sentinel.sees("the new master", |_, master| master.address == replica);
        assert_eq!(report.sentinel.unwrap().master.unwrap().config_epoch, epoch);
    }
    let refused = two.act(Act::Announce { to: replica, epoch, leader: sentinels[2] }).unwrap();
    assert_eq!(refused, "this Sentinel knows epoch 1 already");
    // Nobody knows himself for another one.
    for sentinel in [&mut one, two, three] {
        let seen = sentinel.last.sentinel.clone().unwrap();
        assert!(seen.sentinels.len() <= 2 && seen.sentinels.iter().all(|known| Some(&known.id) != seen.id.as_ref()));
    }
    // The old one is known as a replica that is down; once nobody wants it, it is forgotten, but only while all is well.
    docker(&["kill", &master_container]);
    let left = [&sentinels[..], &[replica]].concat();
    let old = |seen: &SentinelSeen| seen.replicas.iter().any(|known| known.address == master && known.down);
    two.sees("the old master", |seen, _| old(seen) && seen.sentinels.len() == 2);
    docker(&["pause", &replica_container]);
    two.sees("the master that is down", |_, master| master.down);
    let refused = two.act(reset(&left)).unwrap();
    assert!(refused.contains("is down to this Sentinel"), "{refused}");
    docker(&["unpause", &replica_container]);
    let well = |master: &MasterSeen| !master.down && !master.failing_over && !master.not_master;
    two.sees("the master", |seen, master| well(master) && old(seen) && up(seen));
    assert_eq!(two.act(reset(&left)), None);
    two.sees("only what is wanted", |seen, _| seen.replicas.is_empty() && seen.sentinels.len() == 2);

    // The order of another group: the old file is kept beside the new one.
    two.watch("second", None, |_| {});
    two.wait("the stop", |report| report.server == Server::Stopped);
    two.watch("second", Some(replica), |_| {});
    let report = two.sees("the new file", |_, master| master.address == replica && master.config_epoch == 0);
    assert_ne!(report.sentinel.unwrap().id, Some(id));
    assert!(two.text("sentinel.conf.old-1").contains("config-epoch mymaster 1"));
}

#[test]
fn with_tls_a_sentinel_has_no_plain_port_and_loads_new_certificates() {
    let Some(mut bench) = bench("sentinel-tls") else { return };
    let (_, master) = server(&mut bench, "redis-1", None);
    let certificate = |hash: &str| {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        Tls { hash: hash.into(), ca: cert.clone(), cert, key: key.serialize_pem() }
    };
    let mut one = Sentinel::new(&mut bench, 1);
    one.watch("first", Some(master), |watch| watch.tls = true);
    one.say(&credentials("h1", "app-1"));
    one.wait("the order", |report| problem(report).contains("waits for its passwords"));
    for hash in ["t1", "t2"] {
        one.say(&Command::Credentials(with_tls("h2", "app-1", Some(certificate(hash)))));
        // The master of this test has no TLS, so it is down to the Sentinel: that must not hold up new certificates.
        one.wait("the certificates", |report| report.server == Server::Running && report.tls.as_deref() == Some(hash));
        let secure = "--tls --insecure sentinel get-master-addr-by-name mymaster";
        assert_eq!(one.cli("app-1", secure), format!("{}\n{}", master.ip, master.port));
        assert!(one.cli("app-1", "ping").to_lowercase().contains("error"));
    }
}
