//! The supervisor of Redis in real containers; the test plays the operator. Runs only with EVENKEEL_TEST_DOCKER=1, and needs
//! the image `redis:7`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::time::Instant;

use evenkeel::supervisor::redis::wire::{
    Address, Command, Config, Credentials, Order, PORT, RedisSeen, Report, Role, SENTINEL_PORT, SOCKET, Sentinels,
    Server, Task, VOLUME,
};

use crate::supervised::{self, Bench, LONG, Link, docker};

fn bench(test: &str) -> Option<Bench> {
    Bench::new(&format!("redis-{test}"), &supervised::redis(), VOLUME)
}

/// A plain Sentinel that knows this master.
fn sentinel(bench: &mut Bench, ordinal: usize, master: Address) -> (String, Address) {
    let Address { ip, port } = master;
    let conf = format!(
        "port {SENTINEL_PORT}\nuser default off\nuser evenkeel on >admin ~* &* +@all\n\
         user evenkeel_sentinel on >sentinel ~* &* +@all\nsentinel sentinel-user evenkeel_sentinel\n\
         sentinel sentinel-pass sentinel\nsentinel monitor mymaster {ip} {port} 2\n\
         sentinel auth-user mymaster evenkeel_sentinel\nsentinel auth-pass mymaster sentinel\n\
         sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 10000\n"
    );
    let shell = format!(
        "printf '{}' > /tmp/s.conf; exec $(which redis-server valkey-server | head -1) /tmp/s.conf --sentinel",
        conf.replace('\n', "\\n")
    );
    let container = bench.run(&format!("sentinel-{ordinal}"), &["--entrypoint", "sh"], &["-c", &shell]);
    let address = Address { ip: address(&container).ip, port: SENTINEL_PORT };
    (container, address)
}

fn address(container: &str) -> Address {
    Address { ip: supervised::address(container).parse().unwrap(), port: PORT }
}

/// A container of a data member with an open link.
struct Member {
    link: Link<Report>,
    address: Address,
    config: Config,
    sentinels: Sentinels,
    revision: u64,
}

supervised::linked!(Member, Report);

impl Member {
    fn new(bench: &mut Bench, ordinal: usize) -> Self {
        Self::dial(bench.supervised("supervisor-redis", &format!("cache-{ordinal}")))
    }

    /// Opens a link as soon as the supervisor listens.
    fn dial(container: String) -> Self {
        let address = address(&container);
        let directives = [("appendonly", "yes"), ("save", ""), ("repl-diskless-sync-delay", "0")];
        let directives = directives.map(|(name, value)| (name.into(), value.into()));
        let config = Config {
            announce: Some(address),
            directives: directives.into(),
            priority: 100,
            username: "app".into(),
            tls: false,
        };
        let sentinels = Sentinels { master_name: "mymaster".into(), ..Sentinels::default() };
        Self { link: Link::dial(container, SOCKET), address, config, sentinels, revision: 0 }
    }

    /// Opens another link, after a restart of the container.
    fn again(&mut self) {
        let mut new = Self::dial(self.container.clone());
        (new.config, new.sentinels) = (self.config.clone(), self.sentinels.clone());
        new.revision = self.revision;
        *self = new;
        self.wait("a report", |_| true);
    }

    fn credentials(&mut self, hash: &str) {
        self.say(&Command::Credentials(Credentials {
            hash: hash.into(),
            admin_password: "admin".into(),
            replication_password: "replication".into(),
            sentinel_password: "sentinel".into(),
            app_password: format!("app-{hash}"),
            tls: None,
        }));
    }

    /// An order for the run that was last reported.
    fn order(&mut self, epoch: u64, task: Task) {
        let run = self.last.run.clone();
        self.order_for(run, epoch, task);
    }

    fn order_for(&mut self, run: String, epoch: u64, task: Task) {
        self.revision += 1;
        let (config, sentinels, revision) = (self.config.clone(), self.sentinels.clone(), self.revision);
        self.say(&Command::Order(Order { epoch, revision, run, task, config, sentinels }));
    }

    fn sees(&mut self, what: &str, holds: impl Fn(&RedisSeen) -> bool) -> RedisSeen {
        self.wait(what, |report| holds(report.redis.as_ref().unwrap())).redis.unwrap()
    }

