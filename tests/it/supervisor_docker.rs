//! The supervisor in real containers of a stock image; the test plays the operator. Runs only with
//! EVENKEEL_TEST_DOCKER=1, and needs the image `postgres:15`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::process::Command as Process;
use std::time::{Duration, Instant};

use evenkeel::supervisor::wire::{
    Command, Credentials, Data, Follow, Init, Lead, Lineage, Order, Postgres, Report, Rule, SOCKET, Task, Tls, VOLUME,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::supervised::{self, Bench, Link, docker};

const IMAGE: &str = "postgres:15";
fn bench(test: &str) -> Option<Bench> {
    Bench::new(&format!("supervisor-{test}"), IMAGE, VOLUME)
}

/// A container with an open link.
struct Member {
    link: Link<Report>,
    address: String,
}

supervised::linked!(Member, Report);

impl Member {
    fn new(bench: &mut Bench, ordinal: usize) -> Self {
        Self::dial(bench.supervised("supervisor", &format!("db-{ordinal}")))
    }

    fn dial(container: String) -> Self {
        let address = supervised::address(&container);
        Self { link: Link::dial(container, SOCKET), address }
    }

    fn order(&mut self, term: u64, task: Task) {
        self.say(&Command::Order(Order {
            term,
            revision: 0,
            task,
            settings: [("max_connections".into(), "60".into())].into(),
            access: None,
            archive: None,
        }));
    }

    fn exec(&self, user: &str, arguments: &[&str]) -> String {
        docker(&[&["exec", "-u", user, &self.container][..], arguments].concat())
    }

    fn sql(&self, sql: &str) -> String {
        self.exec("postgres", &["psql", "-XAtqc", sql])
    }

    fn lineage(&self) -> Lineage {
        let leading = self.last.leading.clone().unwrap();
        Lineage { timeline: self.last.timeline.unwrap(), history: leading.history }
    }

    fn follow_me(&self, slot: &str, rewindable: bool, lineage: Option<Lineage>) -> Task {
        let (leader, address, slot) = (self.container.clone(), self.address.clone(), slot.to_owned());
        let slots = ["evenkeel_1", "evenkeel_2"].into_iter().filter(|other| *other != slot);
        let slots = slots.map(str::to_owned).collect();
        let timeline_terms = self.last.timeline_terms.clone();
        Task::Follow(Follow {
            leader,
            address,
            port: 5432,
            secure: None,
            slot,
            slots,
            timeline_terms,
            lineage,
            rewindable,
        })
    }
}

fn credentials() -> Command {
    credentials_with(None)
}

fn credentials_with(tls: Option<Tls>) -> Command {
    Command::Credentials(Credentials {
        hash: "h1".into(),
        replication_password: "replicate:\\this".into(),
        owner_password: "owner-secret".into(),
        tls,
    })
}

/// A CA of a test.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key.
    fn leaf(&self, name: &str) -> (String, String) {
        let (key, mut params) =
            (KeyPair::generate().unwrap(), CertificateParams::new(vec!["localhost".to_owned()]).unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn tls(&self, hash: &str) -> Tls {
        let ((server_cert, server_key), (client_cert, client_key)) =
            (self.leaf("server"), self.leaf("evenkeel_replication"));
        let (ca, client_ca) = (self.pem.clone(), self.pem.clone());
        Tls { hash: hash.into(), ca, client_ca, server_cert, server_key, client_cert, client_key }
    }
}

fn lead(init: bool, count: u32, names: &[&str], slots: &[&str], open: bool) -> Task {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let init = init.then(|| Init { encoding: "UTF8".into(), locale: "C.UTF-8".into(), data_checksums: true });
    Task::Lead(Lead {
        init,
        recovery: None,
        commit: Rule { count, names: owned(names) },
        confirm: Rule { count: 0, names: Vec::new() },
        slots: owned(slots),
        database: "app".into(),
        owner: "app".into(),
        open,
    })
}

/// Two members: the first leads with the second as its synchronous standby, and the gate is open.
fn pair(bench: &mut Bench) -> (Member, Member, String, String) {
    let mut one = Member::new(bench, 1);
    bench.mark("first member listens");
    one.say(&credentials());
    one.order(1, lead(true, 0, &[], &[], false));
    one.wait("initdb", |report| report.data == Data::Primary);
    bench.mark("initdb");
    let first = one
        .wait("leading", |report| report.leading.as_ref().is_some_and(|leading| leading.barrier))
        .incarnation
        .unwrap();
    bench.mark("started, database made, barrier passed");
    one.order(1, lead(true, 0, &[], &["evenkeel_2"], false));
    let mut two = Member::new(bench, 2);
    bench.mark("second member listens");
    two.say(&credentials());
    two.order(1, one.follow_me("evenkeel_2", false, Some(one.lineage())));
    two.wait("the clone", |report| report.data == Data::Standby);
    bench.mark("base backup");
    let second = two
        .wait("streaming", |report| report.receiver.as_ref().is_some_and(|receiver| receiver.streaming))
        .incarnation
        .unwrap();
    bench.mark("standby streams");
    one.order(1, lead(true, 1, &[&second], &["evenkeel_2"], false));
    one.wait("the barrier", |report| {
        report
            .leading
            .as_ref()
            .is_some_and(|leading| leading.barrier && leading.commit.as_ref().is_some_and(|commit| commit.count == 1))
    });
    bench.mark("w = 1 in force, barrier passed");
    one.order(1, lead(true, 1, &[&second], &["evenkeel_2"], true));
    one.wait("the open gate", |report| report.gate_open);
    bench.mark("gate open");
    (one, two, first, second)
}

#[test]
fn a_standby_is_promoted_after_a_kill_and_the_old_primary_follows_by_rewind() {
    let Some(mut bench) = bench("failover") else { return };
    let (mut one, mut two, first, second) = pair(&mut bench);
    one.sql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)");
    // The owner can log in with its password over the network, Evenkeel's own roles cannot.
    let owner = format!("postgresql://app:owner-secret@{}/app", one.address);
    assert_eq!(two.exec("postgres", &["psql", "-XAtqc", "SELECT current_user", &owner]), "app");
    assert_eq!(two.sql("SELECT count(*) FROM t"), "1000");
    bench.mark("(writes and reads)");

    println!("-- failover: kill -9 of the postmaster");
    let postmaster = one.exec("root", &["sh", "-c", "head -1 /var/lib/postgresql/data/pgdata/postmaster.pid"]);
    bench.mark("(look up the postmaster)");
    one.exec("root", &["sh", "-c", &format!("kill -9 {postmaster}")]);
    let total = Instant::now();
    bench.mark("(kill through docker exec)");
    one.wait("its death", |report| report.postgres == Postgres::Stopped);
    bench.mark("death reported");
    two.order(2, Task::Prepare);
    let promise = two.wait("the promise", |report| report.promise.is_some_and(|promise| promise.term == 2));
    bench.mark("promised");
    assert_eq!(promise.promise.unwrap().timeline, 1);
    assert!(promise.receiver.is_none());
    two.order(2, lead(false, 0, &[], &["evenkeel_1"], false));
    two.wait("leading", |report| report.leading.is_some());
    bench.mark("promoted");
    two.wait("the barrier", |report| report.leading.as_ref().is_some_and(|leading| leading.barrier));
    bench.mark("barrier passed");
    two.order(2, lead(false, 0, &[], &["evenkeel_1"], true));
    two.wait("the open gate", |report| report.gate_open);
    bench.mark("gate open");
    println!("{:>9.1} ms  failover in total", total.elapsed().as_secs_f64() * 1e3);
    assert_eq!(two.sql("SELECT count(*) FROM t"), "1000");
    two.sql("INSERT INTO t VALUES (1001)");
    two.wait("the checkpoint", |report| report.leading.as_ref().is_some_and(|leading| leading.checkpointed));
    bench.mark("(write, checkpoint)");

    println!("-- rejoin");
    one.order(2, two.follow_me("evenkeel_1", true, Some(two.lineage())));
    one.wait("the rewind", |report| report.data == Data::Standby);
    bench.mark("rewound");
    let back = one.wait("streaming", |report| report.receiver.as_ref().is_some_and(|receiver| receiver.streaming));
    bench.mark("old primary streams");
    assert_eq!(back.incarnation.as_deref(), Some(first.as_str()), "a rewind keeps the incarnation");
    assert_eq!(two.last.incarnation.as_deref(), Some(second.as_str()));
    two.order(2, lead(false, 1, &[&first], &["evenkeel_1"], true));
    two.wait("w = 1", |report| {
        let leading = report.leading.as_ref();
        leading.is_some_and(|leading| leading.barrier && leading.commit.as_ref().is_some_and(|rule| rule.count == 1))
    });
    bench.mark("w = 1 in force, barrier passed");
    two.sql("INSERT INTO t VALUES (1002)");
    assert_eq!(one.sql("SELECT max(n) FROM t"), "1002");

    println!("-- switchover");
    bench.mark("(write)");
    two.order(3, Task::Stop { graceful: true });
    let stopped = two.wait("the stop", |report| report.postgres == Postgres::Stopped && report.clean);
    bench.mark("stopped cleanly");
    one.order(3, Task::Prepare);
    let promise = one.wait("the promise", |report| report.promise.is_some_and(|promise| promise.term == 3));
    bench.mark("promised");
    let promise = promise.promise.unwrap();
    assert_eq!((Some(promise.timeline), Some(promise.lsn)), (stopped.timeline, stopped.lsn), "the standby has all");
    one.order(3, lead(false, 0, &[], &["evenkeel_2"], true));
    one.wait("the open gate", |report| report.gate_open && report.leading.is_some());
    bench.mark("promoted and open");
    two.order(3, one.follow_me("evenkeel_2", true, Some(one.lineage())));
    two.wait("streaming", |report| report.receiver.as_ref().is_some_and(|receiver| receiver.streaming));
    bench.mark("the other follows without a rewind");
    assert!(two.last.job.is_none());

    for member in [&one, &two] {
        let status = member.exec("root", &["sh", "-c", "grep -E 'VmRSS|RssAnon|RssFile' /proc/1/status"]);
        println!("{}: {}", member.container, status.split_whitespace().collect::<Vec<_>>().join(" "));
    }
}

/// A synchronous Lead task with an open gate; `confirm`: the gate is open only while the standby confirms.
fn open_lead(standby: &str, confirm: bool) -> Task {
    let Task::Lead(mut lead) = lead(true, 1, &[standby], &["evenkeel_2"], true) else { unreachable!() };
    if confirm {
        lead.confirm = lead.commit.clone();
    }
    Task::Lead(lead)
}

#[test]
fn a_leader_survives_bad_settings_meddling_crashes_and_restarts_and_fences_itself_after_a_pause() {
    let Some(mut bench) = bench("trouble") else { return };
    let (mut one, mut two, first, second) = pair(&mut bench);

    println!("-- settings that PostgreSQL refuses are left out and reported; the others are taken");
    let settings = [("max_connections", "70"), ("work_mem", "lots"), ("no_such_setting", "1"), ("my.own", "x")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = std::collections::BTreeMap::from(settings);
    one.say(&Command::Order(Order {
        term: 1,
        revision: 0,
        task: open_lead(&second, false),
        settings: settings.clone(),
        access: None,
        archive: None,
    }));
    let report = one.wait("refusals", |report| report.setting_errors.len() == 2 && !report.pending_restart.is_empty());
    println!("{:?}", report.setting_errors);
    assert!(report.setting_errors.iter().any(|error| error.contains("work_mem: invalid value")));
    assert_eq!(report.pending_restart, ["max_connections"]);
    assert_eq!(one.sql("SHOW my.own"), "x");

    println!("-- ALTER SYSTEM does not weaken the commit rule for long");
    one.sql("ALTER SYSTEM SET synchronous_standby_names = ''");
    one.sql("SELECT pg_reload_conf()");
    one.wait("the override", |report| report.problem.as_ref().is_some_and(|problem| problem.contains("ALTER SYSTEM")));
    one.wait("our rule again", |report| report.leading.as_ref().is_some_and(|leading| leading.barrier));
    assert_eq!(one.sql("SHOW synchronous_standby_names"), format!("ANY 1 (\"{second}\")"));
    one.wait("peace", |report| report.problem.is_none() && report.gate_open);

    println!("-- the crash of one backend ends the server; a restart opens the gate again by itself");
    bench.mark("(settings, meddling)");
    let backend = one.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
    one.exec("root", &["sh", "-c", &format!("kill -9 {backend}")]);
    let down = one.wait("the end", |report| report.postgres == Postgres::Stopped);
    bench.mark("ended");
    one.say(&Command::Restart { run: "another".into() });
    one.say(&Command::Restart { run: down.run.clone() });
    let up = one.wait("the open gate", |report| report.gate_open);
    bench.mark("restarted, barrier passed, gate open");
    assert_ne!(up.run, down.run);
    assert!(up.pending_restart.is_empty());
    assert_eq!(one.sql("SHOW max_connections"), "70");

    println!("-- a second supervisor on the same volume is refused");
    let volume = format!("{}:{VOLUME}", one.container);
    let binary = format!("{}:/evenkeel/evenkeel:ro", env!("CARGO_BIN_EXE_evenkeel"));
    let twin = ["run", "--rm", "-v", &volume, "-v", &binary, "--entrypoint", "/evenkeel/evenkeel", IMAGE];
    let twin = Process::new("docker").args(twin).args(["supervisor", "--member", "twin"]).output().unwrap();
    let said = String::from_utf8_lossy(&twin.stderr).into_owned();
    assert!(!twin.status.success() && said.contains("another supervisor works on this volume"), "{said}");

    println!("-- docker stop ends it cleanly; the order and the promise outlive the container");
    bench.mark("(refusal)");
    docker(&["stop", "-t", "20", &one.container]);
    bench.mark("docker stop");
    docker(&["start", &one.container]);
    one = Member::dial(one.container.clone());
    let boot = one.wait("a report", |_| true);
    assert_eq!((boot.promised, boot.clean, boot.data), (1, true, Data::Primary));
    assert_eq!(boot.incarnation.as_deref(), Some(first.as_str()));
    one.say(&Command::Restart { run: boot.run });
    one.wait("the open gate", |report| report.gate_open);
    bench.mark("started, barrier passed, gate open");

    println!("-- an old order is refused");
    one.order(0, Task::Prepare);
    one.wait("the refusal", |report| {
        report.problem.as_deref().is_some_and(|problem| problem.contains("order of term 0 refused"))
    });

    println!("-- after a pause nothing is confirmed, so nobody is served");
    one.say(&Command::Order(Order {
        term: 1,
        revision: 0,
        task: open_lead(&second, true),
        settings,
        access: None,
        archive: None,
    }));
    one.wait("a confirmed lead", |report| report.leading.as_ref().is_some_and(|leading| leading.confirmed));
    docker(&["pause", &one.container]);
    // Longer than half of a confirmation's life.
    let paused = Instant::now();
    while paused.elapsed() < Duration::from_secs(6) {
        crate::poll::pause();
    }
    docker(&["unpause", &one.container]);
    one.wait("the fence", |report| report.postgres == Postgres::Stopped && !report.gate_open);
    bench.mark("(pause) fenced");

    println!("-- a standby whose WAL forked away makes a new copy with a new identity");
    let run = one.last.run.clone();
    one.say(&Command::Restart { run });
    one.wait("the open gate", |report| report.gate_open);
    two.order(2, Task::Prepare);
    two.wait("the promise", |report| report.promise.is_some());
    let forked = Lineage { timeline: 9, history: Vec::new() };
    one.order(2, lead(false, 0, &[], &["evenkeel_2"], true));
    two.order(2, one.follow_me("evenkeel_2", true, Some(forked)));
    two.wait("the clone", |report| report.job.is_some() || report.data == Data::Broken);
    two.order(2, one.follow_me("evenkeel_2", true, Some(one.lineage())));
    let copy = two.wait("streaming", |report| report.receiver.as_ref().is_some_and(|receiver| receiver.streaming));
    bench.mark("condemned and copied");
    assert_ne!(copy.incarnation.as_deref(), Some(second.as_str()));
}

/// Regression 117: what PostgreSQL takes by a reload and refuses at the next start, or in the next session, is found by a
/// dry start beside the running server, whose configuration stays as it is.
#[test]
fn settings_that_kill_later_are_found_before_the_server_gets_them() {
    let Some(mut bench) = bench("settings") else { return };
    let mut one = Member::new(&mut bench, 1);
    let tls = Authority::new("ca").tls("h");
    one.say(&credentials_with(Some(tls)));
    let order = |settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Command::Order(Order {
            term: 1,
            revision: 0,
            task: lead(true, 0, &[], &[], true),
            settings,
            access: None,
            archive: None,
        })
    };
    one.say(&order(&[("max_connections", "60")]));
    let begun =
        one.wait("the open gate", |report| report.gate_open && !report.settings_pending && report.tls.is_some());
    for (bad, named) in [
        (
            &[("shared_preload_libraries", "pg_stat_statements,nonsuch")][..],
            "shared_preload_libraries: could not access file \"nonsuch\"",
        ),
        (&[("session_preload_libraries", "nonsuch")], "session_preload_libraries: could not access file \"nonsuch\""),
        (&[("ssl_ciphers", "nonsuch")], "ssl_ciphers: could not set the cipher list"),
        (&[("shared_buffers", "900GB")], "shared_buffers: it asks for "),
        (
            &[("max_connections", "90"), ("max_locks_per_transaction", "100000000"), ("work_mem", "8MB")],
            "max_locks_per_transaction: ",
        ),
        (&[("huge_pages", "on")], "huge_pages: "),
        (&[("max_connections", "3")], "max_connections: "),
        (&[("work_mem", "lots")], "work_mem: invalid value"),
    ] {
        let settings = [&[("max_connections", "60")][..], bad].concat();
        one.say(&order(&settings));
        let told = one.wait(named, |report| report.setting_errors.iter().any(|error| error.starts_with(named)));
        let took = bench.mark(named);
        println!("{took:?} {:?}", told.setting_errors);
        assert_eq!((told.run, told.gate_open), (begun.run.clone(), true));
        let processes =
            one.exec("root", &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[p]gdata.try' || true"]);
        assert_eq!(processes, "0");
    }
    assert_eq!(one.sql("SHOW max_connections"), "60");

    println!("-- good settings are taken, and wait for a restart");
    one.say(&order(&[("max_connections", "61"), ("shared_preload_libraries", "pg_stat_statements")]));
    let good = one.wait("what waits", |report| !report.settings_pending && report.pending_restart.len() == 2);
    assert_eq!(good.setting_errors, Vec::<String>::new());
    one.say(&Command::Restart { run: begun.run.clone() });
    one.wait("the restart", |report| report.gate_open && report.run != begun.run && report.pending_restart.is_empty());
    assert_eq!(one.exec("root", &["ls", VOLUME]), "evenkeel\npgdata");

    println!("-- the crash of a backend ends all at once; a dropped database is told and not made again");
    one.sql("ALTER DATABASE app RENAME TO other");
    let run = one.last.run.clone();
    let backend = one.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
    bench.mark("(good settings)");
    one.exec("root", &["sh", "-c", &format!("kill -9 {backend}")]);
    one.wait("the end", |report| report.postgres == Postgres::Stopped);
    bench.mark("killed backend: server down and told");
    one.say(&Command::Restart { run });
    let up = one.wait("the missing database", |report| report.gate_open && !report.notices.is_empty());
    assert!(up.notices[0].message.starts_with("the database \"app\" does not exist any more"), "{:?}", up.notices);
    assert_eq!(one.sql("SELECT count(*) FROM pg_database WHERE datname = 'app'"), "0");
}

/// Regression 140: the server offered no TLS, so an application's password and all rows crossed the network in clear. Now it
/// loads the certificates that it is given without a restart, and shows by a handshake that it did: a reload that PostgreSQL
/// refused looks like one that it took, and would have ended the next start.
#[test]
fn certificates_are_loaded_without_a_restart_and_bad_ones_leave_the_former_in_force() {
    let Some(mut bench) = bench("tls") else { return };
    let mut one = Member::new(&mut bench, 1);
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let good = first.tls("good");
    one.say(&credentials_with(Some(good.clone())));
    one.order(1, lead(true, 0, &[], &[], true));
    let begun = one.wait("certificates", |report| report.gate_open && report.tls.as_deref() == Some("good"));
    bench.mark("open, with TLS");
    let root = "/run/evenkeel/postgres/ca.crt";
    let connects = |one: &Member| {
        let url =
            format!("host=localhost user=app dbname=app password=owner-secret sslmode=verify-full sslrootcert={root}");
        one.exec("postgres", &["psql", "-XAtqc", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &url])
    };
    assert_eq!(connects(&one), "t");
    assert_eq!(one.sql("SHOW ssl_min_protocol_version"), "TLSv1.2");

    println!("-- a key of another certificate, and what is no certificate, are refused by the server");
    for bad in [
        Tls { server_key: second.leaf("x").1, ..second.tls("bad") },
        Tls { client_ca: "?".into(), ..second.tls("bad2") },
    ] {
        let hash = bad.hash.clone();
        one.say(&credentials_with(Some(bad)));
        // A report made during the reload can be without the server's answer, and then says nothing of the gate.
        let told = one.wait("refusal", |report| report.tls_problem.is_some() && report.gate_open);
        println!("{hash}: {:?}", told.tls_problem);
        assert_eq!((told.tls.as_deref(), &told.run), (Some("good"), &begun.run));
        assert_eq!(connects(&one), "t");
        one.say(&credentials_with(Some(good.clone())));
        one.wait("the good ones", |report| report.tls_problem.is_none());
    }

    println!("-- a start with bad ones received uses those that were proven");
    one.say(&credentials_with(Some(Tls { server_key: second.leaf("x").1, ..second.tls("bad") })));
    one.say(&Command::Restart { run: begun.run.clone() });
    let again = one.wait("the restart", |report| report.run != begun.run && report.gate_open && report.tls.is_some());
    assert_eq!(again.tls.as_deref(), Some("good"));

    println!("-- a CA that is added, and another server certificate, are taken without a restart");
    let ca = format!("{}{}", first.pem, second.pem);
    let both = Tls { client_ca: ca.clone(), ca, hash: "both".into(), ..good };
    one.say(&credentials_with(Some(both.clone())));
    one.wait("both CAs", |report| report.tls.as_deref() == Some("both"));
    let (server_cert, server_key) = second.leaf("server");
    one.say(&credentials_with(Some(Tls { server_cert, server_key, hash: "moved".into(), ..both })));
    let moved = one.wait("the other CA's certificate", |report| report.tls.as_deref() == Some("moved"));
    bench.mark("certificates changed");
    assert_eq!((connects(&one).as_str(), moved.run), ("t", again.run));

    println!("-- nobody but root and postgres can read a key; postgres cannot move one");
    let modes = one.exec("root", &["sh", "-c", "cd /run/evenkeel/postgres && stat -c '%A %U:%G %n' . *.crt *.key"]);
    assert_eq!(
        modes.lines().collect::<Vec<_>>(),
        [
            "drwxr-x--- root:postgres .",
            "-rw-r----- root:postgres ca.crt",
            "-rw-r----- root:postgres client-ca.crt",
            "-rw-r----- root:postgres client.crt",
            "-rw-r----- root:postgres server.crt",
            "-rw------- postgres:postgres client.key",
            "-rw------- postgres:postgres server.key",
        ]
    );
}

/// Regression 150: user postgres made a link in its data directory, and the supervisor, which is root, wrote through it and
/// gave it the target: so it owned any file of the container, that with the promises included. Now a link to a file is
/// replaced, and a linked folder is refused with its path.
#[test]
fn links_in_the_data_directory_give_nothing_of_root_away() {
    let Some(mut bench) = bench("links") else { return };
    let (mut one, mut two, ..) = pair(&mut bench);
    let lay = "mkdir -p /etc/slots/evenkeel_9 && echo untouched > /etc/canary && chmod 600 /etc/canary && touch /etc/slots/evenkeel_9/state";
    let seen = "stat -c '%U %a %n' /etc/canary /etc/slots/evenkeel_9 /etc/slots/evenkeel_9/state && cat /etc/canary";
    let data = |does: &str| format!("cd {VOLUME}/pgdata && {does}");
    for member in [&one, &two] {
        member.exec("root", &["sh", "-c", lay]);
    }
    let before = one.exec("root", &["sh", "-c", seen]);

    println!("-- a link in the place of postgresql.auto.conf");
    one.exec("postgres", &["sh", "-c", &data("ln -sf /etc/canary postgresql.auto.conf")]);
    let settings = [("work_mem".to_owned(), "7MB".to_owned())].into();
    let order = one.last.order.clone().unwrap();
    one.say(&Command::Order(Order { settings, ..order }));
    let taken = |report: &Report| report.order.as_ref().is_some_and(|order| order.settings.contains_key("work_mem"));
    one.wait("the settings", |report| taken(report) && !report.settings_pending);
    let auto = one.exec("root", &["sh", "-c", &data("stat -c '%U %F' postgresql.auto.conf")]);
    assert_eq!((one.exec("root", &["sh", "-c", seen]), auto.as_str()), (before.clone(), "postgres regular file"));

    println!("-- a link in the place of standby.signal, and one in the place of the folder of slots");
    // The supervisor kills every process of the server's user when the server ends and before each start: what must
    // go on through that is run as root.
    two.exec("postgres", &["sh", "-c", &data("ln -sf /etc/canary standby.signal")]);
    let lay = "mv pg_replslot slots && ln -s /etc/slots pg_replslot && kill -9 $(head -n 1 postmaster.pid)";
    two.exec("root", &["sh", "-c", &data(lay)]);
    let refused =
        two.wait("the refusal", |report| report.problem.as_ref().is_some_and(|why| why.contains("pg_replslot")));
    println!("{:?}", refused.problem);
    assert!(refused.problem.unwrap().contains("pg_replslot/evenkeel_9: Permission denied"));
    assert_eq!(two.exec("root", &["sh", "-c", seen]), before);
    two.exec("root", &["sh", "-c", &data("rm pg_replslot && mv slots pg_replslot")]);
    two.wait("streaming", |report| report.receiver.as_ref().is_some_and(|receiver| receiver.streaming));
    let signal = two.exec("root", &["sh", "-c", &data("stat -c '%U %F' standby.signal")]);
    assert_eq!((two.exec("root", &["sh", "-c", seen]), signal.as_str()), (before, "postgres regular empty file"));
}

/// Regression 116: a password that SASLprep changes gets in.
#[test]
fn a_password_of_any_text_gets_in() {
    let Some(mut bench) = bench("password") else { return };
    let mut one = Member::new(&mut bench, 1);
    let password = "\u{fb01}le\u{a0}1 \u{e4}";
    one.say(&Command::Credentials(Credentials {
        hash: "h2".into(),
        replication_password: "r".into(),
        owner_password: password.into(),
        tls: None,
    }));
    one.order(1, lead(true, 0, &[], &[], true));
    one.wait("the open gate", |report| report.gate_open);
    let url = format!("host={} user=app dbname=app password='{password}'", one.address);
    assert_eq!(one.exec("postgres", &["psql", "-XAtqc", "SELECT current_user", &url]), "app");
}

/// Only an index whose order depends on a library counts, in whatever database: by the database's own locale, by a
/// collation of a column, and for a table that is partitioned by ranges of text.
#[test]
fn a_primary_counts_the_indexes_that_sort_text_by_a_library() {
    let Some(mut bench) = bench("collations") else { return };
    let mut one = Member::new(&mut bench, 1);
    one.say(&credentials());
    one.order(1, lead(true, 0, &[], &[], true));
    one.wait("the open gate", |report| report.gate_open);
    let c = "CREATE TABLE plain (a text PRIMARY KEY, n int UNIQUE, b text COLLATE \"C\" UNIQUE)";
    one.exec("postgres", &["psql", "-XAtqc", c, "app"]);
    one.sql("CREATE DATABASE english TEMPLATE template0 LOCALE 'en_US.UTF-8'");
    let mixed = "CREATE TABLE t (a text PRIMARY KEY, n int UNIQUE, b text COLLATE \"C\" UNIQUE, c text COLLATE \"en-x-icu\" UNIQUE);
                 CREATE INDEX ON t (lower(a));
                 CREATE TABLE p (a text) PARTITION BY RANGE (a);
                 CREATE TABLE l (a text) PARTITION BY LIST (a)";
    one.exec("postgres", &["psql", "-XAtqc", mixed, "english"]);
    let report = one.wait("the count", |report| {
        report.collations.as_ref().is_some_and(|known| known.sorted.is_some() && known.libraries.is_some())
    });
    let known = report.collations.unwrap();
    let sorted = known.sorted.unwrap();
    assert_eq!((sorted.libc, sorted.icu, sorted.databases), (3, 1, vec!["english".to_owned()]));
    let libraries = known.libraries.unwrap();
    let glibc = docker(&["run", "--rm", "--network", "none", "--entrypoint", "getconf", IMAGE, "GNU_LIBC_VERSION"]);
    assert_eq!((libraries.libc, libraries.icu.is_some(), known.problem), (glibc, true, None));
}