    fn is_master(&mut self) -> RedisSeen {
        self.sees("a master that can be written to", |seen| {
            seen.role == Some(Role::Master) && seen.writable == Some(true)
        })
    }

    fn follows(&mut self, master: Address) -> RedisSeen {
        let linked = move |seen: &RedisSeen| seen.link.as_ref().is_some_and(|link| link.up && link.master == master);
        self.sees("a replica in sync", move |seen| linked(seen) && seen.role == Some(Role::Replica))
    }

    fn cli(&self, user: &str, password: &str, command: &str) -> String {
        let cli = "$(which redis-cli valkey-cli | head -1)";
        let shell =
            format!("{cli} -h {} --user {user} --pass {password} --no-auth-warning {command} 2>&1", self.address.ip);
        docker(&["exec", &self.container, "sh", "-c", &shell])
    }

    fn app(&self, command: &str) -> String {
        self.cli("app", "app-h1", command)
    }

    /// A command of the application that lasts, or fails.
    fn start(&self, command: &str) -> std::thread::JoinHandle<String> {
        let (container, ip) = (self.container.clone(), self.address.ip);
        let cli = "$(which redis-cli valkey-cli | head -1)";
        let shell = format!("{cli} -h {ip} --user app --pass app-h1 {command} 2>&1 || true");
        std::thread::spawn(move || docker(&["exec", &container, "sh", "-c", &shell]))
    }

    fn kill_server(&self, signal: &str) {
        let find = "for p in /proc/[0-9]*; do grep -qE '^[a-z/]*(redis|valkey)-server' $p/cmdline 2>/dev/null && echo ${p#/proc/}; done";
        docker(&["exec", &self.container, "sh", "-c", &format!("kill -{signal} $({find})")]);
    }
}

fn lead() -> Task {
    Task::Lead { pause: None }
}

fn follow(member: &Member) -> Task {
    Task::Follow { master: member.container.clone(), address: member.address }
}

/// Two members: the first leads in epoch 1, the second follows.
fn pair(bench: &mut Bench) -> (Member, Member) {
    let (mut one, mut two) = (Member::new(bench, 1), Member::new(bench, 2));
    let task = follow(&one);
    for (member, task) in [(&mut one, lead()), (&mut two, task)] {
        let first = member.wait("a report", |_| true);
        assert_eq!((first.server, first.redis.unwrap().has_data), (Server::Stopped, false));
        member.credentials("h1");
        member.order(1, task);
    }
    bench.mark("containers");
    one.is_master();
    bench.mark("a master");
    two.follows(one.address);
    bench.mark("a replica");
    (one, two)
}

#[test]
fn a_server_starts_only_as_it_is_told_and_a_death_is_seen_at_once() {
    let Some(mut bench) = bench("orders") else { return };
    let (mut one, mut two) = pair(&mut bench);
    assert_eq!(one.app("set a 1"), "OK");
    assert!(one.app("config get save").contains("NOPERM") && one.app("keys '*'") == "a");
    assert!(one.app("replicaof no one").contains("NOPERM") && one.app("shutdown").contains("NOPERM"));
    assert!(two.app("set b 1").contains("READONLY"));
    two.sees("the key", |seen| seen.keys == 1);

    // A death. The order for the run before permits nothing.
    let run = one.last.run.clone();
    bench.mark("keys");
    one.kill_server("KILL");
    let dead = one.wait("the end", |report| report.server == Server::Stopped && report.run != run);
    bench.mark("a death is reported");
    let seen = dead.redis.unwrap();
    assert!(seen.has_data && seen.last.as_ref().unwrap().offset > 0, "{seen:?}");
    one.order_for(run.clone(), 1, lead());
    one.sees("the order", |seen| seen.order.as_ref().unwrap().revision == 2);
    assert_eq!(one.last.server, Server::Stopped);
    // A Sentinel promotes the other one; the order of that epoch is still to follow, and it stays a master.
    two.sees("the broken link", |seen| seen.link.as_ref().is_some_and(|link| !link.up));
    bench.mark("a broken link");
    two.cli("evenkeel_sentinel", "sentinel", "slaveof no one");
    let promoted = two.sees("the promotion", |seen| seen.promoted == Some(1) && seen.role == Some(Role::Master));
    assert!(promoted.promoted_offset > 0, "{promoted:?}");
    two.is_master();
    bench.mark("a promotion is reported, and a client can write");
    two.order(2, lead());
    let task = follow(&two);
    one.order(2, task);
    one.follows(two.address);
    bench.mark("the old master follows");
    assert_eq!(one.app("get a"), "1");

    // A master that a script keeps busy is killed only when it must follow, and starts as a replica.
    let (run, task) = (two.last.run.clone(), follow(&one));
    let script = two.start("eval 'while true do end' 0");
    let hung = two.wait("the hang", |report| report.server == Server::Hung);
    let later = two.wait("a later report", |report| report.clock_ms >= hung.clock_ms + 2_000);
    assert_eq!((later.server, &later.run), (Server::Hung, &run));
    one.cli("evenkeel_sentinel", "sentinel", "slaveof no one");
    one.sees("the promotion", |seen| seen.promoted == Some(2));
    two.order(3, task);
    two.wait("the end", |report| report.server == Server::Stopped && report.run != run);
    let task = follow(&one);
    two.order(3, task);
    two.follows(one.address);
    script.join().unwrap();
    bench.mark("a master that was busy follows");

    // One that a signal has stopped is killed without an order.
    one.order(3, lead());
    one.is_master();
    let run = one.last.run.clone();
    one.kill_server("STOP");
    one.wait("the end", |report| report.server == Server::Stopped && report.run != run);
    one.order(3, lead());
    one.is_master();
    two.follows(one.address);
    bench.mark("a master that was stopped leads again");

    // A restart of the container: it stays shut, and comes back with its data.
    one.order(3, lead());
    one.is_master();
    let run = one.last.run.clone();
    docker(&["restart", "-t", "10", &one.container]);
    one.again();
    assert!(one.last.server == Server::Stopped && one.last.run != run, "{:?}", one.last);
    assert!(one.last.redis.as_ref().unwrap().has_data);
    one.order(3, lead());
    one.is_master();
    assert_eq!(one.app("get a"), "1");
}

#[test]
fn writes_are_paused_for_a_switchover_and_settings_change_while_the_server_runs() {
    let Some(mut bench) = bench("settings") else { return };
    let (mut one, mut two) = pair(&mut bench);
    one.order(1, Task::Lead { pause: Some("r1".into()) });
    let paused = one.sees("the pause", |seen| seen.paused.as_deref() == Some("r1"));
    two.sees("all data", |seen| seen.offset >= paused.offset);
    let waiting = one.start("set b 1");
    one.cli("evenkeel", "admin", "client list");
    bench.mark("a pause");
    two.cli("evenkeel_sentinel", "sentinel", "slaveof no one");
    two.sees("the promotion", |seen| seen.promoted == Some(1));
    let task = follow(&two);
    one.order(2, task);
    let refused = waiting.join().unwrap();
    assert!(refused.contains("READONLY") || refused.contains("closed") || refused.contains("refused"), "{refused}");
    one.follows(two.address);
    bench.mark("a switchover");

    // Settings that can change, that cannot, and that are wrong.
    two.config.directives.extend([("maxmemory".into(), "100mb".into()), ("databases".into(), "4".into())]);
    two.config.directives.insert("maxmemory-policy".into(), "wrong".into());
    two.config.priority = 10;
    two.order(2, lead());
    let seen = two.sees("the settings", |seen| !seen.config_pending && seen.usage.max_memory == 100 << 20);
    assert_eq!((seen.pending_restart.join(","), seen.priority), ("databases".into(), 10));
    assert!(seen.config_errors.join(",").contains("maxmemory-policy wrong: "), "{:?}", seen.config_errors);
    two.credentials("h2");
    two.wait("the passwords", |report| report.credentials.as_deref() == Some("h2"));
    assert!(two.app("get b").contains("WRONGPASS") && two.cli("app", "app-h2", "get b").is_empty());
    bench.mark("settings");

    // A server that does not start with the new directives starts with the last good ones.
    let run = two.last.run.clone();
    two.say(&Command::Restart { run: run.clone() });
    two.wait("the stop", |report| report.server == Server::Stopped && report.run != run);
    two.order(2, lead());
    two.is_master();
    let seen = two.sees("the error", |seen| !seen.config_pending && !seen.config_errors.is_empty());
    assert!(seen.config_errors.join(",").contains("maxmemory-policy"), "{:?}", seen.config_errors);
    bench.mark("a restart with a directive that is refused");
    // Another persistence loses nothing.
    two.cli("app", "app-h2", "set c 1");
    two.config.directives = [("appendonly".into(), "no".into()), ("save".into(), "3600 1".into())].into();
    two.order(2, lead());
    two.sees("the settings", |seen| !seen.config_pending);
    two.kill_server("KILL");
    let run = two.last.run.clone();
    two.wait("the end", |report| report.server == Server::Stopped && report.run != run);
    two.order(2, lead());
    two.is_master();
    assert_eq!(two.cli("app", "app-h2", "get c"), "1");
}

/// Asks a Sentinel until it answers what is expected.
fn asks(sentinel: &str, question: &str, holds: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    loop {
        let cli = "$(which redis-cli valkey-cli | head -1)";
        let shell =
            format!("{cli} -p {SENTINEL_PORT} --user evenkeel --pass admin --no-auth-warning {question} 2>&1 || true");
        let said = docker(&["exec", sentinel, "sh", "-c", &shell]);
        if holds(&said) {
            return;
        }
        assert!(begun.elapsed() < LONG, "{sentinel}: {question}: {said}");
        crate::poll::pause();
    }
}

/// Regression 364: a replica that a Sentinel had just promoted while the operator was away asked the Sentinels, most of which
/// still named the former master, and followed that again: the failover was undone.
#[test]
fn without_an_operator_the_sentinels_decide_and_a_former_master_follows() {
    let Some(mut bench) = bench("alone") else { return };
    let (mut one, mut two) = pair(&mut bench);
    let mut three = Member::new(&mut bench, 3);
    let sentinels: Vec<(String, Address)> = (1..=3).map(|ordinal| sentinel(&mut bench, ordinal, one.address)).collect();
    let addresses: Vec<Address> = sentinels.iter().map(|(_, address)| *address).collect();
    three.wait("a report", |_| true);
    three.credentials("h1");
    // It is not to be chosen.
    three.config.priority = 0;
    let task = follow(&one);
    for (member, task) in [(&mut one, lead()), (&mut two, task.clone()), (&mut three, task)] {
        member.sentinels.addresses.clone_from(&addresses);
        (member.sentinels.down_after_ms, member.sentinels.failover_timeout_ms) = (1_000, 10_000);
        member.order(1, task);
    }
    three.follows(one.address);
    for (sentinel, _) in &sentinels {
        asks(sentinel, "sentinel master mymaster", |said| {
            let lines: Vec<&str> = said.lines().collect();
            let is = |name: &str| lines.windows(2).any(|pair| pair == [name, "2"]);
            is("num-slaves") && is("num-other-sentinels")
        });
    }
    one.app("set a 1");
    two.sees("the key", |seen| seen.keys == 1);
    bench.mark("three members and three Sentinels");

    // No operator speaks from here on.
    let run = one.last.run.clone();
    one.kill_server("KILL");
    one.wait("the end", |report| report.server == Server::Stopped && report.run != run);
    two.sees("the promotion", |seen| seen.promoted == Some(1) && seen.role == Some(Role::Master));
    bench.mark("Sentinels promote another");
    one.follows(two.address);
    three.follows(two.address);
    let seen = two.sees("both replicas", |seen| seen.replicas.iter().filter(|one| one.online).count() == 2);
    assert_eq!((seen.role, seen.promoted), (Some(Role::Master), Some(1)));
    two.is_master();
    assert_eq!(one.app("get a"), "1");
    bench.mark("the old master has started as its replica");

    // A master that stood still finds another one, and follows it.
    docker(&["pause", &two.container]);
    one.sees("the promotion", |seen| seen.promoted == Some(1) && seen.role == Some(Role::Master));
    one.is_master();
    three.follows(one.address);
    docker(&["unpause", &two.container]);
    bench.mark("Sentinels promote another one, because the master stands still");
    two.follows(one.address);
    one.is_master();
    bench.mark("it follows");

    // All of them are down, and so is the operator: the named master stays shut, the others start as its replicas, and the
    // Sentinels choose one of them.
    for member in [&one, &two, &three] {
        member.kill_server("KILL");
    }
    two.sees("the promotion", |seen| seen.promoted == Some(1) && seen.role == Some(Role::Master));
    one.follows(two.address);
    assert_eq!(two.app("get a"), "1");
    bench.mark("all members killed");
}
